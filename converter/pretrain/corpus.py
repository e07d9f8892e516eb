"""Generated streams to learn from: seasonal parts, noises, trends, and twelve kinds of anomaly. No real data.

Follows the recipe that was measured for this project's design: 0 to 3 seasonal parts of six kinds with periods of 6 to
400 samples and phase jitter, six kinds of noise, trend, quantisation and clipping.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agent.core.preprocess import CLIP

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

LENGTH = 64
REFERENCES = 96
QUERIES = 32
HISTORY = 1600
_SPREAD = 2.56  # q90 - q10 of a normal distribution, in standard deviations
_MOVES_KNOWN = 8  # a stream must have moved this often before its smallest step is its resolution


def _season(rng: np.random.Generator, n: int) -> F64:
    period = np.exp(rng.uniform(np.log(6), np.log(400)))
    jitter = np.cumsum(rng.normal(0, rng.choice([0.0, 0.01, 0.05]), n))
    phase = (np.arange(n) / period + rng.uniform() + jitter / period * 6) % 1.0
    kind = rng.integers(6)
    if kind == 0:
        return np.sin(2 * np.pi * phase)
    if kind == 1:
        return np.sign(phase - rng.uniform(0.2, 0.8))
    if kind == 2:  # noqa: PLR2004  kinds are numbered
        return 2 * phase - 1
    if kind == 3:  # noqa: PLR2004  kinds are numbered
        return 4 * np.abs(phase - 0.5) - 1
    if kind == 4:  # noqa: PLR2004  kinds are numbered
        return np.exp(-0.5 * ((phase - 0.5) / rng.uniform(0.03, 0.15)) ** 2) * 2
    order = np.arange(1, 5)[:, None]
    weight = rng.normal(0, 1, (4, 1)) / order
    return np.asarray((weight * np.sin(2 * np.pi * order * phase + rng.uniform(0, 6.3, (4, 1)))).sum(0))


def _noise(rng: np.random.Generator, n: int) -> F64:
    kind = rng.integers(6)
    white = rng.normal(0, 1, n)
    if kind == 1:
        a = rng.uniform(0.5, 0.98)
        out = np.empty(n)
        last = 0.0
        for i in range(n):
            last = a * last + white[i]
            out[i] = last
        return out * np.sqrt(1 - a * a)
    if kind == 2:  # noqa: PLR2004  kinds are numbered
        return np.clip(rng.standard_t(3, n), -20, 20) * 0.6
    if kind == 3:  # noqa: PLR2004  kinds are numbered
        return np.exp(0.7 * white) - 1.3
    if kind == 4:  # noqa: PLR2004  kinds are numbered
        return np.where(np.cumsum(rng.uniform(size=n) < rng.uniform(0.005, 0.05)) % 2, 1.0, -1.0) + 0.2 * white
    if kind == 5:  # noqa: PLR2004  kinds are numbered
        return white * 0.2 + (rng.uniform(size=n) < 0.03) * rng.exponential(3, n)  # noqa: PLR2004
    return white


def stream(rng: np.random.Generator, n: int = HISTORY) -> F64:
    """Return one generated stream of normal behaviour, float64 [n]."""
    x = np.zeros(n)
    for _ in range(rng.integers(0, 4)):
        x += _season(rng, n) * rng.uniform(0.3, 2)
    x += _noise(rng, n) * np.exp(rng.uniform(np.log(0.02), np.log(1)))
    if rng.uniform() < 0.2:  # noqa: PLR2004  a share
        x += np.linspace(0, rng.normal(0, 2), n)
    if rng.uniform() < 0.2:  # noqa: PLR2004  a share
        step = rng.uniform(0.05, 0.5)
        x = np.round(x / step) * step
    if rng.uniform() < 0.1:  # noqa: PLR2004  a share
        x = np.clip(x, *np.quantile(x, (0.05, 0.95)))
    return x


def inject(rng: np.random.Generator, x: F64, start: int) -> F64:
    """Return `x` with one of twelve anomalies from `start` on, float64 of the same length."""
    y = x.copy()
    part = y[start:]
    n = len(part)
    scale = float(x.std()) + 1e-3
    size = scale * rng.uniform(1, 4) * rng.choice([-1, 1])
    kind = rng.integers(12)
    if kind == 0:
        part[rng.integers(n)] += 2 * size
    elif kind == 1:
        part += size
    elif kind == 2:  # noqa: PLR2004  kinds are numbered
        part += np.linspace(0, size * 1.5, n)
    elif kind == 3:  # noqa: PLR2004  kinds are numbered
        part += rng.normal(0, abs(size), n)
    elif kind == 4:  # noqa: PLR2004  kinds are numbered
        part[:] = part[0]
    elif kind == 5:  # noqa: PLR2004  kinds are numbered
        part += size * np.sin(np.arange(n) * rng.uniform(0.3, 2.5))
    elif kind == 6:  # noqa: PLR2004  kinds are numbered
        part[:] = part[0] + (part - part[0]) * rng.choice([0.2, 0.4, 2.0, 3.0])
    elif kind == 7:  # noqa: PLR2004  kinds are numbered
        part[:] = part[::-1]
    elif kind == 8:  # noqa: PLR2004  kinds are numbered
        part[:] = rng.permutation(part)
    elif kind == 9:  # noqa: PLR2004  kinds are numbered
        part[:] = np.interp(np.arange(n) * rng.choice([0.5, 0.7, 1.0]), np.arange(n), part)
        part += size * 0.3
    elif kind == 10:  # noqa: PLR2004  kinds are numbered
        part[:] = 2 * x.mean() - part
    else:
        part[::2] += size
    return y


def episode(rng: np.random.Generator) -> tuple[F32, F32, npt.NDArray[np.bool_]]:
    """Return references [96, 64, 2], later queries [32, 64, 2] and which of these hold an anomaly, bool [32]."""
    pool = int(rng.choice([1, 1, 4]))
    history = stream(rng, HISTORY * pool).reshape(-1, pool).mean(axis=1)
    split = HISTORY * 2 // 3
    ends = np.sort(rng.choice(np.arange(LENGTH + 1, split), REFERENCES, replace=False))
    later = rng.integers(split + LENGTH + 1, HISTORY + 1, QUERIES)
    odd = np.arange(QUERIES) < QUERIES // 2
    cuts = [history[end - LENGTH - 1 : end] for end in ends]
    for end, wrong in zip(later, odd, strict=True):
        cut = history[end - LENGTH - 1 : end]
        cuts.append(inject(rng, cut, LENGTH + 1 - int(rng.integers(1, LENGTH + 1))) if wrong else cut)
    windows = features(history[:split].astype(np.float32), np.stack(cuts).astype(np.float32))
    return windows[:REFERENCES], windows[REFERENCES:], odd


def features(known: F32, cuts: F32) -> F32:
    """Return what the agent makes of each row of `cuts` [n, 65] after it learnt `known`, float32 [n, 64, 2].

    The agent's arithmetic is tuned for speed and may change in the last digit, from version to version and from
    processor to processor; with this one a bundle is made anew to the last bit.
    """
    quantum = np.abs(np.diff(known))
    moves = quantum[quantum > 0]
    resolution = float(moves.min()) if len(moves) >= _MOVES_KNOWN else 0.0
    out = np.empty((len(cuts), cuts.shape[1] - 1, 2))
    precise = cuts.astype(np.float64)
    floor = max(resolution, 1e-6)
    for kind, (series, made) in enumerate([(known, precise[:, 1:]), (np.diff(known), np.diff(precise))]):
        ordered = np.sort(series.astype(np.float64))
        low, centre, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.1, 0.5, 0.9))
        if kind == 0:
            floor = max(floor, 1e-3 * abs(centre))
        spread = max((high - low) / _SPREAD, 0.1 * ordered.std(), floor)
        out[:, :, kind] = np.arcsinh((made - centre) / spread)
    return np.clip(out, -CLIP, CLIP).astype(np.float32)
