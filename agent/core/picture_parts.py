"""Where in a picture: the cells of the encoder's grids, and each patch's share of what is strange."""

from __future__ import annotations

import numpy as np

from agent.core.picture_pool import sides_of
from agent.core.types import F32, F64, I64, Bools


class Layout:
    """The grids of an encoder's maps, and which of their cells count.

    `shapes` are (rows, columns, dim) each; `ignored` bool [height, width] marks pixels that do not count. `visible`
    bool is where in the finest grid every map has a cell that counts; `sides` are for `pooled`, of the finest map.
    Raises ValueError where nothing is left.
    """

    def __init__(self, shapes: list[tuple[int, ...]], ignored: Bools | None = None) -> None:
        self.grids = [(shape[0], shape[1]) for shape in shapes]
        self.finest = max(self.grids)
        self.kept = [kept_cells(ignored, grid) for grid in self.grids]
        fine = self.grids.index(self.finest)
        self.sides = [
            sides_of(kept, grid)[: 3 if place == fine else 0]
            for place, (kept, grid) in enumerate(zip(self.kept, self.grids, strict=True))
        ]
        self.visible: Bools = np.ones(self.finest, np.bool_)
        for kept, grid in zip(self.kept, self.grids, strict=True):
            self.visible &= self._finest(np.ones(len(kept)), kept, grid) > 0
        if not self.visible.any():
            raise ValueError("every patch is ignored")

    def maps(self, outputs: list[F32]) -> list[F32]:
        """Return the cells of each map that count, float32 [cells, dim], of float32 [rows, columns, dim]."""
        return [one.reshape(-1, one.shape[-1])[kept] for one, kept in zip(outputs, self.kept, strict=True)]

    def spread(self, values: F64) -> F64:
        """Return values of the last map's cells, float64 [cells], on the finest grid; 0 where none counts."""
        return self._finest(values, self.kept[-1], self.grids[-1])

    def gather(self, values: list[F64]) -> F64:
        """Return the sum over maps of each cell's value, float64 [cells], shared by the finest cells in it."""
        made = np.zeros(self.finest)
        for value, kept, grid in zip(values, self.kept, self.grids, strict=True):
            made += self._finest(value, kept, grid) * (grid[0] * grid[1] / (self.finest[0] * self.finest[1]))
        return made

    def _finest(self, values: F64, kept: I64, grid: tuple[int, int]) -> F64:
        whole = np.zeros(grid[0] * grid[1])
        whole[kept] = values
        rows = np.arange(self.finest[0]) * grid[0] // self.finest[0]
        columns = np.arange(self.finest[1]) * grid[1] // self.finest[1]
        return np.asarray(whole.reshape(grid)[rows][:, columns])


def kept_cells(ignored: Bools | None, grid: tuple[int, int]) -> I64:
    """Return the cells of a map's grid of which less than half is ignored, int64, row by row."""
    rows, columns = grid
    if ignored is None:
        return np.arange(rows * columns)
    height, width = ignored.shape
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    cells = (row[:, None] * columns + column).reshape(-1)
    hidden = np.bincount(cells, ignored.reshape(-1), minlength=rows * columns)
    pixels = np.bincount(cells, minlength=rows * columns)
    return np.flatnonzero(2.0 * hidden < pixels)


def shared(distances: F32) -> F32:
    """Return each patch's share of what lies above the median distance, in sum 1, float32."""
    above = np.maximum(distances - _median(distances), 0.0)
    total = float(above.sum())
    return above / total if total > 0 else np.full(len(distances), 1.0 / len(distances), np.float32)


def _median(values: F32) -> np.float32:
    """Return the median: a fifth of numpy's time."""
    middle = len(values) // 2
    if len(values) % 2:
        return np.float32(np.partition(values, middle)[middle])
    low, high = np.partition(values, (middle - 1, middle))[middle - 1 : middle + 1]
    return np.float32((low + high) / np.float32(2.0))
