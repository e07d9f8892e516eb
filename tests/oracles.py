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


class Events:
    """Events as alerts count them: `after` odd decisions begin one, `clear_after` normal ones end it, then a pause."""

    def __init__(self, after: int, clear_after: int, cooldown_s: float) -> None:
        self.after, self.clear_after, self.cooldown_s = after, clear_after, cooldown_s
        self.on, self.row, self.ended = False, 0, -math.inf

    def begins(self, at: float, score: float, threshold: float) -> bool:
        if self.on:
            self.row = 0 if score >= threshold - min(1.5, threshold / 2) else self.row + 1
            if self.row == self.clear_after:
                self.on, self.row, self.ended = False, 0, at
            return False
        self.row = self.row + 1 if score >= threshold and at >= self.ended + self.cooldown_s else 0
        if self.row < self.after:
            return False
        self.on, self.row = True, 0
        return True


def alarms(
    decisions: list[tuple[float, float]], rate: float, *, after: int, clear_after: int, cooldown_s: float
) -> int:
    """How many alerts (time, score) decisions raise under a budget of `rate` alarms per decision."""
    rungs = [rung for rung in (0.03, 0.003, 0.0003, 0.00003, 0.000003) if rung > 1.5 * rate]
    gaps = [-math.log10(0.03), 1.0, 1.0, 1.0, 1.0][: len(rungs)]
    events = [Events(after, clear_after, cooldown_s) for _ in rungs]
    alert, offset, raised = Events(after, clear_after, cooldown_s), 0.0, 0
    for count, (at, score) in enumerate(decisions, 1):
        wanted = sum(gaps) + math.log10((rungs or [1.0])[-1] / rate) + offset
        begins = alert.begins(at, score, min(max(wanted, -math.log10(rate) / 2), 3.0 - math.log10(rate)))
        raised += begins
        levels = [sum(gaps[: place + 1]) for place in range(len(gaps))]
        for place, rung in enumerate(rungs):
            young = [0.5 / (1 + count * one) for one in [math.inf, *rungs]]
            step = max(0.05, young[place + 1] - young[place])
            gaps[place] = max(0.05, gaps[place] + step * (events[place].begins(at, score, levels[place]) - rung))
        offset = min(max(offset + 0.3 * (begins - rate), -2.0), 3.0)
    return raised
