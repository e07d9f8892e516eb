"""Laws of the budget's control: where the threshold begins, what moves it, how far, and what it leads to."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.alerting import AlertKind, AlertMachine, AlertSettings
from agent.core.budget import HASTE, HIGHEST, LOWEST, MAX_ALERTS, STEP, BudgetControl, share
from agent.core.types import Budget, Mode
from agent.pipeline import judge


def settings(per_decisions=100.0, **changes):
    return AlertSettings(false_alarms=Budget(count=1, per_decisions=per_decisions), **changes)


def made(alert=None, mode=Mode.ADAPT):
    control = BudgetControl(alert or settings(), mode)
    control.configure(1.0)
    return control


def again(control, alert=None):
    restored = BudgetControl(alert or settings())
    restored.restore(control.snapshot())
    restored.configure(1.0)
    return restored


def run(control, scores, alert, start=0):
    """Return how many alerts began, by the agent's own decisions at one score a second."""
    machine = AlertMachine(alert, agent="", stream="", kind=AlertKind.ANOMALY)
    told = [judge(control, machine, float(start + i), score) for i, score in enumerate(scores)]
    return sum(one is not None and one.event == "raised" for one in told)


def quiet(control, decisions, score=0.0):
    start = control.decisions
    for i in range(decisions):
        control.decide(float(start + i), score, raised=False)


def test_the_threshold_begins_at_the_promised_rate():
    for per in (2, 20, 100, 5000, 1e7):
        assert made(settings(per)).threshold == pytest.approx(np.log10(per))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.5, 0.0), (1.0, -0.4), (1.0, 0.3), (0.7, 0.3)])
@pytest.mark.parametrize("per", [100, 2000])
def test_whatever_scores_are_worth_alerts_come_as_often_as_promised(scale, shift, per):
    alert = settings(per, cooldown_s=5.0)
    control = made(alert)
    rng = np.random.default_rng(3)
    each = -np.log10(rng.uniform(size=60_000))
    scores = shift + scale * np.maximum(each[1:], each[:-1])  # neighbours have the same, as windows that overlap do
    raised = run(control, scores.tolist(), alert)
    assert 0.75 * len(scores) / per <= raised <= 1.25 * len(scores) / per + HIGHEST / STEP + 3  # what learning costs
    assert control.ratio == pytest.approx(raised * per / len(scores))


def test_the_ladder_learns_long_before_the_first_alert_is_promised():
    alert = settings(1e6)
    control = made(alert)
    scores = 0.5 * -np.log10(np.random.default_rng(1).uniform(size=20_000))  # half of what the rate would deserve
    run(control, scores.tolist(), alert)
    assert control.events == 0
    assert control.promised < 0.1
    assert control.threshold < 5.0
    assert abs(control.offset) < 0.05


@given(st.lists(st.floats(0.0, 12.0), max_size=200), st.sampled_from([3, 30, 1000, 1e6]))
def test_the_threshold_keeps_to_its_bounds_whatever_comes(scores, per):
    alert = settings(per, after=1, clear_after=1, cooldown_s=0.0)
    control = made(alert)
    run(control, scores, alert)
    assert 0.5 * np.log10(per) - 1e-9 <= control.threshold <= np.log10(per) + HIGHEST + 1e-9
    assert -LOWEST <= control.offset <= HIGHEST


def test_alerts_lift_the_offset_and_quiet_lowers_it_within_bounds():
    control = made()
    assert control.ratio == 0.0
    control.decide(0.0, 0.0, raised=True)
    assert control.offset == pytest.approx(STEP * 0.99)
    quiet(control, 10_000)
    assert control.offset == pytest.approx(-LOWEST)
    assert control.threshold == pytest.approx(1.0)  # half of the rate's own
    for _ in range(50):
        control.decide(20_000.0, 0.0, raised=True)
    assert control.offset == pytest.approx(HIGHEST, abs=0.01)


def test_an_alert_that_fires_ends_below_the_threshold():
    control = made(settings(1e5))
    assert control.odd(4.0, firing=True)
    assert not control.odd(4.0, firing=False)
    assert not control.odd(3.4, firing=True)


@pytest.mark.parametrize("rate", [0.5, 0.1, 1 / 24, 1 / 168, 1e-3, 1e-6])
def test_an_alert_of_any_budget_can_end_however_quiet_it_was_before(rate):
    control = made(settings(1 / rate))
    quiet(control, 20_000)
    assert not control.odd(0.25 * control.threshold, firing=True)
    assert control.odd(control.threshold, firing=False)
    assert control.threshold >= -0.5 * np.log10(rate)


def test_a_restart_changes_nothing():
    alert = settings(2000)
    control = made(alert)
    scores = np.random.default_rng(2).exponential(0.6, 6000).tolist()
    run(control, scores[:3000], alert)
    restored = again(control, alert)
    assert (restored.threshold, restored.ratio) == (control.threshold, control.ratio)
    for one in (control, restored):
        run(one, scores[3000:], alert, start=3000)
    assert restored.threshold == control.threshold


