"""A real agent, a real broker and a camera: its encoder is replaced by a good one and a bad one, and put back."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

from tests.brokers import wait_until
from tests.eye_versions import eye_version, put_eye
from tests.scenes import encoded, lorry, scene
from tests.test_agent import alerts, make_peer, make_process
from tests.test_encoder_change import behind, raised, refused, roll_back

__all__ = ["make_peer", "make_process"]  # fixtures

TOPIC, SCORES = "cameras/yard", "redshank/pi/gate/yard/score"
DECIDED = 'redshank_windows_encoded_total{stream="gate/yard"}'
CAMERA = """
  - name: gate
    topic: cameras/+
    kind: image
    encoder: {encoder}
    reference: {{size: 100, warm_up: 45}}
    alert: {{false_alarms: 1 per 100000 decisions, cooldown: 0s}}
    score_topic: always
{keep}
commands: {{enabled: true}}
"""
KEEP = "    keep: {pictures: 100}"


def learn(process, peer):
    """Publish pictures until the agent decides; return how many."""
    sent = 0
    while not process.metric(DECIDED):
        peer.publish(TOPIC, encoded(scene(sent)))
        sent += 1
        time.sleep(0.02)
    return sent


class Live:
    """Publishes a picture as soon as there is a score of the one before; `disturb` makes one of them odd."""

    def __init__(self, peer, first):
        self._peer, self._next, self._odd = peer, first, False
        self.missing = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            odd, self._odd = self._odd, False
            before, deadline = len(self._peer.payloads(SCORES)), time.monotonic() + 20
            self._peer.publish(TOPIC, encoded(scene(self._next, lorry if odd else None)))
            self._next += 1
            while len(self._peer.payloads(SCORES)) == before:
                if time.monotonic() > deadline:
                    self.missing += 1
                    break
                time.sleep(0.001)

    def disturb(self, *, confirmed=True):
        """Make the next picture odd; return the digest of what found it, once the alert is over."""
        before = len(raised(self._peer))
        self._odd = True
        wait_until(lambda: len(raised(self._peer)) > before, 20, "for an alert")
        alert = raised(self._peer)[-1]
        wait_until(lambda: [one for one in alerts(self._peer) if (one["id"], one["event"]) == (alert["id"], "cleared")])
        if confirmed:
            answers = len(self._peer.payloads("redshank/pi/reply"))
            self._peer.publish("redshank/pi/command", json.dumps({"command": "confirm", "alert": alert["id"]}))
            wait_until(lambda: len(self._peer.payloads("redshank/pi/reply")) > answers)
        return alert["encoder"]["digest"]

    def stop(self):
        self._stop.set()
        self._thread.join()


@pytest.fixture
def path(tmp_path):
    return put_eye(tmp_path / "encoders" / "eye.zip", "first")


def switched(process):
    wait_until(lambda: behind(process) == 1.0, 20, "for the new version to be noticed")
    wait_until(lambda: behind(process) == 0.0, 60, "for the switch")


def test_bundles_of_pictures_are_replaced_and_put_back_under_a_live_camera(mosquitto, make_process, make_peer, path):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=CAMERA.format(encoder=path, keep=KEEP)).start().ready()
    first, second = eye_version("first"), eye_version("second")
    live = Live(peer, learn(process, peer))
    assert live.disturb() == first

    put_eye(path, "second")
    wait_until(lambda: behind(process) == 1.0, 20, "for the new version to be noticed")
    assert live.disturb(confirmed=False) == first  # in its shadow
    wait_until(lambda: behind(process) == 0.0, 60, "for the switch")
    assert live.disturb() == second

    path.write_bytes(path.read_bytes()[:-1000])
    wait_until(lambda: refused(process) == 1.0, 20, "for the bad version to be refused")
    assert live.disturb() == second

    assert roll_back(process, path).returncode == 0  # to the one that was used last
    assert roll_back(process, path).returncode == 0
    switched(process)
    assert live.disturb() == first

    live.stop()
    assert (live.missing, process.metric("redshank_frames_dropped_total")) == (0, 0.0)
    assert len(raised(peer)) == 5  # none but those that were provoked
    code, errors = process.stop()
    assert (code, "Traceback" in errors) == (0, False)
    assert errors.count("stream gate/yard goes on with encoder") == 2
    assert "references were embedded anew" in errors


def test_a_version_that_comes_while_the_agent_is_away_makes_a_camera_forget_nothing(
    mosquitto, make_process, make_peer, path
):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto, more=CAMERA.format(encoder=path, keep="")).start().ready()
    sent = learn(process, peer)
    process.stop()
    put_eye(path, "second")
    process.start().ready()
    live = Live(peer, sent)
    assert live.disturb() == eye_version("first")
    switched(process)
    assert live.disturb() == eye_version("second")
    live.stop()
    process.stop(signal.SIGKILL)
    process.start().ready()  # the confirmation was written, and with it what the second version had learnt
    live = Live(peer, sent + 1000)
    assert live.disturb() == eye_version("second")
    live.stop()
    assert len(raised(peer)) == 3
