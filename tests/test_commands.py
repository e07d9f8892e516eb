from __future__ import annotations

import copy
import json
import re

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.adapters.mqtt import Command, Topics
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, make_restore, with_defaults
from agent.commands import _HANDLERS, COMMANDS, MAX_COMMAND_BYTES, MAX_CORRELATION_BYTES, Commander
from agent.config import CommandSettings, load_configuration
from agent.core.alerting import AlertKind, AlertState
from agent.core.types import Budget, StreamPhase
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import save_all
from tests.test_pipeline import BEGUN, quiet

TOPICS = Topics("redshank", "pi")


class Counted(SilentObserver):
    def __init__(self):
        self.commands = []

    def commanded(self, command, outcome):
        self.commands.append((command, outcome))


class Desk:
    """A pipeline and the commander of its streams, driven in virtual time."""

    def __init__(self, folder, stream="", store=None, at_once=1_000_000):
        path = folder / "redshank.yaml"
        path.write_text(
            f"""
agent: {{id: pi}}
streams:
  - name: pump
    topic: plant/+
    encoder: none
    period: 1s
    time: {{path: ts, max_ahead: 10d}}
    reference: {{size: 300, warm_up: 150}}
    alert: {{false_alarms: 1 per 100000 decisions, cooldown: 30s}}
    {stream}
"""
        )
        configuration = with_defaults(load_configuration(path))
        restore = make_restore(store) if store is not None else None
        self.observer = Counted()
        self.pipeline = Pipeline(configuration, load_encoders(configuration), TOPICS, self.observer, restore=restore)
        limit = Budget(count=float(at_once), per_s=60.0, text=f"{at_once} per minute")
        commands = CommandSettings(enabled=True, limit=limit, reply_topic_prefix="ops/answers")
        self.commander = Commander(self.pipeline, TOPICS, commands, self.observer)

    def feed(self, span, change=None):
        """Return the alerts of these seconds."""
        bodies = [(i, {"ts": BEGUN + i, **quiet(i), **(change(i) if change else {})}) for i in span]
        messages = [InboundMessage("plant/a", json.dumps(body).encode(), BEGUN + i, float(i)) for i, body in bodies]
        return [json.loads(row.payload) for row in self.pipeline.process(messages).outbox]

    def raise_alert(self, start, seconds=10):
        """Return the alert that a fault raises."""
        told = self.feed(range(start, start + seconds), lambda i: {"a": 20.0 + 5 * (i % 2)})
        assert [one["event"] for one in told] == ["raised"]
        return told[0]

    def done(self, content, at=1000.0, **more):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        retained = more.pop("retained", False)
        message = InboundMessage("redshank/pi/command", payload, BEGUN + at, at, qos=1, retained=retained)
        return self.commander.obey(Command(message, **more))

    def ask(self, content, *, stored=True, **more):
        """Return the answer."""
        answer = self.commander.finish(self.done(content, **more), stored=stored)
        return None if answer is None else json.loads(answer)

    @property
    def stream(self):
        return self.pipeline.streams["pump/a"]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    made = Desk(tmp_path_factory.mktemp("learnt"))
    made.feed(range(400))
    return made


@pytest.fixture
def desk(learnt):
    return copy.deepcopy(learnt)


def test_accepting_ends_the_alert_learns_it_and_may_be_told_twice(desk):
    alert = desk.raise_alert(400)
    done = desk.done({"command": "accept", "alert": alert["id"], "correlation": "a1"})
    answer = json.loads(desk.commander.finish(done, stored=True))
    assert answer.pop("windows") >= 8
    assert answer == {
        "command": "accept", "ok": True, "correlation": "a1", "alert": alert["id"], "stream": "pump/a", "already": False
    }  # fmt: skip
    assert done.changed == [desk.stream]
    (row,) = done.outcome.outbox
    cleared = json.loads(row.payload)
    assert (cleared["id"], cleared["event"]) == (alert["id"], "cleared")
    assert "was accepted as normal" in cleared["message"]
    again = desk.ask({"command": "accept", "alert": alert["id"]})
    assert (again["ok"], again["already"], again["windows"]) == (True, True, 0)
    assert desk.observer.commands == [("accept", "done")] * 2
    assert desk.feed(range(410, 500)) == []
    assert desk.feed(range(500, 510), lambda i: {"a": 20.0 + 5 * (i % 2)}) == []  # it is normal now


