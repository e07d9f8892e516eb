"""Recorded data through the very same pipeline, as fast as it goes. Deterministic: virtual time, one thread."""

from __future__ import annotations

import csv
import itertools
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from tqdm import tqdm

from agent.adapters.mqtt.topics import Topics
from agent.adapters.pictures import PictureFormat
from agent.adapters.recording import read_csv, read_folder, read_messages
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, make_restore, with_defaults
from agent.config import ImageSettings, SensorSettings
from agent.core.types import Mode
from agent.errors import RecordingError
from agent.pipeline import Decided, Outcome, Pipeline
from agent.ports import InboundMessage
from agent.routing import pattern_of
from agent.saving import save_all
from agent.stream import SensorStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config import Configuration
    from agent.pipeline import Tap
    from agent.ports import Encoder, PictureEncoder

BATCH: Final = 256
_FOLDER_BEGINS: Final = 946684800.0  # 2000-01-01: a folder has no times of its own that would survive being copied
_PRIMED: Final = {Mode.FROZEN: Mode.ADAPT}
Kind = TypeVar("Kind", SensorSettings, ImageSettings)
_NEEDED: Final[dict[type, str]] = {SensorSettings: "readings", ImageSettings: "pictures (kind: image)"}


class Rejections(SilentObserver):
    """Counts what was dropped."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}

    def rejected(self, topic: str, reason: str) -> None:
        """Count it."""
        del topic
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


class Summary(msgspec.Struct):
    """What a replay gave."""

    alerts: list[dict[str, Any]]
    decisions: int
    streams: int
    rejected: dict[str, int]
    learnt: dict[str, int] = msgspec.field(default_factory=dict)  # references by stream, of those that are active

    @property
    def rejections(self) -> str:
        """Return what was rejected, in words."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items())) or "none"


def replay(
    recording: Path,
    configuration: Configuration,
    *,
    stream: str | None = None,
    time_column: str = "time",
    scores: Path | None = None,
    alerts: Path | None = None,
    state: Path | None = None,
    progress: bool = False,
    encoders: dict[str, Encoder | PictureEncoder] | None = None,
    tap: Tap | None = None,
    prime: bool = False,
) -> Summary:
    """Run a recording (JSONL; CSV or a folder of pictures for one stream) and return its alerts. Raises RecordingError.

    `encoders` are taken instead of those that the configuration names; `tap` looks on. With `prime` all of it is known
    to be normal: it is learnt, in `mode: frozen`, too, and nothing alarms.
    """
    configuration = with_defaults(configuration)
    if not recording.exists():
        raise RecordingError(f"{recording}: expected a recording (.jsonl, .csv or a folder), found no such file")
    outcomes_of: Callable[[Pipeline], Iterator[tuple[int, Outcome]]]
    if recording.is_dir():
        settings = one_of(configuration, stream, ImageSettings, "a folder of pictures")
        bare = msgspec.structs.replace(settings, format=PictureFormat.RAW, path="", time=None)
        configuration = msgspec.structs.replace(configuration, streams=[bare])
        outcomes_of = partial(_pictures, settings=bare, folder=recording, until_now=prime)
    elif recording.suffix.lower() == ".csv":
        only = one_of(configuration, stream, SensorSettings, "a CSV file")
        configuration = msgspec.structs.replace(configuration, streams=[only])
        outcomes_of = partial(_rows, settings=only, recording=recording, time_column=time_column)
    else:
        outcomes_of = partial(_messages, recording=recording)
    if prime:
        streams = [msgspec.structs.replace(one, mode=_PRIMED.get(one.mode, one.mode)) for one in configuration.streams]
        configuration = msgspec.structs.replace(configuration, streams=streams)
    observer = Rejections()
    summary = Summary([], 0, 0, observer.reasons)
    with ExitStack() as opened:
        store = opened.enter_context(closing(Store(state))) if state is not None else None
        agent = configuration.agent
        pipeline = Pipeline(
            configuration,
            load_encoders(configuration, store) if encoders is None else encoders,
            Topics(agent.topic_prefix, agent.id),
            observer,
            restore=make_restore(store) if store is not None else None,
            nodes=store.nodes() if store is not None else (),
        )
        pipeline.tap, pipeline.priming = tap, prime
        writer = csv.writer(opened.enter_context(scores.open("w", newline=""))) if scores is not None else None
        if writer is not None:
            writer.writerow(["at", "stream", "score", "p_value", "alert_state"])
        bar = opened.enter_context(tqdm(disable=not progress, unit=" messages", desc="replay", file=sys.stderr))
        for count, outcome in outcomes_of(pipeline):
            bar.update(count)
            summary.decisions += len(outcome.decided)
            told = [msgspec.json.decode(row.payload) for row in outcome.outbox]
            summary.alerts += told
            if tap is not None:
                for message in told:
                    tap.told(pipeline.streams[message["stream"]], message)
            if store is not None and (outcome.alerts or outcome.nodes):
                store.commit(outcome.alerts, [], outcome.nodes)
            if writer is not None:
                writer.writerows(_score(one) for one in outcome.decided)
        summary.streams = len(pipeline.streams)
        summary.learnt = {one.name: one.reference_fill for one in pipeline.streams.values() if one.learnt}
        if alerts is not None:
            alerts.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in summary.alerts))
        if store is not None:
            save_all(store, pipeline)
    return summary


