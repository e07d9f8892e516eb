"""One message's way through: decode, put on the grid, embed many streams at once, detect, alert.

Single-threaded. Time is an argument, so a replay and the daemon are the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.adapters.payload import PayloadRejected, RejectReason, make_decoder
from agent.adapters.store import AlertRow, OutboxRow
from agent.alert_message import encode, evidence, timestamp
from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertState, AlertTransition
from agent.core.detector import DueDecision, StreamDetector
from agent.core.reference import Workspace
from agent.core.types import F32, Assessment, Sample, StreamPhase
from agent.core.views import plain, views_for
from agent.core.windowing import Arrival

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.adapters.mqtt import Topics
    from agent.config import Configuration, StreamSettings
    from agent.ports import Encoder, InboundMessage, Observer

MAX_PENDING: Final = 64  # decisions embedded in one go
_DROPPED: Final = {
    Arrival.DUPLICATE: RejectReason.DUPLICATE,
    Arrival.LATE: RejectReason.LATE,
    Arrival.SURPLUS: RejectReason.SURPLUS,
    Arrival.NO_CHANNEL: RejectReason.NO_CHANNEL,
}


class Stream:
    """One concrete topic being watched."""

    def __init__(
        self,
        name: str,
        topic: str,
        settings: StreamSettings,
        encoder: Encoder | None,
        agent: str,
        max_bytes: int,
    ) -> None:
        self.name, self.topic, self.settings, self.encoder = name, topic, settings, encoder
        self.decode = make_decoder(settings, max_bytes)
        self.own_time = settings.time is not None
        self.detector = StreamDetector(
            settings.detector(),
            views_for(encoder.length, encoder.dim, encoder.output_step, encoder.output_offset)
            if encoder
            else views_for(0, 0, 1.0, 0),
            settings.channels,
        )
        once = msgspec.structs.replace(settings.alert, after=1, clear_after=1, cooldown_s=0.0)
        self.alerts = {
            kind: AlertMachine(how, agent=agent, stream=name, kind=kind)
            for kind, how in ((AlertKind.ANOMALY, settings.alert), (AlertKind.SILENT, once))
        }
        self.heard_elapsed_s: float | None = None
        self.heard_at = 0.0
        self.assessment: Assessment | None = None
        self.decisions = 0

    @property
    def phase(self) -> StreamPhase:
        """Return the stream's phase; silence wins."""
        silent = self.alerts[AlertKind.SILENT].state is AlertState.FIRING
        return StreamPhase.SILENT if silent else self.detector.phase

    @property
    def signature(self) -> dict[str, Any]:
        """Return what a snapshot must agree with to be resumed."""
        encoder = self.encoder
        settings = self.settings
        return {
            "runtime": encoder.runtime if encoder else "",
            "encoder": encoder.digest if encoder else "",
            "channels": list(settings.channels),
            "stride": settings.stride,
            "size": settings.reference.size,
            "method": settings.score.method.value,
        }

    def state(self) -> dict[str, Any]:
        """Return the payload of the stream's state topic."""
        detector, anomaly = self.detector, self.alerts[AlertKind.ANOMALY]
        left = detector.learning_left
        period = detector.grid.period_s
        assessment = self.assessment
        return {
            "phase": self.phase,
            "learning_left_s": None if period is None else round(left * period, 1),
            "alert": anomaly.state,
            "since": timestamp(anomaly.started_at) if anomaly.state is AlertState.FIRING else None,
            "score": round(assessment.score, 3) if assessment else None,
            "p_value": float(f"{assessment.p_value:.3g}") if assessment and assessment.p_value is not None else None,
            "reference_fill": detector.reference_size,
            "encoder": self.encoder.name if self.encoder else None,
            "channels": detector.grid.channels,
            "channels_ignored": detector.grid.ignored_channels,
            "period_s": period,
        }


class Decided(msgspec.Struct, frozen=True):
    """One decision, for whoever wants the scores."""

    stream: str
    assessment: Assessment
    alert_state: AlertState


class Outcome(msgspec.Struct):
    """What a batch led to: to be committed before its messages are acknowledged."""

    alerts: list[AlertRow]
    outbox: list[OutboxRow]
    decided: list[Decided]


