"""Scores, decides and learns for many streams at once: score first, then decide, then perhaps learn.

All streams of a bank have equal settings and views. Their references, calibrations and admissions are rows of the
same arrays, so a batch of decisions costs about as many calls as a single one. Results do not depend on how
decisions are batched: every operation works on each row alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec
import numpy as np

from agent.core.alerting import Direction, FrozenPolicy
from agent.core.calibration import CALIBRATION_SIZE, Calibration
from agent.core.decimals import packed, unpacked
from agent.core.detector import DetectorSettings, Due, StreamDetector, Waiting, WarmUp
from agent.core.diary import COUNTS, ENTERS, Past, newest
from agent.core.frozen import FrozenValues
from agent.core.joint import JointReference, joint_bytes
from agent.core.lanes import Lanes, grown, trimmed
from agent.core.quarantine import Accepted, Held, narrowed, widened
from agent.core.reference import (
    PROVENANCE_BYTES,
    ROW_BYTES,
    AdmissionPolicy,
    ReferenceWindow,
    whole_seconds,
)
from agent.core.scoring import SCORERS, ScoreMethod
from agent.core.season import Season
from agent.core.types import F32, F64, I8, I64, Assessment, Bools, Mode
from agent.core.views import View, plain, windows
from agent.core.windowing import RING_ROWS
from agent.core.workspace import Workspace

MIN_REFERENCES: Final = 32  # fewer than this give no distance
VIEW_WEIGHT: Final = 1.2
RANGE_WEIGHT: Final = 2.0
_LANE_OBJECTS_BYTES: Final = 12_000  # about: what hangs on a channel beside its large arrays, and their slack
_RANGE_MEAN_POINTS: Final = 16
_EMBEDDED_AGAIN: Final = 512  # windows at once, of what was learnt since the last snapshot
_WARM_UP_WINDOWS: Final = 128  # embedded at once: nothing else has a turn meanwhile
_LAST_DIGIT: Final = 1.5  # a (nearly) constant channel alarms only beyond so many of its own steps
_ACCEPTED_SCORES: Final = 8  # at most so many of an accepted alert's windows count in the calibration
_RANGE_TOLERANCES: Final = (0.03, 0.06)  # for the last value, for the mean of 16; as shares of the all-time range
_RANGE_LEAST: Final = 0.25  # standard deviations, at least: the range of a calm warm-up is narrow


class Batch(msgspec.Struct):
    """Decisions of one bank, stacked lane by lane.

    `windows` holds for each view what is to be embedded, float32 [usable lanes, length, 2]; who embeds puts float32
    [usable lanes, dim] into `embeddings`. `usable` bool [lanes, views] tells which lanes have history enough.
    """

    dues: list[Due]
    bounds: list[int]  # first lane of each decision, and behind the last one
    tails: F32
    table: F32
    floored: Bools
    usable: Bools
    windows: list[F32]
    embeddings: list[F32 | None]

    @property
    def rounds(self) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of decisions in order, in each of which a stream occurs once."""
        first = 0
        seen: set[int] = set()
        for place, due in enumerate(self.dues):
            if id(due.detector) in seen:
                yield first, place
                first, seen = place, set()
            seen.add(id(due.detector))
        yield first, len(self.dues)


class WarmUpPart(msgspec.Struct):
    """Windows of a warm-up, float32 [windows, length, 2], and what they were embedded as, float32 [windows, dim]."""

    view: View
    windows: F32
    embedding: F32 | None = None


