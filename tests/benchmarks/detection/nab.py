"""The Numenta Anomaly Benchmark: all 58 files, strictly causal, one threshold for all of them and each profile."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from math import erfc, sqrt
from pathlib import Path

import numpy as np
from tqdm import tqdm

from agent.core.types import F64
from tests.benchmarks.detection.drive import Driver
from tests.benchmarks.detection.encoders import BenchmarkEncoder
from tests.benchmarks.detection.nab_scoring import (
    Corpus,
    Profile,
    Truth,
    best_threshold,
    best_with_refractory,
    corpus_of,
    on_other_halves,
)
from tests.benchmarks.detection.recordings import Table, periods, read_table

_EPOCH = 1_000_000  # periods: a recording told by its rows begins somewhere
_SPLITS, _SPLIT_SEED = 12, 3
_WINDOW, _STEP = 6400, 100  # of Numenta's windowed Gaussian


class Nab:
    """The files and their labels, read once."""

    def __init__(self, data: Path) -> None:
        folder = data / "nab"
        limits = json.loads((folder / "labels/combined_windows.json").read_text())
        costs = json.loads((folder / "config/profiles.json").read_text())
        self.profiles = {
            name: Profile(
                cost["CostMatrix"]["tpWeight"], cost["CostMatrix"]["fnWeight"], cost["CostMatrix"]["fpWeight"]
            )
            for name, cost in costs.items()
        }
        published = folder / "final_results.json"
        self.published = json.loads(published.read_text()) if published.exists() else {}
        self.tables: dict[str, Table] = {}
        self.truths: dict[str, Truth] = {}
        for name in sorted(limits):
            table = read_table(folder / "data" / name)
            self.tables[name] = table
            self.truths[name] = Truth(len(table.at), _rows_of(table, limits[name]))
        self.corpus: Corpus = corpus_of(list(self.truths.values()))

    def run(self, encoder: BenchmarkEncoder) -> dict[str, object]:
        """Return scaled scores per profile, with and without the refractory period, on both clocks.

        On the clock `time` a row stands where its timestamp says, in median periods of its file: gaps are gaps, as in
        the agent. On the clock `rows` every row follows the one before it, as other detectors there have it.
        """
        driver = Driver(encoder, frozen=False)
        feeds = {}
        for name, table in self.tables.items():
            values = table.columns["value"][:, None]
            probation = self.truths[name].probation
            rows = _EPOCH + np.arange(len(table.at), dtype=np.float64)
            time = periods(table.at)
            feeds["time", name] = driver.feed(name, time, values, probation)
            if (np.rint(np.diff(time)) != 1).any():
                feeds["rows", name] = driver.feed(name, rows, values, probation)
        total = sum(len(feed.at) for feed in feeds.values())
        with tqdm(total=total, desc=f"{encoder.name}: NAB", unit="row", leave=False) as bar:
            driver.run(list(feeds.values()), bar)
        found: dict[str, object] = {}
        for clock in ("time", "rows"):
            chosen = [feeds.get((clock, name), feeds["time", name]) for name in self.tables]
            found[clock] = self.scored([np.nan_to_num(feed.scores.astype(np.float64)) for feed in chosen])
            found[clock]["files_without_decisions"] = [f.name for f in chosen if np.isnan(f.scores).all()]
        return found

    def scored(self, scores: list[F64]) -> dict[str, object]:
        """Return scaled scores and thresholds per profile for the scores of each file, float64 [rows] each."""
        joined = np.concatenate(scores)
        plain = {name: best_threshold(self.corpus, joined, profile) for name, profile in self.profiles.items()}
        silent = best_with_refractory(self.corpus, joined, self.profiles)
        halves = on_other_halves(self.corpus, joined, self.profiles, _SPLITS, _SPLIT_SEED)
        return {
            "refractory": {name: value for name, (value, _) in silent.items()},
            "refractory_threshold": {name: threshold for name, (_, threshold) in silent.items()},
            "other_half_mean": {name: float(np.mean(values)) for name, values in halves.items()},
            "other_half_sd": {name: float(np.std(values, ddof=1)) for name, values in halves.items()},
            "plain": {name: value for name, (value, _) in plain.items()},
            "plain_threshold": {name: threshold for name, (_, threshold) in plain.items()},
        }

    def check(self, progress: Callable[[str], None]) -> dict[str, dict[str, float]]:
        """Return scores of Numenta's windowed Gaussian, computed here, and those published for it."""
        scores = []
        for name, table in self.tables.items():
            progress(name)
            scores.append(windowed_gaussian(table.columns["value"]))
        joined = np.concatenate(scores)
        made = {name: best_threshold(self.corpus, joined, profile)[0] for name, profile in self.profiles.items()}
        return {"computed": made, "published": self.published.get("windowedGaussian", {})}


def _rows_of(table: Table, limits: list[list[str]]) -> list[tuple[int, int]]:
    stamps = read_stamps(limits)
    first_row = {at: row for row, at in reversed(list(enumerate(table.at.tolist())))}
    return [(first_row[begin], first_row[end]) for begin, end in stamps]


def read_stamps(limits: list[list[str]]) -> list[tuple[float, float]]:
    """Return windows' limits in seconds since the epoch."""
    seconds = [[datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in pair] for pair in limits]
    return [(begin, end) for begin, end in seconds]


def windowed_gaussian(values: F64) -> F64:
    """Return 1 - Q((x - mean) / std) of the last 6,400 values, float64 [rows].

    The statistics follow every value until the window is full, then every 100th: NAB's simplest detector whose
    published score can be computed again, to the seventh digit. Its scores were stored with twelve digits, which makes
    the strangest of them equal: without that the best threshold is another, and the score 40.1 instead of 39.6.
    """
    scores = np.zeros(len(values))
    mean = std = 0.0
    for row, value in enumerate(values.tolist()):
        if row:
            scores[row] = float(f"{1.0 - 0.5 * erfc(abs(value - mean) / std / sqrt(2.0)):.12g}")
        seen = row + 1
        if seen <= _WINDOW or (seen - _WINDOW) % _STEP == 0:
            window = values[max(0, seen - _WINDOW) : seen]
            mean, std = float(window.mean()), float(window.std()) or 1e-6
    return scores
