"""A real agent and a real broker: a bundle is replaced by a good one and a bad one, and the one before is put back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest

from tests.brokers import wait_until
from tests.encoder_versions import BAD, DEADLY_ENDS, GOOD, make_deadly, make_version, version_in
from tests.test_agent import alerts, make_peer, make_process, publish, reading

__all__ = ["make_peer", "make_process"]  # fixtures

TOPIC = "plant/a/telemetry"
WARM_UP = 233  # readings: 200 windows of 32, and one before the first
COMMANDS = "commands: {enabled: true}"


class Live:
    """Publishes readings without a pause; `disturb` makes some of them odd, each time worse."""

    def __init__(self, peer, first):
        self._peer, self._next = peer, first
        self._odd, self._times = 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.01):
            values = json.loads(reading(self._next))
            if self._odd:
                self._odd -= 1
                values["temp"] += 10 * (-2) ** self._times
            self._peer.publish(TOPIC, json.dumps(values))
            self._next += 1

    def disturb(self, *, confirmed=True):
        """Make the next ten readings odd; return the alert that they raise, once it is over."""
        before = len(raised(self._peer))
        self._times += 1
        self._odd = 10
        wait_until(lambda: len(raised(self._peer)) > before, 20, "for an alert")
        alert = raised(self._peer)[-1]
        over = {"cleared"}
        wait_until(lambda: [one for one in alerts(self._peer) if one["id"] == alert["id"] and one["event"] in over], 20)
        if confirmed:  # it was a true one: it does not count against the budget
            self._peer.publish("redshank/pi/command", json.dumps({"command": "confirm", "alert": alert["id"]}))
        return alert

    def stop(self):
        """Return how many readings there were, from the first on."""
        self._stop.set()
        self._thread.join()
        return self._next


def raised(peer):
    return [alert for alert in alerts(peer) if alert["event"] == "raised"]


def roll_back(process, path):
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", "encoders", "--rollback", str(path), "--config", str(process.config)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bundle(tmp_path):
    return make_version(tmp_path / "encoders" / "pump")


def decisions(process):
    return process.metric('redshank_windows_encoded_total{stream="pump/a"}')


def behind(process):
    return process.metric("redshank_streams_behind")


def refused(process):
    return process.metric("redshank_bundles_refused_total")


def test_bundles_are_replaced_and_put_back_under_a_live_stream(mosquitto, make_process, make_peer, bundle):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, stream=f"encoder: {bundle}", more=COMMANDS).start().ready()
    first = version_in(bundle)
    publish(peer, range(500))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 500.0, 20)
    wait_until(lambda: decisions(process) == 500 - WARM_UP, 20)
    live = Live(peer, 500)
    assert live.disturb()["encoder"]["digest"] == first

    make_version(bundle, GOOD)
    second = version_in(bundle)
    wait_until(lambda: behind(process) == 1.0, 20, "for the new version to be noticed")
    assert live.disturb(confirmed=False)["encoder"]["digest"] == first  # in its shadow
    wait_until(lambda: behind(process) == 0.0, 30, "for the switch")
    assert live.disturb()["encoder"]["digest"] == second

    make_version(bundle, BAD)
    wait_until(lambda: refused(process) == 1.0, 20, "for the bad version to be refused")
    assert live.disturb()["encoder"]["digest"] == second
    (bundle / "manifest.json").write_text("{}")
    wait_until(lambda: refused(process) == 2.0, 20, "for no bundle at all to be refused")

    assert roll_back(process, bundle).returncode == 0
    assert version_in(bundle) == second  # it was the last one used
    assert roll_back(process, bundle).returncode == 0
    assert version_in(bundle) == first
    wait_until(lambda: behind(process) == 1.0, 20, "for the version before to be noticed")
    wait_until(lambda: behind(process) == 0.0, 30, "for the switch back")
    assert live.disturb()["encoder"]["digest"] == first

    sent = live.stop()
    wait_until(lambda: process.metric("redshank_messages_received_total") == sent, 20)
    wait_until(lambda: decisions(process) == sent - WARM_UP, 20, "for every decision")
    assert len(raised(peer)) == 5  # none but those that were provoked
    assert json.loads(peer.payloads("redshank/pi/state")[-1])["streams_behind"] == 0
    code, errors = process.stop()
    assert (code, "Traceback" in errors) == (0, False)
    assert "the new version is refused, and the one in use stays" in errors
    assert "1 streams are carried over to it" in errors
    assert errors.count("stream pump/a goes on with encoder") == 2


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_version_that_comes_while_the_agent_is_away_makes_it_forget_nothing(
    mosquitto,
    make_process,
    make_peer,
    bundle,
    end,
):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, stream=f"encoder: {bundle}").start().ready()
    publish(peer, range(500))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 500.0, 20)
    process.stop()
    process.start().ready()
    process.stop(end)
    first = version_in(bundle)
    make_version(bundle, GOOD)
    process.start().ready()
    publish(peer, range(500, 520))
    wait_until(lambda: decisions(process) == 20.0, 20, "for decisions by what was learnt before")
    wait_until(lambda: behind(process) == 1.0, 20)
    live = Live(peer, 520)
    wait_until(lambda: behind(process) == 0.0, 30, "for the switch")
    assert version_in(bundle) != first
    assert live.disturb()["encoder"]["digest"] == version_in(bundle)
    live.stop()
    process.stop(signal.SIGKILL)
    process.start().ready()  # the snapshot is of the new version now
    publish(peer, range(live.stop(), live.stop() + 50))  # behind a gap, for the last ones before the kill are lost
    wait_until(lambda: decisions(process), 20, "for decisions by what was learnt before")


def test_a_bad_bundle_at_a_start_leaves_the_last_good_one_in_use(mosquitto, make_process, make_peer, bundle):
    peer = make_peer(mosquitto)
    process = make_process(mosquitto, stream=f"encoder: {bundle}").start().ready()
    publish(peer, range(300))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 300.0, 20)
    process.stop()
    make_version(bundle, BAD)
    process.start().ready()
    assert refused(process) == 1.0
    publish(peer, range(300, 310))
    wait_until(lambda: decisions(process) == 10.0, 20)


def test_a_model_that_ends_its_process_ends_no_agent(mosquitto, make_process, bundle):
    stream = f"encoder: {bundle}"
    process = make_process(mosquitto, stream=stream).start().ready()
    make_deadly(bundle)
    wait_until(lambda: refused(process) == 1.0, 20, "for it to be refused")
    code, errors = process.stop()
    assert code == 0
    assert "the one in use stays" in errors
    assert DEADLY_ENDS in errors
    process.start().ready()  # with what it used before
    assert refused(process) == 1.0
    assert process.stop()[0] == 0
    other = make_process(mosquitto, stream=stream).start()  # has used nothing yet
    _, errors = other.popen.communicate(timeout=30)
    assert (other.popen.returncode, errors.count(b"\n")) == (78, 1)
    assert DEADLY_ENDS.encode() in errors


def test_a_deadly_bundle_in_a_new_configuration_leaves_the_old_one_in_force(mosquitto, make_process, bundle, tmp_path):
    process = make_process(mosquitto, stream=f"encoder: {bundle}").start().ready()
    other = make_deadly(tmp_path / "encoders" / "other")
    process.config.write_text(process.config.read_text().replace(str(bundle), str(other)))
    process.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: refused(process) == 1.0, 20, "for it to be refused")
    code, errors = process.stop()
    assert (code, DEADLY_ENDS in errors) == (0, True)


def test_what_cannot_be_put_back_is_said_clearly(mosquitto, make_process, bundle):
    process = make_process(mosquitto, stream=f"encoder: {bundle}")
    done = roll_back(process, bundle)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "expected an earlier version" in done.stderr
    done = roll_back(process, "sensor-small")
    assert done.returncode == 78
    assert f"names by a path ({bundle}), found 'sensor-small'" in done.stderr
