"""Joined devices and Sparkplug's: the agent as a real process on a real Mosquitto, killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.brokers import wait_until
from tests.sparkplug import FLOAT, EdgeNode, metric
from tests.test_agent import make_peer, make_process
from tests.test_pipeline import BEGUN, quiet

__all__ = ["make_peer", "make_process"]  # fixtures
BOTH = """
  - name: line
    topic: spBv1.0/plant/#
    format: sparkplug
    encoder: none
    period: 1s
    reference: {size: 300, warm_up: 120}
    alert: {false_alarms: 1 per 20000 decisions, cooldown: 1s}
  - name: rooms
    topic: home/{device}/{channel}
    time: {path: ts}
    encoder: none
    period: 1s
    reference: {size: 300, warm_up: 120}
    alert: {false_alarms: 1 per 20000 decisions, cooldown: 1s}
"""


class Plant:
    """A node with a pump, and a room, whose values go on from second to second."""

    def __init__(self, peer):
        self.peer, self.node = peer, EdgeNode()

    def begin(self):
        self.peer.publish(*self.node.birth(BEGUN))
        born = [metric("temp", 20.0, FLOAT, alias=1), metric("flow", 5.0, FLOAT, alias=2)]
        self.peer.publish(*self.node.message("DBIRTH", BEGUN, born, "pump"))

    def run(self, span, change=None):
        for i in span:
            values = quiet(i, ("temp", "flow")) | (change or {})
            sent = [metric(alias=1, value=values["temp"], datatype=FLOAT, sends_type=False)]
            if i % 5 == 0:
                sent.append(metric(alias=2, value=values["flow"], datatype=FLOAT, sends_type=False))
            self.peer.publish(*self.node.message("DDATA", BEGUN + i, sent, "pump"), qos=0)
            for name, value in values.items():
                self.peer.publish(f"home/hall/{name}", json.dumps({"ts": BEGUN + i, "value": value}))


def alerts(peer, stream):
    return [json.loads(one) for one in peer.payloads(f"redshank/pi/{stream}/alert")]


def test_a_plant_and_a_room(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=BOTH).start().ready()
    plant = Plant(peer)
    plant.begin()
    plant.run(range(1, 200))
    active = [f'redshank_stream_phase{{phase="active",stream="{name}"}}' for name in ("line/line1/pump", "rooms/hall")]
    wait_until(lambda: all(process.metric(one) == 1.0 for one in active), 30)
    process.stop()
    process.start().ready()  # the births are long past
    process.popen.kill()
    process.popen.communicate()
    process.start().ready()
    plant.run(range(200, 210), {"temp": 30.0})
    for stream, topic in (("line/line1/pump", "spBv1.0/plant/+/line1/pump"), ("rooms/hall", "home/hall/{channel}")):
        wait_until(lambda stream=stream: alerts(peer, stream), 30, what=f"for an alert of {stream}")
        raised = alerts(peer, stream)[0]
        assert (raised["event"], raised["topic"]) == ("raised", topic)
        assert raised["evidence"]["parts"][0]["name"] == "temp"
    plant.node.seq += 1
    plant.run(range(210, 211))
    peer.publish(*plant.node.death(), qos=1)
    plant.run(range(211, 212))
    for reason in ("sequence_gap", "death", "no_birth"):
        line = f'redshank_messages_rejected_total{{reason="{reason}"}}'
        wait_until(lambda line=line: process.metric(line) == 1.0, 20, what=f"for {reason}")


def test_what_is_recorded_is_replayed(mosquitto, make_process, make_peer, tmp_path):
    peer = make_peer(mosquitto)
    process = make_process(mosquitto, more=BOTH)
    recording = tmp_path / "plant.jsonl"
    recorder = subprocess.Popen(
        [sys.executable, "-m", "agent.cli", "record", "--config", str(process.config), "--out", str(recording)],
        stderr=subprocess.DEVNULL,
    )
    plant = Plant(peer)

    def is_recording():
        peer.publish("home/attic/temp", "1")
        return recording.exists() and recording.stat().st_size

    try:
        wait_until(is_recording, 30)
        plant.begin()
        plant.run(range(1, 20))
        wait_until(lambda: recording.read_bytes().count(b"home/hall/") == 38, 20)
    finally:
        recorder.terminate()
        recorder.wait(20)
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "replay", str(recording), "--config", str(process.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("3 streams")
    assert "no_birth" not in done.stdout
