"""`python -m tests.benchmarks.overload`: publishers ten times faster than the agent.

Mosquitto with its own limits (1,000 messages queued for a client, 20 in flight), a publisher on a bare socket,
`redshank run` that decides on every reading of 20 streams, and beside them one quiet stream that turns odd in the midst
of it. Told are resident memory, what was dropped where, and when the quiet stream's alert came; with QoS 0, then 1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
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
from tests.benchmarks.__main__ import Daemon, run, say
from tests.benchmarks.tables import table
from tests.brokers import Mosquitto, free_port, wait_until

STREAMS = 20
SECONDS = 30
MEASURED_S = 5.0  # how long it is looked what the agent takes
TIMES = 10
QUIET_HZ = 5.0


def configuration(folder: Path, url: str, port: int, *, qos: int, period_s: float) -> Path:
    """Write the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: bench, state_dir: {folder / "state"}}}
broker: {{url: "{url}", dropped_topic: $SYS/broker/publish/messages/dropped}}
metrics: {{listen: "127.0.0.1:{port}"}}
streams:
  - {{name: bench, topic: bench/+, qos: {qos}, stride: 1, time: {{path: ts, max_ahead: 1d}}, period: {period_s}s}}
  - name: quiet
    topic: quiet
    encoder: none
    time: {{path: ts}}
    period: {1 / QUIET_HZ}s
    reference: {{size: 200, warm_up: 100}}
"""
    )
    return path


def warm_state(path: Path, last_at: float) -> None:
    """Leave full references of all streams, which end at `last_at`."""
    settings = with_defaults(load_configuration(path))
    store = Store(Path(settings.agent.state_dir))
    pipeline = Pipeline(settings, load_encoders(settings, store), Topics("redshank", "bench"), SilentObserver())
    readings = [json.loads("{" + rest) for rest in publisher.channels()]
    rng = np.random.default_rng(0)
    for topic, rows in (("bench/0", 1200), ("quiet", 400)):
        stream = pipeline.stream_of(topic)
        for row in range(rows):
            values = readings[row] if topic != "quiet" else {"level": float(rng.normal())}
            pipeline.process_sample(stream, Sample(last_at - (rows - row) * stream.settings.period_s, values))
        saved = {"signature": stream.signature, "detector": stream.snapshot()}
        names = [f"bench/{number}" for number in range(STREAMS)] if topic != "quiet" else ["quiet"]
        for name in names:
            store.save(name, saved)
    store.set_topics([*(f"bench/{number}" for number in range(STREAMS)), "quiet"])
    store.close()


class Quiet:
    """Publishes the quiet stream, odd from a moment on, and waits for its alert."""

    def __init__(self, port: int) -> None:
        self.published = 0
        self.odd_at: float | None = None
        self.raised_after_s: float | None = None
        self._stop = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("redshank/bench/quiet/alert", 1)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def _publish(self) -> None:
        rng = np.random.default_rng(1)
        while not self._stop.wait(1 / QUIET_HZ):
            value = float(rng.normal()) + (0.0 if self.odd_at is None else 20.0)
            self._client.publish("quiet", json.dumps({"ts": time.time(), "level": value}), qos=1)
            self.published += 1

    def _on_message(self, _client: object, _data: object, message: MQTTMessage) -> None:
        if self.odd_at is not None and self.raised_after_s is None and json.loads(message.payload)["event"] == "raised":
            self.raised_after_s = time.time() - self.odd_at

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()


def drained(daemon: Daemon) -> dict[str, float]:
    """Wait until nothing waits any more, in the agent or, as far as can be seen, at the broker; return its figures."""
    found = daemon.scrape()
    while True:
        time.sleep(1.0)
        before, found = found, daemon.scrape()
        came = found["redshank_messages_received_total"] - before["redshank_messages_received_total"]
        if not found["redshank_queue_length"] and came <= 3 * QUIET_HZ:
            return found


def overload(folder: Path, qos: int, seconds: int) -> list[str]:
    """Return a row: what became of ten times as much as the agent takes."""
    mosquitto = Mosquitto(folder / "broker", log="error", extra="sys_interval 1")
    mosquitto.start()
    port, now = free_port(), time.time()
    path = configuration(folder, mosquitto.url, port, qos=qos, period_s=0.01)
    warm_state(path, now)
    daemon = Daemon(path, port)
    daemon.ready()
    quiet = Quiet(mosquitto.port)
    first = run("publisher", mosquitto.port, qos, STREAMS, MEASURED_S + 1, 50_000, now, 0.01)
    wait_until(lambda: daemon.scrape()["redshank_messages_received_total"] > 1000, 60)
    before, begun = daemon.scrape(), time.monotonic()
    time.sleep(MEASURED_S)
    took = (daemon.scrape()["redshank_messages_received_total"] - before["redshank_messages_received_total"]) / (
        time.monotonic() - begun
    )
    first.communicate()
    before, quietly = drained(daemon), quiet.published
    sender = run("publisher", mosquitto.port, qos, STREAMS, seconds, TIMES * took, now + 1000, 0.01)
    memory = []
    for second in range(seconds - 2):
        if second == seconds // 3:
            quiet.odd_at = time.time()
        memory.append(daemon.scrape()["process_resident_memory_bytes"] / 1e6)
        time.sleep(1.0)
    rate, sent = map(float, sender.communicate()[0].split())
    wait_until(lambda: quiet.raised_after_s is not None, 120)
    after = drained(daemon)
    taken = after["redshank_messages_received_total"] - before["redshank_messages_received_total"]
    taken -= quiet.published - quietly
    found = {name: after[name] - before.get(name, 0.0) for name in after}
    quiet.stop()
    daemon.stop()
    mosquitto.stop()
    return [
        f"{qos}",
        f"{took:,.0f}",
        f"{rate:,.0f}",
        f"{memory[0]:.0f}, {max(memory):.0f}, {memory[-1]:.0f}",
        f"{sent:,.0f}",
        f"{taken:,.0f}",
        f"{found['redshank_queue_dropped_total']:,.0f}",
        f"{sent - taken - found['redshank_queue_dropped_total']:,.0f}",
        f"{found['redshank_broker_dropped_total']:,.0f}",
        f"{found['redshank_broker_held_back_seconds_total']:.0f}",
        f"{quiet.raised_after_s:.1f}",
    ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each QoS; default: %(default)s")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = [overload(Path(name) / str(qos), qos, wanted.seconds) for qos in (0, 1)]
    header = [
        "QoS", "taken /s", "sent /s", "MB: first, most, last", "sent", "taken", "dropped here",
        "neither", "dropped, says the broker", "s held back", "s to the alert",
    ]  # fmt: skip
    say(table(header, rows))


if __name__ == "__main__":
    main()
