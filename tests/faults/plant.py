"""The plant: publishes readings with QoS 1 on three streams, without end, and disturbs them when it is told to."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from typing import Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

EPOCH: Final = 1_700_000_000
TIMED: Final = ("a", "b")  # their readings bear their own time, a second apart, however fast they come
BY_ARRIVAL: Final = "hall"
ODD_READINGS: Final = 8
APART_S: Final = 40.0  # disturbances of a stream; what comes while an alert still fires is the same alert
WEEKEND_S: Final = 2 * 86400


def persistent(client_id: str, port: int) -> Client:
    """Return a client whose session the broker keeps, not yet connected."""
    client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
    client.reconnect_delay_set(1, 1)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 86400
    client.connect_async("127.0.0.1", port, 30, clean_start=False, properties=properties)
    return client


class Disturbance:
    """Some odd readings of a stream, of which exactly one alert is expected. Times are those of the readings."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.times: list[float] = []
        self.numbers: list[int] = []

    @property
    def over(self) -> bool:
        return len(self.times) == ODD_READINGS

    def explains(self, stream: str, started_at: float, late_s: float = 5.0) -> bool:
        """Tell whether an alert that began then, `late_s` after its last reading at most, is about it."""
        if stream != f"pump/{self.stream}" or not self.times:
            return False
        return self.times[0] <= started_at <= self.times[-1] + late_s


class Plant:
    """Readings at `rate` per second and stream. `accepted` are the numbers of those that the broker has taken."""

    def __init__(self, port: int, seed: int, rate: float) -> None:
        self.published = 0
        self.disturbances: list[Disturbance] = []
        self.rate = rate
        self._rng = random.Random(seed)
        self._sent: dict[int, int] = {}  # number of a reading to its packet's
        self._answered: set[int] = set()  # packets
        self._taken: set[int] = set()
        self._clock = dict.fromkeys(TIMED, EPOCH)
        self._odd: dict[str, tuple[Disturbance, float]] = {}
        self._odd_until = dict.fromkeys(TIMED, 0.0)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._client = persistent("plant", port)
        self._client.on_publish = lambda _client, _data, packet, *_: self._answered.add(packet)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self) -> bool:
        return self._client.is_connected()

    def accepted(self) -> set[int]:
        """Return the numbers of the readings that the broker has acknowledged to us."""
        with self._lock:
            for number in [one for one, packet in self._sent.items() if packet in self._answered]:
                self._answered.discard(self._sent.pop(number))
                self._taken.add(number)
            return set(self._taken)

    def disturb(self) -> None:
        """Disturb a stream from its next reading on, if one has been as usual for a while."""
        with self._lock:
            free = [stream for stream in TIMED if self._clock[stream] > self._odd_until[stream] + APART_S]
            if free:
                disturbance = Disturbance(self._rng.choice(free))
                self.disturbances.append(disturbance)
                self._odd_until[disturbance.stream] = math.inf
                self._odd[disturbance.stream] = (disturbance, self._rng.choice((-1, 1)) * self._rng.uniform(6, 12))

    def weekend(self) -> None:
        """Let two days pass without a reading."""
        with self._lock:
            for stream in TIMED:
                self._clock[stream] += WEEKEND_S

    def burst(self, readings: int) -> int:
        """Publish so many readings of each stream at once; return the last number."""
        for _ in range(readings):
            self._publish_all()
        return self.published

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            self._publish_all()
            due = max(due + 1 / self.rate, time.monotonic() - 1.0)
            self._stopping.wait(max(0.0, due - time.monotonic()))

    def _publish_all(self) -> None:
        with self._lock:
            for stream in TIMED:
                self._publish_timed(stream)
            self._publish(f"plant/{BY_ARRIVAL}/climate", {"level": 50 + self._rng.gauss(0, 1)})

    def _publish_timed(self, stream: str) -> None:
        self._clock[stream] += 1
        at = self._clock[stream]
        added = 0.0
        if stream in self._odd:
            disturbance, added = self._odd[stream]
            disturbance.times.append(at)
            disturbance.numbers.append(self.published + 1)
            if disturbance.over:
                del self._odd[stream]
                self._odd_until[stream] = at
        temp = 20 + math.sin(at / 15) + self._rng.gauss(0, 0.1) + added
        self._publish(f"plant/{stream}/telemetry", {"ts": at, "temp": temp, "flow": 5 + self._rng.gauss(0, 0.2)})

    def _publish(self, topic: str, values: dict[str, float]) -> None:
        self.published += 1
        self._sent[self.published] = self._client.publish(topic, json.dumps({**values, "n": self.published}), 1).mid
