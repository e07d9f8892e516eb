"""What has arrived and waits for the worker: bounded in number and in bytes, and what gives way when it is full.

- Of pictures only the newest of each topic is kept.
- Messages of QoS 0 are dropped, oldest first, until one of QoS 1 stops that: those are never dropped here. While one is
  the oldest of a full inbox, nothing more is read from the broker.
- What can't be taken yet, for an earlier message of its line was only begun, is held back; others overtake it.
- Acknowledgements are given in the order in which messages came, as MQTT demands, though they are done in another one.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from agent.adapters.mqtt import Command
from agent.config import ImageSettings
from agent.room import waiting_bytes
from agent.routing import pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.adapters.telemetry import Telemetry
    from agent.config import Configuration
    from agent.ports import InboundMessage

logger = logging.getLogger(__name__)

_SAY_S: Final = 60.0
_OBJECT_BYTES: Final = 250  # about: a message without its payload
_UNACKNOWLEDGED: Final = 20_000  # messages that were taken, at least, before no more is read


class Gate(Protocol):
    """Who takes messages, and tells which may come next."""

    def line_of(self, topic: str) -> str:
        """Return the line of a topic's messages: those of one line are taken in order."""
        ...

    def must_wait(self, message: InboundMessage) -> bool:
        """Tell whether a message can't be taken yet."""
        ...


class Owed(msgspec.Struct):
    """A message of QoS 1 that was let out of the queue: topic and hash of the payload; the message once it is done."""

    what: tuple[str, int]
    done: InboundMessage | None = None


class QueuedPicture:
    """A picture that waits for the worker. When a newer one of its topic comes, its payload is let go."""

    def __init__(self, message: InboundMessage) -> None:
        self.message = message

    @property
    def qos(self) -> int:
        """Return the message's QoS."""
        return self.message.qos

    def supersede(self) -> int:
        """Let the picture go; the message is still to be acknowledged. Return how many bytes that were."""
        size = len(self.message.payload)
        self.message = msgspec.structs.replace(self.message, payload=b"", superseded=True)
        return size


class Resent:
    """Which messages need not be processed, for the broker has sent them again on another connection.

    Of those that wait that is the earlier one, of those that were taken the later one. They are not let go before that:
    a broker that was killed does not send again what it has forgotten.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, bytes], list[InboundMessage]] = {}
        self._withdrawn: set[tuple[int, int]] = set()  # connection and message id
        self._taken: Counter[tuple[str, int]] = Counter()

    def begin(self, waiting: Iterable[InboundMessage], taken: Iterable[tuple[str, int]]) -> None:
        """Begin with a new connection, which may bring again what is waiting, and what was taken, if only in part."""
        self._waiting.clear()
        if self._taken.total() > _UNACKNOWLEDGED:  # a broker has forgotten them
            self._taken.clear()
        self._taken |= Counter(taken)  # some of the last connection may not have come before it was lost, too
        for message in waiting:
            self._waiting.setdefault((message.topic, message.payload), []).append(message)

    def was_taken(self, message: InboundMessage) -> bool:
        """Tell whether a message that is sent again was taken on an earlier connection."""
        if not self._taken or not message.again:
            return False
        what = what_of(message)
        found = self._taken[what] > 0
        self._taken[what] -= found
        return found

    def take(self, message: InboundMessage) -> None:
        """Know that a message is taken, which may come again."""
        waiting = self._waiting.get((message.topic, message.payload)) if self._waiting else None
        if waiting and message in waiting:
            waiting.remove(message)
            self._taken[what_of(message)] += 1

    def forget(self) -> None:
        """Expect nothing: the broker's session is another one."""
        self.clear()
        self._taken.clear()

    def withdraw(self, message: InboundMessage) -> InboundMessage | None:
        """Return the message that this one stands for from now on, None if it is new."""
        earlier = self._waiting.get((message.topic, message.payload)) if message.again else None
        if not earlier:
            return None
        first = earlier.pop(0)
        self._withdrawn.add((first.connection, first.message_id))
        return first

    def counts(self, message: InboundMessage) -> bool:
        """Tell whether a message is still to be processed."""
        return not self._withdrawn or (message.connection, message.message_id) not in self._withdrawn

    def clear(self) -> None:
        """Forget everything: nothing waits."""
        self._waiting.clear()
        self._withdrawn.clear()


