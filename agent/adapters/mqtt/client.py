"""The MQTT client as the rest of the program sees it: connects for ever, delivers, publishes, acknowledges."""

from __future__ import annotations

import logging
import random
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

from agent.adapters.mqtt.connection import Connector, Outcome
from agent.adapters.mqtt.ears import Ears, Hearing
from agent.adapters.mqtt.orders import Orders, Publication
from agent.adapters.mqtt.rivalry import MAX_YIELD_S, Rivalry
from agent.adapters.mqtt.subscriptions import SubscriptionLedger
from agent.adapters.mqtt.topics import Topics
from agent.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.adapters.mqtt.broker import BrokerSettings, Endpoint
    from agent.adapters.mqtt.events import MqttEvents, Token
    from agent.adapters.mqtt.subscriptions import Subscription
    from agent.ports import InboundMessage

logger = logging.getLogger(__name__)

MAX_BACK_OFF_S: Final = 5.0
FIRST_BACK_OFF_S: Final = 0.25
MAX_OUTSTANDING: Final = 1000  # publications taken over and not yet taken by the broker
_SAME_REASON_S: Final = 60.0
_MAX_REASONS: Final = 100
_RIVAL: Final = (
    "another client seems to use the client id {!r}: each connection of ours was ended soon; give every agent an "
    "agent.id, or a broker.client_id, of its own"
)


