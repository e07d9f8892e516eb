"""The heatmap: what each cell of a picture has to do with the scores, as a number from 0 to 1.

Small defects stand out from what is around them; wide ones are a little strange everywhere. So evidence counts where it
is more than around, and a vote over a third of the picture is added, in which one cell weighs about as much as another.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.picture_patches import lengthened, shortened
from agent.core.picture_pool import Gaussian, mixtures
from agent.core.types import F32, F64, Bools

NEAR: Final = 1.0  # cells of the finest grid, standard deviation of what is smoothed
FAR: Final = 2.0 / 7.0  # of the grid
PATCH_WEIGHT: Final = 2.0  # of a patch's log distance
SURROUND: Final = 0.5  # of the evidence around that is taken off
VOTE_WEIGHT: Final = 6.0
FULL_VOTE: Final = 2.0  # usual contributions
HOT: Final = 5.4  # evidence and votes at which heat is a half: of normal pictures, in one cell of a thousand
SOFT: Final = 1.2  # evidence over which heat grows e-fold where it is low


class UsualCells:
    """What each cell of each map is like on average, float32 [cells, dim] each: an edge is not odd for being one."""

    def __init__(self, shapes: list[tuple[int, int]], most: int) -> None:
        self.means: list[F32] = [np.zeros(shape, np.float32) for shape in shapes]
        self._count, self._most = 0, most  # pictures; from `most` on the oldest fade

    @property
    def bytes(self) -> int:
        """Return what it takes."""
        return sum(one.nbytes for one in self.means)

    def learn(self, maps: list[F32]) -> None:
        """Take a normal picture's maps, float32 [cells, dim] each."""
        self._count = min(self._count + 1, self._most)
        for held, one in zip(self.means, maps, strict=True):
            held[:] += (one - held) / np.float32(self._count)

    def apart(self) -> list[F32]:
        """Return how far each cell is from its map's mean, float32 [cells, dim] each."""
        return [one - one.mean(axis=0) for one in self.means]

    def snapshot(self) -> dict[str, Any]:
        """Return what was learnt."""
        return {"count": self._count, "means": [one.copy() for one in self.means]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._count, self.means = state["count"], [one.copy() for one in state["means"]]

    def addition(self) -> dict[str, Any]:
        """Return what was learnt in a fourth of its size, for `extended`."""
        return {"count": self._count, "means": [shortened(one) for one in self.means]}

    @staticmethod
    def extended(added: dict[str, Any]) -> dict[str, Any]:
        """Return the snapshot that an addition comes from, about."""
        return {"count": added["count"], "means": [lengthened(one) for one in added["means"]]}


def contributions(fit: Gaussian, features: F32, maps: list[F32], sides: list[F32], apart: list[F32]) -> list[F64]:
    """Return what each cell of each map, float32 [cells, dim], adds to the squared distance, float64 [cells] each.

    The distance is linear in the picture's deviation once one side of the quadratic form is held, and all that is
    pooled are sums over cells: in sum these are the squared distance of `features`, float32 [all]. What a usual cell
    would add at the same place, `apart` float32 [cells, dim] from its map's mean, is taken off; in sum that is nothing.
    """
    weights = ((fit.precision @ fit.deviations(features)) / fit.spread).astype(np.float64)
    made, first = [], 0
    for one, side, usual in zip(maps, sides, apart, strict=True):
        (cells, dim), mixed = one.shape, mixtures(one.shape[1])
        last = first + 2 * dim + len(side) * mixed.shape[1]
        middle, wide = slice(first, first + dim), slice(first + dim, first + 2 * dim)
        across = side.T @ weights[first + 2 * dim : last].reshape(len(side), mixed.shape[1])
        level = float(fit.mean[first + 2 * dim : last] @ weights[first + 2 * dim : last]) / cells
        first = last
        beside = one - features[middle]
        away = np.square(beside) / np.maximum(features[wide], 1e-6) - fit.mean[wide]
        found = _added(one - fit.mean[middle], away, beside, weights[middle], weights[wide], across @ mixed.T) - level
        there = np.square(usual) / np.maximum(fit.mean[wide], 1e-6)
        expected = _added(usual, there, usual, weights[middle], weights[wide], across @ mixed.T)
        made.append(found - (expected - expected.mean()))
    return made


def _added(by_mean: F32, by_deviation: F32, beside: F32, mean: F64, deviation: F64, across: F64) -> F64:
    """Return what cells add, float64 [cells]. Weights: of means and deviations float64 [dim], of sides [cells, dim]."""
    alone = (by_mean @ mean + by_deviation @ deviation) / len(by_mean)
    return np.asarray(alone + np.einsum("cd,cd->c", across, beside))


def heat_of(evidence: F64, votes: F64, kept: Bools) -> F32:
    """Return evidence and votes (0 to 1), float64 [rows, columns], as heat in 0..1, float32; 0 where not kept."""
    wide = FAR * max(evidence.shape)
    near, around = _smooth(evidence, kept, NEAR), _smooth(evidence, kept, wide)
    found = near - SURROUND * around + VOTE_WEIGHT * _smooth(votes, kept, wide)
    return np.where(kept, 1.0 / (1.0 + np.exp((HOT - found) / SOFT)), 0.0).astype(np.float32)


def _smooth(values: F64, kept: Bools, deviation: float) -> F64:
    """Return values smoothed among kept cells. Beyond the edge nothing is made up: a cell there is a mean of others."""
    across = [_kernel(size, deviation) for size in values.shape]
    weight = across[0] @ kept.astype(np.float64) @ across[1]
    return np.asarray(across[0] @ np.where(kept, values, 0.0) @ across[1] / np.maximum(weight, 1e-9))


def _kernel(size: int, deviation: float) -> F64:
    place = np.arange(size)
    return np.asarray(np.exp(-np.square(place[:, None] - place) / (2.0 * deviation**2)))
