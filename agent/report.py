"""What a replay's report is made of, gathered while it runs, in bounded memory. agent/report_page.py draws it.

Values and scores are thinned to least and largest ones, alerts kept with what surrounded them, other budgets' alarms
counted as the decisions are made.
"""

from __future__ import annotations

from datetime import datetime
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertSettings, AlertState
from agent.core.budget import BudgetControl
from agent.core.calibration import beyond_support
from agent.core.types import F64, Budget, Mode
from agent.core.windowing import Arrival
from agent.pipeline import judge
from agent.settings_builder import parse_budget
from agent.stream import SensorStream, quiet_hours

if TYPE_CHECKING:
    from agent.core.detector import Due
    from agent.core.types import Assessment, Sample
    from agent.stream import Stream

BUDGETS: Final = (
    "1 per hour",
    "1 per day",
    "1 per week",
    "1 per month",
    "1 per 1000 decisions",
    "1 per 10000 decisions",
)
AT_MOST: Final = (1, 3, 10, 30)  # alarms for which a budget is suggested
WEEK_S: Final = 604800.0
MAX_STREAMS: Final = 32  # whose values are kept; of the others alerts and alarms are counted
MAX_ALERTS: Final = 12  # of one stream, the strongest
MAX_CHANNELS: Final = 3  # in the picture of an alert
_STRETCHES: Final = 500  # of an envelope
_RECENT_ROWS: Final = 4096  # readings that pictures of alerts and of their nearest references are cut from
_RECENT_VALUES: Final = 1 << 18  # the same, of wide streams
_BEFORE: Final = 3.0  # windows shown before an alert's own, and after it
_AFTER: Final = 2.0
_EXPECTED_EVERY: Final = 64  # rows
_BLOCK: Final = 256
_LEAST_SHARE: Final = 0.1  # a channel with less is not in the picture of an alert
_WINDOW_ROWS: Final = 32.0  # shown of a stream that fell silent


class Envelope:
    """Least and largest values of consecutive stretches of rows, never more than `most` (even) of them.

    When there would be more, two become one. Rows may become wider, not narrower.
    """

    def __init__(self, most: int = _STRETCHES) -> None:
        self._most = most
        self._width = 1  # rows in a stretch
        self._filled = 0  # rows in the last one, 0 when it is complete
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._low: list[F64] = []
        self._high: list[F64] = []
        self._times: list[float] = []
        self._rows: list[list[float]] = []

    def add(self, at: float, row: list[float]) -> None:
        """Take one row."""
        if self._rows and len(row) != len(self._rows[-1]):
            self._settle()
        self._times.append(at)
        self._rows.append(row)
        if len(self._rows) >= _BLOCK:
            self._settle()

    def read(self) -> tuple[F64, F64, F64, F64]:
        """Return starts and ends, float64 [stretches], least and largest values, float64 [stretches, columns]."""
        self._settle()
        columns = len(self._low[-1]) if self._low else 0
        low, high = np.full((2, len(self._low), columns), np.nan)
        for place, (least, most) in enumerate(zip(self._low, self._high, strict=True)):
            low[place, : len(least)], high[place, : len(most)] = least, most
        return np.array(self._starts), np.array(self._ends), low, high

    def _settle(self) -> None:
        """Move the rows that wait into stretches."""
        if not self._rows:
            return
        block, times = np.array(self._rows), self._times
        self._rows, self._times = [], []
        place = 0
        while place < len(block):
            taken = min(self._width - self._filled, len(block) - place)
            part = block[place : place + taken]
            low, high = np.fmin.reduce(part), np.fmax.reduce(part)
            if self._filled == 0:
                self._starts.append(times[place])
                self._ends.append(times[place])
                self._low.append(low)
                self._high.append(high)
            else:
                self._low[-1], self._high[-1] = _least(self._low[-1], low), _largest(self._high[-1], high)
            place += taken
            self._ends[-1] = times[place - 1]
            self._filled = (self._filled + taken) % self._width
            if len(self._starts) == self._most and self._filled == 0:
                self._halve()

    def _halve(self) -> None:
        self._starts, self._ends = self._starts[::2], self._ends[1::2]
        self._low = [_least(*pair) for pair in zip(self._low[::2], self._low[1::2], strict=True)]
        self._high = [_largest(*pair) for pair in zip(self._high[::2], self._high[1::2], strict=True)]
        self._width *= 2


