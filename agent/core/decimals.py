"""Readings as senders write them: decimal numbers with a few places, whose steps are far shorter than their float32.

Lossless: what does not come out again to the bit is kept as it is.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.types import F32, F64

MOST_PLACES: Final = 6
AS_THEY_ARE: Final = -1
_MISSING: Final = np.iinfo(np.int32).min
_LARGEST: Final = 2**30


def packed(rows: F32, base: F64) -> dict[str, Any]:
    """Return rows of a grid, float32 [rows, channels] relative to `base` float64 [channels], for `unpacked`.

    `places` int8 [channels], `AS_THEY_ARE` for those that are no decimal numbers; `steps` uint32 [decimal channels,
    rows] from each number to the next in units of the last place, small ones near 0; `rest` float32 [others, rows].
    """
    places, steps, rest = [], [], []
    for values, middle in zip(np.ascontiguousarray(rows.T), base, strict=True):
        found = _counted(values, middle)
        places.append(AS_THEY_ARE if found is None else found[0])
        if found is None:
            rest.append(values)
        else:
            step = np.diff(found[1].view(np.uint32), prepend=np.uint32(0)).view(np.int32)
            steps.append(((step << 1) ^ (step >> 31)).view(np.uint32))
    count = len(rows)
    return {
        "places": np.array(places, np.int8),
        "steps": np.array(steps, np.uint32).reshape(len(steps), count),
        "rest": np.array(rest, np.float32).reshape(len(rest), count),
    }


def unpacked(saved: dict[str, Any], base: F64) -> F32:
    """Return the rows again, float32 [rows, channels]. `base` of a channel that had no value may be another."""
    places, rest = saved["places"], saved["rest"]
    rows = np.empty((rest.shape[1], len(places)), np.float32)
    decimal = places != AS_THEY_ARE
    rows[:, ~decimal] = rest.T
    for channel, zigzag in zip(np.flatnonzero(decimal), saved["steps"], strict=True):
        step = (zigzag >> np.uint32(1)) ^ -(zigzag & np.uint32(1))
        counts = np.cumsum(step, dtype=np.uint32).view(np.int32)
        rows[:, channel] = _values(counts, int(places[channel]), base[channel])
    return rows


def _counted(values: F32, middle: np.float64) -> tuple[int, np.ndarray[Any, np.dtype[np.int32]]] | None:
    """Return how many decimal places values have, and each in units of the last one; None where that is not so."""
    known = ~np.isnan(values)
    counts = np.full(len(values), _MISSING, np.int32)
    if not known.any():
        return 0, counts
    wanted = values[known]
    near = wanted.astype(np.float64) + middle
    for places in range(MOST_PLACES + 1):
        units = np.rint(near * 10.0**places)
        if not np.abs(units).max() < _LARGEST:
            return None
        counts[known] = units
        again = _values(counts[known], places, middle)
        if np.array_equal(again.view(np.uint32), wanted.view(np.uint32)):
            return places, counts
    return None


def _values(counts: np.ndarray[Any, np.dtype[np.int32]], places: int, middle: np.float64) -> F32:
    """Return what the grid keeps of decimal numbers: the nearest doubles, less the middle, as float32."""
    made = (counts / 10.0**places - middle).astype(np.float32)
    made[counts == _MISSING] = np.nan
    return made
