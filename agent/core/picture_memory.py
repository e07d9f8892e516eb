"""What is known of a stream's normal pictures: examples of patches, the last pictures as a whole, and a fit of these.

A new fit is made in steps, one for each picture, while the old one goes on; what is let in meanwhile waits for it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from agent.core.bank import TooFewLeftError
from agent.core.picture_patches import PatchBank, evenly, shortened, strangeness
from agent.core.picture_pool import MIN_PICTURES, Gaussian, GaussianBuild, fields
from agent.core.picture_reference import MOST_ODD, REFUSE_P, Picture, PictureRing, ScoreScale
from agent.core.types import F32, F64, I64, Bools

MIN_LEFT: Final = 32  # pictures
REFIT_SHARE: Final = 0.5  # of the pictures that the last fit had
REFIT_AT_MOST: Final = 400  # pictures
LEAST_REFIT: Final = 16
RARE_REFIT: Final = 10  # that were let in although rare: the scene has changed
MOST_TOLD: Final = 100  # new pictures that an addition to a snapshot tells of; tiles of one picture share that
MOST_EXACT: Final = 20  # of which it tells to the bit
EXAMPLES_TOLD: Final = 2400
_LEAST_DISTANCE: Final = 1e-6


class PictureMemory:
    """`cells` int64 are those of the grid whose patches count; `size` and `dim` of what is kept of whole pictures."""

    def __init__(self, bank: PatchBank, cells: I64, size: int, dim: int) -> None:
        self.bank, self.cells = bank, cells
        self.ring = PictureRing(size, dim)
        self.fit: Gaussian | None = None
        self._scale: ScoreScale | None = None
        self._build: GaussianBuild | None = None
        self._waiting: list[Picture] = []
        self._since_fit = [0, 0]  # pictures let in, and how many of these were rare
        self._fitted: I64 | None = None  # the numbers of the pictures that the fit was made of, if that is known
        self._on_disk: tuple[I64, I64 | None] = np.zeros(0, np.int64), None  # pictures' numbers, and of which fit

    @property
    def count(self) -> int:
        """Return how many pictures are held."""
        return self.ring.count + len(self._waiting)

    @property
    def bytes(self) -> int:
        """Return what it takes, with a fit that may yet have to be made."""
        return self.bank.bytes + self.ring.bytes + self.ring.pooled.shape[1] ** 2 * self.ring.pooled.itemsize

    @property
    def scale(self) -> ScoreScale:
        """Return what is usual among the scores of the pictures held."""
        if self._scale is None:
            count = self.ring.count
            pool_scores = None if self.fit is None else self.ring.pool_scores[:count]
            self._scale = ScoreScale.of(self.ring.patch_scores[:count], pool_scores)
        return self._scale

    def pool_score(self, features: F32) -> float:
        """Return the logarithm of a picture's squared distance, of float32 [dim]; NaN without a fit."""
        return float("nan") if self.fit is None else float(log_scores(self.fit.distances(features[None]))[0])

    def begin(self, picture: Picture, wanted: int) -> None:
        """Take one of the first `wanted` pictures, whose patches and scores come with `settle`."""
        self.ring.add(picture)
        if self._build is not None:
            self._switch(self._build.step())
        elif self.fit is None and self.ring.count >= max(MIN_PICTURES, wanted - GaussianBuild.steps_for(wanted)):
            self._build = GaussianBuild(self.ring.rows)

    def settle(self, patch_scores: F32) -> None:
        """Take the first pictures' scores, float32 [count], and take out what was odd; a fit without it is due."""
        ring = self.ring
        ring.patch_scores[: ring.count] = patch_scores
        if self.fit is not None:  # those that came while it was made
            late = slice(self.fit.count, ring.count)
            ring.pool_scores[late] = log_scores(self.fit.distances(ring.pooled[late]))
        patch, pool = ring.patch_scores[: ring.count], ring.pool_scores[: ring.count]
        scores = zip(patch.tolist(), pool.tolist(), strict=True)
        odd = np.array([self.scale.p_value(one, other) <= REFUSE_P for one, other in scores])
        if not 0 < odd.sum() <= MOST_ODD * ring.count:
            return
        self.bank.remove(np.isin(self.bank.born, ring.numbers[: ring.count][odd]))
        ring.remove(odd)
        self._scale, self._since_fit = None, [LEAST_REFIT, RARE_REFIT]

    def held(self) -> list[tuple[float, int]]:
        """Return time and mark of each picture that is held, in the order in which they leave."""
        order = self.ring.order()
        held = zip(self.ring.times[order].tolist(), self.ring.marks[order].tolist(), strict=True)
        return [*held, *((one.at, one.mark) for one in self._waiting)]

    def admit(self, picture: Picture, found: tuple[F32, I64], *, rare: bool) -> None:
        """Let a picture in; `found` is what the bank's `nearest` gave for its patches just now."""
        self.bank.learn(picture.patches, self.cells, picture.number, picture.at, picture.mark, found)
        self._since_fit[0] += 1
        self._since_fit[1] += rare
        if self._build is not None:
            self._waiting.append(picture)
            return
        self.ring.add(picture)
        self._scale = None

    def step(self) -> None:
        """Do a step of the fit that is in the making, or begin one where it is due."""
        if self._build is not None:
            self._switch(self._build.step())
            return
        let_in, rare = self._since_fit
        held = 0 if self.fit is None else self.fit.count
        due = let_in >= min(REFIT_AT_MOST, max(LEAST_REFIT, REFIT_SHARE * held)) or rare >= RARE_REFIT
        if due and self.ring.count >= MIN_PICTURES:
            self._since_fit = [0, 0]
            self._build = GaussianBuild(self.ring.rows)

    def _switch(self, done: tuple[Gaussian, F64] | None) -> None:
        """Go on with a new fit, if it is done, and let in what waited for it."""
        if done is None:
            return
        self.fit, left_out = done
        self._fitted = self.ring.numbers[: len(left_out)].copy()
        self.ring.pool_scores[: len(left_out)] = log_scores(left_out)
        self._build, self._scale = None, None
        self._gather()

    def _gather(self) -> None:
        """Let in what waits for a fit."""
        for picture in self._waiting:
            self.ring.add(msgspec.structs.replace(picture, pool_score=self.pool_score(picture.pooled)))
        self._waiting = []

    def _refit(self) -> None:
        """Bring the fit up to date at once, after the reference was changed by hand."""
        self.fit, self._build, self._scale, self._since_fit, self._fitted = None, None, None, [0, 0], None
        if self.ring.count >= MIN_PICTURES:
            self._switch(GaussianBuild(self.ring.rows).finish())

    def accept(self, pictures: list[Picture], number: int, mark: int) -> None:
        """Let in what had been refused, as pictures `number` and on, with a mark; their scores leave out their own."""
        self._gather()
        for marks in (self.bank.marks, self.ring.marks):
            marks[marks == mark] = 0  # what an alert of long ago brought
        for place, one in enumerate(pictures, number):
            self.bank.learn(one.patches, self.cells, place, one.at, mark)
        for place, one in enumerate(pictures, number):
            distances, _ = self.bank.nearest(one.patches, self.cells, without=place)
            score = strangeness(distances)
            self.ring.add(msgspec.structs.replace(one, number=place, mark=mark, patch_score=score))
        self._refit()

    def forget_mark(self, mark: int, *, really: bool = True) -> int:
        """Take out what came with a mark; return how many pictures. Raises TooFewLeftError, changing nothing then.

        Nothing is changed either where it is not `really` to be done, but only tried.
        """
        return self._take_out(self.ring.marks == mark, self.bank.marks == mark, really=really)

    def forget_span(self, begin: float, end: float, *, really: bool = True) -> int:
        """Take out what came within a time span; return how many pictures. `really`: as `forget_mark`.

        Raises TooFewLeftError, and then changes nothing.
        """
        waiting = [one for one in self._waiting if begin <= one.at <= end]
        ring, bank = self.ring, self.bank
        return self._take_out(
            (ring.times >= begin) & (ring.times <= end),
            (bank.times >= begin) & (bank.times <= end),
            tuple(waiting),
            really=really,
        )

    def _take_out(self, pictures: Bools, examples: Bools, waiting: tuple[Picture, ...] = (), *, really: bool) -> int:
        leaving = pictures[: self.ring.count]
        wanted = int(leaving.sum()) + len(waiting)
        if self.count - wanted < MIN_LEFT:
            raise TooFewLeftError(f"at least {MIN_LEFT} pictures to be left")
        if wanted == 0 or not really:
            return wanted
        self._waiting = [one for one in self._waiting if all(one is not other for other in waiting)]
        self.ring.remove(leaving)
        self.bank.remove(examples)
        self._gather()
        self._refit()
        return wanted

    def nearest(self, at: float, features: F32, neighbours: int) -> list[tuple[float, float]]:
        """Return (time, distance) of pictures of other times than `at`, nearest first, in units of spread."""
        rows = self.ring.rows
        away = np.sqrt(np.square((rows - features) / (rows.std(axis=0) + 1e-3)).mean(axis=1))
        times = self.ring.times[: len(rows)].tolist()
        order = [place for place in np.argsort(away, kind="stable").tolist() if times[place] != at]
        return [(times[place], float(away[place])) for place in order[:neighbours]]

    def snapshot(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "bank": self.bank.snapshot(),
            "ring": self.ring.snapshot(),
            "fit": fields(self.fit),
            "waiting": [one.packed() for one in self._waiting],
            **self._progress(),
        }

    def _progress(self) -> dict[str, Any]:
        build = self._build
        return {
            "build": None if build is None else [len(build.rows), build.steps],
            "since_fit": list(self._since_fit),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again; a fit in the making is made again, as far as it was."""
        self.bank.restore(state["bank"])
        self.ring.restore(state["ring"])
        self.fit = None if state["fit"] is None else Gaussian(*state["fit"])
        self._scale, self._build = None, None
        if state["build"] is not None:
            rows, steps = state["build"]
            self._build = GaussianBuild(self.ring.pooled[:rows])
            for _ in range(steps):
                self._build.step()
        self._waiting = [Picture.unpacked(one) for one in state["waiting"]]
        self._since_fit = list(state["since_fit"])
        self._fitted = None

    def saved(self) -> None:
        """Know that all of it is on disk, from where `addition` goes on."""
        self.bank.saved()
        self._on_disk = self._numbers(), self._fitted

    def _numbers(self) -> I64:
        """Return the numbers of all pictures, int64 [count], in the order in which they leave."""
        waiting = np.array([one.number for one in self._waiting], np.int64)
        return np.concatenate([self.ring.numbers[self.ring.order()], waiting])

    def addition(self, tiles: int = 1) -> dict[str, Any]:
        """Return what is new since it was on disk, for `PicturePast`; nothing must have been changed by hand since.

        Of many new pictures some are told of, evenly spread, with the newest, and not to the last digit: each of so
        many `tiles` has its share. Of a fit it is told which pictures it was made of.
        """
        known, fitted = self._on_disk
        ring, waiting = self.ring, self._waiting
        places, numbers = ring.order(), self._numbers()
        new = np.flatnonzero(~np.isin(numbers, known))
        exact = len(new) <= max(1, MOST_EXACT // tiles)
        new = new[evenly(len(new), max(1, MOST_TOLD // tiles))]
        entered = places[new[new < len(places)]]
        yet = [waiting[place] for place in new[new >= len(places)] - len(places)]
        scores = np.array([[one.patch_score, one.pool_score] for one in yet], np.float32).reshape(-1, 2)
        pooled = np.concatenate([ring.pooled[entered], *(one.pooled[None] for one in yet)])
        return {
            "bank": self.bank.addition(max(1, EXAMPLES_TOLD // tiles), exact=exact),
            "pooled": pooled if exact else shortened(pooled),
            "patch_scores": np.concatenate([ring.patch_scores[entered], scores[:, 0]]),
            "pool_scores": np.concatenate([ring.pool_scores[entered], scores[:, 1]]),
            "times": np.concatenate([ring.times[entered], [one.at for one in yet]]),
            "numbers": numbers[new],
            "marks": np.concatenate([ring.marks[entered], np.array([one.mark for one in yet], np.uint8)]),
            "ring": {
                "numbers": ring.numbers[: ring.count].copy(),
                "pool_scores": ring.pool_scores[: ring.count].copy(),
                "head": ring.head,
            },
            "waiting": numbers[len(places) :],
            "fitted": None if self._fitted is fitted else self._fitted,
            **self._progress(),
        }


def log_scores(squared: F64) -> F32:
    """Return the logarithms of squared distances, float32."""
    return np.log(np.maximum(squared, _LEAST_DISTANCE)).astype(np.float32)
