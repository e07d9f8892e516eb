"""The calendar view: a window is compared with those at the same time of the last days or weeks, and with no others.

A weekend's pattern on a weekday is a known window, and Monday's first hours are unlike the nights before; neither can
be told without the calendar. It needs the length of a season, stated, and three seasons of history.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np

from agent.core.calibration import Calibration
from agent.core.lanes import LaneArrays, Lanes
from agent.core.preprocess import CLIP
from agent.core.scoring import SCORERS, ScoreMethod
from agent.core.types import F32, F64, I64, Bools

SEASONS: Final = 3  # of the past that are compared
MAX_SLOTS: Final = 512  # of one season
LENGTH: Final = 16  # slots of a window
_SHIFTS: Final = np.arange(-2, 3)  # slots by which the same time may come early or late
_HOUR_S: Final = 3600.0  # daylight-saving time begins or ends
_NEIGHBOURS: Final = 3
_CALIBRATION_SIZE: Final = 1024


class Season(LaneArrays):
    """Means of the last seasons in slots, for each lane, and the p-value of how the newest window differs from them.

    All streams of a bank have the same season, but slots of their own length: a whole number of grid steps.
    """

    _BLANK: ClassVar = {"ring": np.nan, "sums": 0.0, "counts": 0, "slot": -1, "score": np.nan}

    def __init__(self, season_s: float) -> None:
        self.season_s = season_s
        self.kept = (SEASONS + 1) * MAX_SLOTS + LENGTH
        self.ring: F32 = np.zeros((0, self.kept), np.float32)  # NaN where nothing is known
        self.sums: F64 = np.zeros(0)  # of the slot that is not over yet
        self.counts: I64 = np.zeros(0, np.int64)
        self.slot: I64 = np.zeros(0, np.int64)  # its number since the epoch
        self.score: F32 = np.zeros(0, np.float32)  # -log10 p of the last whole slot, NaN before there is one
        self._calibration = Calibration(_CALIBRATION_SIZE)

    def make_room(self, first: int, last: int) -> None:
        """Begin lanes `first` to `last`, without a past."""
        super().make_room(first, last)
        self._calibration.make_room(first, last)

    def slots(self, period_s: F64) -> I64:
        """Return how many slots a season has for streams with these periods."""
        return np.clip(self.season_s // period_s, LENGTH, MAX_SLOTS).astype(np.int64)

    def fill(self, first: int, last: int, rows: F32, ends_at: float, period_s: float) -> None:
        """Take a warm-up's rows, float32 [rows, lanes], NaN where missing; the last one is of `ends_at`."""
        index = np.arange(first, last)
        scale = np.ones((last - first, 2), np.float32)
        for number, row in enumerate(rows):
            at = np.full(len(index), ends_at - (len(rows) - 1 - number) * period_s)
            self.follow(index, row, at, np.full(len(index), period_s), scale)

    def follow(self, index: I64, values: F32, at: F64, period_s: F64, scale: F32) -> F32:
        """Take one value of each of the lanes `index`; return -log10 p float32 [lanes], NaN where none is known yet.

        `at` and `period_s` float64 [lanes]; `scale` float32 [lanes, 2] is centre and spread. The score is that of the
        last whole slot.
        """
        slots = self.slots(period_s)
        slot = np.floor(at / (self.season_s / slots)).astype(np.int64)
        over = (slot != self.slot[index]) & (self.slot[index] >= 0)
        if over.any():
            self._close(index[over], slot[over], slots[over], scale[over])
        self.slot[index] = slot
        known = ~np.isnan(values)
        self.sums[index[known]] += values[known]
        self.counts[index[known]] += 1
        return self.score[index]

    def _close(self, index: I64, slot: I64, slots: I64, scale: F32) -> None:
        """End the slots of lanes, score their windows, and forget what lies in slots that were skipped."""
        ended = self.slot[index]
        mean = np.where(self.counts[index] > 0, self.sums[index] / np.maximum(self.counts[index], 1), np.nan)
        self.ring[index, ended % self.kept] = mean
        self.sums[index], self.counts[index] = 0.0, 0
        for place in np.flatnonzero(slot != ended + 1):  # behind a gap, or where a clock was set back
            begin, end = int(ended[place]), int(slot[place])
            skipped = np.arange(begin + 1, min(end, begin + self.kept)) if end > begin else np.arange(self.kept)
            self.ring[index[place], skipped % self.kept] = np.nan
        raw = self._raw(index, ended, slots, scale)
        lanes = Lanes.single(index)
        self.score[index] = -np.log10(self._calibration.p_values(lanes, raw))
        scored = ~np.isnan(raw)
        self._calibration.add(index[scored], raw[scored])

    def _raw(self, index: I64, ended: I64, slots: I64, scale: F32) -> F32:
        """Return the log distance to the windows at the same time of the last seasons, NaN without three of them."""
        shifts = np.concatenate([_SHIFTS] * 3)[None, :] + np.repeat([[-1, 0, 1]], len(_SHIFTS), axis=1) * np.rint(
            _HOUR_S * slots[:, None] / self.season_s
        ).astype(np.int64)
        ago = np.arange(1, SEASONS + 1)[None, :, None] * slots[:, None, None] - shifts[:, None, :]
        ends = ended[:, None, None] - ago  # [lanes, seasons, shifts]
        behind = np.arange(LENGTH) - (LENGTH - 1)
        places = (ends[..., None] + behind) % self.kept
        past = self._scaled(self.ring[index[:, None, None, None], places], scale)
        newest = self._scaled(self.ring[index[:, None], (ended[:, None] + behind) % self.kept], scale)
        squared = np.square(past - newest[:, None, None]).sum(axis=3)
        unknown = np.isnan(squared) | (ago <= LENGTH)
        squared[unknown] = np.inf
        whole: Bools = (~unknown).any(axis=2).all(axis=1)
        raw = np.full(len(index), np.nan, np.float32)
        if whole.any():
            near = squared[whole].reshape(int(whole.sum()), -1)
            raw[whole] = SCORERS[ScoreMethod.DISTANCE](near, _NEIGHBOURS, np.ones(1, np.float32))
        return raw

    def _scaled(self, values: F32, scale: F32) -> F32:
        shape = (len(scale),) + (1,) * (values.ndim - 1)
        scaled = (values - scale[:, 0].reshape(shape)) / scale[:, 1].reshape(shape)
        return np.asarray(np.clip(np.arcsinh(scaled), -CLIP, CLIP), np.float32)

    @property
    def lane_bytes(self) -> int:
        """Return what each lane takes."""
        return 4 * self.kept + 2 * _CALIBRATION_SIZE

    def snapshot(self, first: int, last: int) -> dict[str, Any]:
        """Return the slots of lanes `first` to `last`."""
        return {**super().snapshot(first, last), "calibration": self._calibration.snapshot(first, last)}

    def restore(self, first: int, state: dict[str, Any]) -> None:
        """Take them up again."""
        super().restore(first, state)
        self._calibration.restore(first, state["calibration"])
