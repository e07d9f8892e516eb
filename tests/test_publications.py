from __future__ import annotations

import json
from contextlib import closing

import pytest

from agent import publications
from agent.adapters.mqtt import Ears, Topics
from agent.adapters.store import AlertRow, OutboxRow, Store
from agent.adapters.telemetry import Telemetry
from agent.app import load_encoders, with_defaults
from agent.config import load_configuration
from agent.core.alerting import AlertKind
from agent.pipeline import Heatmap, Outcome, Pipeline
from agent.publications import ANNOUNCED_AT_ONCE, GREETED_WITHIN_S, STATE_S, Publications, announcements_of
from agent.reconfiguration import Fate
from tests.scenes import encoder

TOPICS = Topics("redshank", "pi")
ALWAYS = "homeassistant: {discovery: always}"
ALERT = {
    "id": "a1", "kind": "anomaly", "event": "raised", "severity": "warning", "started_at": "2026-01-01T00:00:00.000Z",
    "at": "2026-01-01T00:00:00.000Z", "ended_at": None, "score": 8.0, "message": "pump/a is odd",
    "evidence": {"parts": []},
}  # fmt: skip


class Client:
    """Takes publications over, up to `room` of them."""

    def __init__(self):
        self.connected, self.room = True, 1_000_000
        self.ears = Ears(60.0)
        self.sent = []

    def publish(self, topic, payload, *, qos=1, retain=False):
        if self.room <= 0:
            return False
        self.room -= 1
        self.sent.append((topic, payload))
        assert (qos, retain) == ((0, False) if topic.endswith("/score") else (1, True))
        return True

    def take(self, ending=""):
        """Return what was sent since the last time, of topics that end so."""
        sent, self.sent = self.sent, []
        return [(topic, payload) for topic, payload in sent if topic.endswith(ending)]


def encoders_of(configuration):
    return load_encoders(configuration, loaded={"efficientnet-lite0": encoder()})


class Desk:
    """Publications over a real pipeline and store."""

    def __init__(self, folder, *, names=("pump",), more=""):
        self.folder, self.more = folder, more
        self.client = Client()
        self.store = Store(folder / "state")
        self.disk = True
        self.troubles = []
        configuration = self.configured(names)
        telemetry = Telemetry(1, 256_000_000)
        self.pipeline = Pipeline(configuration, encoders_of(configuration), TOPICS, telemetry)
        self.publications = Publications(
            configuration,
            TOPICS,
            self.pipeline.streams,
            self.client,
            self.store,
            telemetry,
            announcements_of(configuration, TOPICS),
            self._on_disk,
            lambda: self.troubles,
        )
        self.publications.renew()

    def configured(self, names=("pump",), more=None):
        kinds = ["kind: image" if name == "gate" else "encoder: none" for name in names]
        streams = "".join(
            f'\n  - {{name: "{name}", topic: "plant/{name}/+", {kind}}}'
            for name, kind in zip(names, kinds, strict=True)
        )
        path = self.folder / "redshank.yaml"
        path.write_text(
            f"agent: {{id: pi, memory_limit: 4GB}}\n{self.more if more is None else more}\nstreams:{streams}\n"
        )
        return with_defaults(load_configuration(path))

    def configure(self, *, removed=(), **how):
        configuration = self.configured(**how)
        self.publications.configure(configuration, announcements_of(configuration, TOPICS), removed)

    def reload(self, change):
        """Go by a configuration that is changed in its text, as the agent does at a reload."""
        path = self.folder / "redshank.yaml"
        path.write_text(change(path.read_text()))
        configuration = with_defaults(load_configuration(path))
        done = self.pipeline.reconfigure(configuration, encoders_of(configuration), 0.0)
        renewed = [name for name, fate in done.fates.items() if fate is not Fate.UNCHANGED]
        removed = [stream.name for stream in done.removed]
        self.publications.configure(configuration, announcements_of(configuration, TOPICS), removed, renewed)

    def _on_disk(self, write):
        if self.disk:
            write()
        return self.disk

    def publish(self, now=0.0, at=0.0):
        self.publications.publish(now, at)

    @property
    def known(self):
        """Return what the store says is retained."""
        return self.store.retained()


