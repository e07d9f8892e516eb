"""What a bundle is proven with: held-out inputs, and what the float encoder makes of them.

Inputs come in streams, since the agent compares what comes from one place. Sensor windows are kept as they are. Of
pictures a few are kept, and how each input is made of one: moved, made brighter or darker, with noise, and for the
anomalous ones with a patch of another picture shining through. So hundreds of inputs take the room of a handful.
"""

from __future__ import annotations

import io
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.adapters.tflite import Inputs
from agent.bundle import VECTORS, Bundle, read_file
from agent.core.types import F32, I64
from agent.encoder_proof import MARGIN, positions_of, unpacked, vary
from agent.errors import BundleError
from converter.ranking import Population

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]

LEAST_INPUTS: Final = 64  # fewer held-out inputs say nothing about a ranking
LABELS: Final = "labels"  # the array that says where labels are from that a user gave
_GAIN: Final = 100  # brighter or darker by so many thousandths


class HeldOut(msgspec.Struct, frozen=True):
    """Inputs [n, *input shape], what they are, and the float encoder's rows.

    `rows` maps the names of `rows_of` to float32 [n, ...]; `positions` int64 [n, PATCHES]; `labels` tells
    where those of the anomalous ones are from.
    """

    inputs: Inputs
    population: Population
    positions: I64
    rows: dict[str, F32]
    labels: str


def variations(pictures: int, size: int, count: int, odd: int) -> I16:
    """Return how `count` inputs are made of so many pictures, int16 [count, 10]; the last `odd` are anomalous.

    Columns: picture, rows and columns by which it is moved, gain in thousandths; then the patch that shines through:
    the picture it is from (-1: none), its size, its place there, its place here (rows, columns), its share in percent.
    """
    rng = np.random.default_rng([11, pictures, count])
    made = np.full((count, 10), -1, np.int16)
    made[:, 0] = np.arange(count) % pictures
    if pictures > 1:  # in no order: references are divided by their place
        made[:, 0] = np.random.default_rng(12).permutation(made[:, 0])
    made[:, 1:3] = rng.integers(0, MARGIN + 1, (count, 2))
    made[:, 3] = 1000 + rng.integers(-_GAIN, _GAIN + 1, count)
    for row in range(count - odd, count):
        side = int(rng.integers(size // 10, size // 4))
        made[row, 4] = (made[row, 0] + rng.integers(1, max(2, pictures))) % pictures
        made[row, 5] = side
        made[row, 6:9] = rng.integers(0, size - side, 3)
        made[row, 9] = rng.integers(40, 101)
    return made


def packed(pictures: U8) -> U8:
    """Return pictures [n, rows, columns, 3] as differences, uint8 [n, 3, rows, columns], which pack a third smaller."""
    red, green, blue = (pictures[..., channel] for channel in range(3))
    planes = np.stack([green, red - green, blue - green], axis=1)  # modulo 256
    return np.diff(planes, axis=3, prepend=np.uint8(0))


def labels_of(arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Return where the labels are from, in words."""
    if LABELS in arrays:
        return str(arrays[LABELS])
    if not arrays["odd"].any():
        return "none"
    return "patches pasted into pictures" if "pictures" in arrays else "made by the generator"


def _floats(arrays: dict[str, npt.NDArray[Any]]) -> F32:
    return arrays["inputs"].astype(np.float32)


def read_vectors(bundle: Bundle) -> HeldOut:
    """Return what a bundle is proven with. Raises BundleError if there is too little of it, or something else."""
    where = bundle.path / VECTORS
    try:
        with np.load(io.BytesIO(read_file(bundle, VECTORS))) as stored:
            arrays = {name: stored[name] for name in stored.files}
        inputs = vary(unpacked(arrays["pictures"]), arrays["made"]) if "pictures" in arrays else _floats(arrays)
        held_out = HeldOut(
            inputs=inputs,
            population=Population(arrays["stream"].astype(np.int64), arrays["reference"], arrays["odd"]),
            positions=positions_of(len(inputs)),
            rows={name[5:]: array.astype(np.float32) for name, array in arrays.items() if name.startswith("rows.")},
            labels=labels_of(arrays),
        )
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise BundleError(
            f"{where}: expected held-out inputs with the float encoder's embeddings, found something else ({error}); "
            "build the bundle again"
        ) from error
    of = held_out.population
    lengths = {len(one) for one in (inputs, of.stream, of.reference, arrays["odd"], *held_out.rows.values())}
    if lengths != {len(inputs)} or len(inputs) < LEAST_INPUTS or not held_out.rows:
        raise BundleError(
            f"{where}: expected at least {LEAST_INPUTS} inputs and as many embeddings, found {sorted(lengths)}; "
            "build the bundle again"
        )
    return held_out
