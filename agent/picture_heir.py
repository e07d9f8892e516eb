"""Who is to take a stream of pictures over with another version of its encoder, and looks on until then.

It looks at each picture some time after the stream itself has decided, when nothing waits: pictures are not kept back
for it. What it has no time for it leaves out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.core.bank import TooFewLeftError
from agent.core.budget import HASTE, BudgetControl
from agent.core.types import StreamPhase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.core.pictures import PictureDetector
    from agent.core.types import F32, Frame
    from agent.kept_pictures import KeptPictures
    from agent.picture_sight import Looked, PictureSight
    from agent.ports import PictureEncoder

MOST_WAITING: Final = 4  # pictures
_MOST_LESSONS: Final = 3  # times what there is to learn: a stream that learns faster than that is not caught up with


class Shown(msgspec.Struct, frozen=True):
    """A picture that its stream has decided on. `normal`: whether each tile was learnt; None: all were.

    `alert` is the anomaly alert that was pending or firing behind it, "" for none. `frames` are those of the stream,
    made of `payload`, which arrived at `received_at`.
    """

    frames: list[Frame]
    payload: bytes
    received_at: float
    normal: list[bool] | None
    alert: str
    firing: bool


class PictureHeir:
    """Looks on for a stream with the sight `old`, whose budget is `budget`; None: it is not configured yet."""

    def __init__(self, sight: PictureSight, old: PictureSight, budget: BudgetControl, interval_s: float | None) -> None:
        self.sight = sight
        self.alike = sight.encoder.shape == old.encoder.shape
        self.decisions = self.calm = 0  # so far; the last of these that were not odd
        self.waiting: deque[Shown] = deque(maxlen=MOST_WAITING)
        self.budget = BudgetControl(sight.settings.alert, sight.settings.mode, HASTE)
        self._configured = False
        if self.alike:
            sight.health = old.health  # of the same pictures
        for mine, other in zip(sight.detectors, old.detectors, strict=True):
            mine.begin_after(other, alike=self.alike)
        self.begin_calibration(budget, interval_s)

    @property
    def encoder(self) -> PictureEncoder:
        """Return the version of the encoder that it looks with."""
        return self.sight.encoder

    @property
    def bytes(self) -> int:
        """Return the memory that it takes, about."""
        return self.sight.bytes

    def begin_calibration(self, budget: BudgetControl, interval_s: float | None) -> None:
        """Begin the ladder where the stream's is, and the time in shadow anew: the stream's budget was changed."""
        self.decisions = self.calm = 0
        self.budget.echo(budget)
        if interval_s is not None:
            self._configure(interval_s)

    def _configure(self, interval_s: float) -> None:
        self._configured = True
        self.budget.configure(interval_s)

    def lessons(self, old: PictureSight, kept: KeptPictures) -> Iterator[None]:
        """Learn what the stream with the sight `old` has learnt, as far as its pictures are `kept`.

        One tile of one picture at a time; in between the stream may decide and learn. Of pictures that were kept for
        alerts those that are at hand are kept again.
        """
        if not self.alike:
            return
        tiles = list(enumerate(zip(self.sight.detectors, old.detectors, strict=True)))
        taught = [{at for at, _ in mine.memory.held()} for _, (mine, _) in tiles]
        left = _MOST_LESSONS * max(1, sum(len(other.memory.held()) for _, (_, other) in tiles))
        while left > 0:
            missing = [
                (tile, at, mark)
                for tile, (_, other) in tiles
                for at, mark in sorted(other.memory.held(), key=lambda one: one[1] != 0)
                if at not in taught[tile] and at in kept
            ]
            if not missing:
                break
            for tile, at, mark in missing:
                taught[tile].add(at)
                frame = kept.frame(at, tile)
                if frame is not None:
                    self.sight.detectors[tile].learn(frame, self._encoded(tile, frame), mark)
                    left -= 1
                    yield
        for tile, (mine, other) in tiles:
            if mine.phase is StreamPhase.ACTIVE:
                yield from self._keep_for_alerts(tile, mine, other, kept)

    def _keep_for_alerts(
        self, tile: int, mine: PictureDetector, other: PictureDetector, kept: KeptPictures
    ) -> Iterator[None]:
        known = mine.quarantine.pictures()
        while missing := [at for at in other.quarantine.pictures() if at not in known and at in kept]:
            frame = kept.frame(missing[0], tile)
            assert frame is not None
            known[missing[0]] = mine.examine(frame, self._encoded(tile, frame))
            yield
        mine.quarantine.begin_after(other.quarantine, known)

    def _encoded(self, tile: int, frame: Frame) -> list[F32]:
        prepared = self.sight.detectors[tile].prepare(frame)
        return [output[0] for output in self.encoder.run(prepared[None])]

    def accept(self, alert: str) -> None:
        """Learn an alert's pictures as the stream did, where it has seen them."""
        if self.sight.learnt and self.sight.holds(alert) and not self.sight.has_accepted(alert):
            self.sight.accept(alert)

    def forget(self, take_out: Callable[[PictureSight], int]) -> bool:
        """Take out what the stream gave up; tell whether that is possible: it is not while it learns."""
        if not self.sight.learnt:
            return False
        try:
            take_out(self.sight)
        except TooFewLeftError:
            return False
        return True

    def equals(self, old: PictureSight) -> bool:
        """Tell whether it knows enough to take the stream over."""
        return all(mine.equals(other) for mine, other in zip(self.sight.detectors, old.detectors, strict=True))

    def look(self, interval_s: float | None) -> None:
        """Look at one of the pictures that wait: there must be one. Whatever the encoder raises."""
        one, sight = self.waiting.popleft(), self.sight
        frames = one.frames
        if not self.alike:
            frames = sight.decoder.decode(one.payload, one.received_at)
            for health, frame in zip(sight.health, frames, strict=True):
                health.check(frame)
        found = sight.look(frames, sight.encoder.run(sight.prepare(frames)), one.normal)
        if found is not None:
            self._decide(found, interval_s)
        if one.alert and sight.learnt:
            sight.keep(one.alert, firing=one.firing)
        elif not one.alert:
            sight.release()

    def _decide(self, found: Looked, interval_s: float | None) -> None:
        if not self._configured:
            self._configure(interval_s or 1.0)
        self.decisions += 1
        self.calm = 0 if self.budget.odd(found.score, firing=False) else self.calm + 1
        self.budget.learn(found.at, found.score)

    def snapshot(self) -> dict[str, Any]:
        """Return all that was learnt so far."""
        return {**self._counted(), "tiles": self.sight.snapshot()}

    def _counted(self) -> dict[str, Any]:
        return {"budget": self.budget.snapshot(), "decisions": self.decisions, "calm": self.calm}

    def addition(self) -> dict[str, Any] | None:
        """Return what is new since all was on disk; None: only a whole snapshot tells of it."""
        tiles = self.sight.addition()
        return None if tiles is None else {**self._counted(), "tiles": tiles}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a snapshot that one with the same encoder has made. `self` must be new."""
        for place, (detector, state) in enumerate(zip(self.sight.detectors, saved["tiles"], strict=True)):
            detector.restore(state["detector"])
            if not self.alike:
                self.sight.health[place].restore(state["health"])
        self.budget.restore(saved["budget"])
        self.decisions, self.calm = saved["decisions"], saved["calm"]
