from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.pretrain.anomalies import KINDS, inject
from converter.pretrain.streams import stream

seeds = st.integers(0, 2**63 - 1)


class Fixed:
    """A generator whose draws from the number of kinds give the kind wanted."""

    def __init__(self, kind, seed=0):
        self.kind, self.rng = kind, np.random.default_rng(seed)

    def integers(self, *bounds, **more):
        return self.kind if bounds == (len(KINDS),) else self.rng.integers(*bounds, **more)

    def __getattr__(self, name):
        return getattr(self.rng, name)


@given(seeds, st.integers(20, 300), st.data())
@settings(deadline=None)
def test_an_anomaly_changes_its_part_and_nothing_before(seed, length, data):
    end = data.draw(st.integers(2, length))
    start = data.draw(st.integers(0, end - 1))
    rng = np.random.default_rng(seed)
    normal, step = stream(rng, length)
    kept = normal.copy()
    odd = inject(rng, normal, start, end, step)
    np.testing.assert_array_equal(normal, kept)
    np.testing.assert_array_equal(odd[:start], normal[:start])
    assert odd.shape == (end,)
    assert np.isfinite(odd).all()
    assert not np.array_equal(odd[start:], normal[start:end])


@given(seeds, st.integers(0, len(KINDS) - 1))
@settings(deadline=None)
def test_a_stream_in_steps_stays_in_steps(seed, kind):
    normal = np.random.default_rng(seed).poisson(3.0, 200).astype(np.float64)
    odd = inject(Fixed(kind, seed), normal, 100, 150, 1.0)
    np.testing.assert_array_equal(odd, np.round(odd))
    assert not np.array_equal(odd[100:], normal[100:150])


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_even_a_constant_stream_is_changed(kind):
    odd = inject(Fixed(kind), np.full(100, 7.0), 50, 80)
    assert np.abs(odd[50:] - 7.0).max() > 1e-5


def test_every_kind_is_another_anomaly():
    normal = np.sin(np.arange(300) / 9) + np.random.default_rng(3).normal(0, 0.1, 300)
    made = [inject(Fixed(kind), normal, 150, 200) for kind in range(len(KINDS))]
    assert len({odd.tobytes() for odd in made}) == len(KINDS)


def test_some_are_weak_and_some_strong():
    rng = np.random.default_rng(4)
    normal = rng.normal(size=300)
    sizes = [np.abs(inject(Fixed(1, seed), normal, 150, 200)[150:] - normal[150:200]).max() for seed in range(200)]
    assert min(sizes) < 1
    assert max(sizes) > 5
