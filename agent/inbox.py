"""What has arrived and waits for the worker: bounded in number and in bytes, and what gives way when it is full.

- Of pictures only the newest of each topic is kept.
- Messages of QoS 0 are dropped, oldest first, until one of QoS 1 stops that: those are never dropped here. While one is
  the oldest of a full inbox, nothing more is read from the broker.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.mqtt import Command
from agent.config import ImageSettings
from agent.room import waiting_bytes
from agent.routing import pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.adapters.telemetry import Telemetry
    from agent.config import Configuration
    from agent.ports import InboundMessage

logger = logging.getLogger(__name__)

_SAY_S: Final = 60.0
_OBJECT_BYTES: Final = 250  # about: a message without its payload


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
    """Which messages that wait from an earlier connection need not be processed, for the broker has sent them again.

    They are not let go before that: a broker that was killed does not send again what it has forgotten.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, bytes], list[InboundMessage]] = {}
        self._withdrawn: set[tuple[int, int]] = set()  # connection and message id

    def begin(self, waiting: Iterable[InboundMessage]) -> None:
        """Begin with a new connection; `waiting` are messages that it may bring again."""
        self._waiting.clear()
        for message in waiting:
            self._waiting.setdefault((message.topic, message.payload), []).append(message)

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
        return (message.connection, message.message_id) not in self._withdrawn

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
        self.configure(configuration)

    def __len__(self) -> int:
        return len(self._queue)

    def configure(self, configuration: Configuration) -> None:
        """Go by these settings."""
        agent = configuration.agent
        self._most = agent.queue_size
        self._most_bytes = waiting_bytes(agent)
        self._pictures = [pattern_of(one) for one in configuration.streams if isinstance(one, ImageSettings)]
        self._window = configuration.broker.receive_maximum

    @property
    def full(self) -> bool:
        """Tell whether nothing more is to be read: not every broker heeds receive maximum."""
        return len(self._queue) > self._most or self._bytes > self._most_bytes

    @property
    def behind(self) -> bool:
        """Tell whether the broker has to keep messages back for us, as far as that can be known here."""
        return self.full or self._acknowledgeable >= self._window

    def put(self, messages: Sequence[InboundMessage]) -> None:
        """Take what has arrived, and let go what has no room."""
        with self._lock:
            queue = self._queue
            for message in messages:
                if message.again:
                    self._withdraw(message)
            if self._pictures:
                queue.extend(self._queued(message) for message in messages)
            else:
                queue.extend(messages)
            self._weigh(messages)
            while self.full and not queue[0].qos:
                self._pop()
                self._telemetry.queue_dropped.inc()
        self.arrived.set()

    def put_command(self, command: Command) -> None:
        """Take a command, in order with the data."""
        with self._lock:
            self._queue.append(command)
        self.arrived.set()

    def take(self, most: int) -> list[list[InboundMessage] | Command]:
        """Return what waits, in order: messages in a row together, each command by itself."""
        taken: list[list[InboundMessage] | Command] = []
        with self._lock:
            for one in [self._pop() for _ in range(min(most, len(self._queue)))]:
                if isinstance(one, Command):
                    taken.append(one)
                elif not self._resent.counts(one):
                    continue
                elif taken and isinstance(taken[-1], list):
                    taken[-1].append(one)
                else:
                    taken.append([one])
            if not self._queue:
                self._resent.clear()
        return taken

    def connected(self, *, session_present: bool) -> None:
        """Expect what waits to be sent again, if the broker has kept the session."""
        with self._lock:
            waiting = [_message(one) for one in self._queue if one.qos and not isinstance(one, Command)]
            self._resent.begin(waiting if session_present else [])

    def caught_up_to(self, now: float) -> float:
        """Return the time up to which all that arrived was taken: later than that no silence is known of."""
        with self._lock:
            if not self._queue:
                return now
            first = self._queue[0]
            return (first.message if isinstance(first, Command) else _message(first)).elapsed_s

    def _withdraw(self, message: InboundMessage) -> None:
        first, newest = self._resent.withdraw(message), self._newest.get(message.topic)
        if newest is not None and newest.message is first:
            del self._newest[message.topic]

    def _pop(self) -> InboundMessage | Command:
        """Take the oldest out."""
        one = self._queue.popleft()
        if isinstance(one, Command):
            return one
        message = _message(one)
        if isinstance(one, QueuedPicture) and self._newest.get(message.topic) is one:
            del self._newest[message.topic]
        self._bytes -= _OBJECT_BYTES + len(message.payload)
        self._acknowledgeable -= bool(message.qos)
        return message

    def _weigh(self, messages: Iterable[InboundMessage]) -> None:
        for message in messages:
            self._bytes += _OBJECT_BYTES + len(message.payload)
            self._acknowledgeable += bool(message.qos)

    def _queued(self, message: InboundMessage) -> InboundMessage | QueuedPicture:
        """Return what is put in the queue. Of pictures only the newest of each topic is kept."""
        if all(one.match(message.topic) is None for one in self._pictures):
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


def _message(one: InboundMessage | QueuedPicture) -> InboundMessage:
    return one.message if isinstance(one, QueuedPicture) else one
