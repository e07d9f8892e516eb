"""One message's way through: decode, put on the grid, embed many streams at once, detect, alert.

Single-threaded. Time is an argument, so a replay and the daemon are the same code.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec
import numpy as np

from agent.adapters.payload import Compression, PayloadRejected, RejectReason
from agent.adapters.payload.sparkplug import Reading, SparkplugNodes
from agent.adapters.picture_drawing import heatmap_png
from agent.adapters.store import AlertRow, OutboxRow
from agent.alert_message import encode, evidence, frozen, picture_evidence, picture_fault, silence
from agent.carry_over import CarryOver, follow
from agent.config import ImageSettings, SensorSettings
from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertState, AlertTransition, Ending
from agent.core.bank import Batch, DetectorBank
from agent.core.budget import share
from agent.core.detector import Due, WarmUp
from agent.core.types import Assessment, Frame, Sample
from agent.core.views import plain, views_for
from agent.core.windowing import Arrival
from agent.core.workspace import Workspace
from agent.picture_sight import Looked
from agent.picture_stream import FAULTS, PictureStream
from agent.reconfiguration import Fate, Reconfigured
from agent.room import Room, waiting_bytes
from agent.routing import MAX_TOPIC_BYTES, Route, Router, is_sparkplug, line_of
from agent.slices import LARGE_BYTES, SLICE, Begun, cost_of, cost_of_part
from agent.stream import SensorStream, Stream, alert_row, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping

    from agent.adapters.mqtt import Topics
    from agent.config import Configuration, StreamSettings
    from agent.core.budget import BudgetControl
    from agent.ports import Encoder, InboundMessage, Observer, PictureEncoder

LATE_S: Final = 60.0  # data that arrives this long after its own time is a backlog
_PENDING_ROWS: Final = 900  # the evidence of a decision looks at rows that later ones push out
MAX_PENDING: Final = 32  # decisions made in one go
MAX_PENDING_LANES: Final = 96  # channels in them
_DROPPED: Final = {
    Arrival.DUPLICATE: RejectReason.DUPLICATE,
    Arrival.LATE: RejectReason.LATE,
    Arrival.SURPLUS: RejectReason.SURPLUS,
    Arrival.NO_CHANNEL: RejectReason.NO_CHANNEL,
}


class Decided(msgspec.Struct, frozen=True):
    """One decision, for whoever wants the scores."""

    stream: str
    assessment: Assessment | Looked
    alert_state: AlertState


class Heatmap(msgspec.Struct, frozen=True):
    """Where a stream's last alert was seen, as PNG: to be published as retained."""

    stream: str
    png: bytes


class Outcome(msgspec.Struct):
    """What a batch led to: to be committed before its messages are acknowledged."""

    alerts: list[AlertRow]
    outbox: list[OutboxRow]
    decided: list[Decided]
    heatmaps: list[Heatmap] = msgspec.field(default_factory=list)
    nodes: dict[str, bytes | None] = msgspec.field(default_factory=dict)  # Sparkplug's births; None: it is dead
    done: list[InboundMessage] = msgspec.field(default_factory=list)  # that were taken whole


class Tap(Protocol):
    """Who looks on in a replay, for a report: nobody in the daemon."""

    def sampled(self, stream: SensorStream, sample: Sample, arrival: Arrival) -> None:
        """See what became of a reading."""
        ...

    def decided(self, stream: SensorStream, due: Due, found: Assessment, threshold: float) -> None:
        """See a decision, after its alert, if any, changed its state; `threshold` is the one it was held against."""
        ...

    def pictured(self, stream: PictureStream, frames: list[Frame], found: Looked | None, threshold: float) -> None:
        """See a picture, after what it led to; `found` is None while learning, and of one that shows nothing."""
        ...

    def told(self, stream: Stream, message: dict[str, Any]) -> None:
        """See an alert's message."""
        ...