def test_another_budget_keeps_what_the_ladder_learnt():
    alert = settings(1e5)
    control = made(alert)
    run(control, np.random.default_rng(4).exponential(0.2, 5000).tolist(), alert)
    before = control.threshold
    control.change(settings(100).false_alarms)
    assert control.threshold < before - 1.0
    control.change(alert.false_alarms)
    assert control.threshold == pytest.approx(before)


def test_a_share_of_a_budget_can_be_taken_before_the_period_is_known():
    control = BudgetControl(settings(100))
    control.change(share(settings(100).false_alarms, 10))
    control.configure(1.0)
    assert control.rate == pytest.approx(1e-3)


def test_time_set_back_does_not_lengthen_a_pause_between_events():
    alert = settings(1000, cooldown_s=600.0)
    calm, set_back = made(alert), made(alert)
    for control, start in ((calm, 10_000), (set_back, 0)):
        run(control, [9.0] * 4 + [0.0] * 10, alert, start=5000)
        run(control, [9.0] * 4 + [0.0] * 10, alert, start=start)
    assert calm.threshold == set_back.threshold


def test_haste_moves_the_offset_further_while_little_is_promised_and_keeps_its_bound():
    calm, hasty = made(settings(100)), BudgetControl(settings(100), haste=HASTE)
    hasty.configure(1.0)
    for control in (calm, hasty):
        quiet(control, 50)
    assert 3.0 * calm.offset > hasty.offset > 4.0 * calm.offset  # both are below zero
    lifts = []
    for done in (0, 10_000):
        quiet(hasty, done)
        before = hasty.offset
        hasty.decide(0.0, 0.0, raised=True, alert="a")
        lifts.append(hasty.offset - before)
        hasty.confirm("a")
    assert lifts == pytest.approx([STEP * (1 + HASTE / 1.51), STEP * (1 + HASTE / 101.5)], rel=0.05)
    alert = settings(100, after=1, clear_after=1, cooldown_s=0.0)
    hasty = BudgetControl(alert, haste=HASTE)
    hasty.configure(1.0)
    raised = run(hasty, (-0.5 * np.log10(np.random.default_rng(6).uniform(size=10_000))).tolist(), alert)
    assert abs(raised - 100) <= (LOWEST + HIGHEST) / STEP


def test_haste_is_not_for_a_limit_that_only_rises():
    assert BudgetControl(settings(), Mode.HOLD, haste=HASTE).haste == 0.0


def test_the_threshold_of_hold_never_sinks():
    control = made(AlertSettings(), Mode.HOLD)
    assert control.budget.text == "1 per 1000 decisions"
    quiet(control, 5000)
    assert (control.offset, control.threshold) == (0.0, 3.0)
    control.decide(5000.0, 9.0, raised=True)
    assert control.threshold > 3.0


def test_a_confirmed_alarm_neither_counts_nor_lifts_the_offset():
    control = made()
    calm = copy.deepcopy(control)
    control.decide(0.0, 0.0, raised=True, alert="a")
    quiet(calm, 1)
    for one in (control, calm):
        quiet(one, 10)
    assert control.ratio > 1
    for one in (control, again(control)):
        assert one.knows("a")
        assert one.confirm("a")
        assert not one.confirm("a")
        assert one.ratio == 0.0
        assert one.threshold == pytest.approx(calm.threshold)


def test_a_confirmed_alarm_leaves_the_ladder_where_it_would_have_been():
    alert = settings(1e4)
    control = made(alert)
    run(control, np.random.default_rng(5).exponential(0.45, 3000).tolist(), alert)
    machine = AlertMachine(alert, agent="", stream="", kind=AlertKind.ANOMALY)
    calm = copy.deepcopy(control)
    for i in range(20):
        judge(control, machine, 3000.0 + i, 9.0)
        quiet(calm, 1)
    assert control.events == 1
    assert control.threshold > calm.threshold + 0.9 * STEP
    control.confirm(machine.id)
    assert control.threshold == pytest.approx(calm.threshold, abs=1e-6)


def test_confirming_takes_back_only_what_was_lifted_and_keeps_to_the_bounds():
    control = made()
    for i in range(MAX_ALERTS + 10):
        control.decide(float(i), 0.0, raised=True, alert=str(i))
    assert [control.knows(str(i)) for i in (0, 9, 10, MAX_ALERTS + 9)] == [False, False, True, True]
    assert control.confirm(str(MAX_ALERTS + 9))  # the offset was at its bound: it lifted nothing
    assert control.offset == pytest.approx(HIGHEST, abs=0.01)
    low = made()
    low.decide(0.0, 0.0, raised=True, alert="a")
    quiet(low, 10_000)
    assert low.confirm("a")
    assert low.offset == pytest.approx(-LOWEST)