class Inbox:
    """Filled by the network thread, emptied by the worker."""

    def __init__(self, configuration: Configuration, telemetry: Telemetry) -> None:
        self.arrived = threading.Event()
        self._telemetry = telemetry
        self._queue: deque[InboundMessage | QueuedPicture | Command] = deque()
        self._newest: dict[str, QueuedPicture] = {}  # by topic, of those in the queue
        self._bytes = 0
        self._acknowledgeable = 0  # messages of QoS 1
        self._lock = threading.Lock()
        self._resent = Resent()
        self._held: dict[str, deque[InboundMessage]] = {}  # by line, in order; what is in the queue came later
        self._held_count = 0
        self._owed: OrderedDict[tuple[int, int], Owed] = OrderedDict()  # by connection and message id, in order
        self._connection = 0  # of these
        self.configure(configuration)

    def __len__(self) -> int:
        return len(self._queue) + self._held_count

    def configure(self, configuration: Configuration) -> None:
        """Go by these settings. What was held back is in the queue again: its lines may be others now."""
        with self._lock:
            self._queue.extendleft(reversed([*chain.from_iterable(self._held.values())]))
            self._held, self._held_count = {}, 0
        agent = configuration.agent
        self._most = agent.queue_size
        self._most_bytes = waiting_bytes(agent)
        self._pictures = [pattern_of(one) for one in configuration.streams if isinstance(one, ImageSettings)]
        self._window = configuration.broker.receive_maximum

    @property
    def full(self) -> bool:
        """Tell whether nothing more is to be read: not every broker heeds receive maximum."""
        return self._crowded or len(self._owed) > max(_UNACKNOWLEDGED, self._most)

    @property
    def _crowded(self) -> bool:
        return len(self) > self._most or self._bytes > self._most_bytes

    @property
    def behind(self) -> bool:
        """Tell whether the broker has to keep messages back for us, as far as that can be known here."""
        with self._lock:
            held = sum(bool(one.qos) for one in chain.from_iterable(self._held.values()))  # they are among both
            return self.full or self._acknowledgeable - held + len(self._owed) >= self._window

    def put(self, messages: Sequence[InboundMessage]) -> None:
        """Take what has arrived, and let go what has no room."""
        with self._lock:
            if any(message.again for message in messages):
                messages = [self._unless_taken(message) for message in messages]
            if self._pictures:
                self._queue.extend(self._queued(message) for message in messages)
            else:
                self._queue.extend(messages)
            self._weigh(messages)
            while self._crowded and self._drop():
                self._telemetry.queue_dropped.inc()
        self.arrived.set()

    def put_command(self, command: Command) -> None:
        """Take a command, in order with the data."""
        with self._lock:
            self._queue.append(command)
        self.arrived.set()

    def take_held(self, most: int, gate: Gate) -> Iterator[InboundMessage]:
        """Yield what was held back and may be taken, as `take` does."""
        for line in [*self._held]:
            while most and (message := self._next_held(line, gate)) is not None:
                most -= 1
                yield message

    def take(self, most: int, gate: Gate) -> Iterator[InboundMessage | Command]:
        """Yield what may be taken, in order: at first what was held back. What must wait is held back.

        Each is out of the inbox when it was yielded. QoS 1 is owed an acknowledgement then, see `done`.
        """
        for message in self.take_held(most, gate):
            most -= 1
            yield message
        while most and (one := self._next(gate)) is not None:
            most -= 1
            yield one

    def done(self, messages: Sequence[InboundMessage]) -> list[InboundMessage]:
        """Know that messages were processed; return which can be acknowledged now, in the order in which they came."""
        released = []
        with self._lock:
            for message in messages:
                owed = self._owed.get((message.connection, message.message_id))
                if message.qos and owed is not None:
                    owed.done = message
            while self._owed:
                first = next(iter(self._owed.values()))
                if first.done is None:
                    break
                released.append(first.done)
                self._owed.popitem(last=False)
            for message in messages if self._owed else ():
                owed = self._owed.get((message.connection, message.message_id))
                if owed is not None and owed.done is message:
                    owed.done = msgspec.structs.replace(message, payload=b"")  # that was long enough in memory
        return released

    @property
    def lines(self) -> list[str]:
        """Return the lines of which messages are held back."""
        return [*self._held]

    def connected(self, *, session_present: bool) -> None:
        """Expect what waits and what was not acknowledged to be sent again, if the broker has kept the session."""
        with self._lock:
            queued = [_message(one) for one in self._queue if one.qos and not isinstance(one, Command)]
            waiting = [one for one in chain(*self._held.values(), queued) if one.qos and self._resent.counts(one)]
            waits = {(one.connection, one.message_id) for one in waiting}
            taken = [owed.what for key, owed in self._owed.items() if key not in waits]
            if session_present:
                self._resent.begin(waiting, taken)
            else:
                self._resent.forget()

    def caught_up_to(self, now: float) -> float:
        """Return the time up to which all that arrived was taken: later than that no silence is known of."""
        with self._lock:
            if not self._queue:
                return now
            first = self._queue[0]
            return (first.message if isinstance(first, Command) else _message(first)).elapsed_s

    def _next_held(self, line: str, gate: Gate) -> InboundMessage | None:
        """Return the oldest message of a line that was held back, None if there is none, or it must wait longer."""
        with self._lock:
            held = self._held.get(line)
            while held:
                if self._resent.counts(held[0]) and gate.must_wait(held[0]):
                    return None
                message = self._pop_held(line)
                if self._resent.counts(message):
                    self._resent.take(message)
                    return message
            return None

    def _next(self, gate: Gate) -> InboundMessage | Command | None:
        """Return the oldest of the queue that may be taken, None if there is none; hold back what came before it."""
        with self._lock:
            while self._queue:
                one = self._queue[0]
                if isinstance(one, Command):
                    self._owe(one.message)
                    return self._pop()
                message = _message(one)
                if not self._resent.counts(message):
                    self._pop()
                    continue
                self._owe(message)
                if not (gate.must_wait(message) or (self._held and gate.line_of(message.topic) in self._held)):
                    self._resent.take(message)
                    return self._pop()
                self._shift()  # a picture only where the topic was one's before a reload
                self._held.setdefault(gate.line_of(message.topic), deque()).append(message)
                self._held_count += 1
            if not self._held:
                self._resent.clear()
            return None

    def _owe(self, message: InboundMessage) -> None:
        """Know that a message is to be acknowledged in its turn; those of an earlier connection can't be any more."""
        if message.qos and message.connection >= self._connection:
            if message.connection > self._connection:
                self._owed.clear()
                self._connection = message.connection
            self._owed[message.connection, message.message_id] = Owed(what_of(message))

    def _unless_taken(self, message: InboundMessage) -> InboundMessage:
        """Return a message that arrived; where it was taken before, as one that is only to be acknowledged."""
        if self._resent.was_taken(message):
            return msgspec.structs.replace(message, superseded=True)
        first, newest = self._resent.withdraw(message), self._newest.get(message.topic)
        if newest is not None and newest.message is first:
            del self._newest[message.topic]
        return message if first is None else msgspec.structs.replace(message, superseded=first.superseded)

    def _drop(self) -> bool:
        """Drop the oldest message of QoS 0, of those held back at first; tell whether there was one."""
        lines = [line for line, held in self._held.items() if not held[0].qos]
        if lines:
            self._pop_held(max(lines, key=lambda line: len(self._held[line])))
        elif self._queue and not self._queue[0].qos:
            self._pop()
        else:
            return False
        return True

    def _pop_held(self, line: str) -> InboundMessage:
        held = self._held[line]
        message = held.popleft()
        if not held:
            del self._held[line]
        self._held_count -= 1
        self._unweigh(message)
        return message

    def _shift(self) -> InboundMessage | Command:
        """Take the oldest out of the queue, where it is of the inbox still."""
        one = self._queue.popleft()
        if isinstance(one, Command):
            return one
        message = _message(one)
        if isinstance(one, QueuedPicture) and self._newest.get(message.topic) is one:
            del self._newest[message.topic]
        return message

    def _pop(self) -> InboundMessage | Command:
        """Take the oldest out."""
        one = self._shift()
        if not isinstance(one, Command):
            self._unweigh(one)
        return one

    def _unweigh(self, message: InboundMessage) -> None:
        self._bytes -= _OBJECT_BYTES + len(message.payload)
        self._acknowledgeable -= bool(message.qos)

    def _weigh(self, messages: Iterable[InboundMessage]) -> None:
        for message in messages:
            self._bytes += _OBJECT_BYTES + len(message.payload)
            self._acknowledgeable += bool(message.qos)

    def _queued(self, message: InboundMessage) -> InboundMessage | QueuedPicture:
        """Return what is put in the queue. Of pictures only the newest of each topic is kept."""
        if message.superseded or all(one.match(message.topic) is None for one in self._pictures):
            return message
        queued = QueuedPicture(message)
        older = self._newest.pop(message.topic, None)
        if older is not None and not message.retained:
            self._bytes -= older.supersede()
            self._telemetry.dropped()
        self._newest[message.topic] = queued
        return queued


