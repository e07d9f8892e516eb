from __future__ import annotations

import copy
import json
from contextlib import closing

import numpy as np
import pytest

from agent import room
from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import AlertRow, Store
from agent.adapters.telemetry import SilentObserver
from agent.alert_message import timestamp
from agent.app import load_encoders, make_restore, with_defaults
from agent.config import load_configuration
from agent.core.alerting import AlertKind
from agent.core.types import StreamPhase
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import save_all

BEGUN = 1_700_000_000.0


class Counted(SilentObserver):
    def __init__(self):
        self.reasons = []

    def rejected(self, topic, reason):
        del topic
        self.reasons.append(reason)


@pytest.fixture
def make(tmp_path):
    def make(
        stream="", agent="", store=None, after=2, alert="", own="false_alarms: 1 per 20000 decisions, ", by="none"
    ):
        path = tmp_path / "redshank.yaml"
        path.write_text(
            f"""
agent: {{id: pi{agent}}}
streams:
  - name: pump
    topic: plant/+
    encoder: {by}
    period: 1s
    reference: {{size: 300, warm_up: 150}}
    alert: {{{own}cooldown: 1s, after: {after}{alert}}}
    {stream}
"""
        )
        settings = with_defaults(load_configuration(path))
        restore = make_restore(store) if store is not None else None
        made = Pipeline(
            settings, load_encoders(settings), Topics("redshank", "pi"), observer := Counted(), restore=restore
        )
        made.observer = observer
        return made

    return make


def message(i, values, *, topic="plant/a", received=None, **more):
    at = BEGUN + i
    return InboundMessage(topic, json.dumps({"ts": at, **values}).encode(), received or at, float(i), **more)


def quiet(i, channels=("a", "b")):
    rng = np.random.default_rng(i)
    return {name: round(float(np.sin(i / 9) + rng.normal(0, 0.1)), 4) for name in channels}


def feed(pipeline, span, change=None, **more):
    """Return the alerts that these seconds led to."""
    messages = [message(i, quiet(i) | (change(i) if change else {}), **more) for i in span]
    return [json.loads(row.payload) for row in pipeline.process(messages).outbox]


TIMED = "time: {path: ts, max_ahead: 10d}"


def test_an_alert_is_updated_when_another_channel_leads(make):
    pipeline = make(TIMED)
    assert feed(pipeline, range(400)) == []
    rng = np.random.default_rng(0)
    told = feed(pipeline, range(400, 420), lambda _: {"a": 30 + rng.normal(0, 9)})
    told += feed(pipeline, range(420, 500), lambda _: {"b": 3000 + rng.normal(0, 900)})
    assert [one["event"] for one in told][:2] == ["raised", "updated"]
    raised, updated = told[:2]
    assert raised["id"] == updated["id"]
    assert (raised["evidence"]["parts"][0]["name"], updated["evidence"]["parts"][0]["name"]) == ("a", "b")
    assert ": now b rose to " in updated["message"]
    assert updated["ended_at"] is None


@pytest.mark.parametrize(("delay", "late"), [(0.0, False), (3600.0, True)])
def test_an_alert_about_data_that_arrived_long_after_its_time_is_late(make, delay, late):
    pipeline = make(TIMED)
    feed(pipeline, range(400))
    messages = [message(i, {"a": 50.0, "b": 50.0}, received=BEGUN + i + delay) for i in range(400, 410)]
    told = [json.loads(row.payload) for row in pipeline.process(messages).outbox]
    assert told[0]["late"] is late


def test_an_alert_told_since_when_nothing_was_like_it(make):
    pipeline = make(TIMED)
    feed(pipeline, range(400))
    told = feed(pipeline, range(400, 410), lambda _: {"a": 50.0})
    since = told[0]["evidence"]["unlike_since"]
    assert since < told[0]["started_at"]


QUIET = ", quiet_hours: [23:00-23:22], zone: Europe/Berlin"  # until BEGUN + 520 s


def test_in_quiet_hours_no_anomaly_begins_and_what_lasts_is_told_at_their_end(make):
    for alert, started in (("", 500), (QUIET, 520)):
        pipeline = make(TIMED, alert=alert)
        feed(pipeline, range(500))
        (raised,) = feed(pipeline, range(500, 540), lambda i: {"a": 30.0 + i % 7})
        assert (raised["event"], raised["started_at"]) == ("raised", timestamp(BEGUN + started))


