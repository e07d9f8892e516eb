"""The delay benchmark's own arithmetic: what is injected, when it counts as found, what a competitor may see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from agent.core.calibration import Calibration
from agent.core.lanes import Lanes
from tests.benchmarks.competitors import COMPETITORS, GAUSSIAN_ROWS, RunningGaussian
from tests.benchmarks.delay.__main__ import delays, draw, kinds_table, measured, shipped, strengths_table, threshold_of
from tests.benchmarks.delay.run import Scored, competitor, forked, ours, through_our_head
from tests.benchmarks.delay.streams import (
    KINDS,
    LONGEST,
    STRENGTHS,
    Injection,
    Stream,
    faster,
    injection,
    length_of,
    plan,
)
from tests.benchmarks.detection.disturbances import robust_std
from tests.benchmarks.detection.encoders import make_encoder
from tests.benchmarks.detection.injected import AFTER_ROWS

STREAM = Stream("a", 5.0 + np.random.default_rng(0).normal(size=1500), 60.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_an_injection_takes_its_own_rows_and_nothing_else(kind, strength):
    made = injection(np.random.default_rng(1), STREAM, 700, kind, strength)
    clean = STREAM.values[700 : 700 + made.length + AFTER_ROWS]
    assert made.length == length_of(kind, strength)
    assert len(made.values) == made.length + AFTER_ROWS <= LONGEST
    assert (made.values[made.length :] == clean[made.length :]).all()
    assert np.abs(made.values - clean).max() >= 0.05 * robust_std(STREAM.values)


def test_a_frozen_constant_is_no_injection():
    flat = Stream("b", np.concatenate([np.zeros(400), np.arange(1000.0)]), 1.0)
    assert injection(np.random.default_rng(1), flat, 100, "frozen", 1.0) is None


def test_faster_is_there_and_back():
    assert faster(np.arange(5.0), 2.0).tolist() == [0.0, 2.0, 4.0, 2.0, 0.0]


def test_a_plan_has_as_many_of_each_and_is_the_same_each_time():
    streams = [STREAM, Stream("b", STREAM.values[::-1].copy(), 1.0), Stream("c", np.ones(1500), 1.0)]
    made = plan(streams, 700, 2)
    every = [one for those in made.values() for one in those]
    assert not made["c"]  # a constant
    for kind in KINDS:
        for strength in STRENGTHS:
            assert sum((one.kind, one.strength) == (kind, strength) for one in every) == 2
    assert all(700 <= one.row < 1500 - LONGEST for one in every)
    assert [one.row for one in plan(streams, 700, 2)["a"]] == [one.row for one in made["a"]]


def scored():
    scores = np.zeros(2100)
    scores[:100] = math.nan
    scores[500], scores[1500] = 3.0, 2.0
    injections = [Injection(row, "shift", 2.0, 64, np.zeros(80)) for row in (300, 490, 700)]
    branches = [np.zeros(80), np.zeros(80), np.zeros(80)]
    branches[0][7:20] = 5.0
    branches[1][3] = 5.0
    branches[2][3] = 2.5
    return Scored(STREAM, injections, scores, branches)


def test_delays_are_rows_to_the_first_alarm():
    found = delays([scored()], [2.5])
    assert [(delay, calm) for _, _, delay, calm in found] == [(7, False), (3, True), (None, False)]


def test_the_threshold_lets_as_many_blocks_alarm_as_were_promised():
    clean = scored().scores
    assert threshold_of([clean], 1 / 2000) == 2.0  # one block of 2,000 decisions
    assert threshold_of([clean], 1 / 3000) == 3.0  # none
    found = measured([scored()])
    assert found["threshold"] == 3.0
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["delay"] == 5.0
    assert found["by_kind"]["shift"]["by_strength"]["2"]["recall"] == found["recall"]
    assert found["by_kind"]["spike"]["recall"] is None


def test_the_agents_alerts_need_two_odd_decisions():
    found = shipped([scored()])
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["delay"] == 8.0
    assert found["clean_alarms"] == 0
    assert found["clean_alarms_promised"] == pytest.approx(0.2)


def test_the_running_gaussian_is_that_of_the_last_thousand():
    values = np.concatenate([1e6 + np.random.default_rng(2).normal(size=1500)])
    detector = RunningGaussian()
    made = [detector.step(value)[0] for value in values.tolist()]
    before = values[1400 - GAUSSIAN_ROWS : 1400]
    assert made[1400] == pytest.approx(abs(values[1400] - before.mean()) / before.std(), rel=1e-4)
    assert math.isnan(made[0])


def test_a_copy_leaves_the_detector_as_it_was():
    one, other = RunningGaussian(), RunningGaussian()
    for value in STREAM.values[:100].tolist():
        one.step(value)
        other.step(value)
    branch = forked(one, STREAM.values[100:110])
    assert branch.tolist() == [list(other.step(value)) for value in STREAM.values[100:110].tolist()]
    assert one.step(3.0) != other.step(3.0)


def test_a_copy_that_fails_is_no_score():
    class Broken:
        def step(self, value):
            raise ValueError(value)

    with pytest.raises(RuntimeError, match="copy of the detector"):
        forked(Broken(), np.zeros(3))


def test_our_head_gives_what_the_calibration_gives():
    rng = np.random.default_rng(4)
    raw = [Scored(STREAM, [], rng.normal(size=rows), []) for rows in (900, 1100)]
    raw[1].injections.append(Injection(800, "shift", 1.0, 64, np.zeros(80)))
    raw[1].branches.append(np.full(80, 9.0))
    made = through_our_head(raw, 700)
    alone = Calibration()
    alone.make_room(0, 1)
    alone.fill(0, raw[0].scores[:700].astype(np.float32))
    first = alone.p_values(Lanes.of((0, 1)), raw[0].scores[700:701].astype(np.float32))
    assert made[0].scores[700] == pytest.approx(-np.log10(first[0]))
    assert np.isnan(made[0].scores[:700]).all()
    assert len(made[0].scores) == 900
    assert made[1].branches[0][0] > made[1].scores[700:].max()


def test_every_method_sees_the_same_injections():
    injected = plan([STREAM], 700, 1)
    injected["a"] = injected["a"][:4]
    mine = ours(make_encoder("none"), [STREAM], injected, "")
    own, raw = competitor(RunningGaussian, [STREAM], injected, 633, "")
    for made in (mine, own, raw):
        assert sorted(one.row for one in made[0].injections) == sorted(one.row for one in injected["a"])
        assert [len(b) for b in made[0].branches] == [len(one.values) for one in made[0].injections]
    assert np.isnan(own[0].scores[:633]).all()
    assert np.isfinite(own[0].scores[633:]).all()
    results = {"Redshank": measured(mine), "running Gaussian": measured(own)}
    assert "running Gaussian" in kinds_table(results)
    assert "running Gaussian" in strengths_table(results)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "running Gaussian" else [pytest.mark.bench]) for name in COMPETITORS],
)
def test_competitors_find_what_stands_out(name):
    detector = COMPETITORS[name]()
    values = np.sin(np.arange(800) / 8.0) + 0.1 * np.random.default_rng(5).normal(size=800)
    values[760] += 6.0
    made = np.array([detector.step(value) for value in values.tolist()])
    assert np.isfinite(made[633:]).all()
    for column in made[633:].T:
        assert column[127:147].max() >= np.quantile(column, 0.99)


def test_plots_are_written(tmp_path: Path):
    draw({"Redshank": measured([scored()])}, tmp_path, "delay")
    assert {path.name for path in tmp_path.iterdir()} == {"delay.png", "delay.svg"}
