"""The installed agent as a real process against a real Mosquitto."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import msgspec
import pytest

from tests.brokers import Peer, free_port, wait_until
from tests.faults.proxy import PUBLISH, Proxy
from tests.scenes import encoded, lorry, scene

BUDGET = "1 per 10000 decisions"


class Process:
    """`redshank run` on a configuration of its own."""

    def __init__(self, folder, broker, *, stream="", broker_settings="", more=""):
        self.port = free_port()
        self.state = folder / "state"
        self.config = folder / "redshank.yaml"
        self.config.write_text(
            f"""
agent: {{id: pi, state_dir: {self.state}}}
broker: {{url: "{broker.url}"{broker_settings}}}
metrics: {{listen: "127.0.0.1:{self.port}"}}
streams:
  - name: pump
    topic: plant/+/telemetry
    channels: [temp, flow]
    time: {{path: ts}}
    reference: {{size: 300, warm_up: 200}}
    alert: {{false_alarms: {BUDGET}, cooldown: 5s}}
    {stream}
{more}
"""
        )
        self.popen = None

    @property
    def command(self):
        return [sys.executable, "-m", "agent.cli", "run", "--config", str(self.config)]

    def start(self, **environment):
        self.popen = subprocess.Popen(
            self.command,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        return self

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def metric(self, line):
        for one in self.get("/metrics").splitlines():
            if one.startswith(line + " "):
                return float(one.split()[-1])
        return None

    def ready(self):
        def answers():
            try:
                return self.get("/readyz") == "ok\n"
            except OSError:
                return False

        wait_until(answers, 60)
        return self

    def stop(self, number=signal.SIGTERM):
        self.popen.send_signal(number)
        _, errors = self.popen.communicate(timeout=30)
        return self.popen.returncode, errors.decode()


@pytest.fixture
def make_process(tmp_path):
    processes = []

    def make(broker, **options):
        folder = tmp_path / f"agent{len(processes)}"
        folder.mkdir()
        processes.append(Process(folder, broker, **options))
        return processes[-1]

    yield make
    for process in processes:
        if process.popen is not None and process.popen.poll() is None:
            process.popen.kill()
            process.popen.communicate()


@pytest.fixture
def make_peer():
    peers = []

    def make(broker, *topics, **options):
        peers.append(Peer(broker, *topics, **options))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


class Watchdog:
    """Stands for systemd: hears what the agent tells it."""

    def __init__(self, path):
        self.path = path
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(str(path))
        self.channel.settimeout(0.01)

    def heard(self):
        """Return what has come since the last time."""
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(self.channel.recv(1000).decode())
        return found


@pytest.fixture
def watchdog(tmp_path):
    made = Watchdog(tmp_path / "notify")
    yield made
    made.channel.close()


def written_tomorrow(state):
    """Make a state directory that was last written tomorrow: this machine's clock lags behind for certain."""
    state.mkdir()
    (state / "written").touch()
    os.utime(state / "written", (time.time() + 86400,) * 2)


def reading(i, *, odd=False):
    rng = random.Random(i)
    temp = 20 + math.sin(i / 15) + rng.gauss(0, 0.1) + (8 if odd else 0)
    return json.dumps({"ts": 1_700_000_000 + i, "temp": temp, "flow": 5 + rng.gauss(0, 0.2)})


def publish(peer, span, *, odd=False, topic="plant/a/telemetry"):
    for i in span:
        peer.publish(topic, reading(i, odd=odd))


def alerts(peer, kind="anomaly"):
    found = [json.loads(payload) for topic, payload, _ in peer.received if topic.endswith("/alert")]
    return [alert for alert in found if alert["kind"] == kind]


