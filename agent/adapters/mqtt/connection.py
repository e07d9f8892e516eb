"""One connection to the broker after another: everything of paho, touched by the network thread alone."""

from __future__ import annotations

import itertools
import logging
import select
from time import monotonic
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.adapters.mqtt.broker import BAD_CREDENTIALS, Protocol, endpoint, hint, in_words, password
from agent.adapters.mqtt.echo import DeafError, Echo
from agent.adapters.mqtt.events import MqttEvents
from agent.adapters.mqtt.fallback import Brokers
from agent.adapters.mqtt.frames import FrameReader, packed_publication
from agent.adapters.mqtt.orders import Publication
from agent.adapters.mqtt.paho_client import CONNECT_TIMEOUT_S, command_of, make_client, options, reachable
from agent.adapters.mqtt.rivalry import TAKEN_OVER, Rivalry
from agent.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags

    from agent.adapters.mqtt.broker import BrokerSettings, Endpoint
    from agent.adapters.mqtt.ears import Ears
    from agent.adapters.mqtt.events import Token
    from agent.adapters.mqtt.orders import Orders
    from agent.adapters.mqtt.subscriptions import Changes, SubscriptionLedger
    from agent.adapters.mqtt.topics import Topics
    from agent.adapters.mqtt.wire import Wire

logger = logging.getLogger(__name__)

