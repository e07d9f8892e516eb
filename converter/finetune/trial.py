"""The trial of two encoders in the streaming detector: held-back readings, as they are and with disturbances.

An encoder's clean run goes over a whole stream. At places in the held-back part the detector's state is copied, and
each copy goes on with the next readings disturbed in one channel: every disturbance meets a detector that has seen
none.
Both encoders meet the same disturbances at the same places, so that their differences are paired.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from tqdm import tqdm

from agent.core.bank import DetectorBank
from agent.core.budget import FROZEN_SHARE
from agent.core.detector import Due, StreamDetector, WarmUp
from agent.core.types import F64, Sample, StreamPhase
from agent.core.views import plain, views_for
from agent.core.workspace import Workspace
from agent.ports import Encoder
from converter.finetune.disturbances import KINDS, LONGEST, STRENGTHS, disturb, length_of, unit_of
from converter.finetune.recorded import FinetuneError, Recorded

LEAST_PLACES: Final = 8
MOST_PLACES: Final = 24
AFTER: Final = 16  # readings: an alarm so soon after a disturbance is one for it
_BEFORE: Final = 64  # readings that a disturbance is made of, besides those that it changes
_SPACING: Final = 96  # readings between two places, at least
_LANES: Final = 384  # channels that are decided together
_RESAMPLES: Final = 4000
_INTERVAL: Final = (2.5, 97.5)  # percent


class Place(msgspec.Struct, frozen=True):
    """Where disturbances begin: which stream, which of its readings, which channel.

    `unit` is the channel's robust standard deviation, `seed` that of what is drawn.
    """

    stream: int
    first: int
    channel: str
    unit: float
    seed: int


class Found(msgspec.Struct, frozen=True):
    """What one encoder found, each float64 [places, kinds, strengths].

    `areas`: the share of undisturbed stretches of the same length that score lower, ties half; their mean is the area
    under the ROC curve. `told`: 1 where none of these stretches scores as high.
    """

    areas: F64
    told: F64


class Verdict(msgspec.Struct, frozen=True):
    """By how much the tuned encoder's mean area is larger, and the 95 % interval of that over places."""

    gain: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Tell whether the tuned encoder is better beyond chance."""
        return self.low > 0.0


def decide(untuned: F64, tuned: F64, seed: int) -> Verdict:
    """Compare areas, float64 [places, ...] each, by a bootstrap over places: what meets one of them hangs together."""
    gains = (tuned - untuned).reshape(len(tuned), -1).mean(axis=1)
    drawn = np.random.default_rng([seed, 3]).integers(len(gains), size=(_RESAMPLES, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), _INTERVAL)
    return Verdict(float(gains.mean()), float(low), float(high))


def places_of(streams: list[Recorded], seed: int) -> list[Place]:
    """Return places spread over the held-back parts, whose channel is there all along. Raises FinetuneError."""
    rng = np.random.default_rng([seed, 2])
    found = []
    for number, one in enumerate(streams):
        units = _units(one)
        room = range(one.split + _BEFORE, len(one.samples) - LONGEST - AFTER, _SPACING)
        for first in room[:: max(1, -(-len(room) * len(streams) // MOST_PLACES))]:
            drawn, seed_here = rng.random(), int(rng.integers(2**32))
            around = one.samples[first - _BEFORE : first + LONGEST + AFTER]
            there = [name for name in units if all(name in sample.values for sample in around)]
            if there:
                channel = there[int(drawn * len(there))]
                found.append(Place(number, first, channel, units[channel], seed_here))
    if len(found) < LEAST_PLACES:
        raise FinetuneError(
            f"expected at least {LEAST_PLACES} places for disturbances in the readings that are held back, found "
            f"{len(found)}; record for longer, in a time with fewer gaps"
        )
    return found


def _units(one: Recorded) -> dict[str, float]:
    """Return the robust standard deviations of the channels that change and are no counters, in order of names."""
    known = one.samples[: one.split]
    names = one.settings.channels or sorted({name for sample in known for name in sample.values})
    units = {name: unit_of(np.array([sample.values.get(name, np.nan) for sample in known])) for name in names}
    return {name: unit for name, unit in sorted(units.items()) if unit > 0 and name not in one.settings.counters}


class _Detecting:
    """A bank with one encoder, and the decisions that are due in it."""

    def __init__(self, one: Recorded, encoder: Encoder, workspace: Workspace) -> None:
        self._encoder = encoder
        self._channels = one.settings.channels
        views = views_for(encoder.length, encoder.dim, encoder.output_step, encoder.output_offset)
        self.bank = DetectorBank(one.settings.detector(), views, workspace)
        self._due: list[tuple[F64, int, Due]] = []
        self._lanes = 0

    def detector(self, state: dict[str, Any] | None = None) -> StreamDetector:
        """Return a new detector, or one that goes on from a state."""
        made = self.bank.detector(self._channels)
        if state is not None:
            self.bank.restore(made, state)
        return made

    def push(self, detector: StreamDetector, sample: Sample, scores: F64, row: int) -> None:
        """Take a reading; what is decided of it is written to scores[row], sooner or later."""
        _, due = detector.push(sample)
        if isinstance(due, WarmUp):
            for part in self.bank.warm_up(due):
                encoded = part.view.encoded
                part.embedding = self._encoder.encode(part.windows) if encoded else plain(part.windows)
        elif due is not None:
            self._due.append((scores, row, due))
            self._lanes += len(due.run)
            if self._lanes >= _LANES:
                self.flush()

    def flush(self) -> None:
        """Make the decisions that are due."""
        due, self._due, self._lanes = self._due, [], 0
        if not due:
            return
        batch = self.bank.batch([one for _, _, one in due])
        for view, embedding in enumerate(batch.embeddings):
            if embedding is None:
                batch.embeddings[view] = self._encoder.encode(batch.windows[view])
        for (scores, row, _), found in zip(due, self.bank.step(batch), strict=True):
            scores[row] = max(found.score, found.frozen_score - FROZEN_SHARE)  # of either, an alert is made


def rows_of_trial(streams: list[Recorded], places: list[Place]) -> int:
    """Return how many readings a trial of one encoder takes, for a progress bar."""
    return sum(len(one.samples) for one in streams) + len(places) * len(KINDS) * len(STRENGTHS) * (LONGEST + AFTER)


def find(streams: list[Recorded], places: list[Place], encoder: Encoder, bar: tqdm[Any]) -> Found:
    """Return what an encoder finds of all disturbances at all places. Raises FinetuneError for a stream too gappy."""
    shape = (len(places), len(KINDS), len(STRENGTHS))
    found = Found(np.zeros(shape), np.zeros(shape))
    workspace = Workspace()
    for number, one in enumerate(streams):
        here = {place.first: row for row, place in enumerate(places) if place.stream == number}
        peaks: dict[int, F64] = {}
        clean = np.full(len(one.samples), np.nan)
        running = _Detecting(one, encoder, workspace)
        detector = running.detector()
        for row, sample in enumerate(one.samples):
            if row in here:
                running.flush()
                if detector.phase is not StreamPhase.ACTIVE:
                    raise FinetuneError(
                        f"{one.name}: expected a stream that has learnt after {one.split} readings, found one with so "
                        "many gaps that it has not; record for longer, or lower reference.warm_up"
                    )
                state = running.bank.snapshot(detector)
                peaks[here[row]] = _disturbed(one, places[here[row]], encoder, workspace, state)
                bar.update(len(KINDS) * len(STRENGTHS) * (LONGEST + AFTER))
            running.push(detector, sample, clean, row)
            bar.update()
        running.flush()
        for place, scores in peaks.items():
            _compare(scores, clean[one.split :], found, place)
    return found


def _disturbed(one: Recorded, place: Place, encoder: Encoder, workspace: Workspace, state: dict[str, Any]) -> F64:
    """Return the highest score that each disturbance at a place reaches, float64 [kinds, strengths].

    As many are played side by side as memory is meant for.
    """
    wanted = [(kind, strength) for kind in KINDS for strength in range(len(STRENGTHS))]
    some = max(1, _LANES // len(one.samples[place.first].values))
    peaks = []
    for begin in range(0, len(wanted), some):
        copies = _Detecting(one, encoder, workspace)
        peaks += _played(one, place, copies, state, wanted[begin : begin + some])
    return np.array(peaks).reshape(len(KINDS), len(STRENGTHS))


def _played(
    one: Recorded, place: Place, copies: _Detecting, state: dict[str, Any], wanted: list[tuple[str, int]]
) -> list[float]:
    """Return the highest scores of the disturbances that are wanted, played side by side in a bank of their own."""
    around = one.samples[place.first - _BEFORE : place.first + LONGEST + AFTER]
    values = np.array([sample.values[place.channel] for sample in around])
    playing = []
    for kind, strength in wanted:
        rng = np.random.default_rng(place.seed)
        changed = disturb(rng, values, _BEFORE, kind, strength, place.unit)
        rows = changed[_BEFORE : _BEFORE + length_of(kind, strength) + AFTER]
        playing.append((copies.detector(state), rows, np.full(len(rows), np.nan)))
    for row, sample in enumerate(around[_BEFORE:]):
        for detector, rows, scores in playing:
            if row < len(rows):
                given = {**sample.values, place.channel: float(rows[row])}
                copies.push(detector, Sample(sample.at, given), scores, row)
    copies.flush()
    return [float(np.nan_to_num(scores).max()) for _, _, scores in playing]


def _compare(peaks: F64, clean: F64, found: Found, place: int) -> None:
    """Put the peaks of one place among those of all undisturbed stretches as long."""
    known = np.nan_to_num(clean)
    for row, kind in enumerate(KINDS):
        for strength in range(len(STRENGTHS)):
            stretches = np.lib.stride_tricks.sliding_window_view(known, length_of(kind, strength) + AFTER).max(axis=1)
            peak = peaks[row, strength]
            lower, equal = (stretches < peak).mean(), (stretches == peak).mean()
            found.areas[place, row, strength] = lower + 0.5 * equal
            found.told[place, row, strength] = float(peak > stretches.max())
