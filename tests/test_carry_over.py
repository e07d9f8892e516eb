"""A live stream while its encoder is replaced: no decision is left out, nothing missed, nothing false."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pytest

from agent.adapters.mqtt.topics import Topics
from agent.adapters.telemetry import SilentObserver
from agent.adapters.tflite import load_encoder
from agent.app import load_encoders, with_defaults
from agent.bundle import load_bundle
from agent.carry_over import SHADOW_DECISIONS
from agent.config import load_configuration
from agent.core.types import StreamPhase
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from tests.encoder_versions import GOOD, make_version

BEGUN = 1_700_000_000.0
LEARNT, WHOLE = 400, 1700


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Return two versions of an encoder, loaded."""
    folder = tmp_path_factory.mktemp("versions")
    return [load_encoder(load_bundle(make_version(folder / str(change), change))) for change in (0, GOOD)]


@pytest.fixture
def make(tmp_path, versions):
    def make(more="", topics="plant/+"):
        path = tmp_path / "redshank.yaml"
        path.write_text(
            f"""
agent: {{id: pi}}
streams:
  - name: pump
    topic: {topics}
    period: 1s
    time: {{path: ts, max_ahead: 10d}}
    reference: {{size: 300, warm_up: 200}}
    alert: {{false_alarms: 1 per 10000 decisions, cooldown: 10s}}
    {more}
"""
        )
        configuration = with_defaults(load_configuration(path))
        return Pipeline(configuration, {"sensor-small": versions[0]}, Topics("redshank", "pi"), SilentObserver())

    return make


DISTURBED = [500, 700, 800, 1000, 1300, 1600]


def disturbed(at):
    """Return what is added to channel a at a second: disturbances of 10 s, each twice as bad as the one before."""
    begin = at - at % 100
    if begin not in DISTURBED or at % 100 >= 10:
        return 0.0
    return 4.0 * (-2.0) ** DISTURBED.index(begin)


def message(i, seed=0, topic="plant/a", odd=disturbed):
    rng = np.random.default_rng([seed, i])
    values = {"a": float(np.sin(i / 9) + rng.normal(0, 0.1)) + odd(i), "b": float(10 + rng.normal())}
    return InboundMessage(topic, json.dumps({"ts": BEGUN + i, **values}).encode(), BEGUN + i, float(i))


class Played:
    """What a pipeline made of streams, with `changes` at some seconds, and all that is to be done beside.

    An operator confirms each alert, but not while an heir is there: that would begin its time in shadow anew.
    """

    def __init__(self, pipeline, span, seed=0, changes=None, topics=("plant/a",)):
        self.alerts, self.decided, self.switched = [], [], {}
        for i in span:
            if changes and i in changes:
                changes[i]()
            outcome = pipeline.process([message(i, seed, topic) for topic in topics])
            self.alerts += [json.loads(row.payload) for row in outcome.outbox]
            for alert in self.raised():
                stream = pipeline.streams[alert["stream"]]
                if stream.heir is None:
                    stream.confirm(alert["id"])
            self.decided += [one.assessment.at - BEGUN for one in outcome.decided]
            busy = True
            while busy:
                switched, busy = pipeline.advance()
                self.switched |= {stream.name: i for stream in switched}

    def raised(self):
        return [alert for alert in self.alerts if alert["event"] == "raised"]


def second(alert):
    return datetime.fromisoformat(alert["started_at"]).timestamp() - BEGUN


@pytest.mark.parametrize(("changed", "seed"), [(600, 0), (695, 1), (703, 0)])
def test_no_disturbance_is_missed_no_alarm_is_false_and_no_second_passes_without_a_decision(
    make, versions, seed, changed
):
    pipeline = make()
    assert Played(pipeline, range(LEARNT), seed).alerts == []
    played = Played(
        pipeline, range(LEARNT, WHOLE), seed, {changed: lambda: pipeline.change_encoder("sensor-small", versions[1])}
    )
    found = [second(alert) - second(alert) % 100 for alert in played.raised()]
    assert found == DISTURBED
    assert all(second(alert) % 100 < 5 for alert in played.raised())
    assert played.decided == list(range(LEARNT, WHOLE))
    switched = played.switched["pump/a"]
    assert changed + SHADOW_DECISIONS <= switched < changed + 400
    for alert in played.alerts:
        version = versions[0] if second(alert) < switched else versions[1]
        assert alert["encoder"]["digest"] == version.digest[:12]
    ids = [alert["id"] for alert in played.alerts]
    assert all(ids.count(one) >= 2 for one in ids)  # each is raised, and cleared under the same id
    stream = pipeline.streams["pump/a"]
    assert (stream.encoder, stream.heir, pipeline.carry_over.left) == (versions[1], None, 0)
    assert len(pipeline._banks) == 1