def test_in_quiet_hours_no_value_is_frozen(make):
    pipeline = make(TIMED, alert=QUIET)
    feed(pipeline, range(440))
    told = feed(pipeline, range(440, 560), lambda _: {"a": 0.5})
    assert [(one["kind"], one["started_at"]) for one in told if one["kind"] == "frozen"] == [
        ("frozen", timestamp(BEGUN + 520))
    ]


@pytest.mark.parametrize(("alert", "ticks"), [("", {430: 430, 600: 430}), (QUIET, {430: None, 519: None, 522: 522})])
def test_in_quiet_hours_no_stream_falls_silent(make, alert, ticks):
    for at, started in ticks.items():
        pipeline = make("silence: {after: 30s}", alert=alert)
        feed(pipeline, range(401))
        found = [json.loads(row.payload) for row in pipeline.tick(BEGUN + at, float(at), 0.0).outbox]
        assert [one["started_at"] for one in found] == ([] if started is None else [timestamp(BEGUN + started)])


def test_a_retained_message_counts_only_with_its_own_time(make):
    pipeline = make()
    pipeline.process([message(0, quiet(0), retained=True)])
    assert pipeline.observer.reasons == ["retained"]
    pipeline = make(TIMED)
    pipeline.process([message(0, quiet(0), retained=True)])
    assert pipeline.observer.reasons == []


def test_a_budget_for_all_streams_waits_for_the_first_of_them(make):
    pipeline = make(TIMED, agent=", false_alarms: 864 per day", own="")
    pipeline.resume([], BEGUN, 0.0)
    feed(pipeline, range(300))
    assert pipeline.streams["pump/a"].detector.budget.rate == pytest.approx(0.01)


def test_a_budget_for_all_streams_is_spread_over_those_without_their_own(make, tmp_path):
    store = Store(tmp_path / "state")
    pipeline = make(TIMED, agent=", false_alarms: 864 per day", own="", store=store)
    feed(pipeline, range(300))
    budget = pipeline.streams["pump/a"].detector.budget
    budget.offset = 0.75
    assert budget.rate == pytest.approx(0.01)
    before = budget.threshold
    feed(pipeline, range(300, 302), topic="plant/b")
    assert (budget.rate, budget.threshold) == (pytest.approx(0.005), pytest.approx(before + np.log10(2)))
    promised = budget.promised
    told = feed(pipeline, range(302, 312), lambda _: {"a": 50.0})
    assert told[0]["budget"] == "864 per day for all streams"
    assert budget.promised - promised == pytest.approx(0.05)
    save_all(store, pipeline)
    again = make(TIMED, agent=", false_alarms: 864 per day", own="", store=store)
    again.resume(["plant/a", "plant/b"], BEGUN + 400, 400.0)
    kept = again.streams["pump/a"].detector.budget
    assert (kept.rate, kept.offset, kept.ratio) == (budget.rate, budget.offset, budget.ratio)
    again.streams["pump/a"].relearn()
    assert again.streams["pump/a"].detector.budget.budget.count == 432
    store.close()


def test_a_stream_with_its_own_budget_keeps_it_and_counts_as_one(make):
    pipeline = make(TIMED, agent=", false_alarms: 864 per day")
    feed(pipeline, range(300))
    feed(pipeline, range(2), topic="plant/b")
    assert pipeline.streams["pump/a"].detector.budget.rate == 5e-5


def test_a_backlog_that_a_broker_sends_again_leaves_no_gap(make):
    """As after a suspension: it was processed, but the acknowledgements went down with the connection."""
    pipeline = make(TIMED)
    feed(pipeline, range(300))
    total = pipeline.streams["pump/a"].detector.grid.total_rows
    pipeline.process([message(i, quiet(i), again=True) for i in range(270, 300)])
    assert pipeline.streams["pump/a"].detector.grid.turns == 0
    pipeline.process([message(300, quiet(300))])
    assert pipeline.streams["pump/a"].detector.grid.run[0] == total + 1


def test_streams_beyond_the_cap_are_rejected_and_counted(make):
    pipeline = make(agent=", max_streams: 2")
    pipeline.process([message(0, quiet(0), topic=f"plant/{name}") for name in "abcc"])
    assert list(pipeline.streams) == ["pump/a", "pump/b"]
    assert pipeline.observer.reasons == ["too_many_streams"] * 2


