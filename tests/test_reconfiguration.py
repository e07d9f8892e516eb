"""A pipeline under a changed configuration: what is kept, what ends, what begins anew."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from agent.adapters.mqtt.topics import Topics
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders
from agent.core.alerting import AlertKind, AlertState
from agent.core.types import StreamPhase
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.reconfiguration import EntryChange, Fate, entry_changes
from tests.scenes import encoded, scene
from tests.test_pipeline import BEGUN, quiet

PUMP = """
  - name: pump
    topic: plant/+
    encoder: none
    period: 1s
    time: {path: ts, max_ahead: 10d}
    reference: {size: 300, warm_up: 150}
    alert: {false_alarms: 1 per 20000 decisions, cooldown: 1s}
    silence: {after: 60s}
"""
TANK = PUMP.replace("pump", "tank").replace("plant", "tanks")
NOW = BEGUN + 1000.0


@pytest.fixture
def make(read):
    def make(streams, agent=""):
        configuration = read(streams, agent)
        return Pipeline(configuration, load_encoders(configuration), Topics("redshank", "pi"), SilentObserver())

    return make


@pytest.fixture
def reconfigure(read):
    """Return a function that gives a pipeline other streams; it returns what became of the entries, and all else."""

    def reconfigure(pipeline, streams, agent=""):
        before, after = pipeline._configuration, read(streams, agent)
        done = pipeline.reconfigure(after, load_encoders(after), NOW)
        return entry_changes(before, after, pipeline.streams.values(), done), done

    return reconfigure


def feed(pipeline, span, change=None, topic="plant/a"):
    """Return the outcome of these seconds."""
    messages = []
    for i in span:
        values = {"ts": BEGUN + i, **quiet(i), **(change or {})}
        messages.append(InboundMessage(topic, json.dumps(values).encode(), BEGUN + i, float(i)))
    return pipeline.process(messages)


def scores(outcome):
    return [one.assessment.score for one in outcome.decided]


def messages(outcome):
    return [json.loads(row.payload) for row in outcome.outbox]


def test_a_stream_whose_settings_are_the_same_is_not_touched(make, reconfigure):
    pipeline = make(PUMP)
    feed(pipeline, range(300))
    stream, bank = pipeline.streams["pump/a"], pipeline.streams["pump/a"].bank
    changes, done = reconfigure(pipeline, TANK + PUMP)
    assert changes == [EntryChange("tank", Fate.ADDED), EntryChange("pump", Fate.UNCHANGED, 1)]
    assert (pipeline.streams["pump/a"], stream.bank) == (stream, bank)
    assert done.outcome.alerts == []
    feed(pipeline, range(10), topic="tanks/a")
    assert pipeline.streams["tank/a"].bank is bank  # equal settings share one


@pytest.mark.parametrize(
    "new", [("cooldown: 1s", "cooldown: 2s"), ("after: 60s", "after: 90s"), ("  time", "  qos: 0\n    time")]
)
def test_a_stream_whose_reference_is_not_concerned_goes_on_as_if_nothing_had_been(make, reconfigure, new):
    pipeline, control = make(PUMP), make(PUMP)
    for one in (pipeline, control):
        feed(one, range(300))
        feed(one, range(300), topic="plant/b")
    changes, done = reconfigure(pipeline, PUMP.replace(*new))
    assert changes == [EntryChange("pump", Fate.CHANGED, 2)]
    assert done.fates == {"pump/a": Fate.CHANGED, "pump/b": Fate.CHANGED}
    stream = pipeline.streams["pump/a"]
    assert stream.assessment is control.streams["pump/a"].assessment or stream.assessment.score > 0
    assert stream.rate(299.0) == control.streams["pump/a"].rate(299.0)
    for topic in ("plant/a", "plant/b"):
        assert scores(feed(pipeline, range(300, 400), topic=topic)) == scores(
            feed(control, range(300, 400), topic=topic)
        )
    assert pipeline.streams["pump/a"].settings.alert == pipeline._configuration.streams[0].alert
    assert len(pipeline._banks) == 1


def test_an_alert_that_fires_goes_on_under_its_id(make, reconfigure):
    pipeline = make(PUMP)
    feed(pipeline, range(300))
    (raised,) = messages(feed(pipeline, range(300, 310), {"a": 50.0}))
    reconfigure(pipeline, PUMP.replace("cooldown: 1s", "cooldown: 1s, severity: critical"))
    assert pipeline.streams["pump/a"].alerts[AlertKind.ANOMALY].state is AlertState.FIRING
    told = messages(feed(pipeline, range(310, 400)))
    assert [(one["event"], one["id"], one["severity"]) for one in told] == [("cleared", raised["id"], "critical")]


@pytest.mark.parametrize(
    "new",
    [
        ("period: 1s", "period: 2s"),
        ("size: 300", "size: 400"),
        ("encoder: none", "encoder: sensor-small"),
        ("period: 1s", "period: 1s\n    ignore_channels: [b]"),
    ],
)
def test_a_stream_whose_reference_is_of_no_use_begins_anew_and_its_alert_ends(make, reconfigure, new):
    pipeline = make(PUMP)
    feed(pipeline, range(300))
    (raised,) = messages(feed(pipeline, range(300, 310), {"a": 50.0}))
    changes, done = reconfigure(pipeline, PUMP.replace(*new))
    assert changes == [EntryChange("pump", Fate.ANEW, 1)]
    (ended,) = messages(done.outcome)
    assert (ended["event"], ended["id"]) == ("cleared", raised["id"])
    assert "is learnt anew" in ended["message"]
    assert pipeline.streams["pump/a"].phase is StreamPhase.LEARNING
    assert pipeline.streams["pump/a"].alerts[AlertKind.ANOMALY].state is AlertState.INACTIVE
    assert messages(feed(pipeline, range(310, 500))) == []


def test_a_stream_that_begins_anew_stays_silent_until_it_is_heard(make, reconfigure):
    pipeline = make(PUMP)
    feed(pipeline, range(300))
    assert messages(pipeline.tick(BEGUN + 400.0, 400.0, 0.0))[0]["kind"] == "silent"
    _, done = reconfigure(pipeline, PUMP.replace("period: 1s", "period: 2s"))
    assert messages(done.outcome) == []
    assert pipeline.streams["pump/a"].phase is StreamPhase.SILENT
    assert [one["event"] for one in messages(feed(pipeline, range(400, 402)))] == ["cleared"]


def test_what_is_no_longer_configured_ends_with_its_alerts(make, reconfigure):
    pipeline = make(PUMP + TANK)
    feed(pipeline, range(300))
    feed(pipeline, range(300, 310), {"a": 50.0})
    pipeline.tick(BEGUN + 400.0, 400.0, 0.0)
    feed(pipeline, range(3), topic="tanks/a")
    changes, done = reconfigure(pipeline, TANK)
    assert changes == [EntryChange("tank", Fate.UNCHANGED, 1), EntryChange("pump", Fate.REMOVED, 1)]
    told = messages(done.outcome)
    assert {(one["kind"], one["event"]) for one in told} == {("anomaly", "cleared"), ("silent", "cleared")}
    assert all("is no longer watched" in one["message"] for one in told)
    assert [one.name for one in done.removed] == ["pump/a"]
    assert list(pipeline.streams) == ["tank/a"]
    assert pipeline.stream_of("plant/a") is None


def test_a_topic_that_another_entry_takes_is_another_stream(make, reconfigure):
    pipeline = make(PUMP)
    feed(pipeline, range(3))
    feed(pipeline, range(3), topic="plant/b")
    special = PUMP.replace("pump", "special").replace("plant/+", "plant/a")
    changes, done = reconfigure(pipeline, special + PUMP)
    assert list(map(str, changes)) == ["special: added", "pump: unchanged (1 stream), 1 no longer matched"]
    assert [one.name for one in done.removed] == ["pump/a"]
    assert pipeline.stream_of("plant/a").name == "special"


def test_topics_that_were_refused_or_ignored_are_looked_at_again(make, reconfigure):
    pipeline = make(PUMP, ", max_streams: 1")
    feed(pipeline, range(3))
    feed(pipeline, range(3), topic="plant/b")
    feed(pipeline, range(3), topic="tanks/a")
    assert list(pipeline.streams) == ["pump/a"]
    reconfigure(pipeline, PUMP + TANK, ", max_streams: 3")
    feed(pipeline, range(3), topic="plant/b")
    feed(pipeline, range(3), topic="tanks/a")
    assert list(pipeline.streams) == ["pump/a", "pump/b", "tank/a"]


def test_payloads_may_be_larger_from_now_on(make, reconfigure):
    pipeline = make(PUMP, ", max_payload: 10B")
    assert pipeline.stream_of("plant/a") is not None
    feed(pipeline, range(200))
    changes, _ = reconfigure(pipeline, PUMP)
    assert changes == [EntryChange("pump", Fate.UNCHANGED, 1)]
    feed(pipeline, range(200))
    assert pipeline.streams["pump/a"].learnt


def test_a_shared_budget_comes_and_goes(make, reconfigure):
    own = PUMP.replace("false_alarms: 1 per 20000 decisions, ", "")
    pipeline = make(own)
    feed(pipeline, range(200))
    feed(pipeline, range(200), topic="plant/b")
    texts = []
    for agent in (", false_alarms: 1 per day", ", false_alarms: 2 per day", ""):
        reconfigure(pipeline, own, agent)
        texts.append({(one.budget.budget.text, one.budget.budget.count) for one in pipeline.streams.values()})
    assert texts == [{("1 per day for all streams", 0.5)}, {("2 per day for all streams", 1.0)}, {("1 per week", 1.0)}]


def test_what_is_given_back_is_used_again(make, reconfigure):
    pipeline = make(PUMP + TANK.replace("false_alarms: 1 per 20000", "false_alarms: 1 per 10000"))
    feed(pipeline, range(200))
    feed(pipeline, range(200), topic="tanks/a")
    bank = pipeline.streams["pump/a"].bank
    reconfigure(pipeline, PUMP + TANK)  # joins the pump's bank
    lanes = bank._lanes
    for _ in range(3):
        reconfigure(pipeline, PUMP + TANK.replace("false_alarms: 1 per 20000", "false_alarms: 1 per 10000"))
        reconfigure(pipeline, PUMP + TANK)
    assert bank._lanes == lanes
    assert len(pipeline._banks) == 1


GATE = """
  - name: gate
    topic: cameras/+
    kind: image
    reference: {size: 100, warm_up: 40}
    alert: {false_alarms: 1 per 1000 decisions, cooldown: 0s}
