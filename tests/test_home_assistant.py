"""The agent's real process beside a stand-in for Home Assistant, at a real Mosquitto."""

from __future__ import annotations

import json
import signal

from tests import test_agent
from tests.brokers import wait_until
from tests.homes import entities
from tests.scenes import encoded, scene
from tests.test_agent import GATE, alerts, publish
from tests.test_living import OTHER, edit

make_process, make_peer = test_agent.make_process, test_agent.make_peer
MORE = GATE + "commands: {enabled: true}\nhomeassistant: {discovery: always, snooze: 2h}\n"


class Home:
    """What its owner sees and presses."""

    def __init__(self, peer):
        self.peer = peer

    def state(self, entity):
        found = entities(self.peer.received).get(entity)
        return None if found is None else found.state

    def press(self, entity, key="payload_press"):
        config = entities(self.peer.received)[entity].config
        self.peer.publish(config["command_topic"], config[key])

    def configs(self):
        """Return how often each device was announced, by topic."""
        topics = [topic for topic, payload, _ in self.peer.received if topic.endswith("/config") and payload]
        return {topic: topics.count(topic) for topic in topics}


def test_streams_are_found_followed_and_answered_and_go(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#", "homeassistant/#")
    home = Home(peer)
    process = make_process(mosquitto, more=MORE).start().ready()
    peer.publish("cameras/yard", encoded(scene()))
    publish(peer, range(300))
    wait_until(lambda: home.state("image.gate_yard_last_odd_picture") and home.state("sensor.pump_a_phase"), 20)
    assert home.state("image.gate_yard_last_odd_picture") == "unknown"
    assert home.state("sensor.gate_yard_phase") == "learning"
    assert home.state("binary_sensor.redshank_pi_connected") == "on"
    assert home.state("binary_sensor.redshank_pi_problem") == "off"
    wait_until(lambda: home.state("sensor.redshank_pi_streams") == "2")

    publish(peer, range(300, 310), odd=True)
    wait_until(lambda: home.state("binary_sensor.pump_a_problem") == "on", 20)
    (alert,) = (one for one in alerts(peer) if one["event"] == "raised")
    shown = entities(peer.received)["binary_sensor.pump_a_problem"].attributes
    assert {key: alert[key] for key in shown} == shown
    assert shown["evidence"]["parts"][0]["name"] == "temp"
    assert home.state("sensor.pump_a_last_alert") == alert["message"]
    assert float(home.state("sensor.pump_a_score")) > 3.0
    wait_until(lambda: home.state("sensor.redshank_pi_streams_with_a_problem") == "1")

    home.press("switch.pump_a_snooze", "payload_on")
    wait_until(lambda: home.state("switch.pump_a_snooze") == "on")
    home.press("switch.pump_a_snooze", "payload_off")
    wait_until(lambda: home.state("switch.pump_a_snooze") == "off")
    home.press("button.pump_a_that_was_a_fault")
    wait_until(lambda: home.state("sensor.redshank_pi_last_answer") == "done: confirm")
    home.press("button.pump_a_that_was_normal")
    wait_until(lambda: home.state("binary_sensor.pump_a_problem") == "off")
    wait_until(lambda: home.state("sensor.redshank_pi_last_answer") == "done: accept")
    home.press("button.gate_yard_that_was_normal")
    wait_until(lambda: "which has not" in home.state("sensor.redshank_pi_last_answer"))
    home.press("button.pump_a_learn_anew")
    wait_until(lambda: home.state("sensor.pump_a_phase") == "learning")

    before = home.configs()
    assert len(before) == 3
    peer.publish("homeassistant/status", "offline")
    peer.publish("homeassistant/status", "online")
    wait_until(lambda: home.configs() == {topic: count + 1 for topic, count in before.items()}, 20)

    process.stop()
    wait_until(lambda: home.state("sensor.pump_a_phase") == "unavailable")
    assert home.state("binary_sensor.redshank_pi_connected") == "off"
    process.config.write_text(process.config.read_text().replace(GATE, "\n").replace("enabled: true", "enabled: false"))
    process.start().ready()
    wait_until(lambda: home.state("image.gate_yard_last_odd_picture") is None, 20)
    wait_until(lambda: home.state("switch.pump_a_snooze") is None)
    state = json.loads(peer.payloads("redshank/pi/pump/a/state")[-1])
    assert (state["last_alert"]["id"], state["last_alert"]["event"]) == (alert["id"], "cleared")
    late = make_peer(mosquitto, "homeassistant/#")  # what the broker keeps
    wait_until(lambda: len(late.received) == 2)
    assert sum("_gate_yard_" in topic for topic, _, _ in late.received) == 0


def test_a_reload_brings_changes_and_takes_what_it_announced(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#", "homeassistant/#")
    home = Home(peer)
    more = MORE.replace(GATE, OTHER + "    encoder: none\n")
    process = make_process(mosquitto, stream="encoder: none", more=more).start().ready()
    peer.publish("other/x", '{"level": 1}')
    publish(peer, range(3))
    wait_until(lambda: home.state("switch.other_x_snooze") and home.state("switch.pump_a_snooze"), 20)

    def reload(*changes):
        edit(process, *changes)
        process.popen.send_signal(signal.SIGHUP)

    before = home.configs()
    reload(("name: other", "name: tank"), ("other/+", "tank/+"), ("cooldown: 5s", "cooldown: 6s"))
    wait_until(lambda: home.state("switch.other_x_snooze") is None, 20)  # one stream went
    peer.publish("tank/x", '{"level": 1}')
    wait_until(lambda: home.state("sensor.tank_x_phase") == "learning", 20)  # one came
    (pump,) = (topic for topic in before if "_pump_a_" in topic)
    wait_until(lambda: home.configs()[pump] == 2)  # one changed
    assert {topic: count for topic, count in home.configs().items() if topic in before} == {**before, pump: 2}

    reload(("commands: {enabled: true}", "commands: {enabled: false}"))
    wait_until(lambda: home.state("sensor.redshank_pi_last_answer") is None, 20)
    wait_until(lambda: home.state("switch.pump_a_snooze") is None and home.state("switch.tank_x_snooze") is None)
    wait_until(lambda: home.state("sensor.pump_a_phase") == "learning", 20)  # it connects anew: unavailable for a while

    reload(("discovery: always", "discovery: never"))
    wait_until(lambda: entities(peer.received) == {}, 20)
    late = make_peer(mosquitto, "homeassistant/#", "redshank/pi/+/+/state")
    kept = {"redshank/pi/pump/a/state", "redshank/pi/tank/x/state"}
    wait_until(lambda: {topic for topic, _, _ in late.received} == kept)
    assert process.metric('redshank_configuration_reloads_total{outcome="applied"}') == 3.0
    code, log = process.stop()
    assert code == 0
    assert "Traceback" not in log