def test_memory_bounds_the_number_of_streams(make):
    pipeline = make("channels: [a, b]", agent=", memory_limit: 88MB")
    pipeline.process([message(0, quiet(0), topic=f"plant/{i}") for i in range(400)])
    limit = pipeline.streams_max
    assert 1 < limit < 200
    assert len(pipeline.streams) == limit
    assert pipeline.observer.reasons.count("too_many_streams") == 400 - limit
    assert sum(stream.bytes for stream in pipeline.streams.values()) < 10_000_000
    assert make("channels: [a, b]", agent=", memory_limit: 160MB").streams_max > limit


def test_streams_that_turn_out_too_large_while_they_learn_are_let_go_the_last_first(make):
    pipeline = make(TIMED, agent=", memory_limit: 93MB")
    feed(pipeline, range(300))  # has learnt, with two channels
    wide = {f"c{number}": 1.0 for number in range(100)}
    pipeline.process([message(0, {"c": 1.0}, topic=f"plant/{name}") for name in "bcd"])
    pipeline.tick(BEGUN, 0.0, None)
    assert pipeline.make_room(BEGUN).removed == []
    pipeline.process([message(1, wide, topic=f"plant/{name}") for name in "bcd"])
    pipeline.tick(BEGUN, 0.0, None)
    assert [stream.name for stream in pipeline.make_room(BEGUN).removed] == ["pump/d", "pump/c"]
    assert list(pipeline.streams) == ["pump/a", "pump/b"]
    assert pipeline.room.used == sum(stream.bytes for stream in pipeline.streams.values()) < 10_000_000
    pipeline.process([message(2, wide, topic="plant/d")])
    assert pipeline.observer.reasons == ["too_many_streams"] * 3
    alone = make(TIMED, agent=", memory_limit: 93MB")
    for i in range(2):
        alone.process([message(i, {f"c{number}": 1.0 for number in range(250)})])
    alone.tick(BEGUN, 0.0, None)
    assert alone.make_room(BEGUN).removed == []


def test_many_streams_are_weighed_in_turns(make, monkeypatch):
    monkeypatch.setattr(room, "WEIGHED_AT_ONCE", 2)
    pipeline = make("channels: [a]")
    pipeline.process([message(0, {"a": 1.0}, topic=f"plant/{name}") for name in "abcde"])
    before = pipeline.room.used
    for stream in pipeline.streams.values():
        stream.detector.grid.channels.append("b")
    used = []
    for _ in range(4):
        pipeline.tick(BEGUN, 0.0, None)
        used.append((pipeline.room.used - before) / pipeline.streams["pump/a"].bank.lane_bytes)
    assert used == [2, 4, 5, 5]


def test_rubbish_is_counted_and_stops_nothing(make):
    pipeline = make(TIMED)
    rubbish = [
        InboundMessage("plant/a", payload, BEGUN, 0.0)
        for payload in (b"", b"\xff", b"{", b"[]", b'{"ts": "x", "a": 1}', b'{"ts": 1e300, "a": 1}', b"[" * 100_000)
    ]
    pipeline.process([*rubbish, message(1, quiet(1)), InboundMessage("elsewhere", b"1", BEGUN, 0.0)])
    assert len(pipeline.observer.reasons) == len(rubbish)
    assert pipeline.streams["pump/a"].detector.grid.total_rows == 1


def test_silence_is_raised_once_while_connected_and_cleared_by_the_next_message(make):
    pipeline = make("silence: {after: 60s}")
    pipeline.process([message(0, quiet(0))])
    assert pipeline.tick(BEGUN + 59, 59.0, 0.0).outbox == []
    assert pipeline.tick(BEGUN + 90, 90.0, None).outbox == []  # the broker is away
    assert pipeline.tick(BEGUN + 90, 90.0, 80.0).outbox == []  # it has not been back for long enough
    (row,) = pipeline.tick(BEGUN + 150, 150.0, 80.0).outbox
    raised = json.loads(row.payload)
    assert (raised["kind"], raised["event"], raised["message"]) == ("silent", "raised", "pump/a has fallen silent")
    assert pipeline.streams["pump/a"].phase is StreamPhase.SILENT
    assert pipeline.tick(BEGUN + 200, 200.0, 80.0).outbox == []
    (row,) = pipeline.process([message(210, quiet(210))]).outbox
    cleared = json.loads(row.payload)
    assert (cleared["event"], cleared["id"]) == ("cleared", raised["id"])


