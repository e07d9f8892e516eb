"""The heatmap: contributions sum to the distance, small and wide defects are found, and edges are nothing special."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.picture_heat import UsualCells, contributions, heat_of
from agent.core.picture_parts import Layout
from agent.core.picture_pool import GaussianBuild, pooled

ALL = np.ones((9, 9), np.bool_)
NONE = np.zeros((9, 9))


def pictures(rng, count=40):
    return [
        [rng.normal(2, 1, (16, 3)).astype(np.float32), rng.normal(0, 2, (4, 2)).astype(np.float32)]
        for _ in range(count)
    ]


@given(st.integers(0, 200))
def test_contributions_sum_to_the_squared_distance(seed):
    made = pictures(np.random.default_rng(seed))
    sides = Layout([(4, 4, 3), (2, 2, 2)]).sides
    fit, _ = GaussianBuild(np.array([pooled(one, sides) for one in made])).finish()
    features = pooled(made[0], sides)
    usual = UsualCells([(16, 3), (4, 2)], 40)
    for one in made:
        usual.learn(one)
    total = sum(float(one.sum()) for one in contributions(fit, features, made[0], sides, usual.apart()))
    assert total == pytest.approx(float(fit.distances(features[None])[0]), rel=1e-2, abs=1e-3)


def test_what_is_always_so_at_a_place_adds_nothing_there():
    rng = np.random.default_rng(3)
    made = pictures(rng, 200)
    for one in made:
        one[0][:4] += 3.0  # an edge
    odd = [one.copy() for one in pictures(rng, 1)[0]]
    odd[0][:4] += 3.0
    odd[0][10] += 5.0
    sides = Layout([(4, 4, 3), (2, 2, 2)]).sides
    fit, _ = GaussianBuild(np.array([pooled(one, sides) for one in made])).finish()
    usual = UsualCells([(16, 3), (4, 2)], 100)
    blind = usual.apart()
    for one in made:
        usual.learn(one)
    found = [contributions(fit, pooled(odd, sides), odd, sides, apart)[0] for apart in (blind, usual.apart())]
    assert found[1].argmax() == 10
    assert np.abs(found[1][:4]).mean() < np.abs(found[0][:4]).mean()


def test_usual_cells_are_a_mean_that_follows_and_outlasts_a_restart():
    usual = UsualCells([(2, 1)], 10)
    assert usual.bytes == 8
    for value in (1.0, 3.0):
        usual.learn([np.full((2, 1), value, np.float32)])
    assert usual.means[0].tolist() == [[2.0], [2.0]]
    again = UsualCells([(2, 1)], 10)
    again.restore(usual.snapshot())
    for one in (usual, again):
        for _ in range(60):
            one.learn([np.array([[7.0], [9.0]], np.float32)])
    assert usual.means[0][:, 0] == pytest.approx([7.0, 9.0], abs=0.1)
    assert np.array_equal(usual.means[0], again.means[0])
    assert again.apart()[0][:, 0] == pytest.approx([-1.0, 1.0], abs=0.1)


def test_heat_is_where_the_evidence_is_and_nowhere_else():
    evidence = np.zeros((9, 9))
    evidence[0, 0] = 60.0
    kept = ALL.copy()
    kept[8] = False
    heat = heat_of(evidence, NONE, kept)
    assert heat.dtype == np.float32
    assert heat.argmax() == 0
    assert heat[0, 0] > 0.9
    assert heat[4:8].max() < 0.1
    assert (heat[8] == 0).all()


def test_a_wide_region_is_hot_by_votes_and_a_few_of_them_are_not():
    region = np.zeros((9, 9))
    region[:, :5] = 1.0
    few = np.zeros((9, 9))
    few[4, 4] = 1.0
    assert heat_of(3.0 * region, region, ALL)[:, :3].min() > 2.0 * heat_of(3.0 * region, region, ALL)[:, 7:].max()
    assert heat_of(few, few, ALL).max() < 0.1


def test_edges_are_neither_hotter_nor_colder():
    heat = heat_of(np.full((5, 7), 1.5), np.full((5, 7), 0.3), np.ones((5, 7), np.bool_))
    assert np.ptp(heat) < 1e-6