def test_a_full_disk_neither_delays_an_alert_nor_ends_the_agent(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto).start().ready()
    publish(peer, range(300))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 300.0)
    unlimited = resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    publish(peer, range(300, 310), odd=True)
    assert any(b"cannot write the state directory" in line for line in process.popen.stderr)
    assert process.get("/healthz") == "ok\n"
    wait_until(lambda: [one["event"] for one in alerts(peer)] == ["raised"])
    wait_until(lambda: process.metric('redshank_trouble{trouble="state_directory"}') == 1.0)
    assert '"troubles":["state_directory"]' in process.get("/status")
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: process.metric('redshank_trouble{trouble="state_directory"}') == 0.0, 20)
    wait_until(lambda: list((process.state / "streams").glob("*.snapshot")))
    process.popen.kill()
    _, errors = process.popen.communicate()
    errors = errors.decode()
    with closing(sqlite3.connect(process.state / "state.sqlite")) as database:  # what was in memory is there
        ((state,),) = database.execute("SELECT state FROM alerts WHERE kind = 'anomaly'")
    assert msgspec.msgpack.decode(state)["state"] == "firing"
    assert "cannot write" not in errors  # said once a minute
    assert "Traceback" not in errors


def test_a_disturbance_is_raised_with_evidence_and_cleared(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto).start().ready()
    publish(peer, range(100))
    wait_until(lambda: peer.payloads("redshank/pi/pump/a/state"))
    publish(peer, range(100, 300))
    publish(peer, range(300, 310), odd=True)
    publish(peer, range(310, 400))
    wait_until(lambda: len(alerts(peer)) == 2, 20)
    raised, cleared = alerts(peer)
    assert (raised["event"], cleared["event"]) == ("raised", "cleared")
    assert raised["id"] == cleared["id"]
    assert raised["stream"] == "pump/a"
    assert raised["evidence"]["parts"][0]["name"] == "temp"
    assert raised["evidence"]["parts"][0]["share"] > 0.9
    assert raised["p_value"] < raised["p_value_threshold"]
    assert raised["budget"] == BUDGET
    assert cleared["ended_at"] is not None
    assert process.metric('redshank_alerts_total{severity="warning",stream="pump/a"}') == 1.0
    wait_until(lambda: process.metric("redshank_messages_received_total") == 400.0)
    code, errors = process.stop()
    assert code == 0
    assert "Traceback" not in errors
    wait_until(lambda: peer.payloads("redshank/pi/status")[-1:] == [b"offline"])
    states = [json.loads(p) for p in peer.payloads("redshank/pi/pump/a/state")]
    assert [state["alert"] for state in states][-1] == "inactive"
    assert {"learning", "active"} <= {state["phase"] for state in states}


def test_a_restart_with_a_warm_snapshot_goes_on_deciding(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto)
    process = make_process(mosquitto).start().ready()
    publish(peer, range(300))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 300.0)
    process.stop()
    publish(peer, range(300, 310))  # the session keeps them
    process.start().ready()
    wait_until(lambda: process.metric('redshank_windows_encoded_total{stream="pump/a"}') == 10.0)


TABLE = """
  - {name: table, topic: table, format: csv, time: {path: ts}, period: 1s, encoder: none,
     reference: {size: 300, warm_up: 150}, alert: {cooldown: 5s}}
"""


def test_a_payload_of_thousands_of_readings_delays_no_other_stream_and_outlasts_a_kill(
    mosquitto, make_process, make_peer
):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=TABLE).start().ready()

    def decided():
        return process.metric('redshank_windows_encoded_total{stream="table"}') or 0.0

    publish(peer, range(300))
    rows = (f"{1_700_000_000 + i},{math.sin(i / 9) + random.Random(i).gauss(0, 0.1)}" for i in range(6000))
    peer.publish("table", "\n".join(["ts,x", *rows]))
    publish(peer, range(300, 310), odd=True)
    wait_until(lambda: [one["event"] for one in alerts(peer)] == ["raised"], 60)
    assert decided() < 5800.0
    wait_until(lambda: decided() > 0.0)
    process.stop(signal.SIGKILL)
    process.start().ready()
    wait_until(lambda: decided() == 6000.0 - 183.0, 60)  # all of it again, behind the warm-up
    assert process.stop()[0] == 0
    process.start().ready()  # it was acknowledged
    publish(peer, range(310, 420))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 110.0)
    assert not process.metric('redshank_messages_rejected_total{reason="duplicate"}')


