"""What a replay's report remembers of any stream, in bounded memory: scores, alerts, the alarms of other budgets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
import numpy as np

from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertSettings, AlertState
from agent.core.budget import BudgetControl
from agent.core.calibration import beyond_support
from agent.core.types import F64, Budget, Mode
from agent.pipeline import judge
from agent.settings_builder import parse_budget
from agent.stream import quiet_hours

if TYPE_CHECKING:
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
MAX_ALERTS: Final = 12  # of one stream, the strongest
_STRETCHES: Final = 500  # of an envelope
_BLOCK: Final = 256


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


class Trial:
    """The alarms that another budget would have given: the same control and alert states, run over the same scores.

    Scores do not depend on the budget, so this is what a replay with it would have raised.
    """

    def __init__(
        self, budget: Budget, alert: AlertSettings, interval_s: float, mode: Mode = Mode.ADAPT, haste: float = 0.0
    ) -> None:
        self.control = BudgetControl(msgspec.structs.replace(alert, false_alarms=budget), mode, haste)
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


class ToldAlert(msgspec.Struct):
    """An alert of the report: its message when it was raised, and what is known since."""

    message: dict[str, Any]
    at: float
    ended_at: float | None = None

    @property
    def strength(self) -> float:
        """Return what alerts are chosen by when there are many."""
        score = self.message["score"]
        return -1.0 if score is None else float(score)


Told = TypeVar("Told", bound=ToldAlert)


class History(ABC, Generic[Told]):
    """What is remembered of one stream. Where it is not `kept`, alerts and alarms are counted, and no more."""

    def __init__(self, stream: Stream, *, kept: bool) -> None:
        self.stream = stream
        self.kept = kept
        self.course = Envelope()  # score, threshold, whether the alert fires
        self.alerts: list[Told] = []
        self.raised = 0  # anomalies
        self.others = 0  # alerts of other kinds
        self.decisions = 0
        self.highest = (0.0, nan)  # score, at
        self.begun_at = nan
        self.last_at = nan
        self.ends = (0.0, 1.0)  # the earliest and the latest time
        self.decided_at = nan
        self.trials: list[Trial] = []

    @property
    @abstractmethod
    def interval_s(self) -> float:
        """Return the time between decisions."""

    @abstractmethod
    def note(self, message: dict[str, Any]) -> Told:
        """Return an alert that was raised, with all that the page shows of it and that is at hand by now."""

    def settle(self, now: float) -> None:
        """Take it that nothing more comes before `now`."""

    def heard(self, at: float) -> None:
        """Note the time of something that came."""
        if not isfinite(self.begun_at):
            self.begun_at, self.ends = at, (at, at)
        self.last_at = at
        self.ends = (min(self.ends[0], at), max(self.ends[1], at))

    def judged(self, at: float, score: float, threshold: float, *, turned: bool) -> None:
        """Take a decision; `turned`: the clock of the data was set back before it."""
        settings = self.stream.settings
        if not self.decisions:
            self.decided_at = at
            haste = self.stream.budget.haste
            self.trials = [
                Trial(parse_budget(text), settings.alert, self.interval_s, settings.mode, haste) for text in BUDGETS
            ]
        self.decisions += 1
        for trial in self.trials:
            trial.decide(at, score, turned=turned)
        if self.decisions == 1 or score > self.highest[0]:
            self.highest = (score, at)
        if self.kept:
            firing = self.stream.alerts[AlertKind.ANOMALY].state is AlertState.FIRING
            self.course.add(at, [score, threshold, float(firing)])

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
            self.others += 1
        self.alerts.append(self.note(message))
        if len(self.alerts) > MAX_ALERTS:
            self.alerts.remove(min(self.alerts, key=lambda one: one.strength))

    def budgets(self) -> list[BudgetRow]:
        """Return a row for each budget, the most generous first; the configured one's alarms are those raised."""
        if not self.decisions:
            return []
        configured = self.stream.budget.budget
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


def seconds(text: str) -> float:
    """Return seconds since the epoch of a time in a message."""
    return datetime.fromisoformat(text).timestamp()