def _least(before: F64, after: F64) -> F64:
    low = after.copy()
    low[: len(before)] = np.fmin(before, after[: len(before)])
    return low


def _largest(before: F64, after: F64) -> F64:
    return -_least(-before, -after)


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


class Trial:
    """The alarms that another budget would have given: the same control and alert states, run over the same scores.

    Scores do not depend on the budget, so this is what a replay with it would have raised.
    """

    def __init__(self, budget: Budget, alert: AlertSettings, interval_s: float, mode: Mode = Mode.ADAPT) -> None:
        self.control = BudgetControl(msgspec.structs.replace(alert, false_alarms=budget), mode)
        self.control.configure(interval_s)
        self._machine = AlertMachine(alert, agent="", stream="", kind=AlertKind.ANOMALY, quiet=quiet_hours(alert))

    def decide(self, at: float, score: float, *, turned: bool) -> None:
        """Take one decision, as the pipeline does; `turned`: the clock of the data was set back before it."""
        control, machine = self.control, self._machine
        if turned:
            machine.rewind(at)
        judge(control, machine, at, score)


class BudgetRow(msgspec.Struct, frozen=True):
    """One budget: what it promises, and what it would have given. `supported`: scores tell events that rare apart."""

    text: str
    configured: bool
    alarms: int
    promised: float
    alarms_per_week: float
    promised_per_week: float
    supported: bool


class Picture(msgspec.Struct):
    """One channel around an alert: its readings, and its nearest references' windows, moved to its own."""

    channel: str
    times: F64
    values: F64
    nearest: list[tuple[F64, F64]]
    window: tuple[float, float]
    expected: tuple[float | None, float | None]


class ToldAlert(msgspec.Struct):
    """An alert of the report: its message when it was raised, and what is known since."""

    message: dict[str, Any]
    at: float
    ended_at: float | None = None
    pictures: list[Picture] | None = None  # None until the readings after it have come

    @property
    def strength(self) -> float:
        """Return what alerts are chosen by when there are many."""
        score = self.message["score"]
        return -1.0 if score is None else float(score)