def test_a_kill_neither_loses_nor_repeats_a_transition_under_another_id(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/pi/+/+/alert")
    process = make_process(mosquitto).start().ready()
    publish(peer, range(300))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 300.0)
    process.stop()
    process.start().ready()
    publish(peer, range(300, 306), odd=True)
    wait_until(lambda: len(alerts(peer)) == 1, 20)
    process.stop(signal.SIGKILL)
    publish(peer, range(306, 309), odd=True)
    process.start().ready()
    publish(peer, range(309, 420))
    wait_until(lambda: any(alert["event"] == "cleared" for alert in alerts(peer)), 20)
    assert len({alert["id"] for alert in alerts(peer)}) == 1


def test_an_alert_raised_while_the_broker_is_away_arrives_late(make_mosquitto, make_process, make_peer):
    broker = make_mosquitto(persistence=True)
    process = make_process(broker, stream="silence: {after: 1s}").start().ready()
    peer = make_peer(broker)
    publish(peer, range(300))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 300.0)
    import sqlite3  # noqa: PLC0415  only this test looks inside

    peer.close()
    broker.stop()
    wait_until(lambda: process.metric("redshank_broker_connected") == 0.0)
    process.stop()
    with sqlite3.connect(process.state / "state.sqlite") as database:
        payload = json.dumps({"version": 1, "id": "x", "kind": "anomaly", "late": False})
        database.execute(
            "INSERT INTO outbox (topic, payload, created_at) VALUES (?, ?, ?)",
            ("redshank/pi/pump/a/alert", payload.encode(), 1_700_000_000.0),
        )
    database.close()
    broker.start()
    peer = make_peer(broker, "redshank/#")
    process.start().ready()
    wait_until(lambda: alerts(peer))
    assert alerts(peer)[0]["late"] is True


def test_alerts_that_wait_go_as_fast_as_the_broker_takes_them_and_in_order(make_mosquitto, make_process, make_peer):
    broker = make_mosquitto(extra="max_queued_messages 0")
    process = make_process(broker).start().ready()
    process.stop()
    peer = make_peer(broker, "redshank/#")
    waiting = [
        json.dumps({"version": 1, "id": f"{number}", "kind": "anomaly", "late": False}).encode()
        for number in range(3000)
    ]
    with closing(sqlite3.connect(process.state / "state.sqlite")) as database, database:
        database.executemany(
            "INSERT INTO outbox (topic, payload, created_at) VALUES ('redshank/pi/pump/a/alert', ?, ?)",
            [(payload, time.time()) for payload in waiting],
        )
    process.start().ready()
    wait_until(lambda: len(alerts(peer)) == len(waiting), 15)  # a hundred a second would take twice as long
    assert [alert["id"] for alert in alerts(peer)] == [f"{number}" for number in range(len(waiting))]
    wait_until(lambda: process.metric("redshank_outbox_length") == 0.0)


