"""The Skoltech Anomaly Benchmark: 34 runs of a testbed with a fault in each, eight channels, both admission modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from agent.core.alerting import AlertKind, AlertMachine, AlertSettings, AlertState
from agent.core.budget import BudgetControl
from agent.core.types import F32, F64, Bools, Mode
from agent.pipeline import judge
from agent.settings_builder import parse_budget
from converter.ranking import area_under_curve
from tests.benchmarks.detection.drive import Driver
from tests.benchmarks.detection.encoders import BenchmarkEncoder
from tests.benchmarks.detection.recordings import Table, read_table

NORMAL_ROWS = 400  # at the beginning of each run
BUDGETS = ("1 per 100 decisions", "1 per 1000 decisions", "1 per week")
_ROW_S = 1.0
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
            driver = Driver(encoder, mode, frozen=False)
            feeds = []
            for name, table in self.tables.items():
                values = np.stack([column for key, column in table.columns.items() if key not in _LABELS], axis=1)
                at = _EPOCH + np.arange(len(table.at), dtype=np.float64)
                feeds.append(driver.feed(name, at, values, NORMAL_ROWS))
            total = sum(len(feed.at) for feed in feeds)
            with tqdm(total=total, desc=f"{encoder.name}: SKAB {mode}", unit="row", leave=False) as bar:
                driver.run(feeds, bar)
            # The score of `hold` is smooth already.
            smooth = np.nan_to_num if mode is Mode.HOLD else smoothed
            scores = np.concatenate([smooth(feed.scores[NORMAL_ROWS:].astype(np.float64)) for feed in feeds])
            found[mode.value] = best_f1(scores, labels)
            found[mode.value]["default"] = AlertSettings().budget_for(mode).text
            found[mode.value]["budgets"] = {
                budget: {
                    "alerts": rates(
                        np.concatenate([firing(feed.scores, budget, mode)[NORMAL_ROWS:] for feed in feeds]), labels
                    ),
                    "threshold": rates(scores >= threshold_of(budget), labels),
                }
                for budget in BUDGETS
            }
        return found


def threshold_of(budget: str) -> float:
    """Return the score that stands for a budget before anything was learnt about the stream."""
    control = BudgetControl(AlertSettings(false_alarms=parse_budget(budget)))
    control.configure(_ROW_S)
    return control.threshold


def firing(scores: F32, budget: str, mode: Mode) -> Bools:
    """Return the rows at which the agent's alert is on, by its own decisions at this budget."""
    alert = msgspec.structs.replace(AlertSettings(), false_alarms=parse_budget(budget), cooldown_s=0.0)
    control = BudgetControl(alert, mode)
    control.configure(_ROW_S)
    machine = AlertMachine(alert, agent="", stream="", kind=AlertKind.ANOMALY)
    on = np.zeros(len(scores), np.bool_)
    for row in np.flatnonzero(~np.isnan(scores)).tolist():
        judge(control, machine, row * _ROW_S, float(scores[row]), str)
        on[row] = machine.state is AlertState.FIRING
    return on


def rates(alarms: Bools, labels: Bools) -> dict[str, float]:
    """Return F1, false alarm and missed alarm rate (%) of these rows."""
    hits = int((alarms & labels).sum())
    return {
        "f1": 2.0 * hits / max(1, int(alarms.sum() + labels.sum())),
        "false_alarm_percent": 100.0 * float((alarms & ~labels).sum() / (~labels).sum()),
        "missed_alarm_percent": 100.0 * float(1.0 - hits / labels.sum()),
    }


def smoothed(scores: F64) -> F64:
    """Return the mean of the last ten scores at each row, fewer at the beginning; no decision counts as 0."""
    known = np.concatenate([[0.0], np.cumsum(np.nan_to_num(scores))])
    end = np.arange(1, len(scores) + 1)
    start = np.maximum(0, end - _MEAN_OF)
    return (known[end] - known[start]) / (end - start)


def best_f1(scores: F64, labels: Bools) -> dict[str, Any]:
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