def one_of(configuration: Configuration, name: str | None, kind: type[Kind], what: str) -> Kind:
    """Return the stream that a recording belongs to: the only one of its kind, or the one that is named."""
    streams = {one.name: one for one in configuration.streams if isinstance(one, kind)}
    if name is None and len(streams) == 1:
        return next(iter(streams.values()))
    if not streams:
        raise RecordingError(f"{what}: expected a stream of {_NEEDED[kind]} in the configuration, found none")
    if name is None or name not in streams:
        raise RecordingError(
            f"{what}: expected one of the streams {', '.join(streams)}, found {name or 'none'}; name it with --stream"
        )
    return streams[name]


def _score(one: Decided) -> list[Any]:
    found = one.assessment
    return [found.at, one.stream, f"{found.score:.6g}", f"{found.p_value:.6g}", one.alert_state.value]


def _messages(pipeline: Pipeline, recording: Path) -> Iterator[tuple[int, Outcome]]:
    """Process in arrival order; each whole second of virtual time is looked at for silence, as the daemon does."""
    for second, group in itertools.groupby(read_messages(recording), key=lambda m: int(m.received_at)):
        messages: list[InboundMessage] = list(group)
        yield 0, pipeline.tick(float(second), float(second), 0.0)
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            yield len(batch), pipeline.process(batch)


def _rows(
    pipeline: Pipeline, settings: SensorSettings, recording: Path, time_column: str
) -> Iterator[tuple[int, Outcome]]:
    stream = pipeline.stream_of(pattern_of(settings).example)
    assert isinstance(stream, SensorStream)
    for sample in read_csv(recording, time_column):
        yield 1, pipeline.process_sample(stream, sample)


def _pictures(
    pipeline: Pipeline, settings: ImageSettings, folder: Path, *, until_now: bool
) -> Iterator[tuple[int, Outcome]]:
    """Process a folder's pictures in the order of their names, `every` or a second apart.

    With `until_now` the last one is of now: what they are learnt as stands beside what comes. Else a replay gives the
    same each time.
    """
    interval_s = settings.every_s or 1.0
    topic = pattern_of(settings).example
    files = read_folder(folder)
    begins = time() - (len(files) - 1) * interval_s if until_now else _FOLDER_BEGINS
    for number, file in enumerate(files):
        at = begins + number * interval_s
        yield 1, pipeline.process([InboundMessage(topic, file.read_bytes(), at, at)])