class Backlog:
    """Says when the broker has to keep messages for us, and when it has begun to drop some.

    MQTT can neither slow publishers down nor tell a subscriber what was dropped for it. Known is that nothing is read,
    or that `receive_maximum` messages wait to be acknowledged; and what the broker counts for all of its clients, where
    it does so on a topic of its own.
    """

    def __init__(self, inbox: Inbox, telemetry: Telemetry) -> None:
        self._inbox, self._telemetry = inbox, telemetry
        self._looked_at: float | None = None
        self._said_at = -_SAY_S
        self._dropped: int | None = None  # as last told

    def look(self, now: float) -> None:
        """Count how long the broker has had to keep messages back. Called each second; `now`: a monotonic clock."""
        before, self._looked_at = self._looked_at, now
        if not self._inbox.behind:
            return
        self._telemetry.broker_held_back.inc(0.0 if before is None else now - before)
        if now - self._said_at >= _SAY_S:
            self._said_at = now
            logger.warning(
                "messages come faster than they are processed: %d wait here, and the broker has to keep the others; "
                "beyond its own limit it drops them",
                len(self._inbox),
            )

    def connected(self) -> None:
        """Begin anew: the broker may have been started again, and counts from zero then."""
        self._dropped = None

    def told(self, payload: bytes) -> None:
        """Take the broker's count of messages that it has dropped, for whichever client."""
        try:
            count = int(payload)
        except ValueError:
            return
        before, self._dropped = self._dropped, count
        if before is not None and count > before:
            self._telemetry.broker_dropped.inc(count - before)
            logger.warning("the broker has dropped %d messages, for this or another client", count - before)


def what_of(message: InboundMessage) -> tuple[str, int]:
    """Return what a message has in common with itself when it is sent again, without keeping its payload."""
    return message.topic, hash(message.payload)


def _message(one: InboundMessage | QueuedPicture) -> InboundMessage:
    return one.message if isinstance(one, QueuedPicture) else one
