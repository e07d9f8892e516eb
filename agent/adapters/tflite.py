"""The TFLite runtime behind one adapter: tflite-runtime or ai-edge-litert, whichever is installed and faster."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Iterable
from time import perf_counter
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from agent.bundle import Bundle, Quantization, Variant, read_model
from agent.core.types import F32
from agent.errors import BundleError

Inputs: TypeAlias = F32 | npt.NDArray[np.uint8]

_RUNTIMES: Final = {
    "tflite-runtime": "tflite_runtime.interpreter",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}
IDENTIFIER: Final = b"TFL3"
_TIMED_RUNS: Final = 5
_OPERATOR: Final = re.compile(
    r"op for builtin opcode '(\w+)' version '(\d+)'|unresolved custom op: *(\w+)", re.IGNORECASE
)


def installed_runtimes() -> list[str]:
    """Return names and versions of the runtimes installed here, without importing them."""
    found = []
    for name in _RUNTIMES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def available_runtimes() -> list[str]:
    """Return the names of the runtimes that can be imported here."""
    return [name for name in _RUNTIMES if _import(name) is not None]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(_RUNTIMES[name])
    except ImportError:
        return None


class TfliteModel:
    """A loaded variant of a bundle. Interpreter and signature runners are made once."""

    def __init__(self, bundle: Bundle, variant: Variant, runtime: str, num_threads: int = 1) -> None:
        module = _import(runtime)
        if module is None:
            raise BundleError(f"expected the runtime {runtime}, found none; pip install {runtime}")
        self.name = bundle.manifest.name
        self.digest = variant.sha256
        self.file = variant.file
        self.runtime = f"{runtime} {importlib.metadata.version(runtime)}"
        self.shape = tuple(bundle.manifest.input.shape)
        self.output_shapes = [tuple(output.shape) for output in bundle.manifest.outputs]
        self._input, self._outputs = variant.input, variant.outputs
        content = read_model(bundle, variant)
        where = bundle.path / variant.file
        if content[4:8] != IDENTIFIER:  # tflite-runtime ends the process over some of these
            raise BundleError(f"{where}: expected a TFLite model, found something else; install the bundle again")
        try:
            self._interpreter = module.Interpreter(model_content=content, num_threads=num_threads)
            self._interpreter.allocate_tensors()
            there = sorted(self._interpreter.get_signature_list())
            if not set(variant.signatures) <= set(there):
                raise BundleError(
                    f"{where}: expected the signatures {', '.join(variant.signatures)}, found {', '.join(there)}; "
                    "the manifest belongs to another model"
                )
            runners = {
                batch: self._interpreter.get_signature_runner(name) for name, batch in variant.signatures.items()
            }
        except (ValueError, RuntimeError) as error:
            raise BundleError(_explain(f"{where}", self.runtime, str(error))) from error
        self.batches = sorted(runners)
        self._runners = [(batch, runners[batch]) for batch in self.batches]
        given = np.float32 if variant.input is None else np.int8
        self._buffers = {b: np.zeros((b, *self.shape), given) for b in self.batches}
        self.quantized = False
        for batch, runner in self._runners:
            self._input_name, self._output_names = self._io_names(f"{where}", batch, runner)

    def _io_names(self, where: str, batch: int, runner: Any) -> tuple[str, list[str]]:
        """Return the names of a signature's input and outputs, in the manifest's order. Raises BundleError."""
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        names = in_order(outputs)
        kinds = {np.dtype(outputs[name]["dtype"]) for name in names}
        self.quantized = kinds == {np.dtype(np.int8)}
        buffer = self._buffers[batch]
        made = "int8" if self.quantized else "float32"
        shapes = [(batch, *shape) for shape in self.output_shapes]
        expected = f"{buffer.dtype} {buffer.shape} to {', '.join(f'{made} {shape}' for shape in shapes)}"
        sides = [
            ", ".join(_described(detail) for detail in side) for side in (inputs.values(), map(outputs.get, names))
        ]
        found = " to ".join(sides)
        if found != expected:
            raise BundleError(f"{where}: expected {expected}, found {found}; the manifest belongs to another model")
        return next(iter(inputs)), names

    def quantize(self, inputs: Inputs) -> npt.NDArray[Any]:
        """Return inputs as the model takes them, same shape: int8, or float32."""
        if self._input is None:
            return inputs.astype(np.float32, copy=False)
        return levels_of(inputs, self._input)

    def run(self, inputs: Inputs) -> list[F32]:
        """Return each output, float32 [n, *shape], for float32 or uint8 [n, *input shape], in order; any n >= 0.

        More inputs than the largest signature are split; the last ones are padded to the smallest that holds them.
        """
        out = [np.empty((len(inputs), *shape), np.float32) for shape in self.output_shapes]
        done = 0
        while done < len(inputs):
            left = len(inputs) - done
            batch, runner = next(((b, r) for b, r in self._runners if b >= left), self._runners[-1])
            count = min(left, batch)
            buffer = self._buffers[batch]
            buffer[:count] = self.quantize(inputs[done : done + count])
            result = runner(**{self._input_name: buffer})
            for made, name in zip(out, self._output_names, strict=True):
                made[done : done + count] = result[name][:count]
            done += count
        if self.quantized:
            for output, grid in zip(out, self._outputs, strict=True):
                np.subtract(output, grid.zero_point, out=output)
                np.multiply(output, np.float32(grid.scale), out=output)
        return out

    def seconds_per_input(self, count: int, runs: int = _TIMED_RUNS) -> float:
        """Return the best time per input of `runs` calls with `count` inputs, measured here and now."""
        inputs = np.zeros((count, *self.shape), np.float32)
        best = float("inf")
        for _ in range(runs):
            begun = perf_counter()
            self.run(inputs)
            best = min(best, perf_counter() - begun)
        return best / count


Model = TypeVar("Model", "TfliteEncoder", "TflitePictureEncoder")


class TfliteEncoder(TfliteModel):
    """A loaded encoder of sensor windows; fulfils agent.ports.Encoder."""

    def __init__(self, bundle: Bundle, variant: Variant, runtime: str, num_threads: int = 1) -> None:
        manifest = bundle.manifest
        if manifest.kind != "sensor" or [len(one.shape) for one in manifest.outputs] != [1]:
            raise BundleError(
                f"{bundle.path}: expected an encoder of sensor windows with one embedding, found kind "
                f"{manifest.kind!r} with {', '.join(f'{one.name} {one.shape}' for one in manifest.outputs)}; "
                "choose another encoder for this stream"
            )
        super().__init__(bundle, variant, runtime, num_threads)
        self.length = self.shape[0]
        (self.dim,) = self.output_shapes[0]
        self.output_step, self.output_offset = self._outputs[0].scale, self._outputs[0].zero_point

    def encode(self, windows: F32) -> F32:
        """Return float32 [n, dim] for float32 [n, length, features], in order; any n >= 0."""
        return self.run(windows)[0]


class TflitePictureEncoder(TfliteModel):
    """A loaded encoder of pictures; fulfils agent.ports.PictureEncoder."""

    def __init__(self, bundle: Bundle, variant: Variant, runtime: str, num_threads: int = 1) -> None:
        manifest = bundle.manifest
        maps = [len(one.shape) for one in manifest.outputs]
        if manifest.kind != "image" or not maps or set(maps) != {3} or manifest.input.shape[-1] != 3:  # noqa: PLR2004  RGB
            raise BundleError(
                f"{bundle.path}: expected an encoder of pictures with maps of features, found kind "
                f"{manifest.kind!r} with {', '.join(f'{one.name} {one.shape}' for one in manifest.outputs)}; "
                "choose another encoder for this stream"
            )
        super().__init__(bundle, variant, runtime, num_threads)


def load_picture_encoder(
    bundle: Bundle, runtime: str | None = None, file: str | None = None, num_threads: int = 1
) -> TflitePictureEncoder:
    """Load the variant and runtime for pictures that are named, or the fastest pair, as `load_encoder` does."""
    return _fastest(TflitePictureEncoder, bundle, runtime, file, num_threads)


def load_encoder(
    bundle: Bundle, runtime: str | None = None, file: str | None = None, num_threads: int = 1
) -> TfliteEncoder:
    """Load the variant and the runtime that are named, or the fastest of those that may run here.

    Each runs on the runtimes that the manifest lists, unless both are named. Raises BundleError, which names the
    operator and its version where a model is too new for the runtime.
    """
    return _fastest(TfliteEncoder, bundle, runtime, file, num_threads)


def _fastest(make: type[Model], bundle: Bundle, runtime: str | None, file: str | None, num_threads: int) -> Model:
    available = available_runtimes()
    if runtime is not None and runtime not in available:
        raise BundleError(f"expected the runtime {runtime}, found none; pip install {runtime}")
    if not available:
        raise BundleError("expected a TFLite runtime, found none; pip install ai-edge-litert")
    errors: list[BundleError] = []
    loaded: list[Model] = []
    for name, variant in candidates(bundle, runtime, file):
        try:
            loaded.append(make(bundle, variant, name, num_threads))
        except BundleError as error:
            errors.append(error)
    if not loaded:
        raise errors[0] if errors else no_variant(bundle, runtime or " or ".join(available))
    return min(loaded, key=seconds_per_window) if len(loaded) > 1 else loaded[0]


def candidates(bundle: Bundle, runtime: str | None = None, file: str | None = None) -> list[tuple[str, Variant]]:
    """Return (runtime, variant) of what may run here, runtimes first, in the manifest's order."""
    return [
        (name, variant)
        for name in available_runtimes()
        if runtime in (None, name)
        for variant in bundle.manifest.variants
        if file in (None, variant.file) and (name in variant.runtimes or None not in (runtime, file))
    ]