@pytest.mark.parametrize("over", [False, True])
def test_the_last_alert_of_a_stream_is_accepted_without_its_id(desk, over):
    assert "has not" in desk.ask({"command": "accept", "stream": "pump/a"})["error"]
    alert = desk.raise_alert(400)
    if over:
        desk.feed(range(410, 500))
    answer = desk.ask({"command": "accept", "stream": "pump/a"})
    assert (answer["ok"], answer["alert"], answer["already"]) == (True, alert["id"], False)
    assert answer["windows"] > 0
    assert not desk.stream.firing
    assert desk.ask({"command": "accept", "stream": "pump/a"})["already"] is True


def test_the_last_alert_of_a_stream_is_confirmed_without_its_id(desk):
    alert = desk.raise_alert(400)
    assert desk.stream.state()["firing"] == ["anomaly"]
    answer = desk.ask({"command": "confirm", "stream": "pump/a"})
    assert (answer["ok"], answer["alert"], answer["budget_ratio"]) == (True, alert["id"], 0.0)


def test_an_alert_that_is_over_can_be_accepted_and_forgotten_later_also_after_a_restart(tmp_path):
    store = Store(tmp_path / "state")
    desk = Desk(tmp_path, store=store)
    desk.feed(range(400))
    alert = desk.raise_alert(400)
    desk.feed(range(410, 500))
    save_all(store, desk.pipeline)
    desk = Desk(tmp_path, store=store)
    desk.feed(range(500, 510))
    done = desk.done({"command": "accept", "alert": alert["id"]})
    assert done.answer["windows"] > 8
    assert done.outcome.outbox == []  # it was over already
    save_all(store, desk.pipeline)
    desk = Desk(tmp_path, store=store)
    desk.feed(range(510, 520))
    assert desk.ask({"command": "forget", "alert": alert["id"]})["windows"] == done.answer["windows"]
    twice = desk.ask({"command": "forget", "alert": alert["id"]})
    assert (twice["ok"], twice["windows"]) == (True, 0)
    store.close()


def test_forgetting_a_span_takes_out_its_windows(desk):
    span = {"stream": "pump/a", "from": "2023-11-14T22:18:20Z", "to": "2023-11-14T23:19:00+01:00"}  # BEGUN + 300 to 340
    answer = desk.ask({"command": "forget", **span})
    assert answer["from"] == "2023-11-14T22:18:20.000Z"
    assert answer["to"] == "2023-11-14T22:19:00.000Z"
    assert 20 < answer["windows"] <= 41
    done = desk.done({"command": "forget", **span})
    assert (done.answer["windows"], done.changed) == (0, [])
    everything = {"stream": "pump/a", "from": "2023-01-01T00:00:00Z", "to": "2024-01-01T00:00:00Z"}
    assert "expected at least 32 windows that stay" in desk.ask({"command": "forget", **everything})["error"]


def test_a_confirmed_alert_does_not_count_against_the_budget(desk):
    budget = desk.stream.detector.budget
    before = budget.threshold
    alert = desk.raise_alert(400)
    assert (budget.events, budget.threshold) == (1, pytest.approx(before + 0.7, abs=0.4))
    answer = desk.ask({"command": "confirm", "alert": alert["id"]})
    assert (answer["ok"], answer["already"], answer["budget_ratio"]) == (True, False, 0.0)
    assert (budget.events, budget.threshold) == (0, pytest.approx(before, abs=0.05))
    assert desk.ask({"command": "confirm", "alert": alert["id"]})["already"] is True
    assert budget.events == 0
    assert desk.stream.alerts[AlertKind.ANOMALY].state is AlertState.FIRING  # it goes on


