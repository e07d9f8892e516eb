"""Recorded data through the very same pipeline, as fast as it goes. Deterministic: virtual time, one thread."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
from tqdm import tqdm

from agent.adapters.mqtt.topics import Topics
from agent.adapters.recording import read_csv, read_messages
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, make_restore, restore_alerts, save_all, with_defaults
from agent.errors import RecordingError
from agent.pipeline import Outcome, Pipeline, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Configuration
    from agent.ports import InboundMessage

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
) -> Summary:
    """Run a recording (JSONL, or CSV for one stream) and return its alerts. Raises RecordingError."""
    configuration = with_defaults(configuration)
    store = Store(state) if state is not None else None
    restore_detector = make_restore(store) if store is not None else None

    def restore(made: Stream) -> Any:
        assert store is not None
        assert restore_detector is not None
        restore_alerts(store, made)
        return restore_detector(made)

    observer = Rejections()
    agent = configuration.agent
    pipeline = Pipeline(
        configuration,
        load_encoders(configuration),
        Topics(agent.topic_prefix, agent.id),
        observer,
        restore=restore if store is not None else None,
    )
    if not recording.is_file():
        raise RecordingError(f"{recording}: expected a recording (.jsonl or .csv), found no such file")
    summary = Summary([], 0, 0, observer.reasons)
    with (
        _scores_file(scores) as rows,
        tqdm(disable=not progress, unit=" messages", desc="replay", file=sys.stderr) as bar,
    ):
        outcomes = (
            _csv_outcomes(pipeline, configuration, recording, stream, time_column)
            if recording.suffix == ".csv"
            else _message_outcomes(pipeline, recording)
        )
        writer = csv.writer(rows) if rows is not None else None
        if writer is not None:
            writer.writerow(["at", "stream", "score", "p_value", "alert_state"])
        for count, outcome in outcomes:
            bar.update(count)
            summary.decisions += len(outcome.decided)
            summary.alerts += [msgspec.json.decode(row.payload) for row in outcome.outbox]
            if store is not None and outcome.alerts:
                store.commit(outcome.alerts, [])
            if writer is not None:
                for one in outcome.decided:
                    found = one.assessment
                    writer.writerow(
                        [
                            found.at,
                            one.stream,
                            f"{found.score:.6g}",
                            f"{found.p_value:.6g}",
                            one.alert_state.value,
                        ]
                    )
    summary.streams = len(pipeline.streams)
    if alerts is not None:
        alerts.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in summary.alerts))
    if store is not None:
        save_all(store, pipeline)
        store.close()
    return summary


class _scores_file:  # noqa: N801  used as a function
    """Opens the scores file, or nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = path.open("w", newline="") if path is not None else None

    def __enter__(self) -> TextIO | None:
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _message_outcomes(pipeline: Pipeline, recording: Path) -> Iterator[tuple[int, Outcome]]:
    """Process in arrival order; each whole second of virtual time is looked at for silence, as the daemon does."""
    for second, group in itertools.groupby(read_messages(recording), key=lambda m: int(m.received_at)):
        messages: list[InboundMessage] = list(group)
        yield 0, pipeline.tick(float(second), float(second), 0.0)
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            yield len(batch), pipeline.process(batch)


def _csv_outcomes(
    pipeline: Pipeline, configuration: Configuration, recording: Path, name: str | None, time_column: str
) -> Iterator[tuple[int, Outcome]]:
    names = [settings.name for settings in configuration.streams]
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise RecordingError(f"expected one of the streams {', '.join(names)}, found {name}; name it with --stream")
    settings = configuration.streams[names.index(name)]
    topic = settings.topic.replace("+", "replay").replace("#", "replay")
    stream = pipeline.stream_of(topic)
    assert stream is not None
    for sample in read_csv(recording, time_column):
        yield 1, pipeline.process_sample(stream, sample)
