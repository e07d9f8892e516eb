"""Where in a picture: the cells of the encoder's grids, and what each has to do with the scores."""

from __future__ import annotations

import numpy as np

from agent.core.types import F32, I64, Bools


def kept_cells(ignored: Bools | None, shape: tuple[int, ...]) -> I64:
    """Return the cells of a map's grid of which less than half is ignored, int64, row by row."""
    rows, columns = shape[:2]
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
    above = np.maximum(distances - np.median(distances), 0.0)
    total = float(above.sum())
    return above / total if total > 0 else np.full(len(distances), 1.0 / len(distances), np.float32)