def test_nothing_is_raised_while_a_stream_is_snoozed_also_after_a_restart(tmp_path):
    store = Store(tmp_path / "state")
    desk = Desk(tmp_path, store=store, stream="silence: {after: 60s}")
    desk.feed(range(400))
    done = desk.done({"command": "snooze", "stream": "pump/a", "for": "5m"}, at=400.0)
    assert done.answer["until"] == "2023-11-14T22:25:00.000Z"
    store.commit(done.outcome.alerts, [])
    assert desk.stream.state()["snoozed_until"] == "2023-11-14T22:25:00.000Z"
    desk.pipeline.streams.clear()
    save_all(store, Desk(tmp_path, store=store, stream="silence: {after: 60s}").pipeline)
    desk = Desk(tmp_path, store=store, stream="silence: {after: 60s}")
    desk.feed(range(400))
    assert desk.feed(range(400, 420), lambda _: {"a": 30.0}) == []
    assert desk.pipeline.tick(BEGUN + 600, 600.0, 0.0).outbox == []
    assert desk.ask({"command": "snooze", "stream": "pump/a", "for": "0s"})["until"] is None
    assert len(desk.pipeline.tick(BEGUN + 600, 600.0, 0.0).outbox) == 1
    desk.feed(range(420, 560))
    assert [one["event"] for one in desk.feed(range(560, 570), lambda _: {"a": -90.0})] == ["raised"]
    store.close()


def test_a_snooze_lets_an_alert_that_fires_end(desk):
    alert = desk.raise_alert(400)
    desk.ask({"command": "snooze", "stream": "pump/a", "for": "1d"}, at=410.0)
    told = desk.feed(range(410, 500))
    assert [(one["id"], one["event"]) for one in told] == [(alert["id"], "cleared")]


def test_relearning_starts_anew_in_the_same_room(desk):
    lanes = desk.stream.detector.lanes
    alert = desk.raise_alert(400)
    done = desk.done({"command": "relearn", "stream": "pump/a"})
    assert done.answer == {"command": "relearn", "ok": True, "stream": "pump/a"}
    (row,) = done.outcome.outbox
    cleared = json.loads(row.payload)
    assert (cleared["id"], cleared["event"]) == (alert["id"], "cleared")
    assert "is learnt anew" in cleared["message"]
    assert desk.stream.phase is StreamPhase.LEARNING
    assert desk.ask({"command": "relearn", "stream": "pump/a"})["ok"]
    assert (
        "is still learning"
        in desk.ask(
            {"command": "forget", "stream": "pump/a", "from": "2023-01-01T00:00:00Z", "to": "2023-01-02T00:00:00Z"}
        )["error"]
    )
    assert desk.feed(range(410, 700)) == []
    assert desk.stream.detector.lanes == lanes
    desk.raise_alert(700)


def test_a_snapshot_concerns_all_streams_and_fails_with_the_disk(desk):
    assert desk.done({"command": "snapshot"}).changed is None
    assert desk.ask({"command": "snapshot"}) == {"command": "snapshot", "ok": True, "streams": 1}
    answer = desk.ask({"command": "snapshot"}, stored=False)
    assert answer["ok"] is False
    assert "state directory" in answer["error"]
    assert desk.observer.commands == [("snapshot", "done"), ("snapshot", "refused")]


@pytest.mark.parametrize("payload", [{"command": "snapshot"}, b"{", {"command": "accept", "alert": "x"}])
def test_what_is_retained_is_neither_obeyed_nor_answered_but_counted(desk, payload):
    done = desk.done(payload, retained=True)
    assert (done.answer, done.changed) == (None, [])
    assert desk.commander.finish(done, stored=True) is None
    assert [outcome for _, outcome in desk.observer.commands] == ["retained"]


