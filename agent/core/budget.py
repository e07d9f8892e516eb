"""The operator's false-alarm budget as a threshold that is steered by what actually happens.

Two loops. A ladder of rungs learns which score stands for which rate on this very stream, from events that are much
more common than alerts: quantile tracking on events (Angelopoulos, Candes and Tibshirani 2023, "Conformal PID
control", the P part), each rung above the one below it. An offset on top of it does the same with the alerts
themselves: whatever the ladder says, the long-run rate of alerts tends to the budget, while it is within its bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf, log10
from typing import Any, Final

import msgspec

from agent.core.alerting import AlertSettings
from agent.core.types import Budget, Mode

STEP: Final = 0.3  # of the offset: a factor of two in p-value
HASTE: Final = 3.0  # of streams of pictures, which are short: their first steps are so many times longer
LOWEST: Final = 2.0
HIGHEST: Final = 3.0
FIRST_RATE: Final = 0.03  # of the lowest rung, in events per decision
RUNG: Final = 10.0  # each rung is so many times rarer than the one below it
RUNG_STEP: Final = 0.05
FIRST_STEP: Final = 0.5  # of all rungs that have seen nothing yet together; falls with what they promised so far
_LEAST_GAP: Final = 0.05  # between two rungs
_NEARLY: Final = 1.5  # a rung within so many times the budget's own rate is left out
FROZEN_SHARE: Final = 1.0  # in powers of ten
HYSTERESIS: Final = 1.5  # an alert that fires goes on until the score is this far below the threshold
MAX_ALERTS: Final = 64  # of the past, that can still be confirmed as true
LEAST_SHARE: Final = 0.5  # of the rate's own logarithm, and of the threshold: a very quiet stream stays above the one


def share(budget: Budget, streams: int) -> Budget:
    """Return what each of so many streams gets of a budget for all of them."""
    return msgspec.structs.replace(budget, count=budget.count / streams, text=f"{budget.text} for all streams")


class Rung:
    """Finds the score at which events come at one rate: an event begins and ends as an alert does.

    `gap` is how far this score lies above that of the rung below, `lift` what the event that goes on has added to it.
    """

    def __init__(self, place: int) -> None:
        self.rate = FIRST_RATE / RUNG**place
        self.gap = log10(RUNG) if place else -log10(FIRST_RATE)
        self.lift = 0.0
        self._firing = False
        self._in_row = 0
        self._ended_at = -inf

    def learn(self, at: float, score: float, level: float, step: float, alert: AlertSettings) -> None:
        """Take a decision's score. `level` is the score that this rung stands for, `step` what an event adds to it."""
        begun = False
        odd = score >= lowered(level, firing=self._firing)
        if not self._firing and 0.0 <= at - self._ended_at < alert.cooldown_s:
            odd = False
        if odd == self._firing:
            self._in_row = 0
        else:
            self._in_row += 1
            if self._in_row >= (alert.clear_after if self._firing else alert.after):
                self._firing, self._in_row = not self._firing, 0
                begun = self._firing
                if not begun:
                    self._ended_at = at
        quiet = max(_LEAST_GAP, self.gap - step * self.rate)
        self.gap = max(_LEAST_GAP, self.gap + step * (float(begun) - self.rate))
        if begun or not self._firing:
            self.lift = self.gap - quiet

    def take_back(self, lift: float) -> None:
        """Lower the gap by what an event added to it, for it was a true one."""
        self.gap = max(_LEAST_GAP, self.gap - lift)

    def snapshot(self) -> list[float]:
        """Return what was learnt."""
        return [self.gap, self.lift, float(self._firing), self._in_row, self._ended_at]

    def restore(self, state: list[float]) -> None:
        """Take it up again."""
        self.gap, self.lift, firing, in_row, self._ended_at = state
        self._firing, self._in_row = bool(firing), int(in_row)


def lowered(level: float, *, firing: bool) -> float:
    """Return the score that is odd where `level` is the threshold: less while an alert fires."""
    return level - (min(HYSTERESIS, LEAST_SHARE * level) if firing else 0.0)


