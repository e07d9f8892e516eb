"""Operators' commands: what each may say, what it does to its stream, and how it is answered. docs/mqtt.md shows them.

Single-threaded, and time is an argument, as in the pipeline. A broker may deliver a command twice: doing it twice must
leave what doing it once leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from agent.alert_message import timestamp
from agent.allowance import Allowance
from agent.core.alerting import MAX_SNOOZE_S, AlertKind, AlertState, Ending
from agent.core.bank import TooFewLeftError
from agent.picture_stream import PictureStream
from agent.pipeline import Outcome
from agent.settings_builder import parse_duration
from agent.stream import alert_row

if TYPE_CHECKING:
    from agent.adapters.mqtt import Command, Topics
    from agent.config import CommandSettings
    from agent.pipeline import Pipeline
    from agent.ports import Observer
    from agent.stream import Stream

MAX_COMMAND_BYTES: Final = 4096
MAX_CORRELATION_BYTES: Final = 1024
MAX_RESPONSE_TOPIC_BYTES: Final = 1024
_LAST_S: Final = 2.0**32  # what references keep of a time
UNKNOWN: Final = "unknown"  # in the metric, for what names no command

AlertId: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
StreamName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_COMMAND_BYTES)]
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="command"):
    """Base of all commands. `correlation` comes back in the answer."""

    correlation: Annotated[str, Meta(max_length=MAX_CORRELATION_BYTES)] | None = None


class AlertOrder(Order, frozen=True, kw_only=True):
    """Base of what is about an alert: the one named, or the last anomaly alert of a stream."""

    alert: AlertId | None = None
    stream: StreamName | None = None


class Accept(AlertOrder, frozen=True, kw_only=True, tag="accept"):
    """That alert was normal: learn its windows, and end it."""


class Confirm(AlertOrder, frozen=True, kw_only=True, tag="confirm"):
    """That alert was true: it does not count against the budget."""


class Forget(Order, frozen=True, kw_only=True, tag="forget"):
    """Take out of the reference what accepting an alert, or a time span of a stream, let in."""

    alert: AlertId | None = None
    stream: StreamName | None = None
    begin: Moment | None = msgspec.field(name="from", default=None)
    end: Moment | None = msgspec.field(name="to", default=None)


class Snooze(Order, frozen=True, kw_only=True, tag="snooze"):
    """Raise no alert of a stream for so long; 0s ends that."""

    stream: StreamName
    duration: str = msgspec.field(name="for")


class Relearn(Order, frozen=True, kw_only=True, tag="relearn"):
    """Start a stream anew."""

    stream: StreamName


class Snapshot(Order, frozen=True, kw_only=True, tag="snapshot"):
    """Write the state of all streams now."""


class Heatmap(Order, frozen=True, kw_only=True, tag="heatmap"):
    """Publish where the newest picture of a stream is odd, and how."""

    stream: StreamName


AnyOrder: TypeAlias = Accept | Confirm | Forget | Snooze | Relearn | Snapshot | Heatmap
COMMANDS: Final = ("accept", "confirm", "forget", "snooze", "relearn", "snapshot", "heatmap")


class CommandError(Exception):
    """A command cannot be carried out. The text says what was expected and what was found."""

    def __init__(self, expected: str, found: object) -> None:
        super().__init__(f"expected {expected}, found {found}")


class Done(msgspec.Struct):
    """What a command led to.

    `outcome` and the snapshots of the streams in `changed` (None: all) must be on disk before it is answered with
    `answer`. A command that is not answered has None there.
    """

    command: str
    answer: dict[str, Any] | None
    outcome: Outcome
    changed: list[Stream] | None
    topic: str = ""
    correlation_data: bytes | None = None
    refusal: str = "refused"  # what it is counted as, if it is not done


class Commander:
    """Carries out commands on the streams of one pipeline."""

    def __init__(self, pipeline: Pipeline, topics: Topics, settings: CommandSettings, observer: Observer) -> None:
        self._pipeline, self._topics, self._observer = pipeline, topics, observer
        prefix = settings.reply_topic_prefix
        self._prefix = None if prefix is None else prefix.rstrip("/") + "/"
        self._limit = settings.limit
        assert self._limit.per_s is not None
        self._allowance = Allowance(self._limit.count, self._limit.count / self._limit.per_s)
        self._limited = False

    def obey(self, command: Command) -> Done:
        """Carry out one command. One that is retained is refused without an answer: it would be obeyed at each start.

        Any error of the sender's becomes an answer. Of commands in a row that are too many the first is answered.
        """
        if not self._allowance.take(command.message.elapsed_s):
            return self._too_many(command)
        self._limited = False
        done = Done(UNKNOWN, {}, Outcome([], [], []), [], self.reply_topic(command), command.correlation_data)
        answer: dict[str, Any] = {"command": None, "ok": True}
        try:
            content = _content(command)
            done.command = content["command"]
            answer["command"] = done.command
            if isinstance(content.get("correlation"), str):
                answer["correlation"] = content["correlation"][:MAX_CORRELATION_BYTES]
            if command.message.retained:
                self._observer.commanded(done.command, "retained")
                done.answer = None
                return done
            order = _order(content)
            answer |= _HANDLERS[type(order)](self, order, command.message.received_at, done)
        except CommandError as error:
            if command.message.retained:
                self._observer.commanded(UNKNOWN, "retained")
                done.answer = None
                return done
            answer |= {"ok": False, "error": str(error)}
        if done.correlation_data is not None and len(done.correlation_data) > MAX_CORRELATION_BYTES:
            done.correlation_data = None
        done.answer = answer
        return done

    def _too_many(self, command: Command) -> Done:
        done = Done(UNKNOWN, None, Outcome([], [], []), [], self.reply_topic(command), refusal="limited")
        if self._limited or command.message.retained:
            self._observer.commanded(UNKNOWN, done.refusal)
            return done
        self._limited = True
        error = str(CommandError(f"at most {self._limit.text}", "more; what follows is not answered"))
        done.answer = {"command": None, "ok": False, "error": error}
        return done

    def finish(self, done: Done, *, stored: bool) -> bytes | None:
        """Count the command and return its answer as JSON; `stored` tells whether what it led to is on disk."""
        answer = done.answer
        if answer is None:
            return None
        if answer["ok"] and not stored:
            error = "expected a state directory that can be written, found that it cannot: done, but not on disk yet"
            answer |= {"ok": False, "error": error}
        self._observer.commanded(done.command, "done" if answer["ok"] else done.refusal)
        return msgspec.json.encode(answer)

    def reply_topic(self, command: Command) -> str:
        """Return where a command is answered: where its sender wants it, if that is allowed."""
        wanted = command.response_topic
        if (
            wanted is None
            or self._prefix is None
            or not wanted.startswith(self._prefix)
            or wanted.startswith(self._topics.root)
            or len(wanted.encode()) > MAX_RESPONSE_TOPIC_BYTES
            or any(mark in wanted for mark in "+#\0")
        ):
            return self._topics.reply
        return wanted

    def accept(self, order: Accept, now: float, done: Done) -> dict[str, Any]:
        """Learn an alert's windows and end it."""
        stream, alert = self._alert_of(order)
        machine = stream.alerts[AlertKind.ANOMALY]
        again = stream.has_accepted(alert)
        windows = 0
        if not again:
            if not stream.holds(alert):
                raise CommandError("one of the last alerts of its stream", f"{alert}, whose windows are gone")
            windows = stream.accept(alert)
            done.changed = [stream]
        ends = machine.state is AlertState.FIRING and machine.id == alert
        if ends:
            self._pipeline.end_alerts(stream, Ending.ACCEPTED, now, done.outcome)
        return {"alert": alert, "stream": stream.name, "windows": windows, "already": again}

    def confirm(self, order: Confirm, now: float, done: Done) -> dict[str, Any]:
        """Take back what an alert counted."""
        del now
        stream, alert = self._alert_of(order)
        budget = stream.budget
        if not budget.knows(alert):
            raise CommandError("one of the last alerts of its stream", f"{alert}, which is too long ago")
        again = not stream.confirm(alert)
        done.changed = [] if again else [stream]
        return {"alert": alert, "stream": stream.name, "already": again, "budget_ratio": round(budget.ratio, 3)}

    def forget(self, order: Forget, now: float, done: Done) -> dict[str, Any]:
        """Take out what an alert or a time span let in."""
        del now
        span = (order.stream, order.begin, order.end)
        try:
            if order.alert is not None and span == (None, None, None):
                stream = self._stream_of(order.alert)
                windows = stream.forget_alert(order.alert)
                what = {"alert": order.alert}
            elif order.alert is None and order.stream is not None and order.begin is not None and order.end is not None:
                begin, end = order.begin.timestamp(), order.end.timestamp()
                if not 0.0 <= min(begin, end) <= max(begin, end) < _LAST_S:
                    raise CommandError("times from 1970 to 2105", f"{order.begin} and {order.end}")
                if begin > end:
                    raise CommandError("`from` before `to`", f"{timestamp(begin)} and {timestamp(end)}")
                stream = self._active(order.stream)
                windows = stream.forget_span(begin, end)
                what = {"from": timestamp(begin), "to": timestamp(end)}
            else:
                raise CommandError("either `alert`, or `stream`, `from` and `to`", "another combination")
        except TooFewLeftError as error:
            raise CommandError(str(error), "fewer; `relearn` starts the stream anew") from error
        done.changed = [stream] if windows else []
        return {**what, "stream": stream.name, "windows": windows}

    def snooze(self, order: Snooze, now: float, done: Done) -> dict[str, Any]:
        """Raise no alerts of a stream for a while, counted from the command's arrival."""
        stream = self._named(order.stream)
        try:
            seconds = parse_duration(order.duration)
        except ValueError:
            raise CommandError("`for` as a duration such as 30m, 2h or 1d", repr(order.duration)) from None
        if seconds > MAX_SNOOZE_S:
            raise CommandError("`for` of at most 366d", repr(order.duration))
        until = now + seconds if seconds > 0 else 0.0
        for machine in stream.alerts.values():
            machine.snoozed_until = until
            done.outcome.alerts.append(alert_row(stream, machine))
        return {"stream": stream.name, "until": timestamp(until) if until else None}

    def relearn(self, order: Relearn, now: float, done: Done) -> dict[str, Any]:
        """Start a stream anew; its alert ends."""
        stream = self._named(order.stream)
        self._pipeline.end_alerts(stream, Ending.RELEARNT, now, done.outcome)
        stream.relearn()
        done.changed = [stream]
        return {"stream": stream.name}

    def snapshot(self, order: Snapshot, now: float, done: Done) -> dict[str, Any]:
        """Have everything written."""
        del order, now
        done.changed = None
        return {"streams": len(self._pipeline.streams)}

    def heatmap(self, order: Heatmap, now: float, done: Done) -> dict[str, Any]:
        """Draw the newest picture's heatmap, and publish it."""
        del now
        stream = self._named(order.stream)
        if not isinstance(stream, PictureStream):
            raise CommandError("a stream of pictures", repr(order.stream))
        if not self._pipeline.draw(stream, done.outcome):
            raise CommandError("a stream that has learnt and seen a picture since the start", repr(order.stream))
        return {"stream": stream.name, "topic": self._topics.heatmap(stream.name)}

    def _named(self, name: str) -> Stream:
        stream = self._pipeline.streams.get(name)
        if stream is None:
            raise CommandError("the name of a stream that is watched", repr(name))
        return stream

    def _active(self, name: str) -> Stream:
        stream = self._named(name)
        if not stream.learnt:
            raise CommandError("a stream that has learnt", f"{name!r}, which is still learning")
        return stream

    def _alert_of(self, order: AlertOrder) -> tuple[Stream, str]:
        """Return an anomaly alert and the stream that it is of."""
        if (order.alert is None) == (order.stream is None):
            raise CommandError("either `alert` or `stream`", "both" if order.alert else "neither")
        if order.alert is not None:
            return self._stream_of(order.alert), order.alert
        assert order.stream is not None
        stream = self._named(order.stream)
        alert = stream.alerts[AlertKind.ANOMALY].id
        if not alert:
            raise CommandError("a stream that has raised an anomaly alert", f"{order.stream!r}, which has not")
        return stream, alert

    def _stream_of(self, alert: str) -> Stream:
        """Return the stream that an anomaly alert is of."""
        for stream in self._pipeline.streams.values():
            for kind, machine in stream.alerts.items():
                if kind is not AlertKind.ANOMALY and alert == machine.id:
                    raise CommandError("an alert of the kind anomaly", f"{alert}, of the kind {kind}")
            if stream.holds(alert) or stream.budget.knows(alert):
                return stream
        raise CommandError("the id of one of the last anomaly alerts", f"{alert}, which is not known")


