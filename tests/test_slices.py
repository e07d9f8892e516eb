"""Messages of many readings are taken a slice at a time: with the same results, and others have their turn."""

from __future__ import annotations

import json
import random

import msgspec
import numpy as np
import pytest

from agent.adapters.mqtt.topics import Topics
from agent.adapters.telemetry import SilentObserver, Telemetry
from agent.app import load_encoders
from agent.core.alerting import AlertKind, AlertState
from agent.inbox import Inbox
from agent.pipeline import Outcome, Pipeline
from agent.ports import InboundMessage
from tests.sparkplug import FLOAT, EdgeNode, metric

BEGUN = 1_700_000_000.0
LEARNT = 183  # rows, with the last of which a stream has learnt
SHORT = "encoder: none, period: 1s, reference: {size: 300, warm_up: 150}"
ALERT = "alert: {false_alarms: 1 per 20000 decisions, cooldown: 1s}"
STREAMS = f"""
  - {{name: table, topic: table/+, format: csv, time: {{path: ts, max_ahead: 10d}}, {SHORT}, {ALERT}}}
  - {{name: block, topic: block/+, format: raw, raw: {{dtype: float32, sample_rate: 1}}, channels: [a, b],
     {SHORT}, {ALERT}}}
  - {{name: line, topic: "spBv1.0/plant/#", format: sparkplug, {SHORT}, {ALERT}}}
  - {{name: one, topic: one/+, time: {{path: ts, max_ahead: 10d}}, {SHORT}, {ALERT}}}
"""


class Counted(SilentObserver):
    def __init__(self):
        self.reasons = []

    def rejected(self, topic, reason):
        self.reasons.append((topic, reason))


@pytest.fixture
def make(read):
    def make(streams=STREAMS, agent=""):
        settings = read(streams, agent)
        encoders = load_encoders(settings)
        made = Pipeline(settings, encoders, Topics("redshank", "pi"), observer := Counted())
        made.observer, made.encoders_loaded = observer, encoders
        made.inbox = Inbox(settings, Telemetry(100, 256_000_000))
        return made

    return make


def quiet(i):
    rng = np.random.default_rng(i)
    odd = 40.0 if i % 400 in range(350, 360) else 0.0
    return [round(float(np.sin(i / 9) + rng.normal(0, 0.1) + odd), 4) for _ in "ab"]


def table(span, topic="table/a", **more):
    """Return one message of these seconds' readings."""
    rows = "\n".join(",".join(map(str, (BEGUN + i, *quiet(i)))) for i in span)
    return message(topic, f"ts,a,b\n{rows}\n".encode(), span[-1], **more)


def block(span, topic="block/a", **more):
    return message(topic, np.array([quiet(i) for i in span], "<f4").tobytes(), span[-1], **more)


def one(i, topic="one/a", **more):
    return message(topic, json.dumps({"ts": BEGUN + i, **dict(zip("ab", quiet(i), strict=True))}).encode(), i, **more)


def message(topic, payload, i, qos=1, connection=1, number=[0], **more):  # noqa: B006  numbers go on
    number[0] += 1
    return InboundMessage(topic, payload, BEGUN + i, float(i), qos, message_id=number[0], connection=connection, **more)


def told(outcomes):
    """Return by stream what was decided and told, in order."""
    found = {}
    for outcome in outcomes:
        for decided in outcome.decided:
            found.setdefault(decided.stream, []).append((decided.assessment.at, decided.assessment.score))
        for row in outcome.outbox:
            alert = msgspec.json.decode(row.payload)
            found.setdefault(f"{alert['stream']} alerts", []).append(alert)
    return found


def kept(pipeline):
    """Return what streams know by now, but for references, of which later decisions tell."""
    return {
        name: msgspec.msgpack.encode(
            [one.detector.snapshot(), [machine.snapshot() for machine in one.alerts.values()], one.heard_at],
            enc_hook=lambda thing: thing.tolist(),
        )
        for name, one in pipeline.streams.items()
    }


