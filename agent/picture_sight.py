"""What a stream of pictures knows and what hangs on its encoder: how pictures are cut for it, and what is normal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.adapters.pictures import PictureDecoder
from agent.core.bank import combined
from agent.core.picture_health import PictureHealth, extend
from agent.core.picture_past import PicturePast
from agent.core.pictures import PictureDetector
from agent.core.types import F32, U8, Frame, StreamPhase
from agent.core.workspace import Workspace
from agent.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config import ImageSettings
    from agent.core.picture_settings import PictureAssessment
    from agent.ports import PictureEncoder

_WORKING_BYTES: Final = 7_500_000  # of each tile, beside what is kept: a fit in the making, the newest picture's maps


class Looked(msgspec.Struct, frozen=True):
    """One decision on a picture. `part_scores` float32 [tiles, rows, columns]: each cell's share, in sum 1."""

    at: float
    score: float
    p_value: float
    part_scores: F32
    tiles: list[PictureAssessment]


class Seen(msgspec.Struct, frozen=True):
    """The newest healthy picture: its frames and the encoder's outputs, one for each tile."""

    frames: list[Frame]
    outputs: list[list[F32]]


class SightPast:
    """A snapshot of a sight and what was added to it, put together."""

    def __init__(self, saved: list[dict[str, Any]], settings: ImageSettings) -> None:
        self._tiles = [(PicturePast(one["detector"], settings.reference), dict(one["health"])) for one in saved]

    def add(self, added: list[dict[str, Any]]) -> None:
        """Take the next addition."""
        for (detector, health), one in zip(self._tiles, added, strict=True):
            detector.add(one["detector"])
            extend(health, one["health"])

    def state(self) -> list[dict[str, Any]]:
        """Return the snapshot to go on from."""
        return [{"detector": detector.state(), "health": health} for detector, health in self._tiles]


