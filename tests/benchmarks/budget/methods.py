"""Ways to keep a false-alarm budget, all with the face of agent.core.budget.BudgetControl."""

from __future__ import annotations

from collections.abc import Callable
from math import log10
from typing import Protocol

from agent.core.alerting import AlertSettings
from agent.core.budget import HIGHEST, LEAST_SHARE, BudgetControl, lowered
from agent.core.types import Mode

SAMPLE_STEP = 1e-3  # of Gibbs and Candes' method, counting odd decisions
TRACKING_STEP = 0.3
EVENT_STEP = 10.0  # times the rate, counting alerts


class Control(Protocol):
    """What decides on alerts needs of a budget's control."""

    rate: float

    def configure(self, decision_interval_s: float) -> None:
        """Fix the promised rate."""

    def odd(self, score: float, *, firing: bool) -> bool:
        """Tell whether a decision is odd."""

    def decide(self, at: float, score: float, *, raised: bool, alert: str = "") -> None:
        """Account for it."""


class Held(BudgetControl):
    """The promised rate's own threshold: nothing is steered."""

    @property
    def threshold(self) -> float:
        """Return the score that stands for the promised rate."""
        return -log10(self.rate)


class Tracking:
    """Quantile tracking on alerts alone, an offset on the promised rate's threshold: what shipped before the ladder."""

    def __init__(self, alert: AlertSettings) -> None:
        self.budget = alert.budget_for(Mode.ADAPT)
        self.rate, self._offset = 1.0, 0.0

    def configure(self, decision_interval_s: float) -> None:
        """Fix the promised rate, at which the threshold begins."""
        self.rate = self.budget.rate_per_decision(decision_interval_s)

    def odd(self, score: float, *, firing: bool) -> bool:
        """Tell whether a score reaches the threshold."""
        return score >= lowered(self._offset - log10(self.rate), firing=firing)

    def decide(self, at: float, score: float, *, raised: bool, alert: str = "") -> None:
        """Move the offset."""
        del at, score, alert
        moved = self._offset + TRACKING_STEP * (float(raised) - self.rate)
        self._offset = min(max(moved, -min(1.0, -LEAST_SHARE * log10(self.rate))), HIGHEST)


class AdaptiveConformal:
    """Gibbs and Candes (2021): a += step x (rate - error); odd where p <= a. Errors are odd decisions, or alerts."""

    def __init__(self, alert: AlertSettings, *, events: bool) -> None:
        self.budget = alert.budget_for(Mode.ADAPT)
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
        return score >= lowered(threshold, firing=firing)

    def decide(self, at: float, score: float, *, raised: bool, alert: str = "") -> None:
        """Move the level."""
        del at, score, alert
        error = raised if self._events else self._odd
        self.level += self._step * (self.rate - float(error))


METHODS: dict[str, Callable[[AlertSettings], Control]] = {
    "plain threshold": Held,
    "ladder (ships)": BudgetControl,
    "quantile tracking on alerts": Tracking,
    "adaptive conformal, samples": lambda alert: AdaptiveConformal(alert, events=False),
    "adaptive conformal, events": lambda alert: AdaptiveConformal(alert, events=True),
}
COUNT_SAMPLES = frozenset({"adaptive conformal, samples"})
