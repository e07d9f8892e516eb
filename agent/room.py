"""How much memory streams take, and how many of them there is room for.

Thousands are not weighed one by one whenever this is asked: each is when it is made, again before the next one is made,
and then in turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config import AgentSettings
    from agent.stream import Stream

BASE_BYTES: Final = 80_000_000  # what the program takes without any stream and any message (docs/benchmarks.md)
WAITING_SHARE: Final = 32  # the part of the memory limit that messages which wait may take
WEIGHED_AT_ONCE: Final = 500


def waiting_bytes(agent: AgentSettings) -> int:
    """Return how many bytes of messages may wait to be processed."""
    return max(agent.memory_limit_bytes // WAITING_SHARE, 2 * agent.max_payload_bytes)


class Room:
    """Weighs `streams`, a live view of what is watched, by name."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self._streams = streams
        self._bytes: dict[str, int] = {}
        self._newest: str | None = None
        self._turn: list[str] = []
        self.used = 0
        self.twice = 0  # what streams take again while they are carried over to another encoder

    def streams_max(self, agent: AgentSettings) -> int:
        """Return how many streams there may be: `max_streams`, or as many like those there are as memory allows."""
        left = self.left(agent)
        count = len(self._bytes)
        typical = self.used / count if count else 1.0
        return max(1, min(agent.max_streams, count + int(left // typical)))

    def left(self, agent: AgentSettings) -> int:
        """Return the memory that no stream takes yet; less than nothing where they take more than there is.

        What is taken twice for a while is not in it: no stream is turned away for that.
        """
        return agent.memory_limit_bytes - BASE_BYTES - waiting_bytes(agent) - self.used

    def leave(self, stream: Stream) -> None:
        """Let a stream go that is watched no longer."""
        self._weigh(stream.name)

    def enter(self, stream: Stream) -> None:
        """Weigh a stream that was made."""
        self._weigh(stream.name)
        self._newest = stream.name

    def settle(self) -> None:
        """Weigh the stream that was made last once more: by now it has told its channels."""
        if self._newest is not None:
            self._weigh(self._newest)
            self._newest = None

    def turn(self) -> None:
        """Weigh some of the streams again, those that were not for longest: they grow while they learn."""
        self.settle()
        for _ in range(min(WEIGHED_AT_ONCE, len(self._bytes))):
            if not self._turn:
                self._turn = list(self._bytes)
            self._weigh(self._turn.pop())

    def reset(self) -> None:
        """Weigh all streams anew."""
        self._bytes, self._turn, self._newest, self.used = {}, [], None, 0
        for name in self._streams:
            self._weigh(name)

    def _weigh(self, name: str) -> None:
        """Weigh a stream; one that is gone weighs nothing."""
        stream = self._streams.get(name)
        self.used -= self._bytes.pop(name, 0)
        if stream is not None:
            self._bytes[name] = stream.bytes
            self.used += self._bytes[name]
