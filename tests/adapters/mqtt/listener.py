"""A listener that remembers everything the MQTT client tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.adapters.mqtt import MqttEvents

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.adapters.mqtt import Command, Token
    from agent.errors import RefusedError
    from agent.ports import InboundMessage


class Listener(MqttEvents):
    def __init__(self) -> None:
        self.full = False
        self.messages: list[InboundMessage] = []
        self.commands: list[Command] = []
        self.notices: list[InboundMessage] = []
        self.sessions: list[bool] = []
        self.ends: list[str] = []
        self.published: list[Token] = []
        self.unpublished: list[tuple[Token, str]] = []
        self.subscriptions: list[dict[str, int]] = []
        self.unsubscribed: list[tuple[str, str]] = []
        self.oversized: list[tuple[str, int]] = []
        self.deaf = 0
        self.refusals: list[RefusedError] = []

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        self.messages.extend(messages)

    def is_full(self) -> bool:
        return self.full

    def on_command(self, command: Command) -> None:
        self.commands.append(command)

    def on_notice(self, message: InboundMessage) -> None:
        self.notices.append(message)

    def on_connected(self, *, session_present: bool) -> None:
        self.sessions.append(session_present)

    def on_disconnected(self, reason: str) -> None:
        self.ends.append(reason)

    def on_deaf(self) -> None:
        self.deaf += 1

    def on_published(self, token: Token) -> None:
        self.published.append(token)

    def on_publish_refused(self, token: Token, reason: str) -> None:
        self.unpublished.append((token, reason))

    def on_subscriptions(self, subscriptions: Mapping[str, int]) -> None:
        self.subscriptions.append(dict(subscriptions))

    def on_subscription_refused(self, topic_filter: str, reason: str) -> None:
        self.unsubscribed.append((topic_filter, reason))

    def on_oversized(self, topic: str, size_bytes: int) -> None:
        self.oversized.append((topic, size_bytes))

    def on_refused(self, error: RefusedError) -> None:
        self.refusals.append(error)
