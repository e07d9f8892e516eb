"""`make bench`: the daemon against a bare subscriber, from the same publisher, one after the other in one run.

Each figure is from real processes: Mosquitto, the publisher, and `redshank run` with a warm snapshot.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, with_defaults
from agent.config import load_configuration
from agent.core.types import Sample
from agent.pipeline import Pipeline
from tests.benchmarks import publisher
from tests.brokers import Mosquitto, free_port, wait_until

STREAMS = 100
STRIDE = 16
SIZE = 1000
SECONDS = 5.0
ROUNDS = 3
OFFERED = 60_000  # messages/s: more than a bare subscriber can take
SHARE = 0.6  # of what it takes is sent to the agent, at which it must lose nothing
RESTART_RATE = 5_000


def configuration(folder: Path, url: str, port: int, *, qos: int, rate: float, score_topic: str = "never") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
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
    period: {STREAMS / rate:.6f}s
    stride: {STRIDE}
    reference: {{size: {SIZE}, warm_up: 200}}
    score_topic: {score_topic}
"""
    )
    return path


def warm_state(folder: Path, last_at: float, rate: float) -> None:
    """Leave a state directory in which every stream has a full reference that ends at `last_at`."""
    path = configuration(folder, "mqtt://localhost:1", 1, qos=0, rate=rate)
    settings = with_defaults(load_configuration(path))
    store = Store(folder / "state")
    pipeline = Pipeline(settings, load_encoders(settings, store), Topics("redshank", "bench"), SilentObserver())
    stream = pipeline.stream_of("bench/0")
    readings = [json.loads("{" + rest) for rest in publisher.channels()]
    rows = STRIDE * (SIZE + 250)
    for i in range(rows):
        pipeline.process_sample(stream, Sample(last_at - (rows - i) * STREAMS / rate, readings[i % len(readings)]))
    assert stream.bank.reference_size(stream.detector) == SIZE
    store.set_topics([f"bench/{number}" for number in range(STREAMS)])
    for number in range(STREAMS):
        store.save(
            f"bench/{number}", {"signature": stream.signature, "detector": stream.bank.snapshot(stream.detector)}
        )
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

    def answers(self, path: str) -> bool:
        """Tell whether this page is there."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ready(self) -> None:
        wait_until(lambda: self.answers("/readyz"), 30)

    def memory(self) -> float:
        """Return resident memory in MiB."""
        return self._status("VmRSS") / 1024

    def peak_memory(self) -> float:
        """Return the largest resident memory so far in MB."""
        return self._status("VmHWM") * 1024 / 1e6

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
        raise AssertionError

    def cpu_s(self) -> float:
        """Return the processor time used so far, all threads."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(60)


