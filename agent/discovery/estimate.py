"""What a proposal costs and how long it learns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from agent.core.pace import pace
from agent.core.views import SHORTEST_SPAN
from agent.core.windowing import RING_ROWS

if TYPE_CHECKING:
    from agent.discovery.entry import Entry

DEFAULT_MEMORY_BYTES: Final = 256_000_000
DEFAULT_STREAMS: Final = 1000
DEFAULT_PAYLOAD_BYTES: Final = 1_000_000
_SPARE: Final = 1.25
_MEMORY_STEP: Final = 64_000_000
_STREAMS_STEP: Final = 500
_SUPPORTED_PER_DAY: Final = (
    28  # streams at a decision a second for which one alarm a day can be told from common scores
)


class Costs(msgspec.Struct, frozen=True):
    """What things cost in this version: bytes, grid rows and pictures that are learnt before the first decision.

    `rows` are those of a stream that decides at each of them.
    """

    base_bytes: int
    channel_bytes: int
    picture_bytes: int
    rows: int
    pictures: int

    def learnt(self, entry: Entry) -> int:
        """Return how many messages of a stream are learnt before its first decision."""
        if entry.pictures or entry.period_s is None:
            return self.pictures if entry.pictures else self.rows
        return min((self.rows - SHORTEST_SPAN) * pace(entry.period_s) + SHORTEST_SPAN, RING_ROWS)


class Estimate(msgspec.Struct, frozen=True):
    """Of one entry or of all. `learning_s` None: no period is known."""

    streams: int
    channels: int
    bytes: int
    rate_per_s: float
    learning_s: float | None


def of_entry(entry: Entry, costs: Costs) -> Estimate:
    """Return what an entry costs, without the program itself."""
    streams = entry.streams
    each = costs.picture_bytes if entry.pictures else costs.channel_bytes
    learning_s = None if entry.period_s is None else costs.learnt(entry) * max(entry.period_s, entry.every_s or 0.0)
    return Estimate(streams, entry.lanes, entry.lanes * each, entry.rate_per_s, learning_s)


def of_all(parts: list[Estimate], costs: Costs) -> Estimate:
    """Return what all entries and the program cost together; learning is that of the slowest."""
    return Estimate(
        sum(one.streams for one in parts),
        sum(one.channels for one in parts),
        costs.base_bytes + sum(one.bytes for one in parts),
        sum(one.rate_per_s for one in parts),
        max((one.learning_s for one in parts if one.learning_s is not None), default=None),
    )


def memory_limit_bytes(whole: Estimate) -> int | None:
    """Return what `agent.memory_limit` must be, None where the default is enough."""
    wanted = whole.bytes * _SPARE
    return None if wanted <= DEFAULT_MEMORY_BYTES else math.ceil(wanted / _MEMORY_STEP) * _MEMORY_STEP


def max_streams(whole: Estimate) -> int | None:
    """Return what `agent.max_streams` must be, None where the default is enough."""
    wanted = whole.streams * _SPARE
    return None if wanted <= DEFAULT_STREAMS else math.ceil(wanted / _STREAMS_STEP) * _STREAMS_STEP


def max_payload_bytes(entries: list[Entry]) -> int | None:
    """Return what `agent.max_payload` must be for payloads twice as large as those seen, None for the default."""
    largest = 2 * max((entry.largest for entry in entries), default=0)
    return None if largest <= DEFAULT_PAYLOAD_BYTES else math.ceil(largest / 1e6) * 1_000_000


def alarms_per_day(whole: Estimate) -> int:
    """Return a budget for all streams together which their scores can support."""
    return max(1, math.ceil(whole.streams / _SUPPORTED_PER_DAY))
