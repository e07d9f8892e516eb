"""What memory a configuration asks for, by the reckoning that `agent.memory_limit` is kept with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.mqtt import Topics
from agent.adapters.telemetry import SilentObserver
from agent.config import ImageSettings
from agent.pipeline import Pipeline
from agent.room import BASE_BYTES, Room, waiting_bytes
from agent.routing import pattern_of, stream_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config import Configuration
    from agent.ports import Encoder, PictureEncoder
    from agent.stream import Stream

_MB: Final = 1e6


class Entry(msgspec.Struct, frozen=True):
    """What one stream of an entry takes, bytes. `many`: there may be several; `bare`: its channels are not known."""

    name: str
    stream_bytes: int
    many: bool
    bare: bool


class Estimate(msgspec.Struct, frozen=True):
    """One stream of each entry. `left_bytes`: what the limit leaves for more, less than nothing where it is too low."""

    limit_bytes: int
    waiting_bytes: int
    left_bytes: int
    entries: list[Entry]

    @property
    def needed_bytes(self) -> int:
        """Return what is needed at least."""
        return self.limit_bytes - self.left_bytes


def estimate(configuration: Configuration, encoders: Mapping[str, Encoder | PictureEncoder]) -> Estimate:
    """Weigh one stream of each entry, as it will be once it has learnt."""
    agent = configuration.agent
    pipeline = Pipeline(configuration, encoders, Topics(agent.topic_prefix, agent.id or "agent"), SilentObserver())
    streams: dict[str, Stream] = {}
    room, entries = Room(streams), []
    for settings in configuration.streams:
        pattern = pattern_of(settings)
        name = stream_name(settings.name, [])
        streams[name] = stream = pipeline.make(name, pattern.example, settings)
        room.enter(stream)
        bare = not isinstance(settings, ImageSettings) and not settings.channels
        entries.append(Entry(name, stream.bytes, pattern.makes_many, bare))
    return Estimate(agent.memory_limit_bytes, waiting_bytes(agent), room.left(agent), entries)


def told(found: Estimate) -> list[str]:
    """Return the estimate in words, line by line."""
    streams = sum(one.stream_bytes for one in found.entries)
    what = "one stream" if len(found.entries) == 1 else "one stream of each entry"
    total = (
        f"memory: about {found.needed_bytes / _MB:.0f} MB of agent.memory_limit's {found.limit_bytes / _MB:.0f}: "
        f"{BASE_BYTES / _MB:.0f} for the program, {found.waiting_bytes / _MB:.0f} for messages that wait, "
        f"{streams / _MB:.1f} for {what}"
    )
    lines = [total]
    for one in found.entries:
        if one.many:
            more = max(0, found.left_bytes // one.stream_bytes)
            channel = " with one channel" if one.bare else ""
            lines.append(
                f"  {one.name}: {one.stream_bytes / _MB:.2g} MB for each stream{channel}; room for {more} more"
            )
    return lines


def doubts(found: Estimate) -> list[str]:
    """Return a sentence where the limit is too low."""
    if found.left_bytes >= 0:
        return []
    doubt = (
        f"agent.memory_limit {found.limit_bytes / _MB:.0f} MB: one stream of each entry takes about "
        f"{found.needed_bytes / _MB:.0f} MB; streams for which there is no memory are rejected; raise it, or lower "
        "reference.size"
    )
    return [doubt]
