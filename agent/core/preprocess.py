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
_MAX_POINTS: Final = 1024  # statistics are taken of at most so many points, evenly spread
_RELATIVE_FLOOR: Final = 1e-3  # of the channel's own level: a constant channel may move by its last digit
_ABSOLUTE_FLOOR: Final = 1e-6
_STEPS_KNOWN: Final = 8  # a channel must have moved this often before its smallest step is its resolution
_QUANTILES: Final = (0.005, 0.1, 0.5, 0.9, 0.995)
_SPREAD: Final = 2.56  # q90 - q10 of a normal distribution, in standard deviations


def pooled(lanes: F32, pool: int) -> F32:
    """Return means over `pool` consecutive points of each row, aligned to the end, float32 [lanes, points // pool]."""
    if pool == 1:
        return lanes
    count = lanes.shape[1] // pool
    blocks = lanes[:, lanes.shape[1] - count * pool :].reshape(len(lanes), count, pool)
    # Adding slices is several times faster than a reduction over an axis of four.
    total = blocks[:, :, 0] + blocks[:, :, 1]
    for place in range(2, pool):
        total += blocks[:, :, place]
    total *= np.float32(1.0 / pool)
    return total


def features(lanes: F32, pool_index: int, length: int, table: F32) -> F32:
    """Return scaled values and differences of the last points, float32 [lanes, length, 2].

    `lanes` float32 [lanes, points] ends with the newest value; `table` is the lanes' RobustScale.table.
    """
    pool = POOLS[pool_index]
    values = pooled(lanes[:, lanes.shape[1] - (length + 1) * pool :], pool)
    out = np.empty((len(lanes), length, 2), np.float32)
    scaled = np.subtract(values[:, 1:], table[:, pool_index, 0, :1])
    scaled /= table[:, pool_index, 0, 1:]
    out[:, :, 0] = scaled
    np.subtract(values[:, 1:], values[:, :-1], out=scaled)
    scaled -= table[:, pool_index, 1, :1]
    scaled /= table[:, pool_index, 1, 1:]
    out[:, :, 1] = scaled
    np.arcsinh(out, out=out)
    return np.clip(out, -CLIP, CLIP, out=out)


class RobustScale:
    """Centre and spread per channel, for values and first differences, at each time scale.

    `table` is float32 [channels, pools, 2, 2]: kind (value, difference), then centre and spread, relative to the
    grid's base. `floored` bool [channels] marks (nearly) constant values, whose spread is no more than their
    resolution. Both are replaced by `refresh`, never changed: who holds one keeps what it was.
    """

    def __init__(self, channels: int) -> None:
        self.table: F32 = _unknown(channels)
        self.floored: Bools = np.zeros(channels, np.bool_)

    def refresh(self, rows: F32, base: F64) -> None:
        """Take the statistics anew from `rows`, float32 [rows >= 8, channels] relative to `base`; NaN is left out."""
        lanes = np.ascontiguousarray(rows.T)
        table = np.empty_like(self.table)
        base = np.where(np.isnan(base), 0.0, base)
        floor: F64 = np.zeros(len(lanes))
        for index, pool in enumerate(POOLS):
            values, steps = _thinned(pooled(lanes, pool))
            centre, spread = _centre_and_spread(values)
            if index == 0:
                # A channel's resolution is the smallest step it ever made: that one step is nothing odd.
                level = np.abs(base + centre)
                floor = np.maximum(np.maximum(_smallest_step(steps), _RELATIVE_FLOOR * level), _ABSOLUTE_FLOOR)
                self.floored = spread <= floor
            floor_here = floor / pool
            table[:, index, 0, 0] = centre
            table[:, index, 0, 1] = np.maximum(spread, floor_here)
            centre, spread = _centre_and_spread(steps)
            table[:, index, 1, 0] = centre
            table[:, index, 1, 1] = np.maximum(spread, floor_here)
        self.table = table

    def grow(self, channels: int) -> None:
        """Make room for channels that were met while learning."""
        self.table, self.floored = _unknown(channels), np.zeros(channels, np.bool_)

    def snapshot(self) -> dict[str, Any]:
        """Return the statistics."""
        return {"table": self.table, "floored": self.floored}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up statistics."""
        self.table, self.floored = state["table"], state["floored"]


def _unknown(channels: int) -> F32:
    table = np.zeros((channels, len(POOLS), 2, 2), np.float32)
    table[:, :, :, 1] = 1.0
    return table


def _thinned(lanes: F32) -> tuple[F32, F32]:
    """Return at most _MAX_POINTS values of each lane, evenly spread, and the steps to the points behind them."""
    every = max(1, -(-lanes.shape[1] // _MAX_POINTS))
    values = np.ascontiguousarray(lanes[:, 1::every])
    return values, values - lanes[:, : lanes.shape[1] - 1 : every]


def _centre_and_spread(series: F32) -> tuple[F64, F64]:
    """Return median and max((q90 - q10) / 2.56, 0.1 std) of each row of `series` [lanes, points], float64 [lanes].

    The standard deviation is of values moved to within one width of the middle 99 % of them: a few glitches, however
    large, say nothing about what is usual.
    """
    ordered = np.sort(series, axis=1)  # NaN last; six times faster than np.partition where numpy sorts with SIMD
    known = series.shape[1] - np.isnan(series).sum(axis=1)
    ordered[known == 0, 0] = 0.0
    last = np.maximum(known, 1) - 1
    lanes = np.arange(len(series))
    places = [np.rint(q * last).astype(np.int64) for q in _QUANTILES]
    least, low, centre, high, most = (ordered[lanes, place].astype(np.float64) for place in places)
    width = most - least
    inner = np.clip(ordered, (least - width)[:, None], (most + width)[:, None])
    if (known < series.shape[1]).any():
        deviation = np.nanstd(inner, axis=1, dtype=np.float64)
    else:
        deviation = inner.std(axis=1, dtype=np.float64)
    return centre, np.maximum((high - low) / _SPREAD, 0.1 * deviation)


def _smallest_step(steps: F32) -> F64:
    sizes = np.abs(steps)
    sizes[~(sizes > 0)] = np.inf
    smallest = sizes.min(axis=1).astype(np.float64)
    seen = np.isfinite(sizes).sum(axis=1)
    return np.where(seen >= _STEPS_KNOWN, smallest, 0.0)
