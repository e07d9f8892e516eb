"""Cells, and what they have to do with the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.picture_parts import Layout, kept_cells, shared


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


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=20))
def test_shares_sum_to_one(distances):
    given_ = np.array(distances, np.float32)
    found = shared(given_)
    assert found.sum() == pytest.approx(1.0, abs=1e-4)
    assert (found >= 0).all()
    if (given_ > np.median(given_)).any():
        assert np.array_equal(found > 0, given_ > np.median(given_))