def test_a_stream_of_an_earlier_run_that_never_speaks_again_has_fallen_silent(make, tmp_path):
    store = Store(tmp_path / "state")
    pipeline = make("silence: {after: 60s}", store=store)
    feed(pipeline, range(10))
    save_all(store, pipeline)
    again = make("silence: {after: 60s}", store=store)
    again.resume([*store.topics(), "no/longer/configured"], BEGUN + 20, 1000.0)
    assert list(again.streams) == ["pump/a"]
    assert again.streams["pump/a"].detector.grid.total_rows == 10
    assert len(again.tick(BEGUN + 90, 1061.0, 0.0).outbox) == 1
    full = make(agent=", max_streams: 1", store=store)
    full.resume(["plant/a", "plant/b"], BEGUN, 0.0)
    assert full.observer.reasons == ["too_many_streams"]
    store.close()


def fault(i):
    return {"a": 50.0 + i}


def uninterrupted(make):
    """Return the alerts of a fault from second 400 on, to an agent that runs all the time."""
    pipeline = make(TIMED, after=5)
    return feed(pipeline, range(400)) + feed(pipeline, range(400, 410), fault)


def test_what_a_clean_stop_interrupts_goes_on_under_the_same_id(make, tmp_path):
    store = Store(tmp_path / "state")
    expected = uninterrupted(make)
    first = make(TIMED, after=5, store=store)
    feed(first, range(400))
    assert feed(first, range(400, 402), fault) == []
    save_all(store, first)
    told = feed(make(TIMED, after=5, store=store), range(402, 410), fault)
    assert [(one["id"], one["at"]) for one in told] == [(one["id"], one["at"]) for one in expected]
    assert len(told) == 1
    store.close()


def test_what_a_kill_interrupts_goes_on_under_the_same_id(make, tmp_path):
    store = Store(tmp_path / "state")
    expected = uninterrupted(make)
    first = make(TIMED, after=5, store=store)
    feed(first, range(400))
    save_all(store, first)  # the last snapshot before the kill
    outcome = first.process([message(i, quiet(i) | fault(i)) for i in range(400, 402)])
    assert outcome.outbox == []
    store.commit(outcome.alerts, outcome.outbox)
    second = make(TIMED, after=5, store=store)
    told = feed(second, range(400, 410), fault)  # the two that were not acknowledged come again
    assert [one["id"] for one in told] == [one["id"] for one in expected]
    assert [one["started_at"] for one in told] == [one["started_at"] for one in expected]
    store.close()


@pytest.mark.parametrize("encoder", ["none", "sensor-small"])
def test_after_a_kill_a_stream_goes_on_from_what_was_last_added_to_its_snapshot(make, tmp_path, encoder):
    with closing(Store(tmp_path / "state")) as store:
        first = make(TIMED, store=store, by=encoder)
        save_all(store, first)
        feed(first, range(450))
        save_all(store, first, whole=False)  # active by now: a whole one
        for begin in (450, 700, 900):
            feed(first, range(begin, begin + 200), lambda i: {"a": 4.0} if i > 1000 else {})
            save_all(store, first, whole=False)
        (name,) = first.streams
        assert len(list(store.additions(name))) == 3
        second = make(TIMED, store=store, by=encoder)
        second.resume(store.topics(), BEGUN, 0.0)
        one, other = (each.process([message(i, quiet(i)) for i in range(1100, 1300)]) for each in (first, second))
        assert [found.assessment.score for found in other.decided] == [found.assessment.score for found in one.decided]
        assert len(other.decided) == 200


def test_alerts_go_on_when_the_clock_of_the_data_was_set_back(make):
    pipeline = make(TIMED)
    feed(pipeline, range(3000, 3400))
    told = feed(pipeline, range(3400, 3410), lambda _: {"a": 50.0})
    told += feed(pipeline, range(3410, 3500))
    assert [one["event"] for one in told if one["kind"] == "anomaly"] == ["raised", "cleared"]
    assert feed(pipeline, range(200)) == []
    told = feed(pipeline, range(200, 210), lambda _: {"a": 90.0})
    assert [one["event"] for one in told if one["kind"] == "anomaly"] == ["raised"]


