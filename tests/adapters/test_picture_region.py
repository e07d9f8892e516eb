from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.adapters.picture_region import (
    MAX_CORNERS,
    MAX_POLYGONS,
    NEUTRAL,
    WHOLE,
    Tile,
    cut,
    hide,
    ignored_cells,
    region_problems,
)

TRIANGLE = ((0.1, 0.1), (0.5, 0.1), (0.1, 0.6))


def square(left, top, right, bottom):
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def test_a_region_is_cut_row_by_row_without_gaps():
    found = cut((0.2, 0.0, 0.8, 0.5), (3, 2))
    assert [tile.name for tile in found] == ["tile 1,1", "tile 2,1", "tile 3,1", "tile 1,2", "tile 2,2", "tile 3,2"]
    assert found[4].box == pytest.approx((0.4, 0.25, 0.6, 0.5))
    assert all(left.box[2] == right.box[0] for left, right in pairwise(found[:3]))
    assert cut((0.2, 0.0, 0.8, 0.5), (1, 1)) == [Tile("picture", (0.2, 0.0, 0.8, 0.5))]


def test_cells_are_those_of_the_part_of_the_picture():
    cells = ignored_cells((square(0.25, 0.5, 0.5, 1.0),), (0.0, 0.5, 1.0, 1.0), 10, 40)
    assert cells.dtype == np.bool_
    assert cells[:, 10:20].all()
    assert not cells[:, :9].any()
    assert not cells[:, 21:].any()
    assert not ignored_cells((), WHOLE, 10, 40).any()


coordinates = st.floats(0, 1)
points = st.tuples(coordinates, coordinates)
boxes = st.sampled_from([WHOLE, (0.25, 0.0, 0.75, 0.4), (0.5, 0.5, 1.0, 1.0)])


def distance(x, y, begin, end):
    """Return how far points are from a line between two others."""
    dx, dy = end[0] - begin[0], end[1] - begin[1]
    along = ((x - begin[0]) * dx + (y - begin[1]) * dy) / max(dx * dx + dy * dy, 1e-30)
    along = np.clip(along, 0.0, 1.0)
    return np.hypot(x - begin[0] - along * dx, y - begin[1] - along * dy)


@given(st.tuples(points, points, points), boxes, st.data())
@settings(max_examples=200, deadline=None)
def test_every_cell_that_a_polygon_touches_is_ignored_and_no_other_but_its_neighbours(triangle, box, data):
    height, width = 12, 16
    cells = ignored_cells((triangle,), box, height, width)
    scaled = [
        ((x - box[0]) / (box[2] - box[0]) * width, (y - box[1]) / (box[3] - box[1]) * height) for x, y in triangle
    ]
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=3, max_size=3)))
    x, y = weights @ np.array(scaled) / weights.sum()
    rounding = 1e-6  # at the edge of a cell either may be meant
    if 0 <= x < width and 0 <= y < height and min(x % 1, 1 - x % 1, y % 1, 1 - y % 1) > rounding:
        assert cells[int(y), int(x)]
    rows, columns = np.nonzero(cells)
    sides = list(zip(scaled, [*scaled[1:], scaled[0]], strict=True))
    middles = columns + 0.5, rows + 0.5
    outside = np.min([distance(*middles, *side) for side in sides], axis=0)
    turns = np.array([(b[0] - a[0]) * (middles[1] - a[1]) - (b[1] - a[1]) * (middles[0] - a[0]) for a, b in sides])
    inside = (turns >= 0).all(axis=0) | (turns <= 0).all(axis=0)
    assert (inside | (outside < 1.6)).all()  # half a cell's diagonal, and what is drawn beyond the line


def test_what_is_hidden_is_grey_and_the_rest_is_untouched():
    before = np.random.default_rng(1).integers(0, 100, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(before.copy())
    hide(picture, (square(0.25, 0.0, 0.5, 0.5), TRIANGLE))
    after = np.asarray(picture)
    assert (after[:15, 10:20] == NEUTRAL).all()
    assert (after[4:10, 5:10] == NEUTRAL).all()
    assert np.array_equal(after[21:], before[21:])
    assert np.array_equal(after[:, 24:], before[:, 24:])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"region": (0.1, 0.2, 0.9, 1.0), "ignore": (TRIANGLE,), "tiles": (8, 8)}, []),
        ({"region": (0.1, 0.2, 0.9)}, [("region", "left, top, right and bottom")]),
        ({"region": (-0.1, 0.2, 0.9, 1.0)}, [("region", "as shares from 0 to 1")]),
        ({"region": (0.1, 0.2, 90, 100)}, [("region", "as shares from 0 to 1")]),
        ({"region": (0.5, 0.2, 0.5, 1.0)}, [("region", "right at least 0.01 more than left")]),
        ({"region": (0.1, 0.9, 0.5, 0.2)}, [("region", "bottom at least 0.01 more than top")]),
        ({"ignore": (TRIANGLE, TRIANGLE[:2])}, [("ignore[1]", "3 to 100 corners")]),
        ({"ignore": (TRIANGLE * MAX_CORNERS,)}, [("ignore[0]", "3 to 100 corners")]),
        ({"ignore": (TRIANGLE,) * (MAX_POLYGONS + 1)}, [("ignore", "at most 32 polygons")]),
        ({"ignore": ((*TRIANGLE, (0.1, 1.2)),)}, [("ignore[0][3]", "x and y as shares from 0 to 1")]),
        ({"ignore": ((*TRIANGLE, (0.1,)),)}, [("ignore[0][3]", "x and y as shares from 0 to 1")]),
        ({"tiles": (3,)}, [("tiles", "columns and rows")]),
        ({"tiles": (0, 3)}, [("tiles", "columns and rows")]),
        ({"tiles": (13, 5)}, [("tiles", "at most 64 tiles")]),
        (
            {"region": (), "ignore": (((2.0, 0.0),),), "tiles": ()},
            [("region", ""), ("ignore[0]", ""), ("ignore[0][0]", ""), ("tiles", "")],
        ),
    ],
)
def test_what_is_wrong_is_told_by_key(options, expected):
    found = region_problems(**{"region": WHOLE, "ignore": (), "tiles": (1, 1), **options})
    assert [problem.where for problem in found] == [where for where, _ in expected]
    assert all(text in problem.expected for problem, (_, text) in zip(found, expected, strict=True))
