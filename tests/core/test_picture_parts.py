"""Cells, and what they have to do with the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.picture_parts import Layout, contributions, heat_of, kept_cells, shared
from agent.core.picture_pool import GaussianBuild, pooled


def test_a_cell_is_ignored_where_half_of_its_pixels_are():
    ignored = np.zeros((12, 12), np.bool_)
    ignored[:4, :2] = True  # half of the first of nine cells
    ignored[4:8, 8:10] = True  # half of the sixth
    ignored[4, 8] = False
    assert list(kept_cells(ignored, (3, 3))) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(kept_cells(None, (2, 2))) == [0, 1, 2, 3]


def test_a_layout_keeps_what_counts():
    ignored = np.zeros((12, 12), np.bool_)
    ignored[:4, :4] = True
    layout = Layout([(6, 6, 2), (3, 3, 2)], ignored)
    assert [len(kept) for kept in layout.kept] == [32, 8]
    assert layout.visible.sum() == 32
    maps = layout.maps([np.ones((6, 6, 2), np.float32), np.ones((3, 3, 2), np.float32)])
    assert [one.shape for one in maps] == [(32, 2), (8, 2)]
    with pytest.raises(ValueError, match="every patch is ignored"):
        Layout([(6, 6, 2), (3, 3, 2)], np.ones((12, 12), np.bool_))


def test_what_is_gathered_keeps_its_sum():
    layout = Layout([(6, 6, 2), (3, 3, 2)])
    assert layout.gather([np.arange(36.0), np.arange(9.0)]).sum() == pytest.approx(35 * 18 + 36)
    assert np.array_equal(layout.spread(np.arange(9.0))[::2, ::2].ravel(), np.arange(9.0))


@given(st.integers(0, 200))
def test_contributions_sum_to_the_squared_distance(seed):
    rng = np.random.default_rng(seed)
    pictures = [
        [rng.normal(2, 1, (16, 3)).astype(np.float32), rng.normal(0, 2, (4, 2)).astype(np.float32)] for _ in range(40)
    ]
    sides = Layout([(4, 4, 3), (2, 2, 2)]).sides
    fit, _ = GaussianBuild(np.array([pooled(one, sides) for one in pictures])).finish()
    features = pooled(pictures[0], sides)
    total = sum(float(one.sum()) for one in contributions(fit, features, pictures[0], sides))
    assert total == pytest.approx(float(fit.distances(features[None])[0]), rel=1e-2, abs=1e-3)


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=20))
def test_shares_sum_to_one(distances):
    given_ = np.array(distances, np.float32)
    found = shared(given_)
    assert found.sum() == pytest.approx(1.0, abs=1e-4)
    assert (found >= 0).all()
    if (given_ > np.median(given_)).any():
        assert np.array_equal(found > 0, given_ > np.median(given_))


def test_heat_is_where_the_evidence_is_and_nowhere_else():
    evidence = np.zeros((9, 9))
    evidence[0, 0] = 60.0
    kept = np.ones((9, 9), np.bool_)
    kept[8] = False
    heat = heat_of(evidence, kept)
    assert heat.dtype == np.float32
    assert heat.argmax() == 0
    assert heat[0, 0] > 0.9
    assert heat[4:8].max() < 0.1
    assert (heat[8] == 0).all()


def test_edges_are_neither_hotter_nor_colder():
    heat = heat_of(np.full((5, 7), 1.5), np.ones((5, 7), np.bool_))
    assert np.ptp(heat) < 1e-6
