"""Reads the recordings under `--data`; says what is missing. None of them belongs to the project."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from agent.core.types import F64

_NEEDED = {
    "nab": "nab/data, nab/labels/combined_windows.json, nab/config/profiles.json (github.com/numenta/NAB)",
    "skab": "skab/data (github.com/waico/SKAB)",
    "delay": "skab/data/anomaly-free, iot/AirQuality.csv, iot/datatraining.txt, datatest.txt, datatest2.txt",
    "injected": "nab, skab as above, iot/AirQuality.csv, iot/datatraining.txt, datatest.txt, datatest2.txt",
}
_PATHS = {
    "nab": ("nab/data", "nab/labels/combined_windows.json", "nab/config/profiles.json"),
    "skab": ("skab/data/valve1", "skab/data/valve2", "skab/data/other"),
    "delay": (
        "skab/data/anomaly-free",
        "iot/AirQuality.csv",
        "iot/datatraining.txt",
        "iot/datatest.txt",
        "iot/datatest2.txt",
    ),
    "injected": (
        "nab/data",
        "nab/labels/combined_windows.json",
        "skab/data/anomaly-free",
        "iot/AirQuality.csv",
        "iot/datatraining.txt",
        "iot/datatest.txt",
        "iot/datatest2.txt",
    ),
}


@dataclass(frozen=True)
class Table:
    """A recording: `at` float64 [rows] seconds since the epoch, `columns` by name, float64 [rows], NaN if missing."""

    at: F64
    columns: dict[str, F64]


def missing(data: Path, which: str) -> str | None:
    """Return what a set needs and `data` lacks, None if it is all there."""
    absent = [path for path in _PATHS[which] if not (data / path).exists()]
    return f"{which}: not in {data}: {', '.join(absent)}; the set needs {_NEEDED[which]}" if absent else None


def read_table(path: Path, *, delimiter: str = ",", time: tuple[str, ...] = ("timestamp",)) -> Table:
    """Read a file of readings; `time` names the columns that together tell when. Cells that are no number are NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = next(reader)
        rows = list(reader)
    if rows and len(rows[0]) == len(header) + 1:  # written by R: a number leads each row, and has no name
        header = ["", *header]
    places = [header.index(name) for name in time]
    stamps = [datetime.fromisoformat(" ".join(row[place] for place in places)).replace(tzinfo=UTC) for row in rows]
    columns = {
        name: np.array([_number(row[place]) for row in rows])
        for place, name in enumerate(header)
        if name and place not in places
    }
    return Table(np.array([stamp.timestamp() for stamp in stamps]), columns)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def periods(at: F64) -> F64:
    """Return times in units of the median distance between rows, float64 [rows]."""
    return at / float(np.median(np.diff(at)))