class MqttClient:
    """Keeps one connection to the broker, in a thread of its own.

    `subscriptions` are pairs of filter and QoS (0 or 1). `known_subscriptions` (filter to QoS) is what
    `MqttEvents.on_subscriptions` was last told, even by an earlier process. `commands` subscribes to the
    agent's command topic as well, `noticed` to topics that are not of the data either: see `MqttEvents.on_notice`.
    What comes on a topic that begins with one of `own_prefixes` is ignored, as are the agent's own topics.
    `patient`: a refusal of our identity is not final, not even the first one. `silent`: only listens; it has no will,
    publishes neither `online` nor `offline`, refuses to publish, and the broker keeps no session for it. `ears` tells
    whether the broker still delivers; of a silent one it is not known.
    Raises ConfigurationError if the URL, the password or the TLS files cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        agent_id: str,
        subscriptions: Iterable[Subscription],
        events: MqttEvents,
        topic_prefix: str = "redshank",
        known_subscriptions: Mapping[str, int] | None = None,
        commands: bool = False,
        noticed: tuple[str, ...] = (),
        own_prefixes: tuple[str, ...] = (),
        patient: bool = False,
        silent: bool = False,
    ) -> None:
        self._silent = silent
        self.topics = Topics(topic_prefix, agent_id)
        self._events = events
        self._command = self.topics.command if commands else None
        self._noticed = noticed
        self.ears = Ears(0.0 if silent else settings.echo_s)
        self._echo = None if self.ears.hearing is Hearing.OFF else self.topics.echo
        self._orders = Orders()
        self._rivalry = Rivalry()
        self._client_id = settings.client_id or f"redshank-{agent_id}"
        self._connector = Connector(
            settings,
            client_id=self._client_id,
            topics=self.topics,
            command=self._command,
            noticed=noticed,
            ears=self.ears,
            own_prefixes=own_prefixes,
            ledger=SubscriptionLedger(self._wanted(subscriptions), known_subscriptions or {}),
            orders=self._orders,
            events=events,
            rivalry=self._rivalry,
            patient=patient,
            silent=silent,
        )
        self._complaints: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    @property
    def connected(self) -> bool:
        """Tell whether the broker has accepted us and, as far as we know, is still there."""
        return self._connector.open

    @property
    def address(self) -> Endpoint:
        """Return the broker that serves us, or is tried next: the first one, or one to fall back on."""
        return self._connector.address

    @property
    def fallen_back(self) -> bool:
        """Tell whether another broker than the first one serves us."""
        return self.connected and self.address != self._connector.brokers.first

    @property
    def contested(self) -> bool:
        """Tell whether another client uses our client id, so that the two throw each other out."""
        return self._rivalry.contested(monotonic())

    def start(self) -> None:
        """Connect in the background, for ever. Call once."""
        self._orders.open()
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Publish what is left and `offline`, wait at most 2 s for the broker to take it, and disconnect.

        May be called at any time and again. `timeout_s` bounds the wait for a connection attempt under way. Nothing is
        told any more after it.
        """
        self._orders.stopping.set()
        self._orders.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        self._connector.hush()

    def acknowledge(self, message: InboundMessage) -> None:
        """Tell the broker that this message was processed; does nothing if its connection is gone.

        To the broker, an id from before a reconnect would mean another message, one not yet processed.
        """
        self.acknowledge_many((message,))

    def acknowledge_many(self, messages: Iterable[InboundMessage]) -> None:
        """Acknowledge in this order, which must be the order received; wakes the network thread once."""
        self._orders.acknowledgements.extend([message for message in messages if message.qos])
        self._orders.wake()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        token: Token = None,
        correlation_data: bytes | None = None,
    ) -> bool:
        """Take over a publication of QoS 0 or 1, or return False: silent, not connected, or too much outstanding.

        What was taken over survives reconnects (not the process). With QoS 1 and a token it ends in exactly
        one `on_published` or `on_publish_refused`, unless the client is stopped first.
        Raises ValueError if the topic is empty or has a wildcard.
        """
        if not topic or "+" in topic or "#" in topic or qos not in (0, 1):
            raise ValueError(f"cannot publish to {topic!r} with QoS {qos}")
        if self._silent or not self._connector.open or self._orders.stopping.is_set():
            return False
        if len(self._orders.publications) + self._connector.in_flight >= MAX_OUTSTANDING:
            return False
        self._orders.publications.append(Publication(topic, payload, qos, retain, token, correlation_data))
        self._orders.wake()
        return True

    def resubscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Replace the list of subscriptions, now if connected, otherwise with the next connection."""
        self._orders.subscriptions.append(self._wanted(subscriptions))
        self._orders.wake()

    def _wanted(self, subscriptions: Iterable[Subscription]) -> list[Subscription]:
        wanted: dict[str, int] = {self._command: 1} if self._command else {}
        wanted |= dict.fromkeys(self._noticed, 0)
        if self._echo is not None:
            wanted[self._echo] = 1
        for name, qos in subscriptions:
            if qos not in (0, 1):
                raise ValueError(f"cannot subscribe to {name!r} with QoS {qos}")
            wanted[name] = max(qos, wanted.get(name, 0))  # a filter exists once in a session
        return list(wanted.items())

    # Everything below runs in the network thread.

    def _run(self) -> None:
        failures = 0
        jitter = random.SystemRandom()
        try:
            while not self._orders.stopping.is_set():
                begun = monotonic()
                try:
                    outcome = self._connector.attempt()
                except Exception:
                    logger.exception("a bug in this program ended the connection to the broker")
                    outcome = Outcome("an error of our own ended the connection to the broker")
                if self._orders.stopping.is_set():
                    break
                if outcome.final:
                    self._events.on_refused(RefusedError(outcome.reason))
                    break
                # A connection that did not last counts as a failure: two clients with one id would fight.
                lasted = outcome.opened and monotonic() - begun > MAX_BACK_OFF_S
                failures = 0 if lasted else failures + 1
                rounds = min(failures // len(self._connector.brokers), 8)
                delay_s = jitter.uniform(0, min(MAX_BACK_OFF_S, FIRST_BACK_OFF_S * 2**rounds))
                now = monotonic()
                self._rivalry.ended(now, taken_over=outcome.taken_over, wordless=outcome.wordless)
                yield_s = self._rivalry.yield_s(now)
                self._connector.brokers.ended(lasted=lasted, stay=yield_s > 0)
                if outcome.returning:
                    logger.info("%s", outcome.reason)
                    delay_s = 0.0
                elif yield_s:
                    delay_s = jitter.uniform(yield_s / 2, yield_s)
                    self._complain(_RIVAL.format(self._client_id), MAX_YIELD_S)
                else:
                    self._complain(outcome.reason, MAX_BACK_OFF_S)
                self._orders.stopping.wait(delay_s)
        finally:
            self._orders.close()

    def _complain(self, reason: str, within_s: float) -> None:
        """Log each reason at most once a minute."""
        now = monotonic()
        if now - self._complaints.get(reason, -_SAME_REASON_S) >= _SAME_REASON_S:
            if len(self._complaints) >= _MAX_REASONS:
                self._complaints.clear()
            self._complaints[reason] = now
            logger.warning("%s; trying again, at least every %.0f s", reason, within_s)
