"""`python -m tests.benchmarks.pictures`: how well pictures are judged, how fast, and whether budgets are kept.

Everything is as it ships: the light is taken out, the encoder is the bundle's variant that is fastest on each runtime,
the reference holds 1,000 pictures and 8,000 patches, and 300 pictures are learnt first. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from agent.adapters.tflite import TfliteModel
from tests.benchmarks.pictures.drive import Driver, models
from tests.benchmarks.pictures.faults import faults
from tests.benchmarks.pictures.measures import auroc
from tests.benchmarks.pictures.patchcore import PatchCore
from tests.benchmarks.pictures.ranking import features, rank
from tests.benchmarks.pictures.sets import DEFECTS, Scene, digits, missing, tiles
from tests.benchmarks.pictures.streaming import RATES, days, promise, ranking, repeat
from tests.benchmarks.tables import table

PARTS = ("ranking", "streams", "light", "faults")


def ranked(
    scenes: list[Scene], model: TfliteModel, cache: Path | None, *, peer: bool, bar: tqdm[Any]
) -> dict[str, float]:
    """Return the mean over scenes of all figures of one runtime; with the peer's beside them."""
    rows: list[dict[str, float]] = []
    for scene in scenes:
        driver = Driver(model)
        maps = features(scene, driver, cache, bar.update)
        found = rank(scene, driver, maps)
        found["push_ms"] = 1e3 * float(np.mean(driver.seconds))
        found["longest_ms"] = 1e3 * float(np.max(driver.seconds))
        found["memory_mb"] = driver.detector.bytes / 1e6
        if peer:
            core = PatchCore(maps[: len(scene.reference)])
            found["peer_mb"] = core.bytes / 1e6
            begun = perf_counter()
            scores = core.scores(maps[len(scene.reference) :])
            found["peer_ms"] = 1e3 * (perf_counter() - begun) / len(scores)
            found["peer"] = auroc(scores[: len(scene.tested)], scores[len(scene.tested) :])
        rows.append(found)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in rows[0]}


def print_ranking(results: dict[str, Any]) -> None:
    """Print AUROC, and the cost of a picture."""
    header = [
        "set",
        "runtime",
        "patches",
        "whole",
        "both",
        "PatchCore",
        "pixels",
        "push ms: mean, longest",
        "PatchCore ms",
        "MB kept: ours, PatchCore",
    ]
    rows = []
    for name, by_runtime in results.items():
        for runtime, found in by_runtime.items():
            cells = [
                f"{found[key]:.3f}" if key in found else "" for key in ("patches", "whole", "both", "peer", "pixels")
            ]
            times = f"{found['push_ms']:.1f}, {found['longest_ms']:.0f}"
            of_peer = [f"{found['peer_ms']:.1f}", f", {found['peer_mb']:.1f}"] if "peer_ms" in found else ["", ""]
            rows.append([name, runtime, *cells, times, of_peer[0], f"{found['memory_mb']:.1f}{of_peer[1]}"])
    print("AUROC, mean over scenes", table(header, rows), sep="\n\n", end="\n\n", flush=True)
    rows = [
        [runtime, *(f"{found[f'pixels {kind}']:.3f}" for kind in DEFECTS)]
        for runtime, found in results.get("tile", {}).items()
    ]
    print("Pixel AUROC by kind of defect", table(["runtime", *DEFECTS], rows), sep="\n\n", end="\n\n", flush=True)


