"""Disturbances injected into real recordings: how many are found when clean rows may alarm 1 in 1,000 or 10,000.

A clean run of each stream gives the thresholds. At some rows of it the detector's state is copied into another bank,
and there the next rows go on disturbed: every injection meets a detector that has seen no disturbance yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agent.core.types import F32, F64, StreamPhase
from tests.benchmarks.detection.disturbances import KINDS, LONGEST, STRENGTHS, disturbed, robust_std
from tests.benchmarks.detection.drive import Driver, Feed
from tests.benchmarks.detection.encoders import BenchmarkEncoder
from tests.benchmarks.detection.nab import read_stamps
from tests.benchmarks.detection.recordings import Table, periods, read_table

WARM_UP_ROWS = 600
RATES = (1e-3, 1e-4)
_ROWS = 2600  # of each stream: a day of one source must not outweigh all others
_LEAST_ROWS = 1500
_STRETCH = 3000  # rows free of labels that a file of NAB with anomalies must have
AFTER_ROWS = 16  # an alarm so soon after a disturbance is one for it
_EVENT_ROWS = 100
_EVERY = 96  # rows between injections
_FIRST = WARM_UP_ROWS + 200
TOGETHER = 96  # injections played side by side
_MOST_MISSING = 0.25  # share of missing values above which a column is no stream
_MISSING = -200.0  # as AirQuality.csv writes it
_SEED = 9
_ROOM = ("Temperature", "Humidity", "Light", "CO2", "HumidityRatio")


@dataclass(frozen=True)
class Stream:
    """A recording of one channel: `at` float64 [rows] in periods, `values` float64 [rows], NaN where missing."""

    name: str
    at: F64
    values: F64


@dataclass
class Job:
    """An injection to be played: the detector's state before it, and what comes next, [length + 16] rows or more.

    `scores` float32 [length + 16] is there once it was played.
    """

    state: dict[str, Any]
    at: F64
    values: F64
    length: int
    found: dict[str, Any]
    scores: F32 | None = None


class Injected:
    """The streams, and which disturbance meets each of them where, made once."""

    def __init__(self, data: Path) -> None:
        self.streams = [*_air(data), *_rooms(data), *_testbed(data), *_nab(data)]
        rng = np.random.default_rng(_SEED)
        wanted = [(kind, strength) for kind in KINDS for strength in STRENGTHS]
        self.plan: dict[int, list[tuple[Stream, str, float, int]]] = {}
        deck: list[tuple[str, float]] = []
        for stream in self.streams:
            if robust_std(stream.values) == 0.0:
                continue  # anything at all is found in a constant
            for row in range(_FIRST, len(stream.at) - LONGEST - AFTER_ROWS, _EVERY):
                ahead = slice(row, row + LONGEST + AFTER_ROWS)
                if np.isnan(stream.values[ahead]).any() or (np.rint(np.diff(stream.at[ahead])) != 1).any():
                    continue
                if not deck:
                    deck = [wanted[place] for place in rng.permutation(len(wanted))]
                kind, strength = deck.pop()
                self.plan.setdefault(row, []).append((stream, kind, strength, int(rng.integers(2**32))))

    def run(self, encoder: BenchmarkEncoder) -> dict[str, object]:
        """Return recall at each rate, overall and by kind and strength, and how many decisions and injections."""
        driver = Driver(encoder)
        feeds = {s.name: driver.feed(s.name, s.at, s.values[:, None], WARM_UP_ROWS) for s in self.streams}
        jobs: list[Job] = []
        results: list[dict[str, Any]] = []
        total = sum(len(s.at) for s in self.streams)
        total += sum(len(planned) for planned in self.plan.values()) * (LONGEST + AFTER_ROWS)
        with tqdm(total=total, desc=f"{encoder.name}: injected", unit="row", leave=False) as bar:

            def before_row(row: int) -> None:
                driver.flush()  # what a copy is made of has decided all that came before
                for stream, kind, strength, seed in self.plan.get(row, ()):
                    job = _job(driver, feeds[stream.name], stream, row, kind, strength, seed)
                    if job is None:
                        bar.update(LONGEST + AFTER_ROWS)
                        continue
                    jobs.append(job)
                    results.append(job.found)
                while len(jobs) >= TOGETHER:
                    play(driver, [jobs.pop(0) for _ in range(TOGETHER)], bar)

            driver.run(list(feeds.values()), bar, lambda row: before_row(row) if row in self.plan else None)
            play(driver, jobs, bar)
        return summary(feeds, results)


def _job(driver: Driver, feed: Feed, stream: Stream, row: int, kind: str, strength: float, seed: int) -> Job | None:
    if feed.detector.phase is not StreamPhase.ACTIVE:
        return None
    ahead = slice(row, row + LONGEST + AFTER_ROWS)
    least = float(np.nanmin(stream.values))
    floor = 0.0 if least >= 0.0 else -np.inf
    rng = np.random.default_rng(seed)
    values, length = disturbed(rng, stream.values[ahead], kind, strength, robust_std(stream.values), floor)
    found = {"stream": stream.name, "row": row, "kind": kind, "strength": strength, "length": length}
    return Job(driver.bank.snapshot(feed.detector), stream.at[ahead], values, length, found)


def play(driver: Driver, jobs: list[Job], bar: tqdm) -> None:
    """Play injections side by side in a bank of their own; the highest score of each goes into `found`."""
    copies = Driver(driver.encoder, driver.settings.mode, driver.workspace)
    feeds = []
    for job in jobs:
        rows = job.length + AFTER_ROWS
        feed = copies.feed("", job.at[:rows], job.values[:rows, None], WARM_UP_ROWS)
        copies.bank.restore(feed.detector, job.state)
        feeds.append(feed)
    copies.run(feeds, bar)
    for job, feed in zip(jobs, feeds, strict=True):
        job.scores = feed.scores
        job.found["score"] = float(np.nan_to_num(feed.scores).max())
        bar.update(LONGEST + AFTER_ROWS - len(feed.at))


def summary(feeds: dict[str, Feed], results: list[dict[str, Any]]) -> dict[str, object]:
    """Return the figures; `by_chance` is the share of the same rows, undisturbed, that reach the threshold.

    `decisions_R` lets the share R of all clean decisions exceed the threshold; `events_R` as many hundreds of them as
    that share of the decisions: in recordings that nobody labelled some incidents are real, and one that lasts would
    use up the whole budget. `recall_own_threshold` takes each stream's own 1 in 1,000, as the agent's budget does,
    instead of a pooled one. `auc` compares each injection with those same rows: how often the disturbed ones score
    higher, ties half.
    """
    decided = {name: feed.scores[~np.isnan(feed.scores)] for name, feed in feeds.items()}
    clean = np.concatenate(list(decided.values()))
    score = np.array([result["score"] for result in results])
    calm = np.array([_calm(feeds[result["stream"]].scores, result) for result in results])
    kinds = np.array([result["kind"] for result in results])
    strengths = np.array([result["strength"] for result in results])
    own = np.array([_own_threshold(decided[result["stream"]]) for result in results])

    def at(threshold: float) -> dict[str, object]:
        hit = score > threshold
        return {
            "threshold": threshold,
            "recall": float(hit.mean()),
            "by_chance": float((calm > threshold).mean()),
            "by_kind": {kind: float(hit[kinds == kind].mean()) for kind in KINDS},
            "by_strength": {f"{strength:g}": float(hit[strengths == strength].mean()) for strength in STRENGTHS},
        }

    higher = (score > calm) + 0.5 * (score == calm)
    found: dict[str, object] = {
        "streams": len(feeds),
        "streams_without_decisions": sorted(name for name, scores in decided.items() if not len(scores)),
        "clean_decisions": len(clean),
        "injections": len(results),
        "auc": float(higher.mean()),
        "auc_by_kind": {kind: float(higher[kinds == kind].mean()) for kind in KINDS},
        "recall_own_threshold": float((score > own).mean()),
        "by_chance_own_threshold": float((calm > own).mean()),
    }
    alarms = np.concatenate([events(scores) for scores in decided.values()])
    for rate in RATES:
        found[f"decisions_{rate:g}"] = at(nth_highest(clean, int(rate * len(clean))))
        found[f"events_{rate:g}"] = at(nth_highest(alarms, int(rate * len(clean))))
    return found


def events(scores: F32) -> F32:
    """Return the highest of each 100 decisions in a row: an incident that lasts is one alarm, not a hundred."""
    return np.array([scores[first : first + _EVENT_ROWS].max() for first in range(0, len(scores), _EVENT_ROWS)])


def _calm(scores: F32, result: dict[str, Any]) -> float:
    rows = slice(result["row"], result["row"] + result["length"] + AFTER_ROWS)
    return float(np.nan_to_num(scores[rows]).max())


def _own_threshold(scores: F32) -> float:
    return nth_highest(scores, int(RATES[0] * len(scores)))


def nth_highest(scores: F32, exceeding: int) -> float:
    """Return the score that so many scores exceed, fewer where some are equal: an order statistic."""
    return float(np.sort(scores)[len(scores) - 1 - exceeding])


def _cut(name: str, at: F64, values: F64) -> list[Stream]:
    """Return pieces of at most _ROWS rows, each a stream of its own."""
    pieces = []
    for first in range(0, len(at), _ROWS):
        part = slice(first, first + _ROWS)
        if len(at[part]) >= _LEAST_ROWS and np.isnan(values[part]).mean() <= _MOST_MISSING:
            pieces.append(Stream(f"{name}@{first}", at[part], values[part]))
    return pieces


def _air(data: Path) -> list[Stream]:
    table = read_table(data / "iot/AirQuality.csv", time=("Date", "Time"))
    at = periods(table.at)
    return [
        piece
        for name, column in table.columns.items()
        for piece in _cut(f"air/{name}", at, np.where(column == _MISSING, np.nan, column))
    ]


def _rooms(data: Path) -> list[Stream]:
    streams = []
    for part in ("datatraining", "datatest", "datatest2"):
        table = read_table(data / f"iot/{part}.txt", time=("date",))
        at = periods(table.at)
        streams += [piece for name in _ROOM for piece in _cut(f"{part}/{name}", at, table.columns[name])]
    return streams


def _testbed(data: Path) -> list[Stream]:
    table = read_table(data / "skab/data/anomaly-free/anomaly-free.csv", delimiter=";", time=("datetime",))
    at = periods(table.at)
    return [piece for name, column in table.columns.items() for piece in _cut(f"testbed/{name}", at, column)[:2]]


def _nab(data: Path) -> list[Stream]:
    """Return the beginning of the longest stretch without a label in each file that has one long enough."""
    streams = []
    limits = json.loads((data / "nab/labels/combined_windows.json").read_text())
    for name in sorted(limits):
        table: Table = read_table(data / "nab/data" / name)
        ends = [-np.inf, *(end for _, end in read_stamps(limits[name]))]
        begins = [*(begin for begin, _ in read_stamps(limits[name])), np.inf]
        stretches = [
            np.flatnonzero((table.at > end) & (table.at < begin)) for end, begin in zip(ends, begins, strict=True)
        ]
        longest = max(stretches, key=len)
        if len(longest) >= _STRETCH:
            streams += _cut(name, periods(table.at)[longest], table.columns["value"][longest])[:1]
    return streams
