"""One stream's detector: score first, then decide, then perhaps learn. `snapshot` is everything that survives.

The encoder is not called here: `due` hands out windows, the pipeline embeds those of many streams at once, and
`step` takes the embeddings. So the core stays free of the runtime, and one invocation serves many streams.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from agent.core.alerting import AlertSettings, Direction
from agent.core.budget import BudgetControl
from agent.core.calibration import Calibration
from agent.core.preprocess import REFRESH_ROWS, RobustScale
from agent.core.reference import (
    GUARD_SAMPLES,
    I8,
    AdmissionPolicy,
    ReferenceSettings,
    ReferenceWindow,
    Workspace,
)
from agent.core.scoring import SCORERS, ScoreMethod, ScoreSettings
from agent.core.types import F32, F64, Assessment, Bools, Mode, Sample, Settings, StreamPhase
from agent.core.views import View, window
from agent.core.windowing import RING_ROWS, Arrival, Grid, GridSettings

MIN_REFERENCES: Final = 32  # fewer than this give no distance
VIEW_WEIGHT: Final = 1.2
RANGE_WEIGHT: Final = 1.5
_RANGE_MEAN_ROWS: Final = 16
_LAST_DIGIT: Final = 1.5  # a (nearly) constant channel alarms only beyond so many of its own steps
_RANGE_TOLERANCES: Final = (
    0.05,
    0.10,
)  # for the last value, for the mean of 16; as shares of the all-time range


class DetectorSettings(Settings, frozen=True):
    """What makes one detector differ from another."""

    stride: int = 1
    mode: Mode = Mode.ADAPT
    grid: GridSettings = GridSettings()
    reference: ReferenceSettings = ReferenceSettings()
    score: ScoreSettings = ScoreSettings()
    alert: AlertSettings = AlertSettings()


class DueDecision(msgspec.Struct):
    """Windows to embed for one decision: per view float32 [parts, length, 2], or None where history is too short."""

    at: float
    windows: list[F32 | None]
    valid: list[Bools]
    last_values: F32  # [parts], relative to the grid's base
    means: F32
    peaks: F64  # [parts], the largest deviation from the centre within the shortest view
    warm_up: bool = False


class StreamDetector:
    """Learns what a stream looks like and says how rare its latest window is."""

    def __init__(self, settings: DetectorSettings, views: tuple[View, ...], channels: tuple[str, ...] = ()) -> None:
        parts = len(channels)
        self.settings, self.views = settings, views
        self.grid = Grid(settings.grid, channels, self._ring_rows())
        self.scale = RobustScale(parts)
        self.phase = StreamPhase.LEARNING
        self.budget = BudgetControl(settings.alert.false_alarms)
        guard = -(-GUARD_SAMPLES // settings.stride)
        self._references = [
            ReferenceWindow(parts, settings.reference.size, v.dim, step=v.step, offset=v.offset, guard=guard)
            for v in views
        ]
        # One row for each part and view, part by part: one call serves all of them.
        self._calibration = Calibration(parts * len(views))
        self._policy = AdmissionPolicy(settings.mode, parts * len(views))
        self._bandwidths = [np.ones(parts, np.float32) for _ in views]
        self._low: F64 = np.full((2, parts), np.inf)
        self._high: F64 = np.full((2, parts), -np.inf)
        self._since_decision = 0
        self._next_refresh = 0

    def _ring_rows(self) -> int:
        return max(RING_ROWS, max(view.span for view in self.views) + 1)

    @property
    def warm_up_rows(self) -> int:
        """Return how many grid rows are learnt before the first decision."""
        wanted = self.settings.reference.warm_up * self.settings.stride + self.views[0].span
        return min(wanted, self._ring_rows())

    @property
    def learning_left(self) -> int:
        """Return how many more rows are needed, 0 when active."""
        if self.phase is not StreamPhase.LEARNING:
            return 0
        return max(0, self.warm_up_rows - int(self.grid.run.max(initial=0)))

    @property
    def reference_size(self) -> int:
        """Return the number of references of the fullest part."""
        return int(self._references[0].count.max(initial=0))

    def push(self, sample: Sample) -> tuple[Arrival, DueDecision | None]:
        """Take one sample; return what became of it, and a decision if one is due with it."""
        before = self.grid.total_rows
        arrival = self.grid.push(sample, learning=self.phase is StreamPhase.LEARNING)
        if len(self.grid.channels) > self.scale.centre.shape[2]:
            self._grow(len(self.grid.channels))
        appended = self.grid.total_rows - before
        if appended == 0:
            return arrival, None
        self._since_decision += appended
        if self.phase is StreamPhase.LEARNING:
            return arrival, self._finish_learning(sample.at) if self.learning_left == 0 else None
        if self._since_decision < self.settings.stride:
            return arrival, None
        run = self.grid.run
        if not (run >= self.views[0].span).any():
            return arrival, None
        self._since_decision = 0
        if self.grid.total_rows >= self._next_refresh:
            self._refresh()
        windows: list[F32 | None] = []
        valid: list[Bools] = []
        for view in self.views:
            usable = run >= view.span
            valid.append(usable)
            if not usable.any():
                windows.append(None)
                continue
            made = window(view, self.grid.rows(view.span), self.scale)
            windows.append(made if usable.all() else np.nan_to_num(made))
        tail = self.grid.rows(_RANGE_MEAN_ROWS)
        recent = np.abs(self.grid.rows(self.views[0].length) - self.scale.centre[0, 0])
        peaks = np.nan_to_num(recent).max(axis=0)
        return arrival, DueDecision(sample.at, windows, valid, tail[-1].copy(), tail.mean(axis=0), peaks)

    def _refresh(self) -> None:
        self.scale.refresh(self.grid.rows(RING_ROWS), self.grid.base)
        self._next_refresh = self.grid.total_rows + REFRESH_ROWS

    def _finish_learning(self, at: float) -> DueDecision:
        """Cut the warm-up's windows from the ring: all with the same scale, the warm-up's own."""
        self._refresh()
        rows = self.grid.rows(self.warm_up_rows)
        windows: list[F32 | None] = []
        valid: list[Bools] = []
        for view in self.views:
            step = self._warm_up_step(view, len(rows))
            ends = np.arange(len(rows), view.span - 1, -step)[::-1]
            if len(ends) == 0:
                windows.append(None)
                valid.append(np.zeros(rows.shape[1], np.bool_))
                continue
            cut = np.stack([window(view, rows[:end], self.scale) for end in ends])
            windows.append(np.nan_to_num(cut).reshape(-1, view.length, 2))
            gaps = np.cumsum(np.vstack([np.zeros(rows.shape[1]), np.isnan(rows)]), axis=0)
            valid.append(gaps[ends] == gaps[ends - view.span])
        for index, series in enumerate((rows, _rolling_mean(rows, _RANGE_MEAN_ROWS))):
            self._low[index] = np.nanmin(np.vstack([series, np.full((1, series.shape[1]), np.inf)]), axis=0)
            self._high[index] = np.nanmax(np.vstack([series, np.full((1, series.shape[1]), -np.inf)]), axis=0)
        empty = np.zeros(0, np.float32)
        return DueDecision(at, windows, valid, empty, empty, empty.astype(np.float64), warm_up=True)

    def _warm_up_step(self, view: View, rows: int) -> int:
        return max(1, min(self.settings.stride, (rows - view.span) // self.settings.reference.warm_up or 1))

    def step(self, due: DueDecision, embeddings: list[F32 | None], workspace: Workspace) -> Assessment | None:
        """Score the embeddings (per view float32 [parts, dim]), learn from them, and return what was found.

        Returns None for the warm-up, whose embeddings are float32 [windows x parts, dim].
        """
        if due.warm_up:
            self._prime(due, embeddings)
            return None
        parts = len(self.grid.channels)
        raw = np.full((parts, len(self.views)), np.nan, np.float32)
        queries: list[I8 | None] = [None] * len(self.views)
        for index, embedding in enumerate(embeddings):
            if embedding is None:
                continue
            reference = self._references[index]
            quantized = reference.quantize(embedding)
            queries[index] = quantized
            raw[:, index] = self._raw_scores(index, reference.squared_distances(quantized, workspace))
            raw[(reference.count < MIN_REFERENCES) | ~due.valid[index], index] = np.nan
        rows = raw.reshape(-1)
        view_scores = -np.log10(self._calibration.p_values(rows).reshape(raw.shape).T).astype(np.float32)
        admitted = self._policy.admit(rows).reshape(raw.shape)
        self._calibration.add(np.where(self._policy.counted, rows, np.float32(np.nan)))
        for index, query in enumerate(queries):
            if query is not None:
                self._references[index].admit(query, admitted[:, index] & due.valid[index], due.at)
        range_scores = self._range_novelty(due)
        ready = np.isfinite(view_scores)
        mean = np.where(ready, view_scores, 0.0).sum(axis=0) / np.maximum(ready.sum(axis=0), 1)
        part_scores = np.asarray(VIEW_WEIGHT * mean + RANGE_WEIGHT * range_scores, np.float32)
        part_scores[~ready.any(axis=0)] = 0.0
        part_scores[~self._may_alarm(due)] = 0.0
        score = combined(part_scores)
        threshold = self.budget.threshold
        return Assessment(due.at, score, 10.0**-score, 10.0**-threshold, part_scores, view_scores, range_scores)

    def _raw_scores(self, index: int, squared: F32) -> F32:
        settings = self.settings.score
        return SCORERS[settings.method](squared, settings.neighbours, self._bandwidths[index])

    def _prime(self, due: DueDecision, embeddings: list[F32 | None]) -> None:
        """Fill the references from the warm-up and calibrate on it, each window scored without its neighbours."""
        parts = len(self.grid.channels)
        self._bandwidths = [np.ones(parts, np.float32) for _ in self.views]
        period = self.grid.period_s or 1.0
        for index, embedding in enumerate(embeddings):
            if embedding is None:
                continue
            view, reference = self.views[index], self._references[index]
            queries = reference.quantize(embedding).reshape(-1, parts, view.dim)
            step = self._warm_up_step(view, self.warm_up_rows)
            guard = -(-view.span // step)
            times = due.at - np.arange(len(queries) - 1, -1, -1) * step * period
            for part in range(parts):
                usable = due.valid[index][:, part]
                entries = np.ascontiguousarray(queries[usable, part])
                reference.fill(part, entries, times[usable])
                if len(entries) < MIN_REFERENCES:
                    continue
                squared = _pairwise(entries, reference.step, guard)
                neighbour = SCORERS[ScoreMethod.DISTANCE](
                    squared, self.settings.score.neighbours, np.ones(1, np.float32)
                )
                self._bandwidths[index][part] = np.exp(np.median(neighbour))
                bandwidth = np.full(len(entries), self._bandwidths[index][part], np.float32)
                raw = SCORERS[self.settings.score.method](squared, self.settings.score.neighbours, bandwidth)
                self._calibration.fill(part * len(self.views) + index, raw)
                self._policy.prime(part * len(self.views) + index, raw)
        self.phase = StreamPhase.ACTIVE
        self._since_decision = 0
        self.budget.configure(self.settings.stride * period)

    def _range_novelty(self, due: DueDecision) -> F32:
        """Return novelty of range, float32 [parts]: 0 inside all ever seen, else 1 + log10(excess / tolerance)."""
        novelty = np.zeros(len(due.last_values), np.float32)
        for index, values in enumerate((due.last_values, due.means)):
            low, high = self._low[index], self._high[index]
            known = np.isfinite(low) & ~np.isnan(values)
            width = np.where(known, high - low, 0.0)
            tolerance = np.maximum(_RANGE_TOLERANCES[index] * width, self.scale.spread[0, 0])
            excess = np.where(known, np.maximum(values - high, low - values), 0.0)
            outside = excess > tolerance
            if outside.any():
                novelty[outside] = np.maximum(novelty[outside], 1.0 + np.log10(excess[outside] / tolerance[outside]))
            if self.settings.mode is Mode.ADAPT:
                self._low[index] = np.fmin(low, values)
                self._high[index] = np.fmax(high, values)
        return novelty

    def _may_alarm(self, due: DueDecision) -> Bools:
        """Return which parts deviate by more than their last digit, and as the operator asked for."""
        alert = self.settings.alert
        deviation = due.means - self.scale.centre[0, 0]
        allowed = ~self.scale.floored | (due.peaks > _LAST_DIGIT * self.scale.spread[0, 0])
        if alert.direction is not Direction.BOTH:
            allowed &= (deviation > 0) == (alert.direction is Direction.UP)
        for name, least in alert.min_change.items():
            if name in self.grid.channels:
                part = self.grid.channels.index(name)
                largest = max(abs(deviation[part]), abs(due.last_values[part] - self.scale.centre[0, 0, part]))
                allowed[part] &= bool(largest >= least)
        return allowed

    def nearest(self, embeddings: list[F32 | None], part: int, workspace: Workspace) -> list[tuple[float, float]]:
        """Return (time, distance) of the references nearest to a decision's values, for the evidence."""
        embedding = embeddings[0]
        if embedding is None:
            return []
        reference = self._references[0]
        return reference.nearest(reference.quantize(embedding), part, 3, workspace)

    def expected(self) -> tuple[F64, F64, F64]:
        """Return each channel's value now and the range (2nd to 98th percentile) it usually has, float64 [parts]."""
        rows = self.grid.rows(RING_ROWS)
        known = rows[: max(1, len(rows) - self.views[0].span)]
        filled = np.where(np.isnan(known).all(axis=0), 0.0, known)
        low, high = np.nanquantile(filled.astype(np.float64), (0.02, 0.98), axis=0)
        base = self.grid.base
        return base + rows[-1], base + low, base + high

    def _grow(self, parts: int) -> None:
        self.scale.grow(parts)
        for reference in self._references:
            reference.grow(parts)
        self._calibration.grow(parts * len(self.views))
        self._policy.grow(parts * len(self.views))
        self._bandwidths = [np.ones(parts, np.float32) for _ in self.views]
        more = parts - self._low.shape[1]
        self._low = np.concatenate([self._low, np.full((2, more), np.inf)], axis=1)
        self._high = np.concatenate([self._high, np.full((2, more), -np.inf)], axis=1)

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on as if never stopped; arrays are copies."""
        return {
            "phase": self.phase.value,
            "grid": self.grid.snapshot(),
            "scale": self.scale.snapshot(),
            "budget": self.budget.snapshot(),
            "references": [one.snapshot() for one in self._references],
            "calibration": self._calibration.snapshot(),
            "policy": self._policy.snapshot(),
            "low": self._low.copy(),
            "high": self._high.copy(),
            "bandwidths": [one.copy() for one in self._bandwidths],
            "since_decision": self._since_decision,
            "next_refresh": self._next_refresh,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot made with the same settings and views."""
        self.phase = StreamPhase(state["phase"])
        self.grid.restore(state["grid"])
        self.scale.restore(state["scale"])
        self.budget.restore(state["budget"])
        if self.grid.period_s is not None and self.phase is not StreamPhase.LEARNING:
            self.budget.configure(self.settings.stride * self.grid.period_s)
        for one, saved in zip(self._references, state["references"], strict=True):
            one.restore(saved)
        self._calibration.restore(state["calibration"])
        self._policy.restore(state["policy"])
        self._low, self._high = state["low"].copy(), state["high"].copy()
        self._bandwidths = [one.copy() for one in state["bandwidths"]]
        self._since_decision, self._next_refresh = state["since_decision"], state["next_refresh"]