def test_it_finds_what_it_would_have_found_without_a_change(make, versions):
    changed, control = make(), make()
    for one in (changed, control):
        Played(one, range(LEARNT))
    after = Played(changed, range(LEARNT, WHOLE), 0, {450: lambda: changed.change_encoder("sensor-small", versions[1])})
    without = Played(control, range(LEARNT, WHOLE))
    assert [one["started_at"] for one in after.raised()] == [one["started_at"] for one in without.raised()]
    budgets = [one.streams["pump/a"].budget for one in (changed, control)]
    assert budgets[0].decisions == budgets[1].decisions
    assert budgets[0].events == budgets[1].events == 0  # all were confirmed
    assert budgets[0].threshold == pytest.approx(budgets[1].threshold, abs=0.2)
    fills = [one.streams["pump/a"].reference_fill for one in (changed, control)]
    assert fills[0] == fills[1] == 300


def test_a_stream_is_not_switched_while_its_alert_fires(make, versions):
    pipeline = make()
    Played(pipeline, range(LEARNT))
    pipeline.change_encoder("sensor-small", versions[1])
    Played(pipeline, range(LEARNT, LEARNT + 95))
    raised = pipeline.process([message(i, odd=lambda _: 9.0) for i in range(495, 505)])
    assert json.loads(raised.outbox[0].payload)["event"] == "raised"
    pipeline.streams["pump/a"].heir.calm = 10_000  # whatever the heir thinks
    assert pipeline.advance() == ([], False)
    played = Played(pipeline, range(510, 700))
    assert [one["event"] for one in played.alerts][:1] == ["cleared"]
    assert "pump/a" in played.switched


def test_an_alert_that_was_raised_before_can_be_accepted_and_forgotten_after(make, versions):
    pipeline = make()
    Played(pipeline, range(LEARNT))
    changes = {520: lambda: pipeline.change_encoder("sensor-small", versions[1])}
    alert = Played(pipeline, range(LEARNT, 1000), 0, changes).alerts[0]["id"]
    stream = pipeline.streams["pump/a"]
    assert stream.encoder is versions[1]
    entered = stream.accept(alert)
    assert entered > 0
    assert stream.forget_alert(alert) == entered


def test_what_an_operator_commands_meanwhile_is_not_lost_on_the_heir(make, versions):
    pipeline = make()
    Played(pipeline, range(LEARNT))
    pipeline.change_encoder("sensor-small", versions[1])
    Played(pipeline, range(LEARNT, LEARNT + 50))
    stream = pipeline.streams["pump/a"]
    assert stream.heir is not None
    assert stream.forget_span(BEGUN + 300, BEGUN + 350) > 0
    assert stream.heir is None
    left = stream.reference_fill
    pipeline.advance()
    while pipeline.advance()[1]:
        pass
    assert stream.heir.bank.reference_size(stream.heir.detector) == left
    times = stream.heir.bank.learnt(stream.heir.detector)["references"][1]["times"]
    assert not ((times >= BEGUN + 300) & (times <= BEGUN + 350)).any()


def test_a_stream_that_learns_is_switched_at_once_and_goes_on_learning(make, versions):
    pipeline = make()
    Played(pipeline, range(150))
    left = pipeline.streams["pump/a"].detector.learning_left
    played = Played(pipeline, range(150, 400), 0, {150: lambda: pipeline.change_encoder("sensor-small", versions[1])})
    assert played.switched == {"pump/a": 150}
    assert played.decided[0] == 150 + left
    assert pipeline.streams["pump/a"].phase is StreamPhase.ACTIVE


