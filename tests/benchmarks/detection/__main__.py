"""`python -m tests.benchmarks.detection`: how well the agent's core detects on real data, with different encoders.

Nothing but the core runs: no messages, no budget, no alerts. Detector settings are the agent's defaults (a reference
of 1,000 windows). For the figures of one command to be comparable they use one thread: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agent.errors import RedshankError
from tests.benchmarks.detection.drive import keep_memory
from tests.benchmarks.detection.encoders import make_encoder
from tests.benchmarks.detection.injected import Injected
from tests.benchmarks.detection.nab import Nab
from tests.benchmarks.detection.recordings import missing
from tests.benchmarks.detection.skab import BUDGETS, Skab
from tests.benchmarks.tables import line

SETS = {"nab": Nab, "skab": Skab, "injected": Injected}
_PROFILES = ("standard", "reward_low_FP_rate", "reward_low_FN_rate")


def row(name: str, result: dict[str, Any]) -> list[str]:
    """Return the cells of one encoder's line."""
    cells = [f"`{name}`"]
    for clock in ("time", "rows"):
        nab = result.get("nab", {}).get(clock)
        cells.append("/".join(f"{nab['refractory'][profile]:.1f}" for profile in _PROFILES) if nab else "")
    nab = result.get("nab", {}).get("rows")
    cells.append(f"{nab['plain']['standard']:.1f}" if nab else "")
    for mode in ("adapt", "hold"):
        skab = result.get("skab", {}).get(mode)
        keys = ("false_alarm_percent", "missed_alarm_percent")
        rates = "/".join(f"{skab[key]:.1f}" for key in keys) if skab else ""
        cells.append(f"{skab['f1']:.3f}/{rates}/{skab['auc']:.3f}" if skab else "")
    found = result.get("injected")
    cells += [f"{found[key]['recall']:.3f} ({found[key]['by_chance']:.3f})" if found else "" for key in COUNTED]
    own = ("recall_own_threshold", "by_chance_own_threshold")
    cells.append("{:.3f} ({:.3f})".format(*(found[key] for key in own)) if found else "")
    cells.append(f"{found['auc']:.3f}" if found else "")
    cells.append(f"{result['seconds']:.0f}")
    return cells


COUNTED = ("decisions_0.001", "decisions_0.0001", "events_0.001", "events_0.0001")
HEADER = [
    "encoder",
    "NAB, time",
    "NAB, rows",
    "no refractory",
    "SKAB adapt: F1/FA %/MA %/AUC",
    "SKAB hold",
    "injected: decisions 1/1,000 (by chance)",
    "1/10,000",
    "events 1/1,000",
    "1/10,000",
    "own 1/1,000",
    "AUC",
    "s",
]


def kinds_table(results: dict[str, Any]) -> list[str]:
    """Return a second table: recall of injections by kind and strength."""
    lines: list[str] = []
    for name, result in results.items():
        if "injected" not in result:
            continue
        for rate in COUNTED:
            found = {**result["injected"][rate]["by_kind"], **result["injected"][rate]["by_strength"]}
            if not lines:
                lines = [line(["encoder", "rate", *found]), line(["---"] * (2 + len(found)))]
            lines.append(line([f"`{name}`", rate, *(f"{value:.2f}" for value in found.values())]))
    return lines


def halves_table(results: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """Return NAB with thresholds from the other half of the files, and what is published: at the best threshold."""
    lines = [
        "NAB: standard/low FP/low FN. Threshold best for all files; best for a random half, scored on the other (sd)",
        "",
        line(["detector", "clock", "all files", "other half, 12 halvings"]),
        line(["---"] * 4),
    ]
    for name, result in results.items():
        for clock in ("rows", "time") if "nab" in result else ():
            nab = result["nab"][clock]
            best = "/".join(f"{nab['refractory'][profile]:.1f}" for profile in _PROFILES)
            halves = "/".join(f"{nab['other_half_mean'][profile]:.1f}" for profile in _PROFILES)
            spread = "/".join(f"{nab['other_half_sd'][profile]:.1f}" for profile in _PROFILES)
            lines.append(line([f"`{name}`", clock, best, f"{halves} ({spread})"]))
    ranked = sorted(published.items(), key=lambda item: -item[1].get("standard", 0.0))
    lines += [
        line([f"{name}, published", "rows", "/".join(f"{scores.get(p, 0.0):.1f}" for p in _PROFILES), ""])
        for name, scores in ranked
    ]
    return lines


def budgets_table(results: dict[str, Any]) -> list[str]:
    """Return SKAB at fixed settings: rows at which the agent's alert is on, and the mean of ten at the threshold."""
    lines = [
        "SKAB: F1/false alarms %/missed alarms % where the alert is on; where the mean of 10 reaches the threshold",
        "",
        line(["encoder", "mode", *(f"{budget}: alert; threshold" for budget in BUDGETS)]),
        line(["---"] * (2 + len(BUDGETS))),
    ]
    for name, result in results.items():
        for mode in ("adapt", "hold") if "skab" in result else ():
            cells = [
                "; ".join(_rates(found[how]) for how in ("alerts", "threshold"))
                for found in result["skab"][mode]["budgets"].values()
            ]
            lines.append(line([f"`{name}`", mode, *cells]))
    return lines


def _rates(found: dict[str, float]) -> str:
    return f"{found['f1']:.3f}/{found['false_alarm_percent']:.1f}/{found['missed_alarm_percent']:.1f}"


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.detection", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with nab, skab and iot")
    parser.add_argument(
        "--encoder",
        action="append",
        help="none, raw, untrained:SEED, weights:FILE.npz, a bundle's name or folder; with +density as well",
    )
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--check-scorer", action="store_true", help="score Numenta's windowed Gaussian, and compare")
    return parser.parse_args()


def main() -> int:
    """Run and print; return the exit status."""
    wanted = arguments()
    names = wanted.sets.split(",")
    unknown = [name for name in names if name not in SETS]
    problems = [f"--sets: expected some of {', '.join(SETS)}, found {name!r}" for name in unknown]
    problems += [text for name in names if name in SETS and (text := missing(wanted.data, name))]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    keep_memory()
    sets = {name: SETS[name](wanted.data) for name in names}
    if wanted.check_scorer:
        nab = sets.get("nab") or Nab(wanted.data)
        with tqdm(total=len(nab.tables), desc="windowed Gaussian", leave=False) as bar:
            print(json.dumps(nab.check(lambda _: bar.update()), indent=2))
        return 0
    results: dict[str, Any] = {}
    try:
        encoders = [make_encoder(text) for text in wanted.encoder or ["none", "raw", "sensor-small"]]
    except (RedshankError, OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(line(HEADER), line(["---"] * len(HEADER)), sep="\n", flush=True)
    for encoder in encoders:
        begun = time.perf_counter()
        result: dict[str, Any] = {"note": encoder.note}
        for name, benchmark in sets.items():
            started = time.perf_counter()
            result[name] = benchmark.run(encoder)
            result[name]["seconds"] = time.perf_counter() - started
        result["seconds"] = time.perf_counter() - begun
        results[encoder.name] = result
        print(line(row(encoder.name, result)), flush=True)
        if wanted.json:
            wanted.json.write_text(json.dumps(results, indent=2))
    if "nab" in sets:
        print("", *halves_table(results, sets["nab"].published), sep="\n")
    if "skab" in sets:
        print("", *budgets_table(results), sep="\n")
    print("", *kinds_table(results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
