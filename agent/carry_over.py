"""Carries streams of readings over to another version of their encoder: embedded anew, in shadow, then switched.

One version after the other decides; no decision is left out, and none is made twice. A stream's alerts, their ids and
what its budget counted do not notice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.core.alerting import AlertKind, AlertState
from agent.core.succession import Succession
from agent.core.types import Mode
from agent.stream import Heir, SensorStream, embedded, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agent.config import AgentSettings, SensorSettings
    from agent.core.bank import DetectorBank, WarmUpPart
    from agent.core.detector import Due
    from agent.core.types import Assessment
    from agent.ports import Encoder, PictureEncoder
    from agent.room import Room
    from agent.stream import Stream

logger = logging.getLogger(__name__)

SHADOW_DECISIONS: Final = 100  # that the new version makes beside the old one, at least
CALM_DECISIONS: Final = 32  # of these, the last: none of them odd


class _Work(msgspec.Struct):
    """A stream whose references are being embedded anew."""

    stream: SensorStream
    encoder: Encoder
    bank: DetectorBank
    succession: Succession
    parts: Iterator[WarmUpPart]


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
        self._behind: list[SensorStream] = []
        self._work: _Work | None = None

    @property
    def left(self) -> int:
        """Return how many streams still decide with another version than the newest one."""
        return len(self._behind)

    @property
    def banks(self) -> set[int]:
        """Return the ids of banks that are worked on, and that no stream uses yet."""
        return set() if self._work is None else {id(self._work.bank)}

    def add(self, stream: SensorStream) -> None:
        """Know of a stream that began with another version than the newest one."""
        if self._is_behind(stream) and stream not in self._behind:
            self._behind.append(stream)

    def look(self) -> None:
        """Find the streams that are to be carried over: encoders or streams have changed."""
        self._behind = [one for one in self._streams.values() if isinstance(one, SensorStream) and self._is_behind(one)]
        for stream in self._streams.values():
            if isinstance(stream, SensorStream) and stream.heir is not None and not self._wants(stream, stream.heir):
                stream.disown()
        self._weigh()

    def _target(self, stream: SensorStream) -> Encoder | None:
        return cast("Encoder | None", self._encoders().get(stream.settings.encoder_name))

    def _is_behind(self, stream: SensorStream) -> bool:
        target = self._target(stream)
        if target is None or stream.encoder is None or stream.declined is target:
            return False
        return version_of(target) != version_of(stream.encoder)

    def _wants(self, stream: SensorStream, heir: Heir) -> bool:
        target = self._target(stream)
        return self._is_behind(stream) and target is not None and version_of(heir.encoder) == version_of(target)

    def advance(self, agent: AgentSettings) -> tuple[list[SensorStream], bool]:
        """Do a little, between two batches; return which streams were switched, and whether there is more to do now."""
        self._behind = [stream for stream in self._behind if self._streams.get(stream.name) is stream]
        if not self._behind:
            self._work = None
            self._weigh()
            return [], False
        switched = [stream for stream in self._behind if self._switch(stream)]
        if switched:
            self._behind = [stream for stream in self._behind if self._is_behind(stream)]
        busy = self._prepare() or self._begin(agent)
        self._weigh()
        return switched, busy

    def _switch(self, stream: SensorStream) -> bool:
        """Let a stream's heir take its place, where that is ready; tell whether it did."""
        if not stream.learnt:
            target = self._target(stream)
            assert target is not None
            bank = self._bank(stream.settings, target)
            detector = bank.detector()
            detector.grid, detector.scale = stream.detector.grid, stream.detector.scale
            stream.heir = Heir(target, bank, detector)
        elif stream.heir is None or not self._is_ready(stream, stream.heir):
            return False
        stream.inherit()
        return True

    @staticmethod
    def _is_ready(stream: SensorStream, heir: Heir) -> bool:
        machine = stream.alerts[AlertKind.ANOMALY]
        calm = heir.decisions >= SHADOW_DECISIONS and heir.calm >= CALM_DECISIONS
        if not calm or machine.state is not AlertState.INACTIVE:
            return False
        return heir.bank.knows_enough(heir.detector, stream.bank, stream.detector)

    def _prepare(self) -> bool:
        """Embed some windows of the stream that is worked on; tell whether there is one."""
        work = self._work
        if work is None:
            return False
        stream = work.stream
        if (
            self._streams.get(stream.name) is not stream
            or work.encoder is not self._target(stream)
            or not work.succession.is_of(stream.detector)
        ):
            self._work = None
            return True
        try:
            for part in work.parts:
                part.embedding = embedded(part, work.encoder)
                if not work.succession.at_once:
                    return True
        except Exception:
            logger.exception("a bug in this program keeps stream %s with the version that it has", stream.name)
            self._work = None
            self._decline(stream, work.encoder)
            return True
        self._work = None
        heir = work.succession.heir
        assert heir is not None
        if stream.settings.mode is Mode.FROZEN and not work.bank.remembers(heir, stream.bank, stream.detector):
            work.bank.release(heir)
            self._decline(stream, work.encoder)
            logger.warning(
                "stream %s keeps the version of its encoder %s that it has: in mode frozen nothing new is learnt, and "
                "too few of the readings that it learnt from are at hand; prime it anew",
                stream.name,
                work.encoder.name,
            )
            return True
        stream.heir = Heir(work.encoder, work.bank, heir)
        logger.info(
            "stream %s: %d references were embedded anew for encoder %s %.12s, which decides in its shadow now",
            stream.name,
            work.bank.reference_size(heir),
            work.encoder.name,
            work.encoder.digest,
        )
        return True

    def _decline(self, stream: SensorStream, encoder: Encoder) -> None:
        stream.declined = encoder
        self._behind.remove(stream)

    def _begin(self, agent: AgentSettings) -> bool:
        """Begin with the next stream for which there is memory; tell whether there is one."""
        heirs = sum(stream.heir is not None for stream in self._behind)
        for stream in self._behind:
            if stream.heir is not None:
                continue
            if heirs and self._room.left(agent) - self._room.twice < stream.bytes:
                return False
            target = self._target(stream)
            assert target is not None
            bank = self._bank(stream.settings, target)
            succession = Succession(stream.bank, stream.detector, bank)
            self._work = _Work(stream, target, bank, succession, succession.parts())
            return True
        return False

    def _weigh(self) -> None:
        """Tell how much memory is taken twice."""
        twice = {id(one): one for one in self._behind if one.heir is not None}
        if self._work is not None:
            twice[id(self._work.stream)] = self._work.stream
        self._room.twice = sum(one.bytes for one in twice.values())


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
