"""`make bench`: the daemon against a bare subscriber, from the same publisher, one after the other in one run.

Each figure is from real processes: Mosquitto, the publisher, and `redshank run` with a warm snapshot.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, with_defaults
from agent.config import load_configuration
from agent.pipeline import Pipeline
from agent.adapters.mqtt.topics import Topics
from agent.core.types import Sample
from tests.benchmarks import publisher
from tests.brokers import Mosquitto, free_port, wait_until

STREAMS = 100
STRIDE = 16
SIZE = 1000
PERIOD_S = 0.01
SECONDS = 5.0
ROUNDS = 1


def configuration(folder: Path, url: str, port: int, *, qos: int, score_topic: str = "never") -> Path:
    path = folder / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: bench, state_dir: {folder / "state"}, snapshot_interval: 1h}}
broker: {{url: "{url}"}}
metrics: {{listen: "127.0.0.1:{port}"}}
streams:
  - name: bench
    topic: bench/+
    qos: {qos}
    time: {{path: ts}}
    period: {PERIOD_S}s
    stride: {STRIDE}
    reference: {{size: {SIZE}, warm_up: 200}}
    score_topic: {score_topic}
"""
    )
    return path


def warm_state(folder: Path, last_at: float, streams: int) -> None:
    """Leave a state directory in which every stream has a full reference that ends at `last_at`."""
    path = configuration(folder, "mqtt://localhost:1", 1, qos=0)
    settings = with_defaults(load_configuration(path))
    store = Store(folder / "state")
    pipeline = Pipeline(settings, load_encoders(settings, store), Topics("redshank", "bench"), SilentObserver())
    stream = pipeline.stream_of("bench/0")
    readings = [json.loads("{" + rest) for rest in publisher.channels()]
    rows = STRIDE * (SIZE + 250)
    for i in range(rows):
        pipeline.process_sample(stream, Sample(last_at - (rows - i) * PERIOD_S, readings[i % len(readings)]))
    assert stream.bank.reference_size(stream.detector) == SIZE
    store.set_topics([f"bench/{number}" for number in range(streams)])
    for number in range(streams):
        store.save(f"bench/{number}", {"signature": stream.signature, "detector": stream.bank.snapshot(stream.detector)})
    store.close()


class Daemon:
    """`redshank run`, and what it says of itself."""

    def __init__(self, path: Path, port: int) -> None:
        self.port = port
        self.begun = time.monotonic()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "--log-level", "error", "run", "--config", str(path)],
            stderr=subprocess.DEVNULL,
        )

    def scrape(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#")]
        found: dict[str, float] = {}
        for name, value in lines:
            family = name.split("{")[0]
            found[family] = found.get(family, 0.0) + float(value)
        return found

    def ready(self) -> None:
        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1) as answer:
                    return answer.status == 200
            except OSError:
                return False

        wait_until(answers, 30)

    def memory(self) -> float:
        """Return resident memory in MB."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1000
        raise AssertionError

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(60)


def publish(port: int, qos: int, seconds: float, rate: float, first_at: float, period: float = PERIOD_S):
    words = [port, qos, STREAMS, seconds, rate, first_at, period]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.publisher", *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def broker(folder: Path) -> Mosquitto:
    made = Mosquitto(folder, log="error", extra="max_queued_messages 200000")
    made.start()
    return made


def bare_rate(folder: Path, qos: int) -> float:
    mosquitto = broker(folder)
    words = [mosquitto.port, qos, SECONDS]
    subscriber = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bare", *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    assert subscriber.stdout.readline() == "ready\n"
    sender = publish(mosquitto.port, qos, SECONDS + 2, 0, time.time())
    rate = float(subscriber.stdout.readline())
    subscriber.wait()
    sender.kill()
    sender.communicate()
    mosquitto.stop()
    return rate


def agent_rate(folder: Path, qos: int) -> dict[str, float]:
    mosquitto = broker(folder / "broker")
    now = time.time()
    warm_state(folder, now, STREAMS)
    port = free_port()
    daemon = Daemon(configuration(folder, mosquitto.url, port, qos=qos), port)
    daemon.ready()
    alone = daemon.memory()
    sender = publish(mosquitto.port, qos, SECONDS + 3, 0, now)
    wait_until(lambda: daemon.scrape()["redshank_messages_received_total"] > 0, 10)
    time.sleep(1.0)
    before, begun = daemon.scrape(), time.monotonic()
    time.sleep(SECONDS)
    after, seconds = daemon.scrape(), time.monotonic() - begun
    messages = after["redshank_messages_received_total"] - before["redshank_messages_received_total"]
    decisions = after["redshank_windows_encoded_total"] - before["redshank_windows_encoded_total"]
    loaded = daemon.memory()
    offered = sender.communicate()[0]
    daemon.stop()
    mosquitto.stop()
    return {
        "rate": messages / seconds,
        "decisions": decisions / seconds,
        "alone_mb": alone,
        "loaded_mb": loaded,
        "dropped": after["redshank_queue_dropped_total"],
        "rejected": after.get("redshank_messages_rejected_total", 0.0),
        "offered": float(offered),
    }


def throughput(folder: Path, qos: int) -> float:
    ratios, rates = [], []
    for turn in range(ROUNDS):
        bare = bare_rate(folder / f"bare{qos}{turn}", qos)
        found = agent_rate(folder / f"agent{qos}{turn}", qos)
        ratios.append(found["rate"] / bare)
        rates.append(found["rate"])
        print(
            f"QoS {qos}: bare subscriber {bare:,.0f} messages/s, agent {found['rate']:,.0f} "
            f"({100 * ratios[-1]:.0f} %), {found['decisions']:,.0f} decisions/s "
            f"({found['rate'] / max(1.0, found['decisions']):.1f} messages each), offered {found['offered']:,.0f}, "
            f"queue dropped {found['dropped']:,.0f}, rejected {found['rejected']:,.0f}, "
            f"memory {found['alone_mb']:.0f} -> {found['loaded_mb']:.0f} MB",
            flush=True,
        )
    print(f"QoS {qos}: {100 * statistics.median(ratios):.0f} % of the bare subscriber (median of {ROUNDS})", flush=True)
    return statistics.median(rates)


def main() -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = {qos: throughput(folder, qos) for qos in (0, 1)}


if __name__ == "__main__":
    main()
