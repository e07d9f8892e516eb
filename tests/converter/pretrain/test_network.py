from __future__ import annotations

import numpy as np
import pytest
import torch

from converter.pretrain.network import DIM, FEATURES, LENGTH, SensorSmall
from converter.recipes import RECIPES

pytestmark = pytest.mark.converter
RECIPE = RECIPES["sensor-small"]


@pytest.fixture
def network():
    made = SensorSmall().eval()
    with np.load(RECIPE.weights) as stored:
        made.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return made


def test_it_is_of_the_recipe_s_shape():
    assert (RECIPE.length, len(RECIPE.features), RECIPE.dim) == (LENGTH, FEATURES, DIM)


@pytest.mark.parametrize("count", [1, 7])
def test_a_window_s_embedding_does_not_depend_on_its_neighbours(network, count):
    windows = torch.randn(count, LENGTH, FEATURES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = network(windows)
        apart = torch.cat([network(one[None]) for one in windows])
    assert together.shape == (count, DIM)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_the_newest_point_reaches_the_embedding(network):
    windows = torch.zeros(2, LENGTH, FEATURES)
    windows[1, -1, 0] = 4.0
    with torch.no_grad():
        plain, moved = network(windows)
    assert torch.dist(plain, moved) > 1.0


def test_its_cost_is_what_is_written(network):
    counted = []

    def count(layer, _given, made):
        fan_in = layer.weight[0].numel()
        counted.append(fan_in * made.numel())

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    network(torch.zeros(1, LENGTH, FEATURES))
    assert round(sum(counted) / 1000) == 254
