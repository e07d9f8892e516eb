"""From what is heard of one stream to its samples: decoded, and joined where a sample is in several messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.adapters.payload import Format, PayloadRejected, RejectReason, make_decoder, watched
from agent.adapters.payload.sparkplug_wire import MAX_METRICS
from agent.core.joining import ChannelJoin, StandingValues
from agent.core.types import Sample
from agent.topic_pattern import TopicPattern

if TYPE_CHECKING:
    from agent.adapters.payload.sparkplug import Reading
    from agent.config import SensorSettings

_BARE: Final = "value"  # what a number by itself is called


class Intake:
    """Makes samples of one stream's messages, in order."""

    def snapshot(self) -> Any:
        """Return what is needed to go on as if never stopped, None if nothing is."""
        return None

    def restore(self, state: Any) -> None:
        """Go on from a snapshot of the same kind; one of another kind counts for nothing."""


class MessageIntake(Intake, ABC):
    """Each message can be read by itself."""

    @abstractmethod
    def take(self, payload: bytes, received_at: float, channel: str | None) -> list[Sample]:
        """Return the samples that a message completes, oldest first. Raises PayloadRejected."""


class PlainIntake(MessageIntake):
    """Each message has whole samples."""

    def __init__(self, settings: SensorSettings, max_bytes: int) -> None:
        self._decode = make_decoder(settings, max_bytes)

    def take(self, payload: bytes, received_at: float, channel: str | None) -> list[Sample]:
        """Return the message's samples."""
        del channel
        return self._decode(payload, received_at)


class JoinedIntake(MessageIntake):
    """Each message has one channel, or several whose names begin with it: `{channel}` in the topic says which."""

    def __init__(self, settings: SensorSettings, max_bytes: int) -> None:
        self._decode = make_decoder(msgspec.structs.replace(settings, channels=(), ignore_channels=()), max_bytes)
        self._channels, self._watched = frozenset(settings.channels), watched(settings.ignore_channels)
        self._join = ChannelJoin(settings.carry_limit, settings.max_channels)

    def take(self, payload: bytes, received_at: float, channel: str | None) -> list[Sample]:
        """Return the samples that are complete with this message: none, or one or two of all channels."""
        rows = []
        for sample in self._decode(payload, received_at):
            values = {
                str(channel) if name == _BARE else f"{channel}.{name}": value for name, value in sample.values.items()
            }
            values = self._watched(values)
            if self._channels:
                values = {name: value for name, value in values.items() if name in self._channels}
            if not values:
                raise PayloadRejected(RejectReason.NO_CHANNEL)
            rows += self._join.push(sample.at, values)
        return rows

    def snapshot(self) -> Any:
        """Return what the join knows."""
        return {"join": self._join.snapshot()}

    def restore(self, state: Any) -> None:
        """Go on from there."""
        if state is not None and "join" in state:
            self._join.restore(state["join"])


class ReportIntake(Intake):
    """Each reading has what has changed since the last one: Sparkplug's."""

    def __init__(self, settings: SensorSettings) -> None:
        self._channels, self._watched = settings.channels, watched(settings.ignore_channels)
        self._max_channels, self._standing = settings.max_channels, StandingValues(MAX_METRICS)

    def report(self, reading: Reading) -> Sample:
        """Return the sample of all channels at a reading. Raises PayloadRejected."""
        values = self._watched(reading.values)
        if self._channels:
            values = {name: values[name] for name in self._channels if name in values}
        sample = self._standing.push(reading.at, values, reading.gone, anew=reading.is_birth)
        if len(sample.values) > self._max_channels:
            raise PayloadRejected(RejectReason.TOO_MANY_CHANNELS)
        if not sample.values:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return sample

    def snapshot(self) -> Any:
        """Return the values that stand."""
        return self._standing.snapshot()

    def restore(self, state: Any) -> None:
        """Go on from them."""
        if state is not None and "standing" in state:
            self._standing.restore(state)


def make_intake(settings: SensorSettings, max_bytes: int) -> Intake:
    """Return what makes samples of a stream's messages."""
    if settings.format is Format.SPARKPLUG:
        return ReportIntake(settings)
    if TopicPattern(settings.topic).joins:
        return JoinedIntake(settings, max_bytes)
    return PlainIntake(settings, max_bytes)
