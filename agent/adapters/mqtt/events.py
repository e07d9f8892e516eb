"""What the MQTT client tells the rest of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.errors import RefusedError
    from agent.ports import InboundMessage

# Names a publication to whoever handed it over. None: nobody wants to hear of it.
Token: TypeAlias = int | str | None


class Command(msgspec.Struct, frozen=True):
    """A message on the agent's command topic; the last two are MQTT 5's, None where not given."""

    message: InboundMessage
    response_topic: str | None = None
    correlation_data: bytes | None = None

    @property
    def qos(self) -> int:
        """Return the message's quality of service."""
        return self.message.qos


class MqttEvents:
    """Every method is called in the network thread: it must be quick and must not wait for that thread.

    Each does nothing here, so that a listener overrides what it needs.
    """

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        """Take what has arrived, in order; must only enqueue. QoS 1 messages wait for `acknowledge`."""

    def is_full(self) -> bool:
        """Tell whether to stop reading for now, so that TCP holds the broker back. Acknowledgements still leave."""
        return False

    def on_command(self, command: Command) -> None:
        """Take a command; only if commands are enabled. Its message waits for `acknowledge` too."""

    def on_notice(self, message: InboundMessage) -> None:
        """Take a message on a topic that is noticed beside the data. It is not waited for."""

    def on_connected(self, *, session_present: bool) -> None:
        """Note that the broker has accepted us; the birth is on its way. Publish retained state again now."""

    def on_disconnected(self, reason: str) -> None:
        """Note the end of a connection. Publications in flight stay ours: they are sent again."""

    def on_deaf(self) -> None:
        """Count a connection that was given up because the broker did not answer in time."""

    def on_published(self, token: Token) -> None:
        """Note that the broker has taken responsibility for this publication."""

    def on_publish_refused(self, token: Token, reason: str) -> None:
        """Note that the broker has refused this publication (MQTT 5 only); it is not sent again."""

    def on_subscriptions(self, subscriptions: Mapping[str, int]) -> None:
        """Store what the broker's session holds, durably before returning.

        It is {} when the broker has begun a new session, before anything is subscribed: otherwise a crash
        right then would leave a stored list that promises subscriptions which the session does not have.
        """

    def on_subscription_refused(self, topic_filter: str, reason: str) -> None:
        """Count a refused subscription; it is tried again at the next connection."""

    def on_oversized(self, topic: str, size_bytes: int) -> None:
        """Count a message above the size limit; it was dropped, and acknowledged."""

    def on_refused(self, error: RefusedError) -> None:
        """End the program: the broker refused our credentials before any connection; no more is tried."""