class Pipeline:
    """All streams of one agent."""

    def __init__(
        self,
        configuration: Configuration,
        encoders: dict[str, Encoder],
        topics: Topics,
        observer: Observer,
        *,
        restore: Any = None,
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self._configuration = configuration
        self._encoders = encoders
        self._topics = topics
        self._observer = observer
        self._restore = restore  # (name) -> snapshot or None
        self._by_topic: dict[str, Stream | None] = {}
        self._workspace = Workspace()
        self._pending: list[tuple[Stream, DueDecision, float]] = []

    def process(self, messages: Iterable[InboundMessage]) -> Outcome:
        """Take messages in order; return what is to be stored and sent."""
        outcome = Outcome([], [], [])
        for message in messages:
            try:
                stream = self.stream_of(message.topic)
                if stream is None:
                    continue
                if message.retained and not stream.own_time:
                    raise PayloadRejected(RejectReason.RETAINED)  # noqa: TRY301  one place counts all rejections
                for sample in stream.decode(message.payload, message.received_at):
                    self._push(stream, sample, message.received_at, outcome)
                self._heard(stream, message.received_at, message.elapsed_s, outcome)
            except PayloadRejected as rejection:
                self._observer.rejected(message.topic, rejection.reason.value)
        self._flush(outcome)
        return outcome

    def process_sample(self, stream: Stream, sample: Sample) -> Outcome:
        """Take one sample that needs no decoding."""
        outcome = Outcome([], [], [])
        self._push(stream, sample, sample.at, outcome)
        self._flush(outcome)
        return outcome

    def tick(self, now: float, elapsed_s: float, connected_since_s: float | None) -> Outcome:
        """Look for silent streams. `connected_since_s` is None while the broker is away: silence is not counted."""
        outcome = Outcome([], [], [])
        if connected_since_s is None:
            return outcome
        for stream in self.streams.values():
            after = stream.settings.silence.after_s
            if after is None or stream.heard_elapsed_s is None:
                continue
            machine = stream.alerts[AlertKind.SILENT]
            quiet_s = elapsed_s - max(stream.heard_elapsed_s, connected_since_s)
            if quiet_s >= after and machine.state is AlertState.INACTIVE:
                transition = machine.observe(stream.heard_at + after, odd=True)
                if transition is not None:
                    self._publish(stream, transition, None, None, now, outcome)
        return outcome

    def stream_of(self, topic: str) -> Stream | None:
        """Return the stream of a concrete topic, made at its first message; None if there is none for it."""
        if topic in self._by_topic:
            return self._by_topic[topic]
        for settings in self._configuration.streams:
            parts = wildcard_parts(settings.topic, topic)
            if parts is None:
                continue
            if len(self.streams) >= self._configuration.agent.max_streams:
                raise PayloadRejected(RejectReason.TOO_MANY_STREAMS)
            stream = self._make(stream_name(settings.name, parts), topic, settings)
            self._by_topic[topic] = self.streams[stream.name] = stream
            return stream
        if len(self._by_topic) < 2 * self._configuration.agent.max_streams:
            self._by_topic[topic] = None
        return None

    def _make(self, name: str, topic: str, settings: StreamSettings) -> Stream:
        encoder = self._encoders.get(settings.encoder)
        agent = self._configuration.agent
        stream = Stream(name, topic, settings, encoder, agent.id, agent.max_payload_bytes)
        saved = self._restore(stream) if self._restore is not None else None
        if saved is not None:
            stream.detector.restore(saved)
        return stream

    def _heard(self, stream: Stream, at: float, elapsed_s: float, outcome: Outcome) -> None:
        machine = stream.alerts[AlertKind.SILENT]
        if machine.state is AlertState.FIRING:
            transition = machine.observe(at, odd=False)
            if transition is not None:
                self._publish(stream, transition, None, None, at, outcome)
        stream.heard_elapsed_s, stream.heard_at = elapsed_s, at

    def _push(self, stream: Stream, sample: Sample, received_at: float, outcome: Outcome) -> None:
        arrival, due = stream.detector.push(sample)
        reason = _DROPPED.get(arrival)
        if reason is not None:
            self._observer.rejected(stream.topic, reason.value)
        if due is None:
            return
        self._pending.append((stream, due, received_at))
        # A warm-up changes how the stream's next samples are handled: it is not left waiting.
        if due.warm_up or len(self._pending) >= MAX_PENDING:
            self._flush(outcome)

    def _flush(self, outcome: Outcome) -> None:
        pending, self._pending = self._pending, []
        for (stream, due, received_at), embeddings in zip(pending, self._embed(pending), strict=True):
            self._decide(stream, due, embeddings, received_at, outcome)

    def _embed(self, pending: list[tuple[Stream, DueDecision, float]]) -> list[list[F32 | None]]:
        """Embed the windows of many decisions, with one call for each encoder."""
        made: list[list[F32 | None]] = [[None] * len(due.windows) for _, due, _ in pending]
        waiting: dict[int, list[tuple[int, int, F32]]] = {}
        for row, (stream, due, _) in enumerate(pending):
            for column, (view, windows) in enumerate(zip(stream.detector.views, due.windows, strict=True)):
                if windows is None:
                    continue
                if view.encoded:
                    waiting.setdefault(id(stream.encoder), []).append((row, column, windows))
                else:
                    made[row][column] = plain(windows)
        for batch in waiting.values():
            encoder = pending[batch[0][0]][0].encoder
            assert encoder is not None
            embedded = self._observer.timed_encode(encoder, np.concatenate([windows for _, _, windows in batch]))
            start = 0
            for row, column, windows in batch:
                made[row][column] = embedded[start : start + len(windows)]
                start += len(windows)
        return made

    def _decide(
        self,
        stream: Stream,
        due: DueDecision,
        embeddings: list[F32 | None],
        received_at: float,
        outcome: Outcome,
    ) -> None:
        detector, machine = stream.detector, stream.alerts[AlertKind.ANOMALY]
        assessment = detector.step(due, embeddings, self._workspace)
        if assessment is None:
            return
        stream.assessment = assessment
        stream.decisions += 1
        transition = None
        if due.at > machine.last_at or machine.state is AlertState.INACTIVE:
            firing = machine.state is AlertState.FIRING
            transition = machine.observe(due.at, odd=detector.budget.odd(assessment.score, firing=firing))
        detector.budget.decide(raised=transition is not None and transition.event is AlertEvent.RAISED)
        outcome.decided.append(Decided(stream.name, assessment, machine.state))
        self._observer.decided(stream.name, assessment, received_at)
        if transition is not None:
            nearest = detector.nearest(embeddings, int(np.argmax(assessment.part_scores)), self._workspace)
            self._publish(stream, transition, assessment, nearest, received_at, outcome)

    def _publish(
        self,
        stream: Stream,
        transition: AlertTransition,
        assessment: Assessment | None,
        nearest: list[tuple[float, float]] | None,
        now: float,
        outcome: Outcome,
    ) -> None:
        found = evidence(stream.detector, assessment, nearest or []) if assessment is not None else None
        settings = stream.settings.alert
        encoder = stream.encoder
        payload = encode(
            transition,
            agent=self._configuration.agent.id,
            stream=stream.name,
            topic=stream.topic,
            severity=settings.severity,
            budget=settings.false_alarms.text,
            assessment=assessment,
            found=found,
            encoder={"name": encoder.name, "digest": encoder.digest[:12]} if encoder else None,
        )
        outcome.outbox.append(OutboxRow(self._topics.alert(stream.name), payload, now))
        outcome.alerts.append(AlertRow(stream.name, transition.kind.value, stream.alerts[transition.kind].snapshot()))
        firing = any(machine.state is AlertState.FIRING for machine in stream.alerts.values())
        self._observer.transitioned(stream.name, transition, settings.severity.value, firing=firing)


def wildcard_parts(topic_filter: str, topic: str) -> list[str] | None:
    """Return what the wildcards of a filter stand for in a topic, or None if it does not match (MQTT 5, 4.7)."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and not topic_filter.startswith("$"):
        return None
    parts: list[str] = []
    for index, level in enumerate(wanted):
        if level == "#":
            return parts + given[index:]
        if index >= len(given):
            return None
        if level == "+":
            parts.append(given[index])
        elif level != given[index]:
            return None
    return parts if len(wanted) == len(given) else None


def stream_name(name: str, parts: list[str]) -> str:
    """Return the configured name and the wildcards' parts, each escaped as one topic level: injective."""
    from agent.adapters.mqtt.topics import escape  # noqa: PLC0415  only names need it

    return "/".join([escape(name), *(escape(part) for part in parts)])
