from __future__ import annotations

import numpy as np
import pytest
import torch

from converter.pretrain.network import DIM, FEATURES, LENGTH, STRIDE, SensorSmall
from converter.recipes import RECIPES, WEIGHTS

pytestmark = pytest.mark.converter


@pytest.fixture
def network():
    made = SensorSmall().eval()
    with np.load(WEIGHTS) as stored:
        made.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return made


def test_it_is_of_the_recipe_s_shape():
    assert RECIPES["sensor-small"].shape == (LENGTH, FEATURES)


@pytest.mark.parametrize("count", [1, 7])
def test_a_window_s_embedding_does_not_depend_on_its_neighbours(network, count):
    windows = torch.randn(count, LENGTH, FEATURES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = network(windows)
        apart = torch.cat([network(one[None]) for one in windows])
    assert together.shape == (count, DIM)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("points", [LENGTH, LENGTH + STRIDE - 1, LENGTH + STRIDE, 300])
def test_a_series_is_embedded_as_its_windows_are(network, points):
    series = torch.randn(3, points, FEATURES, generator=torch.Generator().manual_seed(2))
    windows = series.unfold(1, LENGTH, STRIDE).transpose(2, 3)
    with torch.no_grad():
        expected = network(windows.flatten(0, 1)).unflatten(0, windows.shape[:2])
        torch.testing.assert_close(network.along(series), expected, rtol=1e-4, atol=1e-4)


def test_every_point_counts(network):
    windows = torch.zeros(1, LENGTH, FEATURES, requires_grad=True)
    network(windows).square().sum().backward()
    assert (windows.grad[0].abs().sum(1) > 0).all()


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
    assert round(sum(counted) / 1000) == 384