@pytest.mark.parametrize(
    ("payload", "command", "error"),
    [
        (b"", None, "expected JSON, found something else"),
        (b"\xff\xfe", None, "expected JSON"),
        (b"[" * 4000, None, "expected JSON"),
        (b"[]", None, "expected a JSON object such as"),
        (b"x" * (MAX_COMMAND_BYTES + 1), None, "expected at most 4096 bytes, found more"),
        (
            {"command": "reboot"},
            None,
            "expected `command` as one of accept, confirm, forget, snooze, relearn, snapshot",
        ),
        ({"command": ["accept"]}, None, "found ['accept']"),
        ({}, None, "found None"),
        ({"command": "accept"}, "accept", "either `alert` or `stream`, found neither"),
        (
            {"command": "confirm", "alert": "0" * 16, "stream": "pump/a"},
            "confirm",
            "either `alert` or `stream`, found both",
        ),
        ({"command": "accept", "alert": 7}, "accept", "Expected `str | null`, got `int` - at `$.alert`"),
        ({"command": "accept", "alert": "ABC"}, "accept", "matching regex"),
        ({"command": "accept", "alert": "0" * 16}, "accept", "found 0000000000000000, which is not known"),
        ({"command": "confirm", "alert": "0" * 16}, "confirm", "which is not known"),
        ({"command": "forget", "alert": "0" * 16}, "forget", "which is not known"),
        ({"command": "forget", "alert": "0" * 16, "stream": "pump/a"}, "forget", "either `alert`, or `stream`"),
        ({"command": "forget", "stream": "pump/a"}, "forget", "either `alert`, or `stream`"),
        ({"command": "forget", "stream": "x", "from": "today", "to": "now"}, "forget", "Invalid RFC3339"),
        (
            {"command": "forget", "stream": "pump/a", "from": "2023-01-02T00:00:00Z", "to": "2023-01-01T00:00:00Z"},
            "forget",
            "expected `from` before `to`",
        ),
        (
            {
                "command": "forget",
                "stream": "pump/a",
                "from": "0001-01-01T00:00:00+14:00",
                "to": "9999-12-31T23:59:59Z",
            },
            "forget",
            "expected times from 1970 to 2105",
        ),
        ({"command": "snooze", "stream": "pump/b", "for": "1h"}, "snooze", "a stream that is watched, found 'pump/b'"),
        ({"command": "snooze", "stream": "pump/a", "for": "soon"}, "snooze", "a duration such as 30m, 2h or 1d"),
        ({"command": "snooze", "stream": "pump/a", "for": "400d"}, "snooze", "at most 366d"),
        ({"command": "relearn", "stream": ""}, "relearn", "length >= 1"),
        ({"command": "snapshot", "now": True}, "snapshot", "unknown field `now`"),
    ],
)
def test_a_mistake_is_answered_with_what_was_expected_and_found(desk, payload, command, error):
    answer = desk.ask(payload)
    assert (answer["command"], answer["ok"]) == (command, False)
    assert error in answer["error"]
    assert re.match("expected .*, found ", answer["error"])
    assert len(answer["error"]) < 600
    assert desk.observer.commands == [(command or "unknown", "refused")]


FIELDS = st.sampled_from(["command", "alert", "stream", "from", "to", "for", "correlation", "x"])
VALUES = st.one_of(
    st.sampled_from(
        [*COMMANDS, "pump/a", "0" * 16, "1h", "1e999h", "2023-11-14T22:18:20Z", "9999-12-31T23:59:59-12:00"]
    ),
    st.text(max_size=20),
    st.none(),
    st.floats(),
    st.integers(),
    st.lists(st.text(max_size=3), max_size=2),
)


@given(st.one_of(st.binary(max_size=60), st.dictionaries(FIELDS, VALUES)), st.booleans())
@example(b'{"command": "snapshot", "correlation": "\\ud800"}', False)  # noqa: FBT003  by position, as given
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_answered_or_counted_and_stops_nothing(tmp_path, payload, retained):
    desk = Desk(tmp_path)
    desk.feed(range(3))
    answer = desk.ask(payload, retained=retained)
    assert (answer is None) is retained
    assert len(desk.observer.commands) == 1


def test_an_alert_of_silence_can_be_neither_accepted_nor_confirmed(tmp_path):
    desk = Desk(tmp_path, stream="silence: {after: 60s}")
    desk.feed(range(10))
    (row,) = desk.pipeline.tick(BEGUN + 90, 90.0, 0.0).outbox
    for command in ("accept", "confirm"):
        error = desk.ask({"command": command, "alert": json.loads(row.payload)["id"]})["error"]
        assert "expected an alert of the kind anomaly" in error


