"""What a bundle is proven with, as the converter stores it and the agent tries it again: inputs, and what they become.

Sensor windows are stored as they are. Of pictures a few are, and how each input is made of one. What an encoder gives
is looked at as rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from agent.core.types import F32, I64, U8

I16 = npt.NDArray[np.int16]

MARGIN: Final = 32  # pixels by which a kept picture is larger than an input, so that it can be moved
PATCHES: Final = 4  # of each picture that are compared; they are many
_NOISE: Final = 3  # grey levels, either way


def positions_of(count: int) -> I64:
    """Return which patches of each input are compared, int64 [count, PATCHES]: always the same ones."""
    return np.random.default_rng(7).integers(0, 1 << 16, (count, PATCHES))


def vary(pictures: U8, made: I16) -> U8:
    """Return the inputs that `variations` describes, uint8 [n, size, size, channels].

    `pictures` uint8 [pictures, size + MARGIN, size + MARGIN, channels].
    """
    size = pictures.shape[1] - MARGIN
    out = np.empty((len(made), size, size, pictures.shape[3]), np.uint8)
    noise = np.random.default_rng(13)
    for row, (picture, down, right, gain, other, side, there, top, left, share) in enumerate(made.tolist()):
        one = pictures[picture, down : down + size, right : right + size].astype(np.int32)
        if other >= 0:
            patch = pictures[other, there : there + side, there : there + side].astype(np.int32)
            place = (slice(top, top + side), slice(left, left + side))
            one[place] = (share * patch + (100 - share) * one[place]) // 100
        one = one * gain // 1000 + noise.integers(-_NOISE, _NOISE + 1, one.shape)
        out[row] = np.clip(one, 0, 255)
    return out


def unpacked(differences: U8) -> U8:
    """Return the pictures that `packed` was given."""
    green, red, blue = np.moveaxis(np.cumsum(differences, axis=3, dtype=np.uint8), 1, 0)
    return np.ascontiguousarray(np.stack([red + green, green, blue + green], axis=-1))


def rows_of(outputs: list[F32], positions: I64) -> dict[str, F32]:
    """Return the rows by which outputs are compared, float32 [n, dim] or, for patches, [n, PATCHES, dim].

    `outputs` are float32 [n, dim] or [n, rows, columns, dim]. `positions` int64 [n, PATCHES] says which patches are
    taken, counted along the rows of any map (modulo its size).
    """
    rows: dict[str, F32] = {}
    vectors = [one for one in outputs if one.ndim == 2]  # noqa: PLR2004  a batch of vectors
    maps = [one.reshape(len(one), -1, one.shape[-1]) for one in outputs if one.ndim > 2]  # noqa: PLR2004  of maps
    if vectors:
        rows["embedding"] = np.concatenate(vectors, axis=1)
    if maps:
        moments = [part for one in maps for part in (one.mean(axis=1), one.std(axis=1))]
        rows["pooled"] = np.concatenate(moments, axis=1).astype(np.float32)
        last = maps[-1]
        rows["patches"] = np.take_along_axis(last, (positions % last.shape[1])[:, :, None], axis=1)
    return rows
