"""Light is taken out of a picture before it is encoded: each colour channel gets the mean and deviation it first had.

The first pictures are moved to the mean of those so far, the later ones to that of the warm-up, so that all features
are of pictures that were treated alike.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.types import F32, F64, U8, Bools
from agent.core.workspace import Workspace

MOST_GAIN: Final = 4.0
_LEAST_DEVIATION: Final = 1.0  # gray levels
_EVERY: Final = 2  # rows and columns that are looked at


class Light:
    """The usual mean and deviation of each colour channel, float64 [2, 3]."""

    def __init__(self, ignored: Bools | None = None, workspace: Workspace | None = None) -> None:
        self._workspace = workspace or Workspace()
        self._kept = None if ignored is None else ~ignored[::_EVERY, ::_EVERY]
        self._count = 0
        self._total: F64 = np.zeros((2, 3))
        self.usual: F64 | None = None

    def measure(self, pixels: U8) -> F64:
        """Return mean and deviation of each channel, gray levels, float64 [2, 3], of uint8 [height, width, 3]."""
        few = pixels[::_EVERY, ::_EVERY]
        channels = few.transpose(2, 0, 1) if self._kept is None else few[self._kept].T
        held: F32 = self._workspace.lend("planes", channels.shape)
        np.copyto(held, channels)  # several times faster than a channel's pixels three apart
        planes = held.reshape(len(held), -1)
        mean = planes.mean(axis=1, dtype=np.float64)
        planes -= mean[:, None].astype(np.float32)
        return np.array([mean, np.sqrt(np.einsum("cn,cn->c", planes, planes) / planes.shape[1])])

    def learn(self, pixels: U8) -> None:
        """Take one of the first pictures."""
        self._count += 1
        self._total = self._total + self.measure(pixels)

    def settle(self) -> None:
        """Take what was seen as what is usual from now on. At least one picture must have been learnt."""
        self.usual = self._total / self._count

    def prepare(self, pixels: U8) -> U8:
        """Return a picture as it is to be encoded, uint8 [height, width, 3]: valid until the next one is prepared."""
        found = self.measure(pixels)
        usual = (self._total + found) / (self._count + 1) if self.usual is None else self.usual
        gain = np.minimum(usual[1] / np.maximum(found[1], _LEAST_DEVIATION), MOST_GAIN).astype(np.float32)
        lift = (usual[0] - found[0] * gain).astype(np.float32)
        height, width, channels = pixels.shape
        made: F32 = self._workspace.lend("lit", (height, width * channels))  # rows are long enough to be fast
        levels = self._workspace.lend("levels", made.shape, np.int16)
        each: F32 = self._workspace.lend("each", (2, width, channels))
        each[0], each[1] = gain, lift + np.float32(0.5)
        factors, terms = each.reshape(2, -1)
        np.multiply(pixels.reshape(made.shape), factors, out=made)
        made += terms
        np.copyto(levels, made, casting="unsafe")
        np.clip(levels, 0, 255, out=levels)  # of whole numbers it takes a third of the time
        prepared: U8 = self._workspace.lend("prepared", pixels.shape, np.uint8)
        np.copyto(prepared, levels.reshape(pixels.shape), casting="unsafe")
        return prepared

    def snapshot(self) -> dict[str, Any]:
        """Return what was learnt."""
        return {"count": self._count, "total": self._total.copy(), "usual": self.usual}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._count, self._total, self.usual = state["count"], state["total"].copy(), state["usual"]
