"""Scores of every method on the clean run and on each injection, which starts from the detector's state there."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from agent.core.calibration import Calibration
from agent.core.lanes import Lanes
from agent.core.reference import AdmissionPolicy
from agent.core.types import F32, F64, I64, Mode
from tests.benchmarks.competitors import Competitor
from tests.benchmarks.delay.streams import Injection, Stream
from tests.benchmarks.detection.drive import Driver
from tests.benchmarks.detection.encoders import BenchmarkEncoder
from tests.benchmarks.detection.injected import TOGETHER, Job
from tests.benchmarks.detection.injected import play as play_jobs

_EPOCH_ROW = 1_000_000
Plan = dict[str, list[Injection]]


@dataclass
class Scored:
    """A stream's scores, float64 [rows], and those of its injections, float64 [length + 16]; NaN without a decision."""

    stream: Stream
    injections: list[Injection]
    scores: F64
    branches: list[F64]


def ours(encoder: BenchmarkEncoder, streams: list[Stream], plan: Plan, progress: str) -> list[Scored]:
    """Run the agent's core with its defaults."""
    driver = Driver(encoder)
    feeds, jobs, owners = {}, [], []
    scored = {s.name: Scored(s, [], np.empty(0), []) for s in streams}
    at_row: dict[int, list[tuple[str, Injection]]] = {}
    for stream in streams:
        at = _EPOCH_ROW + np.arange(len(stream.values), dtype=np.float64)
        feeds[stream.name] = driver.feed(stream.name, at, stream.values[:, None], driver.warm_up_rows)
        for one in plan[stream.name]:
            at_row.setdefault(one.row, []).append((stream.name, one))
    total = sum(len(s.values) for s in streams) + 80 * sum(len(p) for p in plan.values())
    with tqdm(total=total, desc=progress, unit="row", leave=False, disable=None) as bar:

        def played() -> None:
            play_jobs(driver, jobs, bar)
            for (name, one), job in zip(owners, jobs, strict=True):
                assert job.scores is not None
                scored[name].injections.append(one)
                scored[name].branches.append(job.scores.astype(np.float64))
            jobs.clear()
            owners.clear()

        def before_row(row: int) -> None:
            if row not in at_row:
                return
            driver.flush()
            for name, one in at_row[row]:
                at = _EPOCH_ROW + row + np.arange(len(one.values), dtype=np.float64)
                jobs.append(Job(driver.bank.snapshot(feeds[name].detector), at, one.values, one.length, {}))
                owners.append((name, one))
            if len(jobs) >= TOGETHER:
                played()

        driver.run(list(feeds.values()), bar, before_row)
        played()
    for name, feed in feeds.items():
        scored[name].scores = feed.scores.astype(np.float64)
    return list(scored.values())


def competitor(
    make: type[Competitor], streams: list[Stream], plan: Plan, first: int, progress: str
) -> tuple[list[Scored], list[Scored]]:
    """Run another detector; return its own scores, NaN before row `first`, and the raw ones for our head."""
    own, raw = [], []
    with tqdm(total=sum(len(s.values) for s in streams), desc=progress, unit="row", leave=False, disable=None) as bar:
        for stream in streams:
            injections = sorted(plan[stream.name], key=lambda one: one.row)
            waiting = list(injections)
            made, branches = np.full((len(stream.values), 2), np.nan), []
            detector = make()
            for row, value in enumerate(stream.values.tolist()):
                while waiting and waiting[0].row == row:
                    branches.append(forked(detector, waiting.pop(0).values))
                made[row] = detector.step(value)
                if row % 100 == 0:
                    bar.update(min(100, len(stream.values) - row))
            raw.append(Scored(stream, injections, made[:, 1].copy(), [one[:, 1] for one in branches]))
            made[:first] = np.nan
            own.append(Scored(stream, injections, made[:, 0], [one[:, 0] for one in branches]))
    return own, raw


def forked(detector: Competitor, values: F64) -> F64:
    """Return what a detector says of these values, float64 [rows, 2], and leave it as it was: a copy of the process."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(source)
            made = np.array([detector.step(value) for value in values.tolist()])
            os.write(sink, made.tobytes())
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    with os.fdopen(source, "rb") as file:
        content = file.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a copy of the detector failed at one of {len(values)} values")
    return np.frombuffer(content).reshape(len(values), 2)


def through_our_head(raw: list[Scored], first: int) -> list[Scored]:
    """Turn raw scores into -log10 p as the agent does: its calibration, its tail, its rule for what is counted.

    What came before row `first` is the warm-up, as in the agent.
    """
    calibration, policy = Calibration(), AdmissionPolicy(Mode.ADAPT)
    calibration.make_room(0, len(raw))
    policy.make_room(0, len(raw))
    for lane, one in enumerate(raw):
        warm_up = one.scores[:first]
        known = warm_up[~np.isnan(warm_up)].astype(np.float32)
        calibration.fill(lane, known)
        policy.prime(lane, known)
    rows = max(len(one.scores) for one in raw)
    padded = np.full((rows, len(raw)), np.nan)
    for lane, one in enumerate(raw):
        padded[: len(one.scores), lane] = one.scores
    padded[:first] = np.nan
    out = np.full(padded.shape, np.nan)
    waiting: dict[int, list[tuple[int, int]]] = {}
    for lane, one in enumerate(raw):
        for number, injected in enumerate(one.injections):
            waiting.setdefault(injected.row, []).append((lane, number))
    branches: list[list[F64]] = [[np.empty(0)] * len(one.branches) for one in raw]
    lanes = Lanes.of((0, len(raw)))
    for row in range(first, rows):
        for lane, number in waiting.get(row, []):
            copies = Calibration(), AdmissionPolicy(Mode.ADAPT)
            for copied, original in zip(copies, (calibration, policy), strict=True):
                copied.make_room(0, 1)
                copied.restore(0, original.snapshot(lane, lane + 1))
            values = raw[lane].branches[number]
            one_lane = Lanes.of((0, 1))
            made = [_head_step(*copies, one_lane, np.array([v], np.float32))[0] for v in values.tolist()]
            branches[lane][number] = np.array(made)
        out[row] = _head_step(calibration, policy, lanes, padded[row].astype(np.float32))
    return [
        Scored(one.stream, one.injections, out[: len(one.scores), lane], branches[lane]) for lane, one in enumerate(raw)
    ]


def _head_step(calibration: Calibration, policy: AdmissionPolicy, lanes: Lanes, raw: F32) -> F64:
    p_values = calibration.p_values(lanes, raw)
    _, counted = policy.admit(lanes.index, raw)
    counted &= ~np.isnan(raw)
    index: I64 = lanes.index[counted]
    calibration.add(index, raw[counted])
    return -np.log10(p_values)