"""


def test_pictures_are_not_learnt_anew_either(make, reconfigure):
    pipeline = make(GATE)
    payloads = [encoded(scene(i)) for i in range(46)]
    pipeline.process([InboundMessage("cameras/yard", one, BEGUN + i, float(i)) for i, one in enumerate(payloads)])
    fill = pipeline.streams["gate/yard"].reference_fill
    assert pipeline.streams["gate/yard"].learnt
    changes, _ = reconfigure(pipeline, GATE.replace("cooldown: 0s", "cooldown: 5m, after: 3"))
    assert changes == [EntryChange("gate", Fate.CHANGED, 1)]
    assert (pipeline.streams["gate/yard"].learnt, pipeline.streams["gate/yard"].reference_fill) == (True, fill)
    changes, _ = reconfigure(pipeline, GATE.replace("kind: image", "kind: image\n    tiles: [2, 1]"))
    assert changes == [EntryChange("gate", Fate.ANEW, 1)]
    assert not pipeline.streams["gate/yard"].learnt


def test_a_removed_alert_says_when_it_ended(make, reconfigure):
    pipeline = make(PUMP)
    feed(pipeline, range(300))
    feed(pipeline, range(300, 310), {"a": 50.0})
    _, done = reconfigure(pipeline, TANK)
    (ended,) = messages(done.outcome)
    assert datetime.fromisoformat(ended["ended_at"]) == datetime.fromtimestamp(BEGUN + 309, UTC)
