"""`python -m tests.benchmarks.delay`: how many disturbances are found, and how soon, at one rate of false alarms.

Disturbances of six kinds and five strengths meet recordings in which no fault is labelled: SKAB's run without an
anomaly, and iot/ (room occupancy; air quality, rows with missing values left out). A clean run gives each method the
threshold that lets 1 of 10,000 decisions raise an alarm (alarms within 100 rows are one); then each disturbance starts
from the state that the detector had at its row. Competitors run twice: with their own score, and with our head
(calibration, tail) behind it. The slowest get the first 2,600 rows of four streams, and there every method is measured
once more: with 8,000 clean decisions the threshold is the clean run's maximum. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from agent.core.alerting import AlertSettings
from agent.core.budget import BudgetControl
from agent.errors import RedshankError
from agent.settings_builder import parse_budget
from tests.benchmarks.budget.play import Branch, Track, play
from tests.benchmarks.competitors import COMPETITORS, SLOW
from tests.benchmarks.delay.run import Plan, Scored, competitor, ours, through_our_head
from tests.benchmarks.delay.streams import KINDS, STRENGTHS, Stream, plan, recordings, subset
from tests.benchmarks.detection.drive import Driver, keep_memory
from tests.benchmarks.detection.encoders import BenchmarkEncoder, make_encoder
from tests.benchmarks.detection.injected import events, nth_highest
from tests.benchmarks.detection.recordings import missing
from tests.benchmarks.plots import COLOURS, pyplot, save
from tests.benchmarks.tables import table

RATE = 1e-4
BUDGET = "1 per 10000 decisions"
EACH, EACH_OF_SUBSET = 20, 4  # injections of every kind and strength
OURS, SHIPPED, HEAD = "Redshank", "Redshank, alerts within its budget", "our head"


def threshold_of(clean: list[np.ndarray], rate: float = RATE) -> float:
    """Return the score that as many blocks of 100 decisions exceed as alarms are allowed."""
    decided = [scores[~np.isnan(scores)] for scores in clean]
    return nth_highest(np.concatenate([events(scores) for scores in decided]), int(rate * sum(map(len, decided))))


def delays(scored: list[Scored], thresholds: list[float]) -> list[tuple[str, float, int | None, bool]]:
    """Return (kind, strength, rows to the first alarm or None, whether the undisturbed rows alarm too) of each."""
    found = []
    for one, threshold in zip(scored, thresholds, strict=True):
        for injected, scores in zip(one.injections, one.branches, strict=True):
            above = np.flatnonzero(scores > threshold)
            calm = one.scores[injected.row : injected.row + len(scores)] > threshold
            delay = int(above[0]) if len(above) else None
            found.append((injected.kind, injected.strength, delay, bool(calm.any())))
    return found


def figures(found: list[tuple[str, float, int | None, bool]]) -> dict[str, Any]:
    """Return recall and median delay, overall and by kind and strength."""

    def cell(some: list[tuple[str, float, int | None, bool]]) -> dict[str, Any]:
        hits = [delay for _, _, delay, _ in some if delay is not None]
        return {
            "injections": len(some),
            "recall": len(hits) / len(some) if some else None,
            "delay": float(np.median(hits)) if hits else None,
        }

    return {
        **cell(found),
        "by_chance": float(np.mean([calm for *_, calm in found])),
        "by_kind": {
            kind: {
                **cell([one for one in found if one[0] == kind]),
                "by_strength": {f"{s:g}": cell([one for one in found if one[:2] == (kind, s)]) for s in STRENGTHS},
            }
            for kind in KINDS
        },
        "by_strength": {f"{s:g}": cell([one for one in found if one[1] == s]) for s in STRENGTHS},
    }


def measured(scored: list[Scored]) -> dict[str, Any]:
    """Return figures at one threshold for all streams, and the recall at a threshold of each stream's own."""
    common = threshold_of([one.scores for one in scored])
    own = [threshold_of([one.scores]) for one in scored]
    result = figures(delays(scored, [common] * len(scored)))
    result["threshold"] = common
    result["recall_own_thresholds"] = figures(delays(scored, own))["recall"]
    result["clean_decisions"] = sum(int((~np.isnan(one.scores)).sum()) for one in scored)
    return result


def shipped(scored: list[Scored]) -> dict[str, Any]:
    """Return what the agent's own alerts make of its scores: budget's control, two odd decisions in a row."""
    alert = msgspec.structs.replace(AlertSettings(), false_alarms=parse_budget(BUDGET))
    found, raised, expected = [], 0, 0.0
    for one in scored:
        rows = len(one.scores)
        branches = [
            Branch(i.row, i.kind, i.strength, s.astype(np.float32))
            for i, s in zip(one.injections, one.branches, strict=True)
        ]
        period_s = one.stream.period_s
        at = period_s * np.arange(1, rows + 1)
        scores = one.scores.astype(np.float32)
        track = Track(one.stream.name, "", at, period_s, scores, np.ones(rows, np.bool_), branches)
        played = play(track, BudgetControl(alert), alert)
        raised, expected = raised + len(played.raised), expected + played.expected
        for branch, hit, delay, calm in zip(branches, played.found, played.delays, played.by_chance, strict=True):
            if hit is not None:
                found.append((branch.kind, branch.strength, delay, bool(calm)))
    return {**figures(found), "clean_alarms": raised, "clean_alarms_promised": expected}