class BudgetControl:
    """Steers the score threshold (-log10 of a p-value) of one stream.

    `haste`: by how many times its length the offset's step is longer at first; half of that once an alert is promised.
    """

    def __init__(self, alert: AlertSettings, mode: Mode = Mode.ADAPT, haste: float = 0.0) -> None:
        self.budget = alert.budget_for(mode)
        self._alert = alert
        self._lowers = mode is not Mode.HOLD  # a plant's limit is one that its people know: it only ever rises
        self.haste = haste if self._lowers else 0.0
        self.rate = 1.0
        self.offset = 0.0
        self.decisions = 0
        self.promised = 0.0  # alerts, for the decisions so far
        self._interval_s: float | None = None
        self.events = 0
        self._rungs: list[Rung] = []
        self._learnt = 0  # decisions that the ladder has seen
        self._used = 0  # rungs, the first ones: a budget that has become larger may leave some unused
        # By alert: what it lifted, the offset first, then each rung; None once confirmed.
        self._lifts: OrderedDict[str, list[float] | None] = OrderedDict()

    def configure(self, decision_interval_s: float) -> None:
        """Fix the promised rate, in alerts per decision, once the decision interval is known."""
        self._interval_s = decision_interval_s
        self.rate = self.budget.rate_per_decision(decision_interval_s)
        self._used = 0
        while self._lowers and FIRST_RATE / RUNG**self._used > _NEARLY * self.rate:
            self._used += 1
        self._rungs += [Rung(place) for place in range(len(self._rungs), self._used)]

    def change(self, budget: Budget) -> None:
        """Promise something else from now on: the threshold moves with the rate, and what was learnt is kept."""
        self.budget = budget
        if self._interval_s is not None:
            self.configure(self._interval_s)

    @property
    def threshold(self) -> float:
        """Return the score from which a decision counts as odd."""
        honest = -log10(self.rate)
        rungs = self._rungs[: self._used]
        rarest = rungs[-1].rate if rungs else 1.0
        wanted = sum(rung.gap for rung in rungs) + log10(rarest / self.rate) + self.offset
        return min(max(wanted, LEAST_SHARE * honest), honest + HIGHEST)

    @property
    def frozen_threshold(self) -> float:
        """Return the frozen score from which values count as frozen: a tenth of the budget is theirs."""
        return -log10(self.rate) + FROZEN_SHARE

    def odd(self, score: float, *, firing: bool) -> bool:
        """Tell whether a score is rare enough to begin an alert, or, with hysteresis, to keep one firing."""
        return score >= lowered(self.threshold, firing=firing)

    def decide(self, at: float, score: float, *, raised: bool, alert: str = "") -> None:
        """Account for one decision; `raised` when an alert began with it: its id is `alert`."""
        self.decisions += 1
        self.promised += self.rate
        self.events += raised
        self.learn(at, score)
        step = STEP * (1.0 + self.haste / (1.0 + self.promised))
        before, self.offset = self.offset, self._bounded(self.offset - step * self.rate)
        if raised:
            quiet, self.offset = self.offset, self._bounded(before + step * (1.0 - self.rate))
            self._lifts[alert] = [self.offset - quiet, *(rung.lift for rung in self._rungs[: self._used])]
            while len(self._lifts) > MAX_ALERTS:
                self._lifts.popitem(last=False)

    def learn(self, at: float, score: float) -> None:
        """Let the ladder learn from a score. By itself where what comes is known to be normal, and nothing counts."""
        self._learnt += 1
        level = fresh_below = 0.0
        for rung in self._rungs[: self._used]:
            level += rung.gap
            fresh = FIRST_STEP / (1.0 + self._learnt * rung.rate)
            rung.learn(at, score, level, max(RUNG_STEP, fresh - fresh_below), self._alert)
            fresh_below = fresh

    def _bounded(self, offset: float) -> float:
        return min(max(offset, -LOWEST if self._lowers else 0.0), HIGHEST)

    @property
    def ratio(self) -> float:
        """Return alerts so far, less those confirmed, over alerts promised so far; 0 before the first decision."""
        return self.events / self.promised if self.decisions else 0.0

    def snapshot(self) -> dict[str, Any]:
        """Return what was learnt and counted."""
        lifts = [[alert, lift] for alert, lift in self._lifts.items()]
        return {
            "offset": self.offset,
            "decisions": self.decisions,
            "promised": self.promised,
            "events": self.events,
            "lifts": lifts,
            "learnt": self._learnt,
            "rungs": [rung.snapshot() for rung in self._rungs],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self.offset, self.decisions, self.events = state["offset"], state["decisions"], state["events"]
        self.promised = state["promised"]
        self._lifts = OrderedDict((alert, lift) for alert, lift in state["lifts"])
        self._learnt = state["learnt"]
        self._rungs += [Rung(place) for place in range(len(self._rungs), len(state["rungs"]))]
        for rung, learnt in zip(self._rungs, state["rungs"], strict=False):
            rung.restore(learnt)

    def echo(self, old: BudgetControl) -> None:
        """Begin where another one is, whose alert settings are the same: with its ladder, and all that it counted."""
        self.restore(old.snapshot())
        self.change(old.budget)

    def succeed(self, old: BudgetControl) -> None:
        """Go on in the place of another one. What that counted and promises holds on; the ladder is this one's own."""
        ladder = self.snapshot()
        self.change(old.budget)
        self.restore({**old.snapshot(), "rungs": ladder["rungs"], "learnt": ladder["learnt"]})

    def knows(self, alert: str) -> bool:
        """Tell whether an alert is one of the last that were raised."""
        return alert in self._lifts

    def confirm(self, alert: str) -> bool:
        """Take back what a true alarm counted and how far it lifted the threshold; tell whether that was to be done.

        `alert` must be known.
        """
        lifts = self._lifts[alert]
        if lifts is None:
            return False
        self.events -= 1
        self.offset = self._bounded(self.offset - lifts[0])
        for rung, lift in zip(self._rungs, lifts[1:], strict=False):
            rung.take_back(lift)
        self._lifts[alert] = None
        return True
