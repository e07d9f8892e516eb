from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.alerting import AlertSettings, Direction, FrozenPolicy
from agent.core.bank import combined
from agent.core.pace import Steps
from agent.core.preprocess import RobustScale
from agent.core.reference import ReferenceSettings
from agent.core.scoring import SCORERS, ScoreMethod, ScoreSettings
from agent.core.types import Budget, Change, Mode, Sample, StreamPhase
from agent.core.views import plain
from agent.core.windowing import GridSettings
from tests.core.streams import changed, decide, feed, make, normal

OFTEN = AlertSettings(false_alarms=Budget(count=1, per_decisions=1000))


def test_a_stream_learns_then_decides_at_every_sample():
    detector = make()
    assert detector.learning_left > 0
    found = feed(detector, normal(400))
    assert detector.phase is StreamPhase.ACTIVE
    assert len(found) == 400 - detector.warm_up_rows
    assert detector.learning_left == 0


@pytest.mark.parametrize("method", list(ScoreMethod))
def test_a_level_shift_stands_out_and_names_its_channel(method):
    detector = make(score=ScoreSettings(method=method), alert=OFTEN)
    quiet = feed(detector, normal(600))
    loud = feed(detector, changed(normal(20, seed=5, start=600), "b", lambda v: v + 6))
    assert max(a.score for a in loud) > max(a.score for a in quiet)
    assert max(a.score for a in loud) > detector.budget.threshold
    assert int(np.argmax(loud[-1].part_scores)) == 1


def test_few_normal_decisions_look_rare():
    detector = make(("a",))
    found = feed(detector, normal(4000, ("a",)))
    assert np.mean([a.score > 3 for a in found]) < 0.005


def test_a_constant_channel_does_not_alarm_on_its_last_digit():
    detector = make(("a",), alert=OFTEN)
    samples = [Sample(float(i), {"a": 230.0}) for i in range(500)]
    samples += [Sample(float(500 + i), {"a": 230.1 if i % 2 else 230.0}) for i in range(50)]
    assert max(a.score for a in feed(detector, samples)) < detector.budget.threshold


def test_a_constant_channel_alarms_when_it_really_moves():
    detector = make(("a",), alert=OFTEN)
    samples = [Sample(float(i), {"a": 230.0 + 5.0 * (i >= 500)}) for i in range(520)]
    assert feed(detector, samples)[-1].score > detector.budget.threshold


def test_views_at_a_slower_scale_join_when_there_is_history_enough():
    detector = make(("a",), encoded=True)
    feed(detector, normal(600, ("a",)))
    found = feed(detector, normal(300, ("a",), start=700))  # behind a gap
    assert np.isfinite(found[0].view_scores[0, 0])
    assert np.isnan(found[0].view_scores[2, 0])
    assert np.isfinite(found[-1].view_scores).all()


def test_the_warm_up_of_a_wide_stream_is_embedded_in_pieces():
    names = tuple(f"c{i}" for i in range(40))
    detector = make(names, encoded=True)
    for sample in normal(700, names):
        _, due = detector.detector.push(sample)
        if due is not None:
            break
    sizes = []
    for part in detector.bank.warm_up(due):
        sizes.append(len(part.windows))
        part.embedding = plain(part.windows)
    assert max(sizes) == 128
    assert detector.phase is StreamPhase.ACTIVE
    found = feed(detector, normal(40, names, start=700))
    assert np.isfinite(found[-1].view_scores[0]).all()


def test_a_warm_up_that_is_given_up_gives_its_lanes_back():
    detector, other = (one := make()), make(bank=one.bank)
    dues = [next(due for sample in normal(190) if (due := one.detector.push(sample)[1])) for one in (detector, other)]
    parts = detector.bank.warm_up(dues[0])
    first = next(parts)
    first.embedding = plain(first.windows)
    next(parts)
    parts.close()
    assert (detector.phase, detector.lanes) == (StreamPhase.LEARNING, None)
    for part in detector.bank.warm_up(dues[1]):
        part.embedding = plain(part.windows)
    assert (other.phase, other.lanes) == (StreamPhase.ACTIVE, (0, 2))
    feed(detector, normal(40, start=190))
    assert detector.lanes == (2, 4)


