"""One stream's side of detection: its grid, its scale, its phase, and when a decision is due.

Scoring and learning happen in a DetectorBank, for many streams at once. The encoder is called by neither: `push`
hands out what is to be embedded, so the core stays free of the runtime.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.core.alerting import AlertSettings
from agent.core.budget import BudgetControl
from agent.core.diary import Diary
from agent.core.joint import JointReference
from agent.core.pace import Steps, pace
from agent.core.preprocess import REFRESH_ROWS, RobustScale
from agent.core.quarantine import Quarantine
from agent.core.reference import GUARD_SAMPLES, ReferenceSettings
from agent.core.scoring import ScoreSettings
from agent.core.types import F32, F64, I8, I64, Bools, Duration, Mode, Sample, Settings, StreamPhase
from agent.core.views import SHORTEST_SPAN, View
from agent.core.windowing import RING_ROWS, Arrival, Grid, GridSettings

_EXPECTED_ROWS: Final = 2000  # of the past, from which the expected range of a channel is told


class DetectorSettings(Settings, frozen=True):
    """What makes one detector differ from another. Streams whose settings are equal share a bank.

    `stride`: grid steps between decisions; auto: settled by each stream's period.
    """

    stride: int | Steps = Steps.AUTO
    mode: Mode = Mode.ADAPT
    season_s: Duration | None = None
    grid: GridSettings = GridSettings()
    reference: ReferenceSettings = ReferenceSettings()
    score: ScoreSettings = ScoreSettings()
    alert: AlertSettings = AlertSettings()


class Waiting(msgspec.Struct, frozen=True):
    """An embedding behind the guard: int8 [channels, all views' dims]; `admitted` bool [channels, views].

    `row` of the grid is the one that its windows end with, 0 where that is not known.
    """

    query: I8
    admitted: Bools
    at: float
    row: int = 0


class StreamDetector:
    """Puts one stream's samples on its grid and says when a decision is due, every `stride` grid steps.

    Where the settings leave that open, it follows the period while the stream learns, and stays from then on.
    """

    def __init__(self, settings: DetectorSettings, views: tuple[View, ...], channels: tuple[str, ...] = ()) -> None:
        self.settings, self.views = settings, views
        self.span = max(view.span for view in views)
        self.grid = Grid(settings.grid, channels, max(RING_ROWS, self.span + 1))
        self.scale = RobustScale(len(channels))
        self.phase = StreamPhase.LEARNING
        self.joint: JointReference | None = None  # mode hold, once learnt
        self.budget = BudgetControl(settings.alert, settings.mode)
        self.lanes: tuple[int, int] | None = None  # of the bank, once learnt
        self.index: I64 = np.zeros(0, np.int64)  # the same, one by one
        self.least_change: F64 = np.zeros((0, 2))  # min_change by channel: absolute, and as a share of what is usual
        self.waiting: deque[Waiting] = deque()
        self._learnable = 0  # rows at which a window ends that has no gap
        self.quarantine = Quarantine()
        self.diary = Diary()
        self._since_decision = 0
        self._next_refresh = 0
        self._period_s: float | None = None  # that the budget knows of
        self.stride = 1
        self._settle()

    def _settle(self) -> None:
        """Know the grid steps between decisions, as far as they can be told."""
        if self.settings.stride is not Steps.AUTO:
            self.stride = self.settings.stride
        elif self.grid.period_s is not None:
            self.stride = pace(self.grid.period_s)

    def resume(self, stride: object, state: dict[str, Any]) -> None:
        """Settle as a stream did that decided every `stride` grid steps, before it is restored from its snapshot.

        Where its steps were configured, what its period comes to is settled: only if that is the same, nothing changes.
        """
        if self.settings.stride is not Steps.AUTO:
            return
        match state:
            case {"settled": int(steps)}:
                self.stride = steps
            case {"grid": {"period_s": float(period_s)}} if period_s > 0.0 and (stride != 1 or "settled" in state):
                self.stride = pace(period_s)
            case _:
                self.stride = 1

    def take_stride(self, state: dict[str, Any]) -> None:
        """Take from a snapshot what was settled, if anything was. Raises ValueError."""
        settled = state.get("settled")
        if self.settings.stride is not Steps.AUTO or settled is None:
            return
        if not 1 <= settled <= SHORTEST_SPAN:
            raise ValueError(settled)
        self.stride = settled

    def _settled(self) -> dict[str, int | None]:
        """Return what a snapshot tells of the steps beside their number: those that were settled, None: configured.

        Nothing where that is plain: 1 was always settled before it was asked for, and any other number configured.
        """
        if self.settings.stride is Steps.AUTO:
            return {} if self.stride == 1 else {"settled": self.stride}
        return {"settled": None} if self.stride == 1 else {}

    @property
    def guard(self) -> int:
        """Return how many decisions a window waits before it may enter the reference."""
        return -(-GUARD_SAMPLES // self.stride)

    @property
    def warm_up_rows(self) -> int:
        """Return how many grid rows are learnt before the first decision, if they come without a gap."""
        wanted = self.settings.reference.warm_up * self.stride + self.views[0].span
        return min(wanted, RING_ROWS)

    @property
    def learning_left(self) -> int:
        """Return how many more rows are needed, 0 when active."""
        if self.phase is not StreamPhase.LEARNING:
            return 0
        return max(0, self.warm_up_rows - self.views[0].span + 1 - self._learnable)

    def push(self, sample: Sample, *, again: bool = False) -> tuple[Arrival, Due | WarmUp | None]:
        """Take one sample; return what became of it, and what is due with it: a decision, or the warm-up's end.

        `again`: it may have come before, so that it says nothing of its sender's clock.
        """
        grid = self.grid
        before = grid.total_rows
        arrival = grid.push(sample, learning=self.phase is StreamPhase.LEARNING, again=again)
        appended = grid.total_rows - before
        if appended == 0:
            return arrival, None
        self._since_decision += appended
        if self.phase is StreamPhase.LEARNING:
            self._settle()
            whole = max(grid.run) - self.views[0].span + 1  # rows at the end of which a window has no gap
            self._learnable = max(0, whole if grid.unbroken else self._learnable + min(appended, max(0, whole)))
            if self.learning_left > 0:
                return arrival, None
            self._refresh()
            return arrival, WarmUp(self, sample.at)
        if grid.period_s not in {None, self._period_s}:  # the sender has become slower
            self._set_rate()
        if self._since_decision < self.stride:
            return arrival, None
        run = grid.run
        if max(run) < self.views[0].span:
            return arrival, None
        since, self._since_decision = self._since_decision, 0
        if grid.total_rows >= self._next_refresh:
            self._refresh()
        return arrival, Due(
            self,
            sample.at,
            grid.total_rows,
            since,
            grid.turns,
            self._tail(),
            np.array(run),
            grid.base.copy(),
            self.scale.table,
            self.scale.floored,
        )

    def echo(self, due: Due) -> Due:
        """Return the same decision for this detector, another's heir on the same grid. To be called when it is due."""
        return Due(self, due.at, due.row, due.since, due.turns, self._tail(), due.run, due.base, due.table, due.floored)

    def succeed(self, old: StreamDetector) -> None:
        """Go on in the place of another on the same grid, between two decisions.

        What its budget counted and promises holds on; the ladder is this one's own, learnt from its own scores.
        """
        self.budget.succeed(old.budget)
        self.stride = old.stride
        self._learnable, self._since_decision = old._learnable, old._since_decision
        self._next_refresh = old._next_refresh

    def _tail(self) -> F32:
        """Return the newest points of each channel, float32 [channels, span], NaN before the first."""
        rows = self.grid.rows(self.span)
        tail = np.empty((rows.shape[1], self.span), np.float32)
        tail[:, self.span - len(rows) :] = rows.T
        tail[:, : self.span - len(rows)] = np.nan
        return tail

    def _refresh(self) -> None:
        if len(self.grid.channels) != len(self.scale.floored):
            self.scale.grow(len(self.grid.channels))
        self.scale.refresh(self.grid.rows(RING_ROWS), self.grid.base)
        self._next_refresh = self.grid.total_rows + REFRESH_ROWS
        self.diary.note_table(self.grid.total_rows, self.scale.table)

    def begin(self, lanes: tuple[int, int]) -> None:
        """Become active, with these lanes of the bank."""
        self.lanes, self.index = lanes, np.arange(*lanes)
        least = self.settings.alert.min_change
        self.least_change = np.zeros((len(self.grid.channels), 2))
        for place, name in enumerate(self.grid.channels):
            if name in least:
                self.least_change[place, int(least[name].relative)] = least[name].amount
        self.phase = StreamPhase.ACTIVE
        self.diary.end()  # what lies on disk knows of no references that could be added to
        self._since_decision = 0
        self._set_rate()

    def _set_rate(self) -> None:
        """Let the budget know how long a decision takes."""
        self._period_s = self.grid.period_s
        self.budget.configure(self.stride * (self._period_s or 1.0))

    def expected(self, due: Due) -> tuple[F64, F64, F64]:
        """Return each channel's value at a decision and the range (2nd to 98th percentile) it usually had before it.

        float64 [channels] each.
        """
        rows = self.grid.rows(RING_ROWS)
        end = max(1, len(rows) - (self.grid.total_rows - due.row))  # more may have come since
        known = rows[max(0, end - _EXPECTED_ROWS) : max(1, end - self.views[0].span)]
        filled = np.where(np.isnan(known).all(axis=0), 0.0, known)
        low, high = np.nanquantile(filled.astype(np.float64), (0.02, 0.98), axis=0)
        base = due.base
        return base + due.tail[:, -1], base + low, base + high

    def saved(self) -> None:
        """Know that all that was learnt is on disk."""
        self.diary.begin(self.grid.total_rows)
        if self.joint is not None:
            self.joint.saved()

    def snapshot(self) -> dict[str, Any]:
        """Return this side of what is needed to go on as if never stopped."""
        return {
            "grid": self.grid.snapshot(),
            "scale": self.scale.snapshot(),
            "budget": self.budget.snapshot(),
            "waiting": [list(msgspec.structs.astuple(one)) for one in self.waiting],
            "learnable": self._learnable,
            "quarantine": self.quarantine.snapshot(),
            "since_decision": self._since_decision,
            "next_refresh": self._next_refresh,
            **self._settled(),
        }

    def restore(self, state: dict[str, Any], lanes: tuple[int, int] | None) -> None:
        """Go on from a snapshot; `lanes` are those of the bank, None for a stream that was still learning."""
        self.take_stride(state)
        self.grid.restore(state["grid"])
        self.scale.restore(state["scale"])
        self._learnable = state["learnable"]
        self.budget.restore(state["budget"])
        self.waiting = deque(Waiting(*one[:3], *map(int, one[3:])) for one in state["waiting"])
        self.quarantine.restore(state["quarantine"])
        if lanes is not None:
            self.begin(lanes)
        self._since_decision, self._next_refresh = state["since_decision"], state["next_refresh"]


class Due(msgspec.Struct, frozen=True):
    """A decision that is due, with all that it needs: samples that come later change nothing.

    `tail` float32 [channels, span] relative to the grid's base; `run` int64 [channels] points without a gap; `table`
    and `floored` are the scale's; `row` counts the grid's rows so far, `since` those since the last decision,
    `turns` how often its clock was set back.
    """

    detector: StreamDetector
    at: float
    row: int
    since: int
    turns: int
    tail: F32
    run: npt.NDArray[np.int64]
    base: F64
    table: F32
    floored: Bools


class WarmUp(msgspec.Struct, frozen=True):
    """A stream has seen enough to begin."""

    detector: StreamDetector
    at: float
