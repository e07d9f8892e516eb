"""The Gaussian of whole pictures: closed forms against brute force, steps against one go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.picture_pool import (
    STEP_ROWS,
    Gaussian,
    GaussianBuild,
    fields,
    mixtures,
    pooled,
    pooled_size,
    shrink,
    sides_of,
)


def rows_of(seed, count, dim):
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (count, dim)) @ rng.normal(0, 1, (dim, dim)) + 3.0).astype(np.float32)


def test_pooled_is_mean_and_deviation_of_each_map():
    one, other = rows_of(0, 9, 2), rows_of(1, 4, 3)
    none = [np.zeros((0, 9), np.float32), np.zeros((0, 4), np.float32)]
    found = pooled([one, other], none)
    assert np.allclose(found, np.concatenate([one.mean(0), one.std(0), other.mean(0), other.std(0)]), atol=1e-6)
    assert len(found) == pooled_size([2, 3], none)


def test_sides_are_means_of_one_half_less_those_of_the_other():
    cells = rows_of(0, 16, 5)
    picture = cells.reshape(4, 4, 5)
    left, right, top, bottom = picture[:, :2], picture[:, 2:], picture[:2], picture[2:]
    crosswise = picture[:2, :2].sum((0, 1)) + picture[2:, 2:].sum((0, 1))
    expected = [
        right.mean((0, 1)) - left.mean((0, 1)),
        bottom.mean((0, 1)) - top.mean((0, 1)),
        crosswise / 8 - (cells.sum(0) - crosswise) / 8,
    ]
    sides = sides_of(np.arange(16), (4, 4))
    assert np.allclose(sides @ cells, expected, atol=1e-5)
    found = pooled([cells], [sides])
    assert len(found) == pooled_size([5], [sides]) == 10 + 3 * 5
    assert np.allclose(found[10:], (expected @ mixtures(5)).reshape(-1), atol=1e-4)


def test_sides_leave_out_what_is_in_the_middle_or_ignored():
    assert (sides_of(np.arange(9), (3, 3))[:, 4] == 0).all()
    upper = sides_of(np.arange(6), (4, 3))
    assert (upper[1] == 0).all()
    assert upper[0].tolist() == [-0.5, 0.0, 0.5, -0.5, 0.0, 0.5]


def test_mixtures_are_the_same_for_ever():
    assert mixtures(112).shape == (112, 32)
    assert (mixtures(112)[:2, :8] > 0).astype(int).tolist() == [[0, 1, 1, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1, 0]]


@given(st.integers(0, 1000), st.integers(12, 40), st.integers(2, 9))
@settings(max_examples=30)
def test_left_out_equals_a_fit_without_the_row(seed, count, dim):
    rows = rows_of(seed, count, dim)
    fit, left_out = GaussianBuild(rows).finish()
    wide = (rows.astype(np.float64) - fit.mean) / fit.spread
    level = float(np.mean(np.square(wide - wide.mean(0))))
    for place in range(0, count, 5):
        others = np.delete(wide, place, axis=0)
        away = others - others.mean(0)
        covariance = (1 - fit.shrinkage) * away.T @ away / count + fit.shrinkage * level * np.eye(dim)
        alone = wide[place] - others.mean(0)
        assert left_out[place] == pytest.approx(float(alone @ np.linalg.solve(covariance, alone)), rel=2e-2)


@given(st.integers(0, 1000), st.integers(2, 3 * STEP_ROWS), st.integers(2, 12))
@settings(max_examples=30)
def test_steps_give_what_one_go_gives(seed, count, dim):
    rows = rows_of(seed, count, dim)
    build = GaussianBuild(rows)
    for _ in range(GaussianBuild.steps_for(count) - 1):
        assert build.step() is None
    stepped, left_out = build.step()
    whole, expected = GaussianBuild(rows).finish()
    assert np.array_equal(stepped.precision, whole.precision)
    assert np.array_equal(left_out, expected)


@given(st.integers(0, 100), st.integers(5, 60))
@settings(max_examples=20)
def test_the_inverse_by_blocks_is_the_inverse(seed, count):
    rows = rows_of(seed, count, 7)
    fit, _ = GaussianBuild(rows).finish()
    wide = (rows - fit.mean) / fit.spread
    covariance = wide.T @ wide / count
    fourth = float(np.square(np.square(wide).sum(1)).mean())
    shrinkage, level = shrink(covariance.astype(np.float64), fourth, count)
    assert shrinkage == pytest.approx(fit.shrinkage, abs=1e-3)
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(7)
    assert np.allclose(fit.precision @ shrunk, np.eye(7), atol=2e-2)


@given(st.integers(0, 100))
@settings(max_examples=20)
def test_the_order_of_rows_does_not_matter(seed):
    rows = rows_of(seed, 50, 6)
    one, _ = GaussianBuild(rows).finish()
    other, _ = GaussianBuild(rows[np.random.default_rng(seed).permutation(50)]).finish()
    assert np.allclose(one.distances(rows), other.distances(rows), rtol=1e-3)


def test_shrinkage_falls_with_more_rows_and_is_whole_for_a_multiple_of_the_identity():
    few, _ = GaussianBuild(rows_of(0, 20, 10)).finish()
    many, _ = GaussianBuild(rows_of(0, 2000, 10)).finish()
    assert many.shrinkage < few.shrinkage
    assert shrink(2.0 * np.eye(4), 100.0, 10) == (1.0, 2.0)


def test_rows_that_are_all_the_same_can_be_fitted():
    fit, left_out = GaussianBuild(np.ones((10, 3), np.float32)).finish()
    assert np.isfinite(fit.precision).all()
    assert (left_out == 0).all()


def test_a_fit_has_its_fields():
    fit, _ = GaussianBuild(rows_of(0, 20, 4)).finish()
    again = Gaussian(*fields(fit))
    assert np.array_equal(again.distances(rows_of(1, 3, 4)), fit.distances(rows_of(1, 3, 4)))
    assert fields(None) is None