class PictureSight:
    """One version of an encoder, and what a stream has learnt with it; each tile has a detector of its own.

    Raises ConfigurationError if no picture could be looked at.
    """

    def __init__(
        self, settings: ImageSettings, encoder: PictureEncoder, max_bytes: int, workspace: Workspace | None = None
    ) -> None:
        self.settings, self.encoder = settings, encoder
        self._workspace = workspace or Workspace()
        height, width, _ = encoder.shape
        self.decoder = PictureDecoder(settings, height, width, max_bytes)
        try:
            self.begin_anew()
        except ValueError as error:
            expected = f"that a patch of encoder {encoder.name} is left with more than half of it"
            raise ConfigurationError([Problem("ignore", expected, "none")]) from error

    def begin_anew(self) -> None:
        """Give up all that was learnt."""
        made = self.settings.detector()
        work, shapes = self._workspace, self.encoder.output_shapes
        self.detectors = [PictureDetector(made, shapes, one, work) for one in self.decoder.ignored]
        self.health = [PictureHealth(made.reference.warm_up, one, work) for one in self.decoder.ignored]
        self.seen: Seen | None = None
        self._saves = 0  # what is usual at each place is told of one tile after the other

    def prepare(self, frames: list[Frame]) -> U8:
        """Return what is to be encoded, uint8 [tiles, height, width, 3]: valid until the next is prepared."""
        prepared: U8 = self._workspace.lend("tiles", (len(frames), *self.encoder.shape), np.uint8)
        for place, detector, frame in zip(prepared, self.detectors, frames, strict=True):
            place[:] = detector.prepare(frame)
        return prepared

    def look(self, frames: list[Frame], outputs: list[F32], normal: Sequence[bool] | None = None) -> Looked | None:
        """Score a healthy picture, and perhaps learn it; None while a tile is learning.

        `outputs` float32 [tiles, rows, columns, dim], one for each of the encoder's. A tile that learns takes only what
        is `normal`, where that is known.
        """
        each = [[output[tile] for output in outputs] for tile in range(len(frames))]
        self.seen = Seen(frames, each)
        found = [
            detector.push(frame, made)
            for tile, (detector, frame, made) in enumerate(zip(self.detectors, frames, each, strict=True))
            if normal is None or normal[tile] or detector.phase is StreamPhase.ACTIVE
        ]
        done = [one for one in found if one is not None]
        if len(done) < len(frames):
            return None
        if len(done) == 1:  # what the lines below would find
            score = float(np.float32(done[0].score))
            return Looked(frames[0].at, score, 10.0**-score, done[0].part_scores[None], done)
        (score,) = combined(np.array([one.score for one in done], np.float32), [0, len(done)]).tolist()
        weights = np.array([10.0**one.score for one in done])
        parts = np.stack([one.part_scores for one in done]) * (weights / weights.sum())[:, None, None]
        return Looked(frames[0].at, score, 10.0**-score, parts.astype(np.float32), done)

    def nearest(self, tile: int) -> list[tuple[float, float]]:
        """Return time and distance of the references that a tile of the newest picture is nearest to."""
        assert self.seen is not None
        return self.detectors[tile].nearest(self.seen.frames[tile].at, self.seen.outputs[tile])

    def heat(self) -> tuple[U8, F32] | None:
        """Return the newest picture as the encoder saw it, uint8 [height, width, 3], and where it is odd, 0 to 1.

        Tiles are put together; what is ignored stays dark. None before the first decision.
        """
        if self.seen is None or not self.learnt:
            return None
        heats = [detector.heat(one) for detector, one in zip(self.detectors, self.seen.outputs, strict=True)]
        return self.whole(self.seen.frames), self._together(heats)

    def whole(self, frames: list[Frame]) -> U8:
        """Return a picture as the encoder sees it, uint8 [height, width, 3]: its tiles, put together."""
        return self._together([frame.pixels for frame in frames])

    def _together(self, tiles: list[Any]) -> Any:
        """Return what belongs to each tile, [rows, columns, ...], in one; 0 where everything is ignored."""
        columns, rows = self.settings.tiles
        height, width, *more = tiles[0].shape
        made = np.zeros((rows * height, columns * width, *more), tiles[0].dtype)
        for (column, row), one in zip(self.decoder.places, tiles, strict=True):
            made[row * height : (row + 1) * height, column * width : (column + 1) * width] = one
        return made

    @property
    def learnt(self) -> bool:
        """Tell whether every tile's warm-up is over."""
        return all(detector.phase is StreamPhase.ACTIVE for detector in self.detectors)

    @property
    def learning_left(self) -> int:
        """Return how many more pictures are needed, 0 when all tiles are active."""
        return max(detector.learning_left for detector in self.detectors)

    @property
    def reference_fill(self) -> int:
        """Return how many pictures the reference holds."""
        return min(detector.reference_size for detector in self.detectors)

    @property
    def bytes(self) -> int:
        """Return the memory that it takes, about."""
        return sum(detector.bytes + _WORKING_BYTES for detector in self.detectors)

    def times(self) -> set[float]:
        """Return when all pictures came that may still be learnt, accepted or forgotten."""
        return set[float]().union(*(detector.times() for detector in self.detectors))

    def snapshot(self) -> list[dict[str, Any]]:
        """Return all that was learnt, tile by tile."""
        return [
            {"detector": detector.snapshot(), "health": health.snapshot()}
            for detector, health in zip(self.detectors, self.health, strict=True)
        ]

    def addition(self) -> list[dict[str, Any]] | None:
        """Return what is new since all was on disk, tile by tile; None: only a whole snapshot tells of it."""
        made: list[dict[str, Any]] = []
        tiles = len(self.detectors)
        for detector, health in zip(self.detectors, self.health, strict=True):
            added = detector.addition(tiles, usual=len(made) == self._saves % tiles)
            if added is None:
                return None
            made.append({"detector": added, "health": health.addition()})
        return made

    def saved(self) -> None:
        """Know that all of it is on disk, from where `addition` goes on."""
        self._saves += 1
        for detector, health in zip(self.detectors, self.health, strict=True):
            detector.saved()
            health.saved()

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Go on from a snapshot."""
        for detector, health, state in zip(self.detectors, self.health, saved, strict=True):
            detector.restore(state["detector"])
            health.restore(state["health"])

    def holds(self, alert: str) -> bool:
        """Tell whether an alert's pictures are still kept, so that it can be accepted."""
        return self.detectors[0].quarantine.knows(alert)

    def has_accepted(self, alert: str) -> bool:
        """Tell whether an alert was accepted, and can be forgotten."""
        return self.detectors[0].quarantine.accepted(alert) is not None

    def accept(self, alert: str) -> int:
        """Learn an alert's pictures; return how many."""
        return max(detector.accept(alert) for detector in self.detectors)

    def forget_alert(self, alert: str) -> int:
        """Take out what accepting an alert let in, of all tiles or none; return how many. Raises TooFewLeftError."""
        for detector in self.detectors:
            detector.forget_alert(alert, really=False)
        return max(detector.forget_alert(alert) for detector in self.detectors)

    def forget_span(self, begin: float, end: float) -> int:
        """Take out the pictures of a time span, of all tiles or none; return how many. Raises TooFewLeftError."""
        for detector in self.detectors:
            detector.forget_span(begin, end, really=False)
        return max(detector.forget_span(begin, end) for detector in self.detectors)

    def keep(self, alert: str, *, firing: bool) -> None:
        """Keep the newest picture, where it was refused, for an alert that is pending or firing."""
        for detector in self.detectors:
            detector.keep(alert, firing=firing)

    def release(self) -> None:
        """Let go what was kept for an alert that is no longer pending or firing."""
        for detector in self.detectors:
            detector.quarantine.release()
