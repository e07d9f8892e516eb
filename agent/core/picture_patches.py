"""What the patches of normal pictures look like: a bounded set of examples, each unlike the others.

A patch enters only where it is further than a radius from every example, and the example that was not seen for longest
leaves. So a few thousand examples tell of as many pictures as a hundred thousand patches would.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.core.types import F32, F64, I64, Bools
from agent.core.workspace import Workspace

DIM: Final = 64  # of a whitened patch
EXAMPLES_EACH: Final = 8  # kept for each picture of the reference, on average
STRANGEST: Final = 5  # patches whose mean distance is a picture's
LEAST_DISTANCE: Final = 0.1  # whitened patches of usual pictures lie 1 to 10 apart
RIDGE: Final = 0.01  # of the mean eigenvalue
RADIUS_GAIN: Final = 0.02  # of the radius's logarithm, for each picture that is learnt
_LARGEST: Final = 60000.0  # what half precision holds
_COARSE: Final = 0.35  # of the radius: vectors told in such units are a tenth of it from where they were
_LEVELS: Final = 31  # of numbers that are told in short, on either side of their mean
_LEAST_UNIT: Final = 1e-30


class Position(StrEnum):
    """Where in earlier pictures a patch is looked for."""

    ANYWHERE = "anywhere"
    SAME = "same"


def neighbourhood(rows: int, columns: int) -> Bools:
    """Return which cells of a grid are the same or touch, bool [cells, cells]."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    near = (np.abs(row[:, None] - row) <= 1) & (np.abs(column[:, None] - column) <= 1)
    return np.asarray(near)


class Moments:
    """Sums over patches, float64: what a whitening is made of."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.total: F64 = np.zeros(dim)
        self.products: F64 = np.zeros((dim, dim))

    def add(self, patches: F32) -> None:
        """Take patches, float32 [n, dim]."""
        wide = patches.astype(np.float64)
        self.count += len(wide)
        self.total += wide.sum(axis=0)
        self.products += wide.T @ wide


class Whitening:
    """Channels of equal spread, turned into principal components of equal spread: those that vary most, at most DIM.

    `mean` float32 [dim], `basis` float32 [dim, DIM].
    """

    def __init__(self, mean: F32, basis: F32) -> None:
        self.mean, self.basis = mean, basis

    @classmethod
    def of(cls, moments: Moments) -> Whitening:
        """Return the whitening of patches with these moments."""
        mean = moments.total / moments.count
        covariance = moments.products / moments.count - np.outer(mean, mean)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale = (spread + 1e-3 * spread.mean() + 1e-6) * np.sqrt(len(mean))
        values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
        values, vectors = np.maximum(values[::-1][:DIM], 0.0), vectors[:, ::-1][:, :DIM]
        stretch = np.sqrt(values + RIDGE * values.mean() + 1e-9)
        return cls(mean.astype(np.float32), (vectors / stretch / scale[:, None]).astype(np.float32))

    def apply(self, patches: F32) -> F32:
        """Return one picture's patches float32 [n, dim] whitened, float32 [n, DIM], in numbers that float16 holds."""
        white = (patches - self.mean) @ self.basis
        return np.clip(white, -_LARGEST, _LARGEST).astype(np.float16).astype(np.float32)