def test_back_to_the_version_before_in_the_middle_lets_the_heirs_go(make, versions):
    pipeline = make()
    Played(pipeline, range(LEARNT))
    played = Played(
        pipeline,
        range(LEARNT, 900),
        0,
        {
            410: lambda: pipeline.change_encoder("sensor-small", versions[1]),
            450: lambda: pipeline.change_encoder("sensor-small", versions[0]),
        },
    )
    assert played.switched == {}
    assert pipeline.streams["pump/a"].heir is None
    assert len(played.raised()) == 3
    assert pipeline.room.twice == 0


def test_a_frozen_stream_whose_readings_are_gone_keeps_its_version(make, versions, caplog):
    pipeline = make("mode: frozen")
    Played(pipeline, range(500))
    stream = pipeline.streams["pump/a"]
    pipeline.process([message(i, odd=lambda _: 0.0) for i in range(500, 4700)])
    assert pipeline.change_encoder("sensor-small", versions[1]) == 1
    Played(pipeline, range(4700, 4710))
    assert (stream.encoder, stream.heir, pipeline.carry_over.left) == (versions[0], None, 0)
    assert "stream pump/a keeps the version" in caplog.text


class Broken:
    """An encoder that passed its check and fails at work."""

    def __init__(self, encoder):
        self._encoder, self.digest = encoder, "broken"

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, windows):
        raise RuntimeError(f"no such operator for {len(windows)} windows")


def test_an_encoder_that_fails_at_work_leaves_the_stream_as_it_is(make, versions, caplog):
    pipeline = make()
    Played(pipeline, range(LEARNT))
    pipeline.change_encoder("sensor-small", Broken(versions[1]))
    played = Played(pipeline, range(LEARNT, 550))
    assert played.decided == list(range(LEARNT, 550))
    assert len(played.raised()) == 1
    stream = pipeline.streams["pump/a"]
    assert (stream.encoder, stream.heir, pipeline.carry_over.left) == (versions[0], None, 0)
    assert "no such operator" in caplog.text


def test_of_many_streams_only_as_many_as_there_is_memory_for_take_it_twice(make, versions, monkeypatch):
    topics = tuple(f"plant/{name}" for name in "abcdef")
    pipeline = make()
    Played(pipeline, range(LEARNT), topics=topics)
    room = pipeline.room
    one = pipeline.streams["pump/a"].bytes
    monkeypatch.setattr("agent.room.BASE_BYTES", 256_000_000 - room.used - 8_000_000 - int(2.5 * one))
    pipeline.change_encoder("sensor-small", versions[1])
    most = 0
    for i in range(LEARNT, 1100):
        pipeline.process([message(i, topic=topic, odd=lambda _: 0.0) for topic in topics])
        while pipeline.advance()[1]:
            pass
        most = max(most, sum(stream.heir is not None for stream in pipeline.streams.values()))
    assert most == 2
    assert {stream.encoder for stream in pipeline.streams.values()} == {versions[1]}
    assert room.twice == 0
    assert pipeline.make_room(BEGUN).removed == []


def test_a_reload_in_the_middle_keeps_what_was_learnt_and_begins_the_change_anew(make, versions, tmp_path):
    pipeline = make()
    Played(pipeline, range(LEARNT))
    pipeline.change_encoder("sensor-small", versions[1])
    Played(pipeline, range(LEARNT, 450))
    text = (tmp_path / "redshank.yaml").read_text().replace("cooldown: 10s", "cooldown: 11s")
    (tmp_path / "redshank.yaml").write_text(text)
    after = with_defaults(load_configuration(tmp_path / "redshank.yaml"))
    done = pipeline.reconfigure(after, pipeline.encoders, BEGUN + 450)
    assert list(done.fates.values()) == ["changed"]
    stream = pipeline.streams["pump/a"]
    assert (stream.encoder, stream.heir, stream.phase) == (versions[0], None, StreamPhase.ACTIVE)
    played = Played(pipeline, range(450, 690))
    assert played.decided == list(range(450, 690))
    assert stream.encoder is versions[1]
    assert len(played.raised()) == 1


def test_the_shipped_encoder_is_its_own_version(make):
    pipeline = make()
    shipped = load_encoders(pipeline._configuration)["sensor-small"]
    Played(pipeline, range(LEARNT))
    assert pipeline.change_encoder("sensor-small", shipped) == 0  # the same model: nothing is to be done
    assert pipeline.advance() == ([], False)