def mixed(seed):
    """Return messages of several streams, each in order: some of one reading, some of hundreds."""
    rng = random.Random(seed)
    node, lines = EdgeNode(), []
    for kind, topic in ((table, "table/a"), (table, "table/b"), (block, "block/a")):
        line, at = [], 0
        while at < 450:
            count = rng.choice((1, 2, 30, 200))
            line.append(kind(range(at, at + count), topic))
            at += count
        lines.append(line)
    topic, payload = node.birth(BEGUN)
    line = [message(topic, payload, 0)]
    for device in ("pump", "fan"):
        topic, payload = node.message("DBIRTH", BEGUN, [metric("x", 0.0, FLOAT, alias=1)], device)
        line.append(message(topic, payload, 0))
    at = 1
    while at < 300:
        count, device = rng.choice((1, 20, 90)), rng.choice(("pump", "fan"))
        values = [
            metric(alias=1, value=quiet(i)[0], datatype=FLOAT, timestamp=int(1000 * (BEGUN + i)))
            for i in range(at, at + count)
        ]
        topic, payload = node.message("DDATA", None, values, device)
        line.append(message(topic, payload, at + count))
        at += count
    lines += [line, [one(i) for i in range(400)]]
    order = [line for line in lines for _ in line]
    rng.shuffle(order)
    left = {id(line): iter(line) for line in lines}
    return [next(left[id(line)]) for line in order]


@pytest.mark.parametrize("seed", range(3))
def test_slices_give_the_same_decisions_alerts_and_memory_whatever_is_taken_between_them(make, seed):
    messages, rng = mixed(seed), random.Random(seed)
    whole, sliced = make(), make()
    expected = told([whole.process([each]) for each in messages])
    outcomes, waiting, overtaken = [], list(messages), 0
    while waiting or sliced.inbox or sliced.busy:
        count = rng.choice((0, 1, 5, 100))
        sliced.inbox.put(waiting[:count])
        waiting = waiting[count:]
        if rng.random() < 0.7:
            outcomes.append(sliced.go_on())
        if rng.random() < 0.7:
            outcomes.append(sliced.take(sliced.inbox.take(rng.choice((1, 3, 500)), sliced)))
            overtaken += bool(sliced.inbox.lines)
        outcomes.append(sliced.tick(BEGUN, 0.0, 0.0))
    assert told(outcomes) == expected
    assert {"table/a alerts", "block/a alerts", "one/a alerts"} <= expected.keys()
    assert kept(sliced) == kept(whole)
    assert sorted(sliced.observer.reasons) == sorted(whole.observer.reasons)
    assert overtaken > 5
    done = [each for outcome in outcomes for each in outcome.done]
    assert sorted(done, key=lambda each: each.message_id) == sorted(messages, key=lambda each: each.message_id)
    lines = {sliced.line_of(each.topic) for each in messages}
    assert lines == {"table/a", "table/b", "block/a", "spBv1.0/plant/line1", "one/a"}
    for line in lines:
        assert [each for each in done if sliced.line_of(each.topic) == line] == [
            each for each in messages if sliced.line_of(each.topic) == line
        ]


def slices(pipeline):
    """Go on until nothing is left; return the outcomes."""
    outcomes = []
    while pipeline.busy:
        outcomes.append(pipeline.go_on())
    return outcomes


@pytest.mark.parametrize("kind", [table, block])
def test_a_slice_is_bounded_and_a_message_is_done_with_its_last_one(make, kind):
    pipeline = make()
    large = kind(range(1000))
    outcomes = [pipeline.take([large]), *slices(pipeline)]
    sizes = [len(outcome.decided) for outcome in outcomes]
    assert max(sizes) == 16
    assert sum(sizes) == 1000 - LEARNT
    assert [outcome.done for outcome in outcomes] == [[]] * (len(outcomes) - 1) + [[large]]


def test_readings_that_lead_to_no_decision_are_counted_too(make):
    pipeline = make(STREAMS.replace("name: table", "name: table, stride: 1000"))
    rows = [0]
    pipeline.take([table(range(6000))])
    while pipeline.busy:
        rows.append(pipeline.streams["table/a"].detector.grid.total_rows)
        pipeline.go_on()
    assert max(np.diff(rows)) == 2000


