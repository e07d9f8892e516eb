"""What is watched: one concrete topic with its detector and its alerts, whatever it carries.

The pipeline, the commands and the state directory see streams of every kind through `Stream`; `SensorStream` is the
kind that carries readings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import msgspec

from agent.adapters.store import AlertRow
from agent.alert_message import timestamp
from agent.core.alerting import MAX_SNOOZE_S, AlertKind, AlertMachine, AlertSettings, AlertState, Severity
from agent.core.pace import Steps
from agent.core.quiet import QuietHours
from agent.core.types import Mode, StreamPhase
from agent.core.views import plain
from agent.intake import MessageIntake, ReportIntake, make_intake

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.adapters.payload.sparkplug import Reading
    from agent.config import SensorSettings, StreamSettings
    from agent.core.bank import DetectorBank, WarmUpPart
    from agent.core.budget import BudgetControl
    from agent.core.detector import StreamDetector
    from agent.core.types import F32, Assessment, Budget, Sample
    from agent.picture_heir import PictureHeir
    from agent.picture_sight import Looked
    from agent.ports import Encoder, InboundMessage, PictureEncoder

SNAPSHOT_SCHEMA: Final = 6
WHOLE_BYTES_A_DAY: Final = 25_000_000  # that whole snapshots of one stream may have, on an SD card
_DAY_S: Final = 86400.0
OBJECTS_BYTES: Final = 8_000  # about: what a stream takes beside its channels
_SMOOTH: Final = 16  # messages that the time between two of them is the mean of, about
_LEAST_S: Final = 1e-6
_LONGEST: Final = 16  # usual times that one pause counts as, at most


class Stream(ABC):
    """One concrete topic being watched. `health` are the kinds of alert that it raises beside anomaly and silence."""

    def __init__(
        self,
        name: str,
        topic: str,
        settings: StreamSettings,
        agent: str,
        encoder: tuple[str, str] | None,
        health: tuple[AlertKind, ...],
    ) -> None:
        self.name, self.topic, self.settings = name, topic, settings
        self.encoder_tag = tag_of(encoder)
        self.own_time = settings.time is not None
        once = msgspec.structs.replace(settings.alert, after=1, clear_after=1, cooldown_s=0.0)
        calm = msgspec.structs.replace(once, cooldown_s=settings.alert.cooldown_s)
        quiet = quiet_hours(settings.alert)
        kinds = {AlertKind.ANOMALY: settings.alert, **dict.fromkeys(health, calm), AlertKind.SILENT: once}
        self.alerts = {
            kind: AlertMachine(how, agent=agent, stream=name, kind=kind, quiet=quiet) for kind, how in kinds.items()
        }
        self.heard_elapsed_s: float | None = None
        self.heard_at = 0.0
        self._spoke_s: float | None = None  # when it was last heard since the start
        self._beat_s: float | None = None  # between two messages, smoothed
        self.assessment: Assessment | Looked | None = None
        self.declined: Encoder | PictureEncoder | None = None  # the version that it cannot be carried over to
        self._share: Budget | None = None  # of the agent's budget
        self._whole: tuple[float, int, bool] | None = None  # the last whole snapshot: when, bytes, whether learnt

    # What may be another version of the same encoder soon

    encoder: Encoder | PictureEncoder | None
    heir: Heir | PictureHeir | None

    @abstractmethod
    def heir_is_ready(self) -> bool:
        """Tell whether the heir, which there must be, knows enough to take the stream's place."""

    @abstractmethod
    def inherit(self) -> None:
        """Go on as the heir, which there must be; alerts and all that messages told stand as they are."""

    @abstractmethod
    def disown(self) -> None:
        """Let the heir go, if there is one."""

    @abstractmethod
    def signature_with(self, encoder: Any) -> dict[str, Any]:
        """Return what a snapshot must agree with that was made with this version of the encoder."""

    in_pieces = False  # what is written of it is large, and made between messages a little at a time

    @property
    @abstractmethod
    def budget(self) -> BudgetControl:
        """Return what steers the threshold."""

    @property
    @abstractmethod
    def learnt(self) -> bool:
        """Tell whether the warm-up is over."""

    @property
    @abstractmethod
    def learning_left_s(self) -> float | None:
        """Return how long learning will still take, None if that cannot be told yet."""

    @property
    @abstractmethod
    def reference_fill(self) -> int:
        """Return how many references there are."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Return the memory that the stream takes, or will once it has learnt, and what its alerts hold."""

    @property
    def signature(self) -> dict[str, Any]:
        """Return what a snapshot must agree with to be resumed."""
        return self.signature_with(self.encoder)

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Return what the state topic tells of this kind of stream alone."""

    @abstractmethod
    def begin_anew(self) -> None:
        """Give up all that was learnt."""

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Return all that was learnt."""

    def prepare(self, signature: object, state: object) -> None:  # noqa: B027  not every kind settles something
        """Settle what the stream settles by itself as a snapshot has it, before its signature is compared."""

    @abstractmethod
    def restore(self, saved: dict[str, Any], additions: Iterable[dict[str, Any]]) -> None:
        """Go on from a snapshot and what was added to it."""

    @abstractmethod
    def addition(self) -> dict[str, Any] | None:
        """Return what was learnt since the stream was last saved; None where a whole snapshot is to be written."""

    @abstractmethod
    def saved(self) -> None:
        """Know that all that was learnt is on disk, or will be soon: `unsaved` says where it comes to nothing."""

    def saved_whole(self, size: int, now: float) -> None:
        """Know that a whole snapshot of so many bytes was written. `now`: a monotonic clock."""
        self._whole = now, size, self.learnt

    def unsaved(self) -> None:
        """Know that what was learnt could not be written: a whole snapshot is due."""
        self._whole = None

    def whole_due(self, now: float) -> bool:
        """Tell whether a whole snapshot is due where `addition` has none: large ones are written seldom.

        One is when learning is over, whatever its size. `now`: a monotonic clock.
        """
        if self._whole is None:
            return True
        at, size, learnt = self._whole
        return learnt is not self.learnt or now - at >= pause_after(size)

    @abstractmethod
    def holds(self, alert: str) -> bool:
        """Tell whether what an alert is about is still kept, so that it can be accepted."""

    @abstractmethod
    def has_accepted(self, alert: str) -> bool:
        """Tell whether an alert was accepted, and can be forgotten."""

    @abstractmethod
    def accept(self, alert: str) -> int:
        """Learn what an alert is about; return how many windows or pictures that is."""

    def confirm(self, alert: str) -> bool:
        """Take back what a true alarm counted; tell whether that was to be done. The budget must know the alert."""
        return self.budget.confirm(alert)

    @abstractmethod
    def forget_alert(self, alert: str) -> int:
        """Take out what accepting an alert let in; return how many. Raises TooFewLeftError."""

    @abstractmethod
    def forget_span(self, begin: float, end: float) -> int:
        """Take out what was learnt from `begin` to `end`; return how many. Raises TooFewLeftError."""

    @abstractmethod
    def release(self) -> None:
        """Let go what was kept for an alert that is no longer pending or firing."""

    @property
    def phase(self) -> StreamPhase:
        """Return the stream's phase; silence wins."""
        if self.alerts[AlertKind.SILENT].state is AlertState.FIRING:
            return StreamPhase.SILENT
        return StreamPhase.ACTIVE if self.learnt else StreamPhase.LEARNING

    @property
    def severity(self) -> Severity:
        """Return how loud its alerts are."""
        return self.settings.alert.severity

    @property
    def firing(self) -> bool:
        """Tell whether one of its alerts fires."""
        return any(machine.state is AlertState.FIRING for machine in self.alerts.values())

    def hear(self, at: float, elapsed_s: float) -> None:
        """Note the arrival of a message: wall-clock time, and a monotonic clock."""
        if self._spoke_s is not None:
            self._beat_s = smoothed(self._beat_s, elapsed_s - self._spoke_s, _SMOOTH)
        self._spoke_s = self.heard_elapsed_s = elapsed_s
        self.heard_at = at

    def shift(self, step_s: float, before: float) -> bool:
        """Know that the wall clock was set by so much from `before`; tell whether a snooze was moved with it.

        A snooze of an earlier run, when the clock was right, ends far behind what a wrong clock allows, and stays.
        """
        self.heard_at += step_s
        snoozed = [one for one in self.alerts.values() if 0.0 < one.snoozed_until - before <= MAX_SNOOZE_S]
        for machine in snoozed:
            machine.snoozed_until += step_s
        return bool(snoozed)

    def rate(self, elapsed_s: float) -> float | None:
        """Return messages per second, None before the second one; what stays away lowers it."""
        if self._beat_s is None or self._spoke_s is None:
            return None
        return 1.0 / max(self._beat_s, elapsed_s - self._spoke_s)

    def take_share(self, budget: Budget | None) -> None:
        """Promise this stream's share of the agent's budget; None: its own."""
        self._share = budget
        self.budget.change(budget or self.settings.alert.budget_for(self.settings.mode))

    def follow(self, old: Stream, *, kept: bool) -> None:
        """Go on in the place of `old`, whose settings were others; `kept`: with all that it had learnt."""
        for kind in self.alerts.keys() & old.alerts.keys():
            self.alerts[kind].restore(old.alerts[kind].snapshot())
        self.heard_at, self.heard_elapsed_s = old.heard_at, old.heard_elapsed_s
        self._spoke_s, self._beat_s = old._spoke_s, old._beat_s
        if kept:
            self.restore(old.snapshot(), [])
            self.assessment = old.assessment

    def relearn(self) -> None:
        """Begin anew, as if never seen: all that was learnt is given up."""
        self.begin_anew()
        self.assessment = None
        if self._share is not None:
            self.budget.change(self._share)

    def state(self) -> dict[str, Any]:
        """Return the payload of the stream's state topic."""
        anomaly, found, left = self.alerts[AlertKind.ANOMALY], self.assessment, self.learning_left_s
        return {
            "phase": self.phase,
            "learning_left_s": None if left is None else round(left, 1),
            "alert": anomaly.state,
            "firing": [kind for kind, machine in self.alerts.items() if machine.state is AlertState.FIRING],
            "since": timestamp(anomaly.started_at) if anomaly.state is AlertState.FIRING else None,
            "snoozed_until": timestamp(anomaly.snoozed_until) if anomaly.snoozed_until else None,
            "score": round(found.score, 3) if found else None,
            "p_value": float(f"{found.p_value:.3g}") if found and found.p_value is not None else None,
            "reference_fill": self.reference_fill,
            "encoder": self.encoder_tag["name"] if self.encoder_tag else None,
            **self.details(),
        }


