"""The budget benchmark's own arithmetic, and that it decides exactly as the agent does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tqdm import tqdm

from agent.adapters.mqtt.topics import Topics
from agent.adapters.telemetry import SilentObserver
from agent.config import AgentSettings, Configuration, SensorSettings
from agent.core.alerting import AlertSettings
from agent.core.budget import BudgetControl
from agent.core.types import Sample
from agent.pipeline import Pipeline
from agent.settings_builder import parse_budget
from tests.benchmarks.budget.__main__ import _cell, by_source, measured, summary
from tests.benchmarks.budget.methods import METHODS, AdaptiveConformal, Held, Tracking
from tests.benchmarks.budget.play import Branch, Played, Track, garwood, play, worst_day
from tests.benchmarks.budget.streams import DAY, KINDS, WEEK, normal_stream
from tests.benchmarks.detection.drive import Driver
from tests.benchmarks.detection.encoders import make_encoder

BUDGET = parse_budget("1 per 100 decisions")
ALERT = AlertSettings(false_alarms=BUDGET)


def track(scores, **changes):
    scores = np.asarray(scores, np.float32)
    given = {"at": 60.0 * np.arange(len(scores)), "counts": np.ones(len(scores), np.bool_), **changes}
    return Track("a", "kind", given.pop("at"), 60.0, scores, **given)


@pytest.mark.parametrize(("events", "low", "high"), [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (20, 12.2165, 30.8884)])
def test_intervals_are_those_of_published_tables(events, low, high):
    assert garwood(events) == pytest.approx((low, high), abs=2e-4)


def test_playing_stored_scores_gives_the_alerts_of_the_agent():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1400)
    for row in (700, 900, 1000, 1250):
        values[row : row + 12] += 6.0
    stream = SensorSettings(name="s", topic="s", channels=("0",), period_s=60.0, encoder="none", alert=ALERT)
    configuration = Configuration(agent=AgentSettings(id="a"), streams=[stream])
    pipeline = Pipeline(configuration, {}, Topics("redshank", "a"), SilentObserver())
    at = 60.0 * np.arange(1_000_000, 1_000_000 + len(values))
    made = pipeline.stream_of("s")
    raised = []
    for moment, value in zip(at.tolist(), values.tolist(), strict=True):
        for row in pipeline.process_sample(made, Sample(moment, {"0": value})).outbox:
            message = msgspec.json.decode(row.payload)
            raised += [moment] if message["event"] == "raised" else []
    driver = Driver(make_encoder("none"))
    feed = driver.feed("s", at / 60.0, values[:, None], driver.warm_up_rows)
    driver.run([feed], tqdm(disable=True))
    played = play(track(feed.scores, at=at), BudgetControl(ALERT), ALERT)
    assert len(raised) >= 3
    assert at[played.raised].tolist() == raised
    assert played.expected == pytest.approx((len(values) - driver.warm_up_rows) / 100)


def test_alarms_inside_labels_steer_and_are_not_counted():
    scores = np.zeros(400)
    scores[100:104] = scores[300:304] = 9.0
    counts = np.ones(400, np.bool_)
    counts[90:110] = False
    played = play(track(scores, counts=counts), BudgetControl(ALERT), ALERT)
    assert played.raised == [301]  # the second odd decision in a row
    assert played.raised_all == [101, 301]
    assert played.expected == pytest.approx(3.8)


def test_an_injection_changes_nothing_behind_it():
    scores = np.zeros(400)
    scores[300:304] = 9.0
    branches = [
        Branch(100, "shift", 2.0, np.full(20, 9.0, np.float32)),
        Branch(200, "shift", 2.0, np.full(20, 1.0, np.float32)),
        Branch(302, "shift", 2.0, np.full(20, 9.0, np.float32)),
        Branch(295, "spike", 2.0, np.full(20, np.nan, np.float32)),
    ]
    tracks = [track(scores, branches=branches)]
    played = play(tracks[0], Held(ALERT), ALERT)
    assert played.raised == [301]
    assert played.found == [True, False, None, False]
    assert played.delays == [1, None, None, None]
    assert played.by_chance == [False, False, None, True]
    cell = _cell(tracks, [played], {"a": [(300, 320), (350, 360)]})
    assert (cell["observed"], cell["expected"], cell["ratio"]) == (1, pytest.approx(4.0), pytest.approx(0.25))
    assert cell["by_kind"]["shift"] == [True, False]
    assert cell["recall"] == pytest.approx(2 / 5)  # two of three injections and two windows


def test_the_worst_day_is_that_of_one_stream():
    tracks = [track(np.zeros(3 * DAY)), track(np.zeros(3 * DAY))]
    played = [Played(1.0, rows, rows, [], [], []) for rows in ([1, 5, DAY + 1], [7])]
    assert worst_day(tracks, played) == 2
    assert worst_day(tracks, [Played(1.0, [], [], [], [], [])] * 2) == 0


def test_a_held_threshold_stays_and_a_conformal_level_follows_gibbs_and_candes():
    held = Held(ALERT)
    held.configure(60.0)
    held.decide(0.0, 9.0, raised=True)
    assert (held.threshold, held.events) == (2.0, 1)
    samples, events = AdaptiveConformal(ALERT, events=False), AdaptiveConformal(ALERT, events=True)
    for one in (samples, events):
        one.configure(60.0)
        assert one.odd(2.1, firing=False)
        assert not one.odd(1.9, firing=False)
        assert one.odd(1.9, firing=True)
        one.decide(0.0, 0.0, raised=False)
    assert samples.level == pytest.approx(0.01 + 1e-3 * 0.01)  # 1.9 is not within the level: no error
    assert events.level == pytest.approx(0.01 + 0.1 * 0.01)
    samples.odd(9.0, firing=False)
    samples.decide(0.0, 0.0, raised=False)
    events.decide(0.0, 0.0, raised=True)
    assert samples.level == pytest.approx(0.01 + 1e-3 * (0.01 + 0.01 - 1.0))
    assert events.level < 0.0
    assert not events.odd(300.0, firing=False)


def test_what_shipped_before_moves_with_alerts_alone_and_within_its_bounds():
    tracking = Tracking(ALERT)
    tracking.configure(60.0)
    assert tracking.odd(2.0, firing=False)
    tracking.decide(0.0, 2.0, raised=True)
    assert not tracking.odd(2.29, firing=False)
    assert tracking.odd(2.3, firing=False)
    for _ in range(2000):
        tracking.decide(0.0, 0.0, raised=False)
    assert tracking.odd(1.0, firing=False)
    assert not tracking.odd(0.99, firing=False)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_streams_are_the_same_each_time_and_another_for_each_number(kind):
    made = normal_stream(kind, 1, WEEK)
    assert made.shape == (WEEK,)
    assert np.isfinite(made).all()
    assert (made == normal_stream(kind, 1, WEEK)).all()
    assert (made != normal_stream(kind, 2, WEEK)).any()


def test_generated_streams_are_what_they_are_called():
    made = {kind: normal_stream(kind, 0, 4 * WEEK) for kind in KINDS}
    assert set(np.unique(np.round(2.0 * made["quantised"]) - 2.0 * made["quantised"])) == {0.0}
    at_limits = np.isin(made["saturating"], (-0.7, 0.9)).mean()
    assert 0.25 < at_limits < 0.6
    falls = np.flatnonzero(np.diff(made["counter"]) < 0)
    assert 4 * 7 * 24 / 16 - 1 <= len(falls) <= 4 * 7 * 24 / 8
    assert made["counter"][falls + 1].max() < 50
    assert 0.3 < made["on and off"].mean() < 0.7
    days = made["weekly x daily"].reshape(-1, DAY).std(axis=1)
    assert days.max() > 1.8 * days.min()
    assert np.abs(made["bursts"]).max() > 10.0


def test_tables_name_every_method_and_mark_what_breaks_the_budget():
    scores = np.zeros(2000)
    for first in range(50, 2000, 100):
        scores[first : first + 4] = 9.0
    tracks = [track(scores, branches=[Branch(20, "noise", 2.0, np.zeros(9, np.float32))])]
    results = {"1 per 1000 decisions": measured(tracks, "1 per 1000 decisions", {})}
    assert all(method in summary(results) for method in METHODS)
    assert "**" in by_source(results)


def test_plots_are_written(tmp_path: Path):
    from tests.benchmarks.budget.__main__ import draw  # noqa: PLC0415

    draw({"1 per 1000 decisions": measured([track(np.zeros(500))], "1 per 1000 decisions", {})}, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg"}
