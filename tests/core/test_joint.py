"""The joint view of `hold`: whitening, shares, admission, and what a plant's fault does to it."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.joint import (
    MANY_CHANNELS,
    ROWS,
    SMOOTHING,
    JointReference,
    Waiting,
    joint_features,
    normal_tail,
    whitening,
)
from agent.core.quarantine import MAX_ALERTS, MAX_WINDOWS

GUARD = 8


def plant(rows, seed=0, channels=4):
    """Channels that follow one load, each with noise of its own."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(rows) / 9.0) + 0.1 * rng.normal(size=rows)
    return (load[:, None] * np.linspace(1, 2, channels) + 0.05 * rng.normal(size=(rows, channels))).astype(np.float32)


def learnt(rows, size=1000, neighbours=5):
    made = JointReference(size, neighbours)
    for _ in made.learn(rows, np.arange(len(rows), dtype=np.float64), rows.std(axis=0).astype(np.float64)):
        pass
    return made


def run(joint, rows, start=0):
    """Return scores and shares of each row from ROWS on."""
    scores, shares = [], []
    for end in range(ROWS, len(rows) + 1):
        white = joint.embed(rows[end - ROWS : end].T)
        score, share, admitted = joint.score(white)
        joint.wait(white, start + end, admitted=admitted, guard=GUARD)
        scores.append(score)
        shares.append(share)
    return np.array(scores), np.array(shares)


def test_whitening_makes_the_covariance_of_uncorrelated_noise_the_identity():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 3)) * [1.0, 1.0, 1.0]
    white = rows @ whitening(rows)
    assert np.cov(white.T) == pytest.approx(np.eye(3), abs=0.05)


def test_a_drift_of_the_warm_up_is_discounted_and_nothing_else():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 2))
    rows[:, 0] += np.linspace(0, 4, 1000)
    matrix = whitening(rows)
    along, across = np.linalg.norm(np.eye(2) @ matrix, axis=1)
    assert along < 0.3 * across


def test_a_channel_that_parts_from_the_others_is_found_though_it_stays_in_its_range():
    rows = plant(1600)
    joint = learnt(rows[:600])
    normal, _ = run(joint, rows[600:1200])
    broken = rows[1200:].copy()
    broken[:, 2] = np.roll(broken[:, 2], 28)  # half a period late
    odd, shares = run(joint, broken, 600)
    assert np.median(odd[ROWS:]) > 6
    assert np.quantile(normal, 0.99) < 3
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert (shares[ROWS:].argmax(axis=1) == 2).mean() > 0.8


def test_putting_back_the_leading_channel_takes_the_score_away():
    rows = plant(700)
    joint = learnt(rows[:600])
    tail = rows[680:700].copy()
    tail[:, 1] += 1.0
    away = joint.entries.astype(np.float32) - joint.embed(tail.T)
    before = np.linalg.norm(away, axis=1).min()
    _, share, _ = joint.score(joint.embed(tail.T))
    after = []
    for channel in range(4):
        mended = tail.copy()
        mended[:, channel] = rows[680:700, channel]
        after.append(np.linalg.norm(joint.entries.astype(np.float32) - joint.embed(mended.T), axis=1).min())
    assert share.argmax() == int(np.argmin(after)) == 1
    assert after[1] < 0.5 * before


def test_what_lasts_is_never_learnt():
    rows = plant(2000)
    joint = learnt(rows[:600])
    fault = rows[600:].copy()
    fault[:, 0] += 3.0
    scores, _ = run(joint, fault)
    assert scores[-200:].min() > 6
    assert joint.times.max() < 620


def test_normal_rows_enter_behind_the_guard_and_the_oldest_leave():
    rows = plant(1200)
    joint = learnt(rows[:400], size=300)
    assert len(joint.entries) == 300
    run(joint, rows[400:], 400)
    assert len(joint.entries) == len(joint.times) == 300
    assert joint.times.max() > 1000
    assert len(joint.waiting) == GUARD


