"""`make fuzz`: every target for a while, one after the other, and a table of what was run and found.

Needs the extra `fuzz`. What is new for the coverage is kept in the work folder, and is begun with the next time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
LONGEST = {
    "json": 1024,
    "csv": 1024,
    "value": 128,
    "frames": 1024,
    "manifest": 2048,
    "pictures": 8192,
    "camera": 8192,
    "messages": 8192,
    "active": 4096,
    "state": 65_536,
    "zip": 8192,
}
SEED_BYTES = 70_000  # larger ones are for the tests alone: mutating them leads nowhere
EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
PEAK = re.compile(r"stat::peak_rss_mb:\s*(\d+)")


def fuzz(target: str, seconds: float, work: Path) -> tuple[int, int, list[str]]:
    """Run one target; return executions, the largest memory in MB, and the files of what was found."""
    own, seeds, found = work / "corpus" / target, work / "seeds" / target, work / "found"
    for folder in (own, seeds, found, CORPUS / target):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]()):
        if len(seed) <= SEED_BYTES:
            (seeds / f"{number:04}").write_bytes(seed)
    before = set(found.iterdir())
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", target, str(own), str(seeds), str(CORPUS / target)),
        *(
            f"-max_total_time={seconds:.0f}",
            f"-max_len={LONGEST.get(target, 4096)}",
            "-timeout=30",
            "-rss_limit_mb=2048",
        ),
        *(
            "-print_final_stats=1",
            f"-dict={Path(__file__).parent / 'tokens.dict'}",
            f"-artifact_prefix={found / target}-",
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    new = sorted(str(one) for one in set(found.iterdir()) - before)
    if done.returncode and not new:
        raise SystemExit(done.stderr[-4000:])
    if new:
        (found / f"{target}.log").write_text(done.stderr[-20_000:])
    runs, peak = EXECUTED.search(done.stderr), PEAK.search(done.stderr)
    return int(runs[1]) if runs else 0, int(peak[1]) if peak else 0, new


def main() -> int:
    """Return 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument(
        "--work", type=Path, default=Path(".fuzz"), help="where corpus, findings and the tally are kept"
    )
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("expected the package atheris, found none; pip install -e '.[dev,fuzz]' (Python 3.11 to 3.13)")
    file, failed = given.work / "tally.json", 0
    tally = json.loads(file.read_text()) if file.exists() else {}
    print("| target | executions | of all runs | memory, MB | found |\n|---|---|---|---|---|")
    for target in given.targets:
        runs, peak, new = fuzz(target, given.seconds, given.work)
        tally[target] = tally.get(target, 0) + runs
        file.write_text(json.dumps(tally, indent=2))
        failed |= bool(new)
        print(f"| `{target}` | {runs:,} | {tally[target]:,} | {peak} | {', '.join(new) or 'nothing'} |", flush=True)
    print(f"| all | | {sum(tally.values()):,} | | |")
    return failed


if __name__ == "__main__":
    sys.exit(main())
