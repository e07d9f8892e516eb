"""`python -m tests.benchmarks.streams`: what a message costs with 100 and with 10,000 streams, and what a stream takes.

All in process, each number of streams in a process of its own, which take turns: equally many messages a second reach
both, spread over fewer or more streams, so that what is done for each stream each second counts in full. The time is
virtual; pipeline, states and metrics are the daemon's, the broker takes everything at once. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from agent.adapters.allocator import return_memory
from agent.config import load_configuration
from agent.encoder_trial import resident_bytes
from agent.ports import InboundMessage
from tests.benchmarks import publisher
from tests.benchmarks.tables import table
from tests.benchmarks.virtual import VirtualAgent

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from agent.config import Configuration

COUNTS = (100, 10_000)
RATE = 10_000  # messages a second, over all streams
SIZE = 100  # references: the fewest that there may be
STRIDE = 16
ROUNDS = 32
KINDS = ((100, 1, 1500), (1000, 1, 600), (1000, 3, 200), (1000, 50, 12))  # references, channels, streams
EPOCH = 1e9


def configuration(folder: Path, streams: int, *, size: int, channels: int, period_s: float) -> Configuration:
    """Return one entry for all topics; memory is no limit."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: bench, state_dir: {folder / "state"}, max_streams: {streams}, memory_limit: 16GB}}
broker: {{url: "mqtt://localhost:1"}}
streams:
  - name: bench
    topic: bench/+
    time: {{path: ts}}
    channels: [{", ".join(f"c{number}" for number in range(channels))}]
    period: {period_s}s
    stride: {STRIDE}
    reference: {{size: {size}, warm_up: 100}}
"""
    )
    return load_configuration(path)


class Farm:
    """An agent with many streams, all of which went on from one that is full."""

    def __init__(self, folder: Path, count: int, *, size: int, channels: int, rate: int = RATE) -> None:
        self._count, self._channels, self._period_s = count, channels, count / rate
        self._values = [one.split(":")[1].split(",")[0] for one in publisher.channels()]
        self.at, self._step, self._sent = EPOCH, 0, 0
        first = VirtualAgent(self._configured(folder / "first", 1, size))
        for _ in range(STRIDE * (size + 200)):
            self._next()
            first.take([self._message("bench/0")])
        (stream,) = first.pipeline.streams.values()
        assert stream.reference_fill == size
        saved = stream.snapshot()
        first.close()
        gc.collect()
        before, begun = resident_bytes(), time.process_time()
        settings = self._configured(folder / "all", count, size)
        self.agent = VirtualAgent(settings, lambda one: one.restore(saved, []), first.encoders)
        self._topics = [f"bench/{number}" for number in range(count)]
        for topic in self._topics:
            self.agent.pipeline.stream_of(topic)
        self.start_s = time.process_time() - begun
        gc.collect()
        self.stream_bytes = (resident_bytes() - before) / count
        self.reckoned_bytes = self.agent.pipeline.room.used / count

    def _configured(self, folder: Path, streams: int, size: int) -> Configuration:
        return configuration(folder, streams, size=size, channels=self._channels, period_s=self._period_s)

    def _next(self) -> None:
        self.at += self._period_s
        self._step += 1

    def _message(self, topic: str) -> InboundMessage:
        values = ",".join(
            f'"c{number}":{self._values[(self._step + 7 * number) % len(self._values)]}'
            for number in range(self._channels)
        )
        return InboundMessage(topic, f'{{"ts":{self.at:.3f},{values}}}'.encode(), self.at, self.at)

    def second(self, messages: int) -> float:
        """Take this many messages and what else a second brings; return seconds of processor time for each."""
        made = []
        for _ in range(messages):
            if self._sent % self._count == 0:
                self._next()
            made.append(self._message(self._topics[self._sent % self._count]))
            self._sent += 1
        begun = time.process_time()
        self.agent.take(made)
        self.agent.tick(EPOCH + 2 * self._sent / messages)
        return (time.process_time() - begun) / messages

    def scrape(self) -> float:
        """Return the seconds of processor time that it takes to tell all metrics."""
        from prometheus_client import generate_latest  # noqa: PLC0415  as in the HTTP server

        begun = time.process_time()
        generate_latest(self.agent.telemetry.registry)
        return time.process_time() - begun


def serve(ours: Connection, count: int) -> None:
    """Be a process with this many streams: a second of traffic whenever it is asked for."""
    return_memory()
    with tempfile.TemporaryDirectory() as name:
        farm = Farm(Path(name), count, size=SIZE, channels=1)
        ours.send(farm.start_s)
        while ours.recv():
            ours.send(farm.second(RATE))
        ours.send(farm.scrape())
        farm.agent.close()


def costs(counts: tuple[int, ...], rounds: int) -> str:
    """Return a table: what a message costs with few and with many streams, in turns."""
    spawn = multiprocessing.get_context("spawn")
    ends, processes, starts = [], [], []
    for count in counts:
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs, count))
        process.start()
        ends.append(mine)
        processes.append(process)
        starts.append(mine.recv())
    spent: list[list[float]] = [[] for _ in counts]
    for _ in tqdm(range(rounds), desc="seconds of traffic", leave=False, disable=None):
        for end, times in zip(ends, spent, strict=True):
            end.send(True)  # noqa: FBT003  go on
            times.append(end.recv())
    rows = []
    first = statistics.mean(spent[0])
    for end, process, count, start, times in zip(ends, processes, counts, starts, spent, strict=True):
        end.send(False)  # noqa: FBT003  the end
        scrape = end.recv()
        process.join()
        mean = statistics.mean(times)
        rows.append(
            [f"{count:,}", f"{1e6 * mean:.1f}", f"{mean / first:.2f}", f"{1e3 * start / count:.2f}", f"{scrape:.2f}"]
        )
    return table(["streams", "us a message", "of the first", "ms to take a stream up", "s for a scrape"], rows)


def weigh(ours: Connection, size: int, channels: int, count: int) -> None:
    """Be a process with such streams, and tell what each takes."""
    return_memory()
    with tempfile.TemporaryDirectory() as name:
        farm = Farm(Path(name), count, size=size, channels=channels)
        farm.agent.close()
    ours.send((farm.stream_bytes, farm.reckoned_bytes))


def weights(kinds: tuple[tuple[int, int, int], ...]) -> str:
    """Return a table: the memory of a stream as it is, and as it is reckoned with."""
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for size, channels, count in tqdm(kinds, desc="memory", leave=False, disable=None):
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=weigh, args=(theirs, size, channels, count))
        process.start()
        measured, reckoned = mine.recv()
        process.join()
        held = [f"{measured / 1e3:,.1f}", f"{reckoned / 1e3:,.1f}", f"{measured / reckoned:.2f}"]
        rows.append([f"{size:,}", f"{channels}", f"{count:,}", *held])
    return table(["references", "channels", "streams", "kB a stream", "reckoned with", "measured / reckoned"], rows)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="seconds of traffic; default: %(default)s")
    parser.add_argument("--memory-only", action="store_true")
    wanted = parser.parse_args()
    if not wanted.memory_only:
        print(costs(COUNTS, wanted.rounds), flush=True)
    print(weights(KINDS))


if __name__ == "__main__":
    main()
