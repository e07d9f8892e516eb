"""Values that no longer change: how long equal values ran before, and how rare a run as long as the present one is.

Neighbours do not see a flatline: a frozen window lies close to calm ones. The run length of equal values has a
p-value of its own, a conformal rank among past runs (Vovk et al. 2005), with a Pareto tail beyond the longest.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from agent.core.lanes import LaneArrays
from agent.core.types import F32, F64, I64, Bools

BINS_PER_DOUBLING: Final = 4
_BINS: Final = 80  # runs of up to 2^20 rows are told apart
MIN_RUN: Final = 8  # rows: a value that is carried over a few missing readings is not frozen
TAIL_EXPONENT: Final = 2.0  # beyond the longest run a tenfold length is a hundred times rarer: runs have heavy tails
MIN_RUNS: Final = 16  # a channel that has changed less often than this has no usual run length
_MEMORY_RUNS: Final = 8192.0  # when so many are counted, all count half


class FrozenValues(LaneArrays):
    """The runs of equal values of each lane: the one that lasts, and a histogram of those that ended."""

    _BLANK: ClassVar = {"run": 0, "ended": 0.0}

    def __init__(self) -> None:
        self.run: I64 = np.zeros(0, np.int64)  # rows for which the newest value has been the same
        self.ended: F32 = np.zeros((0, _BINS), np.float32)  # by length, geometric bins

    def follow(self, index: I64, tails: F32, rows: I64) -> None:
        """Take the newest `rows` points of the lanes `index`, int64 [lanes]; `tails` float32 [lanes, points] end there.

        What lies between two missing values or beside one is no run that ended: nobody knows how long it was.
        """
        points = tails.shape[1]
        rows = np.minimum(rows, points - 1)
        most = int(rows.max())
        skipped = most - rows
        last = tails[:, points - most - 1 :]
        changed = last[:, 1:] != last[:, :-1]  # NaN is unlike everything
        changed &= np.arange(most) >= skipped[:, None]
        known = ~(np.isnan(last[:, 1:]) | np.isnan(last[:, :-1]))
        lane, place = np.nonzero(changed)
        if len(lane):
            first = np.concatenate([[True], lane[1:] != lane[:-1]])
            before = np.concatenate([[0], place[:-1]])
            length = np.where(first, self.run[index[lane]] + place - skipped[lane], place - before)
            whole = known[lane, place] & (length > 0)
            np.add.at(self.ended, (index[lane[whole]], _bin(length[whole])), 1.0)
        newest = np.where(changed.any(axis=1), np.argmax(changed[:, ::-1], axis=1) + 1, self.run[index] + rows)
        self.run[index] = np.where(np.isnan(last[:, -1]), 0, newest)
        full = index[self.ended[index].sum(axis=1) > _MEMORY_RUNS]
        self.ended[full] *= np.float32(0.5)

    def p_values(self, index: I64) -> F64:
        """Return how likely a run is to become as long as the present one, float64 [lanes]; 1 where it is short."""
        run = self.run[index]
        ended = self.ended[index].astype(np.float64)
        count = ended.sum(axis=1)
        place = _bin(np.maximum(run, 1))
        at_least = np.cumsum(ended[:, ::-1], axis=1)[:, ::-1][np.arange(len(index)), place]
        longest = _length(_BINS - 1 - np.argmax(ended[:, ::-1] > 0, axis=1))
        beyond = np.maximum(run / longest, 1.0) ** -TAIL_EXPONENT
        p = (at_least + 1.0) / (count + 1.0) * np.where(at_least > 0, 1.0, beyond)
        usual: Bools = (run < MIN_RUN) | (count < MIN_RUNS)
        return np.where(usual, 1.0, p)


def _bin(length: I64) -> I64:
    places = np.floor(BINS_PER_DOUBLING * np.log2(np.maximum(length, 1)))
    return np.minimum(places, _BINS - 1).astype(np.int64)


def _length(place: I64) -> F64:
    """Return the greatest length of a bin, float64."""
    return np.asarray(np.maximum(np.ceil(2.0 ** ((place + 1) / BINS_PER_DOUBLING)) - 1, 1.0), np.float64)