def run_set(name: str, encoder: BenchmarkEncoder, streams: list[Stream], injected: Plan, methods: list[str]) -> Any:
    """Return the figures of every method on these streams."""
    first = Driver(encoder).warm_up_rows
    scored = ours(encoder, streams, injected, f"{name}: {OURS}")
    results = {OURS: measured(scored), SHIPPED: shipped(scored)}
    for method in tqdm(methods, desc=name, leave=False, disable=None):
        begun = time.perf_counter()
        with redirect_stdout(StringIO()):  # PySAD tells of each singular matrix
            own, raw = competitor(COMPETITORS[method], streams, injected, first, f"{name}: {method}")
        results[method] = measured(own)
        results[f"{method} + {HEAD}"] = measured(through_our_head(raw, first))
        results[method]["seconds"] = time.perf_counter() - begun
    return results


def kinds_table(results: dict[str, Any]) -> str:
    """Return recall and delay by kind."""
    rows = []
    for method, found in results.items():
        own = found.get("recall_own_thresholds")
        row = [method, f"{found['recall']:.3f} ({found['by_chance']:.3f})", "" if own is None else f"{own:.3f}"]
        rows.append([*row, _rows(found["delay"]), *(_cell(found["by_kind"][kind]) for kind in KINDS)])
    header = ["method", "recall (by chance)", "own threshold for each stream", "median delay", *KINDS]
    return table(header, rows)


def strengths_table(results: dict[str, Any]) -> str:
    """Return recall and delay by strength."""
    rows = [
        [method, *(_cell(found["by_strength"][f"{strength:g}"]) for strength in STRENGTHS)]
        for method, found in results.items()
    ]
    return table(["method", *(f"{strength:g}" for strength in STRENGTHS)], rows)


def _cell(found: dict[str, Any]) -> str:
    return "" if found["recall"] is None else f"{found['recall']:.2f}, {_rows(found['delay'])}"


def _rows(delay: float | None) -> str:
    return "-" if delay is None else f"{delay:.0f}"


def draw(results: dict[str, Any], folder: Path, name: str) -> None:
    """Plot recall, and below it the median delay, against strength: a column for each kind."""
    plt = pyplot()
    figure, axes = plt.subplots(2, len(KINDS), figsize=(2.5 * len(KINDS), 5.0), sharex=True, sharey="row")
    bases = list(dict.fromkeys(method.removesuffix(f" + {HEAD}") for method in results))
    for column, kind in enumerate(KINDS):
        axes[0, column].set_title(kind)
        for method, found in results.items():
            colour = COLOURS[bases.index(method.removesuffix(f" + {HEAD}")) % len(COLOURS)]
            style = "--" if method.endswith(HEAD) else "-"
            cells = [found["by_kind"][kind]["by_strength"][f"{strength:g}"] for strength in STRENGTHS]
            for axis, key in zip(axes[:, column], ("recall", "delay"), strict=True):
                points = [np.nan if cell[key] is None else cell[key] for cell in cells]
                axis.plot(STRENGTHS, points, style, marker="o", ms=2.5, lw=1.0, color=colour, label=method)
        axes[1, column].set_xscale("log", base=2)
        axes[1, column].set_xticks(STRENGTHS, [f"{strength:g}" for strength in STRENGTHS])
        axes[1, column].set_xlabel("strength")
    axes[0, 0].set_ylabel("recall")
    axes[1, 0].set_ylabel("median delay, rows")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, -0.12), ncol=4, frameon=False)
    save(figure, folder, name)
    plt.close(figure)


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.delay", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with skab and iot")
    parser.add_argument("--encoder", default="sensor-small", help="as for tests.benchmarks.detection")
    parser.add_argument("--ours-only", action="store_true", help="no competitors")
    parser.add_argument("--rows", type=int, help="of each stream; default: all")
    parser.add_argument(
        "--each", type=int, default=EACH, help="injections of a kind and strength; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plots", type=Path, help="folder for delay.png, delay-subset.png and the same as SVG")
    wanted = parser.parse_args()
    problem = missing(wanted.data, "delay")
    if problem:
        print(problem, file=sys.stderr)
        return 2
    keep_memory()
    begun = time.perf_counter()
    methods = [] if wanted.ours_only else list(COMPETITORS)
    try:
        if wanted.plots:
            pyplot()
        for method in methods:
            COMPETITORS[method]()
        encoder = make_encoder(wanted.encoder)
    except (RedshankError, OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    streams = recordings(wanted.data)
    first = Driver(encoder).warm_up_rows
    everything = [Stream(one.name, one.values[: wanted.rows], one.period_s) for one in streams]
    few = subset(streams)
    quick = [method for method in methods if method not in SLOW]
    sets = {"delay": (everything, plan(everything, first, wanted.each), quick)}
    if methods:
        sets["delay-subset"] = (few, plan(few, first, EACH_OF_SUBSET), methods)
    results = {}
    for name, (some, injected, those) in sets.items():
        results[name] = found = run_set(name, encoder, some, injected, those)
        count, clean = found[OURS]["injections"], found[OURS]["clean_decisions"]
        print(f"{name}: {len(some)} streams, {clean:,} clean decisions, {count} injections. By kind: recall, delay\n")
        print(kinds_table(found), "By strength: recall, delay", strengths_table(found), sep="\n\n", end="\n\n")
        alarms, promised = found[SHIPPED]["clean_alarms"], found[SHIPPED]["clean_alarms_promised"]
        print(f"{SHIPPED}: {alarms} on the clean run, {promised:.1f} promised\n", flush=True)
        if wanted.json:
            wanted.json.write_text(json.dumps(results, indent=2))
        if wanted.plots:
            draw(found, wanted.plots, name)
    print(f"{time.perf_counter() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
