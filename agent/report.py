"""What a replay's report is made of, gathered while it runs, in bounded memory. agent/report_page.py draws it.

Values and scores are thinned to least and largest ones, alerts kept with what surrounded them, other budgets' alarms
counted as the decisions are made.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.core.alerting import AlertKind
from agent.core.types import F64
from agent.core.windowing import Arrival
from agent.picture_stream import PictureStream
from agent.report_parts import Envelope, History, ToldAlert, seconds
from agent.report_pictures import PictureHistory
from agent.stream import SensorStream

if TYPE_CHECKING:
    from agent.core.detector import Due
    from agent.core.types import Assessment, Frame, Sample
    from agent.picture_sight import Looked
    from agent.stream import Stream

MAX_STREAMS: Final = 32  # whose values are kept; of the others alerts and alarms are counted
MAX_CHANNELS: Final = 3  # in the picture of an alert
_RECENT_ROWS: Final = 4096  # readings that pictures of alerts and of their nearest references are cut from
_RECENT_VALUES: Final = 1 << 18  # the same, of wide streams
_BEFORE: Final = 3.0  # windows shown before an alert's own, and after it
_AFTER: Final = 2.0
_EXPECTED_EVERY: Final = 64  # rows
_BLOCK: Final = 256
_LEAST_SHARE: Final = 0.1  # a channel with less is not in the picture of an alert
_WINDOW_ROWS: Final = 32.0  # shown of a stream that fell silent


class Recent:
    """The last readings of a stream with their times."""

    def __init__(self) -> None:
        self._times: F64 = np.full(0, np.nan)
        self._rows: F64 = np.zeros((0, 0))
        self._count = 0

    def add(self, at: float, row: list[float]) -> None:
        """Take one reading."""
        if len(row) != self._rows.shape[1]:
            self._widen(len(row))
        place = self._count % len(self._times)
        self._times[place] = at
        self._rows[place] = row
        self._count += 1

    def _widen(self, columns: int) -> None:
        times, rows = self.read()
        size = max(_BLOCK, min(_RECENT_ROWS, _RECENT_VALUES // max(1, columns)))
        kept = min(size, len(times))
        self._times, self._rows = np.full(size, np.nan), np.full((size, columns), np.nan)
        self._times[:kept] = times[len(times) - kept :]
        self._rows[:kept, : rows.shape[1]] = rows[len(rows) - kept :]
        self._count = kept

    def read(self) -> tuple[F64, F64]:
        """Return times, float64 [readings], and values, float64 [readings, channels], oldest first."""
        size = len(self._times)
        if self._count <= size:
            return self._times[: self._count], self._rows[: self._count]
        order = np.arange(self._count, self._count + size) % size
        return self._times[order], self._rows[order]


class Picture(msgspec.Struct):
    """One channel around an alert: its readings, and its nearest references' windows, moved to its own."""

    channel: str
    times: F64
    values: F64
    nearest: list[tuple[F64, F64]]
    window: tuple[float, float]
    expected: tuple[float | None, float | None]


class SensorAlert(ToldAlert):
    """An alert of a stream of readings. `pictures` is None until the readings after it have come."""

    pictures: list[Picture] | None = None


