"""What the agent has the broker keep: states, heatmaps, announcements to Home Assistant; and how it is cleared.

The worker's, apart from `renew`, `greet` and `say_stuck`. Nothing is published twice for nothing: what was is
remembered until a new connection, or Home Assistant, asks for all of it again. What the client cannot take now is tried
again later.
"""

from __future__ import annotations

import logging
import random
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.homeassistant import (
    MAX_NAME_BYTES,
    AgentDescription,
    Announcements,
    Discovery,
    StreamDescription,
)
from agent.core.types import StreamPhase
from agent.picture_stream import PictureStream
from agent.routing import stream_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agent.adapters.mqtt import MqttClient, Topics
    from agent.adapters.store import Store
    from agent.adapters.telemetry import Telemetry
    from agent.config import Configuration
    from agent.pipeline import Outcome
    from agent.stream import Stream

logger = logging.getLogger(__name__)

STATE_S: Final = 60.0
LOOKED_AT_ONCE: Final = 1000  # streams; of more, each is looked at every few seconds
ANNOUNCED_AT_ONCE: Final = 50  # Home Assistant makes some ten entities of each, and `publish` is called each second
GREETED_WITHIN_S: Final = 5.0  # a random part of it, so that not every device of a home answers at once


class LastAlert(msgspec.Struct, frozen=True):
    """What the state tells of the stream's last alert message."""

    id: str
    kind: str
    event: str
    severity: str
    started_at: str
    at: str
    ended_at: str | None
    score: float | None
    message: str
    evidence: msgspec.Raw


