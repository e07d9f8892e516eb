"""The few types that every layer speaks. Plain values: nothing here computes, waits or does IO.

Scores rise with strangeness, always. Times are seconds since the epoch, UTC, as float.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

I8: TypeAlias = npt.NDArray[np.int8]
U8: TypeAlias = npt.NDArray[np.uint8]
F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
I64: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

# Words a person writes in the configuration; `extra["parse"]` names the parser in agent/config.py.
Duration: TypeAlias = Annotated[float, Meta(extra={"parse": "duration"})]  # seconds
Size: TypeAlias = Annotated[int, Meta(extra={"parse": "size"})]  # bytes


CLOCK_NOT_SET_S: Final = 1577836800.0  # 2020: a clock of ours that shows less is not set


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that can be configured: immutable, strict, by keyword."""


class Budget(Settings, frozen=True):
    """How many false alarms an operator accepts: `count` per `per_s` seconds or per `per_decisions`."""

    count: float
    per_s: float | None = None
    per_decisions: float | None = None
    text: str = ""

    def rate_per_decision(self, decision_interval_s: float) -> float:
        """Return alarms per decision, in (0, 1], for a stream that decides every `decision_interval_s`."""
        if self.per_decisions is not None:
            return min(1.0, self.count / self.per_decisions)
        assert self.per_s is not None
        return min(1.0, self.count * decision_interval_s / self.per_s)

    def rate_per_s(self, decision_interval_s: float) -> float:
        """Return alarms per second for a stream that decides every `decision_interval_s`."""
        if self.per_decisions is not None:
            return self.count / self.per_decisions / decision_interval_s
        assert self.per_s is not None
        return self.count / self.per_s


class Change(Settings, frozen=True):
    """How much a value changes: by `amount` in its own unit, or by so many times its usual value."""

    amount: float
    relative: bool = False


class Mode(StrEnum):
    """What the detector may learn after warm-up."""

    ADAPT = "adapt"
    HOLD = "hold"
    FROZEN = "frozen"


class StreamPhase(StrEnum):
    """Where a stream is in its life."""

    LEARNING = "learning"
    ACTIVE = "active"
    SILENT = "silent"


class Sample(msgspec.Struct, frozen=True):
    """One timestamped reading of a stream: a value per channel name; NaN is never stored, only left out."""

    at: float
    values: dict[str, float]


class Frame(msgspec.Struct, frozen=True):
    """One picture of a stream as its encoder takes it: RGB, uint8 [height, width, 3]."""

    at: float
    pixels: U8


class Assessment(msgspec.Struct, frozen=True):
    """What one decision found. `p_value` is None while the stream is learning.

    `part_scores` has one row per part (channel): its combined score, -log10 of a p-value, float32 [parts];
    the stream's `score` is their reduction. `view_scores` float32 [views, parts] are -log10 p per view
    (NaN where a view is not ready) and `range_scores` float32 [parts] the novelty of range. `raw_scores` float32
    [views, parts] are what the p-values were made of. `season_scores` float32 [parts] are those against the same time
    of earlier seasons, in place of all views where known (NaN where not). `frozen_scores` float32 [parts] is -log10 of
    the p-value of how long the value has not changed, and `frozen_score` their reduction.
    """

    at: float
    score: float
    p_value: float | None
    part_scores: F32
    view_scores: F32
    range_scores: F32
    raw_scores: F32
    season_scores: F32
    frozen_scores: F32
    frozen_score: float = 0.0
