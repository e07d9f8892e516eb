"""`redshank discover` as a user runs it: a real broker, publishers of several kinds, the command, the agent."""

from __future__ import annotations

import re
import threading
import time

import pytest

from agent.cli import main
from agent.config import load_configuration
from agent.discover import write
from tests.brokers import wait_until
from tests.discovery import shapes
from tests.test_agent import make_peer, make_process
from tests.test_living import command

__all__ = ["make_peer", "make_process"]  # fixtures
WHICH = (shapes.zigbee2mqtt, shapes.shelly_gen1, shapes.plc, shapes.gateway)


class Publishers:
    """What the shapes publish, a round each 100 ms, until it is stopped."""

    def __init__(self, peer, *which):
        self._peer, self._which = peer, which
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        i = 0
        while not self._ended.wait(0.1):
            for shape in self._which:
                for topic, payload, *retained in shape(i, time.time()):
                    self._peer.publish(topic, shapes.encoded(payload), qos=0, retain=bool(retained and retained[0]))
            i += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


def ready(process):
    """Tell whether the agent says that it is ready."""
    try:
        return process.get("/readyz") == "ok\n"
    except OSError:
        return False


def test_what_is_discovered_passes_the_check_and_the_agent_learns_with_it(mosquitto, make_process, make_peer, tmp_path):
    peer = make_peer(mosquitto, "redshank/#")
    file = tmp_path / "found.yaml"
    with Publishers(make_peer(mosquitto), *WHICH):
        code, out, errors = command("discover", "--broker", mosquitto.url, "--seconds", 3, "--write", file)
        assert (code, out) == (0, ""), errors
        assert peer.received == []  # it has published nothing
        code, out, errors = command("check", file)
        assert code == 0, errors
        assert "good, " in out
        topics = {one.topic for one in load_configuration(file).streams}
        assert {
            "zigbee2mqtt/+",
            "shellies/+/relay/0/power",
            "plant/{device}/press/{channel}",
            "gw/pump/telemetry",
        } <= topics
        process = make_process(mosquitto)
        own = f"agent:\n  state_dir: {process.state}\n"
        process.config.write_text(
            file.read_text().replace("agent:\n", own, 1) + f'metrics: {{listen: "127.0.0.1:{process.port}"}}\n'
        )
        process.start()
        wait_until(lambda: ready(process), 90, "for the agent")
        wait_until(lambda: (process.metric("redshank_streams") or 0) >= 18, 90)
        phases = process.get("/metrics")
        for stream in ("zigbee2mqtt/kitchen", "gw-pump-telemetry", "plant-press/line1"):
            assert re.search(
                rf'^redshank_stream_phase{{phase="learning",stream="{stream}"}} 1', phases, flags=re.MULTILINE
            )
        rejected = [line for line in phases.splitlines() if line.startswith("redshank_messages_rejected_total{")]
        counts = {re.findall('reason="(.+?)"', line)[0]: float(line.split()[-1]) for line in rejected}
        told = {
            "retained",
            "malformed",
            "no_values",
            "surplus",
            "duplicate",
            "late",
        }  # texts, and more than one a period
        assert {reason for reason, count in counts.items() if count} <= told
        assert process.stop()[0] == 0


def test_nothing_heard_is_an_error_that_says_what_there_was(mosquitto, make_peer):
    make_peer(mosquitto).publish("a/b", b"on", retain=True)
    code, out, errors = command("discover", "--broker", mosquitto.url, "--seconds", 0.5)
    assert (code, out) == (1, "")
    assert "expected topics with numbers or pictures" in errors
    assert "text: 1 topics" in errors


def test_a_broker_that_wants_a_password(make_mosquitto, make_peer, tmp_path):
    broker = make_mosquitto(users={"me": "secret-word"})
    (tmp_path / "word").write_text("secret-word\n")
    (tmp_path / "word").chmod(0o600)
    peer = make_peer(broker, user=("me", "secret-word"))
    arguments = ("discover", "--broker", broker.url, "--seconds", 1, "--topic", "plant/#", "--username", "me")
    assert command(*arguments)[0] == 69
    peer.publish("plant/a", b"1", retain=True)
    with Publishers(peer, shapes.plc):
        code, out, errors = command(*arguments, "--password-file", tmp_path / "word")
    assert code == 0, errors
    assert f"  username: me\n  password_file: {tmp_path}/word\n" in out
    assert "secret-word" not in out + errors


def test_a_broker_behind_a_websocket_is_listened_to_and_proposed(make_mosquitto, make_peer):
    broker = make_mosquitto(websockets=True)
    assert broker.url.startswith("ws://")
    with Publishers(make_peer(broker), shapes.plc):
        code, out, errors = command("discover", "--broker", broker.url, "--seconds", 1)
    assert code == 0, errors
    assert f"  url: {broker.url}\n" in out
    assert "topic: plant/{device}/press/{channel}" in out


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["discover", "--write", str(file)])
    assert (ended.value.code, file.read_text()) == (2, "mine")
    assert "found one; --force overwrites it" in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        write(file, "new", force=False)
    write(file, "new", force=True)
    assert file.read_text() == "new"
    write(tmp_path / "other.yaml", "x", force=False)
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"mine.yaml": "new", "other.yaml": "x"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--topic", "a/#/b"), 2, "expected an MQTT topic filter"),
        (("--seconds", "0"), 2, "expected more than 0 seconds"),
        (("--broker", "mqtt://me:secret-word@host"), 78, "use username and password_file"),
        (("--password-file", "/nowhere"), 78, "broker.password_file: expected a readable file"),
    ],
)
def test_wrong_usage_is_told_at_once(arguments, code, words, capsys):
    try:
        found = main(["discover", *arguments])
    except SystemExit as ended:
        found = ended.code
    told = capsys.readouterr()
    assert (found, told.out) == (code, "")
    assert words in told.err
    assert "secret-word" not in told.err
