"""Scratch memory shared by all streams of one worker.

Large arrays that come and go with each message are given back to the system each time, and their pages have to be made
anew: for a picture that took a fifth of its time.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.core.types import F32, I8, U8

_ROOM: Final = 2  # times what is asked for, as what is asked for grows


class Workspace:
    """Lends arrays for one use each: what is in one is valid until the same use is asked for again."""

    def __init__(self) -> None:
        self._held: dict[str, npt.NDArray[Any]] = {}

    def lend(self, use: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return an array of this shape, with anything in it; `dtype` is always the same for one use."""
        size = prod(shape)
        held = self._held.get(use)
        if held is None or held.size < size:
            held = self._held[use] = np.empty(_ROOM * size, dtype)  # its pages come into being when they are used
        return held[:size].reshape(shape)

    def floats(self, values: I8 | U8) -> F32:
        """Return `values` as float32 of the same shape."""
        out = self.lend("floats", values.shape)
        np.copyto(out, values)
        return out

    def squares(self, lanes: int, references: int) -> F32:
        """Return room for squared distances, float32 [lanes, references]."""
        return self.lend("squares", (lanes, references))
