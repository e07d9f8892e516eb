"""A regular grid from irregular samples, and the ring of raw values that windows are cut from.

The grid follows the samples: the next step is the reading nearest to one period after the last one, so a sender's
drifting clock never piles up. Time is an argument; nothing here reads a clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np

from agent.core.counters import Counters
from agent.core.types import F32, F64, Duration, Sample, Settings

MEASURED_SAMPLES: Final = 32  # readings from which an unset period is measured
RING_ROWS: Final = 4000
_FRESH_ROWS: Final = 64
_SLACK_ROWS: Final = 64  # the ring is linear: rows move to the front once every so many
MAX_CHANNELS: Final = 256  # of one stream, unless it is configured otherwise
_LONG_AGO_S: Final = 1e9
JUDGED_SAMPLES: Final = 128  # readings from which it is told whether a stream is even
UNEVEN_SHARE: Final = 0.15  # of intervals that span several steps, in both halves of those readings
LATE_RUN: Final = 10  # so many rising late readings in a row mean that the sender's clock was set back


class Spacing(StrEnum):
    """What a row of the grid is: a step of the clock, or a reading, whenever it comes."""

    AUTO = "auto"
    EVEN = "even"
    ARRIVAL = "arrival"


class GridSettings(Settings, frozen=True):
    """`period_s` None: measured while learning. `carry_limit`: grid steps a missing value is carried forward.

    `spacing` auto: even with a configured period, else told from the first readings. A sender that reports on change,
    or is heard now and then, has no period; its readings are rows by arrival, and it has no gaps. Of `counters` rows
    hold the increase for each step. Of channels that are not configured at most `max_channels` are taken.
    """

    period_s: Duration | None = None
    carry_limit: int = 5
    spacing: Spacing = Spacing.AUTO
    counters: tuple[str, ...] = ()
    max_channels: int = MAX_CHANNELS


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

    Values are kept as differences from the median of each channel's first values (`base`, float64), so that large
    counters and absolute pressures keep their last digits in float32.
    """

    def __init__(self, settings: GridSettings, channels: tuple[str, ...], ring_rows: int = RING_ROWS) -> None:
        self.settings = settings
        self.fixed = bool(channels)
        self.channels: list[str] = list(channels)
        self.period_s = settings.period_s
        self.spacing = settings.spacing
        if self.spacing is Spacing.AUTO and settings.period_s is not None:
            self.spacing = Spacing.EVEN
        self.last_at = -np.inf
        self.total_rows = 0
        self.ignored_channels = 0
        self.turns = 0  # how often the sender's clock was set back
        self._gaps = 0  # readings in a row that came behind a gap
        self._base: F64 = np.full(len(channels), np.nan)
        self._measured: list[Sample] = []
        self.unbroken = True  # no gap has come yet
        self._judged: list[Sample] = []  # what came first, until the spacing is told
        self._ring_rows = ring_rows
        self._rows = np.full((ring_rows + _SLACK_ROWS, len(channels)), np.nan, np.float32)
        self._end = 0
        self._fresh: list[list[float]] = []  # rows that are not in the ring yet: numpy is asked once for many
        self._last: list[float] = [np.nan] * len(channels)  # per channel, the last value itself
        self._missed: list[int] = [0] * len(channels)  # grid steps since it came
        self._last_missing: list[int] = [0] * len(channels)  # total_rows behind the last NaN row
        self._late_at: list[float] = []
        self._counters = Counters(settings.counters)

    @property
    def stored_rows(self) -> int:
        """Return how many rows of the past are at hand."""
        return min(self._end + len(self._fresh), self._ring_rows)

    @property
    def base(self) -> F64:
        """Return the median of each channel's first values, float64 [channels], NaN where none has come."""
        self._settle()
        return self._base

    @property
    def run(self) -> list[int]:
        """Return for each channel how many rows it has come without a gap."""
        total, stored = self.total_rows, self.stored_rows
        return [min(total - missing, stored) for missing in self._last_missing]

    @property
    def newest(self) -> dict[str, float]:
        """Return the values of the last row, NaN where missing."""
        return dict(zip(self.channels, self._last, strict=True))

    def rows(self, count: int) -> F32:
        """Return the last `count` rows, oldest first: a view, float32 [count, channels], relative to `base`."""
        self._settle()
        return self._rows[max(0, self._end - min(count, self._ring_rows)) : self._end]

    def push(self, sample: Sample, *, learning: bool, again: bool = False) -> Arrival:
        """Put one sample on the grid. While learning without configured channels, new channels are added.

        `again`: it may have come before; late ones of these are no sign of a clock that was set back.
        """
        at = sample.at
        if at <= self.last_at or self._late_at:
            outcome = self._order(at, again=again)
            if outcome is not Arrival.ACCEPTED:
                return outcome
        given = sample.values
        if not self.fixed:
            self._meet_channels(given, learning=learning)
        values = [given.get(name, np.nan) for name in self.channels]
        complete = len(given) >= len(values) and not any(value != value for value in values)  # noqa: PLR0124  NaN is the only value unlike itself
        if not complete and not any(value == value for value in values):  # noqa: PLR0124  the same
            return Arrival.NO_CHANNEL
        if self.period_s is None:
            self._measured.append(sample)
            self.last_at = at
            if len(self._measured) < MEASURED_SAMPLES:
                return Arrival.MEASURING
            return self._measure(learning=learning)
        steps = 1
        if self.total_rows and self.spacing is not Spacing.ARRIVAL:
            steps = round((at - self.last_at) / self.period_s)
        if steps < 1:
            return Arrival.SURPLUS
        self._gaps = self._gaps + 1 if steps - 1 > self.settings.carry_limit else 0
        if self._gaps == MEASURED_SAMPLES and self.settings.period_s is None:
            # Nothing but gaps: what was measured was a burst, such as a backlog delivered at once, or the sender has
            # become slower.
            self.period_s, self._measured, self._gaps = None, [sample], 0
            self._judged.clear()
            self._break()
            self.last_at = at
            return Arrival.MEASURING
        if steps > 1:
            self._skip(steps - 1)
        if self._counters.names:
            even = self.spacing is not Spacing.ARRIVAL
            most = self.settings.carry_limit + 1.0 if even else np.inf
            given = self._counters.rates(at, given, self.period_s, even=even, most_steps=most)
            values = [given.get(name, np.nan) for name in self.channels]
            complete = not any(value != value for value in values)  # noqa: PLR0124  as above
        if complete:
            self._last = values
            if any(self._missed):
                self._missed = [0] * len(values)
            self._keep(values)
        else:
            self._carry(values)
        self.last_at = at
        if self.spacing is Spacing.AUTO:
            self._judge(sample, learning=learning)
        return Arrival.ACCEPTED

    def _judge(self, sample: Sample, *, learning: bool) -> None:
        """Tell whether the readings come evenly; if not, take those so far again, each as a row."""
        self._judged.append(sample)
        if len(self._judged) < JUDGED_SAMPLES:
            return
        judged, self._judged = self._judged, []
        intervals = np.diff([one.at for one in judged])
        period = float(np.median(intervals))
        far = np.rint(intervals / period) > 1
        half = len(far) // 2
        if min(far[:half].mean(), far[half:].mean()) <= UNEVEN_SHARE:
            self.spacing = Spacing.EVEN
            return
        self.spacing, self.period_s = Spacing.ARRIVAL, period
        channels = len(self.channels)
        self.total_rows = self._end = self._gaps = 0
        self._fresh.clear()
        self.unbroken = True
        self._last, self._missed, self._last_missing = [np.nan] * channels, [0] * channels, [0] * channels
        self.last_at = judged[0].at - _LONG_AGO_S
        for one in judged:
            self.push(one, learning=learning)

    def _order(self, at: float, *, again: bool) -> Arrival:
        if at > self.last_at:
            self._late_at.clear()
            return Arrival.ACCEPTED
        if at == self.last_at:
            return Arrival.DUPLICATE
        if again:
            return Arrival.LATE
        if self._late_at and at <= self._late_at[-1]:
            self._late_at.clear()
        self._late_at.append(at)
        if len(self._late_at) < LATE_RUN:
            return Arrival.LATE
        self._late_at.clear()  # the sender's clock was set back: go on from there, behind a gap
        self.last_at = at - _LONG_AGO_S
        self.turns += 1
        return Arrival.ACCEPTED

    def _meet_channels(self, given: dict[str, float], *, learning: bool) -> None:
        new = [name for name in given if name not in self.channels]
        if not new:
            return
        room = self.settings.max_channels - len(self.channels) if learning else 0
        self.ignored_channels = max(self.ignored_channels, len(new) - room)
        new = new[:room]
        if not new:
            return
        self._settle()
        self.channels += new
        more = len(new)
        self._rows = np.concatenate([self._rows, np.full((len(self._rows), more), np.nan, np.float32)], axis=1)
        self._base = np.append(self._base, np.full(more, np.nan))
        self._last = [*self._last, *[np.nan] * more]
        self._missed += [0] * more
        self._last_missing += [self.total_rows] * more

    def _measure(self, *, learning: bool) -> Arrival:
        waiting, self._measured = self._measured, []
        self.period_s = float(np.median(np.diff([sample.at for sample in waiting])))
        self.last_at = waiting[0].at - _LONG_AGO_S
        for sample in waiting:
            self.push(sample, learning=learning)
        return Arrival.ACCEPTED

    def _skip(self, steps: int) -> None:
        """Go over grid steps at which nothing came: carried forward, or a gap if there are too many."""
        channels = len(self.channels)
        limit = self.settings.carry_limit
        if steps > limit:
            self._break()
            return
        for _ in range(steps):
            self._carry([np.nan] * channels)

    def _break(self) -> None:
        """Write a row of nothing: no window may span the gap."""
        channels = len(self.channels)
        self.unbroken = False
        self._missed = [self.settings.carry_limit] * channels
        self._last = [np.nan] * channels
        self._keep([np.nan] * channels)
        self._last_missing = [self.total_rows] * channels

    def _carry(self, values: list[float]) -> None:
        """Write one row; a NaN becomes the value before it, at most `carry_limit` times."""
        last = list(self._last)
        missing = []
        for index, value in enumerate(values):
            if value == value:  # noqa: PLR0124  NaN is the only value unlike itself
                last[index] = value
                self._missed[index] = 0
                continue
            self._missed[index] += 1
            if self._missed[index] > self.settings.carry_limit:
                last[index] = np.nan
            if last[index] != last[index]:
                missing.append(index)
        self._last = last
        self._keep(last)
        for index in missing:
            self._last_missing[index] = self.total_rows

    def _keep(self, row: list[float]) -> None:
        self._fresh.append(row)
        self.total_rows += 1
        if len(self._fresh) >= _FRESH_ROWS:
            self._settle()

    def _settle(self) -> None:
        """Move the fresh rows into the ring."""
        if not self._fresh:
            return
        block = np.array(self._fresh).reshape(len(self._fresh), len(self.channels))
        self._fresh.clear()
        unknown = np.isnan(self._base)
        if unknown.any():
            known = ~np.isnan(block)
            met = unknown & known.any(axis=0)
            for channel in np.flatnonzero(met):  # once for each; a median, for the first reading may be a glitch
                self._base[channel] = np.median(block[known[:, channel], channel])
        block -= self._base
        if self._end + len(block) > len(self._rows):
            self._rows[: self._ring_rows] = self._rows[self._end - self._ring_rows : self._end]
            self._end = self._ring_rows
        self._rows[self._end : self._end + len(block)] = block
        self._end += len(block)

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on as if never stopped."""
        return {
            "channels": list(self.channels),
            "period_s": self.period_s,
            "last_at": float(self.last_at),
            "total_rows": self.total_rows,
            "unbroken": self.unbroken,
            "spacing": self.spacing.value,
            "judged": [[sample.at, sample.values] for sample in self._judged],
            "rows": self._rows[max(0, self._end - self._ring_rows) : self._end].copy(),
            "base": self._base.copy(),
            "fresh": [list(row) for row in self._fresh],
            "turns": self.turns,
            "gaps": self._gaps,
            "ignored_channels": self.ignored_channels,
            "last": list(self._last),
            "missed": list(self._missed),
            "last_missing": list(self._last_missing),
            "late_at": list(self._late_at),
            "measured": [[sample.at, sample.values] for sample in self._measured],
            "counters": self._counters.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.channels = list(state["channels"])
        self.period_s = self.settings.period_s if self.settings.period_s is not None else state["period_s"]
        self.last_at = state["last_at"]
        self.total_rows = state["total_rows"]
        self.unbroken = state["unbroken"]
        self.spacing = Spacing(state["spacing"])
        self._judged = [Sample(at, dict(values)) for at, values in state["judged"]]
        self._base = state["base"].copy()
        self._fresh = [list(row) for row in state["fresh"]]
        self.turns, self._gaps, self.ignored_channels = state["turns"], state["gaps"], state["ignored_channels"]
        rows = state["rows"][-self._ring_rows :]
        self._rows = np.full((self._ring_rows + _SLACK_ROWS, len(self.channels)), np.nan, np.float32)
        self._rows[: len(rows)] = rows
        self._end = len(rows)
        self._last = list(state["last"])
        self._missed = list(state["missed"])
        self._last_missing = list(state["last_missing"])
        self._late_at = list(state["late_at"])
        self._measured = [Sample(at, dict(values)) for at, values in state["measured"]]
        self._counters.restore(state["counters"])
