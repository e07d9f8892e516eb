"""Recorded streams to tune with: read as the agent reads them, on the agent's own grid, and split in time."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.config import NO_ENCODER, Configuration, SensorSettings, load_configuration
from agent.core.pace import Steps, pace
from agent.core.types import F32, F64, Sample
from agent.core.windowing import MEASURED_SAMPLES, RING_ROWS, Arrival, Grid
from agent.errors import RedshankError
from agent.replay import replay
from converter.pretrain.corpus import EVENT_POINTS, LENGTH, history_points

if TYPE_CHECKING:
    from agent.core.detector import Due
    from agent.core.types import Assessment, Frame
    from agent.picture_sight import Looked
    from agent.picture_stream import PictureStream
    from agent.stream import SensorStream, Stream

NEW: Final = 256  # points of an own example's new part: it has to fit into an hour of readings a second apart
VALIDATION: Final = NEW + EVENT_POINTS  # points at the end of the tuning part that only choose between the losses
HELD_OUT: Final = 0.4  # share of a recording, its end, that no training sees
LEAST_ROWS: Final = history_points(NEW) + VALIDATION  # of a channel, in the part that is tuned with
MOST_READINGS: Final = 20_000  # of a stream, the newest ones; and of all streams that are taken together
MOST_CHANNELS: Final = 64  # tuned with, the first ones
_NEVER: Final = 1 << 31  # readings between two decisions
_LEAST_STEPS: Final = 8  # a channel that moved less often has no step of its own
_STEP_ERROR: Final = 1e-3  # of a step, by which values that come in steps may miss it


class FinetuneError(RedshankError):
    """A recording that cannot be tuned with."""


class Recorded(msgspec.Struct, frozen=True):
    """One stream of a recording: its settings, and its readings in order; the first `split` of them are tuned with."""

    name: str
    settings: SensorSettings
    samples: list[Sample]

    @property
    def split(self) -> int:
        """Return where the held-back part begins."""
        return int(len(self.samples) * (1.0 - HELD_OUT))

    @property
    def stride(self) -> int:
        """Return the grid steps between decisions that the agent settles, or that are configured."""
        if self.settings.stride is not Steps.AUTO:
            return self.settings.stride
        if self.settings.period_s is not None:
            return pace(self.settings.period_s)
        times = [sample.at for sample in self.samples[:MEASURED_SAMPLES]]
        return pace(float(np.median(np.diff(times)))) if len(times) > 1 else 1


class Channel(msgspec.Struct, frozen=True):
    """A channel's readings on the grid, float64 [rows] without a gap, and the step they come in, 0 if in none."""

    rows: F64
    step: float


class _Listener:
    """Fulfils agent.pipeline.Tap: keeps the readings that each stream took."""

    def __init__(self) -> None:
        self.heard: dict[str, tuple[str, deque[Sample]]] = {}  # by stream: the name of its settings, readings

    def sampled(self, stream: SensorStream, sample: Sample, arrival: Arrival) -> None:
        if arrival in {Arrival.ACCEPTED, Arrival.MEASURING}:
            empty: deque[Sample] = deque(maxlen=MOST_READINGS)
            self.heard.setdefault(stream.name, (stream.settings.name, empty))[1].append(sample)

    def decided(self, stream: SensorStream, due: Due, found: Assessment, threshold: float) -> None:
        pass

    def pictured(self, stream: PictureStream, frames: list[Frame], found: Looked | None, threshold: float) -> None:
        pass

    def told(self, stream: Stream, message: dict[str, Any]) -> None:
        pass


