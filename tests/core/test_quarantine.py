from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import quarantine, reference
from agent.core.bank import MIN_REFERENCES, TooFewLeftError
from agent.core.quarantine import KEPT_FIRST, MARKS, MAX_ACCEPTED, MAX_ALERTS, MAX_WINDOWS, Accepted, Held, Quarantine
from agent.core.reference import RENEWAL, ReferenceSettings
from agent.core.types import Mode
from tests.core.streams import changed, decide, feed, make, normal


def held(at, channels=1):
    return Held(
        float(at),
        np.arange(channels),
        np.full((channels, 4), at % 128, np.int8),
        np.ones((channels, 1), np.bool_),
        np.zeros((channels, 2)),
    )


def times(kept, alert):
    return [one.at for one in kept.held(alert)]


def accepted(mark):
    return Accepted(mark, np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4)), np.zeros((0, 4)))


def test_nothing_is_held_before_an_alert_and_what_came_to_nothing_is_let_go():
    kept = Quarantine()
    assert kept.bytes == 0
    kept.release()
    kept.keep("a", held(1), firing=False)
    assert kept.bytes > 0
    assert not kept.knows("a")
    kept.release()
    assert kept.bytes == 0
    kept.keep("b", held(2), firing=True)
    assert times(kept, "a") == []
    assert times(kept, "b") == [2.0]


def test_what_was_kept_while_an_alert_was_pending_is_there_once_it_fires():
    kept = Quarantine()
    kept.keep("a", held(1), firing=False)
    kept.keep("b", held(2), firing=False)  # the first came to nothing
    kept.keep("b", None, firing=True)
    kept.keep("b", held(3), firing=True)
    assert times(kept, "b") == [2.0, 3.0]
    assert kept.knows("b")


def test_the_first_and_the_newest_windows_of_the_newest_alerts_are_held():
    kept = Quarantine()
    for alert in range(MAX_ALERTS + 2):
        for at in range(MAX_WINDOWS + 10):
            kept.keep(str(alert), held(at), firing=at > 1)
    assert [kept.knows(str(alert)) for alert in range(MAX_ALERTS + 2)] == [False] * 2 + [True] * MAX_ALERTS
    first, newest = range(KEPT_FIRST), range(KEPT_FIRST + 10, MAX_WINDOWS + 10)
    assert times(kept, "5") == [float(at) for at in (*first, *newest)]
    assert kept.bytes == MAX_ALERTS * MAX_WINDOWS * held(0).bytes


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=400))
def test_no_two_accepted_alerts_share_a_mark(steps):
    kept, live = Quarantine(), {}
    for takes, alert in steps:
        if takes and str(alert) not in live:
            live[str(alert)] = kept.next_mark()
            kept.accept(str(alert), accepted(live[str(alert)]))
            if len(live) > MAX_ACCEPTED:
                del live[next(iter(live))]
        elif str(alert) in live and not takes:
            kept.forget(str(alert))
            del live[str(alert)]
        assert len(set(live.values())) == len(live)
        assert {alert for alert in map(str, range(41)) if kept.accepted(alert) is not None} == set(live)
    assert all(1 <= mark <= MARKS for mark in live.values())


def test_the_newest_accepted_alerts_can_be_forgotten():
    kept = Quarantine()
    for alert in range(MAX_ACCEPTED + 3):
        kept.accept(str(alert), accepted(kept.next_mark()))
    assert [alert for alert in range(MAX_ACCEPTED + 3) if not kept.knows(str(alert))] == [0, 1, 2]


def test_marks_come_round():
    kept = Quarantine()
    kept.accept("a", accepted(kept.next_mark()))
    assert [kept.next_mark() for _ in range(MARKS)] == [*range(2, MARKS + 1), 2]


def test_a_snapshot_resumes():
    kept = Quarantine()
    for alert in "abc":
        kept.keep(alert, held(ord(alert)), firing=True)
    kept.accept("a", accepted(kept.next_mark()))
    for pending in (False, True):
        if pending:
            kept.keep("d", held(7), firing=False)
        again = Quarantine()
        again.restore(kept.snapshot())
        assert (again.bytes, again.next_mark()) == (kept.bytes, 2)
        assert [times(again, alert) for alert in "abcd"] == [times(kept, alert) for alert in "abcd"]
        assert again.accepted("a").mark == 1
    again.keep("d", None, firing=True)
    assert times(again, "d") == [7.0]