class History:
    """What is remembered of one stream."""

    def __init__(self, stream: SensorStream, *, kept: bool) -> None:
        self.stream = stream
        self.kept = kept
        self.values, self.course, self.expected = Envelope(), Envelope(), Envelope()
        self.recent = Recent()
        self.alerts: list[ToldAlert] = []
        self.raised = 0  # anomalies
        self.silences = 0
        self.decisions = 0
        self.highest = (0.0, nan)  # score, at
        self.begun_at = nan
        self.decided_at = nan
        self.last_at = nan
        self.trials: list[Trial] = []
        self._turns = stream.turns
        self._range: list[float] = []
        self._range_row = -_EXPECTED_EVERY
        self._settles_at = float("inf")

    @property
    def interval_s(self) -> float:
        """Return the time between decisions."""
        return self.stream.settings.stride * (self.stream.detector.grid.period_s or 1.0)

    def sampled(self, sample: Sample) -> None:
        """Take a reading."""
        if not isfinite(self.begun_at):
            self.begun_at = sample.at
        self.last_at = sample.at
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
        settings = self.stream.settings.alert
        if not self.decisions:
            self.decided_at = found.at
            self.trials = [
                Trial(parse_budget(text), settings, self.interval_s, self.stream.settings.mode) for text in BUDGETS
            ]
        self.decisions += 1
        turned, self._turns = due.turns != self._turns, due.turns
        for trial in self.trials:
            trial.decide(found.at, found.score, turned=turned)
        if self.decisions == 1 or found.score > self.highest[0]:
            self.highest = (found.score, found.at)
        if not self.kept:
            return
        firing = self.stream.alerts[AlertKind.ANOMALY].state is AlertState.FIRING
        self.course.add(found.at, [found.score, threshold, float(firing)])
        if not 0 <= due.row - self._range_row < _EXPECTED_EVERY:
            self._range_row = due.row
            _, low, high = self.stream.detector.expected(due)
            self._range = [*low.tolist(), *high.tolist()]
        self.expected.add(found.at, self._range)

    def told(self, message: dict[str, Any]) -> None:
        """Take an alert's message."""
        if message["event"] == AlertEvent.CLEARED:
            for one in self.alerts:
                if one.message["id"] == message["id"]:
                    one.ended_at = seconds(message["ended_at"])
        if message["event"] != AlertEvent.RAISED:
            return
        if message["kind"] == AlertKind.ANOMALY:
            self.raised += 1
        else:
            self.silences += 1
        self.alerts.append(ToldAlert(message, seconds(message["at"])))
        if len(self.alerts) > MAX_ALERTS:
            self.alerts.remove(min(self.alerts, key=lambda one: one.strength))
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

    def _pictures(self, told: ToldAlert, times: F64, rows: F64) -> list[Picture]:
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

    def budgets(self) -> list[BudgetRow]:
        """Return a row for each budget, the most generous first; the configured one's alarms are those raised."""
        if not self.decisions:
            return []
        configured = self.stream.detector.budget.budget
        found = [(trial.control.budget, trial.control.rate, trial.control.events) for trial in self.trials]
        found = [one for one in found if one[0].text != configured.text]
        found.append((configured, configured.rate_per_decision(self.interval_s), self.raised))
        weeks = self.watched_s / WEEK_S
        rows = [
            BudgetRow(
                text=budget.text,
                configured=budget is configured,
                alarms=alarms,
                promised=rate * self.decisions,
                alarms_per_week=alarms / weeks,
                promised_per_week=rate * self.decisions / weeks,
                supported=not beyond_support(rate),
            )
            for budget, rate, alarms in found
        ]
        return sorted(rows, key=lambda row: -row.promised)

    @property
    def watched_s(self) -> float:
        """Return the time that decisions were made of: without the learning and without gaps."""
        return self.decisions * self.interval_s


def suggestions(rows: list[BudgetRow]) -> list[tuple[int, BudgetRow | None]]:
    """Return for each number of alarms the most generous budget that gave no more; None if all of them gave more.

    `rows` are in the order of History.budgets. Ends with the number that all budgets keep to.
    """
    found: list[tuple[int, BudgetRow | None]] = []
    for most in AT_MOST if rows else ():
        found.append((most, next((row for row in rows if row.alarms <= most), None)))
        if all(row.alarms <= most for row in rows):
            break
    return found


class Report:
    """Looks on while a replay runs; fulfils agent.pipeline.Tap."""

    def __init__(self) -> None:
        self.histories: dict[str, History] = {}

    def _of(self, stream: SensorStream) -> History:
        history = self.histories.get(stream.name)
        if history is None:
            history = self.histories[stream.name] = History(stream, kept=len(self.histories) < MAX_STREAMS)
        return history

    def sampled(self, stream: SensorStream, sample: Sample, arrival: Arrival) -> None:
        """Take a reading that the grid took."""
        if arrival in {Arrival.ACCEPTED, Arrival.MEASURING}:
            self._of(stream).sampled(sample)

    def decided(self, stream: SensorStream, due: Due, found: Assessment, threshold: float) -> None:
        """Take a decision."""
        self._of(stream).decided(due, found, threshold)

    def told(self, stream: Stream, message: dict[str, Any]) -> None:
        """Take an alert's message."""
        if isinstance(stream, SensorStream):
            self._of(stream).told(message)

    def finish(self) -> None:
        """Take it that nothing more comes."""
        for history in self.histories.values():
            history.settle(float("inf"))


def seconds(text: str) -> float:
    """Return seconds since the epoch of a time in a message."""
    return datetime.fromisoformat(text).timestamp()


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