@pytest.fixture
def make_desk(tmp_path):
    desks = []

    def make(**how):
        if desks:
            desks[-1].store.close()
        desks.append(Desk(tmp_path, **how))
        return desks[-1]

    yield make
    desks[-1].store.close()


@pytest.fixture
def desk(make_desk):
    made = make_desk()
    made.pipeline.stream_of("plant/pump/a")
    made.publish()
    return made


def states(desk):
    return [json.loads(payload) for _, payload in desk.client.take("pump/a/state")]


def test_of_many_streams_some_are_looked_at_each_second(make_desk, monkeypatch):
    monkeypatch.setattr(publications, "LOOKED_AT_ONCE", 3)
    desk = make_desk()
    for number in range(7):
        desk.pipeline.stream_of(f"plant/pump/{number}")
    said = []
    for second in range(3):
        desk.publish(float(second))
        said.append([topic.split("/")[-2] for topic, _ in desk.client.take("/state")])
    assert said == [["0", "1", "2"], ["3", "4", "5"], ["6", "pi"]]
    desk.publish(3.0)
    assert desk.client.take("/state") == []
    desk.publications.renew()
    desk.publish(4.0)
    assert len(desk.client.take("/state")) == 3


def test_a_state_is_published_when_it_changes_and_once_a_minute(desk):
    assert [one["phase"] for one in states(desk)] == ["learning"]
    desk.publish(1.0)
    assert states(desk) == []
    desk.pipeline.streams["pump/a"].alerts[AlertKind.SILENT].snoozed_until = 90.0
    desk.publish(2.0, at=80.0)
    assert [one["snoozed"] for one in states(desk)] == [True]
    desk.publish(3.0, at=91.0)
    assert [(one["snoozed"], one["snoozed_until"]) for one in states(desk)] == [(False, None)]
    desk.publish(3.0 + STATE_S, at=160.0)
    assert len(states(desk)) == 1


def test_the_agents_own_state_counts_its_streams(desk):
    (first,) = [json.loads(payload) for topic, payload in desk.client.take() if topic == TOPICS.agent_state]
    assert (first["streams"], first["learning"], first["firing"], first["messages_received"]) == (1, 1, 0, 0)
    desk.publish(1.0)
    assert desk.client.take() == []
    desk.pipeline.stream_of("plant/pump/b")
    desk.publish(2.0)
    assert [topic for topic, _ in desk.client.take("pi/state")] == [TOPICS.agent_state]


def tell(desk, alert=ALERT):
    payload = json.dumps({**alert, "version": 1, "stream": "pump/a"}).encode()
    outcome = Outcome(
        [AlertRow("pump/a", "anomaly", {}), AlertRow("gone", "anomaly", {})],
        [OutboxRow(TOPICS.alert("pump/a"), payload, 1.0)],
        [],
    )
    desk.store.commit(outcome.alerts, outcome.outbox)
    desk.publications.told(outcome, 1.0, 1.0)


def test_the_state_tells_the_last_alert_also_after_a_restart(desk, make_desk):
    assert states(desk)[0]["last_alert"] is None
    tell(desk)
    assert [one["last_alert"] for one in states(desk)] == [ALERT]
    tell(desk, {**ALERT, "event": "updated", "message": "pump/a is odder", "evidence": None})
    assert [one["last_alert"]["message"] for one in states(desk)] == ["pump/a is odder"]
    again = make_desk()
    again.pipeline.stream_of("plant/pump/a")
    again.publish()
    assert [one["last_alert"]["evidence"] for one in states(again)] == [None]


def test_while_the_broker_is_away_nothing_is_published_and_nothing_forgotten(desk):
    desk.client.take()
    desk.client.connected = False
    tell(desk)
    desk.publish(2.0)
    assert desk.client.take() == []
    desk.client.connected = True
    desk.publish(3.0)
    assert [one["last_alert"] for one in states(desk)] == [ALERT]