def test_alerts_too_long_ago_are_said_to_be(desk):
    alert = desk.raise_alert(400)
    desk.stream.detector.quarantine.restore({"alerts": [], "pending": None, "accepted": [], "mark": 0})
    assert "whose windows are gone" in desk.ask({"command": "accept", "alert": alert["id"]})["error"]
    desk.feed(range(410, 540))
    alert = desk.feed(range(540, 550), lambda _: {"a": -90.0})[0]
    desk.stream.detector.budget._lifts.clear()
    assert "too long ago" in desk.ask({"command": "confirm", "alert": alert["id"]})["error"]


@pytest.mark.parametrize(
    ("wanted", "topic"),
    [
        ("ops/answers/7", "ops/answers/7"),
        ("ops/answers", "redshank/pi/reply"),
        ("ops/answersX", "redshank/pi/reply"),
        ("elsewhere", "redshank/pi/reply"),
        ("ops/answers/+", "redshank/pi/reply"),
        ("ops/answers/" + "x" * 2000, "redshank/pi/reply"),
        (None, "redshank/pi/reply"),
    ],
)
def test_an_answer_goes_where_it_is_wanted_only_below_the_prefix(desk, wanted, topic):
    done = desk.done({"command": "snapshot"}, response_topic=wanted, correlation_data=b"\0\xff")
    assert (done.topic, done.correlation_data) == (topic, b"\0\xff")


def test_without_a_prefix_or_below_our_own_topics_no_wish_is_heard(desk):
    for prefix, wanted in ((None, "ops/answers/7"), ("redshank", "redshank/pi/command")):
        allowed = CommandSettings(enabled=True, reply_topic_prefix=prefix)
        commander = Commander(desk.pipeline, TOPICS, allowed, desk.observer)
        message = InboundMessage("redshank/pi/command", b"", 0.0, 0.0)
        assert commander.reply_topic(Command(message, wanted)) == "redshank/pi/reply"


def test_correlation_data_without_bound_are_refused(desk):
    done = desk.done({"command": "snapshot"}, correlation_data=b"x" * (MAX_CORRELATION_BYTES + 1))
    assert done.correlation_data is None
    assert done.changed == []
    assert "expected correlation data of at most 1024 bytes" in done.answer["error"]


def test_every_command_has_its_handler_and_its_type():
    from agent.commands import _HANDLERS  # noqa: PLC0415  only here

    assert [kind.__struct_config__.tag for kind in _HANDLERS] == list(COMMANDS)
    assert msgspec.json.schema(next(iter(_HANDLERS)))["$defs"]["Accept"]["additionalProperties"] is False


def test_too_many_commands_are_refused_the_first_of_them_with_an_answer(tmp_path):
    desk = Desk(tmp_path, at_once=3)
    desk.feed(range(400))
    snapshot = {"command": "snapshot"}
    answers = [desk.ask(snapshot) for _ in range(6)]
    assert [answer and answer["ok"] for answer in answers] == [True, True, True, False, None, None]
    assert answers[3]["error"] == "expected at most 3 per minute, found more; what follows is not answered"
    assert desk.observer.commands[3:] == [("unknown", "limited")] * 3
    assert desk.done(snapshot).changed == []  # nothing is done
    assert desk.ask(snapshot, at=1010.0) is None
    assert desk.ask(snapshot, at=1021.0)["ok"]
    assert [desk.ask(snapshot, at=2000.0)["ok"] for _ in range(4)] == [True, True, True, False]


FILES = ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "C:\\boot.ini", "pump/../../../../etc", "\0/etc"]


@pytest.mark.parametrize("path", FILES)
def test_no_field_of_a_command_is_taken_for_a_file(desk, tmp_path, path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("a command opened a file")

    before = sorted(tmp_path.rglob("*"))
    for name in ("builtins.open", "pathlib.Path.open", "os.open"):
        monkeypatch.setattr(name, opened)
    for kind in _HANDLERS:
        for field in msgspec.structs.fields(kind):
            assert not desk.ask({"command": kind.__struct_config__.tag, "file": path})["ok"]
            if field.encode_name == "correlation":  # comes back as it is, and nothing else
                continue
            assert not desk.ask({"command": kind.__struct_config__.tag, field.encode_name: path})["ok"]
    monkeypatch.undo()
    assert sorted(tmp_path.rglob("*")) == before
