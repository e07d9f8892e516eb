"""From a PyTorch network to TFLite models: float, half-precision or int8 weights, and full int8.

The quantizer calibrates each signature on its own; different ranges would make an embedding depend on how many
others were computed with it. So the largest batch is calibrated and its ranges are given to the others, by tensor.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.errors import RedshankError

Ranges = dict[str, Any]

# From the smallest and fastest to the most faithful: what is tried in this order where a gate fails.
PRECISIONS: Final = ("int8", "int8-dynamic", "int8-weights", "float16", "float32")
AS_GIVEN: Final = "as-given"  # of a model that somebody else has quantized
_OPERATOR: Final = re.compile(r"Lowering not found: ([\w.]+)|target=torch\.ops\.([\w.]+)")
_PLACE: Final = re.compile(r'File "([^"]+)", line (\d+)')
_BEYOND: Final = 0.05  # of a range: held-out values that leave it by more are reported


class ConversionError(RedshankError):
    """A network that cannot be made into a TFLite model."""


class TooFewInputsError(RedshankError):
    """Too few inputs to take ranges from."""


class FloatModel:
    """A network as a float32 TFLite model with fixed-batch signatures, to be quantized."""

    def __init__(self, content: bytes, shape: tuple[int, ...], batches: tuple[int, ...]) -> None:
        """Take a model with a signature `batch_N` for each of `batches`, from `args_0` to `output_0` and so on."""
        self.content, self.shape, self.batches = content, shape, tuple(sorted(batches))

    @classmethod
    def of_network(cls, network: Any, shape: tuple[int, ...], batches: tuple[int, ...]) -> FloatModel:
        """Convert `network` (PyTorch, in evaluation mode), which maps float32 [batch, *shape] to its outputs.

        Raises ConversionError, which names an operator that has no counterpart.
        """
        return cls(_converted(network, shape, tuple(sorted(batches))), shape, batches)

    def ranges(self, inputs: npt.NDArray[Any]) -> Ranges:
        """Return the least and the largest value of every tensor over `inputs` [n, *shape], by the tensor's name.

        Of the signature with the largest batch; n is rounded down to whole batches. Raises TooFewInputsError below one.
        """
        largest = self.batches[-1]
        if len(inputs) < largest:
            raise TooFewInputsError(
                f"expected at least {largest} representative inputs, found {len(inputs)}; give more"
            )
        from ai_edge_quantizer import calibrator, recipe_manager  # noqa: PLC0415  heavy, and only here
        from ai_edge_quantizer.utils.qsv_utils import min_max_update  # noqa: PLC0415  as above

        starts = range(0, len(inputs) - largest + 1, largest)
        given = [{"args_0": inputs[start : start + largest].astype(np.float32)} for start in starts]
        with quiet():
            manager = recipe_manager.RecipeManager()
            manager.load_quantization_recipe(_recipe("int8"))
            # The quantizer's own `calibrate` forgets what is behind it, by a moving average.
            found = calibrator.Calibrator(self.content, qsv_update_func=min_max_update)
            found.calibrate({f"batch_{largest}": given}, manager)
        made: Ranges = found.get_model_qsvs()
        return made

    def quantized(self, precision: str, ranges: Ranges) -> bytes:
        """Return the model in one of PRECISIONS; int8 in and out for "int8", float32 in and out for all others.

        One that is not float itself is returned as it is, by AS_GIVEN.
        """
        if precision in {"float32", AS_GIVEN}:
            return self.content
        with _tool(self.content, precision) as tool:
            return _exported(tool, self._of_all_batches(tool, ranges) if precision == "int8" else None)

    def _of_all_batches(self, tool: Any, ranges: Ranges) -> Ranges:
        complete = dict(ranges)
        for batch in self.batches[:-1]:
            names = tool.calibrate({f"batch_{batch}": [{"args_0": np.zeros((batch, *self.shape), np.float32)}]})
            if len(names) != len(ranges):
                raise ConversionError(
                    f"expected the same tensors in every signature, found {len(names)} for a batch of {batch} and "
                    f"{len(ranges)} for {self.batches[-1]}; let the network treat every input alike"
                )
            complete |= dict(zip(names, ranges.values(), strict=True))
        return complete


def uncovered(known: Ranges, seen: Ranges) -> list[str]:
    """Return a phrase for each tensor whose values in `seen` leave its range in `known` by more than a twentieth."""
    found = []
    for name, range_ in known.items():
        low, high = float(np.min(range_["min"])), float(np.max(range_["max"]))
        least, most = float(np.min(seen[name]["min"])), float(np.max(seen[name]["max"]))
        beyond = max(low - least, most - high)
        if beyond > _BEYOND * max(high - low, 1e-9):
            here, there = f"{low:.4g} to {high:.4g}", f"{least:.4g} to {most:.4g}"
            found.append(f"{_short(name)}: {here} in the representative data, {there} in the held-out data")
    return found


def _short(tensor: str) -> str:
    """Return a tensor's name without the packages of the classes that it goes through."""
    last = tensor.rsplit(";;", maxsplit=1)[-1].partition(";")[0]
    return "/".join(part.rpartition(".")[2] for part in last.split("/"))


