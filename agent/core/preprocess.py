"""Scaling by slow robust statistics, and the features that views are made of.

Windows are never normalised one by one: level and amplitude are what most faults change.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.types import F32, F64, Bools

CLIP: Final = 8.0
POOLS: Final = (1, 4)  # time scales; each has statistics of its own
REFRESH_ROWS: Final = 64
_MAX_POINTS: Final = 1024  # quantiles are taken from at most so many points, evenly spread
_RELATIVE_FLOOR: Final = 1e-3  # of the channel's own level: a constant channel may move by its last digit
_ABSOLUTE_FLOOR: Final = 1e-6
_STEPS_KNOWN: Final = 8  # a channel must have moved this often before its smallest step is its resolution
_SPREAD: Final = 2.56  # q90 - q10 of a normal distribution, in standard deviations


def pooled(rows: F32, pool: int) -> F32:
    """Return means over `pool` consecutive rows, aligned to the end, float32 [len // pool, channels]."""
    if pool == 1:
        return rows
    count = len(rows) // pool
    kept = rows[len(rows) - count * pool :]
    blocks = kept.reshape(count, pool, rows.shape[1])
    # Adding slices is several times faster than a reduction over an axis of four.
    total = blocks[:, 0] + blocks[:, 1]
    for place in range(2, pool):
        total += blocks[:, place]
    total *= np.float32(1.0 / pool)
    return total


class RobustScale:
    """Centre and spread per channel, for values and first differences, at each time scale.

    `centre` and `spread` are float64 [pools, 2, channels]; `floored` bool [channels] marks (nearly) constant values,
    whose spread is no more than their resolution.
    """

    def __init__(self, channels: int) -> None:
        self.centre: F64 = np.zeros((len(POOLS), 2, channels))
        self.spread: F64 = np.ones((len(POOLS), 2, channels))
        self.floored: Bools = np.zeros(channels, np.bool_)

    def refresh(self, rows: F32, base: F64) -> None:
        """Take the statistics anew from `rows`, float32 [rows >= 8, channels] relative to `base`; NaN is left out."""
        for index, pool in enumerate(POOLS):
            values = pooled(rows, pool)
            steps = np.diff(values, axis=0)
            for kind, series in enumerate((values, steps)):
                self.centre[index, kind], self.spread[index, kind] = _centre_and_spread(series)
            if index == 0:
                # A channel's resolution is the smallest step it ever made: that one step is nothing odd.
                level = np.abs(np.where(np.isnan(base), 0.0, base) + self.centre[0, 0])
                floor = np.maximum(np.maximum(_smallest_step(steps), _RELATIVE_FLOOR * level), _ABSOLUTE_FLOOR)
                self.floored = self.spread[0, 0] <= floor
            self.spread[index] = np.maximum(self.spread[index], floor / pool if index else floor)

    def features(self, values: F32, pool_index: int) -> F32:
        """Return scaled values and differences of `values` [n + 1, channels]: float32 [channels, n, 2]."""
        centre, spread = self.centre[pool_index], self.spread[pool_index]
        out = np.empty((values.shape[1], len(values) - 1, 2), np.float32)
        out[:, :, 0] = ((values[1:] - centre[0]) / spread[0]).T
        out[:, :, 1] = ((np.diff(values, axis=0) - centre[1]) / spread[1]).T
        np.arcsinh(out, out=out)
        np.clip(out, -CLIP, CLIP, out=out)
        return out

    def grow(self, channels: int) -> None:
        """Make room for channels that were met while learning."""
        more = channels - self.centre.shape[2]
        self.centre = np.concatenate([self.centre, np.zeros((len(POOLS), 2, more))], axis=2)
        self.spread = np.concatenate([self.spread, np.ones((len(POOLS), 2, more))], axis=2)
        self.floored = np.append(self.floored, np.zeros(more, np.bool_))

    def snapshot(self) -> dict[str, Any]:
        """Return the statistics."""
        return {"centre": self.centre.copy(), "spread": self.spread.copy(), "floored": self.floored.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up statistics."""
        self.centre, self.spread = state["centre"].copy(), state["spread"].copy()
        self.floored = state["floored"].copy()


def _centre_and_spread(series: F32) -> tuple[F64, F64]:
    thinned = series[:: max(1, len(series) // _MAX_POINTS)].astype(np.float64)
    if np.isnan(thinned).any():
        empty = np.isnan(thinned).all(axis=0)
        thinned[:, empty] = 0.0
        low, centre, high = np.nanquantile(thinned, (0.1, 0.5, 0.9), axis=0)
        deviation = np.nanstd(thinned, axis=0)
    else:
        at = [round(q * (len(thinned) - 1)) for q in (0.1, 0.5, 0.9)]
        ordered = np.partition(thinned, at, axis=0)
        low, centre, high = ordered[at[0]], ordered[at[1]], ordered[at[2]]
        deviation = thinned.std(axis=0)
    return centre, np.maximum((high - low) / _SPREAD, 0.1 * deviation)


def _smallest_step(steps: F32) -> F64:
    sizes = np.abs(steps)
    sizes[~(sizes > 0)] = np.inf
    smallest = sizes.min(axis=0).astype(np.float64)
    seen = np.isfinite(sizes).sum(axis=0)
    return np.where(seen >= _STEPS_KNOWN, smallest, 0.0)