FAREWELL_S: Final = 2.0
MAX_IN_FLIGHT: Final = 20
TURN_MS: Final = 250
_READS_PER_TURN: Final = 4
_FILTERS_PER_PACKET: Final = 100
_BIRTH: Final = "\0birth"
_FAREWELL: Final = "\0farewell"
_ECHO: Final = "\0echo"
_NUMBERS: Final = itertools.count(1)  # of connections: a message of an earlier client's is never taken for one of ours


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended: why, whether the broker had accepted us, whether trying again is pointless.

    `returning`: we left it, for the first broker is there again. `taken_over`: the broker said that another client took
    our id. `wordless`: it ended the connection without a reason.
    """

    reason: str
    opened: bool = False
    final: bool = False
    taken_over: bool = False
    wordless: bool = False
    returning: bool = False


class Connector:
    """Makes connections, one at a time, in the network thread; other threads read `open` and `in_flight`."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        topics: Topics,
        command: str | None,
        noticed: tuple[str, ...],
        ears: Ears,
        own_prefixes: tuple[str, ...],
        ledger: SubscriptionLedger,
        orders: Orders,
        events: MqttEvents,
        rivalry: Rivalry,
        patient: bool = False,
        silent: bool = False,
    ) -> None:
        self.open = False
        self._rivalry = rivalry
        self._settings = settings
        addresses = [endpoint(url) for url in (settings.url, *settings.fallback)]
        self.brokers = Brokers(addresses, self._is_reachable, settings.return_after_s)
        self._served_by: Endpoint | None = None
        self._refusals = 0  # of our identity, in a row
        self._password = password(settings)
        self._topics = topics
        self._command, self._noticed = command, noticed
        self._echo = Echo(topics.echo, ears, self._send_echo)
        self._heeded = frozenset({topics.echo, *noticed})
        self._own_roots = (topics.root, *own_prefixes)
        self._ledger = ledger
        self._orders = orders
        self._events = events
        self._mqtt5 = settings.protocol == Protocol.V5
        # Without MQTT 5's retain handling, subscribing again would deliver every retained message again.
        # Where there are several brokers it is not known which one's session was told of.
        self._ledger.certain = not self._mqtt5 and len(addresses) == 1
        self._connection = 0
        self._ever_open = patient
        self._silent = silent
        self._answered: ReasonCode | None = None  # the reason in CONNACK or in the broker's DISCONNECT
        self._tokens: dict[int, Token] = {}  # by message id, in flight
        self._window = MAX_IN_FLIGHT
        self._client = make_client(settings, addresses[0], client_id, will_topic=None if silent else topics.status)
        self._client.reader_factory = self._make_reader
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe

    @property
    def address(self) -> Endpoint:
        """Return the broker that serves us, or is tried next."""
        return self.brokers.current

    def _is_reachable(self, address: Endpoint) -> bool:
        return reachable(address, self._client.tls, self._make_reader())

    @property
    def in_flight(self) -> int:
        """Return how many publications the broker has yet to acknowledge."""
        return len(self._tokens)

    def hush(self) -> None:
        """Tell nothing any more."""
        self._events = MqttEvents()

    def attempt(self) -> Outcome:
        """Connect, serve the connection until it ends, and return why it did."""
        self._connection = next(_NUMBERS)
        self._answered = None
        self._prove_identity()
        if self._client.address != self.address:
            self._client.address = self.address
            self._ledger.held.clear()  # nothing is known of a session elsewhere
            self._ledger.certain = False
            self._events.on_subscriptions({})
        try:
            self._client.reconnect()
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            self._refusals = 0
            return Outcome(in_words(error, self.address))
        wire = self._client.wire
        assert wire is not None
        try:
            self._serve(wire)
        except Exception:
            wire.abort(RuntimeError("a bug in this program"))
            self._client.loop_read()
            raise
        finally:
            outcome = self._ended(wire)
        return outcome

    def _make_reader(self) -> FrameReader:
        return FrameReader(
            own_roots=self._own_roots,
            command=self._command,
            noticed=self._heeded,
            mqtt5=self._mqtt5,
            connection=self._connection,
            max_size=self._settings.max_message_size,
        )

    def _prove_identity(self) -> None:
        """Read the password again: it may have been changed while we run."""
        try:
            self._password = password(self._settings)
        except ConfigurationError as error:
            logger.warning("keeping the password read before: %s", error)
        self._client.username_pw_set(self._settings.username, self._password)

    def _serve(self, wire: Wire) -> None:
        client, orders, descriptor = self._client, self._orders, wire.fileno()
        poll = select.poll()
        poll.register(orders.fileno(), select.POLLIN)
        poll.register(descriptor, select.POLLIN)
        more = False
        asked = select.POLLIN
        farewell_by: float | None = None
        heard = begun = monotonic()
        next_check = begun
        while client.socket() is not None:
            paused = self._events.is_full()
            wanted = (0 if paused else select.POLLIN) | (select.POLLOUT if wire.unsent else 0)
            if wanted != asked:
                asked = wanted
                poll.modify(descriptor, wanted)
            ready = {number for number, _ in poll.poll(0 if not paused and (more or wire.pending()) else TURN_MS)}
            if orders.fileno() in ready:
                orders.rest()
            now = monotonic()
            if paused:
                heard = now  # not to have listened is no silence of the broker's
            elif more or descriptor in ready or wire.pending():
                more = all(wire.receive() for _ in range(_READS_PER_TURN))
                heard = now
                self._deliver(wire)
            if orders.stopping.is_set() or (self.open and self.brokers.look(now)):
                farewell_by = self._say_farewell(farewell_by, now)
            self._carry_out(wire)
            if now >= next_check:
                next_check = now + TURN_MS / 1000
                client.loop_misc()
                if not self.open and now - begun > CONNECT_TIMEOUT_S:
                    wire.abort(TimeoutError())
                elif client.keepalive and now - heard > 1.5 * client.keepalive:
                    self._events.on_deaf()
                    wire.abort(TimeoutError())  # paho alone would take twice the keep-alive
                elif self.open and not orders.stopping.is_set():
                    self._listen(wire, now, idle=paused or more)
            if wire.news and client.socket() is not None:
                client.loop_read()
            wire.flush()

    def _listen(self, wire: Wire, now: float, *, idle: bool) -> None:
        """See whether the broker still delivers."""
        try:
            self._echo.look(now, wire.reader, in_flight=_ECHO in self._tokens.values(), idle=idle)
        except DeafError as error:
            self._ledger.certain = False  # if the session does not hold what we think, it will
            self._events.on_deaf()
            wire.abort(error)

    def _send_echo(self, payload: bytes) -> None:
        if len(self._tokens) < self._window:  # else the broker takes nothing, and will not send it back
            self._send_publication(Publication(self._echo.topic, payload, 1, retain=False, token=_ECHO))

    def _deliver(self, wire: Wire) -> None:
        reader = wire.reader
        while wire.news and self._client.socket() is not None:
            self._client.loop_read()
        messages, reader.messages = reader.messages, []
        commands, reader.commands = reader.commands, []
        told = 0
        for before, message, raw in commands:  # in the order received, in which they are acknowledged
            if before > told:
                self._events.on_messages(messages[told:before])
                told = before
            self._events.on_command(command_of(message, raw))
        if len(messages) > told:
            self._events.on_messages(messages[told:] if told else messages)
        notices, reader.notices = reader.notices, []
        for notice in notices:
            if notice.topic == self._echo.topic:
                self._echo.heard(notice.payload, monotonic())
            else:
                self._events.on_notice(notice)
        if reader.ignored_ids:
            ignored, reader.ignored_ids = reader.ignored_ids, []
            wire.send(b"".join(b"@\x02" + number.to_bytes(2, "big") for number in ignored))
        if reader.oversized:
            oversized, reader.oversized = reader.oversized, []
            for topic, size_bytes in oversized:
                self._events.on_oversized(topic, size_bytes)

    def _carry_out(self, wire: Wire) -> None:
        """Do what other threads have ordered. PUBACK and QoS 0 are packed here: paho makes a write of each."""
        orders, current = self._orders, self._connection
        packets = bytearray()
        while orders.acknowledgements:
            message = orders.acknowledgements.popleft()
            if message.connection == current and self.open:
                packets += b"@\x02" + message.message_id.to_bytes(2, "big")
                wire.reader.owed -= 1
        if packets:
            wire.send(packets)
        while orders.subscriptions:
            self._ledger.wanted = dict(orders.subscriptions.popleft())
            if self.open:
                self._send_changes(self._ledger.changes())
        while self.open and orders.publications and len(self._tokens) < self._window:
            one = orders.publications.popleft()
            if one.qos or one.correlation_data is not None:
                self._send_publication(one)
            else:
                wire.send(packed_publication(one.topic, one.payload, retain=one.retain, mqtt5=self._mqtt5))
        if self._client.want_write():
            self._client.loop_write()

    def _send_publication(self, publication: Publication) -> None:
        properties = None
        if publication.correlation_data is not None and self._mqtt5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.CorrelationData = publication.correlation_data
        sent = self._client.publish(
            publication.topic, publication.payload, publication.qos, publication.retain, properties
        )
        if publication.qos:
            # Whatever the return code: paho keeps it and sends it again after a reconnect.
            self._tokens[sent.mid] = publication.token

    def _say_farewell(self, by: float | None, now: float) -> float:
        """Publish `offline` behind all that waits, then disconnect once it is taken or too late."""
        if by is None:
            if self.open and not self._silent:
                farewell = Publication(self._topics.status, b"offline", 1, retain=True, token=_FAREWELL)
                self._orders.publications.append(farewell)
                return now + FAREWELL_S
            by = now
        if now >= by or not (self._orders.publications or _FAREWELL in self._tokens.values()):
            self._client.disconnect()
        return by

    def _send_changes(self, changes: Changes) -> None:
        for first in range(0, len(changes.unsubscribe), _FILTERS_PER_PACKET):
            names = changes.unsubscribe[first : first + _FILTERS_PER_PACKET]
            _, number = self._client.unsubscribe(names)
            self._ledger.unsubscribing(number or 0, names)
        for first in range(0, len(changes.subscribe), _FILTERS_PER_PACKET):
            part = changes.subscribe[first : first + _FILTERS_PER_PACKET]
            if self._mqtt5:
                _, number = self._client.subscribe(
                    [
                        (name, options(name, qos, as_published=name == self._command, own=name == self._echo.topic))
                        for name, qos in part
                    ]
                )
            else:
                _, number = self._client.subscribe(part)
            self._ledger.subscribing(number or 0, part)

    # paho's callbacks

    def _on_connect(
        self, client: Client, _: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._answered = reason
            return
        self._ever_open = self.open = True
        self._rivalry.opened(monotonic())
        self._window = min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", MAX_IN_FLIGHT))
        present = flags.session_present
        kept = "session kept" if present else "new session"
        logger.info("connected to %s (MQTT %s, %s)", self.address, self._settings.protocol, kept)
        waiting = self._tokens.values()  # which paho sends again
        if not self._silent and (_BIRTH not in waiting or _FAREWELL in waiting):
            self._tokens[client.publish(self._topics.status, b"online", 1, retain=True).mid] = _BIRTH
        changes = self._ledger.connected(session_present=present)
        if not present:
            self._events.on_subscriptions({})
        self._send_changes(changes)
        self._echo.connected(monotonic())
        self._events.on_connected(session_present=present and self._served_by in (None, self.address))
        self._served_by = self.address

    def _on_disconnect(
        self, _client: Client, _: object, flags: DisconnectFlags, reason: ReasonCode, _properties: Any
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._answered = reason

    def _on_publish(self, _client: Client, _: object, mid: int, reason: ReasonCode, _properties: Any) -> None:
        token = self._tokens.pop(mid, None)
        if token == _ECHO:
            if reason.is_failure:
                self._echo.refused(str(reason))
        elif token is None or token in (_BIRTH, _FAREWELL):
            if reason.is_failure:
                logger.warning("the broker refused a publication: %s", reason)
        elif reason.is_failure:
            self._events.on_publish_refused(token, str(reason))
        else:
            self._events.on_published(token)

    def _on_subscribe(
        self, _client: Client, _: object, mid: int, reasons: Sequence[ReasonCode], _properties: Any
    ) -> None:
        for name, code in self._ledger.subscribed(mid, [reason.value for reason in reasons]):
            words = ReasonCode(PacketTypes.SUBACK, identifier=code).getName()
            if name == self._echo.topic:
                self._echo.refused(words)
                continue
            logger.warning("the broker refused the subscription to %s: %s", name, words)
            self._events.on_subscription_refused(name, words)
        self._events.on_subscriptions(dict(self._ledger.held))

    def _on_unsubscribe(self, _client: Client, _: object, mid: int, _reasons: Any, _properties: Any) -> None:
        self._ledger.unsubscribed(mid)
        self._events.on_subscriptions(dict(self._ledger.held))

    # The end of a connection

    def _ended(self, wire: Wire) -> Outcome:
        reason, opened = self._reason(wire), self.open
        self.open = False
        if opened:
            self._events.on_disconnected(reason)
        elif self._answered is None:
            self._ledger.certain = False  # the broker may have taken our CONNECT, and begun a new session
        if self._mqtt5:
            self._ledger.certain = False  # a broker that was killed may have gone back to an older session
        hopeless = self._answered is not None and self._answered.value in BAD_CREDENTIALS
        self._refusals = self._refusals + 1 if hopeless else 0
        return Outcome(
            reason,
            opened,
            final=not self._ever_open and self._refusals >= len(self.brokers),
            returning=opened and self.brokers.returning,
            taken_over=self._answered is not None and self._answered.value == TAKEN_OVER,
            wordless=self._answered is None and isinstance(wire.failure, NoneType | ConnectionResetError),
        )

    def _reason(self, wire: Wire) -> str:
        if self._answered is not None:
            what = "closed" if self.open else "refused"
            return f"the broker {what} the connection: {self._answered}{hint(self._answered.value)}"
        why = f": {in_words(wire.failure, self.address)}" if wire.failure else ""
        if not self.open:
            return f"{self.address} closed the connection before it answered{why}"
        if self._orders.stopping.is_set():
            return "stopped"
        if self.brokers.returning:
            return f"{self.brokers.first} is there again: leaving {self.address}"
        return f"the connection to {self.address} was lost{why}"
