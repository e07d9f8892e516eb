"""The TFLite runtime behind one adapter: tflite-runtime or ai-edge-litert, whichever is installed and faster."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from time import perf_counter
from typing import Any, Final

import numpy as np

from agent.bundle import Bundle, Variant, read_model
from agent.core.types import F32
from agent.errors import BundleError

_RUNTIMES: Final = {
    "tflite-runtime": "tflite_runtime.interpreter",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}
_IDENTIFIER: Final = b"TFL3"
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


class TfliteEncoder:
    """A loaded model; fulfils agent.ports.Encoder. Interpreter and signature runners are made once."""

    def __init__(self, bundle: Bundle, variant: Variant, runtime: str, num_threads: int = 1) -> None:
        module = _import(runtime)
        if module is None:
            raise BundleError(f"expected the runtime {runtime}, found none; pip install {runtime}")
        self.name = bundle.manifest.name
        self.digest = variant.sha256
        self.runtime = f"{runtime} {importlib.metadata.version(runtime)}"
        self.length = bundle.manifest.length
        self.dim = bundle.manifest.dim
        self.output_step = variant.output.scale
        self.output_offset = variant.output.zero_point
        self._input = variant.input
        content = read_model(bundle, variant)
        where = bundle.path / variant.file
        if content[4:8] != _IDENTIFIER:  # tflite-runtime ends the process over some of these
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
        self._batches = sorted(runners)
        self._runners = [(batch, runners[batch]) for batch in self._batches]
        features = len(bundle.manifest.features)
        self._buffers = {b: np.zeros((b, self.length, features), np.int8) for b in self._batches}
        for batch, runner in self._runners:
            self._input_name, self._output_name = self._io_names(f"{where}", batch, runner)

    def _io_names(self, where: str, batch: int, runner: Any) -> tuple[str, str]:
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        (input_name, given), (output_name, made) = next(iter(inputs.items())), next(iter(outputs.items()))
        expected = f"int8 {self._buffers[batch].shape} to int8 {(batch, self.dim)}"
        found = " to ".join(f"{np.dtype(d['dtype'])} {tuple(map(int, d['shape']))}" for d in (given, made))
        if found != expected:
            raise BundleError(f"{where}: expected {expected}, found {found}; the manifest belongs to another model")
        return input_name, output_name

    def encode(self, windows: F32) -> F32:
        """Return float32 [n, dim] for float32 [n, length, features], in order; any n >= 0.

        Larger batches are split; the last one is padded to the smallest signature that holds it.
        """
        scaled = np.rint(windows / self._input.scale)
        scaled += self._input.zero_point
        inputs = np.clip(scaled, -128, 127).astype(np.int8)
        out = np.empty((len(windows), self.dim), np.float32)
        done = 0
        while done < len(windows):
            left = len(windows) - done
            batch, runner = next(((b, r) for b, r in self._runners if b >= left), self._runners[-1])
            count = min(left, batch)
            buffer = self._buffers[batch]
            buffer[:count] = inputs[done : done + count]
            result = runner(**{self._input_name: buffer})[self._output_name]
            out[done : done + count] = result[:count]
            done += count
        out -= self.output_offset
        out *= self.output_step
        return out


def load_encoder(bundle: Bundle, runtime: str | None = None, num_threads: int = 1) -> TfliteEncoder:
    """Load a bundle's first variant on the named runtime, or on the fastest of those installed.

    Raises BundleError, which names the operator and its version where a model is too new for the runtime.
    """
    names = [runtime] if runtime is not None else available_runtimes()
    if not names:
        raise BundleError("expected a TFLite runtime, found none; pip install ai-edge-litert")
    errors: list[BundleError] = []
    loaded: list[TfliteEncoder] = []
    for name in names:
        try:
            loaded.append(TfliteEncoder(bundle, bundle.manifest.variants[0], name, num_threads))
        except BundleError as error:
            errors.append(error)
    if not loaded:
        raise errors[0]
    return min(loaded, key=seconds_per_window) if len(loaded) > 1 else loaded[0]


def seconds_per_window(encoder: TfliteEncoder) -> float:
    """Return the best time per window at the largest batch, measured here and now."""
    batch = max(encoder._batches)  # noqa: SLF001  the same module
    windows = np.zeros((batch, encoder.length, 2), np.float32)
    best = float("inf")
    for _ in range(_TIMED_RUNS):
        begun = perf_counter()
        encoder.encode(windows)
        best = min(best, perf_counter() - begun)
    return best / batch


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