class SensorHistory(History[SensorAlert]):
    """What is remembered of one stream of readings."""

    stream: SensorStream

    def __init__(self, stream: SensorStream, *, kept: bool) -> None:
        super().__init__(stream, kept=kept)
        self.values, self.expected = Envelope(), Envelope()
        self.recent = Recent()
        self._turns = stream.turns
        self._range: list[float] = []
        self._range_row = -_EXPECTED_EVERY
        self._settles_at = float("inf")

    @property
    def interval_s(self) -> float:
        """Return the time between decisions."""
        return self.stream.detector.stride * (self.stream.detector.grid.period_s or 1.0)

    def sampled(self, sample: Sample) -> None:
        """Take a reading."""
        self.heard(sample.at)
        if not self.kept:
            return
        grid = self.stream.detector.grid
        values = sample.values
        if grid.settings.counters:
            values = {**values, **{name: grid.newest.get(name, nan) for name in grid.settings.counters}}
        row = [values.get(name, nan) for name in grid.channels]
        self.values.add(sample.at, row)
        self.recent.add(sample.at, row)
        if sample.at >= self._settles_at:
            self.settle(sample.at)

    def decided(self, due: Due, found: Assessment, threshold: float) -> None:
        """Take a decision."""
        turned, self._turns = due.turns != self._turns, due.turns
        self.judged(found.at, found.score, threshold, turned=turned)
        if not self.kept:
            return
        if not 0 <= due.row - self._range_row < _EXPECTED_EVERY:
            self._range_row = due.row
            _, low, high = self.stream.detector.expected(due)
            self._range = [*low.tolist(), *high.tolist()]
        self.expected.add(found.at, self._range)

    def note(self, message: dict[str, Any]) -> SensorAlert:
        """Return an alert whose pictures come later."""
        return SensorAlert(message, seconds(message["at"]))

    def told(self, message: dict[str, Any]) -> None:
        """Take an alert's message."""
        super().told(message)
        self._wait()

    def _wait(self) -> None:
        """Find out when the next picture of an alert will be complete."""
        waiting = [_shown(one, self.interval_s)[1] for one in self.alerts if one.pictures is None]
        self._settles_at = min(waiting, default=float("inf"))

    def settle(self, now: float) -> None:
        """Cut the pictures of the alerts that are complete at `now`."""
        if not self.kept:
            return
        times, rows = self.recent.read()
        for one in self.alerts:
            if one.pictures is None and _shown(one, self.interval_s)[1] <= now:
                one.pictures = self._pictures(one, times, rows)
        self._wait()

    def _pictures(self, told: SensorAlert, times: F64, rows: F64) -> list[Picture]:
        """Cut what was before, in and after an alert's window, and the windows of its nearest references."""
        channels = self.stream.detector.grid.channels
        evidence = told.message["evidence"]
        begin, end = _shown(told, self.interval_s)
        window = (seconds(evidence["span"]["from"]), told.at)
        here = (times > begin) & (times <= end)
        parts = [p for p in evidence["parts"] if p["share"] >= _LEAST_SHARE] or evidence["parts"][:1]
        if not parts:  # silence
            parts = [{"name": name, "expected": (None, None)} for name in channels[: rows.shape[1]]]
        made: list[Picture] = []
        for part in parts[:MAX_CHANNELS]:
            series = rows[:, channels.index(part["name"])]
            nearest = [_moved(times, series, window, seconds(one["at"])) for one in evidence["nearest"] if not made]
            found = [one for one in nearest if one is not None]  # they are the leading channel's
            made.append(Picture(part["name"], times[here], series[here], found, window, tuple(part["expected"])))
        return made


class Report:
    """Looks on while a replay runs; fulfils agent.pipeline.Tap."""

    def __init__(self) -> None:
        self.histories: dict[str, SensorHistory | PictureHistory] = {}

    def _of(self, stream: Stream) -> SensorHistory | PictureHistory:
        history = self.histories.get(stream.name)
        if history is None:
            kept = len(self.histories) < MAX_STREAMS
            if isinstance(stream, PictureStream):
                history = PictureHistory(stream, kept=kept)
            else:
                assert isinstance(stream, SensorStream)
                history = SensorHistory(stream, kept=kept)
            self.histories[stream.name] = history
        return history

    def sampled(self, stream: SensorStream, sample: Sample, arrival: Arrival) -> None:
        """Take a reading that the grid took."""
        if arrival in {Arrival.ACCEPTED, Arrival.MEASURING}:
            history = self._of(stream)
            assert isinstance(history, SensorHistory)
            history.sampled(sample)

    def decided(self, stream: SensorStream, due: Due, found: Assessment, threshold: float) -> None:
        """Take a decision."""
        history = self._of(stream)
        assert isinstance(history, SensorHistory)
        history.decided(due, found, threshold)

    def pictured(self, stream: PictureStream, frames: list[Frame], found: Looked | None, threshold: float) -> None:
        """Take a picture."""
        history = self._of(stream)
        assert isinstance(history, PictureHistory)
        history.pictured(frames, found, threshold)

    def told(self, stream: Stream, message: dict[str, Any]) -> None:
        """Take an alert's message."""
        self._of(stream).told(message)

    def finish(self) -> None:
        """Take it that nothing more comes."""
        for history in self.histories.values():
            history.settle(float("inf"))


def _shown(told: ToldAlert, interval_s: float) -> tuple[float, float]:
    """Return from when to when an alert's picture goes."""
    span = told.message["evidence"]["span"]
    begin = seconds(span["from"])
    if told.message["kind"] == AlertKind.SILENT:
        window_s = _WINDOW_ROWS * interval_s
        return begin - _BEFORE * window_s, told.at + _AFTER * window_s
    window_s = told.at - begin
    return begin - _BEFORE * window_s, told.at + _AFTER * window_s


def _moved(times: F64, series: F64, window: tuple[float, float], at: float) -> tuple[F64, F64] | None:
    """Return the readings of a reference, as if they were those of the window; None if they are no longer kept.

    References keep whole seconds: of the windows that end within that second, the most similar one is meant.
    """
    own = np.flatnonzero((times > window[0]) & (times <= window[1]))
    ends = np.flatnonzero((times >= at) & (times < at + 1.0))
    ends = ends[ends >= len(own) - 1]
    if len(own) == 0 or len(ends) == 0:
        return None
    candidates = ends[:, None] - np.arange(len(own) - 1, -1, -1)
    apart = np.nan_to_num(np.square(series[candidates] - series[own])).sum(axis=1)
    return times[own], series[candidates[int(apart.argmin())]]
