"""Plays a budget's control over scores that are known already: they do not depend on it.

The decisions are the agent's own (agent.pipeline.judge); only where scores come from differs.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import numpy as np

from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertSettings, AlertState
from agent.core.types import F32, F64, Bools
from agent.pipeline import judge
from tests.benchmarks.budget.methods import Control

DAY_S = 86400.0
_INTERVAL = 0.95
_BISECTIONS = 80


@dataclass
class Branch:
    """An injection: where it leaves the stream, and the scores of its rows, float32 [rows], NaN without a decision."""

    row: int
    kind: str
    strength: float
    scores: F32


@dataclass
class Track:
    """A stream's decisions: `at` float64 [rows] in s, `scores` float32 [rows]; `counts` bool [rows]: no label there."""

    name: str
    source: str
    at: F64
    interval_s: float
    scores: F32
    counts: Bools
    branches: list[Branch] = field(default_factory=list)


@dataclass
class Played:
    """What a control made of a track: rows at which alerts began, and for each branch whether one did.

    `raised` leaves out what began inside labels. A branch where an alert was firing already has None; `delays` are
    in rows, 0 at the first one, None where nothing was found; `by_chance` is what the same rows gave undisturbed.
    """

    expected: float
    raised: list[int]
    raised_all: list[int]
    found: list[bool | None]
    delays: list[int | None]
    by_chance: list[bool | None]


def play(track: Track, control: Control, alert: AlertSettings) -> Played:
    """Make the track's decisions."""
    control.configure(track.interval_s)
    machine = AlertMachine(alert, agent="", stream=track.name, kind=AlertKind.ANOMALY)
    rows = np.flatnonzero(~np.isnan(track.scores))
    ats, scores = track.at[rows].tolist(), track.scores[rows].tolist()
    leave = {branch.row: branch for branch in track.branches}
    raised: list[int] = []
    found: dict[int, int | None] = {}
    for row, at, score in zip(rows.tolist(), ats, scores, strict=True):
        if row in leave:
            found[row] = _branch(track, leave[row], copy.deepcopy(control), copy.copy(machine))
        transition = judge(control, machine, at, score, str)  # type: ignore[arg-type]  every method has its face
        if transition is not None and transition.event is AlertEvent.RAISED:
            raised.append(row)
    delays = [found.get(branch.row) for branch in track.branches]
    results = [None if delay is None else delay >= 0 for delay in delays]
    chance = [
        None if result is None else any(b.row <= row < b.row + len(b.scores) for row in raised)
        for b, result in zip(track.branches, results, strict=True)
    ]
    expected = control.rate * int(track.counts[rows].sum())
    return Played(
        expected,
        [row for row in raised if track.counts[row]],
        raised,
        results,
        [d if hit else None for d, hit in zip(delays, results, strict=True)],
        chance,
    )


def _branch(track: Track, branch: Branch, control: Control, machine: AlertMachine) -> int | None:
    """Return how many rows later an alert begins, -1 if none does, None if one fires already."""
    if machine.state is AlertState.FIRING:
        return None
    ats = track.at[branch.row : branch.row + len(branch.scores)].tolist()
    for row, (at, score) in enumerate(zip(ats, branch.scores.tolist(), strict=True)):
        if math.isnan(score):
            continue
        transition = judge(control, machine, at, score, str)  # type: ignore[arg-type]  as above
        if transition is not None and transition.event is AlertEvent.RAISED:
            return row
    return -1


def worst_day(tracks: list[Track], played: list[Played]) -> int:
    """Return the most alerts that began within one day of one stream."""
    return max(
        (
            int(np.unique(track.at[one.raised] // DAY_S, return_counts=True)[1].max())
            for track, one in zip(tracks, played, strict=True)
            if one.raised
        ),
        default=0,
    )


def garwood(events: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean of which `events` were seen (Garwood 1936)."""
    tail = (1.0 - _INTERVAL) / 2.0
    low = _mean_at(events - 1, 1.0 - tail) if events else 0.0
    return low, _mean_at(events, tail)


def _mean_at(most: int, share: float) -> float:
    """Return the mean at which at most `most` events are seen with this probability."""
    low, high = 0.0, 10.0 * most + 50.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        logs = [n * math.log(middle) - middle - math.lgamma(n + 1.0) for n in range(most + 1)]
        low, high = (middle, high) if math.fsum(math.exp(one) for one in logs) > share else (low, middle)
    return (low + high) / 2.0