class Heir(msgspec.Struct):
    """Who is to take a stream's place, with another version of its encoder, and decides in its shadow until then.

    `decisions` so far; `calm`: the last of these that were not odd.
    """

    encoder: Encoder
    bank: DetectorBank
    detector: StreamDetector
    decisions: int = 0
    calm: int = 0

    @property
    def bytes(self) -> int:
        """Return the memory that it takes."""
        return len(self.detector.grid.channels) * self.bank.lane_bytes + self.detector.quarantine.bytes


class SensorStream(Stream):
    """A stream of readings. Its detector is one of a bank's."""

    settings: SensorSettings
    assessment: Assessment | None
    encoder: Encoder | None
    heir: Heir | None

    def __init__(
        self,
        name: str,
        topic: str,
        settings: SensorSettings,
        encoder: Encoder | None,
        bank: DetectorBank,
        agent: str,
        max_bytes: int,
    ) -> None:
        tag = (encoder.name, encoder.digest) if encoder else None
        super().__init__(name, topic, settings, agent, tag, (AlertKind.FROZEN,))
        self.encoder, self.bank = encoder, bank
        self.heir = None
        self.intake = make_intake(settings, max_bytes)
        self.detector = bank.detector(settings.channels)
        self.turns = 0  # of the grid, at the last decision
        self.pending_row: int | None = None  # of the grid, at the oldest decision that waits

    @property
    def budget(self) -> BudgetControl:
        """Return what steers the threshold."""
        return self.detector.budget

    @property
    def learnt(self) -> bool:
        """Tell whether the warm-up is over."""
        return self.detector.phase is StreamPhase.ACTIVE

    @property
    def learning_left_s(self) -> float | None:
        """Return how long learning will still take, None while no period is known."""
        period = self.detector.grid.period_s
        return None if period is None else self.detector.learning_left * period

    @property
    def reference_fill(self) -> int:
        """Return how many references there are."""
        return self.bank.reference_size(self.detector)

    @property
    def bytes(self) -> int:
        """Return the memory that the stream takes, or will once it has learnt, and what its alerts hold."""
        channels = max(1, len(self.detector.grid.channels))
        return OBJECTS_BYTES + channels * self.bank.lane_bytes + self.detector.quarantine.bytes

    def signature_with(self, encoder: Encoder | None) -> dict[str, Any]:
        """Return the signature that the stream has with an encoder."""
        settings = self.settings
        return {
            "schema": SNAPSHOT_SCHEMA,
            "runtime": encoder.runtime if encoder else "",
            # With the grid on which embeddings are kept: a float model's is not its own.
            "encoder": f"{encoder.digest} {encoder.output_step!r} {encoder.output_offset}" if encoder else "",
            "channels": list(settings.channels),
            **({"ignore_channels": sorted(settings.ignore_channels)} if settings.ignore_channels else {}),
            "period_s": settings.period_s,
            "season_s": settings.season_s,
            "spacing": settings.spacing.value,
            "counters": sorted(settings.counters),
            "mode": settings.mode.value if settings.mode is Mode.HOLD else "",  # its joint view is another method
            "stride": self.detector.stride,
            "size": settings.reference.size,
            "method": settings.score.method.value,
        }

    def details(self) -> dict[str, Any]:
        """Return the channels, the period, and the grid steps between decisions, None while they are not known."""
        grid = self.detector.grid
        known = self.learnt or grid.period_s is not None or self.settings.stride is not Steps.AUTO
        return {
            "channels": grid.channels,
            "channels_ignored": grid.ignored_channels,
            "period_s": grid.period_s,
            "stride": self.detector.stride if known else None,
        }

    def take(self, message: InboundMessage, channel: str | None) -> list[Sample]:
        """Return the samples that a message completes, oldest first. Raises PayloadRejected."""
        assert isinstance(self.intake, MessageIntake)
        return self.intake.take(message.payload, message.received_at, channel)

    def report(self, reading: Reading) -> Sample:
        """Return the sample of all channels at a reading. Raises PayloadRejected."""
        assert isinstance(self.intake, ReportIntake)
        return self.intake.report(reading)

    def follow(self, old: Stream, *, kept: bool) -> None:
        """Go on in the place of `old`. What its messages told so far still stands, whatever was learnt of it."""
        super().follow(old, kept=kept)
        if isinstance(old, SensorStream):
            self.intake.restore(old.intake.snapshot())

    def use(self, encoder: Encoder, bank: DetectorBank) -> None:
        """Begin with another version of the encoder, before anything was learnt."""
        self.encoder, self.bank, self.encoder_tag = encoder, bank, tag_of((encoder.name, encoder.digest))
        stride = self.detector.stride
        self.detector = bank.detector(self.settings.channels)
        self.detector.stride = stride

    def heir_is_ready(self) -> bool:
        """Tell whether the heir, which there must be, knows enough to take the stream's place."""
        assert self.heir is not None
        return self.heir.bank.knows_enough(self.heir.detector, self.bank, self.detector)

    def disown(self) -> None:
        """Let the heir go, if there is one: the stream has changed in a way that it does not know of."""
        if self.heir is not None:
            self.heir.bank.release(self.heir.detector)
            self.heir = None

    def inherit(self) -> None:
        """Go on as the heir, which there must be; alerts and all that messages told stand as they are."""
        heir, self.heir = self.heir, None
        assert heir is not None
        heir.detector.succeed(self.detector)
        self.bank.release(self.detector)
        self.encoder, self.bank, self.detector = heir.encoder, heir.bank, heir.detector
        self.encoder_tag = tag_of((heir.encoder.name, heir.encoder.digest))
        self._whole = None  # what is on disk is of the old one

    def begin_anew(self) -> None:
        """Give up all that was learnt."""
        self.disown()
        self.bank.release(self.detector)
        self.detector = self.bank.detector(self.settings.channels)
        self.turns, self.pending_row = 0, None

    def snapshot(self) -> dict[str, Any]:
        """Return all that was learnt, and what its messages told so far."""
        return {**self.bank.snapshot(self.detector), "intake": self.intake.snapshot()}

    def prepare(self, signature: object, state: object) -> None:
        """Settle the grid steps between decisions as a snapshot has them."""
        if isinstance(signature, dict) and isinstance(state, dict):
            self.detector.resume(signature.get("stride"), state)

    def restore(self, saved: dict[str, Any], additions: Iterable[dict[str, Any]]) -> None:
        """Go on from a snapshot and what was added to it."""
        additions = list(additions)
        if additions:
            for part in self.bank.rebuild(self.detector, saved, additions):
                part.embedding = embedded(part, self.encoder)
        else:
            self.bank.restore(self.detector, saved)
        self.turns = self.detector.grid.turns
        self.intake.restore((additions[-1] if additions else saved).get("intake"))

    def addition(self) -> dict[str, Any] | None:
        """Return what was learnt since the stream was last saved; None where a whole snapshot is to be written."""
        added = self.bank.addition(self.detector)
        return None if added is None else {**added, "intake": self.intake.snapshot()}

    def saved(self) -> None:
        """Know that all that was learnt is on disk."""
        self.detector.saved()

    def unsaved(self) -> None:
        """Know that it is not."""
        super().unsaved()
        self.detector.diary.end()

    def whole_due(self, now: float) -> bool:
        """Tell the same; while it learns, a stream has little, and it is written whenever there is more."""
        more = not self.learnt and self.detector.grid.total_rows != self.detector.diary.since
        return more or super().whole_due(now)

    def holds(self, alert: str) -> bool:
        """Tell whether an alert's windows are still kept, so that it can be accepted."""
        return self.detector.quarantine.knows(alert)

    def has_accepted(self, alert: str) -> bool:
        """Tell whether an alert was accepted, and can be forgotten."""
        return self.detector.quarantine.accepted(alert) is not None

    def accept(self, alert: str) -> int:
        """Learn an alert's windows; return how many."""
        self.disown()
        return self.bank.accept(self.detector, alert)

    def confirm(self, alert: str) -> bool:
        """Take back what a true alarm counted; tell whether that was to be done. The budget must know the alert."""
        self.disown()
        return super().confirm(alert)

    def forget_alert(self, alert: str) -> int:
        """Take out what accepting an alert let in; return how many windows. Raises TooFewLeftError."""
        self.disown()
        return self.bank.forget_alert(self.detector, alert)

    def forget_span(self, begin: float, end: float) -> int:
        """Take out the windows of a time span; return how many. Raises TooFewLeftError."""
        self.disown()
        return self.bank.forget_span(self.detector, begin, end)

    def release(self) -> None:
        """Let go what was kept for an alert that is no longer pending or firing."""
        self.detector.quarantine.release()