def test_messages_in_one_batch_are_told_of_in_their_order(make):
    def run(size):
        pipeline = make("silence: {after: 60s}")
        told = []
        for name in "ab":
            feed(pipeline, range(400), topic=f"plant/{name}")
        pipeline.streams["pump/b"].heard_elapsed_s = 0.0
        told += [json.loads(row.payload) for row in pipeline.tick(BEGUN + 399, 399.0, 0.0).outbox]
        messages = [message(i, {"a": 60.0, "b": 60.0}) for i in range(400, 403)]
        messages.append(message(403, quiet(403), topic="plant/b"))
        for start in range(0, len(messages), size):
            outbox = pipeline.process(messages[start : start + size]).outbox
            told += [json.loads(row.payload) for row in outbox]
        return [(one["stream"], one["kind"], one["event"]) for one in told]

    assert run(1) == run(100)
    assert run(1)[1:] == [("pump/a", "anomaly", "raised"), ("pump/b", "silent", "cleared")]


def test_a_long_topic_is_rejected_and_not_remembered(make):
    pipeline = make()
    pipeline.process([message(0, quiet(0), topic="plant/" + "x" * 995)])
    pipeline.process([message(0, quiet(0), topic="other/" + "x" * 65_529)])
    assert pipeline.observer.reasons == ["too_large"]
    assert not pipeline._router._routes
    assert not pipeline._router._elsewhere


def damaged(content, damage):
    """Return a copy with something else at a place: a path of keys."""
    *path, last = damage[0]
    content = copy.deepcopy(content)
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = damage[1]
    return content


@pytest.mark.parametrize(
    "damage",
    [
        (["grid"], {}),
        (["learnt", "references"], []),
        (["learnt", "low"], np.zeros(1000)),
        (["grid", "rows"], np.zeros((3, 3, 3))),
        (["grid", "channels"], None),
        (["learnt"], [1]),
    ],
)
def test_a_snapshot_that_says_what_none_says_is_set_aside_and_the_stream_learns_anew(make, tmp_path, caplog, damage):
    with closing(Store(tmp_path / "state")) as store:
        pipeline = make(TIMED, store=store)
        feed(pipeline, range(400))
        stream = pipeline.streams["pump/a"]
        detector = damaged(stream.snapshot(), damage)
        store.save(stream.name, {"signature": stream.signature, "detector": detector})
        again = make(TIMED, store=store)
        feed(again, range(400, 410))
        assert again.streams["pump/a"].phase is StreamPhase.LEARNING
        assert "cannot go on from its snapshot" in caplog.text
        assert len(list((tmp_path / "state" / "streams").glob("*.unusable"))) == 1
        feed(again, range(410, 800))
        assert again.streams["pump/a"].phase is StreamPhase.ACTIVE


@pytest.mark.parametrize(
    "damage",
    [
        (["state"], {}),
        (["decisions", "row_steps"], None),
        (["grid_rows"], np.zeros((1, 7))),
        (["grid_rows", "rest"], np.zeros((1, 7))),
        (["grid_rows", "steps"], np.zeros((9, 0))),
        (["grid_rows", "places"], np.zeros(5, np.int8)),
    ],
)
def test_a_journal_that_says_what_none_says_leaves_the_snapshot(make, tmp_path, caplog, damage):
    with closing(Store(tmp_path / "state")) as store:
        pipeline = make(TIMED, store=store)
        feed(pipeline, range(400))
        save_all(store, pipeline)
        feed(pipeline, range(400, 420))
        stream = pipeline.streams["pump/a"]
        assert store.append(stream.name, damaged(stream.addition(), damage))
        again = make(TIMED, store=store)
        feed(again, range(420, 421))
        assert again.streams["pump/a"].phase is StreamPhase.ACTIVE
        assert "cannot go on from its journal" in caplog.text


def test_a_damaged_alert_state_is_no_alert(make, tmp_path, caplog):
    with closing(Store(tmp_path / "state")) as store:
        pipeline = make(TIMED, store=store)
        feed(pipeline, range(400))
        (raised,) = feed(pipeline, range(400, 410), lambda i: {"a": 30.0 + i % 7})
        assert raised["event"] == "raised"
        save_all(store, pipeline)
        store.commit([AlertRow("pump/a", "anomaly", {"state": "roaring"})], [])
        again = make(TIMED, store=store)
        feed(again, range(410, 411))
        assert "cannot go on from the state of its alert anomaly" in caplog.text
        assert again.streams["pump/a"].phase is StreamPhase.ACTIVE


