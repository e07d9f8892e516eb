from __future__ import annotations

import numpy as np
import pytest

from agent.bundle import ENCODERS, load_bundle
from converter.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_shipped_as_it_says(name):
    recipe, manifest = RECIPES[name], load_bundle(ENCODERS / name).manifest
    for field in ("name", "kind", "length", "features", "dim", "preprocessing", "licence"):
        assert getattr(manifest, field) == getattr(recipe, field)
    assert recipe.provenance in (ENCODERS / name / "PROVENANCE.md").read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_finite_weights(name):
    with np.load(RECIPES[name].weights) as weights:
        assert weights.files
        assert all(np.isfinite(weights[one]).all() for one in weights.files)


def test_everything_shipped_has_a_recipe():
    assert {path.parent.name for path in ENCODERS.glob("*/manifest.json")} == set(RECIPES)
