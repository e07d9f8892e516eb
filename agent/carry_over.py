"""Carries streams over to another version of their encoder: embedded anew, in shadow, then switched.

One version after the other decides; no decision is left out, and none is made twice. A stream's alerts, their ids and
what its budget counted do not notice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar, Final, cast

import msgspec

from agent.core.alerting import AlertKind, AlertState
from agent.core.succession import Succession
from agent.core.types import Mode
from agent.picture_stream import PictureStream
from agent.stream import Heir, SensorStream, embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agent.config import AgentSettings, SensorSettings
    from agent.core.bank import DetectorBank, WarmUpPart
    from agent.core.detector import Due
    from agent.core.types import Assessment
    from agent.picture_heir import PictureHeir
    from agent.picture_sight import PictureSight
    from agent.ports import Encoder, PictureEncoder
    from agent.room import Room
    from agent.stream import Stream

logger = logging.getLogger(__name__)

SHADOW_DECISIONS: Final = 100  # that the new version makes beside the old one, at least
CALM_DECISIONS: Final = 32  # of these, the last: none of them odd
_TOO_LITTLE_AT_HAND: Final = (
    "stream %s keeps the version of its encoder %s that it has: in mode frozen nothing new is learnt, and too few of "
    "the %s that it learnt from are at hand; prime it anew"
)
_BUG: Final = "a bug in this program keeps stream %s with the version that it has"


class _Work(msgspec.Struct):
    """A stream of readings whose references are being embedded anew."""

    stream: SensorStream
    encoder: Encoder
    bank: DetectorBank
    succession: Succession
    parts: Iterator[WarmUpPart]
    learnt_from: ClassVar = "readings"

    @property
    def bytes(self) -> int:
        """Return the memory that it takes."""
        return len(self.stream.detector.grid.channels) * self.bank.lane_bytes

    def stands(self) -> bool:
        """Tell whether the stream is still what this began with."""
        return self.succession.is_of(self.stream.detector)

    def go_on(self) -> bool:
        """Embed some windows; tell whether there are more."""
        for part in self.parts:
            part.embedding = embedded(part, self.encoder)
            if not self.succession.at_once:
                return True
        return False

    def knows_enough(self) -> bool:
        """Tell whether it knows as much as the stream; where it does not, it is given up."""
        heir = self.succession.heir
        assert heir is not None
        if self.bank.remembers(heir, self.stream.bank, self.stream.detector):
            return True
        self.bank.release(heir)
        return False

    def heir_and_size(self) -> tuple[Heir, int]:
        """Return who takes the stream's place, and how many references it has."""
        heir = self.succession.heir
        assert heir is not None
        return Heir(self.encoder, self.bank, heir), self.bank.reference_size(heir)


class _Lessons(msgspec.Struct):
    """A stream of pictures whose heir learns from those that were kept. `changes` is the stream's, at the beginning."""

    stream: PictureStream
    encoder: PictureEncoder
    heir: PictureHeir
    lessons: Iterator[None]
    sight: PictureSight
    changes: int
    learnt_from: ClassVar = "pictures"

    @property
    def bytes(self) -> int:
        """Return the memory that it takes."""
        return self.heir.bytes

    def stands(self) -> bool:
        """Tell whether the stream is still what this began with."""
        return (self.stream.sight, self.stream.changes) == (self.sight, self.changes)

    def go_on(self) -> bool:
        """Learn from a picture; tell whether there are more."""
        for _ in self.lessons:
            return True
        return False

    def knows_enough(self) -> bool:
        """Tell whether it knows as much as a warm-up gives."""
        return self.heir.sight.learnt

    def heir_and_size(self) -> tuple[PictureHeir, int]:
        """Return who takes the stream's place, and how many references it has."""
        return self.heir, self.heir.sight.reference_fill


