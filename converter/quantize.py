"""Full int8 of a PyTorch network, with one set of ranges for all batch sizes.

The quantizer calibrates each signature on its own; different ranges would make an embedding depend on how many
others were computed with it. So batch 32 is calibrated and its ranges are given to the others, tensor by tensor.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BATCHES = (1, 8, 32)


def export_int8(network: Any, windows: npt.NDArray[np.float32]) -> bytes:
    """Return a .tflite file with signatures batch_1, batch_8 and batch_32, int8 in and out.

    `windows` float32 [n >= 32, length, features] are the representative dataset; ranges are the union over batches.
    """
    import litert_torch  # noqa: PLC0415  heavy, and only here
    import torch  # noqa: PLC0415  heavy, and only here
    from ai_edge_quantizer import quantizer, recipe  # noqa: PLC0415  heavy, and only here

    if len(windows) < max(BATCHES):
        raise ValueError(f"expected at least {max(BATCHES)} representative windows, found {len(windows)}")
    made: Any = litert_torch
    for batch in BATCHES:
        made = made.signature(f"batch_{batch}", network, (torch.zeros(batch, *windows.shape[1:]),))
    # These frameworks print what they do; a command's standard output is for its result.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        floating = Path(folder) / "float.tflite"
        made.convert().export(str(floating))
        tool = quantizer.Quantizer(str(floating))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        largest = max(BATCHES)
        ranges: dict[str, Any] = {}
        for start in range(0, len(windows) - largest + 1, largest):
            seen = tool.calibrate({f"batch_{largest}": [{"args_0": windows[start : start + largest]}]})
            for name, found in seen.items():
                known = ranges.setdefault(name, found)
                known["min"] = np.minimum(known["min"], found["min"])
                known["max"] = np.maximum(known["max"], found["max"])
        complete = dict(ranges)
        for batch in BATCHES:
            if batch != largest:
                names = tool.calibrate({f"batch_{batch}": [{"args_0": windows[:batch]}]})
                if len(names) != len(ranges):
                    raise RuntimeError(f"signature batch_{batch} has other tensors than batch_{largest}")
                complete |= dict(zip(names, ranges.values(), strict=True))
        out = Path(folder) / "int8.tflite"
        tool.quantize(complete).export_model(str(out))
        return out.read_bytes()