def print_streams(results: dict[str, Any]) -> None:
    """Print what was promised and what happened."""
    header = [
        "set",
        "promised",
        "decisions",
        "false alarms",
        "observed/promised",
        "recall: cold, after 300",
        "all",
        "ideal",
        "steered, true alarms confirmed: observed/promised",
        "recall: cold, after 300",
        "not confirmed: observed/promised",
        "recall: cold, after 300",
    ]
    rows = []
    for name, result in results.items():
        for rate, found in result["promise"].items():
            rows.append(
                [
                    name,
                    f"1 per {1 / rate:,.0f}",
                    f"{found['promised'] / rate:,.0f} in {result['runs']}",
                    f"{found['alarms']:.0f}",
                    f"{found['alarms'] / found['promised']:.2f}",
                    f"{found['cold']:.2f}, {found['later']:.2f}",
                    f"{found['recall']:.2f}",
                    f"{found['ideal']:.2f}",
                    *(
                        cell
                        for name in ("steered", "unconfirmed")
                        for cell in (
                            f"{found[f'{name}_alarms'] / found['promised']:.2f}",
                            f"{found[f'{name}_cold']:.2f}, {found[f'{name}_later']:.2f}",
                        )
                    ),
                ]
            )
    print("Streams with 3 % of odd pictures", table(header, rows), sep="\n\n", end="\n\n", flush=True)


def print_light(results: dict[str, Any]) -> None:
    """Print false alarms per 1,000 normal pictures, and recall, where 10 are promised."""
    rows = [
        [name, light, f"{1e3 * RATES[0] * found['alarms'] / found['promised']:.0f}", f"{found['recall']:.2f}"]
        for name, by_light in results.items()
        for light, found in by_light.items()
    ]
    header = ["set", "light", "false alarms per 1,000, 10 promised", "recall"]
    print("Days of light: gain 1 to .5, white balance +-10 %", table(header, rows), sep="\n\n", flush=True)


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with magnetic_tile and mnist")
    parser.add_argument("--cache", type=Path, help="folder in which the encoder's maps are kept, 14 GB")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated; default: %(default)s")
    parser.add_argument("--alarms", type=float, default=20.0, help="promised at the lowest rate; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures here")
    wanted = parser.parse_args()
    parts = wanted.parts.split(",")
    problem = missing(wanted.data) or next((f"--parts: found {part!r}" for part in parts if part not in PARTS), None)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    if wanted.cache is not None:
        wanted.cache.mkdir(parents=True, exist_ok=True)
    runtimes = models()
    print("\n".join(f"{model.runtime}: {model.file}" for model in runtimes.values()), flush=True)
    sets = {"tile": [tiles(wanted.data)], "digits": digits(wanted.data)}
    default = min(runtimes.values(), key=lambda model: model.seconds_per_input(1))
    results: dict[str, Any] = {}
    with tqdm(leave=False, unit=" pictures") as bar:
        if "ranking" in parts:
            results["ranking"] = {
                name: {
                    model.runtime: ranked(scenes, model, wanted.cache, peer=model is default, bar=bar)
                    for model in runtimes.values()
                }
                for name, scenes in sets.items()
            }
            print_ranking(results["ranking"])
        if "streams" in parts:
            results["streams"] = {}
            for name, scenes in sets.items():
                rows, seconds, runs = repeat(scenes, default, wanted.alarms, wanted.cache, bar.update)
                longest = 1e3 * np.quantile(seconds, (0.999, 1.0))
                results["streams"][name] = {
                    "promise": promise(rows),
                    "runs": runs,
                    "auroc": ranking(rows),
                    "longest_ms": longest.tolist(),
                }
            print_streams(results["streams"])
            for name, found in results["streams"].items():
                print(
                    f"{name}: AUROC {found['auroc']:.3f}, longest push {found['longest_ms'][1]:.0f} ms, "
                    f"99.9 % below {found['longest_ms'][0]:.0f} ms"
                )
        if "light" in parts:
            results["light"] = {name: days(scenes[0], default, bar.update) for name, scenes in sets.items()}
            print_light(results["light"])
        if "faults" in parts:
            results["faults"] = {name: faults(scenes[0], bar.update) for name, scenes in sets.items()}
            found = results["faults"]
            rows = [[name, *(f"{share:.2f}" for share in shares.values())] for name, shares in found.items()]
            header = ["set", *next(iter(found.values()))]
            print("Share of pictures with the right fault", table(header, rows), sep="\n\n", flush=True)
    if wanted.json:
        wanted.json.write_text(json.dumps(msgspec.to_builtins(results, str_keys=True), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