def read(recording: Path, configuration: Path, stream: str | None, time_column: str) -> list[Recorded]:
    """Return the streams of a recording that are long enough, in order of their names, until MOST_READINGS.

    Raises FinetuneError where none is, and RecordingError or ConfigurationError.
    """
    listener = _Listener()
    settings = _wanted(load_configuration(configuration), stream, configuration)
    replay(
        recording,
        _undecided(settings),
        stream=stream,
        time_column=time_column,
        tap=listener,
        progress=True,
        prime=True,
    )
    given = {one.name: one for one in settings.streams if isinstance(one, SensorSettings)}
    found = [Recorded(name, given[of], list(samples)) for name, (of, samples) in sorted(listener.heard.items())]
    kept = [one for one in found if one.split >= _least_split(one.settings, one.stride)]
    if not kept:
        most = max((len(one.samples) for one in found), default=0)
        strides = [(one, 1 if one.stride is Steps.AUTO else one.stride) for one in given.values()]
        wanted = max(_readings(*each) for each in [*strides, *((one.settings, one.stride) for one in found)])
        raise FinetuneError(
            f"{recording}: expected a stream of at least {wanted} readings (an hour of one a second has 3600), found "
            f"{most} at most; record for longer"
        )
    total = np.cumsum([len(one.samples) for one in kept])
    return kept[: max(1, int(np.searchsorted(total, MOST_READINGS, side="right")))]


def _wanted(settings: Configuration, stream: str | None, where: Path) -> Configuration:
    """Return the configuration with the streams of readings that use an encoder alone."""
    streams = [
        one
        for one in settings.streams
        if isinstance(one, SensorSettings) and one.encoder_name != NO_ENCODER and stream in {None, one.name}
    ]
    if not streams:
        raise FinetuneError(
            f"{where}: expected a stream of readings{f' {stream!r}' if stream else ''} with an encoder, found none; "
            "`mode: hold` uses no encoder"
        )
    return msgspec.structs.replace(settings, streams=streams)


def _undecided(settings: Configuration) -> Configuration:
    """Return a configuration of which nothing is decided: only what its streams take is wanted."""
    streams = [msgspec.structs.replace(one, encoder=NO_ENCODER, stride=_NEVER) for one in settings.streams]
    return msgspec.structs.replace(settings, streams=streams)


def _least_split(settings: SensorSettings, stride: int) -> int:
    """Return how many readings the tuning part needs: for examples, and for the detector's warm-up."""
    warm_up = min(settings.reference.warm_up * stride, RING_ROWS) + 2 * LENGTH
    return max(warm_up, LEAST_ROWS + LENGTH)


def _readings(settings: SensorSettings, stride: int) -> int:
    return int(_least_split(settings, stride) / (1.0 - HELD_OUT)) + 1


def channels_of(streams: list[Recorded]) -> list[Channel]:
    """Return the channels to tune with: their longest stretch without a gap, of the tuning part of each stream.

    Raises FinetuneError where none is long enough.
    """
    found = []
    for one in streams:
        rows = _rows(one)
        for column in rows.T:
            longest = _longest(column)
            if len(longest) >= LEAST_ROWS and longest.std() > 0:
                found.append(Channel(longest.astype(np.float64), step_of(longest)))
    if not found:
        raise FinetuneError(
            f"expected a channel with {LEAST_ROWS} readings that change and have no gap, in the first "
            f"{1 - HELD_OUT:.0%} of the recording, found none; record for longer"
        )
    return found[:MOST_CHANNELS]


def _rows(one: Recorded) -> F32:
    """Return the tuning part on the agent's grid, float32 [rows, channels] relative to its base, NaN where missing."""
    detector = one.settings.detector()
    grid = Grid(detector.grid, one.settings.channels, one.split)
    for sample in one.samples[: one.split]:
        grid.push(sample, learning=True)
    return grid.rows(one.split)


def _longest(column: F32) -> F32:
    """Return the longest part without NaN."""
    edges = np.flatnonzero(np.concatenate([[True], np.isnan(column), [True]]))
    widest = int(np.argmax(np.diff(edges)))
    return column[edges[widest] : edges[widest + 1] - 1]


def step_of(values: F32) -> float:
    """Return the step that all moves of float32 [rows] are multiples of, 0 where there is none."""
    moves = np.abs(np.diff(values.astype(np.float64)))
    moves = moves[moves > 0]
    if len(moves) < _LEAST_STEPS:
        return 0.0
    steps = moves / moves.min()
    return float(moves.min()) if np.abs(steps - np.rint(steps)).max() < _STEP_ERROR * steps.max() else 0.0
