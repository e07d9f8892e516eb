"""`python -m tests.faults --seed N --faults 200`: does that many faults in random order, prints the table, exits 1 if
anything that is promised did not hold.
"""  # noqa: D205  the command is the summary

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.report import markdown
from tests.faults.trial import Limits, Trial


def order(count: int, rng: random.Random) -> list[int]:
    """Return indices of faults: each as often as any other, give or take one, shuffled."""
    found = [i % len(FAULTS) for i in range(count)]
    rng.shuffle(found)
    return found


def main() -> int:
    """Run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=len(FAULTS) * 7, metavar="N", help="how many to do")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only faults whose name matches")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table there as well")
    parser.add_argument("--keep", action="store_true", help="leave logs and state behind")
    arguments = parser.parse_args()
    chosen = [one for one in FAULTS if re.search(arguments.only, one.name)]
    plan = [chosen[i % len(chosen)] for i in order(arguments.faults, random.Random(arguments.seed))]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="redshank-faults-"))
    print(f"{len(plan)} faults, seed {arguments.seed}, in {folder}", flush=True)
    trial = Trial(folder, arguments.seed, limits=Limits())
    episodes = []
    try:
        trial.begin()
        for number, fault in enumerate(plan, 1):
            begun = time.monotonic()
            episodes.append(done := trial.episode(fault))
            took = time.monotonic() - begun
            print(f"{number:4} {took:5.1f} s  {fault.name}: {done.published} readings, "
                  f"{done.alerts_expected} alerts, ready after {done.ready_s:.1f} s", flush=True)  # fmt: skip
            for line in done.wrong:
                print(f"       WRONG: {line}", flush=True)
    finally:
        trial.close()
        if episodes:
            table = markdown(episodes)
            print(table)
            if arguments.out:
                arguments.out.write_text(table)
    return int(any(one.wrong for one in episodes))


if __name__ == "__main__":
    sys.exit(main())