class CarryOver:
    """Works through the streams that do not have the encoder of that name in `encoders`, a little at a time.

    At first one stream takes twice its memory, and as many more as there is room for.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        encoders: Callable[[], Mapping[str, Encoder | PictureEncoder]],
        bank: Callable[[SensorSettings, Encoder], DetectorBank],
        room: Room,
    ) -> None:
        self._streams, self._encoders, self._bank, self._room = streams, encoders, bank, room
        self._behind: list[Stream] = []
        self._work: _Work | _Lessons | None = None

    @property
    def left(self) -> int:
        """Return how many streams still decide with another version than the newest one."""
        return len(self._behind)

    @property
    def banks(self) -> set[int]:
        """Return the ids of banks that are worked on, and that no stream uses yet."""
        return {id(self._work.bank)} if isinstance(self._work, _Work) else set()

    def add(self, stream: Stream) -> None:
        """Know of a stream that began with another version than the newest one."""
        if self._is_behind(stream) and stream not in self._behind:
            self._behind.append(stream)

    def look(self) -> None:
        """Find the streams that are to be carried over: encoders or streams have changed."""
        self._behind = [one for one in self._streams.values() if self._is_behind(one)]
        for stream in self._streams.values():
            if stream.heir is not None and not self._wants(stream, stream.heir.encoder):
                stream.disown()
        self._weigh()

    def _target(self, stream: Stream) -> Encoder | PictureEncoder | None:
        return self._encoders().get(stream.settings.encoder_name)

    def _is_behind(self, stream: Stream) -> bool:
        target = self._target(stream)
        if target is None or stream.encoder is None or stream.declined is target:
            return False
        return stream.signature_with(target) != stream.signature

    def _wants(self, stream: Stream, encoder: Encoder | PictureEncoder) -> bool:
        """Tell whether a stream is to be carried over to what is the same as this encoder."""
        return self._is_behind(stream) and stream.signature_with(self._target(stream)) == stream.signature_with(encoder)

    def advance(self, agent: AgentSettings) -> tuple[list[Stream], bool]:
        """Do a little, between two batches; return which streams were switched, and whether there is more to do now."""
        self._behind = [stream for stream in self._behind if self._streams.get(stream.name) is stream]
        if not self._behind:
            self._work = None
            self._weigh()
            return [], False
        switched = [stream for stream in self._behind if self._switch(stream)]
        if switched:
            self._behind = [stream for stream in self._behind if self._is_behind(stream)]
        busy = self._look_on() or self._prepare() or self._begin(agent)
        self._weigh()
        return switched, busy

    def _switch(self, stream: Stream) -> bool:
        """Let a stream's heir take its place, where that is ready, or was not needed; tell whether it did."""
        target = self._target(stream)
        if isinstance(stream, PictureStream):
            if stream.blank:
                stream.use(cast("PictureEncoder", target))
                return True
        elif isinstance(stream, SensorStream) and not stream.learnt:
            encoder = cast("Encoder", target)
            bank = self._bank(stream.settings, encoder)
            detector = bank.detector()
            detector.grid, detector.scale = stream.detector.grid, stream.detector.scale
            stream.heir = Heir(encoder, bank, detector)
            stream.inherit()
            return True
        if stream.heir is None or not _is_ready(stream, stream.heir):
            return False
        stream.inherit()
        return True

    def _look_on(self) -> bool:
        """Let the heir of a stream of pictures look at one that waits for it; tell whether there was one."""
        for stream in self._behind:
            if isinstance(stream, PictureStream) and stream.heir is not None and stream.heir.waiting:
                try:
                    stream.heir.look(stream.interval_s)
                except Exception:
                    logger.exception(_BUG, stream.name)
                    self._decline(stream)
                return True
        return False

    def _prepare(self) -> bool:
        """Embed something of the stream that is worked on; tell whether there is one."""
        work = self._work
        if work is None:
            return False
        stream = work.stream
        if (
            self._streams.get(stream.name) is not stream
            or work.encoder is not self._target(stream)
            or not work.stands()
        ):
            self._work = None
            return True
        try:
            if work.go_on():
                return True
        except Exception:
            logger.exception(_BUG, stream.name)
            self._work = None
            self._decline(stream)
            return True
        self._work = None
        if stream.settings.mode is Mode.FROZEN and not work.knows_enough():
            self._decline(stream)
            logger.warning(_TOO_LITTLE_AT_HAND, stream.name, work.encoder.name, work.learnt_from)
            return True
        stream.heir, count = work.heir_and_size()
        logger.info(
            "stream %s: %d references were embedded anew for encoder %s %.12s, which decides in its shadow now",
            stream.name,
            count,
            work.encoder.name,
            work.encoder.digest,
        )
        return True

    def _decline(self, stream: Stream) -> None:
        """Let a stream stay with the version that it has."""
        stream.disown()
        stream.declined = self._target(stream)
        self._behind.remove(stream)

    def _begin(self, agent: AgentSettings) -> bool:
        """Begin with the next stream for which there is memory; tell whether there is one."""
        heirs = sum(stream.heir is not None for stream in self._behind)
        for stream in self._behind:
            if stream.heir is not None:
                continue
            if heirs and self._room.left(agent) - self._room.twice < stream.bytes:
                return False
            if isinstance(stream, PictureStream):
                encoder = cast("PictureEncoder", self._target(stream))
                heir = stream.beget(encoder)
                lessons = heir.lessons(stream.sight, stream.kept)
                self._work = _Lessons(stream, encoder, heir, lessons, stream.sight, stream.changes)
            elif isinstance(stream, SensorStream):
                target = cast("Encoder", self._target(stream))
                bank = self._bank(stream.settings, target)
                succession = Succession(stream.bank, stream.detector, bank)
                self._work = _Work(stream, target, bank, succession, succession.parts())
            return True
        return False

    def _weigh(self) -> None:
        """Tell how much memory is taken twice."""
        heirs = {id(one): one.heir.bytes for one in self._behind if one.heir is not None}
        if self._work is not None:
            heirs[id(self._work.stream)] = self._work.bytes
        self._room.twice = sum(heirs.values())


def _is_ready(stream: Stream, heir: Heir | PictureHeir) -> bool:
    calm = heir.decisions >= SHADOW_DECISIONS and heir.calm >= CALM_DECISIONS
    return calm and stream.alerts[AlertKind.ANOMALY].state is AlertState.INACTIVE and stream.heir_is_ready()


def follow(stream: SensorStream, due: Due, found: Assessment) -> None:
    """Let a stream's heir learn from its own decision, after the stream itself has decided."""
    heir, machine = stream.heir, stream.alerts[AlertKind.ANOMALY]
    assert heir is not None
    budget = due.detector.budget
    heir.decisions += 1
    heir.calm = 0 if budget.odd(found.score, firing=False) else heir.calm + 1
    budget.learn(found.at, found.score)
    if machine.state is AlertState.INACTIVE:
        due.detector.quarantine.release()
    else:
        heir.bank.quarantine(due, machine.current_id, firing=machine.state is AlertState.FIRING)
