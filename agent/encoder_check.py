"""Whether an encoder of readings may take the place of another one: it must reproduce its bundle's own vectors."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.bundle import VECTORS, read_file
from agent.core.preprocess import POOLS
from agent.core.windowing import RING_ROWS
from agent.errors import BundleError

if TYPE_CHECKING:
    from agent.adapters.tflite import TfliteEncoder
    from agent.bundle import Bundle
    from agent.core.types import F32

LEAST_COSINE_MEAN: Final = 0.97  # the bounds of `redshank-convert verify`
LEAST_COSINE: Final = 0.9  # of all but one vector in a hundred
_FEATURES: Final = 2  # of a reading: its value, and the difference to the one before
_EMBEDDING: Final = "rows.embedding"


def check_encoder(bundle: Bundle, encoder: TfliteEncoder) -> None:
    """Raise BundleError if a loaded encoder does not do what its bundle promises, or takes what no stream gives."""
    longest = RING_ROWS // POOLS[-1] - 1
    if encoder.shape[1:] != (_FEATURES,) or encoder.length > longest:
        raise BundleError(
            f"{bundle.path}: expected windows of at most {longest} readings x {_FEATURES}, found "
            f"{' x '.join(map(str, encoder.shape))}; build it for sensor windows"
        )
    inputs, wanted = _vectors(bundle, encoder)
    found = encoder.encode(inputs)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(axis=1) / np.maximum(lengths, 1e-12)
    mean, low = float(cosines.mean()), float(np.quantile(cosines, 0.01))
    if not (mean >= LEAST_COSINE_MEAN and low >= LEAST_COSINE):
        raise BundleError(
            f"{bundle.path}: expected its own test vectors to come out again on {encoder.runtime} (cosine "
            f"{LEAST_COSINE_MEAN} in the mean, {LEAST_COSINE} at the 1st percentile), found {mean:.3f} and {low:.3f}; "
            "the model is not the one that the bundle was proven with: build it again"
        )


def _vectors(bundle: Bundle, encoder: TfliteEncoder) -> tuple[F32, F32]:
    """Return held-out inputs, float32 [n, *shape], and what the float network makes of them, float32 [n, dim]."""
    try:
        with np.load(io.BytesIO(read_file(bundle, VECTORS))) as stored:
            inputs, wanted = stored["inputs"].astype(np.float32), stored[_EMBEDDING].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BundleError(
            f"{bundle.path / VECTORS}: expected held-out inputs and their embeddings, found something else ({error}); "
            "build the bundle again"
        ) from error
    if not len(inputs) or inputs.shape[1:] != encoder.shape or wanted.shape != (len(inputs), encoder.dim):
        raise BundleError(
            f"{bundle.path / VECTORS}: expected inputs {encoder.shape} and embeddings ({encoder.dim},), found "
            f"{inputs.shape} and {wanted.shape}; build the bundle again"
        )
    return inputs, wanted
