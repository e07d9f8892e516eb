"""Pictures of one stream: score first, then decide, then perhaps learn. The encoder is not called from here.

Two scores are fused: how strange the strangest patches are, and how strange the picture is as a whole. All work is
bounded for each picture and counted in pictures, so a replay and a restart give the same scores to the last bit.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from agent.core.bank import TooFewLeftError
from agent.core.budget import BudgetControl
from agent.core.picture_light import Light
from agent.core.picture_parts import Layout, contributions, heat_of, shared
from agent.core.picture_patches import DIM, PatchBank, Position, Whitening, neighbourhood, strangeness
from agent.core.picture_pool import MIN_PICTURES, Gaussian, GaussianBuild, fields, pooled
from agent.core.picture_quarantine import PictureQuarantine
from agent.core.picture_reference import MOST_ODD, REFUSE_P, Picture, PictureGate, PictureRing, ScoreScale
from agent.core.picture_settings import PictureAssessment, PictureSettings
from agent.core.picture_warmup import PictureWarmUp
from agent.core.types import F32, F64, Bools, Frame, StreamPhase

EXAMPLES_EACH: Final = 8  # patches kept for each picture of the reference, on average
MIN_LEFT: Final = 32  # pictures
REFIT_SHARE: Final = 0.5  # of the pictures that the last fit had
REFIT_AT_MOST: Final = 400  # pictures
_LEAST_REFIT: Final = 16
_RARE_REFIT: Final = 10  # that were let in although rare: the scene has changed
PATCH_WEIGHT: Final = 1.0  # of a patch's log distance in the heat
_LEAST_DISTANCE: Final = 1e-6


class PictureDetector:
    """One stream's reference of pictures and all that decides from it.

    `shapes` are those of the encoder's outputs, (rows, columns, dim) each; patches are compared in the last. `ignored`
    bool [height, width] marks pixels whose patches do not count; a patch is ignored where half of its pixels are.
    Raises ValueError where nothing is left.
    """

    def __init__(self, settings: PictureSettings, shapes: list[tuple[int, ...]], ignored: Bools | None = None) -> None:
        self.settings = settings
        reference = settings.reference
        self.layout = Layout(shapes, ignored)
        self.grid, self._cells = self.layout.grids[-1], self.layout.kept[-1]
        self.light = Light(ignored)
        self.budget = BudgetControl(settings.alert, settings.mode)
        self.quarantine = PictureQuarantine()
        self.fit: Gaussian | None = None
        near = neighbourhood(*self.grid) if settings.position is Position.SAME else None
        self._bank = PatchBank(
            EXAMPLES_EACH * reference.size, min(DIM, shapes[-1][2]), EXAMPLES_EACH / len(self._cells), near
        )
        self._ring = PictureRing(reference.size, 2 * sum(shape[2] for shape in shapes))
        self._gate = PictureGate(settings.mode, settings.adapt_after_s)
        self._warm_up: PictureWarmUp | None = PictureWarmUp(
            min(reference.warm_up, reference.size), shapes[-1][2], self._cells, self._bank
        )
        self._whitening: Whitening | None = None
        self._scale: ScoreScale | None = None
        self._build: GaussianBuild | None = None
        self._waiting: list[Picture] = []  # let in while a fit is made
        self._refused: Picture | None = None  # by the last decision
        self._number = 0  # of the next picture
        self._since_fit = [0, 0]  # pictures let in, and how many of these were rare

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
        return self._ring.count + len(self._waiting)

    @property
    def bytes(self) -> int:
        """Return the memory it takes, about."""
        fit = 0 if self.fit is None else self.fit.precision.nbytes
        warm_up = 0 if self._warm_up is None else self._warm_up.bytes
        return self._bank.bytes + self._ring.bytes + fit + warm_up + self.quarantine.bytes

    def prepare(self, frame: Frame) -> F32:
        """Return a picture as it is to be encoded, float32 [height, width, 3] in 0..255."""
        return self.light.prepare(frame.pixels)

    def push(self, frame: Frame, outputs: list[F32]) -> PictureAssessment | None:
        """Score a healthy picture, then decide whether to learn it; None while the stream is learning.

        `outputs` are the encoder's for this picture as `prepare` gave it, float32 [rows, columns, dim] each.
        """
        number, self._number = self._number, self._number + 1
        features, maps = self._features(outputs)
        if self._warm_up is not None:
            self.light.learn(frame.pixels)
            self._learn_first(frame.at, number, features, maps[-1])
            return None
        assert self._whitening is not None
        white = self._whitening.apply(maps[-1])
        distances, _ = self._bank.nearest(white, self._cells)
        patch_score, pool_score = strangeness(distances), self._pool_score(features)
        p_value = self._scale_now().p_value(patch_score, pool_score)
        admitted = self._gate.admit(frame.at, p_value)
        picture = Picture(frame.at, number, features, white, patch_score, pool_score)
        self._refused = None if admitted else picture
        if admitted:
            self._since_fit[1] += p_value <= REFUSE_P
            self._admit(picture)
        self._refit()
        score = -float(np.log10(p_value))
        return PictureAssessment(frame.at, score, p_value, self._shares(distances), patch_score, pool_score, admitted)

    def _shares(self, distances: F32) -> F32:
        shares = np.zeros(self.grid[0] * self.grid[1], np.float32)
        shares[self._cells] = shared(distances)
        return shares.reshape(self.grid)

    def _features(self, outputs: list[F32]) -> tuple[F32, list[F32]]:
        """Return the pooled features of what is not ignored, float32 [dim], and its maps, float32 [cells, dim]."""
        maps = self.layout.maps(outputs)
        return pooled(maps), maps

    def _pool_score(self, features: F32) -> float:
        if self.fit is None:
            return float("nan")
        return float(np.log(max(float(self.fit.distances(features[None])[0]), _LEAST_DISTANCE)))

    def _scale_now(self) -> ScoreScale:
        if self._scale is None:
            count = self._ring.count
            pool_scores = None if self.fit is None else self._ring.pool_scores[:count]
            self._scale = ScoreScale.of(self._ring.patch_scores[:count], pool_scores)
        return self._scale

    def _learn_first(self, at: float, number: int, features: F32, patches: F32) -> None:
        """Take a picture of the warm-up; with the last one become active."""
        warm_up = self._warm_up
        assert warm_up is not None
        self._ring.add(Picture(at, number, features, patches, float("nan"), float("nan")))
        scores = warm_up.push(at, patches)
        if self._build is not None:
            self._switch(self._build.step())
        elif self.fit is None and self._ring.count >= max(
            MIN_PICTURES, warm_up.wanted - GaussianBuild.steps_for(warm_up.wanted)
        ):
            self._build = GaussianBuild(self._ring.rows)
        if scores is None:
            return
        self._ring.patch_scores[: len(scores)] = scores
        if self.fit is not None:  # those that came while it was made
            late = slice(self.fit.count, self._ring.count)
            self._ring.pool_scores[late] = log_scores(self.fit.distances(self._ring.pooled[late]))
        self._whitening, self._warm_up = warm_up.whitening, None
        self.light.settle()
        self._purge()

    def _purge(self) -> None:
        """Take out what was odd among the first pictures; a fit without them is due."""
        ring = self._ring
        scores = zip(ring.patch_scores[: ring.count], ring.pool_scores[: ring.count], strict=True)
        odd = np.array([self._scale_now().p_value(float(one), float(other)) <= REFUSE_P for one, other in scores])
        if not 0 < odd.sum() <= MOST_ODD * ring.count:
            return
        self._bank.remove(np.isin(self._bank.born, ring.numbers[: ring.count][odd]))
        ring.remove(odd)
        self._scale, self._since_fit = None, [_LEAST_REFIT, _RARE_REFIT]

    def _admit(self, picture: Picture) -> None:
        self._bank.learn(picture.patches, self._cells, picture.number, picture.at, picture.mark)
        self._since_fit[0] += 1
        if self._build is not None:
            self._waiting.append(picture)
            return
        self._ring.add(picture)
        self._scale = None

    def _refit(self) -> None:
        """Do a step of the fit that is in the making, or begin one where it is due."""
        if self._build is not None:
            self._switch(self._build.step())
            return
        if self._ring.count < MIN_PICTURES:
            return
        let_in, rare = self._since_fit
        held = 0 if self.fit is None else self.fit.count
        if let_in >= min(REFIT_AT_MOST, max(_LEAST_REFIT, REFIT_SHARE * held)) or rare >= _RARE_REFIT:
            self._since_fit = [0, 0]
            self._build = GaussianBuild(self._ring.rows)

    def _switch(self, done: tuple[Gaussian, F64] | None) -> None:
        """Go on with a new fit, if it is done, and let in what waited for it."""
        if done is None:
            return
        self.fit, left_out = done
        self._ring.pool_scores[: len(left_out)] = log_scores(left_out)
        self._build = None
        for picture in self._waiting:
            self._ring.add(msgspec.structs.replace(picture, pool_score=self._pool_score(picture.pooled)))
        self._waiting = []
        self._scale = None

    def _settle(self) -> None:
        """Bring the fit up to date at once, after the reference was changed by hand."""
        self.fit, self._build, self._scale, self._since_fit = None, None, None, [0, 0]
        if self._ring.count >= MIN_PICTURES:
            self._switch(GaussianBuild(self._ring.rows).finish())

    def _gather(self) -> None:
        """Let in what waits for a fit."""
        for picture in self._waiting:
            self._ring.add(picture)
        self._waiting = []

    def keep(self, alert: str, *, firing: bool) -> None:
        """Keep the last decision's picture, if it was refused, for an alert that is pending or firing."""
        self.quarantine.keep(alert, self._refused, firing=firing)
        self._refused = None

    def accept(self, alert: str) -> int:
        """Learn an alert's refused pictures; return how many. The alert must be known and not accepted yet."""
        held = self.quarantine.held(alert)
        mark = self.quarantine.accept(alert)
        self._gather()
        for marks in (self._bank.marks, self._ring.marks):
            marks[marks == mark] = 0  # what an alert of long ago brought
        first, self._number = self._number, self._number + len(held)
        for number, one in enumerate(held, first):
            self._bank.learn(one.patches, self._cells, number, one.at, mark)
        for number, one in enumerate(held, first):
            distances, _ = self._bank.nearest(one.patches, self._cells, without=number)
            self._ring.add(msgspec.structs.replace(one, number=number, mark=mark, patch_score=strangeness(distances)))
        self._settle()
        return len(held)

    def forget_alert(self, alert: str) -> int:
        """Take out what accepting an alert let in; return how many pictures, 0 if it was not accepted.

        Raises TooFewLeftError, and then changes nothing.
        """
        mark = self.quarantine.accepted(alert)
        if mark is None:
            return 0
        left = self._take_out(self._ring.marks == mark, self._bank.marks == mark)
        self.quarantine.forget(alert)
        return left

    def forget_span(self, begin: float, end: float) -> int:
        """Take the pictures of a time span out, both ends (s since the epoch) with it; return how many.

        Raises TooFewLeftError, and then changes nothing.
        """
        self._gather()
        self._build = None
        ring, bank = self._ring, self._bank
        return self._take_out((ring.times >= begin) & (ring.times <= end), (bank.times >= begin) & (bank.times <= end))

    def _take_out(self, pictures: Bools, examples: Bools) -> int:
        leaving = pictures[: self._ring.count]
        if self._ring.count + len(self._waiting) - int(leaving.sum()) < MIN_LEFT:
            raise TooFewLeftError(f"at least {MIN_LEFT} pictures to be left")
        self._gather()
        leaving = np.concatenate([leaving, np.zeros(self._ring.count - len(leaving), np.bool_)])
        left = self._ring.remove(leaving)
        self._bank.remove(examples)
        self._settle()
        return left

    def nearest(self, outputs: list[F32], neighbours: int = 3) -> list[tuple[float, float]]:
        """Return (time, distance) of the reference pictures nearest as a whole, nearest first, in units of spread."""
        features, _ = self._features(outputs)
        rows = self._ring.rows
        spread = rows.std(axis=0) + 1e-3
        away = np.sqrt(np.square((rows - features) / spread).mean(axis=1))
        order = np.argsort(away, kind="stable")[:neighbours]
        return [(float(self._ring.times[place]), float(away[place])) for place in order]

    def heat(self, outputs: list[F32]) -> F32:
        """Return where a picture is strange, float32 [rows, columns] of the finest grid, in 0..1. Not while learning.

        The cube root of what each cell adds to the whole picture's distance, in units of what is usual, and the
        logarithm of how far each patch is from its nearest example.
        """
        assert self._whitening is not None
        features, maps = self._features(outputs)
        distances, _ = self._bank.nearest(self._whitening.apply(maps[-1]), self._cells)
        scale = self._scale_now()
        evidence = PATCH_WEIGHT * self.layout.spread(np.log(distances.astype(np.float64)) - scale.patch[0])
        if self.fit is not None and scale.pool is not None:
            usual = float(np.exp(scale.pool[0])) / int(self.layout.visible.sum())
            added = self.layout.gather(contributions(self.fit, features, maps))
            evidence = evidence + np.cbrt(added / usual)
        return heat_of(evidence, self.layout.visible)

    def snapshot(self) -> dict[str, Any]:
        """Return all that is needed to go on as if never stopped."""
        whitening = self._whitening
        return {
            "number": self._number,
            "light": self.light.snapshot(),
            "budget": self.budget.snapshot(),
            "quarantine": self.quarantine.snapshot(),
            "gate": self._gate.snapshot(),
            "bank": self._bank.snapshot(),
            "ring": self._ring.snapshot(),
            "warm_up": None if self._warm_up is None else self._warm_up.snapshot(),
            "whitening": None if whitening is None else [whitening.mean, whitening.basis],
            "fit": fields(self.fit),
            "build": None if self._build is None else [len(self._build.rows), self._build.steps],
            "waiting": [one.packed() for one in self._waiting],
            "refused": None if self._refused is None else self._refused.packed(),
            "since_fit": list(self._since_fit),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot that a detector with equal settings, shapes and mask has made."""
        self._number = state["number"]
        self.light.restore(state["light"])
        self.budget.restore(state["budget"])
        self.quarantine.restore(state["quarantine"])
        self._gate.restore(state["gate"])
        self._bank.restore(state["bank"])
        self._ring.restore(state["ring"])
        if state["warm_up"] is None:
            self._warm_up = None
        else:
            assert self._warm_up is not None
            self._warm_up.restore(state["warm_up"])
        self._whitening = None if state["whitening"] is None else Whitening(*state["whitening"])
        self.fit = None if state["fit"] is None else Gaussian(*state["fit"])
        self._scale, self._build = None, None
        if state["build"] is not None:
            rows, steps = state["build"]
            self._build = GaussianBuild(self._ring.pooled[:rows])
            for _ in range(steps):
                self._build.step()
        self._waiting = [Picture.unpacked(one) for one in state["waiting"]]
        self._refused = None if state["refused"] is None else Picture.unpacked(state["refused"])
        self._since_fit = list(state["since_fit"])


def log_scores(squared: F64) -> F32:
    """Return the logarithms of squared distances, float32."""
    return np.log(np.maximum(squared, _LEAST_DISTANCE)).astype(np.float32)
