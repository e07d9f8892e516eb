"""How far an embedding lies from the reference: distances and densities behind one interface.

A raw score rises with strangeness; it has no unit that could be compared between streams. Calibration gives it one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np

from agent.core.types import F32, Settings

_NOTHING: Final = 1e-3  # added to a distance before its logarithm: identical windows have one


class ScoreMethod(StrEnum):
    """Distance: mean distance to the k nearest references. Density: kernel density over all references."""

    DISTANCE = "distance"
    DENSITY = "density"


class ScoreSettings(Settings, frozen=True):
    """How raw scores are made."""

    method: ScoreMethod = ScoreMethod.DISTANCE
    neighbours: int = 5


def nearest_distance(squared: F32, neighbours: int) -> F32:
    """Return the mean of the `neighbours` smallest distances of each row, float32 [parts].

    `squared` float32 [parts, references] holds squared distances, inf where there is no reference.
    This is the average k-nearest-neighbour distance of Angiulli and Pizzuti (2002).
    """
    k = min(neighbours, squared.shape[1])
    smallest = np.partition(squared, k - 1, axis=1)[:, :k]
    return np.asarray(np.sqrt(smallest).mean(axis=1), np.float32)


def distance_score(squared: F32, neighbours: int, bandwidth: F32) -> F32:  # noqa: ARG001  one interface for all methods
    """Return the log of the mean distance to the nearest references, float32 [parts]."""
    return np.log(nearest_distance(squared, neighbours) + _NOTHING)


def density_score(squared: F32, neighbours: int, bandwidth: F32) -> F32:  # noqa: ARG001  one interface for all methods
    """Return the negative log of a Gaussian kernel density estimate over all references, float32 [parts].

    `bandwidth` float32 [parts] is a typical neighbour distance of the stream itself.
    """
    scaled = squared / (2.0 * np.square(np.maximum(bandwidth, _NOTHING)))[:, None]
    least = scaled.min(axis=1)
    held = np.isfinite(squared).sum(axis=1)
    mean = np.exp(least[:, None] - scaled).sum(axis=1) / held
    return np.asarray(least - np.log(mean), np.float32)


Scorer: TypeAlias = Callable[[F32, int, F32], F32]
SCORERS: Final[dict[ScoreMethod, Scorer]] = {
    ScoreMethod.DISTANCE: distance_score,
    ScoreMethod.DENSITY: density_score,
}