class Pipeline:
    """All streams of one agent."""

    def __init__(
        self,
        configuration: Configuration,
        encoders: Mapping[str, Encoder | PictureEncoder],
        topics: Topics,
        observer: Observer,
        *,
        restore: Callable[[Stream], None] | None = None,
        nodes: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.room = Room(self.streams)
        self._configuration = configuration
        self.encoders = encoders
        self._topics = topics
        self._observer = observer
        self.restore = restore  # lets a new stream go on from what is on disk
        self._router = Router(configuration)
        agent = configuration.agent
        self._nodes = SparkplugNodes(self._sees_all, agent.max_streams)
        self._nodes.restore(nodes)
        self._refused: set[str] = set()
        self._shared = True  # the agent's budget, over the streams there are
        self._workspace = Workspace()
        self._banks: dict[tuple[str, bytes], DetectorBank] = {}
        self._pending: list[tuple[SensorStream, Due, Due | None, float]] = []  # the second is that of the heir
        self._pending_lanes = 0
        self._begun: deque[Begun] = deque()
        self._lines: set[str] = set()  # of these
        self._begun_bytes = 0
        self.carry_over = CarryOver(self.streams, lambda: self.encoders, self._bank, self.room)
        self.tap: Tap | None = None
        self.priming = False  # what comes is known to be normal: it is learnt, and nothing alarms

    def process(self, messages: Iterable[InboundMessage]) -> Outcome:
        """Take messages whole, in order, and before them what was begun; return what is to be stored and sent."""
        outcome = Outcome([], [], [])
        while self._begun:
            self._go_on(self._begun.popleft(), outcome)
        self._weigh_begun()
        for message in messages:
            self._go_on(self._begin(message, outcome), outcome)
        return self._finished(outcome)

    def take(self, messages: Iterable[InboundMessage]) -> Outcome:
        """Take messages in order, until those of many readings have cost a slice; the last one may go on later.

        No more of `messages` are asked for than were begun. None of them may be one that `must_wait`.
        """
        outcome, left = Outcome([], [], []), SLICE
        for message in messages:
            left -= self._go_on(self._begin(message, outcome), outcome, left)
            if left <= 0:
                self._weigh_begun()
                break
        return self._finished(outcome)

    def go_on(self) -> Outcome:
        """Take a slice of a message that was begun, if there is one; several take turns."""
        outcome = Outcome([], [], [])
        if self._begun:
            self._go_on(self._begun.popleft(), outcome, SLICE)
            self._weigh_begun()
        return self._finished(outcome)

    @property
    def busy(self) -> bool:
        """Tell whether a message was begun and is not done."""
        return bool(self._begun)

    def line_of(self, topic: str) -> str:
        """Return what has its messages taken in order: a stream, or a node of Sparkplug; empty where there is none."""
        route = self._router.find(topic)
        return "" if route is None else route.line

    def must_wait(self, message: InboundMessage) -> bool:
        """Tell whether a message can't be taken yet: one of its line was begun, or those that were take much memory.

        Pictures never wait.
        """
        route = self._router.find(message.topic) if self._begun else None
        if route is None or not isinstance(route.settings, SensorSettings):
            return False
        if route.line in self._lines:
            return True
        small = len(message.payload) < LARGE_BYTES and route.settings.compression is Compression.NONE
        return not small and self._begun_bytes > waiting_bytes(self._configuration.agent)

    def _begin(self, message: InboundMessage, outcome: Outcome) -> Begun:
        begun = Begun(message, outcome)
        begun.work = self._work(begun)
        return begun

    def _go_on(self, begun: Begun, outcome: Outcome, most: int | None = None) -> int:
        """Go on with a message, to its end or until that has cost `most`; return what it has cost."""
        begun.outcome, spent = outcome, 0
        for cost in begun.work:
            spent += cost
            if most is not None and spent >= most:
                self._begun.append(begun)
                return spent
        outcome.done.append(begun.message)
        return spent

    def _finished(self, outcome: Outcome) -> Outcome:
        """Make the decisions that are still due, and return what all of it led to."""
        self._flush(outcome)
        outcome.nodes, self._nodes.changed = self._nodes.changed, {}
        return outcome

    def _weigh_begun(self) -> None:
        """Know which lines wait for what was begun, and how much memory that takes."""
        self._lines = {one.line for one in self._begun}
        self._begun_bytes = sum(one.bytes for one in self._begun)

    def _begin_anew(self) -> None:
        """Begin messages anew whose stream is another one now; what has a time of its own does not count twice."""
        for begun in self._begun:
            if begun.stream is None or self.streams.get(begun.stream.name) is not begun.stream:
                begun.work.close()
                begun.message = msgspec.structs.replace(begun.message, again=True)
                begun.line = self.line_of(begun.message.topic)
                begun.work = self._work(begun)
        self._weigh_begun()

    def _work(self, begun: Begun) -> Generator[int]:
        """Take a message; between its readings, yield what the last one has cost. The stream may change meanwhile."""
        message = begun.message
        try:
            route = self._router.find(message.topic)
            if route is None:
                return
            begun.line = route.line
            if is_sparkplug(route.settings) and begun.readings is None and not message.superseded:
                readings = self._readings(message, route)
                begun.readings = iter(readings)
                yield begun.weigh(readings)
            begun.stream = stream = self._stream(route)
            if message.retained and not stream.own_time:
                raise PayloadRejected(RejectReason.RETAINED)  # noqa: TRY301  one place counts all rejections
            if message.superseded:
                pass  # its stream was heard
            elif isinstance(stream, SensorStream):
                yield from self._sample_by_sample(begun, stream, route)
            elif isinstance(stream, PictureStream):
                self._see(stream, message, begun.outcome)
            self._heard(stream, message.received_at, message.elapsed_s, begun.outcome)
        except PayloadRejected as rejection:
            self._observer.rejected(message.topic, rejection.reason.value)

    def _sample_by_sample(self, begun: Begun, stream: SensorStream, route: Route) -> Iterator[int]:
        """Take what a message tells of a stream; yield between samples, and within what takes long. May raise."""
        message = begun.message
        samples: Iterable[Sample]
        if is_sparkplug(route.settings):
            assert begun.readings is not None
            samples, cost = map(stream.report, begun.readings), 0
        else:
            samples = stream.take(message, route.channel)
            cost = begun.weigh(samples) if len(samples) > 1 else 0
        before = due = None
        for sample in samples:
            if cost or before is not None:
                yield cost if before is None else cost_of(before, due)
            due = self._sample(stream, sample, message.received_at, begun.outcome, again=message.again)
            if isinstance(due, WarmUp):
                yield from self._warm_up(stream, due)
            before = sample

    def _readings(self, message: InboundMessage, route: Route) -> list[Reading]:
        """Return what a message of Sparkplug reports. Raises PayloadRejected."""
        if message.retained:
            raise PayloadRejected(RejectReason.RETAINED)
        settings = cast("SensorSettings", route.settings)
        limit = self._configuration.agent.max_payload_bytes
        found = self._nodes.read(message.topic, message.payload, message.received_at, limit, settings.compression)
        if found.is_behind_gap:
            self._observer.rejected(message.topic, RejectReason.SEQUENCE_GAP.value)
        return found.readings

    def _sees_all(self, topic: str) -> bool:
        return self._router.sees_all(topic)

    def process_sample(self, stream: SensorStream, sample: Sample) -> Outcome:
        """Take one sample that needs no decoding."""
        outcome = Outcome([], [], [])
        due = self._sample(stream, sample, sample.at, outcome)
        if isinstance(due, WarmUp):
            for _ in self._warm_up(stream, due):
                pass
        self._flush(outcome)
        return outcome

    def tick(
        self, now: float, elapsed_s: float, connected_since_s: float | None, waiting: Collection[str] = ()
    ) -> Outcome:
        """Look for silent streams. `connected_since_s` is None while the broker is away: silence is not counted.

        Nor is it for a stream from which a message was begun, or is `waiting`: lines of those.
        """
        outcome = Outcome([], [], [])
        self.room.turn()
        if connected_since_s is None or self.priming:
            return outcome
        heard = self._lines.union(waiting)
        for stream in self.streams.values():
            after = stream.settings.silence.after_s
            if after is None or stream.heard_elapsed_s is None:
                continue
            if heard and line_of(stream.name, stream.topic, stream.settings) in heard:
                continue
            machine = stream.alerts[AlertKind.SILENT]
            quiet_s = elapsed_s - max(stream.heard_elapsed_s, connected_since_s)
            if quiet_s >= after and machine.state is AlertState.INACTIVE and machine.may_begin(now):
                at = stream.heard_at + after
                transition = machine.observe(now if machine.is_quiet(at) else at, odd=True)
                if transition is not None:
                    found = silence(stream.heard_at, transition.at)
                    self._publish(stream, transition, now, outcome, found)
        return outcome

    def shift(self, step_s: float, before: float) -> Outcome:
        """Know that the wall clock was set by so much from `before` (s since the epoch)."""
        shifted = [stream for stream in self.streams.values() if stream.shift(step_s, before)]
        return Outcome([alert_row(stream, machine) for stream in shifted for machine in stream.alerts.values()], [], [])

    def resume(self, topics: Iterable[str], now: float, elapsed_s: float) -> None:
        """Take up the streams of an earlier run before any of them speaks: one that never does has fallen silent."""
        for topic in topics:
            try:
                stream = self.stream_of(topic)
            except PayloadRejected as rejection:
                self._observer.rejected(topic, rejection.reason.value)
                continue
            if stream is not None:
                stream.heard_elapsed_s, stream.heard_at = elapsed_s, now
        self._share_budget()

    @property
    def streams_max(self) -> int:
        """Return how many streams there may be: `max_streams`, or as many like those there are as memory allows."""
        return self.room.streams_max(self._configuration.agent)

    def stream_of(self, topic: str) -> Stream | None:
        """Return the stream of a concrete topic, made at its first message; None if there is none for it."""
        route = self._router.find(topic)
        return None if route is None else self._stream(route)

    def _stream(self, route: Route) -> Stream:
        """Return the stream that a route leads to. Raises PayloadRejected where there is no room for it."""
        found = self.streams.get(route.name)
        if found is not None:
            return found
        if len(route.topic.encode()) > MAX_TOPIC_BYTES:
            raise PayloadRejected(RejectReason.TOO_LARGE)
        if route.topic in self._refused:
            raise PayloadRejected(RejectReason.TOO_MANY_STREAMS)
        self.room.settle()
        if len(self.streams) >= self.streams_max:
            if len(self._refused) < self._configuration.agent.max_streams:
                self._refused.add(route.topic)
            raise PayloadRejected(RejectReason.TOO_MANY_STREAMS)
        stream = self.make(route.name, route.topic, route.settings)
        if self.restore is not None:
            self.restore(stream)
        self.streams[stream.name] = stream
        self.room.enter(stream)
        self._shared = False
        return stream

    def make_room(self, now: float) -> Reconfigured:
        """Let streams go that came last and still learn, while all of them take more memory than there is.

        How many channels a stream has is told by its messages, after it was let in. One stream always stays.
        """
        done = Reconfigured(Outcome([], [], []), {}, [])
        agent = self._configuration.agent
        if self.room.left(agent) >= 0:
            return done
        for stream in reversed(list(self.streams.values())):
            if self.room.left(agent) >= 0 or len(self.streams) == 1:
                break
            if stream.learnt:
                continue
            self._end_kinds(stream, list(stream.alerts), Ending.REMOVED, now, done.outcome)
            done.removed.append(self.streams.pop(stream.name))
            self.room.leave(stream)
            self._refused.add(stream.topic)
            self._observer.rejected(stream.topic, RejectReason.TOO_MANY_STREAMS.value)
        self._begin_anew()
        return done

    def _share_budget(self) -> None:
        """Spread the agent's budget evenly over the streams there are; those with a budget of their own keep it."""
        self._shared = True
        whole = self._configuration.agent.false_alarms
        if whole is None or not self.streams:
            return
        each = share(whole, len(self.streams))
        for stream in self.streams.values():
            if stream.settings.alert.false_alarms is None:
                stream.take_share(each)

    def reconfigure(
        self, configuration: Configuration, encoders: Mapping[str, Encoder | PictureEncoder], now: float
    ) -> Reconfigured:
        """Go on under another configuration of the same agent, between two batches.

        Streams whose settings are the same are not touched. Others are made anew, and take up what they had learnt as
        they would after a restart. Alerts end where that is not possible, and where a stream is no longer configured.
        """
        done = Reconfigured(Outcome([], [], []), {}, [])
        before, self._configuration, self.encoders = self._configuration, configuration, encoders
        self._router = Router(configuration)
        limits = before.agent.max_payload_bytes, configuration.agent.max_payload_bytes
        for old in list(self.streams.values()):
            route = self._router.find(old.topic)
            if route is None or route.name != old.name:
                self._end_kinds(old, list(old.alerts), Ending.REMOVED, now, done.outcome)
                done.removed.append(self.streams.pop(old.name))
                continue
            stream, fate = old, Fate.UNCHANGED
            if route.settings != old.settings or limits[0] != limits[1]:
                stream, fate = self._renewed(old, route.settings, now, done.outcome)
            self.streams[old.name], done.fates[old.name] = stream, fate
        self._refused = set()
        self._begin_anew()
        self.carry_over.look()
        self._forget_banks()
        if before.agent.false_alarms is not None:
            for stream in self.streams.values():
                stream.take_share(None)
        self._share_budget()
        self.room.reset()
        return done

    def change_encoder(self, name: str, encoder: Encoder | PictureEncoder) -> int:
        """Have the streams that name an encoder carried over to another version; return how many those are."""
        self.encoders = {**self.encoders, name: encoder}
        self.carry_over.look()
        return self.carry_over.left

    def advance(self) -> tuple[list[Stream], bool]:
        """Go on with carrying streams over, between two batches; return which were switched, and whether to go on."""
        switched, busy = self.carry_over.advance(self._configuration.agent)
        if switched:
            self._forget_banks()
        return switched, busy

    def use(self, stream: Stream, encoder: Encoder | PictureEncoder) -> None:
        """Let a stream that has learnt nothing yet begin with another version of its encoder: that of its snapshot."""
        if isinstance(stream, PictureStream):
            stream.use(cast("PictureEncoder", encoder))
        elif isinstance(stream, SensorStream):
            windows = cast("Encoder", encoder)
            stream.use(windows, self._bank(stream.settings, windows))
        self.carry_over.add(stream)

    def _forget_banks(self) -> None:
        """Let the banks go that no stream uses any more."""
        sensors = [stream for stream in self.streams.values() if isinstance(stream, SensorStream)]
        used = {id(stream.bank) for stream in sensors} | self.carry_over.banks
        used |= {id(one.heir.bank) for one in sensors if one.heir is not None}
        self._banks = {key: bank for key, bank in self._banks.items() if id(bank) in used}

    def _renewed(self, old: Stream, settings: StreamSettings, now: float, outcome: Outcome) -> tuple[Stream, Fate]:
        """Return the stream that takes the place of one whose settings were others, and whether it learns anew."""
        stream = self.make(old.name, old.topic, settings)
        if type(stream) is type(old) and old.encoder is not None:
            if settings.encoder_name == old.settings.encoder_name:
                self.use(stream, old.encoder)  # it is carried over later, if that is an earlier version
            if isinstance(old, SensorStream):
                old.disown()
        if isinstance(old, SensorStream):
            stream.prepare(old.signature, old.detector.snapshot())
        kept = stream.signature == old.signature
        if not kept:
            kinds = [kind for kind in old.alerts if kind is not AlertKind.SILENT]
            self._end_kinds(old, kinds, Ending.RELEARNT, now, outcome)
        stream.follow(old, kept=kept)
        old.begin_anew()  # what it had learnt is let go
        return stream, Fate.CHANGED if kept else Fate.ANEW

    def make(self, name: str, topic: str, settings: StreamSettings) -> Stream:
        """Return a new stream, which is not watched yet."""
        encoder = self.encoders.get(settings.encoder_name)
        agent = self._configuration.agent
        stream: Stream
        if isinstance(settings, ImageSettings):
            pictures = cast("PictureEncoder", encoder)
            limit, work = agent.max_payload_bytes, self._workspace
            stream = PictureStream(name, topic, settings, pictures, agent.id, limit, work)
        else:
            windows = cast("Encoder | None", encoder)
            bank = self._bank(settings, windows)
            stream = SensorStream(name, topic, settings, windows, bank, agent.id, agent.max_payload_bytes)
        return stream

    def _bank(self, settings: SensorSettings, encoder: Encoder | None) -> DetectorBank:
        """Return the bank of all streams with equal settings."""
        wanted = settings.detector()
        version = "" if encoder is None else msgspec.json.encode(version_of(encoder)).decode()
        key = (f"{settings.encoder_name} {version}", msgspec.json.encode(wanted))
        if key not in self._banks:
            views = (
                views_for(encoder.length, encoder.dim, encoder.output_step, encoder.output_offset)
                if encoder
                else views_for(0, 0, 1.0, 0)
            )
            self._banks[key] = DetectorBank(wanted, views, self._workspace)
        return self._banks[key]

    def _heard(self, stream: Stream, at: float, elapsed_s: float, outcome: Outcome) -> None:
        machine = stream.alerts[AlertKind.SILENT]
        if machine.state is AlertState.FIRING:
            self._flush(outcome)  # what was decided before is told before
            transition = machine.observe(at, odd=False)
            if transition is not None:
                self._publish(stream, transition, at, outcome, silence(stream.heard_at, at))
        stream.hear(at, elapsed_s)

    def _sample(
        self, stream: SensorStream, sample: Sample, received_at: float, outcome: Outcome, *, again: bool = False
    ) -> Due | WarmUp | None:
        """Take a sample; return what was due with it. Of a warm-up nothing was done yet."""
        arrival, due = stream.detector.push(sample, again=again)
        if self.tap is not None:
            self.tap.sampled(stream, sample, arrival)
        reason = _DROPPED.get(arrival)
        if reason is not None:
            self._observer.rejected(stream.topic, reason.value)
        if stream.pending_row is not None and stream.detector.grid.total_rows - stream.pending_row > _PENDING_ROWS:
            self._flush(outcome)
        if due is None:
            return None
        if isinstance(due, WarmUp):
            self._flush(outcome)
            return due
        shadow = None if stream.heir is None else stream.heir.detector.echo(due)
        self._pending.append((stream, due, shadow, received_at))
        if stream.pending_row is None:
            stream.pending_row = due.row
        self._pending_lanes += len(due.run)
        if len(self._pending) >= MAX_PENDING or self._pending_lanes >= MAX_PENDING_LANES:
            self._flush(outcome)
        return due

    def _warm_up(self, stream: SensorStream, warm_up: WarmUp) -> Iterator[int]:
        """Embed a warm-up and let its stream become active; yield before each part what the last one has cost.

        If what the stream has learnt is given up meanwhile, or another encoder is to learn it, nothing comes of it.
        """
        with closing(stream.bank.warm_up(warm_up)) as parts:
            yield SLICE
            while stream.detector is warm_up.detector and not stream.learnt:
                part = next(parts, None)
                if part is None:
                    return
                if part.view.encoded:
                    assert stream.encoder is not None
                    part.embedding = self._observer.timed_encode(stream.encoder, part.windows)
                else:
                    part.embedding = plain(part.windows)
                yield cost_of_part(len(part.windows))

    def _flush(self, outcome: Outcome) -> None:
        """Make the decisions that are due, those of streams with equal settings at once; outcomes keep their order."""
        if not self._shared:  # once for many new streams
            self._share_budget()
        if not self._pending:
            return
        pending, self._pending, self._pending_lanes = self._pending, [], 0
        dues: dict[int, list[Due]] = {}
        banks: dict[int, tuple[DetectorBank, Encoder | None]] = {}
        for stream, due, shadow, _ in pending:
            stream.pending_row = None
            dues.setdefault(id(stream.bank), []).append(due)
            banks[id(stream.bank)] = stream.bank, stream.encoder
            if shadow is not None and stream.heir is not None:
                dues.setdefault(id(stream.heir.bank), []).append(shadow)
                banks[id(stream.heir.bank)] = stream.heir.bank, stream.heir.encoder
        batches = {key: banks[key][0].batch(those) for key, those in dues.items()}
        self._embed([(banks[key][1], batch) for key, batch in batches.items()])
        steps = {key: banks[key][0].step(batch) for key, batch in batches.items()}
        for stream, due, shadow, received_at in pending:
            self._decide(stream, due, self._observer.timed_step(steps[id(stream.bank)]), received_at, outcome)
            if shadow is not None and stream.heir is not None:
                follow(stream, shadow, next(steps[id(stream.heir.bank)]))

    def _embed(self, batches: list[tuple[Encoder | None, Batch]]) -> None:
        """Embed the windows of all batches, with one call for each encoder."""
        waiting: dict[int, list[tuple[Batch, int]]] = {}
        encoders: dict[int, Encoder] = {}
        for encoder, batch in batches:
            for view, embedding in enumerate(batch.embeddings):
                if embedding is None and encoder is not None:
                    waiting.setdefault(id(encoder), []).append((batch, view))
                    encoders[id(encoder)] = encoder
        for key, wanted in waiting.items():
            windows = np.concatenate([batch.windows[view] for batch, view in wanted])
            embedded = self._observer.timed_encode(encoders[key], windows)
            start = 0
            for batch, view in wanted:
                stop = start + len(batch.windows[view])
                batch.embeddings[view] = embedded[start:stop]
                start = stop

    def _decide(
        self, stream: SensorStream, due: Due, assessment: Assessment, received_at: float, outcome: Outcome
    ) -> None:
        detector, machine = stream.detector, stream.alerts[AlertKind.ANOMALY]
        stream.assessment = assessment
        if due.turns != stream.turns:
            stream.turns = due.turns
            machine.rewind(due.at)
            stream.alerts[AlertKind.FROZEN].rewind(due.at)
        threshold = detector.budget.threshold
        before = machine.progress
        channels, parts = detector.grid.channels, assessment.part_scores
        transition = judge(
            detector.budget,
            machine,
            due.at,
            assessment.score,
            lambda: channels[int(np.argmax(parts))],
            may_begin=machine.may_begin(received_at),
            priming=self.priming,
        )
        if transition is None and machine.progress != before:  # after a kill it goes on from here, under one id
            outcome.alerts.append(alert_row(stream, machine))
        if machine.state is AlertState.INACTIVE:
            detector.quarantine.release()
        else:
            stream.bank.quarantine(due, machine.current_id, firing=machine.state is AlertState.FIRING)
        outcome.decided.append(Decided(stream.name, assessment, machine.state))
        self._observer.decided(stream.name, assessment, received_at)
        if self.tap is not None:
            self.tap.decided(stream, due, assessment, threshold)
        if transition is not None:
            channel = int(np.argmax(assessment.part_scores))
            nearest = stream.bank.nearest(due, channel)
            since, _ = stream.bank.unlike_since(due, assessment, channel, transition.started_at)
            found = evidence(due, assessment, nearest, since)
            self._publish(stream, transition, received_at, outcome, found, assessment.score, threshold)
        self._decide_frozen(stream, due, assessment, received_at, outcome)

    def _see(self, stream: PictureStream, message: InboundMessage, outcome: Outcome) -> None:
        """Take a picture: is it one at all, and is it like those before."""
        now = message.received_at
        if stream.too_soon(now):
            self._observer.dropped()
            return
        frames, turned = stream.take(message.payload, now)
        at = frames[0].at
        if turned:
            for machine in stream.alerts.values():
                machine.rewind(at)
        faults = stream.check(frames)
        for kind in FAULTS.values():
            self._judge_fault(stream, kind, faults.get(kind), at, now, outcome)
        found, threshold = None, 0.0
        if not faults:
            outputs = self._observer.timed_run(stream.encoder, stream.sight.prepare(frames))
            found = stream.look(frames, outputs)
            threshold = stream.budget.threshold
            if found is not None:
                self._decide_picture(stream, found, now, outcome)
            stream.show(message, frames, found)
        if self.tap is not None:
            self.tap.pictured(stream, frames, found, threshold)

    def _judge_fault(
        self, stream: PictureStream, kind: AlertKind, score: float | None, at: float, now: float, outcome: Outcome
    ) -> None:
        """Begin or end the alert of pictures that show nothing."""
        machine = stream.alerts[kind]
        firing = machine.state is AlertState.FIRING
        odd = score is not None and (firing or machine.may_begin(now))
        if at <= machine.last_at or odd == firing or self.priming:
            return
        transition = machine.observe(at, odd=odd)
        if transition is not None:
            self._publish(stream, transition, now, outcome, picture_fault(transition.started_at, at))

    def _decide_picture(self, stream: PictureStream, found: Looked, now: float, outcome: Outcome) -> None:
        machine = stream.alerts[AlertKind.ANOMALY]
        budget = stream.budget
        threshold, before = budget.threshold, machine.progress
        names = stream.sight.decoder.tiles
        tile = int(found.part_scores.sum(axis=(1, 2)).argmax())
        transition = judge(
            budget,
            machine,
            found.at,
            found.score,
            lambda: names[tile],
            may_begin=machine.may_begin(now),
            priming=self.priming,
        )
        if transition is None and machine.progress != before:
            outcome.alerts.append(alert_row(stream, machine))
        if machine.state is AlertState.INACTIVE:
            stream.release()
        else:
            stream.sight.keep(machine.current_id, firing=machine.state is AlertState.FIRING)
        outcome.decided.append(Decided(stream.name, found, machine.state))
        self._observer.decided(stream.name, found, now)
        if transition is not None:
            since = stream.unlike_since(found, transition.started_at)
            told = picture_evidence(found, names, stream.sight.nearest(tile), since, transition.started_at)
            self._publish(stream, transition, now, outcome, told, found.score, threshold)
            if transition.event is not AlertEvent.CLEARED:
                self.draw(stream, outcome)
        stream.remember(found)

    @staticmethod
    def draw(stream: PictureStream, outcome: Outcome) -> bool:
        """Draw where the newest picture is odd; tell whether there is one."""
        drawn = stream.sight.heat()
        if drawn is None:
            return False
        stream.heatmap = heatmap_png(*drawn)
        outcome.heatmaps.append(Heatmap(stream.name, stream.heatmap))
        return True

    def _decide_frozen(
        self, stream: SensorStream, due: Due, assessment: Assessment, received_at: float, outcome: Outcome
    ) -> None:
        """Begin or end the alert of values that no longer change."""
        machine, score = stream.alerts[AlertKind.FROZEN], assessment.frozen_score
        firing = machine.state is AlertState.FIRING
        threshold = stream.detector.budget.frozen_threshold
        odd = score >= threshold and (firing or machine.may_begin(received_at))
        if due.at <= machine.last_at or odd == firing or self.priming:
            return
        transition = machine.observe(due.at, odd=odd)
        if transition is not None:
            channel = int(np.argmax(assessment.frozen_scores))
            found = frozen(due, assessment, stream.bank.frozen_since(due, channel))
            self._publish(stream, transition, received_at, outcome, found, score, threshold)

    def _publish(
        self,
        stream: Stream,
        transition: AlertTransition,
        now: float,
        outcome: Outcome,
        found: dict[str, Any] | None,
        score: float | None = None,
        threshold: float = 0.0,
    ) -> None:
        settings = stream.settings.alert
        payload = encode(
            transition,
            agent=self._configuration.agent.id,
            stream=stream.name,
            topic=stream.topic,
            severity=settings.severity,
            budget=stream.budget.budget.text,
            late=now - transition.at > LATE_S,
            threshold=threshold,
            score=score,
            found=found,
            encoder=stream.encoder_tag,
        )
        outcome.outbox.append(OutboxRow(self._topics.alert(stream.name), payload, now))
        outcome.alerts.append(alert_row(stream, stream.alerts[transition.kind]))
        self._observer.transitioned(stream.name, transition)

    def end_alerts(self, stream: Stream, ending: Ending, now: float, outcome: Outcome) -> None:
        """End the stream's anomaly alert, whether it is pending or fires, because the operator said so."""
        self._end_kinds(stream, [AlertKind.ANOMALY], ending, now, outcome)

    def _end_kinds(
        self, stream: Stream, kinds: Iterable[AlertKind], ending: Ending, now: float, outcome: Outcome
    ) -> None:
        stream.release()
        for kind in kinds:
            machine = stream.alerts[kind]
            transition = machine.end(ending)
            outcome.alerts.append(alert_row(stream, machine))
            if transition is not None:
                found = stream.assessment if kind is AlertKind.ANOMALY else None
                score = None if found is None else found.score
                self._publish(stream, transition, now, outcome, None, score, stream.budget.threshold)


def judge(
    budget: BudgetControl,
    machine: AlertMachine,
    at: float,
    score: float,
    leading: Callable[[], str] = str,
    *,
    may_begin: bool = True,
    priming: bool = False,
) -> AlertTransition | None:
    """Let one decision's score drive the alert, and the alert the budget; return what is to be published.

    `leading` names the channel that an odd decision is about; `may_begin` is false while alerts are snoozed. With
    `priming` all is known to be normal.
    """
    if priming:
        budget.learn(at, score)
        return None
    transition = None
    if at > machine.last_at or machine.state is AlertState.INACTIVE:
        firing = machine.state is AlertState.FIRING
        odd = budget.odd(score, firing=firing) and (firing or may_begin)
        transition = machine.observe(at, odd=odd, leading=leading() if odd else "")
    raised = transition is not None and transition.event is AlertEvent.RAISED
    budget.decide(at, score, raised=raised, alert=machine.id)
    return transition
