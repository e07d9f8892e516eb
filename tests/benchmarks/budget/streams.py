"""Twelve kinds of normal streams, one value a minute: nothing in them is a fault. Seeded, made anew each time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np

from agent.core.types import F64

DAY = 1440  # rows
WEEK = 7 * DAY

Kind = Callable[[np.random.Generator, int], F64]


def autoregressive(rng: np.random.Generator, rows: int, coefficient: float) -> F64:
    """Return a first-order autoregressive process of unit variance, float64 [rows]."""
    steps = rng.normal(size=rows) * np.sqrt(1.0 - coefficient**2)
    steps[0] = rng.normal()
    return np.fromiter(accumulate(steps.tolist(), lambda last, step: coefficient * last + step), np.float64, rows)


def _white(rng: np.random.Generator, rows: int) -> F64:
    """Return independent normal values."""
    return rng.normal(size=rows)


def _ar1(rng: np.random.Generator, rows: int) -> F64:
    """Return an autoregressive process, coefficient between .8 and .98."""
    return autoregressive(rng, rows, rng.uniform(0.8, 0.98))


def _walk(rng: np.random.Generator, rows: int) -> F64:
    """Return a random walk with normal steps."""
    return np.cumsum(rng.normal(size=rows))


def _daily(rng: np.random.Generator, rows: int) -> F64:
    """Return a day's course of three harmonics with autoregressive noise of a seventh of it."""
    return _day(rng, rows) + 0.15 * autoregressive(rng, rows, 0.7)


def _weekly(rng: np.random.Generator, rows: int) -> F64:
    """Return the same, at .2 to .5 of its size from Friday night to Sunday night."""
    minute = np.arange(rows) + int(rng.integers(WEEK))
    size = np.where(minute % WEEK >= 5 * DAY, rng.uniform(0.2, 0.5), 1.0)
    return size * (2.0 + _day(rng, rows)) + 0.15 * autoregressive(rng, rows, 0.7)


def _duty(rng: np.random.Generator, rows: int) -> F64:
    """Return on and off, 20 to 90 minutes each, another duration every time; noise of 3 % of the step."""
    lengths = rng.integers(20, 91, size=rows // 20 + 2)
    state = np.repeat(np.arange(len(lengths)) % 2, lengths)[:rows]
    return state + 0.03 * rng.normal(size=rows)


def _bursts(rng: np.random.Generator, rows: int) -> F64:
    """Return Student's t with three degrees of freedom; about four times a day a burst of Pareto size that decays."""
    starts = rng.random(rows) < 4.0 / DAY
    jumps = np.where(starts, 4.0 * (1.0 + rng.pareto(2.5, size=rows)), 0.0)
    decay = rng.uniform(0.8, 0.95)
    burst = np.fromiter(accumulate(jumps.tolist(), lambda last, jump: decay * last + jump), np.float64, rows)
    return rng.standard_t(3, size=rows) + burst


def _variance(rng: np.random.Generator, rows: int) -> F64:
    """Return normal values whose deviation wanders by a factor of e within hours."""
    return np.exp(autoregressive(rng, rows, np.exp(-1.0 / 360.0))) * rng.normal(size=rows)


def _quantised(rng: np.random.Generator, rows: int) -> F64:
    """Return an autoregressive process, rounded to halves of its deviation."""
    return np.round(2.0 * autoregressive(rng, rows, 0.9)) / 2.0


def _saturating(rng: np.random.Generator, rows: int) -> F64:
    """Return a day's course with noise that stops at a sensor's limits, a third to half of the time."""
    return np.clip(_day(rng, rows) + 0.5 * autoregressive(rng, rows, 0.95), -0.7, 0.9)


def _counter(rng: np.random.Generator, rows: int) -> F64:
    """Return a counter of Poisson events, 20 a minute, that begins at zero again every 8 to 16 hours."""
    total = np.cumsum(rng.poisson(20.0, size=rows)).astype(np.float64)
    lengths = rng.integers(8 * 60, 16 * 60 + 1, size=rows // (8 * 60) + 2)
    resets = np.cumsum(lengths)
    last = np.searchsorted(resets, np.arange(rows), side="right") - 1
    return total - np.where(last >= 0, total[np.minimum(resets[np.maximum(last, 0)], rows - 1) - 1], 0.0)


def _drift(rng: np.random.Generator, rows: int) -> F64:
    """Return autoregressive noise on a level that moves by one of its deviations a day."""
    return autoregressive(rng, rows, 0.6) + rng.choice((-1.0, 1.0)) * np.arange(rows) / DAY


def _day(rng: np.random.Generator, rows: int) -> F64:
    turn = 2.0 * np.pi * (np.arange(rows) + int(rng.integers(DAY))) / DAY
    sizes = (1.0, *rng.uniform(0.1, 0.4, size=2))
    phases = rng.uniform(0.0, 2.0 * np.pi, size=3)
    return np.asarray(sum(s * np.sin(k * turn + p) for k, (s, p) in enumerate(zip(sizes, phases, strict=True), 1)))


KINDS: dict[str, Kind] = {
    "white noise": _white,
    "autoregressive": _ar1,
    "random walk": _walk,
    "daily": _daily,
    "weekly x daily": _weekly,
    "on and off": _duty,
    "bursts": _bursts,
    "changing variance": _variance,
    "quantised": _quantised,
    "saturating": _saturating,
    "counter": _counter,
    "slow drift": _drift,
}


def normal_stream(kind: str, number: int, rows: int, seed: int = 0) -> F64:
    """Return the values of stream `number` of a kind, float64 [rows]."""
    return KINDS[kind](np.random.default_rng([seed, list(KINDS).index(kind), number]), rows)
