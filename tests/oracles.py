"""Obviously correct slow versions, for the fast ones to agree with."""

from __future__ import annotations

from collections import deque

import numpy as np


class RowModel:
    """The last rows of a grid, as a deque."""

    def __init__(self, rows: int) -> None:
        self.rows: deque[list[float]] = deque(maxlen=rows)

    def append(self, row: list[float]) -> None:
        self.rows.append(row)


def squared_distances(references: np.ndarray, query: np.ndarray, step: float) -> list[float]:
    """Squared distances of one part, one reference at a time."""
    return [sum((int(a) - int(b)) ** 2 for a, b in zip(row, query, strict=True)) * step * step for row in references]


def mean_nearest(squared: list[float], neighbours: int) -> float:
    return sum(sorted(value**0.5 for value in squared)[:neighbours]) / min(neighbours, len(squared))
