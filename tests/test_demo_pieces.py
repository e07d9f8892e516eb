"""What the demo is made of, and how it ends when things go wrong; a whole run is in test_demo.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from time import process_time

import msgspec
import psutil
import pytest

from agent import demo_parts as module
from agent.demo import Counters, Disturbance
from agent.demo_parts import Watcher, free_port, start_broker
from agent.errors import RedshankError
from agent.ports import InboundMessage
from tests.brokers import wait_until

COMMAND = [sys.executable, "-m", "agent.cli", "demo"]


@pytest.fixture
def start():
    """Return a function that starts the demo as a process of its own."""
    processes = []

    def make(*arguments):
        processes.append(
            subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield make
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()  # which would keep the pipes open, and so this waiting
            process.kill()
        process.communicate()


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def message(topic, content):
    return InboundMessage(f"redshank/demo/{topic}", json.dumps(content).encode() if content else b"", 0.0, 0.0)


@pytest.mark.usefixtures("make_mosquitto")
def test_an_interrupt_ends_it_with_its_broker_and_its_agent(start):
    process = start("--forever")
    said = ""
    while "connected to mqtt://127.0.0.1:" not in said:
        said = process.stderr.readline()
        assert said, "it ended before it was connected"
    port = int(said.split("mqtt://127.0.0.1:")[1].split()[0])
    children = psutil.Process(process.pid).children(recursive=True)
    assert answers(port)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not answers(port)
    assert not any(child.is_running() for child in children)


def test_where_the_agent_cannot_go_on_it_ends_with_1_and_shows_the_agents_words(make_mosquitto, start):
    process = start("--broker", make_mosquitto(users={"pi": "secret"}).url)
    out, err = process.communicate(timeout=60)
    said = " ".join(out.split())
    assert "FAILED: the agent did not finish learning" in said, err
    assert "check broker.username and broker.password_file" in said
    assert process.returncode == 1


def test_a_reading_holds_shares_sizes_and_rates_of_this_machine():
    counters = Counters()
    until = process_time() + 0.2
    while process_time() < until:
        pass  # so that there is something to see
    reading = counters.sample()
    assert {group: sorted(values) for group, values in reading.items() if group != "ts"} == {
        "cpu": ["system", "user"],
        "mem": ["used"],
        "disk": ["read", "write"],
        "net": ["in", "out"],
    }
    assert 0 < reading["cpu"]["user"] <= 100
    assert 0 <= reading["cpu"]["system"] <= 100
    assert 1 < reading["mem"]["used"] < psutil.virtual_memory().total / 1e6
    assert min(*reading["disk"].values(), *reading["net"].values()) >= 0


def test_what_goes_over_the_network_is_counted():
    counters = Counters()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        with receiver, receiver.makefile("rb") as stream:
            reader = threading.Thread(target=stream.read, args=(5_000_000,))
            reader.start()
            sender.sendall(bytes(5_000_000))
            reader.join()
    reading = counters.sample()
    assert reading["net"]["in"] > 1
    assert reading["net"]["out"] > 1


def test_states_scores_and_alerts_are_remembered():
    watcher = Watcher()
    watcher.on_messages(
        [
            message("machine/state", {"phase": "active"}),
            message("machine/state", None),  # cleared
            message("state", {"streams": 1}),  # the agent's own
            message("machine/score", {"score": 2.5}),
            message("status", {"no": "matter"}),
            message("machine/alert", {"event": "raised", "id": "1"}),
            message("machine/alert", {"event": "cleared", "id": "1"}),
            message("machine/alert", {"event": "raised", "id": "2", "kind": "frozen"}),
            message("machine/heatmap", {"not": "a picture"}),
            message("machine/heatmap", None),
        ]
    )
    assert watcher.state == {"phase": "active"}
    assert list(watcher.scores) == [2.5]
    assert watcher.alert("raised") == {"event": "raised", "id": "1"}
    assert watcher.alert("raised", 1)["id"] == "2"
    assert watcher.alert("raised", 1, "frozen")["id"] == "2"
    assert watcher.alert("raised", 1, "anomaly") is None
    assert watcher.heatmaps == [b'{"not": "a picture"}']
    assert watcher.kept == {f"redshank/demo/{one}" for one in ("status", "state", "machine/state", "machine/heatmap")}
    assert watcher.alert("cleared", 2) is None


def test_what_a_broker_kept_from_an_earlier_run_is_no_news_but_is_to_be_cleared():
    watcher = Watcher()
    old = [message("machine/state", {"phase": "active"}), message("machine/heatmap", {"old": 1})]
    watcher.on_messages([msgspec.structs.replace(one, retained=True) for one in old])
    assert watcher.state == {}
    assert watcher.heatmaps == []
    assert watcher.kept == {"redshank/demo/machine/state", "redshank/demo/machine/heatmap"}


def test_a_free_port_can_be_listened_on():
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert answers(server.getsockname()[1])


@pytest.mark.usefixtures("make_mosquitto")
def test_mosquitto_is_started_where_it_is_installed_and_stopped_again(tmp_path):
    name, url, stop = start_broker(tmp_path)
    port = int(url.rsplit(":", 1)[1])
    assert name == "Mosquitto"
    assert answers(port)
    stop()
    assert not answers(port)


def test_without_mosquitto_amqtt_serves():
    code = """
import pathlib, shutil, threading
shutil.which = lambda *_, **__: None
from agent.adapters.mqtt import BrokerSettings, MqttClient, MqttEvents, Protocol
from agent.demo_parts import start_broker
name, url, stop = start_broker(pathlib.Path("/nowhere"))
heard, subscribed = threading.Event(), threading.Event()
class Listener(MqttEvents):
    def on_subscriptions(self, *_): subscribed.set()
    def on_messages(self, messages): print(messages[0].payload.decode()); heard.set()
settings = BrokerSettings(url=url, protocol=Protocol.V311)
client = MqttClient(settings, agent_id="x", subscriptions=[("a/b", 1)], events=Listener())
client.start()
assert subscribed.wait(20)
assert client.publish("a/b", b"through amqtt", qos=1)
assert heard.wait(20)
client.stop()
stop()
print(name)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert found.stdout.splitlines() == ["through amqtt", "amqtt (install Mosquitto for the real thing)"], found.stderr


def test_a_broker_that_does_not_start_is_an_error(monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))  # nobody waits ten seconds for this
    with pytest.raises(RedshankError, match="the broker did not start within 10 s"):
        module._wait_for_port(free_port())


def test_a_disturbance_burns_until_it_is_stopped(tmp_path):
    before = set(psutil.Process().children())
    disturbance = Disturbance(tmp_path)
    try:
        processes = set(psutil.Process().children()) - before
        assert len(processes) == 2 + (os.cpu_count() or 1)
        wait_until(lambda: sum(sum(process.cpu_times()[:2]) for process in processes) > 1, 60)
        wait_until(lambda: (tmp_path / "burn").exists() and (tmp_path / "burn").stat().st_size >= 1 << 22, 60)
        assert all(process.is_running() for process in processes)
    finally:
        disturbance.stop()
    assert not any(process.is_running() for process in processes)


def test_ticks_come_at_their_period_and_are_not_made_up_for(monkeypatch):
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "sleep", sleep)
    ticks = module.ticks(0.1)
    for busy in (0.0, 0.04, 5.0, 0.0, 0.0):
        next(ticks)
        now[0] += busy
    next(ticks)
    assert slept == [0.1, 0.06, 0.0, 0.0, 0.1]
