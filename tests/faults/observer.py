"""The independent observer: a subscriber with a session of its own, which counts what reaches it."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from tests.faults.plant import persistent

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

WAITED: Final = "redshank/pi/waited/alert"  # of alerts that the suite puts into the outbox
DROPPED: Final = "$SYS/broker/publish/messages/dropped"


class Told(msgspec.Struct, frozen=True):
    """One alert message as it came; `started_at` in s since 1970."""

    id: str
    stream: str
    kind: str
    event: str
    started_at: float
    text: str


class Observer:
    """Hears everything of the agent called pi. `retained` holds the newest of each topic but alerts.

    `waited` are the numbers of those alerts that were put into the outbox, as they came.
    """

    def __init__(self, port: int) -> None:
        self.told: list[Told] = []
        self.waited: list[int] = []
        self.retained: dict[str, bytes] = {}
        self.dropped = 0
        self._subscribed = threading.Event()
        self._client = persistent("observer", port)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._on_message
        self._client.loop_start()

    @property
    def listening(self) -> bool:
        return self._subscribed.is_set()

    def confirm(self, alert: str) -> None:
        """Tell the agent that an alert was true, so that its budget does not make it less sensitive."""
        self._client.publish("redshank/pi/command", json.dumps({"command": "confirm", "alert": alert}), 1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe([("redshank/#", 1), (DROPPED, 0)])

    def _on_message(self, _client: Client, _: object, message: MQTTMessage) -> None:
        if message.topic == DROPPED:
            self.dropped = int(message.payload)
        elif message.topic == WAITED:
            self.waited.append(json.loads(message.payload)["number"])
        elif message.topic.endswith("/alert"):
            body = json.loads(message.payload)
            started_at = datetime.fromisoformat(body["started_at"]).timestamp()
            self.told.append(Told(body["id"], body["stream"], body["kind"], body["event"], started_at, body["message"]))
        else:
            self.retained[message.topic] = message.payload


def out_of_order(told: list[Told]) -> list[str]:
    """Return where a stream's alert was told as raised after it was told as cleared, first tellings alone."""
    wrong, seen, over = [], set(), set()
    for one in told:
        if (one.id, one.event) in seen:
            continue
        seen.add((one.id, one.event))
        if one.event == "cleared":
            if (one.id, "raised") not in seen:
                wrong.append(f"{one.id} of {one.stream} was cleared before it was raised")
            over.add(one.id)
        elif one.id in over:
            wrong.append(f"{one.id} of {one.stream} was {one.event} after it was cleared")
    return wrong
