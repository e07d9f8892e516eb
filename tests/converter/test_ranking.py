from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agent.encoder_proof import PATCHES, rows_of
from converter.ranking import (
    NEIGHBOURS,
    Population,
    area_under_curve,
    compare,
    gaussian_scores,
    neighbour_overlap,
    neighbour_scores,
    spearman,
)
from tests.converter.conftest import streams_of

EACH = 48


def population(streams=3):
    place = np.tile(np.arange(EACH), streams)
    return Population(np.repeat(np.arange(streams), EACH), place < 24, place >= 36)


@pytest.fixture
def rows():
    """Return rows of three streams; the anomalous ones lie farther out."""
    made, _ = streams_of(EACH)
    made[population().odd] += np.random.default_rng(1).normal(0, 2, (36, 16)).astype(np.float32)
    return made


def with_noise(rows, size):
    return rows + np.random.default_rng(2).normal(0, size, rows.shape).astype(np.float32)


def test_an_encoder_is_exactly_as_good_as_itself(rows):
    figures, scores = compare(rows, rows, population())
    assert figures.cosine_mean == pytest.approx(1.0)
    assert figures.cosine_p01 == pytest.approx(1.0)
    assert figures.overlap == figures.spearman_neighbours == figures.spearman_gaussian == pytest.approx(1.0)
    assert figures.tail_shift == figures.auroc_loss == 0.0
    for before, after in scores.values():
        assert before.shape == (72,)
        np.testing.assert_array_equal(before, after)


def test_every_figure_gets_worse_with_noise(rows):
    better, worse = (compare(rows, with_noise(rows, size), population())[0] for size in (0.1, 4.0))
    for name in ("cosine_mean", "cosine_p01", "overlap", "spearman_neighbours", "spearman_gaussian"):
        assert getattr(worse, name) < getattr(better, name) < 1.0, name
    assert worse.tail_shift > better.tail_shift
    assert worse.auroc_loss > better.auroc_loss
    assert worse.auroc_loss > 0.1


def test_rows_of_others_have_nothing_in_common(rows):
    shuffled = np.concatenate([np.random.default_rng(3).permutation(part) for part in np.split(rows, 3)])
    figures, _ = compare(rows, shuffled, population())
    assert abs(figures.spearman_neighbours) < 0.4
    assert figures.overlap < 0.3


def test_what_all_rows_have_in_common_flatters_no_cosine(rows):
    shuffled = np.random.default_rng(3).permutation(rows)
    near, far = (compare(rows + shift, shuffled + shift, population())[0].cosine_mean for shift in (0, 1000))
    assert near == pytest.approx(far, abs=0.01)
    assert far < 0.5


def test_without_labels_there_is_no_area(rows):
    of = population()
    assert compare(rows, rows, Population(of.stream, of.reference, None))[0].auroc_loss is None
    nothing = np.zeros_like(of.odd)
    assert compare(rows, rows, Population(of.stream, of.reference, nothing))[0].auroc_loss is None


def test_streams_are_compared_within_themselves(rows):
    moved = rows + 100 * population().stream[:, None].astype(np.float32)
    assert compare(moved, moved, population())[0].overlap == 1.0
    a, b = (compare(one, with_noise(one, 0.5), population())[0].spearman_neighbours for one in (rows, moved))
    assert a == pytest.approx(b, abs=0.01)


def test_neighbours_are_those_of_a_plain_search():
    a, b = np.random.default_rng(4).normal(size=(2, 30, 3))

    def nearest(rows, i):
        distances = [(float(np.linalg.norm(rows[i] - rows[j])), j) for j in range(30) if j != i]
        return {j for _, j in sorted(distances)[:NEIGHBOURS]}

    expected = np.mean([len(nearest(a, i) & nearest(b, i)) / NEIGHBOURS for i in range(30)])
    assert neighbour_overlap(a, b) == pytest.approx(expected)


def test_scores_rise_with_distance():
    references = np.random.default_rng(5).normal(size=(40, 4))
    queries = np.outer([0, 1, 3, 9], np.ones(4))
    for scorer in (neighbour_scores, gaussian_scores):
        assert (np.diff(scorer(queries, references)) > 0).all()


def test_the_gaussian_knows_which_directions_are_usual():
    rng = np.random.default_rng(6)
    references = rng.normal(size=(400, 1)) * [1.0, 1.0] + rng.normal(0, 0.05, (400, 2))
    along, across = gaussian_scores(np.array([[1.0, 1.0], [1.0, -1.0]]), references)
    assert across > along + 1


def test_a_constant_feature_is_no_division_by_zero():
    references = np.random.default_rng(7).normal(size=(20, 3)) * [1, 1, 0]
    assert np.isfinite(gaussian_scores(references + 0.1, references)).all()


@given(arrays(np.float64, 12, elements=st.integers(-3, 3)), arrays(np.float64, 12, elements=st.integers(-3, 3)))
def test_rank_correlation_is_that_of_ranks_with_ties_halved(a, b):
    def rank(values):
        return np.array([np.mean([(other < one) + 0.5 * (other == one) for other in values]) for one in values])

    found = spearman(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert found == 0.0
    else:
        assert found == pytest.approx(np.corrcoef(rank(a), rank(b))[0, 1], abs=1e-9)


@given(arrays(np.float64, 10, elements=st.integers(-3, 3)))
def test_the_area_is_the_share_of_pairs_in_order(scores):
    odd = np.arange(10) < 4
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[odd] for b in scores[~odd]]
    assert area_under_curve(scores, odd) == pytest.approx(np.mean(pairs))


def test_maps_become_statistics_over_space_and_patches():
    rng = np.random.default_rng(8)
    maps = [rng.normal(size=(5, 4, 4, 3)).astype(np.float32), rng.normal(size=(5, 2, 2, 6)).astype(np.float32)]
    positions = rng.integers(0, 1000, (5, PATCHES))
    rows = rows_of(maps, positions)
    assert set(rows) == {"pooled", "patches"}
    assert rows["pooled"].shape == (5, 2 * 3 + 2 * 6)
    np.testing.assert_allclose(rows["pooled"][:, :3], maps[0].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(rows["pooled"][:, -6:], maps[1].std(axis=(1, 2)), rtol=1e-5)
    for one in range(5):
        for patch in range(PATCHES):
            row, column = divmod(positions[one, patch] % 4, 2)
            np.testing.assert_array_equal(rows["patches"][one, patch], maps[1][one, row, column])


def test_an_embedding_is_a_row_of_its_own():
    made = np.random.default_rng(9).normal(size=(5, 8)).astype(np.float32)
    rows = rows_of([made], np.zeros((5, PATCHES), np.int64))
    assert list(rows) == ["embedding"]
    np.testing.assert_array_equal(rows["embedding"], made)