def test_what_the_client_does_not_take_is_published_later(make_desk):
    desk = make_desk(names=["gate"], more=ALWAYS)
    desk.pipeline.stream_of("plant/gate/a")
    desk.publications.decided(Outcome([], [], [], [Heatmap("gate/a", b"png")]))
    everything = {topic for topic, _ in desk.client.take()}
    for now in range(10):
        desk.client.room = 1
        desk.publish(float(now))
        everything |= {topic for topic, _ in desk.client.take()}
    assert everything == desk.known
    assert len(everything) == 5  # state and heatmap, the agent's state, two devices


def test_after_a_new_connection_everything_is_published_again(desk):
    desk.client.take()
    desk.publications.renew()
    desk.publish(1.0)
    assert {topic for topic, _ in desk.client.take()} == {TOPICS.state("pump/a"), TOPICS.agent_state}


def test_what_is_retained_is_stored_once_the_disk_takes_it(desk):
    desk.disk = False
    desk.pipeline.stream_of("plant/pump/b")
    desk.publish(1.0)
    assert TOPICS.state("pump/b") not in desk.known
    desk.disk = True
    desk.publish(2.0)
    assert TOPICS.state("pump/b") in desk.known


def announced(desk):
    return [topic for topic, payload in desk.client.take("/config") if payload]


def test_many_streams_are_announced_some_at_a_time_the_agent_first(make_desk):
    desk = make_desk(more=ALWAYS)
    for number in range(2 * ANNOUNCED_AT_ONCE):
        desk.pipeline.stream_of(f"plant/pump/{number}")
    desk.publish()
    first, *others = announced(desk)
    assert first.startswith("homeassistant/device/redshank_pi_")
    assert all(topic.startswith(first.removesuffix("/config") + "_pump_") for topic in others)
    assert len(others) == ANNOUNCED_AT_ONCE
    desk.publish(1.0)
    rest = announced(desk)
    assert len(set(others + rest)) == 2 * ANNOUNCED_AT_ONCE
    desk.publish(2.0)
    assert announced(desk) == []