def _recipe(precision: str) -> Any:
    from ai_edge_quantizer import recipe, recipe_manager  # noqa: PLC0415  heavy, and only here
    from ai_edge_quantizer.algorithm_manager import AlgorithmName  # noqa: PLC0415  as above
    from ai_edge_quantizer.qtyping import TFLOperationName  # noqa: PLC0415  as above

    if precision == "float16":
        manager = recipe_manager.RecipeManager()
        manager.add_weight_only_config(
            ".*", TFLOperationName.ALL_SUPPORTED, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
        return manager.get_quantization_recipe()
    made = {
        "int8": recipe.static_wi8_ai8,
        "int8-dynamic": recipe.dynamic_wi8_afp32,
        "int8-weights": recipe.weight_only_wi8_afp32,
    }
    return made[precision]()


@contextlib.contextmanager
def _tool(content: bytes, precision: str) -> Iterator[Any]:
    """Give a quantizer for a float model; what it prints is kept off standard output."""
    from ai_edge_quantizer import quantizer  # noqa: PLC0415  heavy, and only here

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "float.tflite"
        path.write_bytes(content)
        tool = quantizer.Quantizer(str(path))
        tool.load_quantization_recipe(_recipe(precision))
        yield tool


def _exported(tool: Any, ranges: Ranges | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.tflite"
        (tool.quantize() if ranges is None else tool.quantize(ranges)).export_model(str(out))
        return out.read_bytes()


def _converted(network: Any, shape: tuple[int, ...], batches: tuple[int, ...]) -> bytes:
    import litert_torch  # noqa: PLC0415  heavy, and only here
    import torch  # noqa: PLC0415  heavy, and only here

    made: Any = litert_torch
    for batch in batches:
        made = made.signature(f"batch_{batch}", network, (torch.zeros(batch, *shape),))
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "float.tflite"
        try:
            made.convert().export(str(path))
        except Exception as error:  # the frameworks raise errors of many kinds
            raise ConversionError(_explain(str(error))) from error
        return path.read_bytes()


def _explain(message: str) -> str:
    operator, place = _OPERATOR.search(message), _PLACE.search(message)
    where = f" ({place[1]}, line {place[2]})" if place else ""
    first = message.strip().splitlines()[0] if message.strip() else "no reason given"
    if operator is None:
        return f"the network cannot be converted{where}: {first}; trace it with torch.export.export to see where"
    name = (operator[1] or operator[2]).removesuffix(".default")
    return (
        f"the operator {name}{where} cannot be converted: {first}; replace it by convolutions, matrix products, "
        "pooling and simple arithmetic, or leave it out of the encoder"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what frameworks print off standard output, which is for a command's result, and off the progress bar."""
    swallowed = io.StringIO()
    with contextlib.redirect_stdout(swallowed), contextlib.redirect_stderr(swallowed):
        try:
            yield
        except Exception:
            sys.__stderr__.write(swallowed.getvalue()[-2000:])  # type: ignore[union-attr]
            raise