def run(module: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def broker(folder: Path) -> Mosquitto:
    made = Mosquitto(folder, log="error", extra="max_queued_messages 200000")
    made.start()
    return made


def bare_rate(folder: Path, qos: int) -> float:
    """Return the messages per second that a subscriber takes which does nothing with them."""
    mosquitto = broker(folder)
    subscriber = run("bare", mosquitto.port, qos, SECONDS)
    assert subscriber.stdout.readline() == "ready\n"
    sender = run("publisher", mosquitto.port, qos, STREAMS, SECONDS + 2, OFFERED, time.time(), STREAMS / OFFERED)
    rate = float(subscriber.stdout.readline())
    subscriber.wait()
    sender.kill()
    sender.communicate()
    mosquitto.stop()
    return rate


def agent_rate(folder: Path, qos: int, rate: float) -> dict[str, float]:
    """Send the agent `rate` messages per second and return what it did with them."""
    mosquitto = broker(folder / "broker")
    now = time.time()
    warm_state(folder, now, rate)
    port = free_port()
    daemon = Daemon(configuration(folder, mosquitto.url, port, qos=qos, rate=rate), port)
    daemon.ready()
    sender = run("publisher", mosquitto.port, qos, STREAMS, SECONDS + 2, rate, now, STREAMS / rate)
    wait_until(lambda: daemon.scrape()["redshank_messages_received_total"] > 0, 10)
    time.sleep(1.0)
    before, begun, busy = daemon.scrape(), time.monotonic(), daemon.cpu_s()
    time.sleep(SECONDS)
    after, seconds, busy = daemon.scrape(), time.monotonic() - begun, daemon.cpu_s() - busy
    memory = daemon.memory()
    sender.communicate()
    daemon.stop()
    mosquitto.stop()
    messages = after["redshank_messages_received_total"] - before["redshank_messages_received_total"]
    decisions = after["redshank_windows_encoded_total"] - before["redshank_windows_encoded_total"]
    return {
        "rate": messages / seconds,
        "messages_each": messages / max(1.0, decisions),
        "cpu": busy / seconds,
        "memory": memory,
        "lost": after["redshank_queue_dropped_total"] + after.get("redshank_messages_rejected_total", 0.0),
    }


def throughput(folder: Path, qos: int) -> float:
    """Print what the agent takes beside what a bare subscriber takes; return the latter."""
    ratios, rates = [], []
    for turn in range(ROUNDS):
        bare = bare_rate(folder / f"bare{qos}{turn}", qos)
        found = agent_rate(folder / f"agent{qos}{turn}", qos, SHARE * bare)
        ratios.append(found["rate"] / bare)
        rates.append(bare)
        say(
            f"QoS {qos}: bare subscriber {bare:,.0f} messages/s; "
            f"agent {found['rate']:,.0f} ({100 * ratios[-1]:.0f} %), "
            f"{found['messages_each']:.2f} messages a decision, {found['lost']:.0f} lost, "
            f"{100 * found['cpu']:.0f} % of a core, {found['memory']:.1f} MiB resident"
        )
    say(f"QoS {qos}: {100 * statistics.median(ratios):.0f} % of the bare subscriber, median of {ROUNDS}")
    return statistics.median(rates)


class Scores:
    """Receives the agent's scores and notes how long after its reading each came."""

    def __init__(self, port: int) -> None:
        self.delays: list[float] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._ready = threading.Event()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("redshank/bench/+/+/score")
        self._client.loop_start()
        assert self._ready.wait(10)

    def _on_message(self, _client: object, _data: object, message: MQTTMessage) -> None:
        self.delays.append(time.time() - json.loads(message.payload)["at"])

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def latency(folder: Path, rate: float) -> None:
    """Print how long after a reading was sent its score arrives at a subscriber."""
    mosquitto = broker(folder / "broker")
    warm_state(folder, time.time(), rate)
    port = free_port()
    daemon = Daemon(configuration(folder, mosquitto.url, port, qos=0, rate=rate, score_topic="always"), port)
    daemon.ready()
    scores = Scores(mosquitto.port)
    sender = run("publisher", mosquitto.port, 0, STREAMS, SECONDS + 3, rate, 0, 0)
    time.sleep(3)
    scores.delays.clear()
    time.sleep(SECONDS)
    delays = np.array(scores.delays)
    sender.communicate()
    scores.stop()
    daemon.stop()
    mosquitto.stop()
    p50, p99 = np.quantile(delays, (0.5, 0.99))
    say(
        f"end to end, from publishing a reading to receiving its score, at {rate:,.0f} messages/s: "
        f"p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms of {len(delays)} scores"
    )


def restart(folder: Path) -> None:
    """Print how long after its start the agent decides again: a warm snapshot, and a broker that kept the session."""
    mosquitto = broker(folder / "broker")
    rate = RESTART_RATE
    warm_state(folder, time.time(), rate)
    port = free_port()
    path = configuration(folder, mosquitto.url, port, qos=1, rate=rate, score_topic="always")
    daemon = Daemon(path, port)
    daemon.ready()
    sender = run("publisher", mosquitto.port, 1, STREAMS, 20, rate, 0, 0)
    time.sleep(4)
    daemon.stop()
    scores = Scores(mosquitto.port)
    time.sleep(1)
    assert not scores.delays
    daemon = Daemon(path, port)
    begun = time.monotonic()
    wait_until(lambda: scores.delays, 20)
    took = time.monotonic() - begun
    sender.kill()
    sender.communicate()
    daemon.stop()
    scores.stop()
    mosquitto.stop()
    say(f"first decision {took:.2f} s after the start, with {STREAMS} warm snapshots at {rate:,.0f} messages/s")


def state_size(folder: Path) -> None:
    """Print what a channel costs on disk and in memory."""
    warm_state(folder, time.time(), RESTART_RATE)
    size = sum(path.stat().st_size for path in (folder / "state" / "streams").iterdir())
    say(f"{size / STREAMS / publisher.CHANNELS / 1000:.0f} kB of snapshot a channel")
    mosquitto = broker(folder / "broker")
    port = free_port()
    path = configuration(folder, mosquitto.url, port, qos=0, rate=RESTART_RATE)
    loaded = Daemon(path, port)
    loaded.ready()
    full = loaded.memory()
    loaded.stop()
    shutil.rmtree(folder / "state" / "streams")
    empty = Daemon(path, port)
    empty.ready()
    say(f"{1024 * (full - empty.memory()) / STREAMS / publisher.CHANNELS:.0f} KiB of memory a channel")
    empty.stop()
    mosquitto.stop()


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    say(f"{STREAMS} streams of {publisher.CHANNELS} channels, a decision every {STRIDE} samples, {SIZE} references")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = [throughput(folder, qos) for qos in (0, 1)]
        latency(folder / "latency", SHARE * rates[0] / 2)
        restart(folder / "restart")
        state_size(folder / "size")


if __name__ == "__main__":
    main()