class DetectorBank:
    """The detectors of all streams with equal settings."""

    def __init__(self, settings: DetectorSettings, views: tuple[View, ...], workspace: Workspace) -> None:
        self.settings, self.views = settings, views
        self._workspace = workspace
        self._lanes = 0
        self._free: list[tuple[int, int]] = []  # spans of lanes that streams gave back
        self._references = [
            ReferenceWindow(settings.reference.size // v.every, v.dim, step=v.step, offset=v.offset, rows=v.encoded)
            for v in views
        ]
        # One row for each lane and view, lane by lane: one call serves all of them.
        self._calibration = Calibration()
        self._policy = AdmissionPolicy(settings.mode)
        self._bandwidths: F32 = np.ones((0, len(views)), np.float32)
        self._frozen = FrozenValues()
        self._season = None if settings.season_s is None else Season(settings.season_s)
        self._low: F64 = np.zeros((0, 2))  # all-time range of the last value and of the mean of 16
        self._high: F64 = np.zeros((0, 2))
        ends = np.cumsum([view.dim for view in views])
        self.lane_bytes = (
            self._weight()
        )  # memory that each channel of a stream takes, its raw values on the grid included
        self._columns = [slice(int(end) - view.dim, int(end)) for view, end in zip(views, ends, strict=True)]

    def _weight(self) -> int:
        size = self.settings.reference.size
        entries = sum(
            (view.dim + PROVENANCE_BYTES + ROW_BYTES * view.encoded) * (size // view.every) for view in self.views
        )
        season = 0 if self._season is None else self._season.lane_bytes
        joint = joint_bytes(size) if self.settings.mode is Mode.HOLD else 0
        return entries + season + joint + 2 * CALIBRATION_SIZE * len(self.views) + 4 * RING_ROWS + _LANE_OBJECTS_BYTES

    def detector(self, channels: tuple[str, ...] = ()) -> StreamDetector:
        """Return a detector whose decisions this bank makes."""
        return StreamDetector(self.settings, self.views, channels)

    def reference_size(self, detector: StreamDetector) -> int:
        """Return the number of references of the stream's fullest lane."""
        return int(self._references[0].count[detector.index].max(initial=0))

    def batch(self, dues: list[Due]) -> Batch:
        """Stack decisions and cut their windows; those of views without a network are embedded already."""
        bounds = [0, *np.cumsum([len(due.run) for due in dues]).tolist()]
        tails = np.concatenate([due.tail for due in dues])
        table = np.concatenate([due.table for due in dues])
        run = np.concatenate([due.run for due in dues])
        spans = np.array([view.span for view in self.views])
        usable = run[:, None] >= spans
        cut = [
            made if good.all() else made[good]
            for made, good in zip(windows(self.views, tails, table), usable.T, strict=True)
        ]
        floored = np.concatenate([due.floored for due in dues])
        embeddings = [None if view.encoded else plain(made) for view, made in zip(self.views, cut, strict=True)]
        return Batch(dues, bounds, tails, table, floored, usable, cut, embeddings)

    def step(self, batch: Batch) -> Iterator[Assessment]:
        """Score the embedded batch, learn from it, and yield what was found, in the order of its decisions."""
        queries = np.zeros((len(batch.usable), self._columns[-1].stop), np.int8)
        for view, columns in enumerate(self._columns):
            embedding = batch.embeddings[view]
            assert embedding is not None
            quantized = self._references[view].quantize(embedding)
            good = batch.usable[:, view]
            if len(quantized) == len(queries):
                queries[:, columns] = quantized
            else:
                queries[good, columns] = quantized
        for first, last in batch.rounds:
            yield from self._round(batch, queries, first, last)

    def _round(self, batch: Batch, queries: I8, first: int, last: int) -> Iterator[Assessment]:
        """Make decisions of different streams."""
        dues = batch.dues[first:last]
        part = slice(batch.bounds[first], batch.bounds[last])
        lanes = Lanes([due.detector.lanes or (0, 0) for due in dues], np.concatenate([d.detector.index for d in dues]))
        rows = lanes.times(len(self.views))
        usable, query = batch.usable[part], queries[part]

        raw = self._raw_scores(lanes, query, usable)
        p_values = self._calibration.p_values(rows, raw.reshape(-1)).reshape(raw.shape)
        view_scores = -np.log10(p_values).astype(np.float32)

        admitted, counted = self._policy.admit(rows.index, raw.reshape(-1))
        counted &= ~np.isnan(raw.reshape(-1))
        self._calibration.add(rows.index[counted], raw.reshape(-1)[counted])
        starts = [batch.bounds[place] - part.start for place in range(first, last + 1)]
        self._admit(dues, starts, query, admitted.reshape(raw.shape) & usable, counted.reshape(raw.shape))

        range_scores, may_alarm = self._range_novelty_and_leave(batch, part, lanes.index, dues)
        ready = np.isfinite(view_scores)
        mean = np.where(ready, view_scores, np.float32(0.0)).sum(axis=1) / np.maximum(ready.sum(axis=1), 1)
        season_scores = self._season_scores(dues, batch, part, lanes.index)
        mean = np.where(np.isnan(season_scores), mean, season_scores)
        part_scores = (VIEW_WEIGHT * mean + RANGE_WEIGHT * range_scores).astype(np.float32)
        part_scores[~(ready.any(axis=1) & may_alarm)] = 0.0
        frozen_scores = self._frozen_scores(dues, batch, part, lanes.index)
        frozen = combined(frozen_scores, starts).tolist()
        scores = combined(part_scores, starts).tolist()
        if self.settings.mode is Mode.HOLD:
            self._hold(dues, starts, scores, part_scores, may_alarm)
        for place, due in enumerate(dues):
            here = slice(starts[place], starts[place + 1])
            score = scores[place]
            yield Assessment(
                due.at,
                score,
                10.0**-score,
                part_scores[here],
                view_scores[here].T,
                range_scores[here],
                raw[here].T,
                season_scores[here],
                frozen_scores[here],
                frozen[place],
            )

    def _hold(
        self, dues: list[Due], starts: list[int], scores: list[float], part_scores: F32, may_alarm: Bools
    ) -> None:
        """Replace scores by those of the joint view.

        Where the operator asked for a direction or a least change, the leading channel must be one that may alarm.
        """
        alert = self.settings.alert
        asked = alert.direction is not Direction.BOTH or bool(alert.min_change)
        for place, due in enumerate(dues):
            joint, here = due.detector.joint, slice(starts[place], starts[place + 1])
            assert joint is not None
            if due.run.max() < self.views[0].span + due.since:  # there was a gap since the last decision
                joint.begin_anew()
            white = joint.embed(due.tail)
            score, shares, admitted = joint.score(white)
            joint.wait(white, due.at, admitted=admitted, guard=due.detector.guard)
            scores[place] = score if not asked or may_alarm[here][shares.argmax()] else 0.0
            part_scores[here] = scores[place] * np.sqrt(shares)

    def _season_scores(self, dues: list[Due], batch: Batch, part: slice, index: I64) -> F32:
        """Return -log10 p against the same time of earlier seasons, float32 [lanes], NaN where that is not known."""
        if self._season is None:
            return np.full(len(index), np.nan, np.float32)
        lanes = [len(due.run) for due in dues]
        at = np.repeat([due.at for due in dues], lanes)
        period_s = np.repeat([due.detector.grid.period_s or 1.0 for due in dues], lanes)
        return self._season.follow(index, batch.tails[part, -1], at, period_s, batch.table[part, 0, 0])

    def _frozen_scores(self, dues: list[Due], batch: Batch, part: slice, index: I64) -> F32:
        """Return -log10 of the p-values of how long values have not changed, float32 [lanes]."""
        if self.settings.alert.frozen is FrozenPolicy.IGNORE:
            return np.zeros(len(index), np.float32)
        strides = np.repeat([due.detector.stride for due in dues], [len(due.run) for due in dues])
        self._frozen.follow(index, batch.tails[part], strides)
        return np.asarray(-np.log10(self._frozen.p_values(index)), np.float32)

    def _raw_scores(self, lanes: Lanes, query: I8, usable: Bools) -> F32:
        """Return float32 [lanes, views], NaN where a view is not ready."""
        settings = self.settings.score
        raw = np.full(usable.shape, np.nan, np.float32)
        for view, reference in enumerate(self._references):
            ready = usable[:, view] & (reference.count[lanes.index] >= MIN_REFERENCES)
            if not ready.any():
                continue
            squared = reference.squared_distances(query[:, self._columns[view]], lanes, self._workspace)
            bandwidth = self._bandwidths[lanes.index, view]
            raw[ready, view] = SCORERS[settings.method](squared, settings.neighbours, bandwidth)[ready]
        return raw

    def _admit(self, dues: list[Due], starts: list[int], query: I8, admitted: Bools, counted: Bools) -> None:
        """Let embeddings wait behind the guard, and those in whose guard has passed; note it in the diary."""
        every = np.array([view.every for view in self.views])
        passed: list[tuple[StreamDetector, Waiting]] = []
        for place, due in enumerate(dues):
            here = slice(starts[place], starts[place + 1])
            waiting, guard = due.detector.waiting, due.detector.guard
            may_enter = admitted[here] & (due.row // due.detector.stride % every == 0)
            waiting.append(Waiting(query[here].copy(), may_enter, due.at, due.row))
            due.detector.diary.note(due.row, due.at, may_enter, counted[here])
            while len(waiting) > guard:
                passed.append((due.detector, waiting.popleft()))
        if not passed:
            return
        index = np.concatenate([detector.index for detector, _ in passed])
        entries = np.concatenate([one.query for _, one in passed])
        allowed = np.concatenate([one.admitted for _, one in passed])
        lanes = [len(one.query) for _, one in passed]
        times = np.repeat([one.at for _, one in passed], lanes)
        rows = np.repeat([one.row for _, one in passed], lanes)
        for view, reference in enumerate(self._references):
            entering = np.flatnonzero(allowed[:, view])
            reference.insert(
                entries[entering, self._columns[view]], index[entering], times[entering], rows=rows[entering]
            )

    def _range_novelty_and_leave(self, batch: Batch, part: slice, index: I64, dues: list[Due]) -> tuple[F32, Bools]:
        """Return novelty of range, float32 [lanes], and which lanes may alarm, bool [lanes].

        Novelty is 0 inside all ever seen, else 1 + log10(excess / tolerance). A lane may alarm when it deviates by
        more than its last digit, and as the operator asked for.
        """
        tails = batch.tails[part]
        centre, spread = batch.table[part, 0, 0, 0], batch.table[part, 0, 0, 1]
        last, means = tails[:, -1], tails[:, -_RANGE_MEAN_POINTS:].mean(axis=1)
        values = np.stack([last, means], axis=1).astype(np.float64)
        low, high = self._low[index], self._high[index]
        known = np.isfinite(low) & ~np.isnan(values)
        width = np.where(known, high - low, 0.0)
        tolerance = np.maximum(np.array(_RANGE_TOLERANCES) * width, _RANGE_LEAST * spread[:, None])
        excess = np.where(known, np.maximum(values - high, low - values), 0.0) / tolerance
        outside = excess > 1.0
        novelty = np.where(outside, 1.0 + np.log10(np.where(outside, excess, 1.0)), 0.0).max(axis=1)
        if self.settings.mode is Mode.ADAPT:
            self._low[index] = np.fmin(low, values)
            self._high[index] = np.fmax(high, values)

        alert = self.settings.alert
        peaks = np.nan_to_num(np.abs(tails[:, -self.views[0].length :] - centre[:, None])).max(axis=1)
        may_alarm = ~batch.floored[part] | (peaks > _LAST_DIGIT * spread)
        deviation = means - centre
        if alert.direction is not Direction.BOTH:
            may_alarm &= (deviation > 0) == (alert.direction is Direction.UP)
        if alert.min_change:
            changes = np.concatenate([due.detector.least_change for due in dues])
            usual = np.concatenate([due.base for due in dues]) + centre
            least = changes[:, 0] + changes[:, 1] * np.abs(usual)
            may_alarm &= np.fmax(np.abs(deviation), np.abs(last - centre)) >= least
        return novelty.astype(np.float32), may_alarm

    def warm_up(self, due: WarmUp) -> Generator[WarmUpPart]:
        """Learn a warm-up: fill the references and calibrate on it, each window scored without its neighbours.

        Yields windows, some of one channel at a time, all with the warm-up's own scale; who embeds them puts float32
        [windows, dim] into `embedding` before going on. There are parts without a window, too. The stream is active
        when nothing more comes. Other streams may have their turn in between; who closes it instead gives the warm-up
        up, and the stream learns on.
        """
        detector = due.detector
        rows = detector.grid.rows(RING_ROWS)
        first, last = lanes = self._allocate(rows.shape[1])
        try:
            yield from self._learn_warm_up(due, rows, first, last)
        except GeneratorExit:
            self._give_back(lanes)
            raise
        detector.begin(lanes)

    def _learn_warm_up(self, due: WarmUp, rows: F32, first: int, last: int) -> Iterator[WarmUpPart]:
        """Learn a warm-up's rows, float32 [rows, channels], in these lanes; yields as `warm_up` does."""
        detector = due.detector
        begun = detector.grid.total_rows - len(rows)
        for index, series in enumerate((rows, _rolling_mean(rows, _RANGE_MEAN_POINTS))):
            unknown = np.full((1, series.shape[1]), np.inf)
            self._low[first:last, index] = np.nanmin(np.vstack([series, unknown]), axis=0)
            self._high[first:last, index] = np.nanmax(np.vstack([series, -unknown]), axis=0)
        points = np.ascontiguousarray(rows.T)
        self._frozen.follow(np.arange(first, last), points, np.full(last - first, len(points[0]) - 1))
        if self._season is not None:
            self._season.fill(first, last, rows, due.at, detector.grid.period_s or 1.0)
        missing = np.cumsum(np.isnan(np.vstack([np.zeros((1, rows.shape[1])), rows])), axis=0)
        for index, view in enumerate(self.views):
            step = self._warm_up_step(view, detector.stride, len(rows))
            ends = np.arange(len(rows), view.span - 1, -step)[::-1]
            usable = missing[ends] == missing[ends - view.span]
            ends, usable = ends[usable.any(axis=1)], usable[usable.any(axis=1)]
            if len(ends) == 0:
                continue
            times = due.at - (len(rows) - ends) * (detector.grid.period_s or 1.0)
            guard = -(-view.span // step)
            for place, series in enumerate(points):
                good = usable[:, place]
                if not good.any():
                    continue
                table = detector.scale.table[place : place + 1]
                embedded = []
                for start in range(0, int(good.sum()), _WARM_UP_WINDOWS):
                    some = ends[good][start : start + _WARM_UP_WINDOWS]
                    tails = series[some[:, None] + np.arange(-view.span, 0)]
                    part = WarmUpPart(view, windows((view,), tails, np.repeat(table, len(some), axis=0))[0])
                    yield part
                    assert part.embedding is not None
                    embedded.append(part.embedding)
                queries = self._references[index].quantize(np.concatenate(embedded))
                self._learn(first + place, index, queries, times[good], begun + ends[good], guard)
        if self.settings.mode is Mode.HOLD:
            joint = self._joint()
            times = due.at - np.arange(len(rows) - 1, -1, -1) * (detector.grid.period_s or 1.0)
            view = self.views[0]
            for _ in joint.learn(rows, times, detector.scale.table[:, 0, 0, 1].astype(np.float64)):
                yield WarmUpPart(view, np.zeros((0, view.length, 2), np.float32))
            detector.joint = joint

    def _joint(self) -> JointReference:
        return JointReference(self.settings.reference.size, self.settings.score.neighbours)

    def _warm_up_step(self, view: View, stride: int, rows: int) -> int:
        return max(1, min(stride, (rows - view.span) // self.settings.reference.warm_up or 1))

    def _learn(self, lane: int, view: int, entries: I8, times: F64, rows: I64, guard: int) -> None:
        """Take a warm-up's windows of one lane as its references, and its calibration from their distances."""
        reference = self._references[view]
        every = self.views[view].every
        reference.fill(lane, entries[::-every][::-1], times[::-every][::-1], rows[::-every][::-1])
        if len(entries) >= MIN_REFERENCES:
            self._calibrate(lane, view, _pairwise(entries, reference.step, guard, np.arange(len(entries))))

    def _calibrate(self, lane: int, view: int, squared: F32) -> None:
        """Start a lane's calibration from the distances among its warm-up's windows, float32 [n, n]."""
        self._begin_view(lane, view, *self._past_scores(squared))

    def _past_scores(self, squared: F32) -> tuple[F32, np.float32]:
        """Return what each of n windows scores against the others, float32 [n], and the bandwidth for that."""
        settings = self.settings.score
        nothing = np.ones(1, np.float32)
        neighbour = SCORERS[ScoreMethod.DISTANCE](squared, settings.neighbours, nothing)
        bandwidth = np.exp(np.median(neighbour)).astype(np.float32)
        repeated = np.full(len(squared), bandwidth, np.float32)
        return SCORERS[settings.method](squared, settings.neighbours, repeated), bandwidth

    def _begin_view(self, lane: int, view: int, raw: F32, bandwidth: np.float32) -> None:
        self._bandwidths[lane, view] = bandwidth
        row = lane * len(self.views) + view
        self._calibration.fill(row, raw)
        self._policy.prime(row, raw)

    def _allocate(self, channels: int) -> tuple[int, int]:
        first = next((start for start, stop in self._free if stop - start == channels), self._lanes)
        last = first + channels
        if first < self._lanes:
            self._free.remove((first, last))
        for reference in self._references:
            reference.make_room(first, last)
        self._calibration.make_room(first * len(self.views), last * len(self.views))
        self._policy.make_room(first * len(self.views), last * len(self.views))
        self._frozen.make_room(first, last)
        if self._season is not None:
            self._season.make_room(first, last)
        for name, value in (("_bandwidths", 1.0), ("_low", np.inf), ("_high", -np.inf)):
            array = grown(getattr(self, name), last)
            array[first:last] = value
            setattr(self, name, array)
        self._lanes = max(self._lanes, last)
        return first, last

    def frozen_since(self, due: Due, channel: int) -> float:
        """Return when a channel's value came that it has had since, in seconds since the epoch."""
        run = int(self._frozen.run[due.detector.index[channel]])
        return due.at - (run - 1) * (due.detector.grid.period_s or 1.0)

    def nearest(self, due: Due, channel: int) -> list[tuple[float, float]]:
        """Return (time, distance) of the references nearest to a decision's values, for the evidence."""
        if due.detector.joint is not None:
            return due.detector.joint.nearest(due.detector.joint.embed(due.tail), 3)
        if due.run[channel] < self.views[0].span:
            return []
        made = windows(self.views[:1], due.tail[channel : channel + 1], due.table[channel : channel + 1])[0]
        reference = self._references[0]
        query = reference.quantize(plain(made))[0]
        return reference.nearest(query, int(due.detector.index[channel]), 3, self._workspace)

    def unlike_since(self, due: Due, found: Assessment, channel: int, started_at: float) -> tuple[float, bool]:
        """Return since when nothing in a channel was as unlike its past as now, and whether anything ever was.

        Seconds since the epoch, counted in decisions back from this one; what is older than the calibration is
        unknown, then its beginning is returned. `started_at`: decisions since then are this same event.
        """
        views = np.nan_to_num(found.view_scores[:, channel], nan=-1.0)
        view = int(views.argmax())
        raw = float(found.raw_scores[view, channel])
        interval = due.detector.stride * (due.detector.grid.period_s or 1.0)
        event = round((due.at - started_at) / interval) + 1
        row = int(due.detector.index[channel]) * len(self.views) + view
        ago, ever = self._calibration.last_at_least(row, raw, event)
        return due.at - ago * interval, ever

    def snapshot(self, detector: StreamDetector) -> dict[str, Any]:
        """Return everything that a stream needs to go on as if never stopped; arrays are copies."""
        state = detector.snapshot()
        if detector.lanes is not None:
            state["learnt"] = self.learnt(detector)
        return state

    def learnt(self, detector: StreamDetector) -> dict[str, Any]:
        """Return what an active stream has in its lanes, for `take_up`; arrays are copies."""
        assert detector.lanes is not None
        first, last = detector.lanes
        views = len(self.views)
        return {
            "references": [one.snapshot(first, last) for one in self._references],
            "calibration": self._calibration.snapshot(first * views, last * views),
            "joint": None if detector.joint is None else detector.joint.snapshot(),
            **self._row_state(first, last),
        }

    def _row_state(self, first: int, last: int) -> dict[str, Any]:
        """Return what is small for each lane, for `_restore_rows`; arrays are copies."""
        views = len(self.views)
        return {
            "policy": self._policy.snapshot(first * views, last * views),
            "frozen": self._frozen.snapshot(first, last),
            "season": None if self._season is None else self._season.snapshot(first, last),
            "bandwidths": self._bandwidths[first:last].copy(),
            "low": self._low[first:last].copy(),
            "high": self._high[first:last].copy(),
        }

    def restore(self, detector: StreamDetector, state: dict[str, Any]) -> None:
        """Let a new stream go on from a snapshot made with the same settings and views."""
        learnt = state.get("learnt")
        lanes = None
        if learnt is not None:
            lanes = self.take_up(learnt)
            self._restore_joint(detector, learnt["joint"])
        detector.restore(state, lanes)

    def _restore_joint(self, detector: StreamDetector, state: dict[str, Any] | None) -> None:
        if state is not None:
            detector.joint = self._joint()
            detector.joint.restore(state)

    def take_up(self, learnt: dict[str, Any]) -> tuple[int, int]:
        """Take up what `learnt` returned in lanes of their own, which are returned."""
        lanes = self._restore_lanes(learnt)
        self._restore_rows(lanes, learnt)
        return lanes

    def _restore_lanes(self, learnt: dict[str, Any]) -> tuple[int, int]:
        """Take up references and past scores in lanes of their own, which are returned."""
        first, last = self._allocate(len(learnt["low"]))
        for one, saved in zip(self._references, learnt["references"], strict=True):
            one.restore(first, saved)
        self._calibration.restore(first * len(self.views), learnt["calibration"])
        return first, last

    def _restore_rows(self, lanes: tuple[int, int], learnt: dict[str, Any]) -> None:
        """Take up what is small for each lane."""
        first, last = lanes
        self._policy.restore(first * len(self.views), learnt["policy"])
        self._frozen.restore(first, learnt["frozen"])
        self._bandwidths[first:last] = learnt["bandwidths"]
        self._low[first:last], self._high[first:last] = learnt["low"], learnt["high"]
        if self._season is not None:
            self._season.restore(first, learnt["season"])

    # What was learnt since the last snapshot

    def addition(self, detector: StreamDetector) -> dict[str, Any] | None:
        """Return what a stream has learnt since its diary began, for `rebuild`; None: it takes a whole snapshot."""
        since, grid = detector.diary.since, detector.grid
        if since is None or detector.lanes is None:
            return None
        added = grid.total_rows - since
        if added > RING_ROWS:
            return None
        rows = grid.rows(added) if added else np.empty((0, len(grid.channels)), np.float32)
        noted = detector.diary.decisions(len(grid.channels), len(self.views))
        state = detector.snapshot()
        del state["waiting"], state["grid"]["rows"]
        first, last = detector.lanes
        views = len(self.views)
        counted = (noted["flags"] & COUNTS > 0).sum(axis=0).reshape(-1)
        return {
            "grid_rows": packed(rows, grid.base),
            "decisions": noted,
            "state": state,
            "references": [one.places(first, last) for one in self._references],
            "calibration": self._calibration.addition(first * views, last * views, counted),
            "joint": None if detector.joint is None else detector.joint.addition(),
            **self._row_state(first, last),
        }

    def rebuild(
        self, detector: StreamDetector, state: dict[str, Any], additions: list[dict[str, Any]]
    ) -> Iterator[WarmUpPart]:
        """Let a new stream go on from a snapshot and the additions to it, at least one, as if it had never stopped.

        Yields windows, which are to be embedded as those of `warm_up` are.
        """
        newest_state = additions[-1]["state"]
        detector.take_stride(newest_state)
        lanes = self._restore_lanes(state["learnt"])
        first, last = lanes
        for one in additions:
            self._calibration.extend(first * len(self.views), one["calibration"])
        grid, base = state["grid"], newest_state["grid"]["base"]
        fresh = np.array(grid["fresh"]).reshape(len(grid["fresh"]), last - first) - grid["base"]
        past = Past(
            state["scale"]["table"],
            [grid["rows"], fresh.astype(np.float32), *(unpacked(one["grid_rows"], base) for one in additions)],
            newest_state["grid"]["total_rows"],
            [one["decisions"] for one in additions],
        )
        old = [Waiting(*one[:3], *map(int, one[3:])) for one in state["waiting"]]
        yet = min(detector.guard, len(old) + len(past.rows))  # wait still
        queries = np.zeros((len(past.rows), last - first, self._columns[-1].stop), np.int8)
        entering = past.flags & ENTERS > 0
        passed = len(past.rows) - min(yet, len(past.rows))
        ended = len(old) - max(0, yet - len(past.rows))
        for view, reference in enumerate(self._references):
            wanted = entering[:, :, view].copy()
            wanted[:passed] = newest(wanted[:passed], reference.size)
            yield from self._embed_again(past, view, wanted, queries)
            for channel in range(last - first):
                here = np.flatnonzero(wanted[:passed, channel])
                earlier = [one for one in old[:ended] if one.admitted[channel, view]]
                entries = [one.query[None, channel, self._columns[view]] for one in earlier]
                entries.append(queries[here, channel, self._columns[view]])
                times = np.concatenate([np.array([one.at for one in earlier]), past.times[here]])
                ends = np.concatenate([np.array([one.row for one in earlier], np.int64), past.rows[here]])
                places = additions[-1]["references"][view]
                reference.put_back(first, channel, np.concatenate(entries), times, places, ends)
        self._restore_rows(lanes, additions[-1])
        self._restore_joint(detector, state["learnt"]["joint"])
        if detector.joint is not None:
            for one in additions:
                detector.joint.extend(one["joint"])
        waiting = old[ended:] + [
            Waiting(query, enters, float(at), int(row))
            for query, enters, at, row in zip(
                queries[passed:], entering[passed:], past.times[passed:], past.rows[passed:], strict=True
            )
        ]
        detector.restore(
            {
                **newest_state,
                "grid": {**newest_state["grid"], "rows": past.tail(RING_ROWS)},
                "waiting": [msgspec.structs.astuple(one) for one in waiting],
            },
            lanes,
        )

    def _embed_again(self, past: Past, view: int, wanted: Bools, queries: I8) -> Iterator[WarmUpPart]:
        """Embed the windows of the past that are wanted, bool [decisions, channels], into `queries`."""
        decisions, channels = np.nonzero(wanted)
        made, reference = self.views[view], self._references[view]
        for start in range(0, len(decisions), _EMBEDDED_AGAIN):
            some = slice(start, start + _EMBEDDED_AGAIN)
            points, tables = past.lanes(decisions[some], channels[some], made.span)
            part = WarmUpPart(made, windows((made,), points, tables)[0])
            yield part
            assert part.embedding is not None
            queries[decisions[some], channels[some], self._columns[view]] = reference.quantize(part.embedding)

    # Another encoder

    def rows(self, detector: StreamDetector, view: int, channel: int) -> I64:
        """Return the rows of the grid that a channel's references of an encoder's view end with, 0: not known."""
        return self._references[view].rows(int(detector.index[channel]))

    def columns(self, view: int) -> slice:
        """Return where a view's embedding lies in what waits and what is held."""
        return self._columns[view]

    def quantized(self, view: int, embedding: F32) -> I8:
        """Return embeddings as a view's reference keeps them."""
        return self._references[view].quantize(embedding)

    def compared(self, view: int, entries: I8, rows: I64) -> tuple[F32, np.float32] | None:
        """Return what references score against one another, and the bandwidth for that; None where they are too few.

        `entries` int8 [n, dim] and `rows` of the grid int64 [n], ascending: windows that overlap are not compared.
        """
        if len(entries) < MIN_REFERENCES:
            return None
        return self._past_scores(_pairwise(entries, self.views[view].step, self.views[view].span, rows))

    def begin_view(self, lane: int, view: int, past: tuple[F32, np.float32] | None) -> None:
        """Give a view that another encoder embeds the past that `compared` found, or none."""
        row = lane * len(self.views) + view
        self._calibration.make_room(row, row + 1)
        self._policy.make_room(row, row + 1)
        if past is not None:
            self._begin_view(lane, view, *past)

    def remembers(self, detector: StreamDetector, old: DetectorBank, before: StreamDetector) -> bool:
        """Tell whether a detector has as many references as a warm-up gives, or as the old one has."""
        wanted = self.settings.reference.warm_up
        for view, one in enumerate(self.views):
            had = old._references[view].count[before.index]
            if (self._references[view].count[detector.index] < np.minimum(had, wanted // one.every)).any():
                return False
        return True

    def knows_enough(self, detector: StreamDetector, old: DetectorBank, before: StreamDetector) -> bool:
        """Tell whether a detector `remembers` enough, and has as many past scores, by the same measure."""
        views = np.arange(len(self.views))
        here, there = (index[:, None] * len(views) + views for index in (detector.index, before.index))
        wanted = np.minimum(old._calibration.count[there], self.settings.reference.warm_up)
        return self.remembers(detector, old, before) and bool((self._calibration.count[here] >= wanted).all())

    # What an operator commands

    def quarantine(self, due: Due, alert: str, *, firing: bool) -> None:
        """Keep what a stream's latest decision was refused for being odd, for an alert that is pending or fires.

        Where nothing is learnt at once, those that left the known range are kept too.
        """
        detector = due.detector
        newest, lanes = detector.waiting[-1], detector.index
        means = due.tail[:, -_RANGE_MEAN_POINTS:].mean(axis=1)
        values = np.stack([due.tail[:, -1], means], axis=1).astype(np.float64)
        rows = lanes[:, None] * len(self.views) + np.arange(len(self.views))
        odd = self._policy.refused_run[rows] > 0
        if self.settings.mode is not Mode.ADAPT:
            odd |= ((values < self._low[lanes]) | (values > self._high[lanes])).any(axis=1, keepdims=True)
        refused = ~newest.admitted & (due.run[:, None] >= np.array([view.span for view in self.views]))
        channels = np.flatnonzero((odd & refused).any(axis=1))
        held = Held(due.at, channels, newest.query[channels], refused[channels], values[channels], due.row)
        detector.quarantine.keep(alert, held if len(channels) else None, firing=firing)
        if detector.joint is not None:
            detector.joint.hold_back(alert)

    def accept(self, detector: StreamDetector, alert: str) -> int:
        """Learn an alert's refused windows; return how many, in the channel and view with most.

        They enter the references, widen the known range, and a few of them count in the calibration as what they would
        score when they come again. `detector` must be active and the alert not accepted yet.
        """
        assert detector.lanes is not None
        first, last = detector.lanes
        detector.diary.end()
        held = detector.quarantine.held(alert)
        mark = detector.quarantine.next_mark()
        entered: I64 = np.zeros((last - first, len(self.views)), np.int64)
        for view, reference in enumerate(self._references):
            reference.unmark(first, last, mark)
            for one in held:
                here = one.refused[:, view]
                channels = one.channels[here]
                times = np.full(len(channels), one.at)
                reference.insert(one.query[here, self._columns[view]], first + channels, times, mark, one.row)
                entered[channels, view] += 1
        rows, scores = [], []
        for channel, view in np.argwhere(entered):
            for score in self._scores_apart(first + int(channel), int(view), int(entered[channel, view])):
                row = int(channel) * len(self.views) + int(view)
                self._calibration.add(np.array([first * len(self.views) + row]), np.array([score], np.float32))
                rows.append(row)
                scores.append(score)
        low = widened(self._low[first:last], held, np.fmin)
        high = widened(self._high[first:last], held, np.fmax)
        made = Accepted(mark, np.array(rows, np.int64), np.array(scores, np.float32), low, high)
        detector.quarantine.accept(alert, made)
        if detector.joint is not None:
            return detector.joint.accept(alert, mark)
        return int(entered.max(initial=0))

    def _scores_apart(self, lane: int, view: int, count: int) -> list[float]:
        """Return what some of a lane's `count` newest references score against all those that do not overlap much."""
        reference, settings = self._references[view], self.settings.score
        apart = -(-count // _ACCEPTED_SCORES)
        if reference.count[lane] < MIN_REFERENCES + 2 * apart:
            return []
        places = reference.newest(lane, count)
        bandwidth = self._bandwidths[lane : lane + 1, view]
        scores = []
        for place in range(0, count, apart):
            query = reference.entry(lane, int(places[place]))[None]
            squared = reference.squared_distances(query, Lanes.of((lane, lane + 1)), self._workspace)
            squared[0, places[max(0, place - apart + 1) : place + apart]] = np.inf
            scores.append(float(SCORERS[settings.method](squared, settings.neighbours, bandwidth)[0]))
        return scores

    def forget_alert(self, detector: StreamDetector, alert: str) -> int:
        """Take back what accepting an alert changed; return how many windows left, 0 if it was not accepted.

        Raises TooFewLeftError, and then changes nothing.
        """
        accepted = detector.quarantine.accepted(alert)
        if accepted is None:
            return 0
        assert detector.lanes is not None
        first, last = detector.lanes
        joint = detector.joint
        leaving = [one.marked(first, last, accepted.mark) for one in self._references]
        left = self._take_out(detector, leaving, None if joint is None else joint.marked(accepted.mark))
        for row in np.unique(accepted.rows):
            self._calibration.remove(first * len(self.views) + int(row), accepted.scores[accepted.rows == row])
        narrowed(self._low[first:last], accepted.low)
        narrowed(self._high[first:last], accepted.high)
        detector.quarantine.forget(alert)
        return int(left.max(initial=0)) if joint is None else joint.forget(accepted.mark)

    def forget_span(self, detector: StreamDetector, begin: float, end: float) -> int:
        """Take the windows of a time span out of the references, and those that wait; return how many.

        Both ends (s since the epoch, in whole seconds) belong to it. Raises TooFewLeftError, and then changes nothing.
        """
        assert detector.lanes is not None
        first, last = detector.lanes
        joint = detector.joint
        leaving = [one.within(first, last, begin, end) for one in self._references]
        left = self._take_out(detector, leaving, None if joint is None else joint.within(begin, end))
        low, high = whole_seconds(np.array([begin, end]))
        for one in detector.waiting:
            if low <= whole_seconds(np.array(one.at)) <= high:
                left += one.admitted
                one.admitted[:] = False
        return int(left.max(initial=0)) if joint is None else joint.forget_span(begin, end)

    def _take_out(self, detector: StreamDetector, leaving: list[Bools], joint: Bools | None) -> I64:
        """Take references out, bool [lanes, size] for each view; return how many left, int64 [lanes, views].

        Raises TooFewLeftError, and then changes nothing. `joint` bool [entries] will leave the joint view: its caller
        takes them out.
        """
        assert detector.lanes is not None
        first, last = detector.lanes
        left: I64 = np.stack([one.sum(axis=1) for one in leaving], axis=1)
        count = np.stack([one.count[first:last] for one in self._references], axis=1)
        told, would = (count >= MIN_REFERENCES).any(axis=1), (count - left >= MIN_REFERENCES).any(axis=1)
        if (told & ~would).any() or (joint is not None and int((~joint).sum()) < MIN_REFERENCES):
            raise TooFewLeftError(f"at least {MIN_REFERENCES} windows that stay in each channel")
        detector.diary.end()
        for reference, one in zip(self._references, leaving, strict=True):
            reference.remove(first, one)
        return left

    def release(self, detector: StreamDetector) -> None:
        """Take back the lanes of a stream that is given up; a stream with as many channels may have them.

        The memory of those at the end is given back.
        """
        if detector.lanes is not None:
            self._give_back(detector.lanes)

    def _give_back(self, lanes: tuple[int, int]) -> None:
        self._free.append(lanes)
        while (last := next((span for span in self._free if span[1] == self._lanes), None)) is not None:
            self._free.remove(last)
            self._lanes = last[0]
        for reference in self._references:
            reference.trim(self._lanes)
        trimmed(self._calibration.scores, self._lanes * len(self.views))


class TooFewLeftError(Exception):
    """So much was to be forgotten that nothing could be told any more. The text says what was expected."""


def combined(part_scores: F32, starts: list[int]) -> F64:
    """Return the scores of streams: -log10 of the harmonic mean of their channels' p-values (Wilson 2019), float64.

    One strong channel among n counts as Bonferroni would have it, many agreeing channels as one of them.
    `part_scores` float32 [lanes]; stream i has the lanes starts[i] to starts[i + 1], at least one.
    """
    first = starts[:-1]
    counts = np.diff(starts)
    highest = np.maximum.reduceat(part_scores.astype(np.float64), first)
    shares = np.power(10.0, part_scores - np.repeat(highest, counts))
    return np.asarray(highest + np.log10(np.add.reduceat(shares, first) / counts), np.float64)


def _pairwise(entries: I8, step: float, guard: int, order: I64) -> F32:
    """Return squared distances between the entries, float32 [n, n], inf among neighbours in time.

    Those are less than `guard` apart in `order`, int64 [n] ascending, or than an eighth of all of it, if that is less.
    """
    floats = np.ascontiguousarray(entries).astype(np.float32)
    norms = np.square(floats).sum(axis=1)
    squared = norms[:, None] + norms[None, :] - 2.0 * (floats @ floats.T)
    eighth = (int(order[-1]) - int(order[0]) + 1) // 8
    squared[np.abs(order[:, None] - order[None, :]) < min(guard, max(1, eighth))] = np.inf
    return np.asarray(np.maximum(squared, 0.0) * step * step, np.float32)


def _rolling_mean(rows: F32, count: int) -> F32:
    """Return the means of `count` consecutive rows, float32 [rows - count + 1, channels], NaN where one is missing."""
    start = np.zeros((1, rows.shape[1]))
    sums = np.cumsum(np.vstack([start, np.nan_to_num(rows).astype(np.float64)]), axis=0)
    missing = np.cumsum(np.vstack([start, np.isnan(rows)]), axis=0)
    count = min(count, len(rows))
    means = (sums[count:] - sums[:-count]) / count
    means[missing[count:] > missing[:-count]] = np.nan
    return np.asarray(means, np.float32)