class PatchBank:
    """The examples. `vectors` float32 [size, dim] in numbers that float16 holds; an empty place has an infinite square.

    Each has the cell it came from, the number of the picture that it came with and of the last one that it was near to,
    and that picture's time and mark.
    """

    _ARRAYS: Final = ("vectors", "squares", "cells", "born", "seen", "times", "marks")

    def __init__(
        self, size: int, dim: int, inflow: float, near: Bools | None = None, workspace: Workspace | None = None
    ) -> None:
        self._workspace = workspace or Workspace()
        self.size, self.inflow = size, inflow  # the share of patches that is to enter
        self.near = near  # bool [cells, cells]: where a patch is looked for; None: anywhere
        self.vectors: F32 = np.zeros((size, dim), np.float32)
        self.squares: F32 = np.full(size, np.inf, np.float32)
        self.cells: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.born: I64 = np.full(size, -1, np.int64)
        self.seen: I64 = np.full(size, -1, np.int64)  # -1: empty
        self.times: F64 = np.zeros(size)
        self.marks: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.filled = 0  # places from here on were never used
        self.log_radius = 0.0
        self._on_disk: tuple[I64, I64] | None = None  # `born` and `seen` of the places that were filled

    @property
    def bytes(self) -> int:
        """Return what it takes."""
        return sum(getattr(self, name).nbytes for name in self._ARRAYS) + self.born.nbytes + self.seen.nbytes

    @property
    def count(self) -> int:
        """Return how many examples there are."""
        return int(np.count_nonzero(self.seen[: self.filled] >= 0))

    def nearest(self, patches: F32, cells: I64, without: int | None = None) -> tuple[F32, I64]:
        """Return the distance to and the place of the nearest example, float32 [n] and int64 [n]; inf where none is.

        `patches` float32 [n, dim] whitened, of the grid's `cells` int64 [n]. Examples that came with the picture of
        number `without` do not count.
        """
        if self.filled == 0:
            return np.full(len(patches), np.inf, np.float32), np.zeros(len(patches), np.int64)
        squared = self._workspace.squares(len(patches), self.filled)
        np.matmul(-2.0 * patches, self.vectors[: self.filled].T, out=squared)
        squared += self.squares[: self.filled]
        if self.near is not None:
            squared[~self.near[cells][:, self.cells[: self.filled]]] = np.inf
        if without is not None:
            squared[:, self.born[: self.filled] == without] = np.inf
        place = squared.argmin(axis=1)
        least = squared[np.arange(len(patches)), place] + np.square(patches).sum(axis=1)
        return np.sqrt(np.maximum(least, LEAST_DISTANCE**2)), place

    def learn(
        self,
        patches: F32,
        cells: I64,
        number: int,
        at: float,
        mark: int = 0,
        found: tuple[F32, I64] | None = None,
    ) -> None:
        """Let in what is new of a picture's patches, and note which examples were seen again.

        `found` is what `nearest` gave for them just now, where that was asked already.
        """
        distances, place = self.nearest(patches, cells) if found is None else found
        new = distances > np.exp(self.log_radius)
        self.seen[place[~new]] = number
        entering = int(new.sum())
        places = self._room(entering)
        self.vectors[places], self.squares[places] = patches[new], np.square(patches[new]).sum(axis=1)
        self.cells[places], self.born[places], self.seen[places] = cells[new], number, number
        self.times[places], self.marks[places] = at, mark
        self.log_radius += RADIUS_GAIN * (entering / len(patches) - self.inflow)

    def _room(self, wanted: int) -> I64:
        """Return as many places: unused ones, else those not seen for longest."""
        fresh = np.arange(self.filled, min(self.size, self.filled + wanted))
        self.filled += len(fresh)
        missing = wanted - len(fresh)
        if missing == 0:
            return fresh
        age = self.seen * self.size + np.arange(self.size)  # no two are equal: the same leave everywhere
        age[fresh] = np.iinfo(np.int64).max
        return np.concatenate([fresh, np.sort(np.argpartition(age, missing - 1)[:missing])])

    def remove(self, leaving: Bools) -> int:
        """Take examples out, bool [size]; return how many."""
        leaving = leaving & (self.seen >= 0)
        self.squares[leaving], self.seen[leaving], self.born[leaving], self.marks[leaving] = np.inf, -1, -1, 0
        return int(leaving.sum())

    def snapshot(self) -> dict[str, Any]:
        """Return the examples, half the size; nothing is lost."""
        state = {name: getattr(self, name)[: self.filled].copy() for name in self._ARRAYS if name != "squares"}
        state["vectors"] = state["vectors"].astype(np.float16)
        return {**state, "log_radius": self.log_radius}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them up again."""
        self.filled, self.log_radius = len(state["seen"]), state["log_radius"]
        for name in self._ARRAYS:
            if name != "squares":
                getattr(self, name)[: self.filled] = state[name]
        vectors = self.vectors[: self.filled]
        empty = self.seen[: self.filled] < 0
        self.squares[: self.filled] = np.where(empty, np.inf, np.square(vectors).sum(axis=1))

    def saved(self) -> None:
        """Know that all of it is on disk, from where `addition` goes on."""
        self._on_disk = self.born[: self.filled].copy(), self.seen[: self.filled].copy()

    def addition(self, most: int, *, exact: bool) -> dict[str, Any]:
        """Return what is new since it was on disk, for `extend`. It must not have lost any by hand since then.

        Unless it is to be `exact`, of at most so many new examples, evenly spread, and not to the last digit.
        """
        assert self._on_disk is not None
        born, seen = self.born[: self.filled], self.seen[: self.filled]
        before = np.full((2, self.filled), -1, np.int64)
        before[:, : len(self._on_disk[0])] = self._on_disk
        new = np.flatnonzero(born != before[0])
        new = new[np.argsort(born[new], kind="stable")]
        again = np.flatnonzero((born == before[0]) & (seen != before[1]))
        added: dict[str, Any] = {"filled": self.filled, "log_radius": self.log_radius}
        if exact:
            added["vectors"] = self.vectors[new].astype(np.float16)
        else:
            new = new[evenly(len(new), most)]
            least = _COARSE * float(np.exp(self.log_radius)) / np.sqrt(self.vectors.shape[1])
            added["vectors"], added["units"] = in_units(self.vectors[new], 127, least)
        for name in ("cells", "born", "times", "marks"):
            added[name] = getattr(self, name)[new]
        places = np.concatenate([new, again])
        return {**added, "new": len(new), "places": places, "seen": seen[places]}


def extend(state: dict[str, Any], added: dict[str, Any]) -> None:
    """Take an `addition` to a bank into its snapshot, whose arrays are replaced.

    A place whose new example was left out keeps the one that it had; if it had none, it stays empty.
    """
    size = added["filled"]
    for name, empty in (("vectors", 0), ("cells", 0), ("born", -1), ("seen", -1), ("times", 0), ("marks", 0)):
        held = state[name]
        state[name] = np.full((size, *held.shape[1:]), empty, held.dtype)
        state[name][: len(held)] = held
    places = added["places"]
    new, again = np.split(places, [added["new"]])
    there = np.isin(again, np.flatnonzero(state["born"] >= 0))
    vectors = added["vectors"]
    state["vectors"][new] = of_units(vectors, added["units"]).astype(np.float16) if "units" in added else vectors
    for name in ("cells", "born", "times", "marks"):
        state[name][new] = added[name]
    seen_new, seen_again = np.split(added["seen"], [added["new"]])
    state["seen"][new], state["seen"][again[there]] = seen_new, seen_again[there]
    state["log_radius"] = added["log_radius"]


def evenly(count: int, most: int) -> I64:
    """Return at most so many of `count` places, ascending and evenly spread; the last is always among them."""
    if count <= most:
        return np.arange(count)
    return np.asarray(count - 1 - np.arange(most)[::-1] * count // most)


def in_units(rows: F32, levels: int, least: float) -> list[Any]:
    """Return rows, float32 [n, dim], as multiples of a unit, int8, and each row's unit, float32 [n, 1].

    The largest number is so many units, at most 127, or less where the unit would be smaller than the least.
    """
    units = np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0.0) / np.float32(levels), np.float32(least))
    return [np.rint(rows / units).astype(np.int8), units]


def of_units(multiples: npt.NDArray[np.int8], units: F32) -> F32:
    """Return what `in_units` was given, about, float32 [n, dim]."""
    return np.asarray(multiples * units, np.float32)


def shortened(rows: F32) -> list[Any]:
    """Return rows, float32 [n, dim], in about a fifth of the size, for `lengthened`."""
    middle = rows.mean(axis=0)
    return [middle, *in_units((rows - middle).T, _LEVELS, _LEAST_UNIT)]


def lengthened(made: list[Any]) -> F32:
    """Return the rows that were shortened, about, float32 [n, dim]."""
    middle, *apart = made
    return np.asarray(middle + of_units(*apart).T)


def first_radius(pictures: list[F32]) -> float:
    """Return the logarithm of the median distance of patches to the nearest one of other pictures.

    `pictures` float32 [n, dim] each, whitened.
    """
    every = np.concatenate(pictures)
    squares = np.square(every).sum(axis=1)
    found, first = [], 0
    for one in pictures:
        squared = 2.0 * one @ every.T
        np.subtract(squares, squared, out=squared)
        squared[:, first : first + len(one)] = np.inf  # of the picture itself
        first += len(one)
        found.append(squared.min(axis=1) + np.square(one).sum(axis=1))
    least = np.maximum(np.concatenate(found), LEAST_DISTANCE**2)
    return float(np.log(np.median(least)) / 2.0)


def strangeness(distances: F32) -> float:
    """Return the logarithm of the mean of the STRANGEST largest distances."""
    most = min(STRANGEST, len(distances))
    return float(np.log(np.partition(distances, len(distances) - most)[-most:].mean(dtype=np.float64)))
