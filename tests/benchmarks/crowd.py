"""`python -m tests.benchmarks.crowd`: many streams over a real broker: the cost of a message, and the limit of memory.

Mosquitto, a publisher on a bare socket and `redshank run`, which takes its streams up from warm snapshots. First more
streams than `memory_limit` has room for are offered, and the agent's largest resident memory is told; then equally many
messages a second are spread over 100 and over 10,000 streams, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, with_defaults
from agent.config import load_configuration
from agent.core.types import Sample
from agent.pipeline import Pipeline
from tests.benchmarks import publisher
from tests.benchmarks.__main__ import Daemon, broker, run, say
from tests.brokers import free_port, wait_until

COUNTS = (100, 10_000)
RATE = 2_000  # messages a second
SECONDS = 8.0
ROUNDS = 3
OFFERED = 600  # streams of three channels, of which `memory_limit` has room for some


def configuration(folder: Path, url: str, port: int, *, streams: int, size: int, channels: str, limit: str) -> Path:
    """Write a configuration of one entry."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: bench, state_dir: {folder / "state"}, max_streams: {streams}, memory_limit: {limit}}}
broker: {{url: "{url}"}}
metrics: {{listen: "127.0.0.1:{port}"}}
streams:
  - name: bench
    topic: bench/+
    qos: 0
    time: {{path: ts}}
    period: {streams / RATE}s
    stride: 16
    channels: [{channels}]
    reference: {{size: {size}, warm_up: 100}}
"""
    )
    return path


def warm_state(path: Path, streams: int, last_at: float) -> None:
    """Leave snapshots of so many streams whose references are full and end at `last_at`."""
    settings = with_defaults(load_configuration(path))
    (entry,) = settings.streams
    store = Store(Path(settings.agent.state_dir))
    pipeline = Pipeline(settings, load_encoders(settings, store), Topics("redshank", "bench"), SilentObserver())
    stream = pipeline.stream_of("bench/0")
    readings = [json.loads("{" + rest) for rest in publisher.channels()]
    rows = 16 * (entry.reference.size + 200)
    for row in range(rows):
        pipeline.process_sample(stream, Sample(last_at - (rows - row) * entry.period_s, readings[row % len(readings)]))
    assert stream.reference_fill == entry.reference.size
    store.set_topics([f"bench/{number}" for number in range(streams)])
    saved = {"signature": stream.signature, "detector": stream.snapshot()}
    for number in range(streams):
        store.save(f"bench/{number}", saved)
    store.close()


def cost(folder: Path, streams: int) -> float:
    """Return seconds of processor time of the whole agent for a message."""
    mosquitto, port, now = broker(folder / "broker"), free_port(), time.time()
    path = configuration(folder, mosquitto.url, port, streams=streams, size=100, channels="temp", limit="4GB")
    if not (folder / "state").exists():
        warm_state(path, streams, now)
    daemon = Daemon(path, port)
    wait_until(lambda: daemon.answers("/readyz"), 300)
    sender = run("publisher", mosquitto.port, 0, streams, SECONDS + streams / 1000 + 10, RATE, 0, 0)
    time.sleep(streams / 1000 + 5)  # every stream's state is published once after the start
    before, busy = daemon.scrape(), daemon.cpu_s()
    time.sleep(SECONDS)
    busy, after = daemon.cpu_s() - busy, daemon.scrape()
    messages = after["redshank_messages_received_total"] - before["redshank_messages_received_total"]
    assert after["redshank_streams"] == streams
    assert after["redshank_queue_dropped_total"] == 0
    sender.kill()
    sender.communicate()
    daemon.stop()
    mosquitto.stop()
    return busy / messages


def limit(folder: Path, limit_mb: int) -> None:
    """Print what became of more streams than there is memory for."""
    mosquitto, port, now = broker(folder / "broker"), free_port(), time.time()
    path = configuration(
        folder,
        mosquitto.url,
        port,
        streams=OFFERED,
        size=1000,
        channels="temp, flow, power",
        limit=f"{limit_mb}MB",
    )
    warm_state(path, OFFERED, now)
    daemon = Daemon(path, port)
    wait_until(lambda: daemon.answers("/readyz"), 300)
    sender = run("publisher", mosquitto.port, 0, OFFERED, 25, 1000, 0, 0)
    sender.wait()
    wait_until(lambda: daemon.scrape()["redshank_queue_length"] == 0, 60)
    found = daemon.scrape()
    peak = daemon.peak_memory()
    daemon.stop()
    mosquitto.stop()
    watched, decided = found["redshank_streams"], found["redshank_windows_encoded_total"]
    received, rejected = found["redshank_messages_received_total"], found["redshank_messages_rejected_total"]
    say(
        f"{OFFERED} streams of 3 channels offered, memory_limit {limit_mb} MB: {watched:.0f} watched; "
        f"{rejected:,.0f} of {received:,.0f} messages rejected, {decided:,.0f} decisions; "
        f"largest resident memory {peak:.0f} MB, {found['process_resident_memory_bytes'] / 1e6:.0f} MB at the end"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.crowd", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--limit-only", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limit(folder / "limit", 256)
        if wanted.limit_only:
            return
        spent: dict[int, list[float]] = {count: [] for count in COUNTS}
        for _ in range(wanted.rounds):
            for count, times in spent.items():
                times.append(cost(folder / str(count), count))
                say(f"{count:,} streams: {1e6 * times[-1]:.0f} us of processor time a message at {RATE:,} a second")
        few, many = (statistics.median(times) for times in spent.values())
        say(f"medians: {1e6 * few:.0f} and {1e6 * many:.0f} us, ratio {many / few:.2f}")


if __name__ == "__main__":
    main()
