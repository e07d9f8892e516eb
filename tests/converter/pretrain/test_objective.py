from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.core.scoring import nearest_distance as agent_s
from converter.pretrain.objective import NEIGHBOURS, areas, loss_of, low_rate_loss, nearest_distance, standardised

pytestmark = pytest.mark.converter


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_the_agent_s():
    queries, references = random(3, 20, 8), random(3, 100, 8, seed=2)
    found = nearest_distance(queries, references)
    for episode in range(3):
        squared = torch.cdist(queries[episode], references[episode]).square().numpy()
        expected = np.log(agent_s(squared, NEIGHBOURS) + 1e-2)
        np.testing.assert_allclose(found[episode], expected, rtol=1e-4, atol=1e-4)


def test_what_lies_farther_away_scores_higher():
    references = random(1, 250, 4)
    near, far, farther = standardised(
        references, torch.stack([references[0, 5] + 0.01, torch.full((4,), 9.0), torch.full((4,), 30.0)])[None]
    )[0]
    assert near < 1 < far < farther


def test_references_close_in_time_are_left_out_of_one_another_s_distances():
    # Runs that are alike: a reference has near neighbours only where it may not look for them.
    runs = 10.0 * torch.arange(250 // 5).repeat_interleave(5)[None, :, None]
    assert standardised(runs, runs[:, :1])[0, 0] < 0


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_scores_hardly_depend_on_the_unit_of_the_embeddings(scale):
    references, queries = 30 * random(1, 250, 8), 40 * random(1, 20, 8, seed=2)
    torch.testing.assert_close(
        standardised(references * scale, queries * scale), standardised(references, queries), rtol=0.02, atol=0.02
    )


def test_the_gradient_moves_embeddings():
    references = random(2, 250, 8).requires_grad_()
    standardised(references, random(2, 20, 8, seed=2)).sum().backward()
    assert torch.isfinite(references.grad).all()
    assert references.grad.abs().sum() > 0


def test_identical_embeddings_have_finite_gradients():
    references = torch.zeros(1, 250, 8, requires_grad=True)
    standardised(references, torch.zeros(1, 4, 8)).sum().backward()
    assert torch.isfinite(references.grad).all()


def test_the_loss_asks_for_anomalies_above_and_normal_windows_below():
    threshold, slope = torch.tensor(2.0), torch.tensor(0.0)

    def loss(normal, events):
        return loss_of(torch.full((2, 50), normal), torch.full((2, 4, 8), events), threshold, slope)

    assert loss(-1.0, 5.0) < loss(0.0, 0.0) < loss(5.0, -1.0)


def test_at_a_low_rate_only_the_hardest_normal_windows_and_the_best_of_an_event_count():
    normal, events = torch.linspace(-2, 2, 100)[None], torch.zeros(1, 4, 8)
    base = low_rate_loss(normal, events)
    easier = normal.clone()
    easier[:, :50] -= 5
    assert low_rate_loss(easier, events) == base
    harder = normal.clone()
    harder[:, -1] += 5
    assert low_rate_loss(harder, events) > base
    seen = events.clone()
    seen[:, :, 7] = 20.0
    assert low_rate_loss(normal, seen) < 0.01


@given(hnp.arrays(np.float32, 30, elements=st.integers(-3, 3)), st.sampled_from([0.1, 0.34, 1.0]))
def test_the_areas_are_shares_of_pairs_in_order(found, share):
    normal, odd = torch.from_numpy(found[:20]), torch.from_numpy(found[20:])
    hardest = sorted(found[:20])[-int(np.ceil(share * 20)) :]

    def pairs(above):
        return np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in found[20:] for b in above])

    area, low = areas(normal, odd, share)
    assert area == pytest.approx(pairs(found[:20]), abs=1e-6)
    assert low == pytest.approx(pairs(hardest), abs=1e-6)