def test_several_messages_take_turns_and_one_of_a_single_reading_never_waits_for_them(make):
    pipeline = make()
    pipeline.process([one(i) for i in range(LEARNT)])
    large = [table(range(3000), "table/a"), table(range(3000), "table/b")]
    pipeline.inbox.put(large)
    for _ in large:
        pipeline.take(pipeline.inbox.take(500, pipeline))
    pipeline.inbox.put([table(range(3000, 3100)), one(LEARNT), one(LEARNT + 1)])
    outcome = pipeline.take(pipeline.inbox.take(500, pipeline))
    assert len(outcome.decided) == 2
    assert pipeline.inbox.lines == ["table/a"]
    rows = {"table/a": [], "table/b": []}
    for _ in range(20):
        pipeline.go_on()
        for name, found in rows.items():
            found.append(pipeline.streams[name].detector.grid.total_rows)
    first, second = rows.values()
    assert all(0 <= a - b < 20 or min(a, b) < LEARNT for a, b in zip(first, second, strict=True))
    assert LEARNT < second[-1] <= first[-1] < 3000


def test_many_messages_of_some_readings_share_a_slice(make):
    pipeline = make()
    pipeline.process([table(range(LEARNT), f"table/{name}") for name in "abc"])
    pipeline.inbox.put([table(range(LEARNT, LEARNT + 15), f"table/{name}") for name in "abc"])
    assert len(pipeline.take(pipeline.inbox.take(500, pipeline)).done) == 1
    assert len(pipeline.inbox) == 1
    assert pipeline.busy


def test_what_was_begun_takes_bounded_memory_and_large_messages_wait_for_it(make):
    seldom = STREAMS.replace("name: table,", "name: table, stride: 20,")
    pipeline = make(seldom, agent=", memory_limit: 120MB, max_payload: 300kB")
    large = [table(range(6000), f"table/{number}") for number in range(5)]
    pipeline.inbox.put([*large, one(0), *(table(range(6000, 6001), f"table/{number}") for number in range(5))])
    done = []
    for _ in range(10):
        done += pipeline.take(pipeline.inbox.take(500, pipeline)).done
    assert sorted(pipeline.streams) == ["one/a", "table/0", "table/1"]
    assert len(done) == 1
    assert sorted(pipeline.inbox.lines) == [f"table/{number}" for number in range(5)]
    while pipeline.inbox or pipeline.busy:
        done += pipeline.go_on().done + pipeline.take(pipeline.inbox.take(500, pipeline)).done
    assert len(done) == 11
    assert {one.detector.grid.total_rows for name, one in pipeline.streams.items() if name != "one/a"} == {6001}


def test_a_stream_whose_message_was_begun_or_waits_is_not_silent_and_others_are(make):
    pipeline = make(STREAMS.replace(ALERT, f"{ALERT}, silence: {{after: 60s}}"))
    pipeline.process([table(range(LEARNT), "table/a"), table(range(LEARNT), "table/b"), one(LEARNT)])
    pipeline.inbox.put([table(range(LEARNT, LEARNT + 200)), table([LEARNT + 300])])
    pipeline.take(pipeline.inbox.take(500, pipeline))

    def silent():
        found = pipeline.tick(BEGUN + 600, 600.0, 0.0, pipeline.inbox.lines).outbox
        return [msgspec.json.decode(row.payload)["stream"] for row in found]

    pipeline.take(pipeline.inbox.take(500, pipeline))
    assert silent() == ["table/b", "one/a"]
    slices(pipeline)
    assert silent() == []  # one more waits
    pipeline.take(pipeline.inbox.take(500, pipeline))
    assert silent() == ["table/a"]


def test_a_silence_ends_behind_the_alerts_of_the_message_that_ends_it(make):
    pipeline = make(STREAMS.replace("name: table,", "name: table, silence: {after: 60s},"))
    pipeline.process([table(range(345))])
    assert len(pipeline.tick(BEGUN + 500, 500.0, 0.0).outbox) == 1
    outcomes = [pipeline.take([table(range(345, 400))]), *slices(pipeline)]
    events = [(one["kind"], one["event"]) for one in told(outcomes)["table/a alerts"]]
    assert events == [("anomaly", "raised"), ("silent", "cleared")]


def test_a_warm_up_is_learnt_in_parts_and_given_up_where_the_stream_begins_anew(make):
    pipeline = make()
    pipeline.take([table(range(600))])
    stream = pipeline.streams["table/a"]
    while stream.bank._lanes == 0:  # the warm-up has begun
        pipeline.go_on()
    assert not stream.learnt
    stream.relearn()
    outcomes = slices(pipeline)
    assert stream.detector.lanes == (0, 2)
    assert stream.bank._lanes == 2
    assert sum(len(outcome.decided) for outcome in outcomes) == 600 - 2 * LEARNT


