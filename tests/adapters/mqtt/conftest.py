"""Clients under test that are stopped at the end, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.adapters.mqtt import BrokerSettings, MqttClient
from tests.adapters.mqtt.listener import Listener
from tests.brokers import Peer, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.brokers import Mosquitto


@pytest.fixture
def make_client() -> Iterator[Callable[..., tuple[MqttClient, Listener]]]:
    """Return a function that starts a client called `pi` and, unless told not to, waits for its subscriptions."""
    clients: list[MqttClient] = []

    def make(
        url: str, *subscriptions: str, qos: int = 1, ready: bool = True, known: dict[str, int] | None = None,
        listener: Listener | None = None, commands: bool = False, noticed: tuple[str, ...] = (),
        own_prefixes: tuple[str, ...] = (), silent: bool = False, **settings: object,
    ) -> tuple[MqttClient, Listener]:  # fmt: skip
        listener = listener or Listener()
        client = MqttClient(
            BrokerSettings(url=url, **{"echo_s": 0.0, **settings}),  # type: ignore[arg-type]
            agent_id="pi",
            subscriptions=[(name, qos) for name in subscriptions],
            events=listener,
            known_subscriptions=known,
            commands=commands,
            noticed=noticed,
            own_prefixes=own_prefixes,
            silent=silent,
        )
        clients.append(client)
        client.start()
        if ready:
            wait_until(lambda: client.connected)
            wanted = set(subscriptions) | ({client.topics.command} if commands else set())
            wanted |= set(noticed)
            wanted |= {client.topics.echo} if settings.get("echo_s") else set()
            if wanted and set(known or {}) != wanted:
                wait_until(lambda: listener.subscriptions and set(listener.subscriptions[-1]) == wanted)
        return client, listener

    yield make
    for client in clients:
        client.stop()


@pytest.fixture
def make_peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(broker: Mosquitto, *topics: str, **options: object) -> Peer:
        peers.append(Peer(broker, *topics, **options))  # type: ignore[arg-type]
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()
