from __future__ import annotations

import os
import socket

import pytest

from agent.adapters.systemd import memory_max, notify, watchdog_interval_s


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch):
    """Forget the systemd that may run these tests."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listen(monkeypatch):
    """Return a function that listens at an address as systemd does, and tells the program so."""
    sockets = []

    def make(address):
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sockets.append(channel)
        channel.settimeout(5)
        channel.bind(address.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        return channel

    yield make
    for channel in sockets:
        channel.close()


def test_without_systemd_nothing_is_sent():
    assert notify("READY=1") is False


def test_systemd_hears_each_message_as_a_datagram_of_its_own(tmp_path, listen):
    channel = listen(str(tmp_path / "notify"))
    assert notify("READY=1") is True
    assert notify("STATUS=wartet auf den Broker, größer") is True
    assert channel.recv(1000) == b"READY=1"
    assert channel.recv(1000).decode() == "STATUS=wartet auf den Broker, größer"


def test_an_abstract_name_is_heard_too(listen):
    channel = listen(f"@redshank-test-{os.getpid()}")
    assert notify("WATCHDOG=1") is True
    assert channel.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["/no/such/socket", "@redshank-nobody-listens-here", "/" + "x" * 200])
def test_a_systemd_that_does_not_listen_stops_nothing(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify("READY=1") is False


def test_without_a_watchdog_there_is_no_interval():
    assert watchdog_interval_s() is None


@pytest.mark.parametrize("text", ["", "0", "-5", "never", "²"])
def test_what_is_no_interval_counts_as_no_watchdog(monkeypatch, text):
    monkeypatch.setenv("WATCHDOG_USEC", text)
    assert watchdog_interval_s() is None


@pytest.mark.parametrize("pid", [None, "", str(os.getpid())])
def test_the_watchdog_wants_to_hear_twice_in_its_interval(monkeypatch, pid):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_interval_s() == 15.0


@pytest.mark.parametrize("pid", ["1", "rubbish"])
def test_a_watchdog_meant_for_another_process_is_none_of_ours(monkeypatch, pid):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_interval_s() is None


@pytest.mark.parametrize(
    ("group", "limit", "found"),
    [
        ("0::/system.slice/redshank.service\n", "402653184\n", 402653184),
        ("1:cpu:/\n0::/system.slice/redshank.service\n", "max\n", None),
        ("1:memory:/docker\n", "402653184\n", None),  # version 1
        (None, "402653184\n", None),
    ],
)
def test_what_memory_the_service_may_take_is_read_of_its_cgroup(tmp_path, group, limit, found):
    place = tmp_path / "sys/fs/cgroup/system.slice/redshank.service"
    place.mkdir(parents=True)
    (place / "memory.max").write_text(limit)
    (tmp_path / "proc/self").mkdir(parents=True)
    if group is not None:
        (tmp_path / "proc/self/cgroup").write_text(group)
    assert memory_max(tmp_path) == found