_HANDLERS: Final[dict[type[Order], Callable[[Commander, Any, float, Done], dict[str, Any]]]] = {
    Accept: Commander.accept,
    Confirm: Commander.confirm,
    Forget: Commander.forget,
    Snooze: Commander.snooze,
    Relearn: Commander.relearn,
    Snapshot: Commander.snapshot,
    Heatmap: Commander.heatmap,
}


def _content(command: Command) -> dict[str, Any]:
    """Return the JSON object, which names a known command."""
    payload, correlation = command.message.payload, command.correlation_data or b""
    if len(payload) > MAX_COMMAND_BYTES:
        raise CommandError(f"at most {MAX_COMMAND_BYTES} bytes", "more")
    if len(correlation) > MAX_CORRELATION_BYTES:
        raise CommandError(f"correlation data of at most {MAX_CORRELATION_BYTES} bytes", len(correlation))
    try:
        content = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CommandError("JSON", f"something else ({error})") from None
    if not isinstance(content, dict):
        raise CommandError('a JSON object such as {"command": "snapshot"}', type(content).__name__)
    if content.get("command") not in COMMANDS:
        raise CommandError(f"`command` as one of {', '.join(COMMANDS)}", repr(content.get("command"))[:100])
    return content


def _order(content: dict[str, Any]) -> AnyOrder:
    try:
        return msgspec.convert(content, AnyOrder)
    except msgspec.ValidationError as error:
        wanted = next(one for one in _HANDLERS if one.__struct_config__.tag == content["command"])
        fields = ", ".join(field.encode_name for field in msgspec.structs.fields(wanted))
        raise CommandError(f"the fields {fields} as documented", f"a mistake: {error}") from None
