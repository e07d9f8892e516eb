"""Six disturbances in five strengths: anomalies of the pretraining, with a strength that is chosen instead of drawn."""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.core.types import F64
from converter.pretrain import anomalies
from converter.pretrain.anomalies import Place

STRENGTHS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # robust standard deviations of the channel
LENGTHS: Final = (6, 12, 18, 24, 32)  # readings: the strength of what has no size
_USUAL_LENGTH: Final = 32
_SPIKE_LENGTH: Final = 3
LONGEST: Final = max(*LENGTHS, _USUAL_LENGTH)
_SPREAD: Final = 2.56  # q90 - q10 of a normal distribution, in standard deviations
_BY_NAME: Final = {kind.__name__.strip("_"): kind for kind in anomalies.KINDS}
KINDS: Final = {
    "spike": _BY_NAME["spike"],
    "level shift": _BY_NAME["shift"],
    "drift": _BY_NAME["ramp"],
    "noise": _BY_NAME["noisier"],
    "frozen value": _BY_NAME["frozen"],
    "changed frequency": _BY_NAME["faster_or_slower"],
}
_SIZELESS: Final = frozenset({"frozen value", "changed frequency"})


def unit_of(values: F64) -> float:
    """Return max((q90 - q10) / 2.56, 0.1 std) of float64 [n] without NaN; 0 for a constant, and where nothing is."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return 0.0
    low, high = np.quantile(known, (0.1, 0.9))
    return float(max((high - low) / _SPREAD, 0.1 * known.std()))


def length_of(kind: str, strength: int) -> int:
    """Return how many readings a disturbance takes; `strength` is its place in STRENGTHS."""
    if kind in _SIZELESS:
        return LENGTHS[strength]
    return _SPIKE_LENGTH if kind == "spike" else _USUAL_LENGTH


def disturb(rng: np.random.Generator, values: F64, start: int, kind: str, strength: int, unit: float) -> F64:
    """Return float64 [n] with a disturbance at `start`; `unit` is the channel's robust standard deviation.

    At least `length_of` readings must follow `start`; what lies around the disturbance is as it was.
    """
    end = start + length_of(kind, strength)
    size = STRENGTHS[strength] * unit * float(rng.choice((-1.0, 1.0)))
    out = values.copy()
    out[start:end] = KINDS[kind](rng, Place(values, start, end, size))
    return out
