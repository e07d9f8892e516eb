"""How far an embedding lies from the reference: distances and densities behind one interface.

A raw score rises with strangeness; it has no unit that could be compared between streams. Calibration gives it one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np

from agent.core.types import F32, Settings

_GROUP: Final = 32
_BLOCK: Final = 128
MAX_NEIGHBOURS: Final = 25  # of the fewest references that are scored, some lie behind the guard
_NOTHING: Final = 1e-3  # added to a distance before its logarithm: identical windows have one


class ScoreMethod(StrEnum):
    """Distance: mean distance to the k nearest references. Density: kernel density over all references."""

    DISTANCE = "distance"
    DENSITY = "density"


class ScoreSettings(Settings, frozen=True):
    """How raw scores are made."""

    method: ScoreMethod = ScoreMethod.DISTANCE
    neighbours: int = 5


def smallest(values: F32, count: int) -> F32:
    """Return the `count` smallest of each row, in no order, float32 [rows, count].

    The smallest values lie in those groups whose least value is smallest: only these are searched, which takes half
    the time of searching all.
    """
    rows, columns = values.shape
    groups = columns // _GROUP
    if groups <= 2 * count:
        return np.partition(values, count - 1, axis=1)[:, :count]
    grouped = values[:, : groups * _GROUP].reshape(rows, _GROUP, groups)
    best = np.argpartition(grouped.min(axis=1), count - 1, axis=1)[:, :count]
    found = np.take_along_axis(grouped, best[:, None, :], axis=2).reshape(rows, -1)
    if groups * _GROUP < columns:
        found = np.concatenate([found, values[:, groups * _GROUP :]], axis=1)
    found.partition(count - 1, axis=1)
    return found[:, :count]


def nearest_distance(squared: F32, neighbours: int) -> F32:
    """Return the mean of the `neighbours` smallest distances of each row, float32 [rows].

    `squared` float32 [rows, references] holds squared distances, inf where there is no reference.
    This is the average k-nearest-neighbour distance of Angiulli and Pizzuti (2002).
    """
    nearest = np.sort(smallest(squared, min(neighbours, squared.shape[1])), axis=1)
    return np.asarray(np.sqrt(nearest).mean(axis=1), np.float32)


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
    kernels = np.exp(least[:, None] - scaled)
    # In blocks, and these one after the other: references that other lanes have more must not change the rounding.
    blocks = np.pad(kernels, ((0, 0), (0, -kernels.shape[1] % _BLOCK))).reshape(len(kernels), -1, _BLOCK)
    mean = np.cumsum(blocks.sum(axis=2), axis=1)[:, -1] / held
    return np.asarray(least - np.log(mean), np.float32)


Scorer: TypeAlias = Callable[[F32, int, F32], F32]
SCORERS: Final[dict[ScoreMethod, Scorer]] = {
    ScoreMethod.DISTANCE: distance_score,
    ScoreMethod.DENSITY: density_score,
}
