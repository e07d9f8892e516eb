"""How far an embedding lies from the reference: distances and densities behind one interface."""

from __future__ import annotations

from enum import StrEnum

from agent.core.types import Settings


class ScoreMethod(StrEnum):
    """Distance: mean distance to the k nearest references. Density: kernel density over all references."""

    DISTANCE = "distance"
    DENSITY = "density"


class ScoreSettings(Settings):
    """How raw scores are made."""

    method: ScoreMethod = ScoreMethod.DISTANCE
    neighbours: int = 5
