"""Proof on the runtime installed here: the quantized encoder against what the float one made of held-out inputs.

Needs only what the agent needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from agent.adapters.tflite import TfliteModel, candidates, levels_of, no_variant
from agent.bundle import Bundle, Quantization, Variant, read_model
from agent.core.types import F32, F64
from agent.encoder_proof import rows_of
from agent.encoder_trial import in_process
from agent.errors import BundleError
from converter.gates import Gate, Result, apply
from converter.operators import Operator, oldest_runtime, operators_of, required, too_new
from converter.ranking import Figures, Population, compare
from converter.vectors import HeldOut, read_vectors

LAST_OF_ITS_KIND: Final = "tflite-runtime"  # its releases have ended: what it lacks it will never have
_TIMED_RUNS: Final = 5
_MANY: Final = 32
_SLOW_S: Final = 1.0  # a run that takes longer is timed once
_MEGA: Final = 1e6


class Measured(msgspec.Struct, frozen=True):
    """What was found of one variant on one runtime. Times and memory are None where they were not asked for."""

    rows: dict[str, Figures]
    size_mb: float
    operators_missing: float
    ms_1: float | None = None
    ms_32: float | None = None
    memory_mb: float | None = None


class Verdict(msgspec.Struct, frozen=True):
    """One variant on one runtime: figures, gates, and the scores behind them (float's, quantized) for a picture."""

    file: str
    precision: str
    runtime: str
    operators: list[Operator]
    oldest_runtime: str
    measured: Measured
    results: list[Result]
    scores: dict[str, tuple[F64, F64]]
    labels: str  # where they are from, by which anomalies are told from the rest
    error: str | None = None

    @property
    def passes(self) -> bool:
        """Tell whether every gate is passed."""
        return self.error is None and all(result.passes for result in self.results)

    @property
    def failures(self) -> list[str]:
        """Return what failed, a phrase each."""
        return [*([self.error] if self.error else []), *(str(one) for one in self.results if not one.passes)]


def verify(bundle: Bundle, gates: dict[str, Gate], *, timed: bool, runtime: str | None = None) -> Iterator[Verdict]:
    """Yield a verdict on each variant and each installed runtime that it is for. Raises BundleError."""
    held_out = read_vectors(bundle)
    pairs = candidates(bundle, runtime)
    if not pairs:
        raise no_variant(bundle, runtime or "a runtime installed here")
    for name, variant in pairs:
        yield judge(bundle, variant, name, held_out, gates, timed=timed)


def judge(
    bundle: Bundle, variant: Variant, runtime: str, held_out: HeldOut, gates: dict[str, Gate], *, timed: bool
) -> Verdict:
    """Return the verdict on one variant on one runtime. Raises BundleError for a file that is missing or corrupt."""
    content = read_model(bundle, variant)
    operators = operators_of(content)
    needed = sorted({*operators, *required(variant.precision)})
    about: dict[str, Any] = {"file": variant.file, "precision": variant.precision, "operators": operators}
    about |= {"oldest_runtime": oldest_runtime(needed), "labels": held_out.labels}
    missing = too_new(needed) if runtime == LAST_OF_ITS_KIND else []
    measured = Measured(rows={}, size_mb=len(content) / _MEGA, operators_missing=float(len(missing)))
    try:
        model = TfliteModel(bundle, variant, runtime)
        outputs = model.run(held_out.inputs)
    except (BundleError, ValueError, RuntimeError) as error:  # some faults are found only when a model runs
        loaded = isinstance(error, BundleError)
        text = str(error) if loaded else f"{bundle.path / variant.file}: {runtime} cannot run this model: {error}"
        results = apply(gates, measured)
        return Verdict(**about, runtime=runtime, measured=measured, results=results, scores={}, error=text)
    if not model.quantized:  # the agent keeps embeddings on this grid
        outputs = [
            _on_grid(one, grid) if one.ndim == 2 else one  # noqa: PLR2004  an embedding
            for one, grid in zip(outputs, variant.outputs, strict=True)
        ]
    rows = rows_of(outputs, held_out.positions)
    if {name: one.shape for name, one in rows.items()} != {name: one.shape for name, one in held_out.rows.items()}:
        raise BundleError(
            f"{bundle.path}: the held-out embeddings are of another shape than the model's; build the bundle again"
        )
    figures: dict[str, Figures] = {}
    scores: dict[str, tuple[F64, F64]] = {}
    for name, found in rows.items():
        figures[name], both = compare(*_flat(held_out, name, found))
        scores |= {f"{name}, {scorer}": pair for scorer, pair in both.items()}
    measured = msgspec.structs.replace(measured, rows=figures)
    if timed:
        one_s = model.seconds_per_input(1, _TIMED_RUNS)
        runs = _TIMED_RUNS if one_s * _MANY < _SLOW_S else 1
        measured = msgspec.structs.replace(
            measured,
            ms_1=1e3 * one_s,
            ms_32=1e3 * _MANY * model.seconds_per_input(_MANY, runs),
            memory_mb=in_process(bundle, variant, runtime).memory_bytes / _MEGA,
        )
    return Verdict(**about, runtime=model.runtime, measured=measured, results=apply(gates, measured), scores=scores)


def _on_grid(output: F32, grid: Quantization) -> F32:
    return np.asarray((levels_of(output, grid).astype(np.float32) - grid.zero_point) * np.float32(grid.scale))


def _flat(held_out: HeldOut, name: str, found: F32) -> tuple[F32, F32, Population]:
    """Return expected and found rows, float32 [rows, dim], and what they are."""
    expected, of = held_out.rows[name], held_out.population
    if expected.ndim == 2:  # noqa: PLR2004  a row for each input
        return expected, found, of
    many = expected.shape[1]
    # A patch of an anomalous picture need not be anomalous: patches have no labels.
    population = Population(np.repeat(of.stream, many), np.repeat(of.reference, many), None)
    return expected.reshape(-1, expected.shape[2]), found.reshape(-1, found.shape[2]), population


def report(bundle: Bundle, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return what report.json says: plain values, rounded so that they are the same from run to run."""
    variants: dict[str, Any] = {}
    for verdict in verdicts:
        entry = variants.setdefault(
            verdict.file,
            {
                "precision": verdict.precision,
                "operators": {f"{one.name} {one.version}": one.count for one in verdict.operators},
                "oldest_runtime": verdict.oldest_runtime,
                "runtimes": {},
            },
        )
        found: dict[str, Any] = {"passes": verdict.passes, "failures": verdict.failures}
        found |= msgspec.json.decode(msgspec.json.encode(verdict.measured))
        entry["runtimes"][verdict.runtime] = _rounded(found)
    return {"bundle": bundle.manifest.name, "labels": verdicts[0].labels, "variants": variants}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items() if one is not None}
    return round(value, 4) if isinstance(value, float) else value


def lines(verdict: Verdict) -> Iterator[str]:
    """Yield the verdict for a person to read."""
    yield f"{verdict.file} ({verdict.precision}) on {verdict.runtime}: {'passes' if verdict.passes else 'FAILS'}"
    if verdict.error is not None:
        yield f"  {verdict.error}"
    for result in verdict.results:
        mark = "ok  " if result.passes else "FAIL"
        place = f"{result.rows} {result.gate.figure}".strip()
        yield f"  {mark} {place:<32} {_figure(result.value):>10} {result.gate.sign} {result.gate.bound:g}"
    versions = ", ".join(f"{one.name} {one.version}" for one in verdict.operators)
    yield f"  labels: {verdict.labels}"
    yield f"  operators: {versions}; oldest runtime: {verdict.oldest_runtime}"


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"  # noqa: PLR2004  digits


def as_json(value: Any) -> bytes:
    """Return indented JSON that ends with a new line."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
