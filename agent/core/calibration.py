"""From raw scores to p-values: a rolling rank below, a generalised Pareto tail above.

Every window's score enters when it was new, admitted or not: ranking among admitted scores only would cut the
tail off and promise too much.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from agent.core.lanes import LaneArrays, Lanes, kept
from agent.core.types import F32, F64, I64

I16 = npt.NDArray[np.int16]

CALIBRATION_SIZE: Final = 2500
MIN_SCORES: Final = 50  # fewer past scores than this give no p-value
TAIL_SHARE: Final = 0.1
REFIT_EVERY: Final = 25
MAX_SHAPE: Final = 0.5
MIN_SCALE: Final = 0.02  # of log distance: a tail is never steeper than that
TAIL_REACH: Final = 1000.0  # how far beyond the rarest past score a fitted tail is trusted

_EMPTY: Final = -32768
_LARGEST: Final = 60000.0  # what half precision holds
_EXPONENTIAL: Final = 1e-6  # a shape below that is taken as zero
_RANKED_ROWS: Final = 64  # rows compared at once with their past


def beyond_support(rate_per_decision: float, scores: int = CALIBRATION_SIZE) -> bool:
    """Tell whether alarms this rare lie beyond what `scores` past scores and a fitted tail can support."""
    return rate_per_decision * scores * TAIL_REACH < 1.0


def fit_tails(excesses: F64) -> tuple[F64, F64]:
    """Return shape (in [0, 0.5]) and scale of a generalised Pareto distribution for each row of `excesses` >= 0.

    `excesses` float64 [rows, n], each row ascending. Probability-weighted moments, Hosking and Wallis (1987),
    equations 3.2 with plotting positions (i - 0.35) / n. Below shape 0 the tail would end, and nothing beyond it
    could be told apart: clamped to the exponential. A row without any excess has shape 0 and the least scale.
    """
    n = excesses.shape[1]
    a0 = excesses.mean(axis=1)
    positions = (np.arange(1, n + 1) - 0.35) / n
    a1 = ((1.0 - positions) * excesses).mean(axis=1)
    denominator = a0 - 2.0 * a1
    bent = denominator > 0.0
    shape = np.where(bent, 2.0 - a0 / np.where(bent, denominator, 1.0), MAX_SHAPE)
    shape = np.where(a0 > 0.0, np.clip(shape, 0.0, MAX_SHAPE), 0.0)
    return shape, np.maximum(a0 * (1.0 - shape), MIN_SCALE)


def ranks(raw_scores: F32) -> I16:
    """Return int16 numbers in the order of the scores: the bits of their half-precision floats, made to rise.

    Half the memory, and compared in half the time; scores keep eleven binary digits. -inf is the lowest.
    """
    bits = (np.clip(raw_scores, -_LARGEST, _LARGEST) + 0.0).astype(np.float16).view(np.int16)  # no negative zero
    return bits ^ ((bits >> 15) & 0x7FFF)


def scores_of(ranked: I16) -> F64:
    """Return the scores, float64, that int16 `ranks` stand for."""
    bits = ranked ^ ((ranked >> 15) & 0x7FFF)
    return bits.view(np.float16).astype(np.float64)


class Calibration(LaneArrays):
    """The last raw scores of each row (a lane's view) as `ranks`, and the tail fitted to them."""

    _BLANK: ClassVar = {
        "scores": _EMPTY,
        "count": 0,
        "head": 0,
        "since_fit": REFIT_EVERY,
        "threshold": np.inf,
        "shape": 0.0,
        "scale": 1.0,
    }

    def __init__(self, size: int = CALIBRATION_SIZE) -> None:
        self.size = size
        self.scores: I16 = np.empty((0, size), np.int16)  # the lowest where empty
        self.count: I64 = np.zeros(0, np.int64)
        self.head: I64 = np.zeros(0, np.int64)
        self.since_fit: I64 = np.zeros(0, np.int64)
        self.threshold: F64 = np.zeros(0)
        self.shape: F64 = np.zeros(0)
        self.scale: F64 = np.zeros(0)

    def p_values(self, rows: Lanes, raw_scores: F32) -> F64:
        """Return the share of past scores at least as high, float64 [rows]; NaN before MIN_SCORES or for NaN."""
        index = rows.index
        count = self.count[index]
        enough = count >= MIN_SCORES
        stale = enough & (self.since_fit[index] >= REFIT_EVERY)
        if stale.any():
            self._fit(index[stale])
        filled = max(1, int(count.max(initial=0)))
        at_least = np.empty(len(index), np.int64)
        missing = np.isnan(raw_scores)
        ranked = ranks(np.where(missing, np.float32(0.0), raw_scores))
        for row, block in rows.blocks(_RANKED_ROWS):
            part = slice(row, row + block.stop - block.start)
            at_least[part] = np.count_nonzero(self.scores[block, :filled] >= ranked[part, None], axis=1)
        p = (at_least + 1.0) / (count + 1.0)
        threshold = self.threshold[index]
        above = raw_scores > threshold
        if above.any():
            tail = index[above]
            excess = (raw_scores[above] - threshold[above]) / self.scale[tail]
            shape = self.shape[tail]
            heavy_tailed = shape > _EXPONENTIAL
            safe = np.where(heavy_tailed, shape, 1.0)
            heavy = np.power(1.0 + safe * excess, -1.0 / safe)
            p[above] = TAIL_SHARE * np.where(heavy_tailed, heavy, np.exp(-excess))
        np.maximum(p, 1e-300, out=p)
        p[~enough | missing] = np.nan
        return p

    def add(self, rows: I64, raw_scores: F32) -> None:
        """Remember one score for each of the rows."""
        head = self.head[rows]
        self.scores[rows, head] = ranks(raw_scores)
        self.head[rows] = (head + 1) % self.size
        self.count[rows] = np.minimum(self.count[rows] + 1, self.size)
        self.since_fit[rows] += 1

    def last_at_least(self, row: int, raw_score: float, newest: int) -> tuple[int, bool]:
        """Return how many scores ago one was at least as high, leaving the `newest` out, and whether one was.

        If none was: how many are remembered.
        """
        count = int(self.count[row])
        order = (self.head[row] - 1 - np.arange(count)) % self.size
        high = self.scores[row, order] >= ranks(np.array([raw_score], np.float32))
        high[:newest] = False
        return (int(high.argmax()), True) if high.any() else (count, False)

    def fill(self, row: int, raw_scores: F32) -> None:
        """Replace a row's past by these scores, oldest first: the calibration of a warm-up."""
        kept = raw_scores[-self.size :]
        self.scores[row] = _EMPTY
        self.scores[row, : len(kept)] = ranks(kept)
        self.count[row] = len(kept)
        self.head[row] = len(kept) % self.size
        self.since_fit[row] = REFIT_EVERY

    def _fit(self, rows: I64) -> None:
        """Fit the tails of rows anew, those with equally many scores at once."""
        counts = self.count[rows]
        for count in np.unique(counts):
            here = rows[counts == count]
            above = max(2, round(TAIL_SHARE * int(count)))
            highest = scores_of(np.sort(self.scores[here, :count], axis=1)[:, count - above - 1 :])
            threshold = highest[:, 0]
            self.shape[here], self.scale[here] = fit_tails(highest[:, 1:] - threshold[:, None])
            self.threshold[here] = threshold
        self.since_fit[rows] = 0

    def snapshot(self, first: int, last: int) -> dict[str, Any]:
        """Return the scores and the fitted tails of rows `first` to `last`."""
        state = super().snapshot(first, last)
        state["scores"] = state["scores"][:, : int(state["count"].max(initial=0))]
        return state

    def restore(self, first: int, state: dict[str, Any]) -> None:
        """Take them up again."""
        scores = np.full((len(state["count"]), self.size), _EMPTY, np.int16)
        scores[:, : state["scores"].shape[1]] = state["scores"]
        super().restore(first, {**state, "scores": scores})

    def addition(self, first: int, last: int, counts: I64) -> dict[str, Any]:
        """Return the newest `counts` scores of rows `first` to `last`, and the fitted tails, for `extend`."""
        places = [self._newest(row, int(count)) for row, count in zip(range(first, last), counts, strict=True)]
        state = {name: getattr(self, name)[first:last].copy() for name in self._BLANK if name != "scores"}
        return {**state, "scores": [self.scores[row, new] for row, new in zip(range(first, last), places, strict=True)]}

    def extend(self, first: int, state: dict[str, Any]) -> None:
        """Take up what was added to rows from `first` on."""
        scores = state["scores"]
        for name in self._BLANK.keys() - {"scores"}:
            getattr(self, name)[first : first + len(scores)] = state[name]
        for row, one in enumerate(scores, first):
            self.scores[row, self._newest(row, len(one))] = one

    def _newest(self, row: int, count: int) -> I64:
        """Return the places of a row's newest scores, oldest of them first; at most all that are remembered."""
        count = min(count, self.size)
        return (self.head[row] - count + np.arange(count)) % self.size

    def remove(self, row: int, raw_scores: F32) -> None:
        """Forget one past score of a row for each of `raw_scores` that is still remembered, the newest such."""
        count = int(self.count[row])
        order = (self.head[row] - count + np.arange(count)) % self.size
        leaving = np.zeros(count, np.bool_)
        for one in ranks(raw_scores):
            equal = np.flatnonzero((self.scores[row, order] == one) & ~leaving)
            leaving[equal[-1:]] = True
        kept(self.scores, row, order[~leaving])
        self.count[row] = left = count - int(leaving.sum())
        self.scores[row, left:count] = _EMPTY
        self.head[row] = left % self.size
        self.since_fit[row] = REFIT_EVERY
