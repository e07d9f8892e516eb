"""A regular grid from irregular samples, and the ring of raw values that windows are cut from.

The grid follows the samples: the next step is the reading nearest to one period after the last one, so a sender's
drifting clock never piles up. Time is an argument; nothing here reads a clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np

from agent.core.types import F32, Duration, Sample, Settings

MEASURED_SAMPLES: Final = 32  # readings from which an unset period is measured
RING_ROWS: Final = 4000
_SLACK_ROWS: Final = 1000  # the ring is linear: rows move to the front once every so many
LATE_RUN: Final = 10  # so many rising late readings in a row mean that the sender's clock was set back


class GridSettings(Settings, frozen=True):
    """`period_s` None: measured while learning. `carry_limit`: grid steps a missing value is carried forward."""

    period_s: Duration | None = None
    carry_limit: int = 5


class Arrival(StrEnum):
    """What became of a sample."""

    ACCEPTED = "accepted"
    MEASURING = "measuring"
    DUPLICATE = "duplicate"
    LATE = "late"
    SURPLUS = "surplus"
    NO_CHANNEL = "no_channel"


class Grid:
    """The last rows of one stream on its grid, float32 [rows, channels], NaN where a channel is missing.

    Values are kept as differences from each channel's first value (`base`, float64), so that large counters and
    absolute pressures keep their last digits in float32.
    """

    def __init__(self, settings: GridSettings, channels: tuple[str, ...], ring_rows: int = RING_ROWS) -> None:
        self.settings = settings
        self.fixed = bool(channels)
        self.channels: list[str] = list(channels)
        self.period_s = settings.period_s
        self.last_at = -np.inf
        self.total_rows = 0
        self.break_row = 0  # total_rows at the last gap
        self.base = np.full(len(channels), np.nan)
        self.ignored_channels = 0
        self._measured: list[Sample] = []
        self._ring_rows = ring_rows
        self._rows = np.full((ring_rows + _SLACK_ROWS, len(channels)), np.nan, np.float32)
        self._end = 0
        self._last: list[float] = [np.nan] * len(channels)  # per channel, the last value itself
        self._missed: list[int] = [0] * len(channels)  # grid steps since it came
        self._last_missing = np.zeros(len(channels), np.int64)  # total_rows behind the last NaN row
        self._late_at: list[float] = []

    @property
    def stored_rows(self) -> int:
        """Return how many rows of the past are at hand."""
        return min(self._end, self._ring_rows)

    @property
    def run(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return for each channel how many rows it has come without a gap, int64 [channels]."""
        return np.minimum(self.total_rows - np.maximum(self._last_missing, self.break_row), self.stored_rows)

    def rows(self, count: int) -> F32:
        """Return the last `count` rows, oldest first: a view, float32 [count, channels], relative to `base`."""
        return self._rows[max(0, self._end - count) : self._end]

    def push(self, sample: Sample, *, learning: bool) -> Arrival:
        """Put one sample on the grid. While learning without configured channels, new channels are added."""
        outcome = self._order(sample.at)
        if outcome is not Arrival.ACCEPTED:
            return outcome
        if not self.fixed:
            self._meet_channels(sample, learning=learning)
        values = [sample.values.get(name, np.nan) for name in self.channels]
        if not any(value == value for value in values):  # noqa: PLR0124  NaN is the only value unlike itself
            return Arrival.NO_CHANNEL
        if self.period_s is None:
            self._measured.append(sample)
            self.last_at = sample.at
            if len(self._measured) < MEASURED_SAMPLES:
                return Arrival.MEASURING
            return self._measure(learning=learning)
        steps = round((sample.at - self.last_at) / self.period_s) if self.total_rows else 1
        if steps < 1:
            return Arrival.SURPLUS
        self._append(values, steps)
        self.last_at = sample.at
        return Arrival.ACCEPTED

    def _order(self, at: float) -> Arrival:
        if at > self.last_at:
            self._late_at.clear()
            return Arrival.ACCEPTED
        if at == self.last_at:
            return Arrival.DUPLICATE
        if self._late_at and at <= self._late_at[-1]:
            self._late_at.clear()
        self._late_at.append(at)
        if len(self._late_at) < LATE_RUN:
            return Arrival.LATE
        self._late_at.clear()  # the sender's clock was set back: go on from there, behind a gap
        self.last_at = at - 1e9
        return Arrival.ACCEPTED

    def _meet_channels(self, sample: Sample, *, learning: bool) -> None:
        new = [name for name in sample.values if name not in self.channels]
        if not new:
            return
        if not learning:
            self.ignored_channels = max(self.ignored_channels, len(new))
            return
        self.channels += new
        more = len(new)
        self._rows = np.concatenate([self._rows, np.full((len(self._rows), more), np.nan, np.float32)], axis=1)
        self.base = np.append(self.base, np.full(more, np.nan))
        self._last += [np.nan] * more
        self._missed += [0] * more
        self._last_missing = np.append(self._last_missing, np.full(more, self.total_rows))

    def _measure(self, *, learning: bool) -> Arrival:
        waiting, self._measured = self._measured, []
        self.period_s = float(np.median(np.diff([sample.at for sample in waiting])))
        self.last_at = -np.inf
        for sample in waiting:
            self.push(sample, learning=learning)
        return Arrival.ACCEPTED

    def _append(self, values: list[float], steps: int) -> None:
        limit = self.settings.carry_limit
        if steps - 1 > limit:
            self.break_row = self.total_rows
            self._missed = [limit] * len(values)
            self._last = [np.nan] * len(values)
            steps = 1
        for _ in range(steps - 1):
            self._write([np.nan] * len(values))
        self._write(values)

    def _write(self, values: list[float]) -> None:
        """Write one row; a NaN becomes the value before it, at most `carry_limit` times."""
        row = values
        for index, value in enumerate(values):
            if value == value:  # noqa: PLR0124  NaN is the only value unlike itself
                self._last[index] = value
                self._missed[index] = 0
                continue
            self._missed[index] += 1
            if self._missed[index] > self.settings.carry_limit:
                self._last[index] = np.nan
            if row is values:
                row = list(values)
            row[index] = self._last[index]
        if self._end == len(self._rows):
            self._rows[: self._ring_rows] = self._rows[self._end - self._ring_rows :]
            self._end = self._ring_rows
        relative = np.array(row)
        fresh = np.isnan(self.base)
        if fresh.any():
            self.base[fresh] = relative[fresh]
        relative -= self.base
        self._rows[self._end] = relative
        self._end += 1
        self.total_rows += 1
        if row is not values or fresh.any():
            self._last_missing[np.isnan(relative)] = self.total_rows

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on as if never stopped."""
        return {
            "channels": list(self.channels),
            "period_s": self.period_s,
            "last_at": float(self.last_at),
            "total_rows": self.total_rows,
            "break_row": self.break_row,
            "base": self.base.copy(),
            "rows": self.rows(self._ring_rows).copy(),
            "last": list(self._last),
            "missed": list(self._missed),
            "last_missing": self._last_missing.copy(),
            "late_at": list(self._late_at),
            "measured": [[sample.at, sample.values] for sample in self._measured],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.channels = list(state["channels"])
        self.period_s = self.settings.period_s if self.settings.period_s is not None else state["period_s"]
        self.last_at = state["last_at"]
        self.total_rows = state["total_rows"]
        self.break_row = state["break_row"]
        self.base = state["base"].copy()
        rows = state["rows"][-self._ring_rows :]
        self._rows = np.full((self._ring_rows + _SLACK_ROWS, len(self.channels)), np.nan, np.float32)
        self._rows[: len(rows)] = rows
        self._end = len(rows)
        self._last = list(state["last"])
        self._missed = list(state["missed"])
        self._last_missing = state["last_missing"].copy()
        self._late_at = list(state["late_at"])
        self._measured = [Sample(at, dict(values)) for at, values in state["measured"]]
