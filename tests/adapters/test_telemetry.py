from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from prometheus_client import generate_latest

from agent.adapters import telemetry as module
from agent.adapters.telemetry import SilentObserver, Telemetry
from agent.core.alerting import AlertEvent, AlertKind, AlertSettings, AlertTransition, Severity
from agent.core.budget import BudgetControl
from agent.core.types import Assessment, StreamPhase


class Clock:
    """A monotonic clock that a test sets: nobody waits a minute for a log line."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def telemetry(clock):  # noqa: ARG001  each of these has it
    made = Telemetry(7, 256_000_000, ["late", "malformed", "too_large"])
    made.watch(lambda: [Pump])
    return made


class Pump:
    """A stream as a scrape sees it."""

    name = "pump/a"
    phase = StreamPhase.ACTIVE
    severity = Severity.CRITICAL
    firing = False
    reference_fill = 300
    budget = BudgetControl(AlertSettings())


class Doubling:
    def encode(self, windows):
        return 2 * windows


def value(telemetry, name, **labels):
    return telemetry.registry.get_sample_value(f"redshank_{name}", labels)


def assessment(score=3.0, p_value=1e-3):
    nothing = np.zeros(0, np.float32)
    return Assessment(1.0, score, p_value, 1e-5, nothing, nothing, nothing, nothing, nothing)


def transition(event):
    return AlertTransition("0" * 16, AlertKind.ANOMALY, event, 1.0, 2.0)


def test_every_rejection_is_counted_by_its_reason(telemetry):
    for reason in ("late", "late", "malformed"):
        telemetry.rejected("plant/a", reason)
    assert value(telemetry, "messages_rejected_total", reason="late") == 2
    assert value(telemetry, "messages_rejected_total", reason="malformed") == 1


def test_a_rejection_is_logged_at_most_once_a_minute_for_each_reason_and_topic(telemetry, clock, caplog):
    said = []

    def reject(topic, reason):
        caplog.clear()
        telemetry.rejected(topic, reason)
        said.append([record.getMessage() for record in caplog.records])

    reject("plant/a", "late")
    reject("plant/a", "late")
    reject("plant/b", "late")
    reject("plant/a", "malformed")
    clock.now += 59.9
    reject("plant/a", "late")
    clock.now += 0.2
    reject("plant/a", "late")
    reject("plant/a", "late")
    late = ["dropped a message on plant/a: late"]
    other = [["dropped a message on plant/b: late"], ["dropped a message on plant/a: malformed"]]
    assert said == [late, [], *other, [], late, []]


def test_the_first_rejection_is_logged_however_short_ago_the_machine_was_started(telemetry, clock, caplog):
    clock.now = 0.5
    telemetry.rejected("plant/a", "late")
    assert caplog.messages == ["dropped a message on plant/a: late"]


def test_what_is_remembered_of_rejections_is_bounded(telemetry, caplog):
    caplog.set_level(logging.WARNING)
    for number in range(5000):
        telemetry.rejected(f"plant/{number}", "late")
    assert len(telemetry._complaints) <= 1000
    assert len(caplog.messages) <= 1000  # more in a minute would fill a disk
    lines = generate_latest(telemetry.registry).decode().splitlines()
    assert [
        line for line in lines if line.startswith("redshank_messages_rejected_total") and not line.endswith(" 0.0")
    ] == ['redshank_messages_rejected_total{reason="late"} 5000.0']


def test_the_encoders_calls_are_measured_and_its_answer_passed_on(telemetry):
    assert telemetry.timed_encode(Doubling(), np.array([3.0], np.float32)).tolist() == [6.0]
    assert value(telemetry, "encode_seconds_count") == 1


def test_a_decision_sets_score_and_p_value_and_measures_the_way_from_arrival(telemetry):
    telemetry.decided("pump/a", assessment(3.0, 1e-3), time.time() - 2)
    assert value(telemetry, "windows_encoded_total", stream="pump/a") == 1
    assert value(telemetry, "score", stream="pump/a") == 3.0
    assert value(telemetry, "p_value", stream="pump/a") == 1e-3
    assert 2 <= value(telemetry, "end_to_end_seconds_sum") < 10


def test_a_decision_without_a_p_value_leaves_the_last_one(telemetry):
    telemetry.decided("pump/a", assessment(3.0, 1e-3), time.time())
    telemetry.decided("pump/a", assessment(2.0, None), time.time())
    assert value(telemetry, "p_value", stream="pump/a") == 1e-3
    assert value(telemetry, "score", stream="pump/a") == 2.0


def test_a_message_from_the_future_counts_as_just_arrived(telemetry):
    telemetry.decided("pump/a", assessment(), time.time() + 3600)
    assert value(telemetry, "end_to_end_seconds_sum") == 0


def test_an_alert_counts_when_raised_and_not_when_cleared(telemetry, caplog):
    assert value(telemetry, "alerts_total", stream="pump/a", severity="critical") == 0
    telemetry.transitioned("pump/a", transition(AlertEvent.RAISED))
    telemetry.transitioned("pump/a", transition(AlertEvent.CLEARED))
    assert value(telemetry, "alerts_total", stream="pump/a", severity="critical") == 1
    assert caplog.messages == [
        "pump/a: alert 0000000000000000 raised (anomaly)",
        "pump/a: alert 0000000000000000 cleared (anomaly)",
    ]


def test_of_a_stream_that_is_watched_anew_nothing_old_is_told(telemetry):
    telemetry.transitioned(Pump.name, transition(AlertEvent.RAISED))
    assert value(telemetry, "alerts_total", stream=Pump.name, severity="critical") == 1
    for _ in range(2):  # a second time there is nothing
        telemetry.forget(Pump.name)
        assert value(telemetry, "alerts_total", stream=Pump.name, severity="critical") == 0


def test_the_cap_on_streams_and_the_version_are_told(telemetry):
    from importlib.metadata import version  # noqa: PLC0415  only this test asks

    assert value(telemetry, "streams_max") == 7
    assert value(telemetry, "build_info", version=version("redshank")) == 1


def test_two_of_them_share_nothing(telemetry):
    telemetry.rejected("plant/a", "late")
    assert value(Telemetry(1, 1), "messages_rejected_total", reason="late") is None


def test_what_has_not_happened_yet_is_told_as_0_so_that_its_first_time_is_seen(telemetry):
    assert value(telemetry, "messages_rejected_total", reason="too_large") == 0
    assert value(telemetry, "windows_encoded_total", stream="pump/a") == 0
    assert value(telemetry, "alert_firing", stream="pump/a") == 0


def test_a_stream_tells_its_phase_and_what_it_was_promised(telemetry, monkeypatch):
    assert value(telemetry, "stream_phase", stream="pump/a", phase="active") == 1
    assert value(telemetry, "stream_phase", stream="pump/a", phase="silent") == 0
    monkeypatch.setattr(Pump, "phase", StreamPhase.SILENT)
    monkeypatch.setattr(Pump, "firing", True)
    assert value(telemetry, "stream_phase", stream="pump/a", phase="active") == 0
    assert value(telemetry, "stream_phase", stream="pump/a", phase="silent") == 1
    assert value(telemetry, "alert_firing", stream="pump/a") == 1
    assert value(telemetry, "reference_size", stream="pump/a") == 300
    assert value(telemetry, "false_alarms_promised", stream="pump/a") == 0


def test_a_threshold_stands_beside_a_score_and_not_alone(telemetry):
    assert value(telemetry, "score_threshold", stream="pump/a") is None
    telemetry.decided("pump/a", assessment(), time.time())
    assert value(telemetry, "score_threshold", stream="pump/a") == Pump.budget.threshold


def test_a_stream_that_is_no_longer_watched_is_no_longer_told_of(telemetry):
    telemetry.decided("pump/a", assessment(), time.time())
    telemetry.watch(list)
    assert value(telemetry, "score", stream="pump/a") is None


def test_the_process_tells_its_memory_beside_the_limit(telemetry):
    assert telemetry.registry.get_sample_value("process_resident_memory_bytes") > 1e6
    assert value(telemetry, "memory_limit_bytes") == 256_000_000


def test_the_observer_of_a_replay_counts_and_says_nothing(caplog):
    observer = SilentObserver()
    observer.rejected("plant/a", "late")
    observer.decided("pump/a", assessment(), 0.0)
    observer.transitioned("pump/a", transition(AlertEvent.RAISED))
    assert observer.timed_encode(Doubling(), np.array([3.0], np.float32)).tolist() == [6.0]
    assert not caplog.records


def test_a_topic_makes_no_lines_of_its_own_in_the_log_and_no_long_ones(telemetry, caplog):
    telemetry.rejected("plant/\nERROR all is lost\x1b[2J\u2028" + "é" * 60_000, "late")
    (said,) = caplog.messages
    assert said.startswith("dropped a message on plant/\\x0aERROR all is lost\\x1b[2J\\x2028éé")
    assert said.isprintable()
    assert len(said) < 300