def test_a_reload_goes_on_with_messages_of_streams_that_stay(make, read):
    pipeline, other = make(), make()
    expected = told([other.process([table(range(900))])])
    outcomes = [pipeline.take([table(range(900))]), *(pipeline.go_on() for _ in range(5))]
    changed = read(STREAMS.replace("name: one,", "name: one, stride: 2,"))
    outcomes.append(pipeline.reconfigure(changed, pipeline.encoders_loaded, BEGUN).outcome)
    assert told(outcomes + slices(pipeline)) == expected


@pytest.mark.parametrize("change", ["alert: {after: 3}, ", "stride: 2, "])
def test_a_reload_begins_messages_of_changed_streams_anew(make, read, change):
    after = STREAMS.replace(ALERT, "score_topic: always", 1).replace("name: table,", f"name: table, {change}")
    whole, pipeline = make(), make()
    message = table(range(900))
    pipeline.take([message])
    for _ in range(5):
        pipeline.go_on()
    assert pipeline.streams["table/a"].detector.grid.total_rows > LEARNT
    for one in (whole, pipeline):
        one.reconfigure(read(after), one.encoders_loaded, BEGUN)
    whole.process([message])
    outcomes = slices(pipeline)
    assert outcomes[-1].done == [msgspec.structs.replace(message, again=True)]
    grids = [one.streams["table/a"].detector.grid for one in (whole, pipeline)]
    assert grids[0].total_rows == grids[1].total_rows == 900
    assert pipeline.streams["table/a"].learnt


def test_a_reload_goes_on_with_what_sparkplug_has_yet_to_tell(make, read):
    pipeline, node = make(), EdgeNode()
    topic, payload = node.birth(BEGUN)
    pipeline.process([message(topic, payload, 0)])
    topic, payload = node.message("DBIRTH", BEGUN, [metric("x", 0.0, FLOAT, alias=1)], "pump")
    pipeline.process([message(topic, payload, 0)])
    values = [
        metric(alias=1, value=quiet(i)[0], datatype=FLOAT, timestamp=int(1000 * (BEGUN + i))) for i in range(1, 600)
    ]
    topic, payload = node.message("DDATA", None, values, "pump")
    reasons = [*pipeline.observer.reasons]
    pipeline.take([message(topic, payload, 600)])
    pipeline.go_on()
    pipeline.reconfigure(read(STREAMS.replace(ALERT, "score_topic: always")), pipeline.encoders_loaded, BEGUN)
    slices(pipeline)
    (stream,) = pipeline.streams.values()
    assert stream.detector.grid.total_rows == 600
    assert pipeline.observer.reasons == reasons


def test_messages_of_streams_that_are_let_go_are_done_with_nothing_more(make, read):
    pipeline = make()
    large = table(range(3000))
    pipeline.take([large])
    pipeline.go_on()
    only = "\n" + STREAMS.strip("\n").split("\n")[-1] + "\n"
    done = pipeline.reconfigure(read(only), pipeline.encoders_loaded, BEGUN)
    assert [stream.name for stream in done.removed] == ["table/a"]
    (last,) = slices(pipeline)
    assert ([one.message_id for one in last.done], last.decided, pipeline.streams) == ([large.message_id], [], {})


def test_messages_of_one_line_wait_for_each_other_and_are_acknowledged_in_the_order_in_which_they_came(make):
    pipeline, inbox = (made := make()), made.inbox
    first, second, third, other = table(range(900)), table([900]), table([901], qos=0), one(0)
    inbox.put([first, second, other, third])
    outcome = pipeline.take(inbox.take(500, pipeline))
    assert (outcome.done, inbox.done(outcome.done)) == ([], [])
    outcome = pipeline.take(inbox.take(500, pipeline))
    assert (outcome.done, inbox.done(outcome.done)) == ([other], [])
    assert (len(inbox), inbox.lines, inbox.caught_up_to(5.0)) == (2, ["table/a"], 5.0)
    outcomes = slices(pipeline)
    assert inbox.done([first]) == [first]
    assert outcomes[-1].done == [first]
    outcome = pipeline.take(inbox.take(500, pipeline))
    assert outcome.done == [second, third]
    assert inbox.done(outcome.done) == [second, msgspec.structs.replace(other, payload=b"")]
    assert (len(inbox), inbox._bytes, inbox._acknowledgeable, len(inbox._owed)) == (0, 0, 0, 0)


