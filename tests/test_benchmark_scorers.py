"""The benchmark's own arithmetic, by hand: a scorer that is wrong makes every figure wrong."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.types import Mode
from tests.benchmarks.detection.disturbances import KINDS, LONGEST, STRENGTHS, disturbed, robust_std
from tests.benchmarks.detection.drive import Driver
from tests.benchmarks.detection.encoders import make_encoder
from tests.benchmarks.detection.injected import events, nth_highest
from tests.benchmarks.detection.nab_scoring import (
    Profile,
    Truth,
    alarms,
    best_threshold,
    best_with_refractory,
    corpus_of,
    on_other_halves,
    scaled,
    total_of,
    totals_by_file,
)
from tests.benchmarks.detection.skab import area_under_curve, best_f1, firing, rates, smoothed, threshold_of

STANDARD = Profile(tp=1.0, fn=1.0, fp=0.11)
TRUTH = Truth(1000, [(300, 399), (600, 699)])


def sigmoid(x):
    return 2.0 / (1.0 + np.exp(5.0 * x)) - 1.0


def scored(*rows):
    corpus = corpus_of([TRUTH])
    return total_of(corpus, np.array(rows, np.int64), STANDARD)


def test_silence_scores_null_and_the_left_edges_score_perfect():
    corpus = corpus_of([TRUTH])
    assert scaled(corpus, scored(), STANDARD) == 0.0
    assert scaled(corpus, scored(300, 600), STANDARD) == pytest.approx(100.0)


def test_a_late_detection_is_worth_less_and_the_first_one_counts():
    late = sigmoid(-(399 - 350 + 1) / 100) / sigmoid(-1.0)
    assert scored(350) == pytest.approx(late - 1.0)
    assert scored(350, 351, 399) == pytest.approx(late - 1.0)


def test_a_false_alarm_costs_more_the_further_it_is_behind_a_window():
    assert scored(200) == pytest.approx(-2.0 - 0.11)  # before any window
    assert scored(400) == pytest.approx(-2.0 + 0.11 * sigmoid(1 / 99))
    assert scored(599) == pytest.approx(-2.0 + 0.11 * sigmoid(200 / 99))
    assert scored(999) == pytest.approx(-2.0 - 0.11)  # three widths behind


def test_nothing_counts_during_probation():
    assert TRUTH.probation == 150
    assert Truth(20_000, []).probation == 750
    assert scored(0, 149) == -2.0
    corpus = corpus_of([Truth(1000, [(0, 99), (300, 399)])])
    assert scaled(corpus, total_of(corpus, np.array([300]), STANDARD), STANDARD) == pytest.approx(100 * 2 / 3)


def test_the_best_threshold_takes_all_rows_of_equal_score():
    corpus = corpus_of([TRUTH, TRUTH])
    scores = np.zeros(2000)
    scores[[300, 600, 1300]] = 3.0
    scores[[1600, 1601, 1500]] = 2.0  # the last window's left edge, and a false alarm just as strange
    value, threshold = best_threshold(corpus, scores, STANDARD)
    assert threshold == 2.0
    total = total_of(corpus, np.flatnonzero(scores >= 2.0), STANDARD)
    assert value == pytest.approx(scaled(corpus, total, STANDARD))


def test_the_sweep_finds_what_trying_every_threshold_finds():
    rng = np.random.default_rng(3)
    corpus = corpus_of([TRUTH, Truth(500, [(100, 149)]), Truth(400, [])])
    scores = np.round(rng.gamma(2.0, size=1900), 1)
    tried = [total_of(corpus, np.flatnonzero(scores >= t), STANDARD) for t in [*np.unique(scores), np.inf]]
    assert best_threshold(corpus, scores, STANDARD)[0] == pytest.approx(scaled(corpus, max(tried), STANDARD))


def test_an_alarm_silences_the_rows_behind_it_but_not_the_next_file():
    corpus = corpus_of([TRUTH, TRUTH])  # 19 silent rows: 13 % of 150
    scores = np.zeros(2000)
    scores[[500, 519, 520, 999, 1000]] = 1.0
    assert alarms(corpus, scores, 1.0).tolist() == [500, 520, 999, 1000]
    assert alarms(corpus, scores, 2.0).tolist() == []
    found = best_with_refractory(corpus, np.zeros(2000), {"standard": STANDARD})
    assert found["standard"][0] == 0.0


def test_totals_of_files_add_up_to_the_total():
    rng = np.random.default_rng(1)
    corpus = corpus_of([TRUTH, Truth(500, [(10, 49), (100, 149)]), Truth(400, [])])
    for rows in (np.zeros(0, np.int64), np.sort(rng.choice(1900, 60, replace=False))):
        made = totals_by_file(corpus, rows, STANDARD)
        assert made.shape == (3,)
        assert made.sum() == pytest.approx(total_of(corpus, rows, STANDARD))


def test_a_threshold_from_one_half_is_scored_on_the_other():
    corpus = corpus_of([TRUTH] * 4)
    scores = np.zeros(4000)
    for file, height in enumerate((2.0, 2.0, 5.0, 5.0)):
        scores[[1000 * file + 300, 1000 * file + 600]] = height
    scores[[500, 1500, 2450, 3450]] = (1.0, 1.0, 3.0, 3.0)  # false alarms: in the files with high ones, above 2
    found = on_other_halves(corpus, scores, {"standard": STANDARD}, 40, 0)["standard"]
    assert len(found) == 40
    # From high files 5 is chosen (nothing in the low ones), from low ones 2; from one of each 2.
    assert min(found) == 0.0
    assert max(found) <= 100.0
    assert any(0.0 < value < 100.0 for value in found)
    assert found == on_other_halves(corpus, scores, {"standard": STANDARD}, 40, 0)["standard"]


def test_rates_count_rows():
    labels = np.array([False, False, True, True])
    found = rates(np.array([True, False, True, False]), labels)
    assert found == {"f1": 0.5, "false_alarm_percent": 50.0, "missed_alarm_percent": 50.0}
    assert rates(np.zeros(4, np.bool_), labels)["f1"] == 0.0


def test_the_agents_alert_is_on_from_the_second_odd_row_to_the_third_normal_one():
    scores = np.full(30, np.nan, np.float32)
    scores[5:] = 0.0
    scores[10:14] = 9.0
    assert np.flatnonzero(firing(scores, "1 per 100 decisions", Mode.ADAPT)).tolist() == [11, 12, 13, 14, 15]
    assert threshold_of("1 per 1000 decisions") == pytest.approx(3.0)


def test_the_best_f1_is_that_of_one_threshold_for_all_rows():
    labels = np.array([False, False, True, True])
    found = best_f1(np.array([0.1, 0.5, 0.5, 0.9]), labels)
    assert found["f1"] == pytest.approx(0.8)
    assert found["false_alarm_percent"] == 50.0
    assert found["missed_alarm_percent"] == 0.0
    assert found["auc"] == 0.875
    assert area_under_curve(np.ones(4), labels) == 0.5


def test_scores_are_averaged_over_the_last_ten():
    assert smoothed(np.array([2.0, np.nan, 4.0])).tolist() == [2.0, 1.0, 2.0]
    assert smoothed(np.arange(20.0))[-1] == 14.5


def test_thresholds_are_order_statistics():
    scores = np.arange(1000, dtype=np.float32)
    assert (scores > nth_highest(scores, 1)).sum() == 1
    assert events(scores).tolist() == [99.0 + 100 * block for block in range(10)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_disturbance_changes_its_own_rows_and_nothing_below_the_floor(kind, strength):
    part = 5.0 + np.sin(np.arange(LONGEST + 16))
    made, length = disturbed(np.random.default_rng(1), part, kind, strength, robust_std(part), 0.0)
    again, _ = disturbed(np.random.default_rng(1), part, kind, strength, robust_std(part), 0.0)
    assert (made == again).all()
    assert (made[length:] == part[length:]).all()
    assert not np.allclose(made[:length], part[:length])
    assert made.min() >= 0.0


def test_a_constant_has_no_spread():
    assert robust_std(np.full(100, 45.0)) == 0.0


@pytest.mark.parametrize("name", ["none", "raw"])
def test_decisions_begin_where_the_warm_up_ends_and_see_what_is_strange(name):
    from tqdm import tqdm  # noqa: PLC0415  one test needs it

    rng = np.random.default_rng(0)
    values = rng.normal(size=(900, 1))
    values[800:820] += 8.0
    driver = Driver(make_encoder(name), Mode.ADAPT)
    feeds = [
        driver.feed("a", np.arange(900.0), values, 500),
        driver.feed("b", np.arange(700.0), values[:700], 300),
    ]
    driver.run(feeds, tqdm(disable=True))
    for feed, warm_up in zip(feeds, (500, 300), strict=True):
        assert np.isnan(feed.scores[:warm_up]).all()
        assert np.isfinite(feed.scores[warm_up:]).all()
    assert int(feeds[0].scores[500:].argmax()) in range(300, 330)
