"""Examples to learn from: a generated stream, first known and then new, and the same with anomalies in the new part.

Values are scaled as the agent does. No recorded data is used.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.core.preprocess import CLIP
from converter.pretrain.anomalies import inject
from converter.pretrain.streams import F64, stream

F32 = npt.NDArray[np.float32]

LENGTH: Final = 64
STRIDE: Final = 8  # between the windows of an event
KNOWN: Final = 1064  # points that the detector has learnt: 1000 references and a few
NEW: Final = 632
GUARD: Final = 32  # points between the two
EVENTS: Final = 16
EVENT_WINDOWS: Final = 8  # the first ends 1 to 8 points after the anomaly began
EVENT_POINTS: Final = LENGTH + STRIDE * (EVENT_WINDOWS - 1)
REFERENCES: Final = 256
NORMAL, ODD = 96, 32
QUERIES: Final = NORMAL + ODD
_POOLS: Final = (1, 1, 1, 1, 4, 4, 4, 16)  # samples averaged into a point: the agent's time scales, and mixed sampling
_LONGEST: Final = 128  # points of an anomaly
_SPREAD: Final = 2.56  # q90 - q10 of a normal distribution, in standard deviations
_MOVES_KNOWN: Final = 8  # a stream must have moved this often before its smallest step is its resolution


class Example(msgspec.Struct, frozen=True):
    """Scaled values and differences: `known` float32 [1064, 2], `new` [632, 2] or as asked, `events` [events, 120, 2].

    Every window of 64 points of an event holds a part of its anomaly.
    """

    known: F32
    new: F32
    events: F32


def example(rng: np.random.Generator, events: int = EVENTS, new: int = NEW) -> Example:
    """Return the example of a generated stream; the new part, of so many points, follows the known one."""
    pool = int(rng.choice(_POOLS))
    history, step = stream(rng, history_points(new) * pool, pool)
    return example_of(rng, history, step, pool, events)


def history_points(new: int) -> int:
    """Return how many points an example with so many new ones is made of."""
    return 1 + KNOWN + new + EVENT_POINTS


def example_of(rng: np.random.Generator, history: F64, step: float, pool: int, events: int = EVENTS) -> Example:
    """Return the example of samples float64 [history_points(new) x pool], rounded to `step` if that is not 0."""
    total = len(history) // pool - EVENT_POINTS
    points = history.reshape(-1, pool).mean(axis=1)[:total]
    cuts = np.empty((events, EVENT_POINTS + 1))
    for place in range(events):
        cuts[place] = _event(rng, history, step, pool, total - 1)
    known = points[: KNOWN + 1].astype(np.float32)
    series = features(known, points[None].astype(np.float32))[0]
    return Example(series[:KNOWN], series[KNOWN:], features(known, cuts.astype(np.float32)))


def _event(rng: np.random.Generator, history: F64, step: float, pool: int, last_point: int) -> F64:
    """Return points around the beginning of an anomaly in the new part, which ends at `last_point`; float64 [121]."""
    began = rng.integers(KNOWN + GUARD + LENGTH, last_point - LENGTH)  # in points
    first = (began + rng.integers(1, STRIDE + 1) - LENGTH - 1) * pool
    cut = history[first : first + (EVENT_POINTS + 1 + LENGTH) * pool]
    start = began * pool - first + rng.integers(pool)
    least = 1 if rng.uniform() < 0.5 else pool  # noqa: PLR2004  half of the anomalies may be shorter than a point
    span = int(np.exp(rng.uniform(np.log(least), np.log(_LONGEST * pool))))
    last = (EVENT_POINTS + 1) * pool
    end = min(start + span, last)
    changed = inject(rng, cut, start, end, step)
    return np.concatenate([changed, cut[end:last]]).reshape(-1, pool).mean(axis=1)


def episode(rng: np.random.Generator) -> tuple[F32, F32, npt.NDArray[np.bool_]]:
    """Return references [256, 64, 2] in order of time, queries [128, 64, 2] and which of these hold an anomaly."""
    made = example(rng, ODD)
    spread = (np.arange(REFERENCES) + rng.uniform(size=REFERENCES)) / REFERENCES
    references = _windows(made.known, LENGTH + (spread * (KNOWN - LENGTH)).astype(np.int64))
    normal = _windows(made.new, rng.integers(GUARD + LENGTH, NEW + 1, NORMAL))
    ends = LENGTH + STRIDE * rng.integers(EVENT_WINDOWS, size=ODD)
    odd = np.concatenate([_windows(event, ends[place : place + 1]) for place, event in enumerate(made.events)])
    return references, np.concatenate([normal, odd]), np.arange(QUERIES) >= NORMAL


def _windows(series: F32, ends: npt.NDArray[np.int64]) -> F32:
    return series[ends[:, None] + np.arange(-LENGTH, 0)]


def features(known: F32, cuts: F32) -> F32:
    """Return what the agent makes of each row of `cuts` [n, points] after it learnt `known` float32 [points].

    Float32 [n, points - 1, 2]: the first point has no difference.

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
