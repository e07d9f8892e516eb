"""Disturbances for the benchmark alone: never those that an encoder was trained on (converter/pretrain/corpus.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agent.core.types import F64

STRENGTHS = (1.0, 2.0, 4.0)  # times the stream's robust standard deviation
LONGEST = 64  # rows
_LENGTHS = (16, 32, 64)
_SPREAD = 2.56  # q90 - q10 of a normal distribution, in standard deviations
_LEAST_CHANGE = 0.25  # of the size: what a floor at zero has swallowed is turned around

Kind = Callable[[np.random.Generator, F64, float, float], F64]


def robust_std(values: F64) -> float:
    """Return max((q90 - q10) / 2.56, 0.1 std) of what is not missing; 0 for a constant."""
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, (0.1, 0.9))
    return float(max((high - low) / _SPREAD, 0.1 * known.std()))


def _spike(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    out = part.copy()
    out[0] += 2.0 * size
    return out


def _shift(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    return part + size


def _drift(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    return part + 2.0 * size * np.arange(1, len(part) + 1) / len(part)


def _noise(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    return part + abs(size) * rng.standard_normal(len(part))


def _frozen(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    return np.full(len(part), part[0])


def _rhythm(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    """Shuffle the rows, or play them faster, there and back."""
    if rng.random() < 0.5:
        return rng.permutation(part)
    course = np.arange(len(part)) * (1.0 + strength / 2.0)
    last = len(part) - 1
    return np.interp(last - np.abs(last - course % (2 * last)), np.arange(len(part)), part)


def _oscillation(rng: np.random.Generator, part: F64, size: float, strength: float) -> F64:  # noqa: ARG001
    period = np.exp(rng.uniform(np.log(3.0), np.log(24.0)))
    return part + size * np.sin(2.0 * np.pi * np.arange(1, len(part) + 1) / period)


KINDS: dict[str, Kind] = {
    "spike": _spike,
    "shift": _shift,
    "drift": _drift,
    "noise": _noise,
    "frozen": _frozen,
    "rhythm": _rhythm,
    "oscillation": _oscillation,
}


def disturbed(
    rng: np.random.Generator, part: F64, kind: str, strength: float, unit: float, floor: float
) -> tuple[F64, int]:
    """Return the next rows of a stream with a disturbance at their beginning, and its length in rows.

    `part` float64 [rows >= LONGEST]; `unit` is the stream's robust standard deviation, `floor` what its values never
    fall below. A spike takes one row; how long a value is frozen is its strength; all else takes 16, 32 or 64 rows.
    """
    length = {"spike": 1, "frozen": _LENGTHS[STRENGTHS.index(strength)]}.get(kind) or int(rng.choice(_LENGTHS))
    size = strength * unit * float(rng.choice((-1.0, 1.0)))
    seed = rng.integers(2**32)
    out = part.copy()
    for signed in (size, -size):
        made = KINDS[kind](np.random.default_rng(seed), part[:length], signed, strength)
        out[:length] = np.maximum(made, floor)
        if np.abs(out[:length] - part[:length]).max() >= _LEAST_CHANGE * abs(size):
            break
    return out, length