def test_alerts_that_the_first_broker_never_took_go_from_the_disk_to_the_fallback_once(
    make_mosquitto, make_process, make_peer
):
    first, second = make_mosquitto(), make_mosquitto()
    with closing(Proxy(first.port)) as before, closing(Proxy(second.port)) as behind:
        behind.closing = True
        process = make_process(before, broker_settings=f', fallback: ["{behind.url}"]').start().ready()
        here, there = make_peer(first, "redshank/#"), make_peer(second, "redshank/#")
        publish(here, range(300))
        before.keep_back = lambda packet: packet[0] >> 4 == PUBLISH and b"/alert" in packet
        publish(here, range(300, 310), odd=True)
        publish(here, range(310, 400))

        def waiting():
            with closing(sqlite3.connect(f"file:{process.state / 'state.sqlite'}?mode=ro", uri=True)) as database:
                rows = database.execute("SELECT payload FROM outbox ORDER BY seq").fetchall()
            return [json.loads(payload) for (payload,) in rows]

        wait_until(lambda: [one["event"] for one in waiting()] == ["raised", "cleared"], 30)
        first.kill()
        wait_until(lambda: process.metric("redshank_broker_connected") == 0.0)
        owed = waiting()
        assert alerts(here) == []
        behind.heal()
        wait_until(lambda: process.metric("redshank_broker_fallback") == 1.0, 30)
        wait_until(lambda: waiting() == [], 30)
        wait_until(lambda: len(alerts(there)) == 2)
        seen = [(one["id"], one["event"], one["at"]) for one in alerts(there)]
        assert seen == [(one["id"], one["event"], one["at"]) for one in owed]
        assert len({one["id"] for one in owed}) == 1
        code, errors = process.stop()
        assert code == 0
        assert "Traceback" not in errors
        wait_until(lambda: there.payloads("redshank/pi/status")[-1] == b"offline")
        assert len(alerts(there)) == 2  # and none came after them


def test_silence_is_an_alert_of_its_own_that_ends_with_the_next_message(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    make_process(mosquitto, stream="silence: {after: 1s}").start().ready()
    publish(peer, range(5))
    wait_until(lambda: [a["event"] for a in alerts(peer, "silent")] == ["raised"], 20)
    publish(peer, range(5, 6))
    wait_until(lambda: [a["event"] for a in alerts(peer, "silent")] == ["raised", "cleared"], 20)


def test_retained_state_is_there_again_after_the_broker_lost_everything(make_mosquitto, make_process, make_peer):
    broker = make_mosquitto(persistence=False)
    process = make_process(broker).start().ready()
    peer = make_peer(broker)
    publish(peer, range(3))
    peer.close()
    broker.kill()
    broker.start()
    process.ready()
    late = make_peer(broker, "redshank/#")
    wait_until(lambda: late.payloads("redshank/pi/status")[-1:] == [b"online"])
    wait_until(lambda: late.payloads("redshank/pi/pump/a/state"))


def test_retained_readings_count_only_with_their_own_time(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto)
    peer.publish("plant/a/telemetry", reading(1), retain=True)
    process = make_process(mosquitto).start().ready()
    wait_until(lambda: process.metric("redshank_messages_received_total") == 1.0)
    assert process.metric('redshank_messages_rejected_total{reason="retained"}') == 0.0


def test_rubbish_is_counted_and_stops_nothing(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto)
    process = make_process(mosquitto).start().ready()
    for payload in (b"", b"{", b"\xff\xfe", b"[" * 20000, b'{"ts": "x"}', b'{"ts": 1, "temp": "hot"}', b"null"):
        peer.publish("plant/a/telemetry", payload)
    publish(peer, range(3))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 10.0)
    assert process.metric('redshank_messages_rejected_total{reason="malformed"}') >= 3
    assert process.get("/healthz") == "ok\n"


def test_streams_no_longer_configured_lose_their_retained_topics(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto).start().ready()
    publish(peer, range(3))
    wait_until(lambda: peer.payloads("redshank/pi/pump/a/state"))
    process.stop()
    process.config.write_text(process.config.read_text().replace("name: pump", "name: other"))
    process.start().ready()
    wait_until(lambda: peer.payloads("redshank/pi/pump/a/state")[-1] == b"")


def test_bad_credentials_end_the_program_with_69_and_are_never_shown(make_mosquitto, make_process, tmp_path):
    broker = make_mosquitto(users={"pi": "right"})
    secret = tmp_path / "password"
    secret.write_text("wr0ng-s3cret\n")
    secret.chmod(0o600)
    process = make_process(broker, broker_settings=f', username: pi, password_file: "{secret}"').start()
    _, errors = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 69
    assert b"wr0ng-s3cret" not in errors


