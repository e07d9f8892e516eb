"""Topics as the configuration writes them: MQTT topic filters, with `{device}` and `{channel}` in place of a `+`.

Which stream a topic belongs to, what it is named after, and which of its channels it carries.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

DEVICE: Final = "{device}"
CHANNEL: Final = "{channel}"
_WILDCARDS: Final = ("+", DEVICE)
MAX_TOPIC_BYTES: Final = 65535


class Match(msgspec.Struct, frozen=True):
    """What a topic is to a pattern.

    `parts` are the levels that tell streams apart, in order. `topic` is the stream's own: the same for all topics of
    one stream, and matched by the pattern. `channel` is what `{channel}` stands for.
    """

    parts: tuple[str, ...]
    topic: str
    channel: str | None = None


class TopicPattern:
    """A topic filter; `{device}` is a `+` with a name, `{channel}` a level that tells channels of one stream apart.

    `{channel}/#` takes all further levels into the channel's name, with `/` between them. Levels at the places `aside`
    tell streams apart as little as `{channel}` does; in a stream's own topic they are `+`.
    """

    def __init__(self, text: str, aside: Collection[int] = ()) -> None:
        self.text = text
        self._share, bare = unshared(text)
        self._levels = bare.split("/")
        self._aside = frozenset(aside)

    @property
    def filter(self) -> str:
        """Return the MQTT topic filter that is subscribed to."""
        return self._share + "/".join("+" if level in {DEVICE, CHANNEL} else level for level in self._levels)

    @property
    def joins(self) -> bool:
        """Tell whether several topics make one stream, each with channels of its own."""
        return CHANNEL in self._levels

    @property
    def makes_many(self) -> bool:
        """Tell whether its wildcards tell streams apart, so that there may be several."""
        return any(
            (level in _WILDCARDS and index not in self._aside) or (level == "#" and not self.joins)
            for index, level in enumerate(self._levels)
        )

    @property
    def example(self) -> str:
        """Return the own topic of a stream that matches."""
        levels = self._levels[:-1] if self.joins and self._levels[-1] == "#" else self._levels
        named = ("replay" if level in {*_WILDCARDS, "#"} else level for level in levels)
        return "/".join("+" if index in self._aside else level for index, level in enumerate(named))

    def match(self, topic: str) -> Match | None:
        """Return what a topic is to this pattern, None if it does not match (MQTT 5, section 4.7)."""
        given = topic.split("/")
        if topic.startswith("$") and not self._levels[0].startswith("$"):
            return None
        parts: list[str] = []
        own = list(given)
        channel = None
        for index, level in enumerate(self._levels):
            if level == "#":
                rest = given[index:]
                if channel is not None:
                    own, channel = own[:index], "/".join([channel, *rest])
                else:
                    for place, one in enumerate(rest, index):
                        self._take(place, one, own, parts)
                return Match(tuple(parts), "/".join(own), channel)
            if index >= len(given):
                return None
            if level == CHANNEL:
                own[index], channel = CHANNEL, given[index]
            elif level in _WILDCARDS:
                self._take(index, given[index], own, parts)
            elif level != given[index]:
                return None
        return Match(tuple(parts), "/".join(own), channel) if len(self._levels) == len(given) else None

    def _take(self, place: int, level: str, own: list[str], parts: list[str]) -> None:
        if place in self._aside:
            own[place] = "+"
        else:
            parts.append(level)


def pattern_problem(text: str, *, may_join: bool) -> str | None:
    """Return what is wrong with a pattern's placeholders, None if nothing is; filters have rules of their own."""
    levels = text.split("/")
    for name in (DEVICE, CHANNEL):
        if levels.count(name) > 1:
            return f"{name} at most once"
    for level in levels:
        if ("{" in level or "}" in level) and level not in {DEVICE, CHANNEL}:
            return f"{DEVICE} or {CHANNEL}, alone in a level"
    if CHANNEL in levels and not may_join:
        return f"no {CHANNEL}: only readings are joined"
    if "#" in levels and CHANNEL in levels and levels.index("#") != levels.index(CHANNEL) + 1:
        return f"# only next to {CHANNEL}"
    return None


def valid_filter(topic: str) -> bool:
    """Tell whether this is an MQTT topic filter (MQTT 5, section 4.7.1)."""
    levels = topic.split("/")
    return (
        bool(topic)
        and "\0" not in topic
        and len(topic.encode()) <= MAX_TOPIC_BYTES
        and all(
            ("+" not in level or level == "+") and ("#" not in level or (level == "#" and index == len(levels) - 1))
            for index, level in enumerate(levels)
        )
    )


def unshared(text: str) -> tuple[str, str]:
    """Return `$share/GROUP/` and the filter behind it (MQTT 5, section 4.8.2); any other filter behind nothing."""
    if not text.startswith("$share/"):
        return "", text
    share, group, bare = (*text.split("/", 2), "")[:3]
    return f"{share}/{group}/", bare
