"""The encoder's maps, kept in a folder: what is compared behind it can be measured again in a fraction of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.adapters.tflite import TfliteModel
from agent.core.types import F32


class Kept:
    """The maps of one run of `count` pictures, in a file for each map; without a `folder` none are kept."""

    def __init__(self, folder: Path | None, name: str, model: TfliteModel, count: int) -> None:
        stem = f"{name}-{model.runtime}-{model.digest[:12]}".replace(" ", "_")
        shapes = model.output_shapes
        self._files = [] if folder is None else [folder / f"{stem}-{place}.npy" for place in range(len(shapes))]
        self.known = bool(self._files) and all(file.exists() for file in self._files)
        if self.known:
            self._maps: list[F32] = [np.load(file, mmap_mode="r") for file in self._files]
        else:
            self._maps = [np.empty((count, *shape), np.float32) for shape in shapes] if self._files else []

    def maps(self, number: int) -> list[F32] | None:
        """Return a picture's maps, float32 [rows, columns, dim] each, if they are known."""
        return [np.asarray(one[number]) for one in self._maps] if self.known else None

    def note(self, number: int, outputs: list[F32]) -> None:
        """Take the maps of a picture."""
        for held, one in zip(self._maps, outputs, strict=False):
            held[number] = one

    def save(self) -> None:
        """Keep them, once all are there."""
        if not self.known:
            for file, one in zip(self._files, self._maps, strict=True):
                np.save(file, one)
