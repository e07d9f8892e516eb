"""`python -m tests.benchmarks.cost`: processor time for a sample and memory for a channel, beside other detectors.

Everything runs in this process on the same samples of one channel, a decision for every sample, in steady state: our
pipeline with 100 streams from the sample to the alert (a reference of 1,000, all three views; nothing is decoded or
stored), the others one object for each stream. Rounds take turns, a median of them is told. Memory of the others is
that of all objects that hang on one. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agent.adapters.mqtt.topics import Topics
from agent.adapters.telemetry import SilentObserver
from agent.adapters.tflite import load_encoder
from agent.bundle import find_bundle
from agent.config import AgentSettings, Configuration, SensorSettings
from agent.core.calibration import CALIBRATION_SIZE
from agent.core.types import F64, Sample
from agent.errors import RedshankError
from agent.pipeline import Outcome, Pipeline
from tests.benchmarks.budget.streams import normal_stream
from tests.benchmarks.competitors import (
    FOREST_SIZE,
    FOREST_TREES,
    Competitor,
    HalfSpace,
    NearestConformal,
    RandomCutForest,
    RunningGaussian,
)
from tests.benchmarks.detection.drive import keep_memory
from tests.benchmarks.tables import table

STREAMS = 100
REFERENCE = 1000
ROUNDS = 9
_DIFFERENT = 4  # streams that are warmed up; the others go on from copies of them
_ENCODER = "sensor-small"
_PERIOD_S = 60.0
_EPOCH = 6e7
_KIND = "daily"


@dataclass(frozen=True)
class Method:
    """A competitor, the rows that bring it to its steady state, and how much of a round it is given."""

    make: Callable[[], Competitor]
    settings: str
    warm_rows: int
    streams: int = STREAMS
    rows: int = 4


METHODS: dict[str, Method] = {
    "running Gaussian": Method(RunningGaussian, "1,000 values", 1100, rows=16),
    "half-space trees (River)": Method(HalfSpace, "defaults: 10 trees, height 8, window 250", 600),
    "KNN-CAD (PySAD)": Method(lambda: NearestConformal(REFERENCE), f"probation {REFERENCE:,}: 981 windows", 2100),
    "random cut forest (rrcf)": Method(
        RandomCutForest, f"{FOREST_TREES} trees of {FOREST_SIZE} windows of 4 values; 4 streams", 320, streams=4
    ),
}


class Ours:
    """The agent's pipeline, its streams in steady state."""

    rows = 16

    def __init__(self, values: F64) -> None:
        """Warm up; `values` float64 [streams, rows]."""
        self._values = values
        settings = SensorSettings(name="bench", topic="bench/+", channels=("0",), period_s=_PERIOD_S)
        self._configuration = Configuration(agent=AgentSettings(id="bench"), streams=[settings])
        encoder = load_encoder(find_bundle(_ENCODER))
        self._encoders = {_ENCODER: encoder}
        warm = self._pipeline(None)
        streams = [warm.stream_of(f"bench/{number}") for number in range(_DIFFERENT)]
        self.row = streams[0].detector.warm_up_rows + CALIBRATION_SIZE + 100
        self.runtime = encoder.runtime
        for row in range(self.row):
            for stream, value in zip(streams, values[:, row].tolist(), strict=False):
                warm.process_sample(stream, Sample(_EPOCH + _PERIOD_S * row, {"0": value}))
        states = [stream.bank.snapshot(stream.detector) for stream in streams]
        self._live = self._pipeline(
            lambda stream: stream.restore(states[int(stream.topic.rpartition("/")[2]) % _DIFFERENT], [])
        )
        self._streams = [self._live.stream_of(f"bench/{number}") for number in range(len(values))]
        self.lane_bytes = self._streams[0].bank.lane_bytes
        self.references = self._streams[0].bank.reference_size(self._streams[0].detector)
        self.snapshot_bytes = deep_bytes(states[0])

    def _pipeline(self, restore: Any) -> Pipeline:
        topics = Topics("redshank", "bench")
        return Pipeline(self._configuration, self._encoders, topics, SilentObserver(), restore=restore)

    def round(self) -> float:
        """Process some rows of all streams; return microseconds of processor time for each sample."""
        samples = [
            [Sample(_EPOCH + _PERIOD_S * row, {"0": value}) for value in self._values[:, row].tolist()]
            for row in range(self.row, self.row + self.rows)
        ]
        self.row += self.rows
        decided = 0
        begun = time.process_time()
        for row in samples:
            outcome = Outcome([], [], [])
            for stream, sample in zip(self._streams, row, strict=True):
                self._live._sample(stream, sample, sample.at, outcome)
            self._live._flush(outcome)
            decided += len(outcome.decided)
        spent = time.process_time() - begun
        assert decided == self.rows * len(self._streams), "a decision for every sample"
        return 1e6 * spent / decided