def test_systemd_hears_of_readiness_progress_and_the_end(mosquitto, make_process, watchdog):
    process = make_process(mosquitto).start(NOTIFY_SOCKET=str(watchdog.path), WATCHDOG_USEC="400000")
    heard = set()
    wait_until(lambda: (heard.update(watchdog.heard()), {"READY=1", "WATCHDOG=1"} <= heard)[1], 20)
    process.popen.terminate()
    wait_until(lambda: "STOPPING=1" in watchdog.heard())


class Desk:
    """An operator at the broker: sends commands and waits for their answers."""

    def __init__(self, peer):
        self.peer = peer

    def answers(self, topic="redshank/pi/reply"):
        return [json.loads(payload) for payload in self.peer.payloads(topic)]

    def ask(self, **command):
        before = len(self.answers())
        self.peer.publish("redshank/pi/command", json.dumps(command))
        wait_until(lambda: len(self.answers()) > before)
        return self.answers()[-1]


GATE = """
  - name: gate
    topic: cameras/+
    kind: image
    reference: {size: 100, warm_up: 45}
    alert: {false_alarms: 1 per 1000 decisions, cooldown: 0s}
"""


def test_an_odd_picture_is_told_with_a_heatmap_that_the_broker_keeps(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=GATE).start().ready()
    decided = 'redshank_windows_encoded_total{stream="gate/yard"}'
    sent = 0
    while not process.metric(decided) and sent < 400:
        peer.publish("cameras/yard", encoded(scene(sent)))
        sent += 1
        time.sleep(0.03)
    while not alerts(peer) and sent < 450:
        peer.publish("cameras/yard", encoded(scene(sent, lorry)))
        sent += 1
        time.sleep(0.2)
    (alert,) = (one for one in alerts(peer) if one["event"] == "raised")
    wait_until(lambda: peer.payloads("redshank/pi/gate/yard/heatmap"))
    (png, *_) = peer.payloads("redshank/pi/gate/yard/heatmap")
    assert png.startswith(b"\x89PNG")
    late = make_peer(mosquitto, "redshank/pi/gate/yard/heatmap")
    wait_until(lambda: late.received)
    assert late.received[0][1].startswith(b"\x89PNG")
    assert "unlike any picture since" in alert["message"]
    process.stop()
    process.config.write_text(process.config.read_text().replace(GATE, ""))
    process.start().ready()
    wait_until(lambda: late.received[-1][1] == b"")  # no longer configured: cleared


def test_after_a_kill_a_camera_knows_the_change_of_a_moment_before(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=GATE)
    process.config.write_text(process.config.read_text().replace("agent: {", "agent: {snapshot_interval: 1s, "))
    process.start().ready()
    decided, fill = (f'redshank_{one}{{stream="gate/yard"}}' for one in ("windows_encoded_total", "reference_size"))
    sent = 0

    def see(change, enough):
        nonlocal sent
        while not enough() and sent < 500:
            peer.publish("cameras/yard", encoded(scene(sent, change)))
            sent += 1
            time.sleep(0.05)

    def saved(suffix):
        return [one.stat().st_mtime for one in (process.state / "streams").glob(f"*{suffix}")]

    see(None, lambda: process.metric(decided))
    wait_until(lambda: saved(".journal"), 20)
    see(lorry, lambda: [one["event"] for one in alerts(peer)] == ["raised", "cleared"])
    see(lorry, lambda: sent % 40 == 0)
    learnt = time.time()
    wait_until(lambda: max(saved(".journal") + saved(".snapshot")) > learnt, 20)
    whole, before = saved(".snapshot"), process.metric(fill)
    assert whole[0] < learnt
    process.popen.kill()
    process.popen.communicate()
    process.start().ready()
    assert process.metric(fill) == before
    see(lorry, lambda: (process.metric(decided) or 0.0) >= 30.0)
    assert len(alerts(peer)) == 2


COMMANDS = "commands: {enabled: true, reply_topic_prefix: ops/answers}"


