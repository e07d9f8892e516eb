"""The supported encoders, as data: one entry each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

WEIGHTS: Final = Path(__file__).parent / "pretrain" / "sensor-small.npz"


class Recipe(msgspec.Struct, frozen=True):
    """How an encoder is made, and what its bundle says of it."""

    name: str
    kind: str
    length: int
    features: list[str]
    dim: int
    preprocessing: str
    licence: str
    provenance: str
    weights: Path


RECIPES: Final = {
    recipe.name: recipe
    for recipe in [
        Recipe(
            name="sensor-small",
            kind="sensor",
            length=64,
            features=["value", "difference"],
            dim=32,
            preprocessing="u = clip(asinh((x - median) / spread), -8, 8), for values and first differences",
            licence="Apache-2.0",
            provenance=(
                "Trained from scratch on generated streams by `redshank-convert pretrain` "
                "(converter/pretrain/); no recorded data was used."
            ),
            weights=WEIGHTS,
        )
    ]
}
