"""Messages of many readings are taken a slice at a time, so that nothing else waits long for one of them.

What a slice may cost is counted, not timed, in units of about 10 microseconds of a fast server's core: the same
messages make the same slices everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.core.detector import Due

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from agent.adapters.payload.sparkplug import Reading
    from agent.core.detector import WarmUp
    from agent.core.types import Sample
    from agent.pipeline import Outcome
    from agent.ports import InboundMessage
    from agent.stream import Stream

SLICE: Final = 2000  # after which a message gives way
LARGE_BYTES: Final = 1000  # a payload of fewer, not compressed, has no more than some hundred readings
_DECODED_READING: Final = 8  # in values
_DECODED_PER_UNIT: Final = 64  # values
_READING: Final = 1
_CHANNELS_PER_UNIT: Final = 16  # of a reading
_DECISION: Final = 90
_DECISION_CHANNEL: Final = 20
_PART: Final = 500  # of a warm-up: windows compared with all others, or what several channels do together
_WINDOW: Final = 10  # of a warm-up, embedded
_SAMPLE_BYTES: Final = 300  # about: a decoded reading without its values
_VALUE_BYTES: Final = 60


class Begun:
    """A message of which a part was taken; `work` takes the next part with each step, and yields what that has cost.

    `line`: messages of one line are taken in their order. `outcome` is that of the slice under way, `bytes` about what
    the message takes until it is done, `readings` those of Sparkplug that are yet to be taken, once they were read.
    """

    __slots__ = ("bytes", "line", "message", "outcome", "readings", "stream", "work")

    def __init__(self, message: InboundMessage, outcome: Outcome) -> None:
        self.message, self.outcome = message, outcome
        self.line = ""
        self.stream: Stream | None = None
        self.readings: Iterator[Reading] | None = None
        self.bytes = 0
        self.work: Generator[int]

    def weigh(self, samples: list[Sample] | list[Reading]) -> int:
        """Know what was decoded, at least one reading; return what that has cost."""
        channels = len(samples[0].values)  # all are about alike
        self.bytes = len(self.message.payload) + len(samples) * (_SAMPLE_BYTES + _VALUE_BYTES * channels)
        return len(samples) * (_DECODED_READING + channels) // _DECODED_PER_UNIT


def cost_of(sample: Sample, due: Due | WarmUp | None) -> int:
    """Return what a reading has cost, and the decision that was due with it."""
    cost = _READING + len(sample.values) // _CHANNELS_PER_UNIT
    return cost + _DECISION + _DECISION_CHANNEL * len(due.run) if isinstance(due, Due) else cost


def cost_of_part(windows: int) -> int:
    """Return what a part of a warm-up has cost that had so many windows."""
    return _PART + _WINDOW * windows
