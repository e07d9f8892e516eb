"""ASSEMBLY: builds every object from the configuration, runs them and stops them."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from contextlib import closing
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.adapters.http import HttpServer, Pages
from agent.adapters.mqtt import Command, Hearing, MqttClient, MqttEvents, Token, Topics
from agent.adapters.payload import RejectReason
from agent.adapters.store import MAX_OUTBOX, Store
from agent.adapters.systemd import memory_max, notify, watchdog_interval_s
from agent.adapters.telemetry import Telemetry
from agent.adapters.tflite import load_encoder, load_picture_encoder
from agent.alert_message import mark_clock, mark_late
from agent.bundle import find_bundle
from agent.clock import Clock, last_written
from agent.commands import MAX_COMMAND_BYTES, Commander
from agent.config import Configuration, ImageSettings, default_agent_id, load_configuration
from agent.core.types import StreamPhase
from agent.disk import Disk
from agent.encoder_keeper import EncoderKeeper
from agent.encoder_loading import Choices, NewChoices, load_best, named_encoders
from agent.errors import ConfigurationError, Problem
from agent.inbox import Backlog, Inbox
from agent.picture_sight import PictureSight
from agent.picture_stream import PictureStream
from agent.pipeline import Outcome, Pipeline
from agent.publications import Publications, announcements_of
from agent.reconfiguration import Fate, entry_changes
from agent.reload import Prepared, Reloader, fixed_problems
from agent.routing import pattern_of
from agent.saving import Saver, save, save_all, tidy_pictures
from agent.status import BrokerStatus, ConfigurationStatus, Question, Status, counted, stream_statuses
from agent.stream import SensorStream
from agent.troubles import Trouble, Troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agent.bundle import Bundle
    from agent.encoder_watch import NewVersion
    from agent.errors import RefusedError
    from agent.ports import Encoder, InboundMessage, PictureEncoder
    from agent.stream import Stream

logger = logging.getLogger(__name__)

BATCH: Final = 512
_TURN_S: Final = 0.25
_LATE_S: Final = 10.0  # an alert sent this long after it was made is marked late
_ASLEEP_S: Final = 5.0  # between two turns of the worker: it, or all of the agent, was held up, and heard nothing
_STUCK_S: Final = 30.0  # a worker that has not moved for so long is not healthy
OUTDATED: Final = "of another encoder, runtime or setting"
_VERSION: Final = version("redshank")
_LOOK_S: Final = 0.5  # between two looks of the main thread
_TELL_S: Final = 5.0  # between two lines for systemctl status, where there is no watchdog
_CARRY_OVER_S: Final = 0.05  # of each turn, for streams that are carried over to another version of their encoder
_TRIAL_BYTES: Final = 90_000_000  # about: of an encoder that ships, in a process of its own
_FINISH_S: Final = 5.0  # at the end, for messages that were begun: what is not done then is sent again
_ANSWER_S: Final = 3.0  # that who asks for the status waits for the worker


def with_defaults(configuration: Configuration) -> Configuration:
    """Return the configuration with the agent's id filled in."""
    agent = configuration.agent
    named = msgspec.structs.replace(agent, id=agent.id or default_agent_id())
    return msgspec.structs.replace(configuration, agent=named)


def load_encoders(
    configuration: Configuration,
    store: Choices | None = None,
    *,
    loaded: Mapping[str, Encoder | PictureEncoder] | None = None,
    find: Callable[[str], Bundle] | None = None,
) -> dict[str, Encoder | PictureEncoder]:
    """Return every encoder that the streams name; `loaded` are there already. `find`: not simply that of the name.

    Raises BundleError, and ConfigurationError if no picture could be looked at: all is ignored, or Pillow is missing.

    Which variant on which runtime is fastest is measured once and kept in `store`: snapshots are of the pair they were
    made with. What `redshank encoders --write` left in that directory takes the place of that, as long as it holds.
    """
    found: dict[str, Encoder | PictureEncoder] = dict(loaded or {})
    find = find or (lambda name: find_bundle(name, configuration.encoders.trusted_keys))
    for name, of_pictures in sorted(named_encoders(configuration)):
        if name in found:
            continue
        bundle = find(name)
        found[name] = (
            load_best(bundle, load_picture_encoder, store) if of_pictures else load_best(bundle, load_encoder, store)
        )
    for one in configuration.streams:
        if isinstance(one, ImageSettings):
            encoder = cast("PictureEncoder", found[one.encoder])
            PictureSight(one, encoder, configuration.agent.max_payload_bytes)  # tried before there is a picture
    return found