class Publications:
    """Publishes for `streams`, a live view of what is watched. `on_disk` tells whether a write to `store` worked."""

    def __init__(
        self,
        configuration: Configuration,
        topics: Topics,
        streams: Mapping[str, Stream],
        mqtt: MqttClient,
        store: Store,
        telemetry: Telemetry,
        announcements: Announcements | None,
        on_disk: Callable[[Callable[[], None]], bool],
        troubles: Callable[[], list[str]],
    ) -> None:
        self.mqtt = mqtt
        self.renewal = False
        self._topics, self._streams, self._store = topics, streams, store
        self._telemetry, self._on_disk, self._troubles = telemetry, on_disk, troubles
        self._greeted = False
        self._agent: tuple[object, float] | None = None  # what the agent's state said last, and when
        self._told: dict[str, object] = {}  # all of it
        self._states: dict[str, tuple[object, float]] = {}  # of each stream, likewise
        self._turn: list[str] = []  # streams that are yet to be looked at
        self._learning = self._firing = 0  # of those that were
        self._heatmaps: dict[str, bytes] = {}  # to be published
        self._announcements: Announcements | None = None
        self._announced: set[str] = set()  # streams, and the agent's device
        self._announce_from = 0.0
        self._retained = store.retained()
        self._stored = set(self._retained)
        self._last_alerts = {topic: _last_alert(payload) for topic, payload in store.last_alerts().items()}
        self._gone: set[str] = set()  # streams that are watched no longer, though an entry of their name is there
        self.configure(configuration, announcements)

    def configure(
        self,
        configuration: Configuration,
        announcements: Announcements | None,
        removed: Iterable[str] = (),
        renewed: Iterable[str] = (),
    ) -> None:
        """Go by another configuration; what is kept for the streams `removed`, or unknown to it, is cleared.

        The streams `renewed` have other settings, maybe another encoder or kind: they are told and announced again.
        """
        self._names = tuple(stream_name(settings.name, []) for settings in configuration.streams)
        if announcements != self._announcements:
            self._announcements = announcements
            self._announced.clear()
        removed = set(removed)
        for name in removed.union(renewed):
            self._states.pop(name, None)
            self._heatmaps.pop(name, None)
            self._announced.discard(name)
        self._gone |= removed
        self._clearing = True

    def renew(self) -> None:
        """Have everything published again: the broker may have lost it. Any thread's."""
        self.renewal = True

    def greet(self) -> None:
        """Have everything announced again: Home Assistant has started. Any thread's."""
        self._greeted = True

    def say_stuck(self) -> None:
        """Publish that the worker does not move; it takes that back itself. The main thread's."""
        if self._told:
            self._agent = None
            told = {**self._told, "hearing": self.mqtt.ears.hearing, "stuck": True}
            self.mqtt.publish(self._topics.agent_state, msgspec.json.encode(told), qos=1, retain=True)

    def told(self, outcome: Outcome, now: float, at: float) -> None:
        """Publish the states of streams whose alerts, now on disk, have changed."""
        for row in outcome.outbox:
            self._last_alerts[row.topic] = _last_alert(row.payload)
        if self.mqtt.connected:
            for name in {row.stream for row in outcome.alerts} & self._streams.keys():
                self._publish_state(self._streams[name], now, at)
            self._remember()

    def decided(self, outcome: Outcome) -> None:
        """Publish what is not kept waiting for the disk: heatmaps, and scores where they are asked for."""
        for decided in outcome.decided:
            stream = self._streams[decided.stream]
            if stream.settings.score_topic.value == "always":
                found = decided.assessment
                body = {"at": found.at, "score": found.score, "p_value": found.p_value}
                self.mqtt.publish(self._topics.score(stream.name), msgspec.json.encode(body), qos=0)
        if outcome.heatmaps:
            self._heatmaps |= {one.stream: one.png for one in outcome.heatmaps}
            self._publish_heatmaps()
            self._remember()

    def publish(self, now: float, at: float) -> None:
        """Publish what is due, a state at least once a minute. `now`: a monotonic clock; `at`: s since the epoch."""
        if not self.mqtt.connected:
            return
        if self.renewal:
            self.renewal = False
            self._agent, self._clearing = None, True
            self._turn = []
            self._states.clear()
            self._announced.clear()
            for stream in self._streams.values():
                if isinstance(stream, PictureStream) and stream.heatmap:
                    self._heatmaps[stream.name] = stream.heatmap
        if self._greeted:
            self._greeted = False
            self._announced.clear()
            self._announce_from = now + random.uniform(0.0, GREETED_WITHIN_S)  # noqa: S311  nothing secret
        self._look(now, at)
        self._publish_heatmaps()
        if self._announcements is not None and now >= self._announce_from:
            self._announce(self._announcements)
        if self._clearing:
            self._clear_gone()
        self._remember()

    def _publish_state(self, stream: Stream, now: float, at: float) -> None:
        """Publish a stream's state if it has changed, or a minute is over."""
        last_alert = self._last_alerts.get(self._topics.alert(stream.name))
        snoozes = [machine.snoozed_until for machine in stream.alerts.values()]
        snoozed = max(snoozes) > at
        key = (stream.phase, [machine.state for machine in stream.alerts.values()], snoozes, snoozed, last_alert)
        before, said_at = self._states.get(stream.name, (None, 0.0))
        if key != before or now - said_at >= STATE_S:
            body = {**stream.state(), "snoozed": snoozed, "last_alert": last_alert}
            if self._retain(self._topics.state(stream.name), msgspec.json.encode(body)):
                self._states[stream.name] = (key, now)
                self._gone.discard(stream.name)

    def _look(self, now: float, at: float) -> None:
        """Publish the states that have changed without an alert; when all streams were looked at, the agent's own."""
        if not self._turn:
            self._turn, self._learning, self._firing = list(self._streams)[::-1], 0, 0
        for name in reversed(self._turn[-LOOKED_AT_ONCE:]):
            stream = self._streams.get(name)
            if stream is not None:
                self._publish_state(stream, now, at)
                self._learning += stream.phase is StreamPhase.LEARNING
                self._firing += stream.firing
        del self._turn[-LOOKED_AT_ONCE:]
        if not self._turn:
            self._publish_agent(now)

    def _publish_agent(self, now: float) -> None:
        counts: dict[str, object] = {
            "hearing": self.mqtt.ears.hearing,
            "stuck": False,
            "streams": len(self._streams),
            "learning": self._learning,
            "firing": self._firing,
            "troubles": self._troubles(),
        }
        before, said_at = self._agent or (None, 0.0)
        if counts != before or now - said_at >= STATE_S:
            body = {**counts, **self._telemetry.totals()}
            if self._retain(self._topics.agent_state, msgspec.json.encode(body)):
                self._agent, self._told = (counts, now), body

    def _publish_heatmaps(self) -> None:
        for name in list(self._heatmaps):
            if not self._retain(self._topics.heatmap(name), self._heatmaps[name]):
                return
            del self._heatmaps[name]

    def _announce(self, announcements: Announcements) -> None:
        """Announce some of the devices that are not announced yet, the agent's before those that refer to it."""
        device, left = announcements.agent_device, ANNOUNCED_AT_ONCE
        if device not in self._announced:
            if not self._retain(announcements.topic(device), announcements.of_agent()):
                return
            self._announced.add(device)
        for stream in self._streams.values():
            if stream.name in self._announced:
                continue
            if len(stream.name.encode()) > MAX_NAME_BYTES:
                logger.warning("not announced to Home Assistant, for its name is too long: %.100s...", stream.name)
            elif not left or not self._retain(
                announcements.topic(announcements.device(stream.name)), announcements.of_stream(self._described(stream))
            ):
                return
            self._announced.add(stream.name)
            left -= 1

    def _described(self, stream: Stream) -> StreamDescription:
        return StreamDescription(
            stream.name,
            stream.encoder_tag["name"] if stream.encoder_tag else None,
            self._topics.state(stream.name),
            self._topics.heatmap(stream.name) if isinstance(stream, PictureStream) else None,
        )

    def _retain(self, topic: str, payload: bytes) -> bool:
        """Publish what the broker shall keep; tell whether the client took it."""
        taken = self.mqtt.publish(topic, payload, qos=1, retain=True)
        if taken:
            self._retained.add(topic)
        return taken

    def _clear_gone(self) -> None:
        """Clear what is kept for streams that are no longer configured, and what is no longer announced."""
        wanted = {self._topics.agent_state}
        devices = set()
        for topic in self._retained:
            name = self._name(topic)
            if name is not None:
                devices.add(name)
                if not self._shows_no_picture(topic, name):
                    wanted.add(topic)
        if self._announcements is not None:
            wanted |= {self._announcements.topic(self._announcements.device(name)) for name in devices}
            wanted.add(self._announcements.topic(self._announcements.agent_device))
        for topic in sorted(self._retained - wanted):
            if not self.mqtt.publish(topic, b"", qos=1, retain=True):
                return
            self._retained.discard(topic)
        gone = [topic for topic in self._last_alerts if self._name(topic) is None]
        if not gone or self._on_disk(lambda: self._store.forget_last_alerts(gone)):
            self._clearing = False
            self._gone.clear()
            for topic in gone:
                del self._last_alerts[topic]

    def _name(self, topic: str) -> str | None:
        """Return the configured stream that one of its topics names, None if there is none."""
        if not topic.startswith(self._topics.root):
            return None
        name = topic.removeprefix(self._topics.root).rpartition("/")[0]
        known = any(name == one or name.startswith(f"{one}/") for one in self._names)
        return name if known and name not in self._gone else None

    def _shows_no_picture(self, topic: str, name: str) -> bool:
        """Tell whether a topic is the heatmap of a stream that was of pictures once, and is no longer."""
        stream = self._streams.get(name)
        return topic == self._topics.heatmap(name) and stream is not None and not isinstance(stream, PictureStream)

    def _remember(self) -> None:
        """Have what is retained on disk."""
        if self._retained != self._stored:
            added, dropped = self._retained - self._stored, self._stored - self._retained
            if self._on_disk(lambda: self._store.change_retained(added, dropped)):
                self._stored = set(self._retained)


def announcements_of(configuration: Configuration, topics: Topics) -> Announcements | None:
    """Return what Home Assistant is told of the agent, None if it is told nothing."""
    if configuration.homeassistant.discovery is Discovery.NEVER:
        return None
    agent = AgentDescription(
        id=configuration.agent.id,
        version=version("redshank"),
        root=topics.root,
        status_topic=topics.status,
        state_topic=topics.agent_state,
        reply_topic=topics.reply,
        command_topic=topics.command if configuration.commands.enabled else None,
    )
    return Announcements(configuration.homeassistant, agent)


def _last_alert(payload: bytes) -> LastAlert:
    return msgspec.json.decode(payload, type=LastAlert)
