"""Pictures of one stream: score first, then decide, then perhaps learn. The encoder is not called from here.

Two scores are fused: how strange the strangest patches are, and how strange the picture is as a whole. All work is
bounded for each picture and counted in pictures, so a replay and a restart give the same scores to the last bit.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import numpy as np

from agent.core.picture_heat import FULL_VOTE, PATCH_WEIGHT, UsualCells, contributions, heat_of
from agent.core.picture_light import Light
from agent.core.picture_memory import PictureMemory
from agent.core.picture_parts import Layout, shared
from agent.core.picture_past import numbered
from agent.core.picture_patches import (
    DIM,
    EXAMPLES_EACH,
    PatchBank,
    Position,
    Whitening,
    neighbourhood,
    strangeness,
)
from agent.core.picture_pool import pooled, pooled_size
from agent.core.picture_quarantine import PictureQuarantine
from agent.core.picture_reference import ESCAPE_FRAMES, REFUSE_P, Picture, PictureGate
from agent.core.picture_settings import PictureAssessment, PictureDetectorSettings
from agent.core.picture_warmup import PictureWarmUp
from agent.core.types import F32, I64, U8, Bools, Frame, StreamPhase
from agent.core.workspace import Workspace

MOST_TURNED_AWAY: Final = 12  # pictures; one of them takes a millisecond to learn
_UNKNOWN: Final = float("nan")


class PictureDetector:
    """One stream's reference of pictures and all that decides from it.

    `shapes` are those of the encoder's outputs, (rows, columns, dim) each; patches are compared in the last. `ignored`
    bool [height, width] marks pixels whose patches do not count; a patch is ignored where half of its pixels are.
    Raises ValueError where nothing is left.
    """

    def __init__(
        self,
        settings: PictureDetectorSettings,
        shapes: list[tuple[int, ...]],
        ignored: Bools | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        workspace = workspace or Workspace()
        self.settings = settings
        reference = settings.reference
        self.layout = Layout(shapes, ignored)
        self.grid, cells = self.layout.grids[-1], self.layout.kept[-1]
        self.light = Light(ignored, workspace)
        self.quarantine = PictureQuarantine()
        near = neighbourhood(*self.grid) if settings.position is Position.SAME else None
        inflow = min(0.5, EXAMPLES_EACH / len(cells))
        bank = PatchBank(EXAMPLES_EACH * reference.size, min(DIM, shapes[-1][2]), inflow, near, workspace)
        dim = pooled_size([shape[2] for shape in shapes], self.layout.sides)
        self.memory = PictureMemory(bank, cells, reference.size, dim)
        each = [(len(kept), shape[2]) for kept, shape in zip(self.layout.kept, shapes, strict=True)]
        self._usual = UsualCells(each, reference.size)
        self._gate = PictureGate(settings.mode, settings.adapt_after_s)
        self._warm_up: PictureWarmUp | None = PictureWarmUp(
            min(reference.warm_up, reference.size), shapes[-1][2], cells, bank
        )
        self._whitening: Whitening | None = None
        self._refused: Picture | None = None  # by the last decision
        self._turned_away: deque[Picture] = deque(maxlen=MOST_TURNED_AWAY)  # lately: part of a scene that may stay
        self._number = 0  # of the next picture
        # Of what is on disk: the next picture's number, pictures of the warm-up, numbers of those kept apart.
        self._on_disk: tuple[int, int, set[int]] | None = None

    @property
    def phase(self) -> StreamPhase:
        """Return where the stream is in its life."""
        return StreamPhase.ACTIVE if self._warm_up is None else StreamPhase.LEARNING

    @property
    def learning_left(self) -> int:
        """Return how many more pictures are needed, 0 when active."""
        return 0 if self._warm_up is None else self._warm_up.wanted - self._warm_up.count

    @property
    def reference_size(self) -> int:
        """Return how many pictures the reference holds."""
        return self.memory.count

    @property
    def bytes(self) -> int:
        """Return the memory it takes, about."""
        warm_up = 0 if self._warm_up is None else self._warm_up.bytes
        return self.memory.bytes + self._usual.bytes + warm_up + self.quarantine.bytes

    def prepare(self, frame: Frame) -> U8:
        """Return a picture as it is to be encoded, uint8 [height, width, 3]: valid until the next one is prepared."""
        return self.light.prepare(frame.pixels)

    def push(self, frame: Frame, outputs: list[F32]) -> PictureAssessment | None:
        """Score a healthy picture, then decide whether to learn it; None while the stream is learning.

        `outputs` are the encoder's for this picture as `prepare` gave it, float32 [rows, columns, dim] each.
        """
        maps = self.layout.maps(outputs)
        if self._warm_up is not None:
            self._learn_first(self._warm_up, frame, maps)
            return None
        memory = self.memory
        picture, found = self._examined(frame, maps)
        distances, _ = found
        p_value = memory.scale.p_value(picture.patch_score, picture.pool_score)
        admitted = self._gate.admit(frame.at, p_value)
        self._refused = None if admitted else picture
        if not admitted:
            self._turned_away.append(picture)
            self._let_go(picture.number)
        else:
            rare = p_value <= REFUSE_P
            self._usual.learn(maps)
            memory.admit(picture, found, rare=rare)
            if rare:
                self._catch_up(picture.number)
        memory.step()
        shares = np.zeros(self.grid[0] * self.grid[1], np.float32)
        shares[memory.cells] = shared(distances)
        return PictureAssessment(
            at=frame.at,
            score=max(0.0, -float(np.log10(p_value))),
            p_value=p_value,
            part_scores=shares.reshape(self.grid),
            patch_score=picture.patch_score,
            pool_score=picture.pool_score,
            admitted=admitted,
        )

    def learn(self, frame: Frame, outputs: list[F32], mark: int = 0) -> None:
        """Learn a picture that is known to be normal, with the mark of the alert that it was accepted with.

        The warm-up takes none that has a mark: it may look like no other.
        """
        maps = self.layout.maps(outputs)
        if self._warm_up is None:
            picture, found = self._examined(frame, maps, mark)
            self._usual.learn(maps)
            self.memory.admit(picture, found, rare=False)
            self.memory.step()
        elif not mark:
            self._learn_first(self._warm_up, frame, maps)

    def examine(self, frame: Frame, outputs: list[F32]) -> Picture:
        """Return what is kept of a picture, without learning it. Not while learning."""
        return self._examined(frame, self.layout.maps(outputs))[0]

    def _examined(self, frame: Frame, maps: list[F32], mark: int = 0) -> tuple[Picture, tuple[F32, I64]]:
        """Return what is kept of a picture, and what `nearest` says of its patches."""
        number, self._number = self._number, self._number + 1
        features = pooled(maps, self.layout.sides)
        white, found = self._compare(maps[-1])
        patch_score, pool_score = strangeness(found[0]), self.memory.pool_score(features)
        return Picture(frame.at, number, features, white, patch_score, pool_score, mark), found

    def _catch_up(self, number: int) -> None:
        """Let in what was turned away while it was not clear that the scene had changed for good."""
        self._let_go(number)
        while self._turned_away:
            one = self._turned_away.popleft()
            self.memory.admit(one, self.memory.bank.nearest(one.patches, self.memory.cells), rare=True)

    def _let_go(self, number: int) -> None:
        """Forget what was turned away too long before the picture of this number to be part of the same scene."""
        while self._turned_away and number - self._turned_away[0].number > ESCAPE_FRAMES:
            self._turned_away.popleft()

    def _compare(self, patches: F32) -> tuple[F32, tuple[F32, I64]]:
        """Return patches whitened, float32 [cells, DIM], and the distance to and place of each nearest example."""
        assert self._whitening is not None
        white = self._whitening.apply(patches)
        return white, self.memory.bank.nearest(white, self.memory.cells)

    def _learn_first(self, warm_up: PictureWarmUp, frame: Frame, maps: list[F32]) -> None:
        """Take a picture of the warm-up; with the last one become active."""
        number, self._number = self._number, self._number + 1
        self._usual.learn(maps)
        features, patches = pooled(maps, self.layout.sides), maps[-1]
        lit = self.light.usual is not None  # by a detector that was here before
        if not lit:
            self.light.learn(frame.pixels)
        done = self._take_first(warm_up, Picture(frame.at, number, features, patches, _UNKNOWN, _UNKNOWN))
        if done and not lit:
            self.light.settle()

    def _take_first(self, warm_up: PictureWarmUp, picture: Picture) -> bool:
        """Let a picture into the warm-up, whose patches are not whitened; tell whether it was the last one."""
        self.memory.begin(picture, warm_up.wanted)
        scores = warm_up.push(picture.at, picture.patches)
        if scores is None:
            return False
        self._whitening, self._warm_up, self._on_disk = warm_up.whitening, None, None
        self.memory.settle(scores)
        return True

    def begin_after(self, old: PictureDetector, *, alike: bool) -> None:
        """Begin where another detector is that has another encoder: with its light, and its marks of what was accepted.

        `alike`: both encoders take pictures of the same size. `self` must be new.
        """
        if alike and old.phase is StreamPhase.ACTIVE:
            self.light.restore(old.light.snapshot())
        self.quarantine.begin_after(old.quarantine, {})

    def times(self) -> set[float]:
        """Return when all pictures came that may still be learnt, accepted or forgotten."""
        held = {at for at, _ in self.memory.held()}
        return held | self.quarantine.pictures().keys() | {one.at for one in self._turned_away}

    def equals(self, old: PictureDetector) -> bool:
        """Tell whether it may take the place of another one: it has learnt, and judges whole pictures if that does."""
        return self.phase is StreamPhase.ACTIVE and (self.memory.fit is not None or old.memory.fit is None)

    def keep(self, alert: str, *, firing: bool) -> None:
        """Keep the last decision's picture, if it was refused, for an alert that is pending or firing."""
        self.quarantine.keep(alert, self._refused, firing=firing)
        self._refused = None

    def accept(self, alert: str) -> int:
        """Learn an alert's refused pictures; return how many. The alert must be known and not accepted yet."""
        self._on_disk = None
        held = self.quarantine.held(alert)
        first, self._number = self._number, self._number + len(held)
        self.memory.accept(held, first, self.quarantine.accept(alert))
        return len(held)

    def forget_alert(self, alert: str, *, really: bool = True) -> int:
        """Take out what accepting an alert let in; return how many pictures, 0 if it was not accepted.

        Raises TooFewLeftError, and then changes nothing; nor does it where that is not `really` to be done.
        """
        mark = self.quarantine.accepted(alert)
        if mark is None:
            return 0
        left = self.memory.forget_mark(mark, really=really)
        if really:
            self._on_disk = None
            self.quarantine.forget(alert)
        return left

    def forget_span(self, begin: float, end: float, *, really: bool = True) -> int:
        """Take the pictures of a time span out, both ends (s since the epoch) with it; return how many.

        Raises TooFewLeftError, and then changes nothing; nor does it where that is not `really` to be done.
        """
        left = self.memory.forget_span(begin, end, really=really)
        if really:
            self._on_disk = None
        return left

    def nearest(self, at: float, outputs: list[F32], neighbours: int = 3) -> list[tuple[float, float]]:
        """Return (time, distance) of the reference pictures nearest as a whole, nearest first, in units of spread.

        Not the picture itself, which is of time `at` and may have been learnt.
        """
        return self.memory.nearest(at, pooled(self.layout.maps(outputs), self.layout.sides), neighbours)

    def heat(self, outputs: list[F32]) -> F32:
        """Return where a picture is strange, float32 [rows, columns] of the finest grid, in 0..1. Not while learning.

        Evidence is the logarithm of how far each patch is from its nearest example, and the cube root of what each cell
        adds to the whole picture's distance, in units of what is usual. The latter votes; until 100 pictures are known,
        the former.
        """
        maps = self.layout.maps(outputs)
        _, (distances, _) = self._compare(maps[-1])
        fit, scale = self.memory.fit, self.memory.scale
        evidence = PATCH_WEIGHT * self.layout.spread(np.log(distances.astype(np.float64)) - scale.patch[0])
        votes = evidence
        if fit is not None and scale.pool is not None:
            usual = float(np.exp(scale.pool[0])) / int(self.layout.visible.sum())
            sides = self.layout.sides
            each = contributions(fit, pooled(maps, sides), maps, sides, self._usual.apart())
            added = self.layout.gather(each) / usual
            evidence, votes = evidence + np.cbrt(added), added / FULL_VOTE
        return heat_of(evidence, np.tanh(np.maximum(votes, 0.0)), self.layout.visible)

    def snapshot(self) -> dict[str, Any]:
        """Return all that is needed to go on as if never stopped."""
        whitening = self._whitening
        return {
            "number": self._number,
            "light": self.light.snapshot(),
            "gate": self._gate.snapshot(),
            "memory": self.memory.snapshot(),
            "usual": self._usual.snapshot(),
            "warm_up": None if self._warm_up is None else self._warm_up.snapshot(),
            "whitening": None if whitening is None else [whitening.mean, whitening.basis],
            **self._apart(),
        }

    def _apart(self) -> dict[str, Any]:
        """Return the pictures that were not let in, as they are kept."""
        return {
            "quarantine": self.quarantine.snapshot(),
            "refused": None if self._refused is None else self._refused.packed(),
            "turned_away": [one.packed() for one in self._turned_away],
        }

    def saved(self) -> None:
        """Know that all of it is on disk, from where `addition` goes on."""
        first = 0 if self._warm_up is None else self._warm_up.count
        self._on_disk = self._number, first, set(numbered(self._apart())[0])
        self.memory.saved()

    def addition(self, tiles: int = 1, *, usual: bool = True) -> dict[str, Any] | None:
        """Return what is new since it was on disk, for `PicturePast`; None: only a whole snapshot tells of it.

        Of one of so many `tiles`; where pictures come fast, some of them are told of, but all of a warm-up. `usual`:
        also what is usual at each place, which heatmaps ask for, if there was a picture.
        """
        if self._on_disk is None:
            return None
        number, first, known = self._on_disk
        held, places = numbered(self._apart())
        added = {
            "number": self._number,
            "light": self.light.snapshot(),
            "gate": self._gate.snapshot(),
            "usual": self._usual.addition() if usual and self._number != number else None,
            "apart": places,
            "pictures": [one for number, one in held.items() if number not in known],
        }
        if self._warm_up is None:
            return {**added, "memory": self.memory.addition(tiles)}
        ring = self.memory.ring
        new = slice(first, ring.count)
        each = {name: getattr(ring, name)[new].copy() for name in ("times", "numbers", "pooled")}
        return {**added, "first": {**each, "patches": self._warm_up.pictures(first)}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot that a detector with equal settings, shapes and mask has made. `self` must be new."""
        self._number = state["number"]
        self.light.restore(state["light"])
        self.quarantine.restore(state["quarantine"])
        self._gate.restore(state["gate"])
        self.memory.restore(state["memory"])
        if "usual" in state:  # what was learnt before there was such a thing is as good without
            self._usual.restore(state["usual"])
        if state["warm_up"] is None:
            self._warm_up = None
        else:
            assert self._warm_up is not None
            self._warm_up.restore(state["warm_up"])
        self._whitening = None if state["whitening"] is None else Whitening(*state["whitening"])
        self._refused = None if state["refused"] is None else Picture.unpacked(state["refused"])
        self._turned_away.extend(Picture.unpacked(one) for one in state["turned_away"])
        for one in state.get("first", ()):
            assert self._warm_up is not None
            each = zip(one["times"].tolist(), one["numbers"].tolist(), one["pooled"], one["patches"], strict=True)
            for at, number, features, patches in each:
                self._take_first(self._warm_up, Picture(at, number, features, patches, _UNKNOWN, _UNKNOWN))