def test_when_home_assistant_starts_everything_is_announced_again_a_random_while_later(make_desk, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    desk = make_desk(more=ALWAYS)
    desk.pipeline.stream_of("plant/pump/a")
    desk.publish()
    assert len(announced(desk)) == 2
    desk.publications.greet()
    desk.publish(1.0)
    desk.publish(1.0 + 0.4 * GREETED_WITHIN_S)
    assert announced(desk) == []
    desk.publish(1.0 + 0.6 * GREETED_WITHIN_S)
    assert len(announced(desk)) == 2


def test_a_name_that_is_too_long_is_said_and_not_announced(make_desk, caplog):
    desk = make_desk(more=ALWAYS)
    desk.pipeline.stream_of("plant/pump/" + "%" * 400)  # each is escaped as three characters
    desk.pipeline.stream_of("plant/pump/a")
    desk.publish()
    assert len(announced(desk)) == 2
    assert "not announced to Home Assistant, for its name is too long: pump/%25%25" in caplog.text
    desk.publish(1.0)
    assert announced(desk) == []


def test_what_is_no_longer_configured_or_watched_is_cleared(make_desk):
    desk = make_desk(names=["pump", "gate", "50%"], more=ALWAYS)
    for topic in ("plant/pump/a", "plant/gate/b", "plant/50%/a"):
        desk.pipeline.stream_of(topic)
    desk.publications.decided(Outcome([], [], [], [Heatmap("gate/b", b"png")]))
    desk.publish()
    assert len(desk.known) == 9
    tell(desk)
    del desk.pipeline.streams["gate/b"]
    desk.client.take()
    desk.configure(names=["pump", "gate", "50%"], removed=["gate/b"])
    desk.publish(1.0)
    sent = desk.client.take()
    gone = [topic for topic, payload in sent if payload == b""]
    assert {TOPICS.state("gate/b"), TOPICS.heatmap("gate/b")} < set(gone)
    assert len(gone) == 3
    assert [topic for topic, _ in sent if topic.endswith("/config")] == [gone[0]]  # nothing is announced anew
    assert desk.store.last_alerts().keys() == {TOPICS.alert("pump/a")}
    del desk.pipeline.streams["pump/a"]
    desk.configure(names=["50%"])
    desk.publish(2.0)
    assert TOPICS.state("pump/a") in {topic for topic, payload in desk.client.take() if payload == b""}
    assert desk.store.last_alerts() == {}
    assert len(desk.known) == 4  # 50%25/a and the agent, with a device and a state each


def test_a_stream_that_comes_back_is_published_and_announced_again(make_desk):
    desk = make_desk(more=ALWAYS)
    stream = desk.pipeline.stream_of("plant/pump/a")
    desk.publish()
    desk.client.take()
    del desk.pipeline.streams["pump/a"]
    desk.configure(removed=["pump/a"])
    desk.pipeline.streams["pump/a"] = stream
    desk.publish(1.0)
    assert {TOPICS.state("pump/a")} | set(announced(desk)) <= desk.known
    assert len(desk.known) == 4


def devices(desk):
    """Return what was announced since the last time, by the stream's or the agent's name."""
    told = [json.loads(payload) for _, payload in desk.client.take("/config")]
    return {one["dev"]["name"]: one for one in told}


@pytest.fixture
def two(make_desk):
    """Return a desk where two streams, and the agent, are announced."""
    made = make_desk(names=["pump", "gate"], more=ALWAYS)
    made.pipeline.stream_of("plant/pump/a")
    made.pipeline.stream_of("plant/gate/a")
    made.publications.decided(Outcome([], [], [], [Heatmap("gate/a", b"png")]))
    made.publish()
    assert devices(made).keys() == {"Redshank pi", "pump/a", "gate/a"}
    return made


def test_a_reload_announces_again_what_is_another_device_now_and_nothing_else(two):
    two.reload(lambda text: text.replace('+", encoder: none', '+", encoder: sensor-small'))
    two.publish(1.0)
    told = devices(two)
    assert told.keys() == {"pump/a"}
    assert told["pump/a"]["dev"]["mdl"] == "Stream, sensor-small"
    two.reload(lambda text: text)
    two.publish(2.0)
    assert devices(two) == {}


def test_a_stream_that_is_no_longer_of_pictures_loses_its_picture(two):
    heatmap = TOPICS.heatmap("gate/a")
    assert heatmap in two.known
    two.reload(lambda text: text.replace("kind: image", "encoder: none"))
    two.publish(1.0)
    sent = two.client.take()
    assert (heatmap, b"") in sent
    assert heatmap not in two.known
    (told,) = [json.loads(payload) for topic, payload in sent if topic.endswith("/config")]
    assert told["cmps"]["heatmap"] == {"p": "image"}  # which takes the entity away
    assert [json.loads(payload)["phase"] for topic, payload in sent if topic == TOPICS.state("gate/a")] == ["learning"]
    two.reload(lambda text: text.replace('gate/+", encoder: none', 'gate/+", kind: image'))
    two.publish(2.0)
    assert devices(two)["gate/a"]["cmps"]["heatmap"]["image_topic"] == heatmap


def test_when_discovery_ends_devices_go_and_states_stay(make_desk):
    desk = make_desk(more=ALWAYS)
    desk.pipeline.stream_of("plant/pump/a")
    desk.publish()
    desk.client.take()
    desk.configure(more="")
    desk.publish(1.0)
    assert [payload for _, payload in desk.client.take("/config")] == [b"", b""]
    assert desk.known == {TOPICS.state("pump/a"), TOPICS.agent_state}


def test_a_worker_that_stopped_moving_is_told_and_takes_it_back_itself(desk):
    desk.client.take()
    desk.publications.say_stuck()
    desk.publications.publish(1.0, 1.0)
    told = [json.loads(payload) for _, payload in desk.client.take("pi/state")]
    assert [one["stuck"] for one in told] == [True, False]
    assert told[0] == {**told[1], "stuck": True}


def test_a_restart_clears_what_was_retained_under_another_id(tmp_path, make_desk):
    with closing(Store(tmp_path / "state")) as store:
        store.change_retained({"redshank/old/pump/a/state", "redshank/old/state", TOPICS.state("pump/a")}, ())
    desk = make_desk()
    desk.publish()
    assert [topic for topic, payload in desk.client.take() if payload == b""] == [
        "redshank/old/pump/a/state",
        "redshank/old/state",
    ]
