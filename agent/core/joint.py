"""The plant view of `mode: hold`: all channels of a stream as one vector, whitened by what the warm-up varied.

Channels of a plant move together; a fault that lasts breaks how they do, while each stays in its own range. What
looks odd never enters the reference, so a fault that lasts keeps alarming. One object serves one stream.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import erfc, log10, sqrt
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.core.preprocess import CLIP
from agent.core.quarantine import MAX_ALERTS, MAX_WINDOWS
from agent.core.reference import HOLD_ABOVE_Z
from agent.core.scoring import SCORERS, ScoreMethod
from agent.core.types import F32, F64, Bools

if TYPE_CHECKING:
    from collections.abc import Iterator

NEWEST: Final = 4  # values of each channel
STATISTIC_ROWS: Final = 20  # of which mean and deviation are taken
ROWS: Final = max(NEWEST, STATISTIC_ROWS)
SMOOTHING: Final = 10  # decisions: one hammer in a pipe is no fault
SHRINKAGE: Final = 0.3  # of the covariance towards a multiple of the identity (Ledoit and Wolf 2004)
DRIFT_WEIGHT: Final = 16.0  # a drift of the warm-up may go on four times as far
HELD_OUT: Final = 1 / 3  # of the warm-up, around a window: its novelty is that of the near future, not of a neighbour
MANY_CHANNELS: Final = 64  # with more, only the statistics: the covariance would not be known
MOMENT_MEMORY: Final = 0.002  # 500 decisions
MOMENTS_BELOW_Z: Final = 3.0  # what is stranger says nothing about what is usual
_STATISTIC_WEIGHT: Final = 0.5
_STD_OFFSET: Final = 0.1
_LEAST_VARIANCE: Final = 1e-4
_MOST_Z: Final = 30.0
_AT_ONCE: Final = 64  # rows of a warm-up, before others have their turn


class Waiting(msgspec.Struct):
    """A whitened vector, float16 [dim], on its way in; `alert` is the id of the one that was odd with it, if any."""

    white: npt.NDArray[np.float16]
    at: float
    admitted: bool
    alert: str = ""
    mark: int = 0

    def state(self) -> list[Any]:
        """Return its fields, for a snapshot."""
        return [self.white, self.at, self.admitted, self.alert, self.mark]


def joint_bytes(size: int) -> int:
    """Return what each channel of a stream on hold takes at most, with so many references."""
    dim = NEWEST + 2
    return 2 * dim * size + 4 * dim * dim * MANY_CHANNELS


def joint_features(tail: F32, centre: F64, spread: F64) -> F64:
    """Return the vector of the newest row, float64 [channels x 6], channel by channel; NaN where one is missing.

    `tail` float32 [channels, rows >= ROWS]. Per channel: the newest values scaled as asinh, then half of
    asinh(mean) sqrt(n) and of 2 log(deviation + 0.1) over the last n = 20. With many channels only the last two.
    """
    scaled = (tail[:, -ROWS:] - centre[:, None]) / spread[:, None]
    recent = scaled[:, -STATISTIC_ROWS:]
    mean, deviation = recent.mean(axis=1), recent.std(axis=1)
    statistics = [
        _STATISTIC_WEIGHT * np.arcsinh(mean) * sqrt(STATISTIC_ROWS),
        _STATISTIC_WEIGHT * 2.0 * np.log(deviation + _STD_OFFSET),
    ]
    newest = [] if len(tail) > MANY_CHANNELS else list(np.clip(np.arcsinh(scaled[:, -NEWEST:]), -CLIP, CLIP).T)
    return np.asarray(np.stack([*newest, *statistics], axis=1).reshape(-1), np.float64)


def normal_tail(z: float) -> float:
    """Return -log10 of the upper tail of a standard normal distribution, at least 0."""
    z = min(max(z, -_MOST_Z), _MOST_Z)
    return max(0.0, -log10(0.5 * erfc(z / sqrt(2.0))))


class JointReference:
    """References, whitening and moments of one stream.

    The raw score is the log of the mean distance to the k nearest whitened references; z is taken against slow moments
    that began with the warm-up's own scores, each made without a third of the warm-up around it. The stream's score
    is -log10 of the normal tail of the mean of the last ten z, or behind a gap of those since.
    """

    _STATE: Final = ("centre", "spread", "mean", "whitening", "entries", "times", "marks", "moments", "recent")

    def __init__(self, size: int, neighbours: int) -> None:
        self.size, self.neighbours = size, neighbours
        self.centre: F64 = np.zeros(0)
        self.spread: F64 = np.ones(0)
        self.mean: F64 = np.zeros(0)
        self.whitening: F32 = np.zeros((0, 0), np.float32)
        self.entries: npt.NDArray[np.float16] = np.zeros((0, 0), np.float16)  # those that are filled, oldest first
        self.times: F64 = np.zeros(0)
        self.head = 0
        self.moments = np.array([0.0, 1.0])
        self.recent = np.zeros(SMOOTHING)
        self.marks: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)  # by which accepted alert each came in, else 0
        self.waiting: deque[Waiting] = deque()
        self.held: OrderedDict[str, list[Waiting]] = OrderedDict()  # what each of the last alerts was refused
        self._entered, self._held_more = 0, False  # since this was last saved: how many entered, whether more is held

    def learn(self, rows: F32, times: F64, spread: F64) -> Iterator[None]:
        """Learn a warm-up: `rows` float32 [rows, channels], `times` float64 [rows], `spread` float64 [channels].

        Yields after each part of what takes long; nothing may be asked of it before all of it was taken.
        """
        points = np.ascontiguousarray(rows.T)
        self.centre = np.nan_to_num(np.nanmedian(np.where(np.isnan(rows).all(axis=0), 0.0, rows), axis=0))
        self.spread = spread
        features = []
        for end in range(ROWS, len(rows) + 1):
            features.append(joint_features(points[:, end - ROWS : end], self.centre, self.spread))
            if end % _AT_ONCE == 0:
                yield
        made = np.array(features)
        whole = ~np.isnan(made).any(axis=1)
        if not whole.any():  # no row with all channels: each is taken where it is known
            whole[:] = True
        self.mean = _mean_of(made[whole])
        known = np.where(np.isnan(made), self.mean, made)[whole]
        self.whitening = whitening(known).astype(np.float32)
        white = ((known - self.mean) @ self.whitening).astype(np.float32)
        kept = white[-self.size :]
        self.entries = kept.astype(np.float16)
        self.times = times[ROWS - 1 :][whole][-self.size :].astype(np.float64)
        self.marks = np.zeros(len(kept), np.uint8)
        self.head = len(kept) % self.size
        order = np.arange(len(white))
        norms = np.square(white).sum(axis=1)
        apart = np.ceil(HELD_OUT * len(white))
        others = np.maximum(order - apart + 1, 0) + np.maximum(len(white) - order - apart, 0)  # to compare with
        neighbours = min(self.neighbours, max(1, int(others.min())))
        scores = []
        for start in range(0, len(white), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            squared = np.maximum(norms[some, None] + norms - 2.0 * (white[some] @ white.T), 0.0)
            squared[np.abs(order[some, None] - order) < apart] = np.inf
            scores.append(self._raw(squared, neighbours))
            yield
        raw = np.concatenate(scores).astype(np.float64)
        self.moments = np.array([raw.mean(), max(float(raw.var()), _LEAST_VARIANCE)])
        self.recent[:] = 0.0

    def _raw(self, squared: F32, neighbours: int) -> F32:
        return SCORERS[ScoreMethod.DISTANCE](squared, neighbours, np.ones(1, np.float32))

    def begin_anew(self) -> None:
        """Forget the last z: they are from before a gap, or, after a kill, from when the snapshot was written."""
        self.recent[:] = np.nan

    def embed(self, tail: F32) -> F32:
        """Return the whitened vector of the newest row, float32 [dim]; what is missing is as usual."""
        made = joint_features(tail, self.centre, self.spread)
        known = np.where(np.isnan(made), self.mean, made)
        return np.asarray((known - self.mean) @ self.whitening, np.float32)

    def score(self, white: F32) -> tuple[float, F64, bool]:
        """Return the stream's score, each channel's share float64 [channels], and whether it may enter the reference.

        A channel's share is its part of the squared whitened distance to the mean of the nearest references, in
        which correlated channels share.
        """
        entries = self.entries.astype(np.float32)
        difference = entries - white
        squared = np.einsum("nd,nd->n", difference, difference)
        raw = float(self._raw(squared[None], self.neighbours)[0])
        mean, variance = self.moments
        z = (raw - mean) / sqrt(variance)
        if z <= MOMENTS_BELOW_Z:
            moved = raw - mean
            self.moments += MOMENT_MEMORY * np.array([moved, moved * moved - variance])
        self.recent = np.append(self.recent[1:], z)
        nearest = np.argpartition(squared, min(self.neighbours, len(squared)) - 1)[: self.neighbours]
        shares = self._shares(-difference[nearest].mean(axis=0))
        return normal_tail(float(np.nanmean(self.recent))), shares, z <= HOLD_ABOVE_Z

    def _shares(self, away: F32) -> F64:
        """Return each channel's share of the squared distance `away` float32 [dim], float64 [channels], sum 1."""
        matrix = self.whitening.astype(np.float64)
        features = (away / np.maximum(np.square(matrix).sum(axis=0), 1e-12)) @ matrix.T
        parts = features * (matrix @ away)
        channels = np.maximum(parts.reshape(len(self.centre), -1).sum(axis=1), 0.0)
        total = channels.sum()
        return channels / total if total > 0 else np.full(len(channels), 1.0 / len(channels))

    def wait(self, white: F32, at: float, *, admitted: bool, guard: int) -> None:
        """Let a vector wait behind the guard, and in the one whose guard has passed if it was admitted."""
        self.waiting.append(Waiting(white.astype(np.float16), at, admitted))
        while len(self.waiting) > guard:
            one = self.waiting.popleft()
            if one.admitted:
                self._enter(one)
            if one.alert and (one.mark or not one.admitted):
                held = self.held.setdefault(one.alert, [])
                held.append(one)
                self._held_more = True
                del held[:-MAX_WINDOWS]
                while len(self.held) > MAX_ALERTS:
                    self.held.popitem(last=False)

    def _enter(self, one: Waiting) -> None:
        self._entered += 1
        if len(self.entries) < self.size:
            self.entries = np.vstack([self.entries, one.white])
            self.times, self.marks = np.append(self.times, one.at), np.append(self.marks, np.uint8(one.mark))
        else:
            self.entries[self.head], self.times[self.head], self.marks[self.head] = one.white, one.at, one.mark
        self.head = (self.head + 1) % self.size

    def hold_back(self, alert: str) -> None:
        """Keep the newest vector for an alert, should it be refused: an operator may let it in."""
        self.waiting[-1].alert = alert

    def accept(self, alert: str, mark: int) -> int:
        """Let in what an alert held back, under a `mark` from 1 to 255; return how many vectors."""
        self.marks[self.marks == mark] = 0  # of an alert long ago
        held = self.held.get(alert, [])
        for one in held:
            one.mark = mark
            self._enter(one)
        waiting = [one for one in self.waiting if one.alert == alert and not one.admitted]
        for one in waiting:
            one.admitted, one.mark = True, mark
        return len(held) + len(waiting)

    def marked(self, mark: int) -> Bools:
        """Return which entries an accepted alert let in, bool [entries]."""
        return self.marks == mark

    def forget(self, mark: int) -> int:
        """Take out what an accepted alert let in; return how many vectors."""
        waiting = [one for one in self.waiting if one.mark == mark]
        for one in waiting:
            one.admitted, one.mark = False, 0
        return self.remove(self.marked(mark)) + len(waiting)

    def within(self, begin: float, end: float) -> Bools:
        """Return which entries are of a time span, bool [entries]."""
        return (np.floor(self.times) >= np.floor(begin)) & (np.floor(self.times) <= np.floor(end))

    def forget_span(self, begin: float, end: float) -> int:
        """Take out what is of a time span (s since the epoch), also what still waits; return how many vectors."""
        waiting = [one for one in self.waiting if one.admitted and np.floor(begin) <= np.floor(one.at) <= np.floor(end)]
        for one in waiting:
            one.admitted = False
        return self.remove(self.within(begin, end)) + len(waiting)

    def remove(self, leaving: Bools) -> int:
        """Take entries out, bool [entries]; the others keep their order. Return how many left."""
        order = np.roll(np.arange(len(self.entries)), -self.head if len(self.entries) == self.size else 0)
        kept = order[~leaving[order]]
        self.entries, self.times, self.marks = self.entries[kept], self.times[kept], self.marks[kept]
        self.head = len(kept) % self.size
        return int(leaving.sum())

    def nearest(self, white: F32, count: int) -> list[tuple[float, float]]:
        """Return (time, distance) of the references nearest to float32 [dim], nearest first."""
        distance = np.linalg.norm(self.entries.astype(np.float32) - white, axis=1)
        return [(float(self.times[one]), float(distance[one])) for one in np.argsort(distance, kind="stable")[:count]]

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on as if never stopped."""
        state = {name: np.copy(getattr(self, name)) for name in self._STATE}
        waiting = [one.state() for one in self.waiting]
        return {**state, "head": self.head, "waiting": waiting, "held": self._held()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        for name in self._STATE:
            setattr(self, name, np.copy(state[name]))
        self.head = state["head"]
        self.waiting = deque(Waiting(*one) for one in state["waiting"])
        self._take_held(state["held"])

    def saved(self) -> None:
        """Know that all that was learnt is on disk."""
        self._entered, self._held_more = 0, False

    def addition(self) -> dict[str, Any]:
        """Return what was learnt since it was last saved, but for what an operator's commands did."""
        count, full = len(self.entries), len(self.entries) == self.size
        places = np.arange(-min(self._entered, count), 0) + (self.head if full else count)
        return {
            "entries": self.entries[places % count],
            "times": self.times[places % count],
            "marks": self.marks[places % count],
            "head": self.head,
            "waiting": [one.state() for one in self.waiting],
            "held": self._held() if self._held_more else None,
            "moments": self.moments.copy(),
            "recent": self.recent.copy(),
        }

    def extend(self, added: dict[str, Any]) -> None:
        """Go on by an addition, after a snapshot and the additions before this one."""
        before, entered = len(self.entries), len(added["times"])
        places = (added["head"] - entered + np.arange(entered)) % self.size
        for name in ("entries", "times", "marks"):
            old, values = getattr(self, name), added[name]
            whole = np.empty((min(self.size, before + entered), *values.shape[1:]), values.dtype)
            whole[:before], whole[places] = old, values
            setattr(self, name, whole)
        self.head = added["head"]
        self.waiting = deque(Waiting(*one) for one in added["waiting"])
        if added["held"] is not None:
            self._take_held(added["held"])
        self.moments, self.recent = np.copy(added["moments"]), np.copy(added["recent"])

    def _held(self) -> dict[str, Any]:
        return {alert: [one.state() for one in windows] for alert, windows in self.held.items()}

    def _take_held(self, state: dict[str, Any]) -> None:
        self.held = OrderedDict((alert, [Waiting(*one) for one in held]) for alert, held in state.items())


def whitening(features: F64) -> F64:
    """Return the matrix that makes rows of `features` float64 [rows, dim] white, float64 [dim, dim].

    The covariance is shrunk, and widened along the way that the warm-up's second half went from its first.
    """
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / max(1, len(features) - 1)
    dim = covariance.shape[0]
    covariance = (1.0 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(dim) * (np.trace(covariance) / dim)
    half = len(features) // 2
    drift = features[half:].mean(axis=0) - features[: max(1, half)].mean(axis=0)
    covariance += DRIFT_WEIGHT * np.outer(drift, drift)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors / np.sqrt(np.maximum(values, 1e-9)), np.float64)


def _mean_of(rows: F64) -> F64:
    known = ~np.isnan(rows)
    return np.asarray(np.nan_to_num(rows).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.float64)
