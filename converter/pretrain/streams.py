"""Generated streams of normal behaviour: five kinds of process, with what sensors and counters do to them.

No recorded data. Everything follows from the generator that is given, on any processor: recursions are written as
products of shifts, since libraries for filters round as their build pleases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Series = TypeVar("Series", F64, npt.NDArray[np.complex128])

PERIODS: Final = (6.0, 400.0)  # samples
CARRY_LIMIT: Final = 5  # a missing value is carried forward so many steps, as the agent's grid does
_FORGOTTEN: Final = 1e-9  # a recursion's weight that no longer matters
_DAYS: Final = (24, 48, 96, 144, 288)  # samples a day


def stream(rng: np.random.Generator, n: int, pool: int = 1) -> tuple[F64, float]:
    """Return one stream, float64 [n], and the step its values are rounded to, 0 if to none.

    `pool` is how many samples will be averaged: slow parts are slower by as much.
    """
    kind = rng.choice(len(_PROCESSES), p=_SHARES)
    x, step = _PROCESSES[kind](rng, n, pool)
    traits = rng.uniform(size=4) < _TRAITS
    if traits[0]:
        x = x + np.linspace(0, rng.normal(0, 1) * _deviation(x), n)
    if traits[1]:
        low, high = np.quantile(x, (0.05, 0.95))
        x = np.clip(x, low, high)
    if traits[2] and step == 0.0:
        step = float(rng.uniform(0.03, 0.5)) * _deviation(x)
    if step:
        x = np.round(x / step) * step
    if traits[3]:
        x = _carried(rng, x)
    return x, step


_TRAITS: Final = np.array([0.15, 0.1, 0.2, 0.15])  # shares of streams with trend, limits, rounding, missing values


def recursion(given: Series, factor: complex) -> Series:
    """Return y with y[t] = factor y[t - 1] + given[t], of the length and type of `given`; |factor| < 1.

    By doubling: 1 / (1 - a z) = (1 + a z)(1 + a^2 z^2)(1 + a^4 z^4)...
    """
    y = given.copy()
    shift = 1
    while shift < len(y) and abs(factor) > _FORGOTTEN:
        y[shift:] = y[shift:] + factor * y[:-shift]
        factor *= factor
        shift *= 2
    return y


def _deviation(x: F64) -> float:
    return float(x.std()) + 1e-3


def _carried(rng: np.random.Generator, x: F64) -> F64:
    """Return `x` with short gaps, in which the last value is carried forward."""
    n = len(x)
    count = 1 + int(n * rng.choice([0.002, 0.01, 0.05]))
    missing = np.zeros(n, np.bool_)
    starts, lengths = rng.integers(1, max(2, n), count), rng.integers(1, CARRY_LIMIT + 1, count)
    for offset in range(CARRY_LIMIT):
        missing[np.minimum(starts[lengths > offset] + offset, n - 1)] = True
    missing[0] = False
    return x[np.maximum.accumulate(np.where(missing, 0, np.arange(n)))]


# --- seasonal parts: float64 phase [n] in 0..1, to values of about unit size


def _harmonics(rng: np.random.Generator, phase: F64) -> F64:
    made = np.zeros(len(phase))
    for order in range(1, 5):
        made += rng.normal() / order * np.sin(2 * np.pi * (order * phase + rng.uniform()))
    return made


_WAVES: Final[tuple[Callable[[np.random.Generator, F64], F64], ...]] = (
    lambda _rng, phase: np.sin(2 * np.pi * phase),
    lambda rng, phase: np.sign(phase - rng.uniform(0.2, 0.8)),
    lambda _rng, phase: 2 * phase - 1,
    lambda _rng, phase: 4 * np.abs(phase - 0.5) - 1,
    lambda rng, phase: np.exp(-0.5 * ((phase - 0.5) / rng.uniform(0.03, 0.15)) ** 2) * 2,
    _harmonics,
)


def wave(rng: np.random.Generator, phase: F64) -> F64:
    """Return one of six wave forms at `phase`, float64 [n] in 0..1."""
    return _WAVES[rng.integers(len(_WAVES))](rng, phase)


def _season(rng: np.random.Generator, n: int, pool: int) -> F64:
    low, high = np.log(PERIODS)
    period = np.exp(rng.uniform(low, high + np.log(pool)))
    phase = np.arange(n) / period + rng.uniform()
    jitter = rng.choice([0.0, 0.01, 0.05])
    if jitter:
        phase += np.cumsum(rng.normal(0, jitter * 6 / period, n))
    return wave(rng, phase % 1.0)


def _seasons(rng: np.random.Generator, n: int, pool: int, least: int) -> F64:
    x = np.zeros(n)
    for _ in range(rng.integers(least, 4)):
        x += _season(rng, n, pool) * rng.uniform(0.3, 2)
    return x


# --- noises of about unit size


def _correlated(rng: np.random.Generator, n: int) -> F64:
    a = rng.uniform(0.5, 0.98)
    return np.asarray(recursion(rng.normal(0, np.sqrt(1 - a * a), n), a))


def _resonant(rng: np.random.Generator, n: int) -> F64:
    a, turn = rng.uniform(0.9, 0.995), rng.uniform(0.05, 2)
    white = rng.normal(0, np.sqrt(1 - a * a), n).astype(np.complex128)
    return np.asarray(recursion(white, complex(a * np.cos(turn), a * np.sin(turn)))).real * np.sqrt(2)


def _telegraph(rng: np.random.Generator, n: int) -> F64:
    turns = rng.uniform(size=n) < rng.uniform(0.005, 0.05)
    return np.where(np.cumsum(turns) % 2, 1.0, -1.0) + 0.2 * rng.normal(0, 1, n)


def _bursts(rng: np.random.Generator, n: int) -> F64:
    hit = rng.uniform(size=n) < rng.uniform(0.005, 0.05)
    return rng.normal(0, 0.2, n) + hit * rng.exponential(3, n)


def _uneven(rng: np.random.Generator, n: int) -> F64:
    phase = np.arange(n) / rng.uniform(50, 1000) + rng.uniform()
    return np.asarray(rng.normal(0, 1, n) * np.exp(rng.uniform(0.3, 1.5) * np.sin(2 * np.pi * phase)))


_NOISES: Final[tuple[Callable[[np.random.Generator, int], F64], ...]] = (
    lambda rng, n: rng.normal(0, 1, n),
    lambda rng, n: rng.normal(0, 1, n),
    lambda rng, n: np.clip(rng.standard_t(3, n), -20, 20) * 0.6,
    lambda rng, n: np.exp(0.7 * rng.normal(0, 1, n)) - 1.3,
    _correlated,
    _resonant,
    _telegraph,
    _bursts,
    _uneven,
)


def noise(rng: np.random.Generator, n: int) -> F64:
    """Return noise of one of eight kinds, float64 [n]."""
    return _NOISES[rng.integers(len(_NOISES))](rng, n)


def _some_noise(rng: np.random.Generator, n: int) -> F64:
    return noise(rng, n) * np.exp(rng.uniform(np.log(0.02), 0.0))


# --- processes: values float64 [n], and the step they are rounded to


def _sum(rng: np.random.Generator, n: int, pool: int) -> tuple[F64, float]:
    return _seasons(rng, n, pool, 0) + _some_noise(rng, n), 0.0


def _week(rng: np.random.Generator, n: int, _pool: int) -> tuple[F64, float]:
    """Return a daily course whose weekend differs."""
    day = int(rng.choice(_DAYS))
    when = np.arange(n) + rng.integers(7 * day)
    course = wave(rng, when / day % 1.0)
    weekend = when // day % 7 >= rng.choice([5, 6])
    factor = np.where(weekend, rng.uniform(-0.2, 0.8), 1.0)
    return course * factor * rng.uniform(0.5, 2) + weekend * rng.normal(0, 0.3) + 0.5 * _some_noise(rng, n), 0.0


def _counts(rng: np.random.Generator, n: int, pool: int) -> tuple[F64, float]:
    """Return counts: Poisson with a rate that has seasons, and with bursts and stretches of nothing."""
    rate = np.exp(rng.uniform(-2, 3) + rng.uniform(0, 0.8) * _seasons(rng, n, pool, 0))
    if rng.uniform() < 0.5:  # noqa: PLR2004  a share
        rate = rate * rng.gamma(shape := rng.uniform(0.3, 3), 1 / shape, n)
    if rng.uniform() < 0.3:  # noqa: PLR2004  a share
        rate = rate * (rng.uniform(size=n) < rng.uniform(0.1, 0.8))
    return rng.poisson(np.minimum(rate, 1e4)).astype(np.float64), 1.0


def _duty(rng: np.random.Generator, n: int, pool: int) -> tuple[F64, float]:
    """Return what is switched on and off, at once or with a lag, with another noise in either state."""
    longest = np.exp(rng.uniform(np.log(8), np.log(200 * pool)))
    spread = rng.choice([0.02, 0.2, 0.8])
    lengths = np.maximum(2, longest * np.exp(spread * rng.normal(0, 1, n // 2 + 2)))
    lengths[::2] *= rng.uniform(0.2, 1)
    turns = np.cumsum(np.maximum(lengths, 2)).astype(np.int64)
    state = (np.searchsorted(turns, np.arange(n), side="right") % 2).astype(np.float64)
    lag = rng.choice([0.0, 0.5, 0.9, 0.97])
    level = np.asarray(recursion(state * (1 - lag), lag)) if lag else state
    return level * rng.uniform(0.5, 3) + _some_noise(rng, n) * np.where(state > 0, rng.uniform(0.1, 1), 0.1), 0.0


def _walk(rng: np.random.Generator, n: int, pool: int) -> tuple[F64, float]:
    """Return a walk that comes back to its mean, if slowly."""
    a = 1 - np.exp(rng.uniform(np.log(1e-3), np.log(0.02))) / pool
    steps = rng.normal(0, np.sqrt(1 - a * a), n)
    return np.asarray(recursion(steps, a)) + 0.1 * _some_noise(rng, n), 0.0


_PROCESSES: Final = (_sum, _week, _counts, _duty, _walk)
_SHARES: Final = (0.56, 0.12, 0.13, 0.11, 0.08)
