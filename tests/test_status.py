from __future__ import annotations

import io
import threading

import msgspec
import pytest

from agent import status_view
from agent.core.alerting import AlertKind
from agent.core.types import StreamPhase
from agent.errors import RemoteError
from agent.reload import ReloadOutcome, ReloadResult
from agent.status import (
    MAX_STREAMS,
    BrokerStatus,
    ConfigurationStatus,
    LastAlert,
    Question,
    Status,
    StreamStatus,
    counted,
    stream_statuses,
)
from agent.status_view import show, table
from tests.test_pipeline import feed, make  # noqa: F401  a fixture
from tests.test_pipeline import message as reading

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
PUMP = StreamStatus(
    "pump/a",
    StreamPhase.ACTIVE,
    1.0,
    8.878,
    1.3e-9,
    5.78,
    LastAlert(AlertKind.ANOMALY, firing=True, at=NOW - 60),
    0.0,
    1000,
)
TANK = StreamStatus("tank/x", StreamPhase.LEARNING, 0.1, None, None, None, None, 300.0, 0)
QUIET = StreamStatus(
    "quiet/x",
    StreamPhase.SILENT,
    None,
    0.5,
    0.3,
    6.0,
    LastAlert(AlertKind.SILENT, firing=False, at=NOW - 9e4),
    None,
    100,
)
STATUS = Status(
    agent="pi",
    version="1.0",
    at=NOW,
    uptime_s=7300.0,
    configuration=ConfigurationStatus(
        "/etc/redshank/redshank.yaml", 2, NOW - 600, reloading=False, reloads=1, last_reload=None
    ),
    broker=BrokerStatus("mqtt://localhost:1883", connected=True),
    troubles=[],
    streams_total=3,
    learning=1,
    firing=1,
    streams=[PUMP, TANK, QUIET],
)


def replaced(**changes):
    return msgspec.structs.replace(STATUS, **changes)


# the table


def test_the_table_tells_of_each_stream_what_is_known():
    assert table(STATUS, 200) == [
        "pi 1.0, up 2 h; mqtt://localhost:1883 connected",
        "3 streams, 1 learning, 1 with an alert",
        "configuration 2 of 22:03 UTC",
        "",
        "stream   phase     msg/s  score  alarm at  known   left  last alert",
        "pump/a   active        1   8.88      5.78   1000         anomaly since 22:12 UTC",
        "tank/x   learning    0.1                       0  5 min",
        "quiet/x  silent            0.50      6.00    100         silent, 13 November",
    ]


def test_learning_whose_end_is_not_known_and_a_refused_file_are_told():
    lost = replaced(
        troubles=["client_id"],
        broker=BrokerStatus("mqtt://localhost:1883", connected=False),
        configuration=msgspec.structs.replace(
            STATUS.configuration, last_reload=ReloadResult(ReloadOutcome.REFUSED, NOW - 60, ["f:1 a: \x1b[2J"])
        ),
        streams=[msgspec.structs.replace(TANK, learning_left_s=None)],
    )
    lines = table(lost, 200)
    assert "mqtt://localhost:1883 away" in lines[0]
    assert lines[3] == "trouble: client_id; docs/reliability.md says what to do"
    assert lines[4] == "the file of 22:12 UTC was refused, that one is still in force: f:1 a: ?[2J"
    assert lines[7].split()[-1] == "?"
    assert lines[-1] == "and 2 more"


