"""What one variant of an encoder costs on this very device: each combination is tried in a process of its own."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec
import numpy as np

from agent.adapters.energy import EnergyMeter, find_meter
from agent.adapters.tflite import TfliteModel, available_runtimes, candidates
from agent.bundle import Bundle, Variant, load_bundle
from agent.child_process import answer_of
from agent.core.types import F32
from agent.errors import BundleError

MAX_THREADS: Final = 4  # tried unless more are asked for
_MAX_CALLS: Final = 100_000
_PATIENCE_S: Final = 120.0  # beside what is timed: loading, and calls that were begun


class Ask(msgspec.Struct, frozen=True):
    """What is to be tried; `seconds` bounds how long calls of one size are timed, and how long energy is read."""

    bundle: str
    file: str
    runtime: str
    threads: int
    seconds: float


class CallCost(msgspec.Struct, frozen=True):
    """What a call with `batch` inputs costs: quartiles of its milliseconds over `calls` calls.

    `energy_mj`: millijoules of the whole processor or board in the time of a call, None if the device does not tell.
    """

    batch: int
    calls: int
    median_ms: float
    low_ms: float
    high_ms: float
    energy_mj: float | None = None


class Tried(msgspec.Struct, frozen=True):
    """What a process found: the runtime with its version, and the resident memory that loading and calls add."""

    runtime: str
    memory_bytes: int
    energy: str
    calls: list[CallCost]


class Trial(msgspec.Struct, frozen=True):
    """One combination, and what was found, or why nothing could be."""

    file: str
    sha256: str
    precision: str
    runtime: str
    threads: int
    tried: Tried | None = None
    error: str | None = None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def combinations(bundle: Bundle, threads: Sequence[int]) -> list[tuple[str, Variant, int]]:
    """Return (runtime, variant, threads) of all that may run here."""
    return [(runtime, variant, count) for runtime, variant in candidates(bundle) for count in threads]


def trials(bundle: Bundle, threads: Sequence[int], seconds: float) -> Iterator[Trial]:
    """Yield what each combination costs, one after the other: they would disturb each other."""
    for runtime, variant, count in combinations(bundle, threads):
        about = (variant.file, variant.sha256, variant.precision, runtime, count)
        try:
            yield Trial(*about, tried=in_process(bundle, variant, runtime, threads=count, seconds=seconds))
        except BundleError as error:
            yield Trial(*about, error=str(error))


def in_process(bundle: Bundle, variant: Variant, runtime: str, *, threads: int = 1, seconds: float = 0.0) -> Tried:
    """Return what a variant costs, tried in a process of its own. Raises BundleError, also if that process ended."""
    ask = Ask(str(bundle.path.resolve()), variant.file, runtime, threads, seconds)
    where = f"{bundle.path / variant.file} on {runtime}"
    answer = answer_of("agent.encoder_trial", msgspec.json.encode(ask), where, _PATIENCE_S + 4 * seconds)
    return msgspec.json.decode(answer, type=Tried)


def attempt(ask: Ask) -> Tried:
    """Load and call a variant here and now. Raises BundleError."""
    bundle = load_bundle(Path(ask.bundle))
    variant = next((one for one in bundle.manifest.variants if one.file == ask.file), None)
    if variant is None:
        raise BundleError(f"{bundle.path}: expected the variant {ask.file}, found none of that name")
    available_runtimes()  # imports them
    batches, shape = sorted(variant.signatures.values()), bundle.manifest.input.shape
    inputs = [_inputs(batch, shape) for batch in sorted({batches[0], batches[-1]})]
    before = resident_bytes()
    model = TfliteModel(bundle, variant, ask.runtime, ask.threads)
    for given in inputs:
        model.run(given)
    memory = max(0, resident_bytes() - before)
    meter, source = find_meter()
    return Tried(model.runtime, memory, source, [_cost(model, one, ask.seconds, meter) for one in inputs])


def _inputs(batch: int, shape: Sequence[int]) -> F32:
    return np.random.default_rng(0).standard_normal((batch, *shape), np.float32)


def _cost(model: TfliteModel, inputs: F32, seconds: float, meter: EnergyMeter | None) -> CallCost:
    """Return what a call costs. Energy is read over calls of its own: to read a sensor takes time."""
    taken: list[float] = []
    until = perf_counter() + seconds
    while not taken or (perf_counter() < until and len(taken) < _MAX_CALLS):
        begun = perf_counter()
        model.run(inputs)
        taken.append(perf_counter() - begun)
    low, median, high = (float(one) for one in np.quantile(taken, (0.25, 0.5, 0.75)) * 1e3)
    energy = None if meter is None else _energy_mj(model, inputs, seconds, meter)
    return CallCost(len(inputs), len(taken), median, low, high, energy)


def _energy_mj(model: TfliteModel, inputs: F32, seconds: float, meter: EnergyMeter) -> float | None:
    until, calls = perf_counter() + seconds, 0
    try:
        meter.begin()
        while not calls or (perf_counter() < until and calls < _MAX_CALLS):
            model.run(inputs)
            meter.sample()
            calls += 1
        return 1e3 * meter.joules() / calls
    except (OSError, ValueError):  # the sensor went away
        return None


def resident_bytes() -> int:
    """Return this process's resident memory, in bytes (Linux: proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    """Try what standard input names, and print what was found."""
    try:
        tried = attempt(msgspec.json.decode(sys.stdin.buffer.read(), type=Ask))
    except (BundleError, ValueError, RuntimeError, MemoryError) as error:  # some faults are found only at a call
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(tried))
    return 0