def no_variant(bundle: Bundle, wanted: str) -> BundleError:
    """Return the error of a bundle that has nothing for the runtime that is wanted."""
    proven = sorted({one for variant in bundle.manifest.variants for one in variant.runtimes})
    return BundleError(
        f"{bundle.path}: expected a variant for {wanted}, found variants for {', '.join(proven)}; "
        "pip install one of these, or convert the model for this one"
    )


def in_order(outputs: Iterable[str]) -> list[str]:
    """Return the names of a signature's outputs in the order of the network's: output_2 before output_10."""
    return sorted(outputs, key=lambda name: (len(name), name))


def levels_of(values: Inputs, grid: Quantization) -> npt.NDArray[np.int8]:
    """Return values on an int8 grid, same shape."""
    if values.dtype == np.uint8 and (grid.scale, grid.zero_point) == (1.0, -128):
        return (values.view(np.uint8) ^ np.uint8(128)).view(np.int8)
    levels = values / np.float32(grid.scale)
    np.rint(levels, out=levels)
    levels += grid.zero_point
    return np.clip(levels, -128, 127, out=levels).astype(np.int8)


def seconds_per_window(encoder: TfliteModel) -> float:
    """Return the best time per window at the largest batch, measured here and now."""
    return encoder.seconds_per_input(max(encoder.batches))


def _described(detail: Any) -> str:
    return f"{np.dtype(detail['dtype'])} {tuple(map(int, detail['shape']))}"


def _explain(where: str, runtime: str, message: str) -> str:
    found = _OPERATOR.search(message)
    if found:
        operator = f"{found[1]} version {found[2]}" if found[1] else found[3]
        return (
            f"{where}: the operator {operator} is not in {runtime}; install a newer runtime "
            "(pip install 'redshank[litert]') or convert the model for this one"
        )
    first = message.strip().splitlines()[0] if message.strip() else "no reason given"
    return f"{where}: {runtime} cannot load this model: {first}; install the bundle again"
