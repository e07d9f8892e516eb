"""Streams of many kinds, what they learnt of normal data, and what has to hold whatever they are given."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.adapters.telemetry import SilentObserver
from agent.app import with_defaults
from agent.config import load_configuration
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from tests.fuzz.messages import TOPICS

NOW: Final = 1_700_000_000.0
STREAMS: Final = """
agent: {id: pi, max_streams: 8}
commands: {enabled: true}
streams:
  - {name: timed, topic: timed/+, encoder: none, TIME, SHORT}
  - {name: hold, topic: hold/a, mode: hold, TIME, channels: [a, b], SHORT}
  - {name: counter, topic: counter/#, encoder: none, counters: [a], period: 1s, TIME, SHORT}
  - {name: rows, topic: rows/+/+, encoder: none, format: csv, TIME, SHORT}
  - {name: table, topic: $SYS/+, encoder: none, format: csv, season: 100s, SHORT}
  - {name: values, topic: +, encoder: none, format: value, spacing: arrival, SHORT}
  - {name: plc, topic: spBv1.0/#, format: sparkplug, encoder: none, SHORT}
  - {name: rest, topic: "#", encoder: none, SHORT}
""".replace("TIME", "time: {path: ts, max_ahead: 100d}").replace(
    "SHORT",
    "reference: {size: 100, warm_up: 100}, silence: {after: 1h}, "
    "alert: {false_alarms: 1 per 1000 decisions, cooldown: 1s}",
)


def configured(text: str) -> Any:
    """Return a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redshank.yaml"
        path.write_text(text)
        return with_defaults(load_configuration(path))


def check_outcome(pipeline: Pipeline, outcome: Any) -> None:
    """Check that what came of messages can be published, shown and stored."""
    for row in outcome.outbox:
        json.loads(row.payload)
        assert len(row.topic.encode()) < 1 << 16
        assert not any(mark in row.topic for mark in "+#\0")
    for decided in outcome.decided:
        assert math.isfinite(decided.assessment.score), decided
    for stream in pipeline.streams.values():
        state = msgspec.json.decode(msgspec.json.encode(stream.state()))
        assert state["score"] is not None or stream.assessment is None
        assert stream.bytes > 0


def check_snapshots(pipeline: Pipeline, observer: SilentObserver) -> None:
    """Check that every stream goes on from its snapshot, with the same snapshot."""
    configuration = pipeline._configuration
    saved = {stream.name: stream.snapshot() for stream in pipeline.streams.values()}

    def restore(stream: Any) -> None:
        stream.restore(saved[stream.name], [])

    again = Pipeline(configuration, pipeline.encoders, TOPICS, observer, restore=restore)
    for stream in list(pipeline.streams.values()):
        made = again.stream_of(stream.topic)
        assert made is not None
        assert packed(made.snapshot()) == packed(saved[stream.name])


def packed(snapshot: dict[str, Any]) -> bytes:
    """Return a snapshot as bytes."""
    return msgspec.msgpack.encode(snapshot, enc_hook=lambda array: array.tolist())


def learnt(name: str, topic: str, seconds: int = 180) -> list[InboundMessage]:
    """Return messages after which a stream of these tests is active, two channels at 1 Hz."""
    made = []
    for i in range(seconds):
        at = NOW - seconds + i
        a, b = round(math.sin(i / 9) + (i * 7919 % 101) / 500, 4), round(math.cos(i / 7) + (i * 104729 % 89) / 400, 4)
        if name == "values":
            payload = str(a)
        elif name in ("rows", "table"):
            payload = f"ts,a,b\n{at},{a},{b}"
        else:
            payload = json.dumps({"ts": at, "a": a + 3 * i if name == "counter" else a, "b": b})
        made.append(InboundMessage(topic, payload.encode(), at, i - seconds))
    return made


ACTIVE: Final = {
    "timed": "timed/a",
    "hold": "hold/a",
    "counter": "counter/a/b",
    "rows": "rows//",
    "table": "$SYS/broker",
    "values": "value",
    "rest": "rest/x/y",
}


@functools.cache
def experience() -> tuple[Any, dict[str, Any]]:
    """Return a configuration and what its streams learnt of normal data, by stream."""
    configuration = configured(STREAMS)
    pipeline = Pipeline(configuration, {}, TOPICS, SilentObserver())
    for name, topic in ACTIVE.items():
        pipeline.process(learnt(name, topic))
    assert all(stream.learnt for stream in pipeline.streams.values())
    return configuration, {stream.name: stream.snapshot() for stream in pipeline.streams.values()}


def experienced() -> Pipeline:
    """Return a pipeline whose streams, once they are spoken to, go on from there."""
    configuration, saved = experience()

    def restore(stream: Any) -> None:
        if stream.name in saved:
            stream.restore(saved[stream.name], [])

    return Pipeline(configuration, {}, TOPICS, SilentObserver(), restore=restore)