@pytest.mark.parametrize("width", [20, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_no_name_obeyed(width):
    rogue = msgspec.structs.replace(PUMP, name="x\x1b[31m\x9b" + 300 * "y")
    lines = table(replaced(streams=[rogue]), width)
    assert max(map(len, lines)) <= width
    assert not any(mark in line for line in lines for mark in "\x1b\x9b")


def test_as_many_rows_are_shown_as_fit():
    lines = table(STATUS, 200, 1)
    assert [line.split()[0] for line in lines[5:]] == ["pump/a", "and"]
    assert lines[-1] == "and 2 more"


def test_colours_mark_what_wants_a_look():
    lines = table(STATUS, 200, colour=True)
    assert lines[5].startswith("\x1b[1;31mpump/a")
    assert lines[6].startswith("\x1b[33mtank/x")
    assert lines[7].startswith("quiet/x")


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Asked:
    """An agent that answers, goes away, and after that the user has seen enough."""

    def __init__(self):
        self.answers = [STATUS, RemoteError("expected an agent"), KeyboardInterrupt()]

    def status(self):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_a_terminal_is_drawn_again_until_interrupted(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(status_view.sys, "stdout", terminal)
    monkeypatch.setattr(status_view, "EVERY_S", 0.0)
    show(Asked(), once=False)
    first, second = terminal.getvalue().split("\x1b[H")[2:]
    assert "pump/a" in first
    assert second.startswith("expected an agent\x1b[K\n\x1b[J")


@pytest.mark.parametrize(("once", "out"), [(True, Terminal), (False, io.StringIO)])
def test_once_or_through_a_pipe_it_is_printed_once(monkeypatch, once, out):
    monkeypatch.setattr(status_view.sys, "stdout", out())
    show(Asked(), once=once)
    assert status_view.sys.stdout.getvalue().count("pump/a") == 1


# what the agent tells


def test_all_who_ask_get_the_answer_that_the_worker_makes_once():
    woken, made, answers = threading.Semaphore(0), [], []
    question = Question(woken.release)

    def make_one():
        made.append(1)
        return STATUS

    question.answer(make_one)  # nobody asked
    askers = [threading.Thread(target=lambda: answers.append(question.ask(10.0))) for _ in range(3)]
    for one in askers:
        one.start()
    for _ in askers:
        assert woken.acquire(timeout=10)
    question.answer(make_one)
    for one in askers:
        one.join(10)
    assert answers == [STATUS] * 3
    assert len(made) == 1


def test_a_worker_without_time_is_not_waited_for_long():
    assert Question(lambda: None).ask(0.01) is None


def test_streams_that_want_a_look_come_first(make):  # noqa: F811  the fixture
    pipeline = make("time: {path: ts, max_ahead: 10d}")
    feed(pipeline, range(400), topic="plant/active")
    feed(pipeline, range(400), topic="plant/z")
    feed(pipeline, range(400, 410), lambda _: {"a": 50.0}, topic="plant/z")
    feed(pipeline, range(10), topic="plant/learning")
    first, second, third = stream_statuses(pipeline.streams.values(), 420.0)
    assert [one.name for one in (first, second, third)] == ["pump/z", "pump/learning", "pump/active"]
    assert (first.last_alert.kind, first.last_alert.firing) == (AlertKind.ANOMALY, True)
    assert first.score > first.threshold
    assert (second.phase, second.last_alert, second.threshold) == (StreamPhase.LEARNING, None, None)
    assert second.learning_left_s > 0
    assert third.reference_fill > 0
    assert counted(pipeline.streams.values()) == (1, 1)
    many = list(pipeline.streams.values()) * MAX_STREAMS
    assert len(stream_statuses(many, 420.0)) == MAX_STREAMS


def test_the_rate_is_that_of_the_last_messages_whatever_came_before(make):  # noqa: F811  the fixture
    pipeline = make("time: {path: ts, max_ahead: 10d}")
    pipeline.resume(["plant/a"], NOW, -1e6)
    stream = pipeline.streams["pump/a"]

    def hear(*seconds):
        pipeline.process(
            [msgspec.structs.replace(reading(i, {"a": 1.0}), elapsed_s=at) for i, at in enumerate(seconds)]
        )

    assert stream.rate(0.0) is None
    hear(0.0)
    assert stream.rate(1.0) is None
    hear(*(0.5 * i for i in range(1, 40)))
    assert stream.rate(19.5) == pytest.approx(2.0)
    assert stream.rate(119.5) == pytest.approx(0.01)  # it stays away
    hear(1000.0, *(1000.0 + 0.5 * i for i in range(60)))
    assert stream.rate(1029.5) == pytest.approx(2.0, rel=0.05)
    hear(2000.0, 2000.0, *(2000.0 + 10.0 * i for i in range(60)))
    assert stream.rate(2590.0) == pytest.approx(0.1, rel=0.05)
