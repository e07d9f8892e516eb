"""The pictures regarded as normal: pooled features, scores and provenance of each, first in, first out.

Beside it who may enter, and what a pair of scores is worth as a p-value among theirs.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.core.types import F32, F64, I64, Bools, Mode

TAIL_SHARE: Final = 0.1
FIRST_TAIL: Final = (0.75, 0.9)  # quantiles
TAIL_TURNS: Final = 20
MOST_ODD: Final = 0.06  # of the reference
MIN_SCALE: Final = 0.02  # of the tail, in standard deviations of the fused score
REFUSE_P: Final = 0.003  # refusing at .02 cuts the reference's own tail off and doubles false alarms
ESCAPE_SHARE: Final = 0.3  # of the last ESCAPE_FRAMES refused: a change is here to stay
ESCAPE_FRAMES: Final = 30
_CUT: Final = float(np.log(TAIL_SHARE / REFUSE_P))  # in scales of the tail: beyond it nothing is admitted
_LEAST_DEVIATION: Final = 0.02  # of a log score: pictures that never change have none


class Picture(msgspec.Struct, frozen=True):
    """What is kept of a picture. `pooled` float32 [dim], `patches` float32 [cells, dim] whitened.

    `patch_score` and `pool_score` are logarithms of distances; NaN where not known.
    """

    at: float
    number: int
    pooled: F32
    patches: F32
    patch_score: float
    pool_score: float
    mark: int = 0

    @property
    def bytes(self) -> int:
        """Return what it takes."""
        return self.pooled.nbytes + self.patches.nbytes

    def packed(self) -> list[Any]:
        """Return its fields, patches in half the size; nothing is lost."""
        at, number, pooled, patches, *rest = msgspec.structs.astuple(self)
        return [at, number, pooled, patches.astype(np.float16), *rest]

    @classmethod
    def unpacked(cls, fields: list[Any]) -> Picture:
        """Return the picture that was packed."""
        at, number, pooled, patches, *rest = fields
        return cls(at, number, pooled, patches.astype(np.float32), *rest)


class PictureRing:
    """The last `size` pictures that were let in."""

    _ARRAYS: Final = ("pooled", "patch_scores", "pool_scores", "times", "numbers", "marks")

    def __init__(self, size: int, dim: int) -> None:
        self.size = size
        self.pooled: F32 = np.zeros((size, dim), np.float32)
        self.patch_scores: F32 = np.full(size, np.nan, np.float32)
        self.pool_scores: F32 = np.full(size, np.nan, np.float32)
        self.times: F64 = np.zeros(size)
        self.numbers: I64 = np.zeros(size, np.int64)
        self.marks: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.count = 0
        self.head = 0

    @property
    def bytes(self) -> int:
        """Return what it takes."""
        return sum(getattr(self, name).nbytes for name in self._ARRAYS)

    @property
    def rows(self) -> F32:
        """Return the pooled features that are held, float32 [count, dim]: a view."""
        return self.pooled[: self.count]

    def add(self, picture: Picture) -> None:
        """Let a picture in; the oldest leaves."""
        place = self.head
        self.pooled[place] = picture.pooled
        self.patch_scores[place], self.pool_scores[place] = picture.patch_score, picture.pool_score
        self.times[place], self.numbers[place], self.marks[place] = picture.at, picture.number, picture.mark
        self.head = (place + 1) % self.size
        self.count = min(self.count + 1, self.size)

    def order(self) -> I64:
        """Return the places of all pictures, int64 [count], the oldest first."""
        return (self.head - self.count + np.arange(self.count)) % self.size

    def remove(self, leaving: Bools) -> int:
        """Take pictures out, bool [count]; the others keep their order. Return how many."""
        order = self.order()
        order = order[~leaving[order]]
        for name in self._ARRAYS:
            held = getattr(self, name)
            held[: len(order)] = held[order]
        left = self.count - len(order)
        self.count, self.head = len(order), len(order) % self.size
        return left

    def snapshot(self) -> dict[str, Any]:
        """Return what is held."""
        return {
            **{name: getattr(self, name)[: self.count].copy() for name in self._ARRAYS},
            "head": self.head,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self.count, self.head = len(state["times"]), state["head"]
        for name in self._ARRAYS:
            getattr(self, name)[: self.count] = state[name]


class ScoreScale(msgspec.Struct, frozen=True):
    """What is usual: mean and deviation of each log score, the fused scores ascending, and the tail above them."""

    patch: tuple[float, float]
    pool: tuple[float, float] | None
    past: F64
    threshold: float
    scale: float

    @classmethod
    def of(cls, patch_scores: F32, pool_scores: F32 | None) -> ScoreScale:
        """Return the scale of these log scores of normal pictures, float32 [n]; those that miss one do not count."""
        known = np.isfinite(patch_scores)
        if pool_scores is not None:
            known &= np.isfinite(pool_scores)
        patch = _moments(patch_scores[known])
        pool = None if pool_scores is None else _moments(pool_scores[known])
        past = _standardised(patch_scores[known], patch)
        if pool is not None and pool_scores is not None:
            past = past + _standardised(pool_scores[known], pool)
        past = np.sort(past)
        return cls(patch, pool, past, *exponential_tail(past))

    def p_value(self, patch_score: float, pool_score: float) -> float:
        """Return how rare such log scores are: a rank, and above the 90 % quantile an exponential tail."""
        fused = (patch_score - self.patch[0]) / self.patch[1]
        if self.pool is not None:
            fused += (pool_score - self.pool[0]) / self.pool[1]
        if fused > self.threshold:
            return max(float(TAIL_SHARE * np.exp((self.threshold - fused) / self.scale)), 1e-300)
        at_least = len(self.past) - int(np.searchsorted(self.past, fused))
        return (at_least + 1.0) / (len(self.past) + 1.0)


def exponential_tail(past: F64) -> tuple[float, float]:
    """Return threshold and scale of the exponential tail of normal scores among `past` float64 [n], ascending.

    At most MOST_ODD of them may be of pictures that are not normal. The first tail goes through two quantiles that
    these hardly move; then those that it calls rarer than REFUSE_P are left out, and the tail is fitted to the mean
    excess of what is left, until nothing changes. A tail cut off there is a little short: after thousands of pictures
    without a defect 1.2 to 1.6 times as many alarm as 1 % promises. To make up for it cost a seventh of the recall
    where 3 % are defects, since half of these get in.
    """
    low, threshold = (_quantile(past, share) for share in FIRST_TAIL)
    scale = max(float(threshold - low) / float(np.log((1.0 - FIRST_TAIL[0]) / (1.0 - FIRST_TAIL[1]))), MIN_SCALE)
    kept = 0
    total = np.concatenate([[0.0], np.cumsum(past)])
    for _ in range(TAIL_TURNS):
        beyond = threshold + scale * _CUT
        before, kept = kept, max(int(np.searchsorted(past, beyond)), round((1.0 - MOST_ODD) * len(past)))
        if kept == before:
            break
        above = max(1, round(TAIL_SHARE * kept))
        threshold = float(past[kept - above - 1])
        scale = max(float(total[kept] - total[kept - above]) / above - threshold, MIN_SCALE)
    return threshold, scale


def _quantile(past: F64, share: float) -> float:
    """Return the quantile of what is ascending, between its neighbours: a tenth of numpy's time."""
    place = share * (len(past) - 1)
    low = int(place)
    return float(past[low] + (place - low) * (past[min(low + 1, len(past) - 1)] - past[low]))


