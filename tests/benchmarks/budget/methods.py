"""Ways to keep a false-alarm budget, all with the face of agent.core.budget.BudgetControl."""

from __future__ import annotations

from collections.abc import Callable
from math import log10
from typing import Protocol

from agent.core.budget import HYSTERESIS, LEAST_SHARE, BudgetControl
from agent.core.types import Budget

SAMPLE_STEP = 1e-3  # of Gibbs and Candes' method, counting odd decisions
EVENT_STEP = 10.0  # times the rate, counting alerts


class Control(Protocol):
    """What decides on alerts needs of a budget's control."""

    rate: float

    def configure(self, decision_interval_s: float) -> None:
        """Fix the promised rate."""

    def odd(self, score: float, *, firing: bool) -> bool:
        """Tell whether a decision is odd."""

    def decide(self, *, raised: bool, alert: str = "") -> None:
        """Account for it."""


class Held(BudgetControl):
    """The promised rate's own threshold: nothing is steered."""

    def decide(self, *, raised: bool, alert: str = "") -> None:
        """Account for one decision, and forget what the offset would have become."""
        super().decide(raised=raised, alert=alert)
        self.offset = 0.0


class AdaptiveConformal:
    """Gibbs and Candes (2021): a += step x (rate - error); odd where p <= a. Errors are odd decisions, or alerts."""

    def __init__(self, budget: Budget, *, events: bool) -> None:
        self.budget = budget
        self.rate = self.level = 1.0
        self._events = events
        self._odd = False

    def configure(self, decision_interval_s: float) -> None:
        """Fix the promised rate, at which the level begins."""
        self.rate = self.level = self.budget.rate_per_decision(decision_interval_s)
        self._step = EVENT_STEP * self.rate if self._events else SAMPLE_STEP

    def odd(self, score: float, *, firing: bool) -> bool:
        """Tell whether p is within the level; an alert that fires ends as late as in the agent."""
        self._odd = False
        if self.level <= 0.0:
            return False
        threshold = -log10(min(self.level, 1.0))
        self._odd = score >= threshold
        return score >= threshold - (min(HYSTERESIS, LEAST_SHARE * threshold) if firing else 0.0)

    def decide(self, *, raised: bool, alert: str = "") -> None:
        """Move the level."""
        del alert
        error = raised if self._events else self._odd
        self.level += self._step * (self.rate - float(error))


METHODS: dict[str, Callable[[Budget], Control]] = {
    "plain threshold": Held,
    "quantile tracking (ships)": BudgetControl,
    "adaptive conformal, samples": lambda budget: AdaptiveConformal(budget, events=False),
    "adaptive conformal, events": lambda budget: AdaptiveConformal(budget, events=True),
}
COUNT_SAMPLES = frozenset({"adaptive conformal, samples"})
