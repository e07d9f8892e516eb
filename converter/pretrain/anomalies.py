"""Anomalies to put into generated streams: sixteen kinds, weak to strong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from converter.pretrain.streams import F64, wave

STRENGTHS: Final = (0.5, 6.0)  # deviations


class Place(msgspec.Struct, frozen=True):
    """Where an anomaly begins and ends in `x` float64 [>= end], which may go on; `size` is its signed strength."""

    x: F64
    start: int
    end: int
    size: float

    @property
    def part(self) -> F64:
        """Return a copy of what is to change, float64 [end - start]."""
        return self.x[self.start : self.end].copy()

    @property
    def ramp(self) -> F64:
        """Return 0 to 1 over the part."""
        return np.arange(1, self.end - self.start + 1) / (self.end - self.start)


def inject(rng: np.random.Generator, x: F64, start: int, end: int, step: float = 0.0) -> F64:
    """Return x[:end] with one of the anomalies from `start` on, rounded to `step` if that is not 0, float64 [end].

    What follows `end` in `x` is only read, for changes in time. The part always differs from what it was.
    """
    deviation = float(x.std() if rng.uniform() < 0.5 else np.diff(x).std()) + 1e-3  # noqa: PLR2004  half of them
    low, high = np.log(STRENGTHS)
    size = float(deviation * np.exp(rng.uniform(low, high)) * rng.choice([-1, 1]))
    size = float(np.copysign(max(abs(size), step), size))
    place = Place(x, start, end, size)
    part = KINDS[rng.integers(len(KINDS))](rng, place)
    if step:
        part = np.round(part / step) * step
    if np.abs(part - x[start:end]).max() < 0.1 * min(abs(size), deviation):
        part = x[start:end] + size
        if step:
            part = np.round(part / step) * step
    return np.concatenate([x[:start], part])


def _spike(rng: np.random.Generator, at: Place) -> F64:
    part = at.part
    first = rng.integers(len(part))
    part[first : first + rng.integers(1, 4)] += 1.5 * at.size
    return part


def _shift(_rng: np.random.Generator, at: Place) -> F64:
    return at.part + at.size


def _ramp(rng: np.random.Generator, at: Place) -> F64:
    return at.part + at.size * 1.5 * at.ramp ** rng.choice([1, 2])


def _noisier(rng: np.random.Generator, at: Place) -> F64:
    return at.part + rng.normal(0, abs(at.size), at.end - at.start)


def _smoother(rng: np.random.Generator, at: Place) -> F64:
    wide = int(rng.choice([3, 5, 9]))
    return np.convolve(np.pad(at.part, wide // 2, mode="edge"), np.full(wide, 1 / wide), "valid")


def _frozen(_rng: np.random.Generator, at: Place) -> F64:
    return np.full(at.end - at.start, at.x[max(0, at.start - 1)])


def _lost(rng: np.random.Generator, at: Place) -> F64:
    levels = (0.0, at.x.min(), at.x.max(), at.x.mean())
    return np.full(at.end - at.start, levels[rng.integers(len(levels))])


def _oscillation(rng: np.random.Generator, at: Place) -> F64:
    n = at.end - at.start
    return at.part + at.size * wave(rng, (np.arange(n) * np.exp(rng.uniform(-3.5, -0.9)) + rng.uniform()) % 1.0)


def _flutter(rng: np.random.Generator, at: Place) -> F64:
    part = at.part
    part[:: rng.integers(2, 5)] += at.size
    return part


def _gain(rng: np.random.Generator, at: Place) -> F64:
    centre = at.x.mean() if rng.uniform() < 0.5 else at.x[at.start]  # noqa: PLR2004  half of them
    return centre + (at.part - centre) * rng.choice([0.0, 0.3, 0.5, 1.6, 2.0, 3.0])


def _reversed(_rng: np.random.Generator, at: Place) -> F64:
    return at.part[::-1]


def _shuffled(rng: np.random.Generator, at: Place) -> F64:
    return rng.permutation(at.part)


def _faster_or_slower(rng: np.random.Generator, at: Place) -> F64:
    when = at.start + np.arange(at.end - at.start) * rng.choice([0.3, 0.5, 0.7, 1.4, 2.0])
    return np.interp(when, np.arange(len(at.x)), at.x)


def _out_of_phase(rng: np.random.Generator, at: Place) -> F64:
    n = at.end - at.start
    first = rng.integers(0, len(at.x) - n + 1)
    return at.x[first : first + n].copy()


def _mirrored(_rng: np.random.Generator, at: Place) -> F64:
    return 2 * at.x.mean() - at.part


def _saturated(rng: np.random.Generator, at: Place) -> F64:
    limit = np.quantile(at.x, rng.uniform(0.2, 0.8))
    return np.minimum(at.part, limit) if at.size > 0 else np.maximum(at.part, limit)


KINDS: Final[tuple[Callable[[np.random.Generator, Place], F64], ...]] = (
    _spike,
    _shift,
    _ramp,
    _noisier,
    _smoother,
    _frozen,
    _lost,
    _oscillation,
    _flutter,
    _gain,
    _reversed,
    _shuffled,
    _faster_or_slower,
    _out_of_phase,
    _mirrored,
    _saturated,
)
