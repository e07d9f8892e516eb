"""The first pictures: how to whiten patches is found, examples gathered, and each picture scored without its own.

A bounded amount of work for each picture, counted in pictures: nothing waits, and a replay does the same.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.core.picture_patches import Moments, PatchBank, Whitening, first_radius, strangeness
from agent.core.types import F32, I64

WHITENED_AT: Final = 0.6  # of the warm-up
PICTURES_A_STEP: Final = 6  # learnt or scored; five are needed to be done with the last picture
_RADIUS_PICTURES: Final = 32

F16 = npt.NDArray[np.float16]


class PictureWarmUp:
    """Pictures so far, as float16, and what was made of them. `bank` is filled on the way."""

    def __init__(self, wanted: int, dim: int, cells: I64, bank: PatchBank) -> None:
        self.wanted, self.cells, self.bank = wanted, cells, bank
        self.whitening: Whitening | None = None
        self._dim = dim
        # In one piece, which goes back to the system; three hundred leave a hole that no one else needs.
        self._pictures: F16 = np.empty((wanted, len(cells), dim), np.float16)
        self.count = 0  # pictures that came so far
        self._times: list[float] = []
        self._moments = Moments(dim)
        self._learnt = 0
        self._scores: list[float] = []

    @property
    def bytes(self) -> int:
        """Return what it takes."""
        return self._pictures[: self.count].nbytes + self._moments.products.nbytes

    def push(self, at: float, patches: F32) -> F32 | None:
        """Take a picture's patches, float32 [cells, dim].

        With the last one return all pictures' log scores, float32 [wanted], each without its own examples.
        """
        self._pictures[self.count] = np.clip(patches, -6e4, 6e4)
        self.count += 1
        self._times.append(at)
        if self.whitening is None:
            self._moments.add(self._pictures[self.count - 1].astype(np.float32))
            if self.count >= WHITENED_AT * self.wanted:
                self.whitening = Whitening.of(self._moments)
        else:
            if self._learnt == 0:
                step = -(-self.count // _RADIUS_PICTURES)
                self.bank.log_radius = first_radius([self._white(place) for place in range(0, self.count, step)])
            self._work(PICTURES_A_STEP if self.count < self.wanted else 2 * self.wanted)
        return np.array(self._scores, np.float32) if self.count == self.wanted else None

    def _white(self, place: int) -> F32:
        assert self.whitening is not None
        return self.whitening.apply(self._pictures[place].astype(np.float32))

    def _work(self, pictures: int) -> None:
        for _ in range(pictures):
            if self._learnt < self.count:
                self.bank.learn(self._white(self._learnt), self.cells, self._learnt, self._times[self._learnt])
                self._learnt += 1
            elif len(self._scores) < self.count:
                place = len(self._scores)
                distances, _ = self.bank.nearest(self._white(place), self.cells, without=place)
                self._scores.append(strangeness(distances))

    def pictures(self, first: int) -> F16:
        """Return the patches of the pictures from one on, float16 [pictures, cells, dim]."""
        return self._pictures[first : self.count].copy()

    def snapshot(self) -> dict[str, Any]:
        """Return what was found so far; the bank is its owner's to keep."""
        whitening = self.whitening
        return {
            "pictures": self._pictures[: self.count].copy() if self.count else None,
            "times": list(self._times),
            "moments": [self._moments.count, self._moments.total.copy(), self._moments.products.copy()],
            "learnt": self._learnt,
            "scores": list(self._scores),
            "whitening": None if whitening is None else [whitening.mean, whitening.basis],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        if state["pictures"] is not None:
            self.count = len(state["pictures"])
            self._pictures[: self.count] = state["pictures"]
        self._times = list(state["times"])
        count, total, products = state["moments"]
        self._moments.count, self._moments.total, self._moments.products = count, total.copy(), products.copy()
        self._learnt, self._scores = state["learnt"], list(state["scores"])
        self.whitening = None if state["whitening"] is None else Whitening(*state["whitening"])