def combined(part_scores: F32) -> float:
    """Return the score of a stream: -log10 of the harmonic mean of its parts' p-values (Wilson 2019).

    One strong part among n counts as Bonferroni would have it, many agreeing parts as one of them.
    """
    if len(part_scores) == 0:
        return 0.0
    highest = float(part_scores.max())
    return highest + float(np.log10(np.power(10.0, part_scores.astype(np.float64) - highest).mean()))


def _pairwise(entries: Any, step: float, guard: int) -> F32:
    """Return squared distances between the entries, float32 [n, n], inf among neighbours in time."""
    floats = entries.astype(np.float32)
    norms = np.square(floats).sum(axis=1)
    squared = norms[:, None] + norms[None, :] - 2.0 * (floats @ floats.T)
    order = np.arange(len(entries))
    squared[np.abs(order[:, None] - order[None, :]) < min(guard, max(1, len(entries) // 8))] = np.inf
    return np.asarray(np.maximum(squared, 0.0) * step * step, np.float32)


def _rolling_mean(rows: F32, count: int) -> F32:
    filled = np.nan_to_num(rows).astype(np.float64)
    sums = np.cumsum(np.vstack([np.zeros((1, rows.shape[1])), filled]), axis=0)
    count = min(count, len(rows))
    return np.asarray((sums[count:] - sums[:-count]) / count, np.float32)
