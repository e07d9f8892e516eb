"""Obviously correct slow versions, for the fast ones to agree with."""

from __future__ import annotations

import math
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


def alarms(
    decisions: list[tuple[float, float]], rate: float, *, after: int, clear_after: int, cooldown_s: float
) -> int:
    """How many alerts (time, score) decisions raise under a budget of `rate` alarms per decision."""
    base = -math.log10(rate)
    offset, raised, firing, row, ended = 0.0, 0, False, 0, -math.inf
    for at, score in decisions:
        threshold = base + offset
        begins = False
        if firing:
            row = 0 if score >= threshold - min(1.5, threshold / 2) else row + 1
            if row == clear_after:
                firing, row, ended = False, 0, at
        else:
            row = row + 1 if score >= threshold and at >= ended + cooldown_s else 0
            if row == after:
                firing = begins = True
                raised, row = raised + 1, 0
        offset = min(max(offset + 0.3 * (begins - rate), -min(1.0, base / 2)), 3.0)
    return raised
