"""Whitening and the examples of patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.picture_patches import (
    LEAST_DISTANCE,
    Moments,
    PatchBank,
    Whitening,
    first_radius,
    neighbourhood,
    strangeness,
)

CELLS = np.arange(4)


def bank(size=16, near=None, radius=0.5):
    made = PatchBank(size, 3, 0.25, near)
    made.log_radius = np.log(radius)
    return made


def patches(*rows):
    return np.array(rows, np.float32)


def spread(scale, count=4):
    return (np.eye(3, dtype=np.float32)[np.arange(count) % 3] * np.arange(1, count + 1)[:, None] * scale).astype(
        np.float32
    )


def test_whitened_patches_have_equal_spread_and_nothing_in_common():
    rng = np.random.default_rng(0)
    raw = (rng.normal(0, 1, (4000, 5)) @ rng.normal(0, 1, (5, 5)) * np.arange(1, 6) + 7).astype(np.float32)
    moments = Moments(5)
    for part in np.split(raw, 40):
        moments.add(part)
    covariance = np.cov(Whitening.of(moments).apply(raw).T)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=0.03)
    assert 0.5 < np.diag(covariance).min() <= np.diag(covariance).max() < 1.01


def test_the_order_of_pictures_does_not_matter_for_the_whitening():
    rng = np.random.default_rng(0)
    pictures = [rng.normal(0, 1, (6, 5)).astype(np.float32) for _ in range(20)]
    made = []
    for order in (pictures, pictures[::-1]):
        moments = Moments(5)
        for one in order:
            moments.add(one)
        made.append(Whitening.of(moments).apply(pictures[0]))
    assert np.allclose(np.abs(made[0]), np.abs(made[1]), atol=1e-2)


def test_channels_that_never_vary_do_not_break_it():
    moments = Moments(3)
    moments.add(np.ones((10, 3), np.float32))
    assert np.isfinite(Whitening.of(moments).apply(np.ones((2, 3), np.float32))).all()


@given(st.integers(0, 1000), st.booleans())
def test_nearest_is_what_brute_force_finds(seed, same):
    rng = np.random.default_rng(seed)
    near = neighbourhood(1, 4) if same else None
    made = bank(near=near, radius=1e-6)
    for number in range(3):
        made.learn(rng.normal(0, 1, (4, 3)).astype(np.float32), CELLS, number, 0.0)
    query = rng.normal(0, 1, (4, 3)).astype(np.float32)
    found, place = made.nearest(query, CELLS, without=1)
    away = np.linalg.norm(query[:, None] - made.vectors[None, : made.filled], axis=2)
    away[:, made.born[: made.filled] == 1] = np.inf
    if near is not None:
        away[np.abs(CELLS[:, None] - made.cells[: made.filled]) > 1] = np.inf
    assert np.allclose(found, np.maximum(away.min(axis=1), LEAST_DISTANCE), atol=1e-3)
    assert np.allclose(away[np.arange(4), place], away.min(axis=1), atol=1e-3)


def test_without_examples_everything_is_infinitely_far():
    assert np.isinf(bank().nearest(spread(1.0), CELLS)[0]).all()


def test_only_what_is_new_enters():
    made = bank()
    made.learn(spread(2.0), CELLS, 0, 10.0)
    assert made.count == 4
    made.learn(spread(2.01), CELLS, 1, 11.0)
    assert made.count == 4
    assert (made.seen[:4] == 1).all()
    made.learn(-spread(2.0), CELLS, 2, 12.0, mark=3)
    assert made.count == 8
    assert list(made.marks[:8]) == [0] * 4 + [3] * 4


def test_what_was_not_seen_for_longest_leaves():
    made = bank(size=8)
    made.learn(spread(2.0), CELLS, 0, 0.0)
    made.learn(-spread(2.0), CELLS, 1, 1.0)
    made.learn(spread(2.0), CELLS, 2, 2.0)  # seen again
    made.learn(spread(200.0), CELLS, 3, 3.0)
    assert sorted(made.born) == [0] * 4 + [3] * 4
    assert made.nearest(spread(2.0), CELLS)[0].max() < 0.2
    made.learn(-spread(300.0, 3), CELLS[:3], 4, 4.0)
    made.learn(spread(500.0, 3), CELLS[:3], 5, 5.0)
    assert np.count_nonzero(made.born == 5) == 3


def test_a_radius_follows_the_inflow_that_is_wanted():
    made = bank(size=4000, radius=1e-3)
    rng = np.random.default_rng(0)
    entered = []
    for number in range(800):
        before = made.count
        made.learn(rng.normal(0, 1, (4, 3)).astype(np.float32), CELLS, number, 0.0)
        entered.append(made.count - before)
    assert sum(entered[:20]) > 75
    assert np.mean(entered[-200:]) == pytest.approx(1.0, abs=0.2)


def test_what_is_taken_out_is_gone_and_its_places_are_used_again():
    made = bank(size=8)
    made.learn(spread(2.0), CELLS, 0, 0.0)
    made.learn(-spread(2.0), CELLS, 1, 1.0, mark=1)
    assert made.remove(made.marks == 1) == 4
    assert made.remove(made.born == 7) == 0
    assert made.nearest(-spread(2.0), CELLS)[0].min() > 1.0
    made.learn(spread(90.0), CELLS, 2, 2.0)
    assert sorted(made.born) == [0] * 4 + [2] * 4


def test_a_restart_loses_nothing():
    rng = np.random.default_rng(0)
    one, other = bank(radius=0.1), bank()
    for number in range(6):
        one.learn(rng.normal(0, 1, (4, 3)).astype(np.float16).astype(np.float32), CELLS, number, float(number))
    one.remove(one.born == 2)
    other.restore(one.snapshot())
    for number in range(6, 12):
        query = rng.normal(0, 1, (4, 3)).astype(np.float16).astype(np.float32)
        assert np.array_equal(one.nearest(query, CELLS)[0], other.nearest(query, CELLS)[0])
        for each in (one, other):
            each.learn(query, CELLS, number, float(number))
    assert one.bytes == other.bytes
    assert one.count == other.count


def test_the_first_radius_is_the_median_to_other_pictures():
    pictures = [patches([0, 0, 0], [9, 9, 9]), patches([1, 0, 0], [9, 9, 11])]
    assert np.exp(first_radius(pictures)) == pytest.approx(1.5, abs=0.01) or np.exp(
        first_radius(pictures)
    ) == pytest.approx(np.sqrt(2.5), abs=0.01)


@given(st.permutations([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
def test_strangeness_is_of_the_five_largest_in_any_order(distances):
    assert strangeness(np.array(distances, np.float32)) == pytest.approx(np.log(5.0))


def test_strangeness_of_few_patches_is_their_mean():
    assert strangeness(np.array([1.0, 3.0], np.float32)) == pytest.approx(np.log(2.0))
