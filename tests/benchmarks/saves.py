"""`python -m tests.benchmarks.saves`: how long the worker is held up while what many streams have learnt is written.

Streams of one channel that have learnt, saved as the agent does at each snapshot interval: in one go, and in slices.
The files lie in DIR, on the disk that is meant; how fast it flushes is most of the time. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from agent.adapters.mqtt import Topics
from agent.adapters.payload import RejectReason
from agent.adapters.store import Store
from agent.adapters.telemetry import Telemetry
from agent.config import load_configuration
from agent.disk import Disk
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import Saver, save_all
from tests.benchmarks.tables import table

EPOCH = 1e9
LEARNT = 200  # readings until a stream is active
BETWEEN = 100  # between two saves


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.saves", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="default: %(default)s")
    parser.add_argument(
        "--dir", type=Path, help="where the state directory is made; default: where temporary files are"
    )
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.dir) as name:
        folder = Path(name)
        path = folder / "redshank.yaml"
        path.write_text(
            "agent: {id: bench, max_streams: 100000, memory_limit: 16GB}\nstreams:\n  - {name: bench, topic: bench/+, "
            "encoder: none, period: 1s, channels: [a], reference: {size: 100, warm_up: 100}}\n"
        )
        configuration = load_configuration(path)
        telemetry = Telemetry(100_000, 1 << 34, [one.value for one in RejectReason])
        pipeline = Pipeline(configuration, {}, Topics("redshank", "bench"), telemetry)
        rng = np.random.default_rng(0)

        def feed(span: range) -> None:
            for second in tqdm(span, file=sys.stderr, leave=False):
                at = EPOCH + second
                payloads = [b'{"a":%.4f}' % value for value in rng.normal(size=wanted.streams)]
                pipeline.process(
                    [InboundMessage(f"bench/{n}", one, at, float(second)) for n, one in enumerate(payloads)]
                )

        with closing(Store(folder / "state")) as store:
            saver = Saver(store, Disk(store, telemetry), pipeline, telemetry)
            feed(range(LEARNT))
            save_all(store, pipeline)
            feed(range(LEARNT, LEARNT + BETWEEN))
            begun = perf_counter()
            save_all(store, pipeline, whole=False)
            at_once = perf_counter() - begun
            feed(range(LEARNT + BETWEEN, LEARNT + 2 * BETWEEN))
            saver.begin()
            slices, more = [], True
            while more:
                begun = perf_counter()
                more = saver.advance()
                slices.append(perf_counter() - begun)
    found = 1e3 * np.array(slices)
    rows = [
        ["in one go", f"{at_once:.1f}", f"{1e3 * at_once:.0f}", ""],
        [
            "in slices",
            f"{found.sum() / 1e3:.1f}",
            f"{found.max():.0f}",
            f"{np.median(found):.0f}, {np.quantile(found, 0.99):.0f}",
        ],
    ]
    print(table([f"{wanted.streams} streams", "all, s", "longest, ms", "median, 99 %"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
