"""Makes the input of every scenario from fixed seeds: `python tests/scenarios/make.py` writes them all again.

A stream is a list of readings, (time, values); what happens in it is done to that list. Only `random.Random` is used,
whose sequences are the same on every machine and version of Python.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Reading = tuple[float, dict[str, float]]

FOLDER = Path(__file__).parent
START = 1_700_000_000


def pump(count: int, seed: int, *, first: int = 0) -> list[Reading]:
    """Return a pump's readings, one a second: a temperature that comes and goes, a flow, a motor's current."""
    rng = random.Random(seed)
    return [
        (
            float(START + i),
            {
                "temp": round(40 + 1.5 * math.sin(i / 40) + rng.gauss(0, 0.15), 2),
                "flow": round(12 + rng.gauss(0, 0.25), 2),
                "current": round(3 + 0.2 * math.sin(i / 7) + rng.gauss(0, 0.04), 3),
            },
        )
        for i in range(first, first + count)
    ]


def changed(readings: list[Reading], name: str, span: range, how: Callable[[float, int], float]) -> list[Reading]:
    """Return the readings with one channel changed in a span of positions; `how` gets value and position."""
    return [
        (at, {**values, name: round(how(values[name], i), 3)} if i in span else values)
        for i, (at, values) in enumerate(readings)
    ]


def level_shift() -> list[Reading]:
    # The flow falls from 12 to 9 and stays there.
    return changed(pump(1400, 1), "flow", range(1000, 1400), lambda value, _: value - 3)


def short_disturbance() -> list[Reading]:
    # Twelve seconds of spikes in the current.
    return changed(pump(1400, 2), "current", range(1100, 1112), lambda value, i: value + (1.5 if i % 2 else -0.5))


def one_reading_off() -> list[Reading]:
    # A single reading far off: one alert and not one for each window that it is in.
    return changed(pump(1400, 3), "temp", range(1100, 1101), lambda _value, _i: 85.0)


def last_digit() -> list[Reading]:
    # A mains voltage that stood still while it was learnt, and then flickers in its last digit.
    rng = random.Random(4)
    return [
        (float(START + i), {"voltage": 230.1 if i >= 700 and rng.random() < 0.5 else 230.0, "load": _load(rng, i)})
        for i in range(1500)
    ]


def _load(rng: random.Random, i: int) -> float:
    return round(50 + 5 * math.sin(i / 30) + rng.gauss(0, 0.5), 2)


def gap() -> list[Reading]:
    # Five minutes without data; afterwards all is as before.
    readings = pump(1700, 5)
    return readings[:1000] + readings[1300:]


def missing_channel() -> list[Reading]:
    # The flow meter is away for a while, now and then for one reading, at last for good; then the temperature is off.
    rng = random.Random(6)
    readings = [
        (at, {k: v for k, v in values.items() if k != "flow" or not _absent(i, rng)})
        for i, (at, values) in enumerate(pump(1600, 6))
    ]
    return changed(readings, "temp", range(1450, 1480), lambda value, _: value + 8)


def _absent(i: int, rng: random.Random) -> bool:
    return rng.random() < 0.02 or 900 <= i < 1000 or i >= 1300


def clock_set_back() -> list[Reading]:
    # The sender's clock is set back by an hour; a level shift follows later.
    readings = pump(1700, 7)
    back = [(at - 3600 if i >= 1000 else at, values) for i, (at, values) in enumerate(readings)]
    return changed(back, "flow", range(1500, 1700), lambda value, _: value - 3)


def frequency_change() -> list[Reading]:
    # A vibration that keeps its range while it becomes three times as fast.
    rng = random.Random(8)
    phase, readings = 0.0, []
    for i in range(1600):
        phase += 2 * math.pi / (24 if i < 1300 else 8)
        readings.append((float(START + i), {"vibration": round(math.sin(phase) + rng.gauss(0, 0.05), 3)}))
    return readings


def more_noise() -> list[Reading]:
    # The current's noise becomes three times as strong: a worn brush.
    rng = random.Random(12)
    return changed(pump(1500, 12), "current", range(1200, 1500), lambda value, _: value + rng.gauss(0, 0.12))


def slow_drift() -> list[Reading]:
    # Over three quarters of an hour the temperature rises by one degree: the season, and no news.
    return changed(pump(3600, 9), "temp", range(900, 3600), lambda value, i: value + (i - 900) / 2700)


def duplicates_and_stragglers() -> list[Reading]:
    # A gateway that sends one reading in ten twice, and one in ten late; then the flow falls for a while.
    rng = random.Random(10)
    sent: list[tuple[float, Reading]] = []
    readings = changed(pump(1500, 10), "flow", range(1300, 1330), lambda value, _: value - 4)
    for i, reading in enumerate(readings):
        sent.append((float(i), reading))
        kind = rng.random()
        if kind < 0.1:
            sent.append((i + rng.choice([0.5, 3.5]), reading))
        elif kind < 0.2:
            sent[-1] = (i + rng.choice([1.5, 2.5]), reading)
    sent.sort(key=lambda one: one[0])
    return [reading for _, reading in sent]


def silent_stream() -> list[tuple[str, Reading]]:
    # Two devices; `b` says nothing for two minutes.
    found = []
    for i in range(400):
        devices = ["a"] if 200 <= i < 320 else ["a", "b"]
        found += [(device, (float(START + i), {"temp": round(20 + i % 7 / 10, 1)})) for device in devices]
    return found


def csv_of(readings: list[Reading]) -> bytes:
    """Return a CSV file; a channel that is missing is an empty field."""
    names = list(dict.fromkeys(name for _, values in readings for name in values))
    lines = [",".join(["time", *names])]
    lines += [",".join([f"{at:.0f}", *(str(values.get(name, "")) for name in names)]) for at, values in readings]
    return ("\n".join(lines) + "\n").encode()


def jsonl_of(sent: list[tuple[str, Reading]]) -> bytes:
    """Return a recording of messages on plant/DEVICE/telemetry."""
    lines: list[dict[str, Any]] = [
        {"topic": f"plant/{device}/telemetry", "received_at": at, "text": json.dumps(values)}
        for device, (at, values) in sent
    ]
    return ("\n".join(map(json.dumps, lines)) + "\n").encode()


INPUTS: dict[str, Callable[[], bytes]] = {
    "level-shift/input.csv": lambda: csv_of(level_shift()),
    "short-disturbance/input.csv": lambda: csv_of(short_disturbance()),
    "one-reading-off/input.csv": lambda: csv_of(one_reading_off()),
    "last-digit/input.csv": lambda: csv_of(last_digit()),
    "gap/input.csv": lambda: csv_of(gap()),
    "missing-channel/input.csv": lambda: csv_of(missing_channel()),
    "clock-set-back/input.csv": lambda: csv_of(clock_set_back()),
    "frequency-change/input.csv": lambda: csv_of(frequency_change()),
    "more-noise/input.csv": lambda: csv_of(more_noise()),
    "slow-drift/input.csv": lambda: csv_of(slow_drift()),
    "duplicates-and-stragglers/input.csv": lambda: csv_of(duplicates_and_stragglers()),
    "silent-stream/input.jsonl": lambda: jsonl_of(silent_stream()),
}


if __name__ == "__main__":
    for name, make in INPUTS.items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_bytes(make())
