"""Recorded data through the very same pipeline, as fast as it goes. Deterministic: virtual time, one thread."""

from __future__ import annotations

import csv
import itertools
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from tqdm import tqdm

from agent.adapters.mqtt.topics import Topics
from agent.adapters.recording import read_csv, read_messages
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, make_restore, save_all, with_defaults
from agent.errors import RecordingError
from agent.pipeline import Decided, Outcome, Pipeline
from agent.stream import SensorStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Configuration, StreamSettings
    from agent.pipeline import Tap
    from agent.ports import Encoder, InboundMessage

BATCH = 256


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
    encoders: dict[str, Encoder] | None = None,
    tap: Tap | None = None,
) -> Summary:
    """Run a recording (JSONL, or CSV for one stream) and return its alerts. Raises RecordingError.

    `encoders` are taken instead of those that the configuration names; `tap` looks on.
    """
    configuration = with_defaults(configuration)
    if not recording.is_file():
        raise RecordingError(f"{recording}: expected a recording (.jsonl or .csv), found no such file")
    rows = recording.suffix.lower() == ".csv"
    if rows:
        configuration = msgspec.structs.replace(configuration, streams=[_named(configuration, stream)])
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
        )
        pipeline.tap = tap
        writer = csv.writer(opened.enter_context(scores.open("w", newline=""))) if scores is not None else None
        if writer is not None:
            writer.writerow(["at", "stream", "score", "p_value", "alert_state"])
        bar = opened.enter_context(tqdm(disable=not progress, unit=" messages", desc="replay", file=sys.stderr))
        outcomes = _rows(pipeline, configuration, recording, time_column) if rows else _messages(pipeline, recording)
        for count, outcome in outcomes:
            bar.update(count)
            summary.decisions += len(outcome.decided)
            told = [msgspec.json.decode(row.payload) for row in outcome.outbox]
            summary.alerts += told
            if tap is not None:
                for message in told:
                    tap.told(pipeline.streams[message["stream"]], message)
            if store is not None and outcome.alerts:
                store.commit(outcome.alerts, [])
            if writer is not None:
                writer.writerows(_score(one) for one in outcome.decided)
        summary.streams = len(pipeline.streams)
        if alerts is not None:
            alerts.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in summary.alerts))
        if store is not None:
            save_all(store, pipeline)
    return summary


def _named(configuration: Configuration, name: str | None) -> StreamSettings:
    """Return the stream that a CSV file belongs to: the only one, or the one that is named."""
    streams = {settings.name: settings for settings in configuration.streams}
    if name is None and len(streams) == 1:
        return configuration.streams[0]
    if name not in streams:
        raise RecordingError(
            f"expected one of the streams {', '.join(streams)}, found {name or 'none'}; name it with --stream"
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
    pipeline: Pipeline, configuration: Configuration, recording: Path, time_column: str
) -> Iterator[tuple[int, Outcome]]:
    (settings,) = configuration.streams
    stream = pipeline.stream_of(settings.topic.replace("+", "replay").replace("#", "replay"))
    assert isinstance(stream, SensorStream)
    for sample in read_csv(recording, time_column):
        yield 1, pipeline.process_sample(stream, sample)
