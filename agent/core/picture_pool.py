"""What whole pictures look like: each channel's mean and deviation over space, and how halves differ, as one Gaussian.

The covariance is shrunk (Ledoit and Wolf 2004), so that it can be inverted with fewer pictures than numbers. A new fit
is made in steps of bounded work, while the old one goes on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from agent.core.types import F32, F64, I64

MIN_PICTURES: Final = 100  # fewer have no covariance worth the name
MIXTURES: Final = 32  # of channels
STEP_ROWS: Final = 125
_BLOCKS: Final = 8  # in which a covariance is inverted
_LEAST_SPREAD: Final = 1e-3  # of the mean spread


def pooled(maps: list[F32], sides: list[F32]) -> F32:
    """Return what is kept of a picture's maps, float32 [cells, dim] each: float32 [all], map by map.

    Mean and deviation of each channel, then for each of a map's `sides`, float32 [n, cells], by how much mixtures of
    channels differ from the one side to the other.
    """
    made = []
    for one, side in zip(maps, sides, strict=True):
        count = np.float32(len(one))
        mean = np.add.reduce(one) / count
        away = one - mean  # by hand in half of `std`'s time, which finds the mean once more
        made += [mean, np.sqrt(np.add.reduce(np.square(away, out=away)) / count)]
        made += [(side @ one @ mixtures(one.shape[1])).reshape(-1)]
    return np.concatenate(made).astype(np.float32)


def pooled_size(dims: list[int], sides: list[F32]) -> int:
    """Return how many numbers `pooled` gives for maps of so many channels."""
    return sum(2 * dim + len(side) * mixtures(dim).shape[1] for dim, side in zip(dims, sides, strict=True))


@lru_cache
def mixtures(dim: int) -> F32:
    """Return sums and differences of so many channels, at most MIXTURES, float32 [dim, mixtures]; always the same.

    By chance: distances among mixtures are nearly those among all channels (Johnson and Lindenstrauss 1984).
    """
    drawn = np.random.RandomState(0).randint(2, size=(dim, min(dim, MIXTURES)))  # its numbers are frozen for ever
    return np.asarray((2.0 * drawn - 1.0) / np.sqrt(dim), np.float32)


def sides_of(kept: I64, grid: tuple[int, int]) -> F32:
    """Return what compares a map's sides, float32 [3, cells]: left with right, top with bottom, and crosswise.

    Each is the difference of two means over the `kept` cells; 0 where one side has none.
    """
    rows, columns = grid
    row, column = np.divmod(kept, columns)
    down, right = np.sign(2 * row + 1 - rows), np.sign(2 * column + 1 - columns)
    made = np.zeros((3, len(kept)), np.float32)
    for one, sign in zip(made, (right, down, right * down), strict=True):
        counts = np.count_nonzero(sign > 0), np.count_nonzero(sign < 0)
        if min(counts) > 0:
            one[sign > 0], one[sign < 0] = 1.0 / counts[0], -1.0 / counts[1]
    return made


class Gaussian(msgspec.Struct, frozen=True):
    """A fit. `mean` and `spread` float32 [dim]; `precision` float32 [dim, dim] of deviations in units of spread.

    `shrinkage` in [0, 1] is how far the covariance was moved to a multiple of the identity.
    """

    count: int
    shrinkage: float
    mean: F32
    spread: F32
    precision: F32

    def deviations(self, rows: F32) -> F32:
        """Return rows float32 [n, dim] in units of spread."""
        return (rows - self.mean) / self.spread

    def distances(self, rows: F32) -> F64:
        """Return the squared Mahalanobis distances of rows, float64 [n]."""
        away = self.deviations(rows)
        return np.einsum("nd,nd->n", away @ self.precision, away).astype(np.float64)

    def left_out(self, squared: F64) -> F64:
        """Return what the squared distances of the fit's own rows were, had each not been part of it.

        Exact where spread, shrinkage and the covariance's divisor stay as they are: the covariance without row v is
        smaller by (1 - shrinkage) / (count - 1) times the outer product of v's deviation (Sherman and Morrison 1950).
        """
        n = self.count
        weight = (1.0 - self.shrinkage) / (n - 1)
        return (n / (n - 1)) ** 2 * squared / np.maximum(1.0 - weight * squared, 1e-6)


class GaussianBuild:
    """A fit in the making. `rows` float32 [n, dim] must not change until it is done."""

    def __init__(self, rows: F32) -> None:
        self.rows = rows
        self.steps = 0  # done so far
        self.fit: Gaussian | None = None
        self._mean: F64 = np.zeros(0)
        self._spread: F64 = np.zeros(0)
        self._products: F64 = np.zeros((0, 0))
        self._fourth, self._shrinkage = 0.0, 0.0
        self._left_out: F64 = np.zeros(len(rows))

    @staticmethod
    def steps_for(count: int) -> int:
        """Return how many steps a fit of so many rows takes."""
        return 2 + _BLOCKS + 2 * -(-count // STEP_ROWS)

    def step(self) -> tuple[Gaussian, F64] | None:
        """Do the next step; with the last one return the fit and its rows' left-out squared distances, float64 [n]."""
        parts = -(-len(self.rows) // STEP_ROWS)
        place, self.steps = self.steps, self.steps + 1
        if place == 0:
            self._begin()
        elif place <= parts:
            self._add(self._part(place - 1))
        elif place == parts + 1:
            self._shrink()
        elif place <= parts + 1 + _BLOCKS:
            self._invert(place - parts - 2)
        else:
            if self.fit is None:
                self.fit = self._done()
            part = self._part(place - parts - 2 - _BLOCKS)
            self._left_out[part] = self.fit.left_out(self.fit.distances(self.rows[part]))
            if part.stop >= len(self.rows):
                return self.fit, self._left_out
        return None

    def finish(self) -> tuple[Gaussian, F64]:
        """Do all steps that are left."""
        while (done := self.step()) is None:
            pass
        return done

    @staticmethod
    def _part(index: int) -> slice:
        return slice(index * STEP_ROWS, (index + 1) * STEP_ROWS)

    def _strips(self) -> list[slice]:
        """Return the rows of the covariance in parts: at once it would be there twice for a moment."""
        return [self._part(index) for index in range(-(-len(self._products) // STEP_ROWS))]

    def _begin(self) -> None:
        self._mean = self.rows.mean(axis=0, dtype=np.float64)
        total = np.zeros(len(self._mean))
        for start in range(0, len(self.rows), STEP_ROWS):  # all at once would take megabytes for a moment
            total += np.square(self.rows[start : start + STEP_ROWS] - self._mean).sum(axis=0)
        spread = np.sqrt(total / len(self.rows))
        self._spread = spread + _LEAST_SPREAD * spread.mean() + 1e-6
        self._products = np.zeros((len(spread), len(spread)))

    def _add(self, part: slice) -> None:
        away = (self.rows[part] - self._mean) / self._spread
        for strip in self._strips():
            self._products[strip] += away[:, strip].T @ away
        self._fourth += float(np.square(np.square(away).sum(axis=1)).sum())

    def _shrink(self) -> None:
        """Turn the sums into a shrunk covariance."""
        count, dim = self.rows.shape
        covariance = self._products
        covariance /= count
        self._shrinkage, level = shrink(covariance, self._fourth / count, count)
        covariance *= 1.0 - self._shrinkage
        covariance[np.diag_indices(dim)] += self._shrinkage * level

    def _invert(self, block: int) -> None:
        """Do one block of columns of the inversion in place, as Gauss and Jordan do it; after the last it is done.

        No block needs to be exchanged for another: the covariance is positive definite.
        """
        dim = len(self._products)
        part = slice(block * dim // _BLOCKS, (block + 1) * dim // _BLOCKS)
        made = self._products
        pivot = np.linalg.inv(made[part, part])
        row, column = pivot @ made[part], made[:, part].copy()
        for strip in self._strips():
            made[strip] -= column[strip] @ row
        made[part], made[:, part], made[part, part] = row, -column @ pivot, pivot

    def _done(self) -> Gaussian:
        return Gaussian(
            len(self.rows),
            self._shrinkage,
            self._mean.astype(np.float32),
            self._spread.astype(np.float32),
            self._products.astype(np.float32),
        )


def shrink(covariance: F64, fourth: float, count: int) -> tuple[float, float]:
    """Return the shrinkage that loses least, in [0, 1], and the mean variance it shrinks to.

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004), lemma 3.2 ff.
    `covariance` float64 [dim, dim] of centred rows, divided by `count`; `fourth` is the mean of their |row|^4.
    """
    dim = len(covariance)
    level = float(np.trace(covariance)) / dim
    size = float(np.square(covariance).sum())
    apart = size - dim * level**2
    noise = (fourth - size) / count
    if apart <= 1e-12 * size:  # a multiple of the identity already
        return 1.0, max(level, 1e-6)
    return min(max(noise / apart, 1e-3), 1.0), max(level, 1e-6)


def fields(fit: Gaussian | None) -> list[Any] | None:
    """Return a fit's fields in order."""
    return None if fit is None else list(msgspec.structs.astuple(fit))