class Theirs:
    """A competitor's objects in steady state."""

    def __init__(self, method: Method, values: F64) -> None:
        """Warm one up for each different stream, and copy it."""
        self._method, self._values, self.row = method, values, method.warm_rows
        different = [method.make() for _ in range(min(_DIFFERENT, method.streams))]
        for detector, series in zip(different, values, strict=False):
            for value in series[: method.warm_rows].tolist():
                detector.step(value)
        self._detectors = different + [
            clone(different[number % len(different)]) for number in range(len(different), method.streams)
        ]
        self.bytes = deep_bytes(different[0])

    def round(self) -> float:
        """Process some rows; return microseconds of processor time for each sample."""
        rows = self._values[: len(self._detectors), self.row : self.row + self._method.rows].T.tolist()
        self.row += len(rows)
        begun = time.process_time()
        for row in rows:
            for detector, value in zip(self._detectors, row, strict=True):
                detector.step(value)
        return 1e6 * (time.process_time() - begun) / (len(rows) * len(self._detectors))


def clone(detector: Any) -> Any:
    """Return a copy; pickling is faster than copying, where it works."""
    try:
        return pickle.loads(pickle.dumps(detector))  # our own bytes
    except (AttributeError, pickle.PicklingError, RecursionError):
        return copy.deepcopy(detector)


def deep_bytes(thing: Any) -> int:
    """Return the memory of all objects that hang on one, each counted once, without classes, functions and modules."""
    seen: set[int] = set()
    waiting, total = [thing], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, np.ndarray):
            if one.base is not None:
                waiting.append(one.base)
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif not isinstance(one, (str, bytes, int, float)):
            if hasattr(one, "__iter__") and hasattr(one, "__len__"):
                waiting += list(one)
            waiting += list(getattr(one, "__dict__", {}).values())
            for kind in type(one).__mro__:
                slots = getattr(kind, "__slots__", ())
                waiting += [getattr(one, name) for name in slots if hasattr(one, name)] if slots else []
    return total


def summary(rounds: dict[str, list[float]], facts: dict[str, tuple[str, int]]) -> str:
    """Return the table: the median of the rounds, their range, and what stands beside them."""
    ours = statistics.median(rounds["Redshank"])
    rows = []
    for name, times in rounds.items():
        median = statistics.median(times)
        settings, held = facts[name]
        spread = f"{min(times):,.1f}-{max(times):,.1f}"
        rows.append([name, settings, f"{median:,.1f} ({spread})", f"{median / ours:.2f}", f"{held / 1024:,.0f} KiB"])
    return table(["", "settings", "us per sample, median (range)", "of ours", "state for each channel"], rows)


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--ours-only", action="store_true", help="no competitors")
    parser.add_argument("--json", type=Path, help="write all figures here")
    wanted = parser.parse_args()
    keep_memory()
    rows = 4000 + Ours.rows * wanted.rounds
    values = np.stack([normal_stream(_KIND, number, rows) for number in range(STREAMS)])
    try:
        methods = {} if wanted.ours_only else METHODS
        for method in methods.values():
            method.make()
        ours = Ours(values)
    except (RedshankError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    others = {
        name: Theirs(method, values)
        for name, method in tqdm(methods.items(), desc="warming up", leave=False, disable=None)
    }
    rounds: dict[str, list[float]] = {"Redshank": [], **{name: [] for name in others}}
    for _ in tqdm(range(wanted.rounds), desc="rounds", leave=False, disable=None):
        rounds["Redshank"].append(ours.round())
        for name, other in others.items():
            rounds[name].append(other.round())
    settings = f"reference of {ours.references:,}, three views, {STREAMS} streams, {ours.runtime}"
    facts = {"Redshank": (settings, ours.lane_bytes)}
    facts |= {name: (methods[name].settings, other.bytes) for name, other in others.items()}
    print(summary(rounds, facts))
    print(f"\nRedshank's snapshot of a channel: {ours.snapshot_bytes / 1024:,.0f} KiB")
    if wanted.json:
        made = {
            name: {"us": times, "settings": facts[name][0], "bytes": facts[name][1]} for name, times in rounds.items()
        }
        wanted.json.write_text(json.dumps(made, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
