"""`python -m tests.benchmarks.finetune --data DIR`: where tuning to a recording helps in the detector, and where not.

Each set goes through what `redshank-convert finetune` does, with its defaults, but for the time limit: both losses, the
choice, int8, and the trial on what was held back. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from agent.core.types import F64
from converter.finetune.command import Compared, chosen, compare, convert, table
from converter.finetune.disturbances import KINDS
from converter.finetune.recorded import channels_of, read
from converter.finetune.trial import places_of
from converter.gates import GATES
from tests.benchmarks import plants
from tests.benchmarks.tables import line

MADE_UP = ("rotating", "batch", "steady")
REAL = {"testbed": (plants.testbed, 1.0), "room": (plants.room, 60.0)}
HEADER = ["set", "loss", "untuned", "tuned", "gain (95 %)", "told, untuned", "tuned", "written", *KINDS, "seconds"]


def main() -> int:
    """Print a row for each set, and its whole table to stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.finetune", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real recordings; without it made-up plants alone")
    parser.add_argument("--sets", default=",".join([*MADE_UP, *REAL]), help="comma-separated")
    parser.add_argument("--loss", choices=["episodes", "triplets"], help="default: what does better on the validation")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(line(HEADER))
    print(line(["---"] * len(HEADER)))
    for name in options.sets.split(","):
        if name in REAL and options.data is None:
            print(f"{name}: left out, for it needs --data", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(line(_run(name, options, Path(folder))), flush=True)
    return 0


def _columns(name: str, options: argparse.Namespace) -> tuple[dict[str, F64], float]:
    if name in REAL:
        load, period_s = REAL[name]
        return load(options.data), period_s
    return plants.plant(name, options.seed), 1.0


def _run(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    begun = time.monotonic()
    recording, configuration = plants.write(folder, name, *_columns(name, options))
    streams = read(recording, configuration, None, "time")
    channels = channels_of(streams)
    with contextlib.redirect_stdout(sys.stderr):
        tuned = chosen(channels, options.loss, seed=options.seed, steps=options.steps, until=np.inf)
    out = folder / "bundle"
    convert(name, tuned, channels, out, GATES, recording=recording.name, seed=options.seed)
    compared = compare(streams, places_of(streams, options.seed), out, options.seed)
    print("\n".join([name, *table(compared)]), file=sys.stderr)
    return _cells(name, tuned.loss, compared, time.monotonic() - begun)


def _cells(name: str, loss: str, compared: Compared, seconds: float) -> list[str]:
    before, after, verdict = compared.untuned, compared.tuned, compared.verdict
    gains = (after.areas - before.areas).mean(axis=(0, 2))
    return [
        name,
        loss,
        f"{before.areas.mean():.3f}",
        f"{after.areas.mean():.3f}",
        f"{verdict.gain:+.4f} ({verdict.low:+.4f} to {verdict.high:+.4f})",
        f"{before.told.mean():.3f}",
        f"{after.told.mean():.3f}",
        "yes" if verdict.better else "no",
        *(f"{gain:+.3f}" for gain in gains),
        f"{seconds:.0f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
