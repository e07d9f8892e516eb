"""Which subscriptions the broker's session holds, and what must be sent to make it hold the right ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Subscription: TypeAlias = tuple[str, int]  # topic filter and QoS


class Changes(msgspec.Struct, frozen=True):
    """What to subscribe and what to unsubscribe."""

    subscribe: list[Subscription]
    unsubscribe: list[str]


class SubscriptionLedger:
    """`held` is what the broker has confirmed; CONNACK's session_present says only whether it still counts.

    It is `certain` unless a CONNECT went unanswered: that may have replaced the session by an empty one
    which later passes for the old one. Uncertain means that everything is subscribed again.
    """

    def __init__(self, wanted: Iterable[Subscription], held: Mapping[str, int]) -> None:
        self.wanted = dict(wanted)
        self.held = dict(held)
        self.certain = True
        self._subscribing: dict[int, list[Subscription]] = {}
        self._unsubscribing: dict[int, list[str]] = {}

    def connected(self, *, session_present: bool) -> Changes:
        """Return what to send on a new connection."""
        self._subscribing.clear()
        self._unsubscribing.clear()
        if not session_present:
            self.held.clear()
        changes = self.changes()
        return changes if self.certain else Changes(list(self.wanted.items()), changes.unsubscribe)

    def changes(self) -> Changes:
        """Return the difference between what is wanted and what is held."""
        return Changes(
            [(name, qos) for name, qos in self.wanted.items() if self.held.get(name) != qos],
            [name for name in self.held if name not in self.wanted],
        )

    def subscribing(self, message_id: int, subscriptions: list[Subscription]) -> None:
        """Note what a SUBSCRIBE asks for."""
        self._subscribing[message_id] = subscriptions

    def unsubscribing(self, message_id: int, names: list[str]) -> None:
        """Note what an UNSUBSCRIBE gives up."""
        self._unsubscribing[message_id] = names

    def subscribed(self, message_id: int, codes: Iterable[int]) -> list[tuple[str, int]]:
        """Note a SUBACK's reason codes; return filter and code of each refusal."""
        refused = []
        for (name, qos), code in zip(self._subscribing.pop(message_id, []), codes, strict=False):
            if code < 0x80:  # noqa: PLR2004 - MQTT 5 section 2.4: failures begin here
                self.held[name] = qos
            else:
                self.held.pop(name, None)
                refused.append((name, code))
        self.certain = self.certain or not self._subscribing
        return refused

    def unsubscribed(self, message_id: int) -> None:
        """Note an UNSUBACK."""
        for name in self._unsubscribing.pop(message_id, []):
            self.held.pop(name, None)