def test_what_an_alert_held_back_can_be_let_in_and_taken_out_again():
    rows = plant(1200)
    joint = learnt(rows[:400], size=300)
    run(joint, rows[400:600], 400)
    for end in range(600, 640):
        tail = rows[end - ROWS : end].T + 3.0
        white = joint.embed(tail)
        joint.wait(white, float(end), admitted=joint.score(white)[2], guard=GUARD)
        joint.hold_back("x")
    again = JointReference(300, 5)
    again.restore(joint.snapshot())
    before = joint.times.tolist()
    odd = joint.score(joint.embed(rows[620:640].T + 3.0))[0]
    for one in (joint, again):
        assert one.accept("x", 7) == 40
        assert one.forget(7) == 40  # some of them still wait
        assert one.accept("x", 7) == 40
        run(one, rows[620:660], 640)  # the last of them pass the guard
        assert one.marked(7).sum() == 40
    joint.recent[:] = 0.0
    assert joint.score(joint.embed(rows[620:640].T + 3.0))[0] < odd
    assert joint.forget(7) == 40
    assert not joint.marked(7).any()
    assert {at for at in before if at >= 400} <= set(joint.times.tolist())
    assert joint.remove(joint.within(400.2, 410.9)) <= 11
    assert not ((joint.times >= 400) & (joint.times <= 410)).any()
    run(joint, rows[660:900], 660)
    assert len(joint.entries) <= 300


def test_old_alerts_and_windows_are_let_go():
    rows = plant(500)
    joint = learnt(rows[:400])
    white = joint.embed(rows[400:420].T + 3.0)
    for alert in range(MAX_ALERTS + 2):
        for at in range(MAX_WINDOWS + 5):
            joint.wait(white, float(at), admitted=False, guard=0)
            joint.waiting.append(Waiting(white.astype(np.float16), float(at), admitted=False, alert=str(alert)))
    joint.wait(white, 0.0, admitted=False, guard=0)
    assert list(joint.held) == [str(alert) for alert in range(2, MAX_ALERTS + 2)]
    assert {len(held) for held in joint.held.values()} == {MAX_WINDOWS}


def test_a_missing_channel_is_as_usual():
    rows = plant(700)
    joint = learnt(rows[:600])
    tail = rows[640:660].T.copy()
    tail[3] = np.nan
    assert np.isfinite(joint.embed(tail)).all()
    assert joint.score(joint.embed(tail))[0] < 3


def test_a_warm_up_in_which_one_channel_never_came_is_learnt_from_the_others():
    rows = plant(300)
    rows[:, 1] = np.nan
    joint = learnt(np.where(np.isnan(rows), np.nan, rows))
    assert np.isfinite(joint.whitening).all()


def test_many_channels_have_only_their_statistics():
    tail = np.zeros((MANY_CHANNELS + 1, ROWS), np.float32)
    assert len(joint_features(tail, np.zeros(len(tail)), np.ones(len(tail)))) == 2 * len(tail)
    assert len(joint_features(tail[:3], np.zeros(3), np.ones(3))) == 18


def test_three_sigma_is_about_one_in_741():
    assert 10 ** normal_tail(3.0) == pytest.approx(740.8, rel=1e-3)
    assert normal_tail(-50.0) == 0.0
    assert np.isfinite(normal_tail(500.0))


def test_one_odd_decision_is_smoothed_away():
    rows = plant(700)
    joint = learnt(rows[:600])
    joint.recent[:] = 0.0
    joint.score(joint.embed(rows[600:620].T))
    assert len(joint.recent) == SMOOTHING


def test_it_goes_on_from_a_snapshot():
    rows = plant(1000)
    joint = learnt(rows[:500])
    run(joint, rows[500:700], 500)
    other = JointReference(1000, 5)
    other.restore(joint.snapshot())
    assert (run(joint, rows[700:])[0] == run(other, rows[700:])[0]).all()
    assert (other.entries == joint.entries).all()


@pytest.mark.parametrize("between", [0, 5, 140, 330, 700])
def test_a_snapshot_and_additions_are_as_good_as_a_snapshot(between):
    rows = plant(1800)
    joint = learnt(rows[:400], size=300)
    again, told = JointReference(300, 5), []
    for begin in (400, 400 + between):
        run(joint, rows[begin : begin + between], begin)
        white = joint.embed(rows[begin - ROWS : begin].T + 3.0)
        for at in range(between // 2):
            joint.wait(white, float(at), admitted=False, guard=GUARD)
            joint.hold_back("x")
        if begin == 400:
            again.restore(joint.snapshot())
        else:
            told = [joint.addition()]
        joint.saved()
    told.append(joint.addition())
    for one in told:
        again.extend(one)
    found, expected = again.snapshot(), joint.snapshot()
    for name in ("entries", "times", "marks", "moments", "recent", "head"):
        assert np.array_equal(found[name], expected[name])
    assert [(alert, len(held)) for alert, held in found["held"].items()] == [
        (alert, len(held)) for alert, held in expected["held"].items()
    ]
    assert (run(joint, rows[:100])[0] == run(again, rows[:100])[0]).all()