def make_restore(store: Store, use_former: Callable[[Stream, object], bool] | None = None) -> Callable[[Stream], None]:
    """Return how a stream goes on: with the exact states of its alerts, and from its snapshot and what was added to it.

    The snapshot is found by name; it must have been made with the same encoder, runtime and settings. `use_former` lets
    a stream begin with the earlier version of its encoder that a signature tells of, if there is one.
    """
    alerts = {(row.stream, row.kind): row.state for row in store.alerts()}

    def restore(stream: Stream) -> None:
        for kind, machine in stream.alerts.items():
            state = alerts.get((stream.name, kind.value))
            if state is not None:
                before = machine.snapshot()
                if not _taken(lambda: machine.restore(state), stream.name, f"the state of its alert {kind}"):  # noqa: B023  called at once
                    machine.restore(before)
        saved = store.load(stream.name)
        if saved is None:
            return
        signature = saved.get("signature")
        stream.prepare(signature, saved.get("detector"))
        if signature != stream.signature and not (use_former is not None and use_former(stream, signature)):
            store.set_aside(stream.name, OUTDATED)
            return
        additions = store.additions(stream.name)
        first = next(additions, None)
        taken = first is not None and _taken(
            lambda: stream.restore(saved["detector"], chain([first], additions)), stream.name, "its journal"
        )
        if first is not None and not taken:
            stream.begin_anew()
            stream.prepare(signature, saved["detector"])
        if not taken and not _taken(lambda: stream.restore(saved["detector"], []), stream.name, "its snapshot"):
            stream.begin_anew()
            store.set_aside(stream.name, "of another content than its checksum promises")
        elif isinstance(stream, PictureStream):
            stream.kept.restore(store.load_pictures(stream.name) if stream.kept.wanted else [])

    return restore


def _taken(take: Callable[[], None], stream: str, what: str) -> bool:
    """Let something be taken up from disk; tell whether that was possible: a file may hold anything."""
    try:
        take()
    except Exception as error:  # noqa: BLE001  as said: whatever code stumbles over
        logger.warning("stream %s cannot go on from %s (%s: %s)", stream, what, type(error).__name__, error)
        return False
    return True


def subscriptions_of(configuration: Configuration) -> list[tuple[str, int]]:
    """Return filter and QoS of each entry."""
    return [(pattern_of(stream).filter, stream.qos) for stream in configuration.streams]


def connection_of(configuration: Configuration) -> tuple[object, ...]:
    """Return all that a connection is made with: where it differs, a new one is made."""
    return configuration.broker, configuration.commands.enabled, configuration.homeassistant


