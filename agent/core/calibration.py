"""From raw scores to p-values: a rolling rank below, a generalised Pareto tail above.

Every window's score enters when it was new, admitted or not: ranking among admitted scores only would cut the
tail off and promise too much.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.types import F32, F64, I64

CALIBRATION_SIZE: Final = 2500
MIN_SCORES: Final = 50  # fewer past scores than this give no p-value
TAIL_SHARE: Final = 0.1
REFIT_EVERY: Final = 25
MAX_SHAPE: Final = 0.5
MIN_SCALE: Final = 0.02  # of log distance: a tail is never steeper than that
TAIL_REACH: Final = 1000.0  # how far beyond the rarest past score a fitted tail is trusted


def beyond_support(rate_per_decision: float, scores: int = CALIBRATION_SIZE) -> bool:
    """Tell whether alarms this rare lie beyond what `scores` past scores and a fitted tail can support."""
    return rate_per_decision * scores * TAIL_REACH < 1.0


def fit_tail(excesses: F64) -> tuple[float, float]:
    """Return shape (in [0, 0.5]) and scale of a generalised Pareto distribution for `excesses` >= 0.

    Probability-weighted moments, Hosking and Wallis (1987), equations 3.2 with plotting positions (i - 0.35) / n.
    Below shape 0 the tail would end, and nothing beyond it could be told apart: clamped to the exponential.
    """
    ordered = np.sort(excesses)
    n = len(ordered)
    a0 = float(ordered.mean())
    if a0 <= 0.0:
        return 0.0, MIN_SCALE
    positions = (np.arange(1, n + 1) - 0.35) / n
    a1 = float(((1.0 - positions) * ordered).mean())
    denominator = a0 - 2.0 * a1
    shape = 2.0 - a0 / denominator if denominator > 0.0 else MAX_SHAPE
    shape = min(max(shape, 0.0), MAX_SHAPE)
    return shape, max(a0 * (1.0 - shape), MIN_SCALE)


class Calibration:
    """The last raw scores of each part of one view, and the tail fitted to them.

    Rings are float32 [parts, CALIBRATION_SIZE] with -inf where empty.
    """

    def __init__(self, parts: int, size: int = CALIBRATION_SIZE) -> None:
        self.size = size
        self._scores: F32 = np.full((parts, size), -np.inf, np.float32)
        self._count: I64 = np.zeros(parts, np.int64)
        self._head: I64 = np.zeros(parts, np.int64)
        self._since_fit: I64 = np.full(parts, REFIT_EVERY, np.int64)
        self._threshold: F64 = np.full(parts, np.inf)
        self._shape: F64 = np.zeros(parts)
        self._scale: F64 = np.ones(parts)

    @property
    def count(self) -> I64:
        """Return the number of past scores of each part, int64 [parts]."""
        return self._count

    def p_values(self, raw_scores: F32) -> F64:
        """Return the share of past scores at least as high, float64 [parts]; NaN before MIN_SCORES or for NaN."""
        for part in np.flatnonzero((self._since_fit >= REFIT_EVERY) & (self._count >= MIN_SCORES)):
            self._fit(int(part))
        filled = max(1, int(self._count.max(initial=0)))
        at_least = np.count_nonzero(self._scores[:, :filled] >= raw_scores[:, None], axis=1)
        p = (at_least + 1.0) / (self._count + 1.0)
        above = raw_scores > self._threshold
        if above.any():
            excess = (raw_scores[above] - self._threshold[above]) / self._scale[above]
            shape = self._shape[above]
            safe = np.where(shape > 1e-6, shape, 1.0)  # noqa: PLR2004  below that the power is an exponential
            heavy = np.power(1.0 + safe * excess, -1.0 / safe)
            p[above] = TAIL_SHARE * np.where(shape > 1e-6, heavy, np.exp(-excess))  # noqa: PLR2004  the same
        p = np.maximum(p, 1e-300)
        p[(self._count < MIN_SCORES) | np.isnan(raw_scores)] = np.nan
        return p

    def add(self, raw_scores: F32) -> None:
        """Remember one score per part; NaN is left out."""
        parts = np.flatnonzero(~np.isnan(raw_scores))
        head = self._head[parts]
        self._scores[parts, head] = raw_scores[parts]
        self._head[parts] = (head + 1) % self.size
        self._count[parts] = np.minimum(self._count[parts] + 1, self.size)
        self._since_fit[parts] += 1

    def fill(self, part: int, raw_scores: F32) -> None:
        """Replace a part's past by these scores, oldest first: the calibration of a warm-up."""
        kept = raw_scores[-self.size :]
        self._scores[part] = -np.inf
        self._scores[part, : len(kept)] = kept
        self._count[part] = len(kept)
        self._head[part] = len(kept) % self.size
        self._since_fit[part] = REFIT_EVERY

    def _fit(self, part: int) -> None:
        scores = self._scores[part, : self._count[part]].astype(np.float64)
        above = max(2, round(TAIL_SHARE * len(scores)))
        ordered = np.partition(scores, len(scores) - above - 1)
        threshold = float(ordered[len(scores) - above - 1])
        self._shape[part], self._scale[part] = fit_tail(ordered[len(scores) - above :] - threshold)
        self._threshold[part] = threshold
        self._since_fit[part] = 0

    def grow(self, parts: int) -> None:
        """Make room for parts that were met while learning."""
        fresh = Calibration(parts - len(self._count), self.size)
        for name in ("_scores", "_count", "_head", "_since_fit", "_threshold", "_shape", "_scale"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(fresh, name)]))

    def snapshot(self) -> dict[str, Any]:
        """Return the rings and the fitted tails."""
        return {
            "scores": self._scores.copy(),
            "count": self._count.copy(),
            "head": self._head.copy(),
            "since_fit": self._since_fit.copy(),
            "threshold": self._threshold.copy(),
            "shape": self._shape.copy(),
            "scale": self._scale.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up rings and tails."""
        for name, array in state.items():
            setattr(self, f"_{name}", array.copy())
        self.size = self._scores.shape[1]
