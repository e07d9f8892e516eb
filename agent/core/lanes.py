"""Lanes: which rows of a bank's arrays a batch is about. A lane is one channel of one stream.

A stream's lanes lie side by side, so most work needs only views; what is scattered goes by index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.core.types import I64

LARGE_BYTES: Final = 1 << 20  # of an array: the allocator maps its pages anew instead of copying them


class Lanes(msgspec.Struct, frozen=True):
    """`spans`: (start, stop) for each stream, in the batch's order; `index` int64 holds all of them."""

    spans: list[tuple[int, int]]
    index: I64

    @classmethod
    def of(cls, *spans: tuple[int, int]) -> Lanes:
        """Return the lanes of these spans."""
        return cls(list(spans), np.concatenate([np.arange(start, stop) for start, stop in spans]))

    @classmethod
    def single(cls, index: I64) -> Lanes:
        """Return these lanes, each by itself."""
        return cls([(int(one), int(one) + 1) for one in index], index)

    def times(self, rows: int) -> Lanes:
        """Return the same for arrays that have `rows` rows for each lane, side by side."""
        index = (self.index[:, None] * rows + np.arange(rows)).reshape(-1)
        return Lanes([(start * rows, stop * rows) for start, stop in self.spans], index)

    def __len__(self) -> int:
        return len(self.index)

    def blocks(self, most: int) -> Iterator[tuple[int, slice]]:
        """Yield (first row in the batch, slice of the arrays), each of at most `most` lanes side by side."""
        row = 0
        for start, stop in self.spans:
            for first in range(start, stop, most):
                last = min(first + most, stop)
                yield row, slice(first, last)
                row += last - first


class LaneArrays:
    """Arrays with a row for each lane (or for each lane and view) as attributes; `_BLANK`: what begins in a new row."""

    _BLANK: ClassVar[dict[str, float]]

    def make_room(self, first: int, last: int) -> None:
        """Begin rows `first` to `last`, without a past."""
        for name, value in self._BLANK.items():
            array = grown(getattr(self, name), last)
            array[first:last] = value
            setattr(self, name, array)

    def snapshot(self, first: int, last: int) -> dict[str, Any]:
        """Return copies of rows `first` to `last`."""
        return {name: getattr(self, name)[first:last].copy() for name in self._BLANK}

    def restore(self, first: int, state: dict[str, Any]) -> None:
        """Take rows up again, from `first` on."""
        for name in self._BLANK:
            getattr(self, name)[first : first + len(state[name])] = state[name]


def grown(array: npt.NDArray[Any], lanes: int) -> npt.NDArray[Any]:
    """Return the array with room for at least `lanes` rows, what is new undefined; it grows by a share of its size.

    A large one, which must have no other views, is widened where it lies: a copy would take its memory twice.
    """
    if lanes <= len(array):
        return array
    if array.nbytes < LARGE_BYTES or array.ndim == 1:  # one number for each lane: other threads look at such
        larger = np.empty((max(lanes, 2 * len(array)), *array.shape[1:]), array.dtype)
        larger[: len(array)] = array
        return larger
    array.resize((max(lanes, len(array) + len(array) // 8), *array.shape[1:]), refcheck=False)
    return array


def trimmed(array: npt.NDArray[Any], lanes: int) -> None:
    """Give back what a large array, which must have no other views, has beyond `lanes` rows, apart from some slack."""
    wanted = lanes + lanes // 8
    if array.nbytes >= LARGE_BYTES and array.ndim > 1 and wanted < len(array):
        array.resize((wanted, *array.shape[1:]), refcheck=False)


def kept(array: npt.NDArray[Any], lane: int, order: I64) -> None:
    """Leave in one lane's ring only the places in `order`, int64 [n], oldest first: they move to its beginning."""
    array[lane, : len(order)] = array[lane, order]
