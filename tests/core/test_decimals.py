from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agent.core.decimals import AS_THEY_ARE, MOST_PLACES, packed, unpacked


def on_the_grid(values, base):
    """Return rows as the grid keeps them, of values float64 [rows, channels]."""
    return (values - base).astype(np.float32)


def same(one, other):
    return one.dtype == other.dtype and np.array_equal(
        np.where(np.isnan(one), np.float32(7e30), one).view(np.uint32),
        np.where(np.isnan(other), np.float32(7e30), other).view(np.uint32),
    )


@given(
    rows=arrays.arrays(
        np.float32, st.tuples(st.integers(0, 20), st.integers(0, 3)), elements=st.floats(width=32, allow_nan=True)
    ),
    base=st.lists(st.floats(-1e15, 1e15), min_size=3, max_size=3),
)
def test_whatever_lies_on_a_grid_comes_out_again_to_the_bit(rows, base):
    base = np.array(base)[: rows.shape[1]]
    saved = packed(rows, base)
    assert same(unpacked(saved, base), rows)


@given(
    places=st.integers(0, MOST_PLACES),
    counts=st.lists(st.one_of(st.none(), st.integers(-10_000, 10_000)), min_size=1, max_size=50),
    base=st.integers(-5000, 5000),
)
def test_decimal_numbers_are_counted_in_units_of_their_last_place(places, counts, base):
    values = np.array([[np.nan if one is None else one / 10.0**places] for one in counts])
    middle = np.array([base / 10.0**places])
    rows = on_the_grid(values, middle)
    saved = packed(rows, middle)
    assert 0 <= saved["places"][0] <= places
    assert saved["rest"].shape == (0, len(counts))
    assert same(unpacked(saved, middle), rows)


def test_each_channel_is_kept_in_its_own_way():
    rng = np.random.default_rng(0)
    values = np.stack([np.round(rng.normal(20, 1, 300), 2), rng.normal(0, 1, 300), np.full(300, np.nan)], axis=1)
    base = np.array([20.01, 0.0, np.nan])
    rows = on_the_grid(values, base)
    saved = packed(rows, base)
    assert saved["places"].tolist() == [2, AS_THEY_ARE, 0]
    assert saved["steps"].shape == (2, 300)
    assert saved["steps"][0, 1:].max() < 2000
    assert same(unpacked(saved, np.array([20.01, 0.0, 5.0])), rows)  # the third one's base has become known since


@pytest.mark.parametrize("value", [-0.0, 1e12, np.inf])
def test_what_no_count_tells_is_kept_as_it_is(value):
    rows = np.array([[1.0], [value]], np.float32)
    saved = packed(rows, np.zeros(1))
    assert saved["places"].tolist() == [AS_THEY_ARE]
    assert same(unpacked(saved, np.zeros(1)), rows)
