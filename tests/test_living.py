"""The configuration changes while the agent, a real process, works; and what `status` and `reload` say of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading

import pytest

from tests.brokers import free_port, wait_until
from tests.test_agent import make_peer, make_process, publish, reading

__all__ = ["make_peer", "make_process"]  # fixtures
ACTIVE = 'redshank_stream_phase{phase="active",stream="pump/a"}'
ALERT = "redshank/pi/pump/a/alert"
REFERENCES = 'redshank_reference_size{stream="pump/a"}'
OTHER = """
  - name: other
    topic: other/+
"""


def command(*arguments):
    """Return exit code, output and errors of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class Flow:
    """Readings that keep coming while something is done."""

    def __init__(self, peer, begin):
        self._peer, self.sent = peer, begin
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._ended.wait(0.005):
            self._peer.publish("plant/a/telemetry", reading(self.sent))
            self.sent += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


def last(peer, stream):
    """Return a stream's state as it was published last."""
    payloads = peer.payloads(f"redshank/pi/{stream}/state")
    return json.loads(payloads[-1]) if payloads else {}


def edit(process, *changes):
    text = process.config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    process.config.write_text(text)


@pytest.fixture
def living(mosquitto, make_process, make_peer):
    """Return an agent that has learnt one stream and knows another, and a connection to its broker."""
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=OTHER).start().ready()
    publish(peer, range(300))
    peer.publish("other/x", '{"level": 1}')
    wait_until(lambda: process.metric(ACTIVE) == 1.0, 30)
    wait_until(lambda: last(peer, "other/x"))
    yield process, peer
    code, log = process.stop()
    assert code == 0
    assert "Traceback" not in log


def test_a_bad_file_keeps_the_old_one_and_is_told(living):
    process, peer = living
    good = process.config.read_text()
    edit(process, ("warm_up: 200", "warm_up: many"))
    process.popen.send_signal(signal.SIGHUP)
    assert any(re.search(rb"kept as it was: .*redshank.yaml:\d+ .*warm_up", line) for line in process.popen.stderr)
    refused = 'redshank_configuration_reloads_total{outcome="refused"}'
    wait_until(lambda: process.metric(refused) == 1.0)
    assert process.metric("redshank_configuration_last_reload_successful") == 0.0
    code, _, errors = command("reload", "--config", process.config)
    assert code == 78
    assert "streams[0].reference.warm_up: expected a whole number, found 'many'" in errors
    code, table, _ = command("status", "--config", process.config)  # the file is wrong; it can be asked nevertheless
    assert code == 0
    assert re.search("^the file of .* was refused", table, flags=re.MULTILINE)

    # what only a restart changes is refused by the agent itself
    process.config.write_text(good)
    edit(process, ("id: pi", "id: pi, topic_prefix: elsewhere"))
    code, _, errors = command("reload", "--config", process.config)
    assert code == 78
    assert "agent.topic_prefix: expected 'redshank' as at the start, found 'elsewhere'; restart the agent" in errors
    assert process.metric(refused) == 2.0
    publish(peer, range(300, 310))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 311.0)
    assert process.metric(ACTIVE) == 1.0


def test_changes_apply_while_readings_come_and_references_stay(living):
    process, peer = living
    references = process.metric(REFERENCES)
    edit(process, ("name: other", "name: tank"), ("topic: other", "topic: tank"))
    edit(process, ("cooldown: 5s", "cooldown: 6s, severity: critical"))
    with Flow(peer, 300) as flow:
        code, told, errors = command("reload", "--config", process.config)
    assert code == 0, errors
    assert told.splitlines() == ["pump: changed (1 stream)", "tank: added", "other: removed (1 stream)"]
    wait_until(lambda: process.metric("redshank_messages_received_total") == flow.sent + 1.0)
    assert process.metric(ACTIVE) == 1.0
    assert process.metric(REFERENCES) >= references
    encoded = 'redshank_windows_encoded_total{stream="pump/a"}'
    wait_until(lambda: process.metric(encoded) >= flow.sent - 300)
    wait_until(lambda: peer.payloads("redshank/pi/other/x/state")[-1] == b"")
    assert process.metric('redshank_reference_size{stream="other/x"}') is None
    held = process.state / "subscriptions.json"
    wait_until(lambda: json.loads(held.read_text()) == {"plant/+/telemetry": 1, "tank/+": 1, "redshank/pi/echo": 1})
    peer.publish("tank/x", '{"level": 1}')
    wait_until(lambda: last(peer, "tank/x").get("phase") == "learning")
    publish(peer, range(flow.sent, flow.sent + 10), odd=True)
    wait_until(lambda: any(json.loads(payload)["severity"] == "critical" for payload in peer.payloads(ALERT)), 20)
    assert process.metric('redshank_configuration_reloads_total{outcome="applied"}') == 1.0

    code, table, _ = command("status", "--config", process.config)
    assert code == 0
    assert "configuration 2 of" in table
    assert re.search(r"^pump/a +active .* anomaly since ", table, flags=re.MULTILINE)
    assert re.search(r"^tank/x +learning ", table, flags=re.MULTILINE)
    code, answer, _ = command("status", "--json", "--config", process.config)
    assert (code, json.loads(answer)["configuration"]["generation"]) == (0, 2)


def test_the_agent_moves_to_another_broker(living, mosquitto, make_mosquitto, make_peer):
    process, peer = living
    references = process.metric(REFERENCES)
    second = make_mosquitto()
    there = make_peer(second, "redshank/#")
    edit(process, (mosquitto.url, second.url))
    code, told, _ = command("reload", "--config", process.config)
    assert code == 0
    assert told.splitlines() == ["pump: unchanged (1 stream)", "other: unchanged (1 stream)", "the agent connects anew"]
    process.ready()
    wait_until(lambda: peer.payloads("redshank/pi/status")[-1] == b"offline")
    wait_until(lambda: last(there, "pump/a").get("phase") == "active")
    publish(there, range(300, 303))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 304.0)
    assert process.metric(REFERENCES) >= references
    assert f"{second.url} connected" in command("status", "--config", process.config)[1]


def test_only_the_agent_of_that_file_is_asked_to_reload(living, tmp_path):
    process, _ = living
    copy = tmp_path / "copy.yaml"
    copy.write_text(process.config.read_text())
    code, _, errors = command("reload", "--config", copy)
    assert code == 1
    assert f"found one that runs with {process.config}; name that with --config" in errors


def test_systemd_hears_of_a_reload(mosquitto, make_process, tmp_path):
    import socket  # noqa: PLC0415  only this test listens

    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(30)
        process = make_process(mosquitto).start(NOTIFY_SOCKET=str(path))
        while channel.recv(1000) != b"READY=1":
            pass
        process.popen.send_signal(signal.SIGHUP)
        while not re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", channel.recv(1000)):
            pass
        while channel.recv(1000) != b"READY=1":
            pass


@pytest.mark.parametrize("asked", ["status", "reload"])
def test_where_no_agent_runs_that_is_said(tmp_path, asked):
    config = tmp_path / "redshank.yaml"
    port = free_port()
    config.write_text(
        f"agent: {{state_dir: {tmp_path}/state}}\nmetrics: {{listen: '127.0.0.1:{port}'}}\n"
        "streams: [{name: pump, topic: plant/+, encoder: none}]\n"
    )
    code, _, errors = command(asked, "--config", config)
    assert code == 1
    assert errors.startswith(f"expected an agent at 127.0.0.1:{port} (metrics.listen), found none (")
