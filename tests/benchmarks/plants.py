"""Normal data for `tests.benchmarks.finetune`: made-up plants, and real recordings from under `--data`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from agent.core.types import F64
from tests.benchmarks.detection.recordings import read_table

START = 1_700_000_000
HOUR = 3600
CHANNELS = 10
_LONGEST = 8000  # readings of a real recording
_ROOM = ("Temperature", "Humidity", "Light", "CO2", "HumidityRatio")


def plant(kind: str, seed: int, rows: int = HOUR, channels: int = CHANNELS) -> dict[str, F64]:
    """Return an hour of ten channels, one reading a second: of machines that all follow one another.

    `rotating`: speed, load and vibrations at multiples of the speed; `batch`: a process that repeats every few minutes,
    each time a little differently; `steady`: set points with correlated noise and slow disturbances.
    """
    rng = np.random.default_rng([seed, len(kind)])
    when = np.arange(rows)
    noise = _correlated(rng, rows, channels)
    if kind == "rotating":
        speed = 0.12 + 0.01 * np.sin(when / 300.0) + 0.002 * _correlated(rng, rows, 1)[:, 0]
        phase = np.cumsum(speed)
        made = [np.sin(phase * (1 + k % 3) + k) * (1 + 0.2 * np.sin(when / 200.0 + k)) for k in range(channels)]
        scale = 0.2
    elif kind == "batch":
        lengths = rng.normal(170, 6, rows // 100)
        ends = np.cumsum(lengths)
        batch = np.searchsorted(ends, when)
        share = (when - np.concatenate([[0.0], ends])[batch]) / lengths[batch]
        made = [_course(share, k) * (1 + 0.05 * rng.standard_normal(len(lengths))[batch]) for k in range(channels)]
        scale = 0.08
    else:
        made = [0.3 * np.sin(when / (100.0 + 60 * k)) for k in range(channels)]
        scale = 0.6
    return {f"c{k}": np.round(20.0 + 5 * k + made[k] + scale * noise[:, k], 3) for k in range(channels)}


def _course(share: F64, k: int) -> F64:
    """Return a channel's course over one batch: it heats up, holds, and cools down; each channel a little later."""
    begin = 0.05 + 0.05 * k
    return np.interp(share, [0.0, begin, begin + 0.1, 0.75, 0.85, 1.0], [0.0, 0.0, 2.0, 1.8, 0.2, 0.0])


def _correlated(rng: np.random.Generator, rows: int, channels: int) -> F64:
    """Return noise with a memory of about ten readings, of deviation 1, which channels share in part."""
    white = rng.standard_normal((rows, channels)) + 0.5 * rng.standard_normal((rows, 1))
    out = np.empty_like(white)
    last = white[0]
    for row in range(rows):
        last = 0.9 * last + 0.4 * white[row]
        out[row] = last
    return out / out.std(axis=0)


def testbed(data: Path) -> dict[str, F64]:
    """Return the anomaly-free run of SKAB, eight channels about a second apart."""
    table = read_table(data / "skab/data/anomaly-free/anomaly-free.csv", delimiter=";", time=("datetime",))
    return {name: column[:_LONGEST] for name, column in table.columns.items()}


def room(data: Path) -> dict[str, F64]:
    """Return the room of the occupancy data, five channels, a reading a minute."""
    table = read_table(data / "iot/datatraining.txt", time=("date",))
    return {name: table.columns[name][:_LONGEST] for name in _ROOM}


def write(folder: Path, name: str, columns: dict[str, F64], period_s: float = 1.0) -> tuple[Path, Path]:
    """Write a recording and its configuration; return their paths."""
    recording, configuration = folder / f"{name}.csv", folder / f"{name}.yaml"
    with recording.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *columns])
        for row, values in enumerate(zip(*columns.values(), strict=True)):
            cells = ["" if value != value else repr(float(value)) for value in values]  # noqa: PLR0124  NaN
            writer.writerow([START + row * period_s, *cells])
    configuration.write_text(
        f"agent: {{id: bench, state_dir: {folder}/state}}\n"
        'broker: {url: "mqtt://localhost:1"}\n'
        f"streams:\n  - {{name: {name}, topic: plant/{name}}}\n"
    )
    return recording, configuration
