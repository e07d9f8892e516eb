"""Which stream a message belongs to: the first entry whose pattern matches its topic takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.mqtt.topics import escape
from agent.adapters.payload import Format
from agent.adapters.payload.sparkplug import NAMESPACE, TYPE_LEVEL, address
from agent.config import SensorSettings
from agent.topic_pattern import TopicPattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config import Configuration, StreamSettings

MAX_TOPIC_BYTES: Final = 1_000  # a stream keeps its topic, and what is made of it, some dozen times
_REMEMBERED: Final = 16  # topics for each stream that there may be; of more, the way is looked for each time
_OTHERS: Final = 2  # the same, of topics that belong to no stream


class Route(msgspec.Struct, frozen=True):
    """Where a message belongs. `topic` is the stream's own, `channel` what `{channel}` stands for in the message's.

    `line`: messages of one line are taken in the order in which they came.
    """

    name: str
    topic: str
    settings: StreamSettings
    line: str
    channel: str | None = None


class Router:
    """Finds the way of each topic."""

    def __init__(self, configuration: Configuration) -> None:
        self._entries = [(pattern_of(settings), settings) for settings in configuration.streams]
        self._most = configuration.agent.max_streams
        self._routes: dict[str, Route] = {}
        self._elsewhere: set[str] = set()

    def find(self, topic: str) -> Route | None:
        """Return where messages of a topic belong, None if nowhere."""
        found = self._routes.get(topic)
        if found is not None or topic in self._elsewhere:
            return found
        found = self._look(topic)
        if len(topic.encode()) > MAX_TOPIC_BYTES:
            return found  # many of these would be too much to remember
        if found is None:
            if len(self._elsewhere) < _OTHERS * self._most:
                self._elsewhere.add(topic)
        elif len(self._routes) < _REMEMBERED * self._most:
            self._routes[topic] = found
        return found

    def _look(self, topic: str) -> Route | None:
        for pattern, settings in self._entries:
            found = pattern.match(topic)
            if found is not None:
                if is_sparkplug(settings) and address(_of_any_type(topic)) is None:
                    continue  # commands, and states of hosts
                name = stream_name(settings.name, found.parts)
                return Route(name, found.topic, settings, line_of(name, found.topic, settings), found.channel)
        return None

    def sees_all(self, topic: str) -> bool:
        """Tell whether every message of the Sparkplug node of a topic comes here."""
        return any(
            is_sparkplug(settings) and pattern.text.endswith("#") and pattern.match(topic) is not None
            for pattern, settings in self._entries
        )


def pattern_of(settings: StreamSettings) -> TopicPattern:
    """Return the pattern of an entry's topics."""
    return TopicPattern(settings.topic, (TYPE_LEVEL,) if is_sparkplug(settings) else ())


def is_sparkplug(settings: StreamSettings) -> bool:
    """Tell whether an entry is of Sparkplug's nodes and devices."""
    return isinstance(settings, SensorSettings) and settings.format is Format.SPARKPLUG


def line_of(name: str, topic: str, settings: StreamSettings) -> str:
    """Return the line of a stream's messages: its name; of Sparkplug's, the node, whose births explain all of it."""
    whom = address(_of_any_type(topic)) if is_sparkplug(settings) else None
    return name if whom is None else f"{NAMESPACE}/{whom.node}"


def stream_name(name: str, parts: Sequence[str]) -> str:
    """Return the configured name and the wildcards' parts, each escaped as one topic level: injective."""
    return "/".join([escape(name), *(escape(part) for part in parts)])


def _of_any_type(topic: str) -> str:
    """Return a stream's own topic, whose type is a `+`, with a type; any other as it is."""
    levels = topic.split("/")
    if len(levels) > TYPE_LEVEL and levels[TYPE_LEVEL] == "+":
        levels[TYPE_LEVEL] = "DDATA" if len(levels) > TYPE_LEVEL + 2 else "NDATA"
    return "/".join(levels)