def _moments(scores: F32) -> tuple[float, float]:
    return float(scores.mean(dtype=np.float64)), max(float(scores.std(dtype=np.float64)), _LEAST_DEVIATION)


def _standardised(scores: F32, moments: tuple[float, float]) -> F64:
    return (scores.astype(np.float64) - moments[0]) / moments[1]


class PictureGate:
    """Who may enter the reference, by how rare it looked.

    `adapt` refuses p <= REFUSE_P, unless over ESCAPE_SHARE of the last ESCAPE_FRAMES were that rare, and that for at
    least `adapt_after_s`. `hold` refuses them always; `frozen` refuses everything.
    """

    def __init__(self, mode: Mode, adapt_after_s: float) -> None:
        self.mode, self.adapt_after_s = mode, adapt_after_s
        self._rare: deque[bool] = deque(maxlen=ESCAPE_FRAMES)
        self._since: float | None = None  # the first of the frames that are too often rare

    def admit(self, at: float, p_value: float) -> bool:
        """Tell whether a picture enters."""
        rare = p_value <= REFUSE_P
        self._rare.append(rare)
        if sum(self._rare) <= ESCAPE_SHARE * ESCAPE_FRAMES:
            self._since = None
        elif self._since is None:
            self._since = at
        escaped = self._since is not None and at - self._since >= self.adapt_after_s
        return self.mode is not Mode.FROZEN and (not rare or (escaped and self.mode is Mode.ADAPT))

    def snapshot(self) -> dict[str, Any]:
        """Return what it remembers."""
        return {"rare": list(self._rare), "since": self._since}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._rare = deque(state["rare"], maxlen=ESCAPE_FRAMES)
        self._since = state["since"]