@pytest.fixture
def commanded(mosquitto, make_process, make_peer):
    """Return an agent that has learnt and takes commands, an operator, and the operator's connection."""
    peer = make_peer(mosquitto, "redshank/#", "ops/#")
    process = make_process(mosquitto, more=COMMANDS).start().ready()
    publish(peer, range(300))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 300.0)
    return process, Desk(peer), peer


def raise_alert(peer, span):
    before = len(alerts(peer))
    publish(peer, span, odd=True)
    wait_until(lambda: len(alerts(peer)) > before, 20)
    return alerts(peer)[before]


def test_an_alert_is_accepted_and_forgotten_across_a_kill(commanded):
    process, desk, peer = commanded
    alert = raise_alert(peer, range(300, 310))
    answer = desk.ask(command="accept", alert=alert["id"], correlation="7")
    assert answer["windows"] > 0
    assert (answer["ok"], answer["already"], answer["correlation"], answer["stream"]) == (True, False, "7", "pump/a")
    wait_until(lambda: alerts(peer)[-1]["event"] == "cleared")
    assert "was accepted as normal" in alerts(peer)[-1]["message"]
    process.stop(signal.SIGKILL)
    process.start().ready()
    assert desk.ask(command="accept", alert=alert["id"])["already"] is True
    assert desk.ask(command="forget", alert=alert["id"])["windows"] == answer["windows"]
    assert desk.ask(command="forget", alert=alert["id"])["windows"] == 0
    assert process.metric('redshank_commands_total{command="forget",outcome="done"}') == 2.0


def test_a_confirmed_alert_does_not_count(commanded):
    process, desk, peer = commanded
    alert = raise_alert(peer, range(300, 310))
    wait_until(lambda: process.metric('redshank_false_alarm_budget_ratio{stream="pump/a"}'))
    assert desk.ask(command="confirm", alert=alert["id"])["budget_ratio"] == 0.0
    wait_until(lambda: process.metric('redshank_false_alarm_budget_ratio{stream="pump/a"}') == 0.0)
    assert desk.ask(command="confirm", alert=alert["id"])["already"] is True


def test_a_snooze_holds_across_a_kill_until_it_is_ended(commanded):
    process, desk, peer = commanded
    assert desk.ask(command="snooze", stream="pump/a", **{"for": "2h"})["until"] is not None
    assert desk.ask(command="snapshot") == {"command": "snapshot", "ok": True, "streams": 1}
    process.stop(signal.SIGKILL)
    process.start().ready()
    publish(peer, range(300, 310), odd=True)
    wait_until(lambda: process.metric("redshank_messages_received_total") == 10.0)
    assert desk.ask(command="snooze", stream="pump/a", **{"for": "0s"})["until"] is None
    assert alerts(peer) == []
    raise_alert(peer, range(310, 320))


def test_a_stream_is_learnt_anew(commanded):
    process, desk, peer = commanded
    assert desk.ask(command="relearn", stream="pump/a")["ok"] is True
    wait_until(lambda: json.loads(peer.payloads("redshank/pi/pump/a/state")[-1])["phase"] == "learning")
    span = {"from": "2023-11-14T22:00:00Z", "to": "2023-11-14T22:01:00Z"}
    assert "still learning" in desk.ask(command="forget", stream="pump/a", **span)["error"]
    publish(peer, range(300, 600))
    wait_until(lambda: process.metric('redshank_stream_phase{phase="active",stream="pump/a"}') == 1.0)
    span = {"from": "2023-11-14T22:21:00Z", "to": "2023-11-14T22:22:00Z"}
    assert desk.ask(command="forget", stream="pump/a", **span)["windows"] > 0


