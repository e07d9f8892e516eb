"""The access rules that are shipped, on a real Mosquitto: who publishes readings does not decide what is normal."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.brokers import Peer, wait_until
from tests.test_agent import Process

ROOT = Path(__file__).parents[1]
ACL = (ROOT / "deploy" / "mosquitto" / "acl").read_text().replace("press-shop-pi", "pi")
AGENT, COMMAND = "redshank-pi", "redshank/pi/command"
USERS = {name: f"word-of-{name}" for name in (AGENT, "sensors", "viewer", "operator", "homeassistant")}
ALL = ("redshank/#", "plant/#", "ops/#")


@pytest.fixture
def broker(make_mosquitto, request):
    return make_mosquitto(users=USERS, acl=ACL, extra=getattr(request, "param", ""))


@pytest.fixture
def peer(broker):
    peers = []

    def make(name, *topics):
        peers.append(Peer(broker, *topics, user=(name, USERS[name])))
        return peers[-1]

    yield make
    for one in peers:
        one.close()


@pytest.fixture
def agent(tmp_path, broker):
    word = tmp_path / "word"
    word.write_text(USERS[AGENT])
    word.chmod(0o600)
    settings = f', username: {AGENT}, password_file: "{word}", dropped_topic: $SYS/broker/publish/messages/dropped'
    made = Process(tmp_path, broker, broker_settings=settings, more="commands: {enabled: true}")
    made.start()
    yield made.ready()
    if made.popen.poll() is None:
        made.popen.kill()
    made.popen.communicate()


def reading(i, *, odd=False):
    rng = random.Random(i)
    temp = 20 + math.sin(i / 15) + rng.gauss(0, 0.1) + (8 if odd else 0)
    return json.dumps({"ts": time.time() - 3000 + i, "temp": temp, "flow": 5 + rng.gauss(0, 0.1)})


@pytest.mark.parametrize("broker", ["sys_interval 1\nmax_queued_messages 100"], indirect=True)
def test_the_agent_hears_that_the_broker_drops(broker, agent, peer):
    absent = Client(CallbackAPIVersion.VERSION2, "absent", clean_session=False)
    absent.username_pw_set("viewer", USERS["viewer"])
    subscribed, gone = threading.Event(), threading.Event()
    absent.on_subscribe = lambda *_: subscribed.set()
    absent.on_disconnect = lambda *_: gone.set()
    absent.connect("127.0.0.1", broker.port)
    absent.subscribe("redshank/#", 1)
    absent.loop_start()
    assert subscribed.wait(10)
    absent.disconnect()
    assert gone.wait(10)
    absent.loop_stop()
    operator = peer("operator")
    for _ in range(140):  # with 20 in flight the broker has room for 120
        operator.publish("redshank/elsewhere/command", b"{}")
    wait_until(lambda: (agent.metric("redshank_broker_dropped_total") or 0) >= 15, 20)


def attempts(sensors, broker, alert):
    """Try all that a publisher's rights might allow: commands, commands that wait, and lies of the agent's own."""
    accept = json.dumps({"command": "accept", "alert": alert}).encode()
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = "plant/pump/telemetry", b"x"
    for topic in (COMMAND, "$share/g/" + COMMAND, COMMAND + "/", "redshank/pi//command", "redshank//pi/command"):
        sensors.publish_with(topic, accept, properties)
        sensors.publish(topic, accept, qos=0)
    sensors.publish(COMMAND, accept, retain=True)
    sensors.publish("redshank/pi/pump/alert", b'{"event": "cleared"}')
    sensors.publish("redshank/pi/pump/state", b"{}", retain=True)
    sensors.publish("redshank/pi/status", b"offline", retain=True)
    sensors.publish("plant/pump/telemetry", accept)  # where it may speak, a command is a reading without values
    sensors.publish_with("plant/pump/telemetry", accept, properties)
    last = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    last.username_pw_set("sensors", USERS["sensors"])
    last.will_set(COMMAND, accept, qos=1)
    last.connect("127.0.0.1", broker.port)
    last.loop_start()
    wait_until(last.is_connected)
    last._sock_close()  # without a word: its will is what is left
    last.loop_stop()


def test_who_may_only_publish_readings_cannot_have_an_alert_taken_as_normal(agent, broker, peer):
    viewer, sensors, operator = peer("viewer", *ALL), peer("sensors", *ALL), peer("operator", *ALL)
    for i in range(400):
        sensors.publish("plant/pump/telemetry", reading(i), qos=1)
    for i in range(400, 412):
        sensors.publish("plant/pump/telemetry", reading(i, odd=True))
    told = []

    def raised():
        told[:] = [json.loads(payload) for payload in viewer.payloads("redshank/pi/pump/pump/alert")]
        return told

    wait_until(raised, 60, "for the alert")
    alert = told[0]["id"]
    before = len(viewer.received)
    attempts(sensors, broker, alert)
    operator.publish(COMMAND, b'{"command": "snapshot"}')  # behind all of it
    wait_until(lambda: any(topic == "redshank/pi/reply" for topic, _, _ in operator.received), 60, "for the answer")
    assert [json.loads(one)["ok"] for one in operator.payloads("redshank/pi/reply")] == [True]
    told_since = viewer.received[before:]
    assert not [one for one in told_since if one[0].endswith(("/alert", "/status"))]
    assert {payload for topic, payload, _ in told_since if topic == COMMAND} == {b'{"command": "snapshot"}'}
    assert agent.metric('redshank_commands_total{command="snapshot",outcome="done"}') == 1
    assert 'command="accept"' not in agent.get("/metrics")
    assert sensors.received == []  # it hears nothing at all
    assert not [topic for topic, _, _ in viewer.received if topic.startswith(("plant", "ops"))]
    viewer.publish(COMMAND, json.dumps({"command": "accept", "alert": alert}))
    operator.publish(COMMAND, json.dumps({"command": "accept", "alert": alert}))
    wait_until(lambda: len(operator.payloads("redshank/pi/reply")) == 2, 60, "for the second answer")
    assert json.loads(operator.payloads("redshank/pi/reply")[1])["ok"]
    assert agent.metric('redshank_commands_total{command="accept",outcome="done"}') == 1