def test_a_snapshot_made_with_other_settings_is_set_aside(make, tmp_path):
    store = Store(tmp_path / "state")
    pipeline = make(store=store)
    feed(pipeline, range(10))
    save_all(store, pipeline)
    again = make("channels: [a]", store=store)
    feed(again, range(10, 11))
    assert again.streams["pump/a"].detector.grid.total_rows == 1
    store.close()


def test_a_value_that_no_longer_changes_is_an_alert_of_its_own_until_it_changes(make, schema):
    pipeline = make(TIMED)
    feed(pipeline, range(400))
    told = feed(pipeline, range(400, 480), lambda _: {"a": 0.25})
    told += feed(pipeline, range(480, 490))
    raised, cleared = [one for one in told if one["kind"] == "frozen"]
    for one in (raised, cleared):
        schema.validate(one)
    assert (raised["event"], cleared["event"]) == ("raised", "cleared")
    assert raised["message"].startswith("pump/a: a has not changed for ")
    assert raised["message"].endswith(" s, and is stuck at 0.25")
    assert raised["evidence"]["view"] == "frozen"
    assert raised["evidence"]["parts"][0]["name"] == "a"
    assert raised["evidence"]["unlike_since"] == "2023-11-14T22:20:00.000Z"
    assert raised["id"] == cleared["id"]
    assert cleared["message"].startswith("pump/a changes again after ")
    counted = [one for one in told if (one["kind"], one["event"]) == ("anomaly", "raised")]
    assert pipeline.streams["pump/a"].detector.budget.events == len(counted)  # the frozen one is not


def test_a_stream_on_hold_needs_no_encoder_and_names_its_view(make, schema):
    pipeline = make(TIMED + "\n    mode: hold")
    feed(pipeline, range(400))
    raised = feed(pipeline, range(400, 440), lambda i: {"a": 6.0 + quiet(i)["a"]})[0]
    schema.validate(raised)
    assert raised["evidence"]["view"] == "joint"
    assert raised["evidence"]["parts"][0]["name"] == "a"
    assert raised["evidence"]["nearest"]
    assert raised["encoder"] is None


def test_a_clock_that_jumps_by_years_raises_nothing_and_the_stream_goes_on(make):
    """As on a machine without a battery clock: 1970 until the network tells the time."""
    pipeline = make("silence: {after: 10s}")

    def feed_at(span, begun):
        messages = [InboundMessage("plant/a", json.dumps(quiet(i)).encode(), begun + i, float(i)) for i in span]
        return pipeline.process(messages)

    assert feed_at(range(400), 60.0).outbox == []
    (stream,) = pipeline.streams.values()
    decided = stream.budget.decisions
    assert decided > 0
    snoozed = stream.alerts[AlertKind.SILENT]
    snoozed.snoozed_until = 460.0 + 3600.0
    step_s = BEGUN - 60.0
    (row,) = [one for one in pipeline.shift(step_s, 460.0).alerts if one.kind == "silent"]
    assert row.state["snoozed_until"] == BEGUN + 400.0 + 3600.0
    assert stream.heard_at == BEGUN + 399.0
    snoozed.snoozed_until = 0.0
    assert pipeline.tick(BEGUN + 400.0, 400.0, 0.0).outbox == []
    assert feed_at(range(400, 800), BEGUN).outbox == []
    assert stream.budget.decisions > decided + 200
    assert not stream.firing
    (told,) = pipeline.tick(BEGUN + 815.0, 815.0, 0.0).outbox
    assert json.loads(told.payload)["started_at"].startswith(timestamp(BEGUN + 809.0)[:19])


def test_a_snooze_from_when_the_clock_was_right_stays(make):
    pipeline = make()
    pipeline.process([message(0, quiet(0))])
    (stream,) = pipeline.streams.values()
    stream.alerts[AlertKind.ANOMALY].snoozed_until = BEGUN + 3600.0
    assert pipeline.shift(BEGUN, 60.0).alerts == []
    assert stream.alerts[AlertKind.ANOMALY].snoozed_until == BEGUN + 3600.0
