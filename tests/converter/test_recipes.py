from __future__ import annotations

import numpy as np
import pytest

from agent.bundle import ENCODERS, load_bundle
from converter.quantize import PRECISIONS
from converter.recipes import RECIPES, WEIGHTS

SHIPPED = ("efficientnet-lite0", "sensor-small")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_as_its_recipe_says(name):
    recipe, manifest = RECIPES[name], load_bundle(ENCODERS / name).manifest
    for field in ("name", "kind", "preprocessing", "licence"):
        assert getattr(manifest, field) == getattr(recipe, field)
    assert manifest.input.shape == list(recipe.shape)
    assert manifest.features == list(recipe.features)
    assert [one.name for one in manifest.outputs] == list(recipe.outputs)
    assert [one.precision for one in manifest.variants] == list(recipe.precisions)
    assert recipe.provenance in (ENCODERS / name / "PROVENANCE.md").read_text()


def test_the_weights_of_the_sensor_encoder_are_finite():
    with np.load(WEIGHTS) as weights:
        assert weights.files
        assert all(np.isfinite(weights[one]).all() for one in weights.files)


def test_these_ship_and_no_others():
    assert tuple(sorted(path.parent.name for path in ENCODERS.glob("*/manifest.json"))) == SHIPPED


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_listed_under_its_name_and_asks_for_precisions_that_there_are(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert recipe.kind in {"sensor", "image"}
    assert set(recipe.precisions) <= set(PRECISIONS)
    assert len(recipe.shape) == (2 if recipe.kind == "sensor" else 3)
    assert recipe.sizes == 0 or recipe.shape[0] % recipe.sizes == 0
