"""Where in a picture to look: a region, cut into tiles, without the areas to ignore.

Coordinates are shares of the upright picture, 0 to 1 from its left and its top, so that they hold at any resolution.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from agent.core.types import Bools
from agent.errors import Problem

Region: TypeAlias = tuple[float, ...]  # left, top, right, bottom
Polygon: TypeAlias = tuple[tuple[float, ...], ...]  # its corners, each (x, y)

WHOLE: Final[Region] = (0.0, 0.0, 1.0, 1.0)
ONE_TILE: Final = (1, 1)
NEUTRAL: Final = 127  # grey of what is ignored, and behind what is transparent: 0 to the encoder
MAX_TILES: Final = 64
MAX_POLYGONS: Final = 32
MAX_CORNERS: Final = 100
_LEAST_CORNERS: Final = 3
_LEAST_SIDE: Final = 0.01
_FINER: Final = 4  # a cell is looked at in so many parts each way, to find it where a polygon only touches it


class Tile(msgspec.Struct, frozen=True):
    """A part of the picture that is scored for itself."""

    name: str
    box: Region


def cut(region: Region, tiles: tuple[int, ...]) -> list[Tile]:
    """Return the tiles of a region, row by row; `tiles` is (columns, rows). They are named by column and row from 1."""
    left, top, right, bottom = region
    columns, rows = tiles
    if columns * rows == 1:
        return [Tile("picture", region)]
    xs, ys = np.linspace(left, right, columns + 1).tolist(), np.linspace(top, bottom, rows + 1).tolist()
    return [
        Tile(f"tile {column + 1},{row + 1}", (xs[column], ys[row], xs[column + 1], ys[row + 1]))
        for row in range(rows)
        for column in range(columns)
    ]


def ignored_cells(polygons: tuple[Polygon, ...], box: Region, height: int, width: int) -> Bools:
    """Return which cells of a part of the picture a polygon touches, bool [height, width]. Needs Pillow."""
    from PIL import Image  # noqa: PLC0415  an extra

    canvas = Image.new("L", (width * _FINER, height * _FINER))
    _fill(canvas, polygons, box, 255)
    cells = np.asarray(canvas).reshape(height, _FINER, width, _FINER).any(axis=(1, 3))
    return np.asarray(cells, dtype=np.bool_)


def hide(picture: Any, polygons: tuple[Polygon, ...]) -> None:
    """Make what is ignored grey, in place, in an upright RGB picture of Pillow's."""
    _fill(picture, polygons, WHOLE, (NEUTRAL,) * 3)


def _fill(picture: Any, polygons: tuple[Polygon, ...], box: Region, colour: object) -> None:
    """Fill every pixel that a polygon touches, and at most two beyond it."""
    from PIL import ImageDraw  # noqa: PLC0415  an extra

    pen = ImageDraw.Draw(picture)
    for polygon in polygons:
        corners = to_pixels(polygon, box, picture.width, picture.height)
        pen.polygon(corners, fill=colour)
        pen.line([*corners, corners[0]], fill=colour, width=3)  # Pillow rounds corners to whole pixels


def to_pixels(polygon: Polygon, box: Region, width: int, height: int) -> list[tuple[int, int]]:
    """Return the pixels that hold the corners, where a part of the picture is drawn at `width` x `height`."""
    left, top, right, bottom = box
    return [
        (int((x - left) / (right - left) * width // 1), int((y - top) / (bottom - top) * height // 1))
        for x, y in polygon
    ]


def region_problems(region: Region, ignore: tuple[Polygon, ...], tiles: tuple[int, ...]) -> list[Problem]:
    """Return what is wrong with these settings; `where` is the key, such as `ignore[0][2]`."""
    problems = []
    if len(region) != len(WHOLE) or not all(0 <= one <= 1 for one in region):
        expected = "left, top, right and bottom as shares from 0 to 1, such as [0.1, 0.2, 0.9, 1.0]"
        problems.append(Problem("region", expected, repr(list(region))))
    else:
        left, top, right, bottom = region
        if right - left < _LEAST_SIDE:
            problems.append(Problem("region", f"right at least {_LEAST_SIDE} more than left", repr(list(region))))
        if bottom - top < _LEAST_SIDE:
            problems.append(Problem("region", f"bottom at least {_LEAST_SIDE} more than top", repr(list(region))))
    if len(ignore) > MAX_POLYGONS:
        problems.append(Problem("ignore", f"at most {MAX_POLYGONS} polygons", str(len(ignore))))
    for index, polygon in enumerate(ignore):
        if not _LEAST_CORNERS <= len(polygon) <= MAX_CORNERS:
            expected = f"{_LEAST_CORNERS} to {MAX_CORNERS} corners, such as [[0.1, 0], [0.4, 0], [0.4, 0.2]]"
            problems.append(Problem(f"ignore[{index}]", expected, f"{len(polygon)}"))
        for corner, point in enumerate(polygon):
            if len(point) != 2 or not all(0 <= one <= 1 for one in point):  # noqa: PLR2004  x and y
                expected = "x and y as shares from 0 to 1, such as [0.4, 0.2]"
                problems.append(Problem(f"ignore[{index}][{corner}]", expected, repr(list(point))))
    if len(tiles) != len(ONE_TILE) or min(tiles) < 1 or tiles[0] * tiles[1] > MAX_TILES:
        expected = f"columns and rows such as [3, 2], at most {MAX_TILES} tiles"
        problems.append(Problem("tiles", expected, repr(list(tiles))))
    return problems
