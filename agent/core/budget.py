"""The operator's false-alarm budget as a threshold that is steered by what actually happens.

Quantile tracking on events (Angelopoulos, Candes and Tibshirani 2023, "Conformal PID control", the P part): every
raised alert lifts the threshold by a step, every quiet budget period lowers it by the same step. The long-run rate
of alerts then tends to the budget whatever the drift, as long as the bounds are not reached.
"""

from __future__ import annotations

from collections import OrderedDict
from math import log10
from typing import Any, Final

import msgspec

from agent.core.types import Budget, Mode

STEP: Final = 0.3  # a factor of two in p-value
LOWEST: Final = 1.0  # below the rate's own logarithm: a very quiet stream does not alarm to use its budget up
HIGHEST: Final = 3.0
FROZEN_SHARE: Final = 1.0  # in powers of ten
HYSTERESIS: Final = 1.5  # an alert that fires goes on until the score is this far below the threshold
MAX_ALERTS: Final = 64  # of the past, that can still be confirmed as true
LEAST_SHARE: Final = 0.5  # of the rate's own logarithm, and of the threshold: large budgets leave room below both


def share(budget: Budget, streams: int) -> Budget:
    """Return what each of so many streams gets of a budget for all of them."""
    return msgspec.structs.replace(budget, count=budget.count / streams, text=f"{budget.text} for all streams")


class BudgetControl:
    """Steers the score threshold (-log10 of a p-value) of one stream."""

    def __init__(self, budget: Budget, mode: Mode = Mode.ADAPT) -> None:
        self.budget = budget
        self._lowers = mode is not Mode.HOLD  # a plant's limit is one that its people know: it only ever rises
        self.rate = 1.0
        self.offset = 0.0
        self.decisions = 0
        self.promised = 0.0  # alerts, for the decisions so far
        self._interval_s: float | None = None
        self.events = 0
        self._lifts: OrderedDict[str, float | None] = OrderedDict()  # by alert: what it lifted; None once confirmed

    def configure(self, decision_interval_s: float) -> None:
        """Fix the promised rate, in alerts per decision, once the decision interval is known."""
        self._interval_s = decision_interval_s
        self.rate = self.budget.rate_per_decision(decision_interval_s)

    def change(self, budget: Budget) -> None:
        """Promise something else from now on: the threshold moves with the rate, and its offset is kept."""
        self.budget = budget
        if self._interval_s is not None:
            self.configure(self._interval_s)

    @property
    def threshold(self) -> float:
        """Return the score from which a decision counts as odd."""
        return -log10(self.rate) + self.offset

    @property
    def frozen_threshold(self) -> float:
        """Return the frozen score from which values count as frozen: a tenth of the budget is theirs."""
        return -log10(self.rate) + FROZEN_SHARE

    def odd(self, score: float, *, firing: bool) -> bool:
        """Tell whether a score is rare enough to begin an alert, or, with hysteresis, to keep one firing."""
        threshold = self.threshold
        return score >= threshold - (min(HYSTERESIS, LEAST_SHARE * threshold) if firing else 0.0)

    def decide(self, *, raised: bool, alert: str = "") -> None:
        """Account for one decision; `raised` when an alert began with it: its id is `alert`."""
        self.decisions += 1
        self.promised += self.rate
        self.events += raised
        before, self.offset = self.offset, self._bounded(self.offset - STEP * self.rate)
        if raised:
            quiet, self.offset = self.offset, self._bounded(before + STEP * (1.0 - self.rate))
            self._lifts[alert] = self.offset - quiet
            while len(self._lifts) > MAX_ALERTS:
                self._lifts.popitem(last=False)

    def _bounded(self, offset: float) -> float:
        lowest = min(LOWEST, -LEAST_SHARE * log10(self.rate)) if self._lowers else 0.0
        return min(max(offset, -lowest), HIGHEST)

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
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self.offset, self.decisions, self.events = state["offset"], state["decisions"], state["events"]
        self.promised = state["promised"]
        self._lifts = OrderedDict((alert, lift) for alert, lift in state["lifts"])

    def knows(self, alert: str) -> bool:
        """Tell whether an alert is one of the last that were raised."""
        return alert in self._lifts

    def confirm(self, alert: str) -> bool:
        """Take back what a true alarm counted and how far it lifted the threshold; tell whether that was to be done.

        `alert` must be known.
        """
        lift = self._lifts[alert]
        if lift is None:
            return False
        self.events -= 1
        self.offset = self._bounded(self.offset - lift)
        self._lifts[alert] = None
        return True
