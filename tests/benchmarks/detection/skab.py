"""The Skoltech Anomaly Benchmark: 34 runs of a testbed with a fault in each, eight channels, both admission modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from agent.core.types import F64, Bools, Mode
from converter.ranking import area_under_curve
from tests.benchmarks.detection.drive import Driver
from tests.benchmarks.detection.encoders import BenchmarkEncoder
from tests.benchmarks.detection.recordings import Table, read_table

NORMAL_ROWS = 400  # at the beginning of each run
_MEAN_OF = 10  # scores: one water hammer is no fault
_EPOCH = 1_000_000
_LABELS = ("anomaly", "changepoint")


class Skab:
    """The runs, read once."""

    def __init__(self, data: Path) -> None:
        self.tables: dict[str, Table] = {}
        for folder in ("valve1", "valve2", "other"):
            for path in sorted((data / "skab/data" / folder).glob("*.csv")):
                self.tables[f"{folder}/{path.name}"] = read_table(path, delimiter=";", time=("datetime",))

    def run(self, encoder: BenchmarkEncoder) -> dict[str, object]:
        """Return for each mode F1, false and missed alarms (%) at the best threshold over all runs together.

        Every row follows the one before it: the protocol counts rows, and a second is missing every twenty.
        """
        found: dict[str, object] = {}
        labels = np.concatenate([table.columns["anomaly"][NORMAL_ROWS:] > 0 for table in self.tables.values()])
        for mode in (Mode.ADAPT, Mode.HOLD):
            driver = Driver(encoder, mode)
            feeds = []
            for name, table in self.tables.items():
                values = np.stack([column for key, column in table.columns.items() if key not in _LABELS], axis=1)
                at = _EPOCH + np.arange(len(table.at), dtype=np.float64)
                feeds.append(driver.feed(name, at, values, NORMAL_ROWS))
            total = sum(len(feed.at) for feed in feeds)
            with tqdm(total=total, desc=f"{encoder.name}: SKAB {mode}", unit="row", leave=False) as bar:
                driver.run(feeds, bar)
            scores = np.concatenate([smoothed(feed.scores[NORMAL_ROWS:].astype(np.float64)) for feed in feeds])
            found[mode.value] = best_f1(scores, labels)
        return found


def smoothed(scores: F64) -> F64:
    """Return the mean of the last ten scores at each row, fewer at the beginning; no decision counts as 0."""
    known = np.concatenate([[0.0], np.cumsum(np.nan_to_num(scores))])
    end = np.arange(1, len(scores) + 1)
    start = np.maximum(0, end - _MEAN_OF)
    return (known[end] - known[start]) / (end - start)


def best_f1(scores: F64, labels: Bools) -> dict[str, float]:
    """Return F1, false alarm and missed alarm rate (%) and threshold where F1 is best, over all thresholds."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    alarms = np.arange(1, len(scores) + 1)
    f1 = 2.0 * hits / (alarms + labels.sum())
    f1[:-1][scores[order][1:] == scores[order][:-1]] = 0.0  # a threshold takes all equal scores or none
    best = int(np.argmax(f1))
    false = alarms[best] - hits[best]
    return {
        "f1": float(f1[best]),
        "false_alarm_percent": 100.0 * float(false / (~labels).sum()),
        "missed_alarm_percent": 100.0 * float(1.0 - hits[best] / labels.sum()),
        "threshold": float(scores[order][best]),
        "auc": area_under_curve(scores, labels),
    }
