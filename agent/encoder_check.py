"""Whether an encoder may take the place of another one: it must reproduce its bundle's own vectors."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.adapters.tflite import candidates, load_encoder, load_picture_encoder
from agent.bundle import VECTORS, load_bundle, read_file
from agent.child_process import answer_of
from agent.core.preprocess import POOLS
from agent.core.windowing import RING_ROWS
from agent.encoder_proof import MARGIN, positions_of, rows_of, unpacked, vary
from agent.errors import BundleError

if TYPE_CHECKING:
    import numpy.typing as npt

    from agent.adapters.tflite import Inputs, TfliteModel
    from agent.bundle import Bundle
    from agent.core.types import F32, U8

LEAST_COSINE_MEAN: Final = 0.97  # the bounds of `redshank-convert verify`
LEAST_COSINE: Final = 0.9  # of all but one vector in a hundred
_FEATURES: Final = 2  # of a reading: its value, and the difference to the one before
_MOST_PICTURES: Final = 64  # that are tried: each takes up to 0.1 s on a small device
_MAX_VECTOR_BYTES: Final = 64 * 1024 * 1024  # of one array; those of the shipped bundle have 92 kB
_PATIENCE_S: Final = 60.0  # for a bundle to be loaded and checked; systemd waits 90 s for a start


def check_in_process(bundle: Bundle) -> None:
    """Load a bundle and call it in a process of its own: some models end the process that loads or calls them.

    Raises BundleError, also if that process ended, or did not answer in time. It has ended when this returns.
    """
    ask = str(bundle.path.resolve()).encode()
    error = msgspec.json.decode(answer_of("agent.encoder_check", ask, str(bundle.path), _PATIENCE_S), type=str | None)
    if error is not None:
        raise BundleError(error)


def attempt(bundle: Bundle) -> None:
    """Load and call here and now all that may run here. Raises BundleError if nothing passes."""
    load = load_picture_encoder if bundle.manifest.kind == "image" else load_encoder
    errors: list[BundleError] = []
    pairs = candidates(bundle)
    for runtime, variant in pairs:
        try:
            encoder = load(bundle, runtime, variant.file)
            for batch in encoder.batches:
                encoder.run(np.zeros((batch, *encoder.shape), np.float32))
            check_encoder(bundle, encoder)
        except BundleError as error:
            errors.append(error)
    if not pairs:
        load(bundle)  # says what is missing
    if errors and len(errors) == len(pairs):
        raise errors[0]


def main() -> int:
    """Try the bundle whose path is on standard input; print what is wrong with it as JSON, null for nothing."""
    found = None
    try:
        attempt(load_bundle(Path(sys.stdin.buffer.read().decode())))
    except (BundleError, ValueError, RuntimeError, MemoryError) as error:  # some faults are found only at a call
        found = str(error)
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


def check_encoder(bundle: Bundle, encoder: TfliteModel) -> None:
    """Raise BundleError if a loaded encoder does not do what its bundle promises, or takes what no stream gives."""
    if bundle.manifest.kind != "image":
        longest = RING_ROWS // POOLS[-1] - 1
        if encoder.shape[1:] != (_FEATURES,) or encoder.shape[0] > longest:
            raise BundleError(
                f"{bundle.path}: expected windows of at most {longest} readings x {_FEATURES}, found "
                f"{' x '.join(map(str, encoder.shape))}; build it for sensor windows"
            )
    inputs, wanted = _vectors(bundle, encoder)
    made = rows_of(encoder.run(inputs), positions_of(len(inputs)))
    if {name: one.shape for name, one in made.items()} != {name: one.shape for name, one in wanted.items()}:
        raise BundleError(
            f"{bundle.path / VECTORS}: expected rows {_shapes(made)}, found {_shapes(wanted)}; build the bundle again"
        )
    for name, rows in made.items():
        _check_rows(bundle, encoder, name, rows, wanted[name])


def _shapes(rows: dict[str, F32]) -> str:
    return ", ".join(f"{name} {one.shape}" for name, one in rows.items())


def _check_rows(bundle: Bundle, encoder: TfliteModel, name: str, found: F32, wanted: F32) -> None:
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    cosines = (found * wanted).sum(axis=-1) / np.maximum(lengths, 1e-12)
    mean, low = float(cosines.mean()), float(np.quantile(cosines, 0.01))
    if not (mean >= LEAST_COSINE_MEAN and low >= LEAST_COSINE):
        raise BundleError(
            f"{bundle.path}: expected its own test vectors to come out again on {encoder.runtime} (cosine of {name} "
            f"{LEAST_COSINE_MEAN} in the mean, {LEAST_COSINE} at the 1st percentile), found {mean:.3f} and {low:.3f}; "
            "the model is not the one that the bundle was proven with: build it again"
        )


def _vectors(bundle: Bundle, encoder: TfliteModel) -> tuple[Inputs, dict[str, F32]]:
    """Return held-out inputs [n, *shape] and what the float network makes of them, float32 [n, ...] by `rows_of`."""
    content = read_file(bundle, VECTORS)
    of_pictures = bundle.manifest.kind == "image"
    names = ("pooled", "patches") if of_pictures else ("embedding",)
    try:
        inputs: Inputs = _pictures(content, encoder) if of_pictures else _stored(content, "inputs").astype(np.float32)
        wanted = {name: _stored(content, f"rows.{name}")[: len(inputs)].astype(np.float32) for name in names}
    except Exception as error:  # whatever numpy and zipfile stumble over: a file may hold anything
        raise BundleError(
            f"{bundle.path / VECTORS}: expected held-out inputs and what becomes of them, found something else "
            f"({type(error).__name__}: {error}); build the bundle again"
        ) from error
    if not inputs.size or inputs.shape[1:] != encoder.shape:
        raise BundleError(
            f"{bundle.path / VECTORS}: expected inputs {encoder.shape}, found {inputs.shape}; build the bundle again"
        )
    return inputs, wanted


def _pictures(content: bytes, encoder: TfliteModel) -> U8:
    """Return the first held-out pictures, uint8 [n, *shape]. Raises anything where there are none of this shape."""
    kept, (rows, columns, channels) = _stored(content, "pictures"), encoder.shape
    if kept.shape[1:] != (channels, rows + MARGIN, columns + MARGIN):
        raise ValueError(f"pictures {kept.shape[1:]} for inputs {encoder.shape}")
    return vary(unpacked(kept), _stored(content, "made")[:_MOST_PICTURES])


def _stored(content: bytes, name: str) -> npt.NDArray[Any]:
    """Return an array of numbers of a .npz file. Raises anything where it holds none, or one that is too large."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = archive.getinfo(f"{name}.npy")
        if entry.file_size > _MAX_VECTOR_BYTES:
            raise ValueError(f"{name} of {entry.file_size} bytes, more than {_MAX_VECTOR_BYTES}")
        with archive.open(entry) as file:
            array = np.load(io.BytesIO(file.read(entry.file_size)), allow_pickle=False)
    if array.size * np.dtype(np.float32).itemsize > _MAX_VECTOR_BYTES:
        raise ValueError(f"{name} of {array.size} numbers")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} of {array.dtype}, which are no numbers")
    return array