def smoothed(usual_s: float | None, passed_s: float, count: int) -> float:
    """Return the usual time between two messages, of `count` about, after one more. One long pause changes little."""
    if usual_s is None:
        return max(passed_s, _LEAST_S)
    return max(usual_s + (min(passed_s, _LONGEST * usual_s) - usual_s) / count, _LEAST_S)


def embedded(part: WarmUpPart, encoder: Encoder | None) -> F32:
    """Return a part's windows as embeddings, float32 [windows, dim]."""
    if not part.view.encoded:
        return plain(part.windows)
    assert encoder is not None
    return encoder.encode(part.windows)


def version_of(encoder: Encoder) -> tuple[str, str, float, int, int]:
    """Return what two encoders have in common whose embeddings can be compared."""
    return encoder.digest, encoder.runtime, encoder.output_step, encoder.output_offset, encoder.length


def pause_after(size: int) -> float:
    """Return how long, in s, nothing large is written for a stream after so many bytes."""
    return _DAY_S * size / WHOLE_BYTES_A_DAY


def tag_of(encoder: tuple[str, str] | None) -> dict[str, str] | None:
    """Return what messages tell of an encoder, given its name and digest."""
    return None if encoder is None else {"name": encoder[0], "digest": encoder[1][:12]}


def quiet_hours(settings: AlertSettings) -> QuietHours:
    """Return the quiet hours of a stream."""
    return QuietHours(settings.quiet_hours, ZoneInfo(settings.zone))


def alert_row(stream: Stream, machine: AlertMachine) -> AlertRow:
    """Return the exact state of one of the stream's alerts, to be stored."""
    return AlertRow(stream.name, machine.kind.value, machine.snapshot())