def fault(count, start, seed=7):
    """Return a short burst on channel a: another shape at another level."""
    rng = np.random.default_rng(seed)
    samples = normal(count, start=start, seed=seed)
    return [
        type(one)(one.at, {**one.values, "a": 6.0 + (4.0 if i % 4 < 2 else -4.0) + rng.normal(0, 0.2)})
        for i, one in enumerate(samples)
    ]


def event(stream, start, alert, *, seed=7, after=60):
    """Feed a fault of 20 and what follows it, keeping what is refused for an alert; return the highest score."""
    scores, quiet = [], 0
    for sample in fault(20, start, seed) + normal(after, start=start + 20, seed=seed + 1):
        due = stream.push(sample)
        scores += [one.score for one in decide(stream.bank, [due])]
        quiet = 0 if scores[-1] > 4 else quiet + 1
        if quiet < 3:
            stream.bank.quarantine(due, alert, firing=sample.at > start)
    return max(scores)


def learnt(stream):
    """Return all that a forget has to bring back: references by age, calibration as a set, known range."""
    state = stream.snapshot()["learnt"]
    references = []
    for view, one in zip(stream.detector.views, state["references"], strict=True):
        for lane, (count, head) in enumerate(zip(one["count"], one["head"], strict=True)):
            order = (head - count + np.arange(count)) % (200 // view.every)
            references.append([(int(one["times"][lane, i]), one["entries"][lane, i].tobytes()) for i in order])
    calibration = [sorted(row.tolist()) for row in state["calibration"]["scores"]]
    return references, calibration, state["low"].tolist(), state["high"].tolist()


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
def test_an_event_that_was_accepted_does_not_look_odd_when_it_comes_again(mode, encoded):
    stream = make(mode=mode, encoded=encoded)
    feed(stream, normal(1200))
    assert event(stream, 1200, "x", after=300) > stream.budget.threshold
    other = copy.deepcopy(stream)
    assert 10 <= stream.bank.accept(stream.detector, "x") <= MAX_WINDOWS
    accepted_before, not_accepted = (event(one, 1520, "y", seed=9) for one in (stream, other))
    assert accepted_before < not_accepted
    if mode is not Mode.HOLD:  # the joint view tells two bursts of noise apart
        assert accepted_before < stream.budget.threshold


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
def test_forgetting_brings_back_what_was_before_accepting(mode, encoded):
    stream = make(mode=mode, encoded=encoded)
    feed(stream, normal(250))
    event(stream, 250, "x")
    before = learnt(stream)
    taken = stream.bank.accept(stream.detector, "x")
    assert learnt(stream) != before
    again = make(mode=mode, encoded=encoded)
    again.restore(stream.snapshot())
    for one in (stream, again):  # also after a restart
        assert one.bank.forget_alert(one.detector, "x") == taken
        after = learnt(one)
        oldest_left = [len(b) - len(a) for a, b in zip(after[0], before[0], strict=True)]  # those it had pushed out
        assert [b[gone:] for b, gone in zip(before[0], oldest_left, strict=True)] == after[0]
        assert after[1:] == before[1:]
        assert one.bank.forget_alert(one.detector, "x") == 0
    assert stream.bank.accept(stream.detector, "x") == taken


def test_what_is_learnt_after_accepting_stays_when_that_is_forgotten():
    stream, other = make(), make()
    for one in (stream, other):
        feed(one, normal(300))
        event(one, 300, "x")
    taken = stream.bank.accept(stream.detector, "x")
    for one in (stream, other):
        feed(one, normal(60, start=380, seed=3))
    assert stream.bank.forget_alert(stream.detector, "x") == taken
    for mine, others in zip(learnt(stream)[0], learnt(other)[0], strict=True):
        assert {at for at, _ in mine if at >= 300} == {at for at, _ in others if at >= 300}


def test_a_range_that_was_widened_further_since_stays():
    known = np.array([[0.0, 0.0], [5.0, 5.0]])
    changes = quarantine.widened(known, [held(1, 2)], np.fmin)
    assert known.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert changes.tolist() == [[1.0, 0.0, 5.0, 0.0], [1.0, 1.0, 5.0, 0.0]]
    known[1, 0] = -3.0
    quarantine.narrowed(known, changes)
    assert known.tolist() == [[0.0, 0.0], [-3.0, 5.0]]


def test_a_time_span_is_taken_out_of_references_and_of_what_waits():
    stream = make()
    feed(stream, normal(600))
    entered = {at for lane in learnt(stream)[0] for at, _ in lane if 560 <= at <= 595}
    assert len(entered) < stream.bank.forget_span(stream.detector, 560.2, 595.9) <= 36  # some of them still waited
    assert {at for lane in learnt(stream)[0] for at, _ in lane if 560 <= at <= 595} == set()
    feed(stream, normal(100, start=600))
    assert {at for lane in learnt(stream)[0] for at, _ in lane if 560 <= at <= 595} == set()
    assert stream.bank.forget_span(stream.detector, 560.0, 595.0) == 0


def test_hold_forgets_a_time_span_in_its_joint_reference_too():
    stream = make(mode=Mode.HOLD)
    feed(stream, normal(600))
    joint = stream.detector.joint
    due = stream.push(normal(1, start=600)[0])
    decide(stream.bank, [due])
    at, distance = stream.bank.nearest(due, 0)[0]
    assert at in joint.times
    assert distance > 0
    with pytest.raises(TooFewLeftError):
        stream.bank.forget_span(stream.detector, 0.0, 700.0)
    assert at in joint.times
    assert 0 < stream.bank.forget_span(stream.detector, 400.0, 600.0) <= 201
    assert not joint.within(400.0, 600.0).any()
    feed(stream, normal(60, start=601))
    assert not joint.within(400.0, 600.0).any()


def test_what_would_leave_too_little_to_compare_with_is_refused_and_changes_nothing():
    stream = make()
    feed(stream, normal(600))
    before = learnt(stream)
    with pytest.raises(TooFewLeftError, match=f"at least {MIN_REFERENCES} windows"):
        stream.bank.forget_span(stream.detector, 0.0, 600.0)
    assert learnt(stream) == before


def test_a_channel_with_little_to_compare_with_is_learnt_without_a_score():
    stream = make()
    samples = normal(250)
    samples[:160] = [type(one)(one.at, {"a": one.values["a"]}) for one in samples[:160]]
    feed(stream, samples)
    count = stream.bank.reference_size(stream.detector)
    one = Held(
        250.0,
        np.array([1]),
        np.zeros((1, sum(view.dim for view in stream.views)), np.int8),
        np.array([[True, False]]),
        np.zeros((1, 2)),
    )
    stream.detector.quarantine.keep("x", one, firing=True)
    assert stream.bank.accept(stream.detector, "x") == 1
    assert stream.detector.quarantine.accepted("x").scores.tolist() == []
    assert stream.bank.reference_size(stream.detector) == count


def test_an_alert_whose_windows_were_all_learnt_at_once_leaves_nothing_to_accept():
    stream = make()
    feed(stream, normal(300))
    due = stream.push(normal(1, start=300)[0])
    decide(stream.bank, [due])
    stream.bank.quarantine(due, "x", firing=True)
    assert stream.detector.quarantine.bytes == 0
    assert stream.bank.accept(stream.detector, "x") == 0


def test_lanes_that_were_given_back_are_used_again():
    first = make()
    feed(first, normal(300))
    other = make(("a", "b", "c"), bank=first.bank)
    feed(other, normal(300, ("a", "b", "c")))
    first.bank.release(make(bank=first.bank).detector)  # was still learning: it has none
    for _ in range(3):
        first.bank.release(first.detector)
        first = make(bank=first.bank)
        feed(first, normal(300))
        assert first.detector.lanes == (0, 2)
    assert feed(first, normal(5, start=300))[-1].score == feed(make_fed(), normal(5, start=300))[-1].score
    third = make(bank=first.bank)
    feed(third, normal(300))
    assert third.detector.lanes == (5, 7)


def make_fed():
    stream = make()
    feed(stream, normal(300))
    return stream


def test_a_slow_ramp_walks_the_reference_away_more_slowly_than_it_comes(monkeypatch):
    """It is not refused as odd. Without a cap nearly all of it enters."""

    def entered(share):
        monkeypatch.setattr(reference, "RENEWAL", share)
        stream = make(("a",), reference=ReferenceSettings(size=1000, warm_up=600))
        feed(stream, normal(1500, ("a",)))
        ramp = enumerate(normal(400, ("a",), start=1500))
        feed(stream, [changed([one], "a", lambda v, i=i: v + i / 100)[0] for i, one in ramp])
        one = stream.snapshot()["learnt"]["references"][0]
        return int((one["times"][0] >= 1500).sum())

    free, capped = entered(1.0), entered(RENEWAL)
    assert free > 350
    assert 100 < capped < 0.8 * free