class Agent(MqttEvents):
    """The daemon: a network thread that enqueues, and one worker that does the rest."""

    def __init__(self, configuration: Configuration, file: Path | None = None) -> None:
        self.configuration = configuration = with_defaults(configuration)
        self.file = file
        agent = configuration.agent
        self.telemetry = Telemetry(agent.max_streams, agent.memory_limit_bytes, [one.value for one in RejectReason])
        self.clock = Clock(last_written(Path(agent.state_dir)))
        self.store = Store(Path(agent.state_dir), patient=True)
        self.disk = Disk(self.store, self.telemetry)
        self.inbox = Inbox(configuration, self.telemetry)
        self._arrived = self.inbox.arrived
        choices = NewChoices(self.store)
        self.encoders = EncoderKeeper(
            lambda: self.configuration, self.store, self.disk, self.telemetry, self._arrived.set, self._models_of
        )
        try:
            encoders = load_encoders(configuration, choices, find=self.encoders.find)
        except BaseException:
            self.store.close()
            raise
        self.disk.write(lambda: self._choose(choices.made))
        self.topics = Topics(agent.topic_prefix, agent.id)
        restore = make_restore(self.store, self._use_former)
        nodes = self.store.nodes()
        self.pipeline = Pipeline(configuration, encoders, self.topics, self.telemetry, restore=restore, nodes=nodes)
        self.telemetry.watch(lambda: list(self.pipeline.streams.values()))
        self.pipeline.resume(self.store.topics(), time(), monotonic())
        self.encoders.keep_found()
        self.commander = Commander(self.pipeline, self.topics, configuration.commands, self.telemetry)
        self.refused: RefusedError | None = None
        self.backlog = Backlog(self.inbox, self.telemetry)
        self.troubles = Troubles(self.telemetry)
        self._owed = Outcome([], [], [])  # what the disk has yet to take, and the messages that led to it
        self._processed: list[InboundMessage] = []
        self._stopping = threading.Event()
        self._delivered: deque[int] = deque()
        self._handed = self._told_dropped = 0
        self._said_stuck = False
        self._ever_connected = False
        self._connected_since: float | None = None
        self.saver = Saver(self.store, self.disk, self.pipeline, self.telemetry)
        self.moved_at = self._started_at = self._awake_since = monotonic()
        self._held = self.store.subscriptions()
        try:
            self.mqtt = self._client(configuration, self._held, patient=False)
        except BaseException:
            self.store.close()
            raise
        self.publications = Publications(
            configuration,
            self.topics,
            self.pipeline.streams,
            self.mqtt,
            self.store,
            self.telemetry,
            announcements_of(configuration, self.topics),
            self.disk.write,
            lambda: self.troubles.names,
        )
        self.telemetry.worker_idle.set_function(lambda: monotonic() - self.moved_at)
        self.reloader = Reloader(self._prepare, self._arrived.set, self.telemetry)
        self._question = Question(self._arrived.set)
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self.http: HttpServer | None = None

    def _client(self, configuration: Configuration, held: Mapping[str, int], *, patient: bool) -> MqttClient:
        """Return a client that is not started. Raises ConfigurationError."""
        announcements = announcements_of(configuration, self.topics)
        return MqttClient(
            configuration.broker,
            agent_id=configuration.agent.id,
            subscriptions=subscriptions_of(configuration),
            events=self,
            topic_prefix=configuration.agent.topic_prefix,
            known_subscriptions=held,
            commands=configuration.commands.enabled,
            noticed=tuple(
                topic
                for topic in (
                    None if announcements is None else announcements.settings.status_topic,
                    configuration.broker.dropped_topic,
                )
                if topic is not None
            ),
            own_prefixes=() if announcements is None else (announcements.own_prefix,),
            patient=patient,
        )

    # Called in the network thread

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        """Enqueue; what has no room gives way."""
        self.inbox.put(messages)

    def on_command(self, command: Command) -> None:
        """Enqueue, in order with the data; of one that is too large only what shows that."""
        message = command.message
        if len(message.payload) > MAX_COMMAND_BYTES:
            message = msgspec.structs.replace(message, payload=message.payload[: MAX_COMMAND_BYTES + 1])
            command = msgspec.structs.replace(command, message=message)
        self.inbox.put_command(command)

    def on_notice(self, message: InboundMessage) -> None:
        """Announce everything again when Home Assistant starts; heed what the broker says it has dropped."""
        if message.topic == self.configuration.broker.dropped_topic:
            self.backlog.told(message.payload)
        elif message.payload == b"online" and not message.retained:
            self.publications.greet()

    def is_full(self) -> bool:
        """Tell whether the inbox is full of what may not be dropped: not every broker heeds receive maximum."""
        return self.inbox.full

    def on_connected(self, *, session_present: bool) -> None:
        """Publish retained state again: the broker may have lost it."""
        self.inbox.connected(session_present=session_present)
        if self._ever_connected:
            self.telemetry.reconnects.inc()
        self._ever_connected = True
        self.telemetry.broker_connected.set(1)
        self._connected_since = monotonic()
        self.backlog.connected()
        self.publications.renew()
        self._arrived.set()

    def on_disconnected(self, reason: str) -> None:
        """Stop counting silence."""
        del reason
        self._connected_since = None
        self.telemetry.broker_connected.set(0)

    def on_published(self, token: Token) -> None:
        """Let the worker forget what the broker has taken."""
        if isinstance(token, int):
            self._delivered.append(token)
            self._arrived.set()

    def on_publish_refused(self, token: Token, reason: str) -> None:
        """Give the message up, and say so."""
        logger.error("the broker refused alert message %s: %s", token, reason)
        self.on_published(token)

    def on_subscriptions(self, subscriptions: Mapping[str, int]) -> None:
        """Store what the session holds."""
        self._held = dict(subscriptions)
        try:
            self.store.set_subscriptions(self._held)
        except OSError as error:
            self.telemetry.state_errors.inc()
            logger.error("cannot store what the broker's session holds: %s", error)  # noqa: TRY400  a full disk is no bug

    def on_oversized(self, topic: str, size_bytes: int) -> None:
        """Count it."""
        del size_bytes
        self.telemetry.rejected(topic, "too_large")

    def on_deaf(self) -> None:
        """Count it."""
        self.telemetry.broker_deaf.inc()

    def on_refused(self, error: RefusedError) -> None:
        """End the program."""
        self.refused = error
        self._stopping.set()

    # The main thread

    def run(self) -> None:
        """Run until stopped. Raises RefusedError if the broker refuses our credentials before any connection."""
        with closing(self.store):
            settings = self.configuration.metrics
            token = "" if settings.credentials_file is None else secrets.token_urlsafe(32)
            pages = Pages(self.telemetry.registry, self.healthy, self.ready, self.status)
            self.http = HttpServer(settings, pages, token=token)
            self.store.listens(settings.listen, token)
            self._doubt_memory()
            self._worker.start()
            self.mqtt.start()
            notify("READY=1")
            watchdog_s = watchdog_interval_s()
            try:
                told = monotonic()
                while not self._stopping.wait(min(watchdog_s or _LOOK_S, _LOOK_S)):
                    self.reloader.look()
                    self.encoders.watch.look(monotonic())
                    if monotonic() - told < (watchdog_s or _TELL_S):
                        continue
                    told = monotonic()
                    self._look_at_worker()
                    notify(f"STATUS={self.summary()}")
                    if watchdog_s is not None and self.healthy():
                        notify("WATCHDOG=1")
            finally:
                notify("STOPPING=1")
                self._stopping.set()
                self._arrived.set()
                self._worker.join(30)
                self.mqtt.stop()
                self.http.stop()
                self._forget_delivered()
        if self.refused is not None:
            raise self.refused

    def _doubt_memory(self) -> None:
        """Say where the system would end us before we come to our own limit."""
        most, limit = memory_max(), self.configuration.agent.memory_limit_bytes
        if most is not None and most < limit + _TRIAL_BYTES:
            logger.warning(
                "agent.memory_limit is %d MB, and trying an encoder may take %d MB more; the system allows %d MB: "
                "raise MemoryMax with `systemctl edit redshank`, or lower the limit",
                limit // 1_000_000,
                _TRIAL_BYTES // 1_000_000,
                most // 1_000_000,
            )

    def _look_at_worker(self) -> None:
        """Say once when it stops moving, and when it moves again."""
        stuck = self.stuck()
        if stuck and not self._said_stuck:
            logger.error("the worker has not moved for %.0f s", monotonic() - self.moved_at)
            self.publications.say_stuck()
        elif self._said_stuck and not stuck:
            logger.warning("the worker moves again")
        self._said_stuck = stuck

    def stop(self) -> None:
        """Ask for the end; safe in a signal handler."""
        self._stopping.set()

    def ready(self) -> bool:
        """Tell whether the broker has accepted us, holds every subscription and, as far as is known, delivers."""
        wanted = [topic for topic, _ in subscriptions_of(self.configuration)]
        if self.configuration.commands.enabled:
            wanted.append(self.topics.command)
        hears = self.mqtt.ears.hearing is not Hearing.LOST
        return self.mqtt.connected and hears and all(topic in self._held for topic in wanted)

    def healthy(self) -> bool:
        """Tell whether the worker really moves, and connecting anew has not failed to make the broker deliver again."""
        return not self.stuck() and not self.mqtt.ears.hopeless

    def stuck(self) -> bool:
        """Tell whether the worker has not moved for long."""
        return monotonic() - self.moved_at >= _STUCK_S

    def summary(self) -> str:
        """Return one line for systemctl status."""
        streams = list(self.pipeline.streams.values())
        learning = sum(stream.phase is StreamPhase.LEARNING for stream in streams)
        broker = "connected" if self.mqtt.connected else "broker away"
        if self.mqtt.ears.hearing is Hearing.LOST:
            broker += ", but it does not deliver"
        troubles = "".join(f", trouble: {name}" for name in self.troubles.names)
        return f"{broker}, {len(streams)} streams, {learning} learning{troubles}"

    def reload(self) -> None:
        """Ask for the configuration to be read anew; safe in a signal handler."""
        self.reloader.asked = True

    def status(self) -> bytes | None:
        """Return what /status answers, None while the worker is too busy. Called in the threads of the HTTP server."""
        found = self._question.ask(_ANSWER_S)
        return None if found is None else msgspec.json.encode(found)

    # The thread of a reload

    def _prepare(self) -> Prepared:
        """Read and check the file and load its encoders. Raises RedshankError if all is to stay as it is."""
        if self.file is None:
            raise ConfigurationError([Problem("reload", "a configuration file", "none")])
        before, after = self.configuration, with_defaults(load_configuration(self.file))
        problems = fixed_problems(str(self.file), before, after)
        if problems:
            raise ConfigurationError(problems)
        choices = NewChoices(self.store)
        same = named_encoders(before) & named_encoders(after) if before.encoders == after.encoders else set()
        reused = {name: self.pipeline.encoders[name] for name, _ in same}
        bundles: dict[str, Bundle] = {}

        def find(name: str) -> Bundle:
            bundles[name] = self.encoders.find_new(name)
            return bundles[name]

        loaded = load_encoders(after, choices, loaded=reused, find=find)
        return Prepared(after, loaded, choices.made, bundles, frozenset(reused))

    # The worker

    def _use_former(self, stream: Stream, signature: object) -> bool:
        """Let a stream begin with the version of its encoder that its snapshot was made with, if that is kept."""
        encoder = self.encoders.former(stream, signature)
        if encoder is None:
            return False
        self.pipeline.use(stream, encoder)
        return True

    def _models_of(self, name: str) -> set[str]:
        """Return the digests of the models that the streams have which name an encoder: some may be behind."""
        streams = self.pipeline.streams.values()
        return {one.encoder.digest for one in streams if one.encoder and one.settings.encoder_name == name}

    def _change_encoder(self, new: NewVersion) -> None:
        """Go on with another version of an encoder: its streams are carried over one after the other."""
        self.disk.write(lambda: self._choose(new.choices))
        self.encoders.keep(new.name, new.bundle)
        count = self.pipeline.change_encoder(new.name, new.encoder)
        logger.info(
            "encoder %s: a new version passed all checks (sha256 %.12s); %d streams are carried over to it",
            new.name,
            new.encoder.digest,
            count,
        )

    def _carry_over(self) -> bool:
        """Go on with that until a message waits, or for a moment; tell whether there is more to do at once."""
        until, busy, begun = monotonic() + _CARRY_OVER_S, True, False
        while busy and monotonic() < until and not (begun and self._busy):
            begun = True
            switched, busy = self.pipeline.advance()
            for stream in switched:
                logger.info("stream %s goes on with encoder %s", stream.name, stream.encoder_tag)
            self._store_changes([stream for stream in switched if isinstance(stream, SensorStream)])
        if not self.pipeline.carry_over.left:
            self.encoders.forget_former()
        self.telemetry.streams_behind.set(self.pipeline.carry_over.left)
        return busy

    def _work(self) -> None:
        try:
            self._turns()
        except Exception:
            logger.exception("a bug in this program stopped the worker")
            self._stopping.set()

    def _turns(self) -> None:
        self.disk.write(lambda: tidy_pictures(self.store, self.pipeline))
        ticked = monotonic()
        while not self._stopping.is_set():
            now = monotonic()
            if now - self.moved_at > _ASLEEP_S:
                self._awake_since = now
            self.moved_at = now
            prepared = self.reloader.take()
            if prepared is not None:
                self._apply(prepared)
            version = self.encoders.watch.take()
            if version is not None:
                self._change_encoder(version)
            self._question.answer(self._status)
            self._commit(self.pipeline.go_on())
            self._take()
            if self._forget_delivered():
                self._send_outbox()
            if now - ticked >= 1.0 or self.publications.renewal:
                ticked = now
                self._look_at_clock()
                if self.disk.mend():
                    self._mended()
                caught_up_to, lines = self.inbox.caught_up_to(now), self.inbox.lines
                self._commit(self.pipeline.tick(time(), caught_up_to, self._listening_since(), lines))
                self._make_room()
                self._send_outbox()
                self.troubles.note(Trouble.CLIENT_ID, present=self.mqtt.contested)
                self.troubles.note(Trouble.STATE_DIRECTORY, present=self.disk.troubled)
                self.backlog.look(now)
                self._gauges(now - self.saver.saved_at)
                self.publications.publish(now, time())
            self.saver.look(self.configuration.agent.snapshot_interval_s)
            saving, carrying = self.saver.advance(), self._carry_over()
            if not saving and not carrying and not self._busy:
                self._arrived.wait(_TURN_S)
                self._arrived.clear()
        until = monotonic() + _FINISH_S
        while (self.pipeline.busy or self.inbox.lines) and monotonic() < until:
            self._commit(self.pipeline.go_on())
            self._commit(self.pipeline.take(self.inbox.take_held(BATCH, self.pipeline)))  # others wait for these
        self._save()
        self._forget_delivered()

    @property
    def _busy(self) -> bool:
        """Tell whether messages wait, or one was only begun."""
        return bool(self.inbox) or self.pipeline.busy

    def _take(self) -> None:
        """Take what waits, up to a batch, or to a slice of a message of many readings; commands in their place."""
        waiting = self.inbox.take(BATCH, self.pipeline)
        commands: deque[Command] = deque()

        def until_command() -> Iterator[InboundMessage]:
            for one in waiting:
                if isinstance(one, Command):
                    commands.append(one)
                    return
                count[0] += 1
                yield one

        while True:
            count = [0]
            self._commit(self.pipeline.take(until_command()))
            self.telemetry.messages_received.inc(count[0])
            if not commands:
                return
            self._obey(commands.popleft())

    def _listening_since(self) -> float | None:
        """Return since when the broker is connected and we are awake, None while it is away."""
        connected_since = self._connected_since
        return None if connected_since is None else max(connected_since, self._awake_since)

    def _obey(self, command: Command) -> None:
        """Carry out a command; store what it led to, answer, and acknowledge it."""
        if self.disk.mend(at_once=True):
            self._mended()  # an answer says whether what it tells of is on disk
        done = self.commander.obey(command)
        stored = self._commit(done.outcome) and self._store_changes(done.changed) and not self.store.detached
        answer = self.commander.finish(done, stored=stored)
        if answer is not None and not self.mqtt.publish(done.topic, answer, correlation_data=done.correlation_data):
            logger.warning("the answer to command %s could not be sent", done.command)
        if command.qos:
            self._commit(Outcome([], [], [], done=[command.message]))

    def _store_changes(self, changed: list[Stream] | None) -> bool:
        """Write the snapshots of these streams, None for all; tell whether that worked."""
        if changed is None:
            return self._save()

        def write() -> None:
            for stream in changed:
                save(self.store, stream)
            self.store.set_topics([stream.topic for stream in self.pipeline.streams.values()])

        stored = not changed or self.disk.write(write)
        if not stored:
            self.saver.end()  # what it has begun is older
            for stream in changed:
                stream.unsaved()
        return stored

    def _commit(self, outcome: Outcome) -> bool:
        """Store what a batch led to, then acknowledge its messages. What a full disk refuses is tried again.

        Return whether all that is owed is on disk.
        """
        if outcome.outbox and self.clock.wrong:
            rows = outcome.outbox
            outcome.outbox = [msgspec.structs.replace(row, payload=mark_clock(row.payload)) for row in rows]
        self._owed.alerts += outcome.alerts
        self._owed.outbox += outcome.outbox
        self._owed.nodes |= outcome.nodes
        self._processed += [message for message in outcome.done if message.qos]
        nothing = not (self._owed.alerts or self._owed.nodes)
        stored = nothing or self.disk.write(self._store_owed)
        if not stored:
            latest = {(row.stream, row.kind): row for row in self._owed.alerts}
            self._owed = Outcome(list(latest.values()), self._owed.outbox[-MAX_OUTBOX:], [], nodes=self._owed.nodes)
        else:
            if self._processed:
                self.mqtt.acknowledge_many(self.inbox.done(self._processed))
                self._processed = []
            if not nothing:
                committed, self._owed = self._owed, Outcome([], [], [])
                self._send_outbox()
                self.publications.told(committed, monotonic(), time())
        self.publications.decided(outcome)
        return stored

    def _store_owed(self) -> None:
        self.store.commit(self._owed.alerts, self._owed.outbox, self._owed.nodes)

    def _look_at_clock(self) -> None:
        """Go on with another time of day, if the clock was set."""
        step_s = self.clock.stepped()
        if step_s:
            direction = "forward" if step_s > 0 else "back"
            logger.warning("this machine's clock was set %s by %.0f s", direction, abs(step_s))
            self._commit(self.pipeline.shift(step_s, time() - step_s))
        self.troubles.note(Trouble.CLOCK, present=self.clock.wrong)

    def _choose(self, made: Mapping[str, str]) -> None:
        for question, answer in made.items():
            self.store.choose(question, answer)

    def _mended(self) -> None:
        """Go on with a disk that can be written again: what it held and we could not read comes to its right."""
        if self.store.unread:
            self.store.unread = False
            restore = make_restore(self.store, self._use_former)
            for stream in self.pipeline.streams.values():
                if stream.learnt:
                    self.store.set_aside(stream.name, "older than what was learnt while it could not be read")
                    continue
                restore(stream)
        self.on_subscriptions(self._held)
        self.encoders.keep_left()
        self.saver.begin()

    def _send_outbox(self) -> None:
        if not self.mqtt.connected:
            return
        for row in self.store.outbox(self._handed, 100):
            payload = mark_late(row.payload) if time() - row.created_at > _LATE_S else row.payload
            if not self.mqtt.publish(row.topic, payload, qos=1, token=row.seq):
                return
            self._handed = row.seq

    def _forget_delivered(self) -> bool:
        """Tell whether the broker has taken any, which are gone from the disk now."""
        seqs = list(self._delivered)
        if not (seqs and self.disk.write(lambda: self.store.delivered(seqs))):
            return False
        for _ in seqs:
            self._delivered.popleft()
        return True

    def _apply(self, prepared: Prepared) -> None:
        """Go on under another configuration, between two batches."""
        before, after = self.configuration, prepared.configuration
        old, new = before.broker, after.broker
        elsewhere = (old.url, old.fallback, old.client_id) != (new.url, new.fallback, new.client_id)
        held = {} if elsewhere else self._held  # nothing is known of a session elsewhere
        client = None
        try:
            if connection_of(before) != connection_of(after):
                client = self._client(after, held, patient=True)
        except ConfigurationError as error:
            self.reloader.refuse(error)
            return
        self.configuration = after
        self.inbox.configure(after)
        reused = {name: self.pipeline.encoders[name] for name in prepared.reused}  # another version may have come
        done = self.pipeline.reconfigure(after, {**prepared.encoders, **reused}, time())
        self.commander = Commander(self.pipeline, self.topics, after.commands, self.telemetry)
        for name, bundle in prepared.bundles.items():
            self.encoders.keep(name, bundle)

        def write() -> None:
            self._choose(prepared.choices)
            for stream in done.removed:
                save(self.store, stream)  # it may come back
            for name, fate in done.fates.items():
                if fate is Fate.ANEW:
                    self.store.set_aside(name, OUTDATED)
            tidy_pictures(self.store, self.pipeline)

        self.disk.write(write)
        self._let_go(done.removed, [name for name, fate in done.fates.items() if fate is not Fate.UNCHANGED])
        self._commit(done.outcome)
        self.publications.publish(monotonic(), time())
        self.pipeline.restore = make_restore(self.store, self._use_former)
        if client is None:
            self.mqtt.resubscribe(subscriptions_of(after))
        else:
            self._move(client, held)
        changes = entry_changes(before, after, self.pipeline.streams.values(), done)
        self.reloader.apply(changes, reconnects=client is not None)

    def _let_go(self, removed: list[Stream], renewed: Sequence[str] = ()) -> None:
        """Forget streams that are no longer watched; those `renewed` have other settings."""
        for stream in removed:
            stream.begin_anew()  # others may have what it took
            self.telemetry.forget(stream.name)
        self.publications.configure(
            self.configuration,
            announcements_of(self.configuration, self.topics),
            [stream.name for stream in removed],
            renewed,
        )

    def _make_room(self) -> None:
        """Let streams go for which there is no memory."""
        done = self.pipeline.make_room(time())
        if done.removed:
            self._let_go(done.removed)
            self._commit(done.outcome)

    def _move(self, client: MqttClient, held: dict[str, int]) -> None:
        """Go on with another connection. What the old one had taken over and not delivered is sent again."""
        self.mqtt.stop()
        self._forget_delivered()
        self._handed, self._held = 0, held
        self.mqtt = self.publications.mqtt = client
        client.start()

    def _status(self) -> Status:
        """Return what is told of the agent and its streams."""
        reloader, configuration, now = self.reloader, self.configuration, monotonic()
        streams = self.pipeline.streams.values()
        learning, firing = counted(streams)
        return Status(
            agent=configuration.agent.id,
            version=_VERSION,
            at=time(),
            uptime_s=round(now - self._started_at, 1),
            configuration=ConfigurationStatus(
                "" if self.file is None else str(self.file.resolve()),
                reloader.generation,
                reloader.loaded_at,
                reloader.reloading,
                reloader.done,
                reloader.last,
            ),
            troubles=self.troubles.names,
            broker=BrokerStatus(str(self.mqtt.address), self.mqtt.connected, self.mqtt.ears.hearing),
            streams_total=len(streams),
            learning=learning,
            firing=firing,
            streams=stream_statuses(streams, now),
        )

    def _gauges(self, snapshot_age_s: float) -> None:
        telemetry = self.telemetry
        telemetry.queue_length.set(len(self.inbox))
        telemetry.broker_fallback.set(self.mqtt.fallen_back)
        ears = self.mqtt.ears
        for hearing in Hearing:
            telemetry.broker_hearing.labels(hearing.value).set(hearing is ears.hearing)
        telemetry.echo_seconds.set(ears.round_trip_s)
        telemetry.outbox_dropped.inc(self.store.outbox_dropped - self._told_dropped)
        self._told_dropped = self.store.outbox_dropped
        telemetry.streams_max.set(self.pipeline.streams_max)
        telemetry.outbox_length.set(self.store.outbox_length())
        telemetry.snapshot_age.set(snapshot_age_s)
        telemetry.streams.set(len(self.pipeline.streams))

    def _save(self) -> bool:
        """Write whole snapshots of all streams, in one go."""
        before = self.store.bytes_written
        with self.telemetry.snapshot_seconds.time():
            stored = self.disk.write(lambda: save_all(self.store, self.pipeline))
        if stored:
            self.saver.saved_at = monotonic()
        self.telemetry.state_bytes.inc(self.store.bytes_written - before)
        return stored