@pytest.mark.parametrize("between", [0, 1])
def test_a_message_that_was_begun_is_not_taken_again_when_the_broker_sends_it_again_and_again(make, between):
    pipeline, inbox = (made := make()), made.inbox
    messages = [block(range(900)), block([900]), one(0)]
    inbox.put(messages)
    for _ in range(2):
        inbox.done(pipeline.take(inbox.take(500, pipeline)).done)
    for connection in (2, 3):
        inbox.connected(session_present=True)
        inbox.put(
            [
                msgspec.structs.replace(message, connection=connection, message_id=70 + number, again=True)
                for number, message in enumerate(messages)
            ]
        )
        for _ in range(between):
            inbox.done(pipeline.take(inbox.take(500, pipeline)).done)
    acknowledged = []
    while inbox or pipeline.busy:
        for outcome in (pipeline.go_on(), pipeline.take(inbox.take(500, pipeline))):
            acknowledged += inbox.done(outcome.done)
    assert [one.message_id for one in acknowledged if one.connection == 3] == [70, 71, 72]
    assert pipeline.streams["block/a"].detector.grid.total_rows == 901
    assert pipeline.streams["one/a"].detector.grid.total_rows == 1
    inbox.put([one(1, connection=3, again=True)])  # another one, that was not taken before
    assert len(pipeline.take(inbox.take(500, pipeline)).done) == 1
    assert pipeline.streams["one/a"].detector.grid.total_rows == 2


def test_what_waited_on_an_earlier_connection_holds_no_acknowledgement_back_after_a_reload(make, read):
    pipeline, inbox = (made := make()), made.inbox
    inbox.put([table(range(900)), table([900])])
    pipeline.take(inbox.take(500, pipeline))
    pipeline.take(inbox.take(500, pipeline))
    inbox.put([other := one(0, connection=2)])
    outcome = pipeline.take(inbox.take(500, pipeline))
    inbox.configure(read(STREAMS))
    assert inbox.lines == []
    assert pipeline.take(inbox.take(500, pipeline)).done == []
    assert inbox.lines == ["table/a"]  # again
    assert inbox.done(outcome.done) == [other]


def test_a_new_session_sends_what_was_begun_as_something_new(make):
    pipeline, inbox = (made := make()), made.inbox
    inbox.put([large := table(range(900))])
    pipeline.take(inbox.take(500, pipeline))
    inbox.connected(session_present=False)
    inbox.put([msgspec.structs.replace(large, connection=2, again=True)])
    done = [one for outcome in slices(pipeline) for one in outcome.done]
    (new,) = inbox.take(500, pipeline)
    assert (done, new.superseded, new.payload) == ([large], False, large.payload)


def test_of_messages_that_wait_for_others_of_their_line_those_of_qos_0_are_dropped_first(make):
    pipeline = make(agent=", queue_size: 5")
    inbox = pipeline.inbox
    inbox.put([table(range(900))])
    pipeline.take(inbox.take(500, pipeline))
    inbox.put([table([900 + i], qos=0) for i in range(4)])
    assert pipeline.take(inbox.take(500, pipeline)) == Outcome([], [], [])
    inbox.put([one(i, qos=0) for i in range(4)])
    assert not inbox.full
    assert [each.elapsed_s for each in inbox._held["table/a"]] == [903.0]
    inbox.put([table([910 + i]) for i in range(9)])
    assert inbox.full  # of what may not be dropped
    slices(pipeline)
    found = list(inbox.take(500, pipeline))
    assert [each.elapsed_s for each in found] == [910.0 + i for i in range(9)]


def test_alert_states_between_two_slices_are_those_of_the_readings_so_far(make):
    pipeline = make()
    pipeline.take([table(range(700))])
    machine = pipeline.streams["table/a"].alerts[AlertKind.ANOMALY]
    states = set()
    while pipeline.busy:
        pipeline.go_on()
        states.add(machine.state)
    assert AlertState.FIRING in states
    assert machine.state is AlertState.INACTIVE
