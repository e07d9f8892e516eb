"""`python -m tests.fuzz.worst`: what the hardest seeds cost.

Processor time is the least of some runs, since a busy machine adds to it. Memory is the most that Python had allocated
at once, beyond the input; what Pillow's C code takes is not in it.
"""

from __future__ import annotations

import logging
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 5
OF_ONE_MESSAGE = ("json", "csv", "value", "msgpack", "cbor", "raw", "sparkplug", "packed", "frames", "pictures")


def least_ms(run: Callable[[bytes], None], data: bytes, runs: int) -> float:
    """Return the least processor time of some runs, in milliseconds."""
    spent = []
    for _ in range(runs):
        begun = time.process_time()
        run(data)
        spent.append(time.process_time() - begun)
    return 1000.0 * min(spent)


def peak_mb(run: Callable[[bytes], None], data: bytes) -> float:
    """Return the largest memory at once, in megabytes."""
    tracemalloc.start()
    run(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def main(targets: list[str]) -> None:
    """Print a table."""
    logging.disable()
    print("| target | seeds | longest, ms | most memory, MB | the longest begins with |\n|---|---|---|---|---|")
    for target in targets or OF_ONE_MESSAGE:
        run, seeds = TARGETS[target](), list(SEEDS[target]())
        run(seeds[0])
        slow = sorted(seeds, key=lambda data: least_ms(run, data, 1), reverse=True)[:5]
        times = {least_ms(run, data, RUNS): data for data in slow}
        longest = max(times)
        memory = max(peak_mb(run, data) for data in sorted(seeds, key=len)[-5:] + slow)
        shown = ascii(times[longest][1:17].decode(errors="replace"))[1:-1].replace("|", "\\|")
        print(
            f"| `{target}` | {len(seeds)} | {longest:.1f} | {memory:.1f} | `{shown}`, {len(times[longest]):,} bytes |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