def test_the_answer_goes_to_the_response_topic_with_its_correlation_data(commanded, mosquitto):
    _, _, peer = commanded
    found = []
    from paho.mqtt.client import Client  # noqa: PLC0415  the peer does not keep properties
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion  # noqa: PLC0415
    from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415
    from paho.mqtt.properties import Properties  # noqa: PLC0415

    listener, subscribed = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5), []
    listener.on_message = lambda *args: found.append(args[2])
    listener.on_subscribe = lambda *_: subscribed.append(True)
    listener.connect("127.0.0.1", mosquitto.port)
    listener.loop_start()
    listener.subscribe([("ops/#", 1), ("redshank/pi/reply", 1)])
    wait_until(lambda: subscribed)
    for topic in ("ops/answers/7", "ops/elsewhere"):
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = topic, b"\x00\xff"
        peer.publish_with("redshank/pi/command", b'{"command": "snapshot"}', properties)
    wait_until(lambda: len(found) == 2)
    listener.disconnect()
    listener.loop_stop()
    assert [one.topic for one in found] == ["ops/answers/7", "redshank/pi/reply"]
    assert [one.properties.CorrelationData for one in found] == [b"\x00\xff"] * 2


def test_a_retained_command_is_refused_when_it_comes_and_at_a_start(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    peer.publish("redshank/pi/command", b'{"command": "snapshot"}', retain=True)
    process = make_process(mosquitto, more=COMMANDS).start().ready()
    retained = 'redshank_commands_total{command="snapshot",outcome="retained"}'
    wait_until(lambda: process.metric(retained) == 1.0)
    peer.publish("redshank/pi/command", b'{"command": "snapshot"}', retain=True)
    wait_until(lambda: process.metric(retained) == 2.0)
    assert Desk(peer).ask(command="nonsense")["ok"] is False
    assert len(Desk(peer).answers()) == 1


def test_a_command_that_cannot_be_stored_says_so(commanded):
    process, desk, _ = commanded
    unlimited = resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    assert "state directory" in desk.ask(command="snapshot")["error"]
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, unlimited)
    assert desk.ask(command="snapshot")["ok"] is True


def test_commands_of_mqtt_3_are_answered_too(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    make_process(mosquitto, broker_settings=", protocol: 3.1.1", more=COMMANDS).start().ready()
    assert Desk(peer).ask(command="snapshot") == {"command": "snapshot", "ok": True, "streams": 0}


def test_no_command_is_taken_unless_enabled(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto).start().ready()
    peer.publish("redshank/pi/command", b'{"command": "snapshot"}')
    publish(peer, range(3))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 3.0)
    assert peer.payloads("redshank/pi/reply") == []
    assert "redshank/pi/command" not in json.loads((process.state / "subscriptions.json").read_text())


def test_deaf_but_up_is_told_and_ends_with_no_sign_of_life_for_systemd(mosquitto, make_process, make_peer, watchdog):
    proxy = Proxy(mosquitto.port)
    peer = make_peer(mosquitto, "redshank/pi/state")
    process = make_process(proxy, broker_settings=", echo: 200ms, keepalive: 60s")
    process.start(NOTIFY_SOCKET=str(watchdog.path), WATCHDOG_USEC="200000").ready()
    wait_until(lambda: "WATCHDOG=1" in watchdog.heard())
    wait_until(lambda: process.metric('redshank_broker_hearing{hearing="proven"}') == 1.0)
    proxy.deaf = True
    states = lambda: [json.loads(one)["hearing"] for one in peer.payloads("redshank/pi/state")]  # noqa: E731
    wait_until(lambda: states()[-1] == "lost")
    wait_until(lambda: process.metric('redshank_broker_hearing{hearing="lost"}') == 1.0)
    wait_until(lambda: any("does not deliver" in one for one in watchdog.heard()))
    wait_until(lambda: process.metric("redshank_broker_deaf_total") >= 3.0)

    def quiet():
        heard = watchdog.heard()
        statuses = [one for one in heard if one.startswith("STATUS=")]
        return len(statuses) >= 2 and "WATCHDOG=1" not in heard

    wait_until(lambda: (time.sleep(0.5), quiet())[1])
    with pytest.raises(OSError, match="503"):
        process.get("/healthz")
    proxy.heal()
    wait_until(lambda: states()[-1] == "proven")
    wait_until(lambda: "WATCHDOG=1" in watchdog.heard())
    process.ready()
    assert process.stop()[0] == 0
    proxy.close()