@pytest.mark.parametrize("whole", [0, 40])
def test_a_channel_without_or_with_few_whole_windows_is_learnt_as_far_as_it_goes(whole):
    detector = make()
    samples = [
        Sample(one.at, one.values if i < whole or i % 30 > 15 else {"a": one.values["a"]})
        for i, one in enumerate(normal(300))
    ]
    found = feed(detector, samples)
    assert detector.phase is StreamPhase.ACTIVE
    assert found[-1].view_scores.shape == (2, 2)


def test_a_stride_decides_less_often():
    every, fourth = make(), make(stride=4)
    assert len(feed(every, normal(1400))) > 3 * len(feed(fourth, normal(1400))) > 0


@pytest.mark.parametrize(("rate", "steps"), [(1, 1), (20, 1), (50, 3), (100, 5)])
@pytest.mark.parametrize("given", [None, 7])
def test_the_steps_between_decisions_are_settled_once_by_the_period(rate, steps, given):
    kind = {"grid": GridSettings()} if given is None else {"stride": given}
    stream, steps = make(**kind), given or steps
    samples = [Sample(one.at / rate, one.values) for one in normal(1400)]
    assert feed(stream, samples[:100]) == []
    assert stream.stride == steps
    assert stream.learning_left == 150 * steps + 33 - 100
    found = feed(stream, samples[100:])
    assert {round((later.at - one.at) * rate) for one, later in pairwise(found)} == {steps}
    assert stream.guard == -(-32 // steps)
    slower = [Sample(samples[-1].at + 10 * one.at / rate, one.values) for one in normal(200, start=1)]
    found = feed(stream, slower)
    assert {round((later.at - one.at) * rate / 10) for one, later in pairwise(found[1:])} == {steps}
    assert stream.budget.rate == pytest.approx(stream.budget.budget.rate_per_decision(10 * steps / rate), rel=1e-6)


@pytest.mark.parametrize(
    ("stride", "told", "period_s", "settled"),
    [
        (5, {"settled": 5}, 1.0, 5),  # of a sender that has become slower
        (1, {}, 0.01, 1),  # of before anything was settled
        (1, {"settled": None}, 0.01, 5),
        (5, {}, 0.01, 5),
        (4, {}, 0.01, 5),
        (4, {}, None, 1),
        (4, {}, -0.01, 1),
    ],
)
def test_steps_go_on_as_they_were_settled_or_as_the_period_asks(stride, told, period_s, settled):
    state = {"grid": {"period_s": period_s}, **told}
    auto, fixed = make(), make(stride=7)
    for one in (auto, fixed):
        one.resume(stride, state)
    assert (auto.stride, fixed.stride) == (settled, 7)


def test_a_snapshot_tells_the_steps_only_where_they_are_not_plain():
    samples = [Sample(one.at / 100, one.values) for one in normal(900)]
    told = {}
    for kind in (Steps.AUTO, 1, 5):
        stream = make(stride=kind)
        feed(stream, samples)
        told[kind] = stream.snapshot().get("settled", "nothing")
        again = make(stride=kind)
        again.restore(stream.snapshot())
        assert again.stride == stream.stride
    assert told == {Steps.AUTO: 5, 1: None, 5: "nothing"}
    with pytest.raises(ValueError, match="34"):
        make().restore({"settled": 34})


def test_a_gap_must_be_filled_before_the_next_decision():
    detector = make()
    feed(detector, normal(400))
    later = normal(40, start=1000)
    assert feed(detector, later[:20]) == []
    assert feed(detector, later[20:]) != []


def test_gaps_while_learning_lose_nothing_but_the_windows_that_span_them():
    samples = [one for one in normal(900) if one.at % 100 > 10]
    detector = make()
    found = feed(detector, samples)
    assert detector.phase is StreamPhase.ACTIVE
    assert found
    assert detector.learning_left == 0


def test_a_stream_heard_now_and_then_learns_and_decides():
    times = np.cumsum(np.random.default_rng(0).choice([1.0, 1.0, 9.0], size=600))
    samples = [Sample(float(at), one.values) for at, one in zip(times, normal(600), strict=True)]
    detector = make(grid=GridSettings())
    found = feed(detector, samples)
    assert len(found) == 600 - detector.warm_up_rows


def test_a_value_that_no_longer_changes_alarms_unless_that_is_ignored():
    stuck = changed(normal(120, start=600), "a", lambda v: 0.3)  # noqa: ARG005
    scores = {}
    for policy in FrozenPolicy:
        detector = make(alert=AlertSettings(frozen=policy))
        feed(detector, normal(600))
        scores[policy] = feed(detector, stuck)[-1]
    assert scores[FrozenPolicy.ALERT].frozen_score > 4
    assert scores[FrozenPolicy.ALERT].frozen_scores.argmax() == 0
    assert not scores[FrozenPolicy.IGNORE].frozen_scores.any()


def test_hold_takes_memory_for_its_joint_reference():
    assert make(mode=Mode.HOLD).bank.lane_bytes - make().bank.lane_bytes == 12 * 200 + 4 * 36 * 64


def test_hold_raises_nothing_behind_a_gap_for_what_it_remembers_from_before():
    """As after a kill: the snapshot is from while an alert fired that has long ended."""
    detector = make(mode=Mode.HOLD)
    feed(detector, normal(600))
    odd = feed(detector, changed(normal(8, seed=5, start=600), "a", lambda v: v + 8))
    again = make(mode=Mode.HOLD)
    again.restore(detector.snapshot())
    behind = feed(again, normal(60, start=900))
    assert len(behind) == 60 - again.detector.views[0].span + 1
    threshold = again.detector.budget.threshold
    assert max(one.score for one in odd) > threshold > max(one.score for one in behind)
    lasting = feed(detector, changed(normal(60, start=900), "a", lambda v: v + 8))
    assert min(one.score for one in lasting) > threshold  # from the first one on


def test_hold_scores_all_channels_at_once_and_keeps_alarming():
    detector = make(mode=Mode.HOLD)
    assert detector.budget.budget.text == "1 per 1000 decisions"
    quiet = feed(detector, normal(900))
    loud = feed(detector, changed(normal(600, seed=5, start=900), "b", lambda v: v + 6))
    assert np.mean([one.score >= detector.budget.threshold for one in quiet]) < 0.05
    assert min(one.score for one in loud[-100:]) > detector.budget.threshold
    assert np.mean([one.part_scores.argmax() == 1 for one in loud[-100:]]) > 0.8


@pytest.mark.parametrize(
    ("asked", "up", "down"),
    [
        ({"direction": Direction.UP}, True, False),
        ({"direction": Direction.DOWN}, False, True),
        ({"min_change": {"b": Change(amount=3.0)}}, True, True),
        ({"min_change": {"b": Change(amount=30.0)}}, False, False),
    ],
)
def test_hold_asks_the_leading_channel_for_direction_and_least_change(asked, up, down):
    for change, expected in ((6.0, up), (-6.0, down)):
        detector = make(mode=Mode.HOLD, alert=AlertSettings(**asked))
        feed(detector, normal(450))
        loud = feed(detector, changed(normal(60, seed=5, start=450), "b", lambda v, change=change: v + change))
        assert (loud[-1].score > detector.budget.threshold) is expected


def test_a_channel_that_is_missing_does_not_silence_the_others():
    detector = make()
    feed(detector, normal(400))
    only = [Sample(s.at, {"a": s.values["a"]}) for s in normal(60, start=400)]
    found = feed(detector, only)
    assert found[-1].part_scores[1] == 0.0
    assert np.isnan(found[-1].view_scores[0, 1])


def test_a_channel_met_late_while_learning_is_watched_too():
    detector = make(())
    samples = normal(400)
    samples[:20] = [Sample(s.at, {"a": s.values["a"]}) for s in samples[:20]]
    found = feed(detector, samples)
    assert detector.grid.channels == ["a", "b"]
    assert np.isfinite(found[-1].view_scores).all()


@pytest.mark.parametrize(("direction", "sign"), [(Direction.UP, 1), (Direction.DOWN, -1)])
def test_only_the_asked_direction_alarms(direction, sign):
    def highest(change):
        detector = make(("a",), alert=AlertSettings(direction=direction))
        feed(detector, normal(500, ("a",)))
        return max(
            a.score for a in feed(detector, changed(normal(30, ("a",), start=500), "a", lambda v: v + change))[10:]
        )

    assert highest(6 * sign) > 3
    assert highest(-6 * sign) == 0.0


@pytest.mark.parametrize(
    ("least", "alarms"),
    [
        (Change(amount=50.0), False),
        (Change(amount=3.0), True),
        (Change(amount=0.6, relative=True), False),  # of about 10
        (Change(amount=0.3, relative=True), True),
    ],
)
def test_a_change_below_min_change_does_not_alarm(least, alarms):
    detector = make(("z", "b"), alert=AlertSettings(min_change={"b": least, "gone": Change(amount=1.0)}))
    feed(detector, normal(500, ("z", "b")))
    found = feed(detector, changed(normal(30, ("z", "b"), start=500), "b", lambda v: v - 4))
    assert (max(one.part_scores[1] for one in found) > 0.0) == alarms


def test_hold_and_frozen_do_not_learn_what_adapt_learns():
    sizes = {}
    for mode in Mode:
        detector = make(("a",), mode=mode, reference=ReferenceSettings(size=2000, warm_up=150))
        feed(detector, normal(400, ("a",)))
        feed(detector, changed(normal(400, ("a",), start=400), "a", lambda v: v + 30))
        sizes[mode] = detector.reference_size
    assert sizes[Mode.FROZEN] <= sizes[Mode.HOLD] < sizes[Mode.ADAPT]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("cut", [10, 180, 300])
def test_resuming_after_any_prefix_equals_never_having_stopped(cut, encoded):
    samples = normal(420)
    whole, first, second = make((), encoded=encoded), make((), encoded=encoded), make((), encoded=encoded)
    expected = [a.score for a in feed(whole, samples)]
    early = [a.score for a in feed(first, samples[:cut])]
    second.restore(first.snapshot())
    assert early + [a.score for a in feed(second, samples[cut:])] == expected


def test_evidence_tells_value_and_expected_range():
    detector = make(("a",))
    feed(detector, normal(400, ("a",)))
    due = detector.push(normal(1, ("a",), start=400)[0])
    value, low, high = detector.expected(due)
    assert low[0] < value[0] < high[0]
    assert -3 < low[0] < high[0] < 3
    for sample in changed(normal(30, ("a",), start=401), "a", lambda v: v + 50):
        detector.push(sample)
    assert detector.expected(due)[0] == value


def test_the_nearest_references_are_named_for_the_evidence():
    detector = make()
    feed(detector, normal(300))
    due = detector.push(normal(1, start=300)[0])
    found = detector.bank.nearest(due, 1)
    assert len(found) == 3
    assert [d for _, d in found] == sorted(d for _, d in found)
    young = detector.push(Sample(301.0, {"a": 1.0}))
    for i in range(10):
        young = detector.push(Sample(302.0 + i, {"a": 1.0})) or young
    assert detector.bank.nearest(young, 1) == []


def test_the_evidence_tells_since_when_nothing_was_as_odd():
    detector = make(("a",), stride=1)
    feed(detector, normal(400, ("a",)))
    feed(detector, changed(normal(3, ("a",), start=400), "a", lambda v: v + 40))
    feed(detector, normal(100, ("a",), seed=2, start=403))

    def since(change):
        due = detector.push(Sample(503.0, {"a": normal(1, ("a",), start=503)[0].values["a"] + change}))
        found = decide(detector.bank, [due])[0]
        return detector.bank.unlike_since(due, found, 0, due.at)

    at, ever = since(30)
    assert ever
    assert at == pytest.approx(403, abs=40)  # a window is 32 long: it is odd for so long


def test_what_a_channel_takes_grows_with_what_is_kept():
    small, large = make(), make(reference=ReferenceSettings(size=2000, warm_up=150))
    assert large.bank.lane_bytes - small.bank.lane_bytes == 1800 * (64 + 5) + 900 * (32 + 5)


NAMES = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b")]


@cache
def four():
    """Return four streams of one bank that decide."""
    first = make(("a",), encoded=True)
    streams = [make(names, bank=first.bank) for names in NAMES]
    for i, stream in enumerate(streams):
        feed(stream, normal(300, NAMES[i], seed=i))
    return streams


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_decisions_are_the_same_however_they_are_batched(order, size):
    def run(size):
        streams = copy.deepcopy(four())
        found, waiting, sent = [], [], [300] * 4
        for i in order:
            due = streams[i].push(normal(1, NAMES[i], seed=100 + sent[i], start=sent[i])[0])
            sent[i] += 1
            waiting.append(due)
            if len(waiting) >= size:
                found += decide(streams[0].bank, waiting)
                waiting = []
        return found + (decide(streams[0].bank, waiting) if waiting else [])

    alone, together = run(1), run(size)
    assert [a.score for a in alone] == [a.score for a in together]
    assert all(
        np.array_equal(a.view_scores, b.view_scores, equal_nan=True) for a, b in zip(alone, together, strict=True)
    )


def test_a_channel_with_too_few_windows_in_the_warm_up_learns_afterwards():
    detector = make(("a", "b"))
    samples = normal(500)
    samples[:160] = [Sample(s.at, {"a": s.values["a"]}) for s in samples[:160]]
    found = feed(detector, samples)
    assert np.isnan(found[0].view_scores[0, 1])
    assert np.isfinite(found[-1].view_scores[0, 1])


def test_a_measured_period_sets_the_budgets_rate():
    detector = make(
        ("a",), grid=GridSettings(period_s=None), alert=AlertSettings(false_alarms=Budget(count=1, per_s=1000))
    )
    feed(detector, normal(400, ("a",)))
    assert detector.budget.rate == pytest.approx(1e-3)


def test_channels_combine_as_the_harmonic_mean_of_their_p_values():
    parts = np.array([3, 3, 3, 3, 6, 0, 0, 0, 2], np.float32)
    assert combined(parts, [0, 4, 8, 9]) == pytest.approx([3.0, 6 - np.log10(4), 2.0], abs=1e-4)


@pytest.mark.parametrize("glitch", [65535.0, -1e30])
@pytest.mark.parametrize("missing", [0, 50])
def test_a_few_glitches_do_not_widen_the_scale(glitch, missing):
    rows = np.random.default_rng(0).normal(0, 1, (4000, 1)).astype(np.float32)
    rows[:missing] = np.nan
    scale, spoiled = RobustScale(1), RobustScale(1)
    scale.refresh(rows, np.zeros(1))
    rows[[1000, 2000, 2001]] = glitch
    spoiled.refresh(rows, np.zeros(1))
    assert spoiled.table[0, :, :, 1] == pytest.approx(scale.table[0, :, :, 1], rel=0.1)


def test_a_channel_without_a_past_has_no_known_range():
    detector = make(mode=Mode.HOLD)
    feed(detector, [Sample(s.at, {"a": s.values["a"]}) for s in normal(400)])
    found = feed(detector, normal(300, start=400))
    assert max(float(a.range_scores[1]) for a in found) == 0.0


@given(st.integers(32, 400), st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_a_density_does_not_depend_on_how_many_references_others_have(held, more):
    squared = np.random.default_rng(held).gamma(3, size=(1, held)).astype(np.float32)
    wide = np.pad(squared, ((0, 0), (0, more)), constant_values=np.inf)
    one = np.ones(1, np.float32)
    density = SCORERS[ScoreMethod.DENSITY]
    assert density(squared, 5, one) == density(wide, 5, one)


@pytest.mark.parametrize(
    ("budget", "rate"), [(Budget(count=2, per_decisions=100), 0.02), (Budget(count=1, per_s=600), 0.1)]
)
def test_budgets_become_rates_per_decision(budget, rate):
    assert budget.rate_per_decision(60.0) == pytest.approx(rate)


def test_a_sender_that_becomes_slower_is_measured_again_and_decides_again():
    detector = make(grid=GridSettings(), alert=AlertSettings(false_alarms=Budget(count=1, per_s=86400.0)))
    feed(detector, normal(400))
    before = detector.budget.rate
    slower = [Sample(400.0 + 20.0 * i, one.values) for i, one in enumerate(normal(200, start=400))]
    found = feed(detector, slower)
    assert detector.grid.period_s == 20.0
    assert len(found) > 80
    assert detector.budget.rate == pytest.approx(20 * before)
