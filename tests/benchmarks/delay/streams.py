"""Real recordings without labelled faults, and disturbances of five strengths put into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.core.types import F64
from tests.benchmarks.detection.disturbances import KINDS as INJECTED
from tests.benchmarks.detection.disturbances import robust_std
from tests.benchmarks.detection.injected import AFTER_ROWS
from tests.benchmarks.detection.recordings import read_table

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)  # times the stream's robust standard deviation
LENGTH = 64  # rows
FROZEN_ROWS = {0.5: 8, 1.0: 16, 2.0: 32, 4.0: 64, 8.0: 128}
LONGEST = max(LENGTH, *FROZEN_ROWS.values()) + AFTER_ROWS
_LEAST_CHANGE = 0.05  # robust deviations: a frozen stretch of a constant is no disturbance
_MOST_MISSING = 0.05
_MISSING = -200.0  # as AirQuality.csv writes it
_ROOM = ("Temperature", "Humidity", "Light", "CO2", "HumidityRatio")
_TRIES = 20
_SEED = 11


def faster(values: F64, factor: float) -> F64:
    """Return the rows played faster, there and back."""
    last = len(values) - 1
    course = np.arange(len(values)) * factor
    return np.interp(last - np.abs(last - course % (2 * last)), np.arange(len(values)), values)


KINDS: dict[str, Callable[[np.random.Generator, F64, float, float], F64]] = {
    **{kind: INJECTED[kind] for kind in ("spike", "shift", "drift", "noise", "frozen")},
    "frequency": lambda _rng, part, _size, strength: faster(part, 1.0 + strength / 2.0),
}


@dataclass(frozen=True)
class Stream:
    """A recording of one channel, row after row: float64 [rows], none missing; a row stands for `period_s`."""

    name: str
    values: F64
    period_s: float


@dataclass(frozen=True)
class Injection:
    """`values` float64 [length + 16] take the place of the stream's rows from `row` on; the first `length` differ."""

    row: int
    kind: str
    strength: float
    length: int
    values: F64


def length_of(kind: str, strength: float) -> int:
    """Return how many rows a disturbance takes."""
    return {"spike": 1, "frozen": FROZEN_ROWS[strength]}.get(kind, LENGTH)


def injection(rng: np.random.Generator, stream: Stream, row: int, kind: str, strength: float) -> Injection | None:
    """Return a disturbance at a row; None if it would change next to nothing there."""
    unit, length = robust_std(stream.values), length_of(kind, strength)
    floor = 0.0 if stream.values.min() >= 0.0 else -np.inf
    values = stream.values[row : row + length + AFTER_ROWS].copy()
    size = strength * unit * float(rng.choice((-1.0, 1.0)))
    for signed in (size, -size):  # what a floor at zero has swallowed is turned around
        made = np.maximum(KINDS[kind](rng, values[:length], signed, strength), floor)
        if np.abs(made - values[:length]).max() >= _LEAST_CHANGE * unit:
            values[:length] = made
            return Injection(row, kind, strength, length, values)
    return None


def plan(streams: list[Stream], first: int, each: int, seed: int = _SEED) -> dict[str, list[Injection]]:
    """Return `each` injections of every kind and strength, spread over the streams, by the stream's name."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Injection]] = {stream.name: [] for stream in streams}
    usable = [stream for stream in streams if robust_std(stream.values) > 0.0]
    turn = 0
    for kind in KINDS:
        for strength in STRENGTHS:
            for _ in range(each):
                for _ in range(_TRIES):
                    stream = usable[turn % len(usable)]
                    turn += 1
                    row = int(rng.integers(first, len(stream.values) - LONGEST))
                    taken = any(one.row == row for one in found[stream.name])
                    made = None if taken else injection(rng, stream, row, kind, strength)
                    if made is not None:
                        found[stream.name].append(made)
                        break
    return found


def recordings(data: Path) -> list[Stream]:
    """Return SKAB's run without a fault, and all of iot/ that is known in 95 % of its rows; other rows are left out."""
    table = read_table(data / "skab/data/anomaly-free/anomaly-free.csv", delimiter=";", time=("datetime",))
    streams = [Stream(f"testbed/{name}", column, 1.0) for name, column in table.columns.items()]
    for part in ("datatraining", "datatest", "datatest2"):
        table = read_table(data / f"iot/{part}.txt", time=("date",))
        streams += [Stream(f"{part}/{name}", table.columns[name], 60.0) for name in _ROOM]
    table = read_table(data / "iot/AirQuality.csv", time=("Date", "Time"))
    for name, column in table.columns.items():
        known = ~np.isnan(column) & (column != _MISSING)
        if known.mean() >= 1.0 - _MOST_MISSING:
            streams.append(Stream(f"air/{name}", column[known], 3600.0))
    return streams


SUBSET = ("testbed/Pressure", "testbed/Temperature", "datatest2/CO2", "air/T")
SUBSET_ROWS = 2600


def subset(streams: list[Stream]) -> list[Stream]:
    """Return the beginning of four of them: what the slowest competitor can be given."""
    return [
        Stream(one.name, one.values[:SUBSET_ROWS], one.period_s)
        for one in streams
        if one.name in SUBSET and len(one.values) >= SUBSET_ROWS
    ]
