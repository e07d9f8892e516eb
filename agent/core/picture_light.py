"""Light that is brighter, darker or of another colour than it ever was is taken back before a picture is encoded.

Nothing is done to a picture whose mean and deviation of each channel are as those of the first pictures: what they
looked like is what they were learnt as.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.types import F32, F64, U8, Bools

USUAL: Final = (0.02, 0.98)  # quantiles of the first pictures
MOST_GAIN: Final = 4.0
_LEAST_DEVIATION: Final = 1.0  # gray levels
_EVERY: Final = 2  # rows and columns that are looked at


class Light:
    """The usual mean and deviation of each colour channel."""

    def __init__(self, ignored: Bools | None = None) -> None:
        self._kept = None if ignored is None else ~ignored[::_EVERY, ::_EVERY]
        self._seen: list[F64] = []
        self.low: F64 | None = None  # float64 [2, 3]: mean, deviation
        self.high: F64 | None = None

    def measure(self, pixels: U8) -> F64:
        """Return mean and deviation of each channel, gray levels, float64 [2, 3], of uint8 [h, w, 3]."""
        few = pixels[::_EVERY, ::_EVERY]
        rows = few.reshape(-1, few.shape[-1]) if self._kept is None else few[self._kept]
        wide = rows.astype(np.float32)
        return np.stack([wide.mean(axis=0), wide.std(axis=0)]).astype(np.float64)

    def learn(self, pixels: U8) -> None:
        """Take one of the first pictures."""
        self._seen.append(self.measure(pixels))

    def settle(self) -> None:
        """Take what was seen as what is usual from now on."""
        self.low, self.high = np.quantile(np.array(self._seen), USUAL, axis=0)
        self._seen = []

    def prepare(self, pixels: U8) -> F32:
        """Return a picture as it is to be encoded, float32 [h, w, 3] in 0..255.

        Each channel's mean and deviation are moved to the nearest usual ones; before `settle` nothing is.
        """
        whole = pixels.astype(np.float32)
        if self.low is None or self.high is None:
            return whole
        found = self.measure(pixels)
        wanted = np.clip(found, self.low, self.high)
        if np.array_equal(found, wanted):
            return whole
        gain = np.minimum(wanted[1] / np.maximum(found[1], _LEAST_DEVIATION), MOST_GAIN)
        whole -= found[0].astype(np.float32)
        whole *= gain.astype(np.float32)
        whole += wanted[0].astype(np.float32)
        return np.clip(whole, 0.0, 255.0, out=whole)

    def snapshot(self) -> dict[str, Any]:
        """Return what was learnt."""
        seen = np.array(self._seen) if self._seen else None
        return {"seen": seen, "low": self.low, "high": self.high}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._seen = [] if state["seen"] is None else list(state["seen"])
        self.low, self.high = state["low"], state["high"]
