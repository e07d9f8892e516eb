"""Pictures that show nothing: black, white, covered, blurred, frozen. They are alerts of their own, and never learnt.

Limits come from the first healthy pictures of a stream. The picture's own score does not see these: a black picture is
like every other black one, and one that stands still is like the last.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec
import numpy as np

from agent.core.types import F32, F64, U8, Bools, Frame
from agent.core.workspace import Workspace

LOW_SHARE: Final = 0.25  # of the usual deviation, and of the 2 % quantile of means
CLIPPED: Final = 250  # gray levels from which a pixel is white
WHITE_SHARE: Final = 0.5  # of the pixels, at least
WHITE_FACTOR: Final = 1.5  # times the usual share, at least
BLURRED_Z: Final = 5.0
FROZEN_FRAMES: Final = 30  # still pictures of a scene without noise are often the same for a few
FROZEN_FACTOR: Final = 3.0  # times the longest run that ended by itself
CHANGED_SHARE: Final = 0.001  # of the pixels: fewer are no change
MIN_PICTURES: Final = 20  # healthy ones, before limits are the stream's own
MOST: Final = 100.0
_DEAD_MEAN: Final = 8.0  # gray levels, before that
_DEAD_DEVIATION: Final = 1.0
_DEAD_CLIPPED: Final = 0.95
_LEAST_SHARPNESS_DEVIATION: Final = 0.1  # of the logarithm
_EVERY: Final = 4  # rows and columns that are compared for change
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)


class PictureFault(StrEnum):
    """What is wrong with a picture as such."""

    BLACK = "black"
    WHITE = "white"
    COVERED = "covered"
    BLURRED = "blurred"
    FROZEN = "frozen"


class Finding(msgspec.Struct, frozen=True):
    """A fault, and how many times its limit was passed: 1 to MOST."""

    fault: PictureFault
    score: float


class Looks(msgspec.Struct, frozen=True):
    """What is measured of a picture: gray levels, the share that is clipped, the log of its sharpness.

    Sharpness is the variance of the Laplacian over that of the picture, so that light does not change it.
    """

    mean: float
    deviation: float
    clipped: float
    sharpness: float


class PictureHealth:
    """The usual looks of a stream's pictures, and for how many they did not change. `ignored` bool [height, width]."""

    def __init__(self, warm_up: int, ignored: Bools | None = None, workspace: Workspace | None = None) -> None:
        self._warm_up = warm_up
        self._workspace = workspace or Workspace()
        self._kept = None if ignored is None else ~ignored
        self._seen: list[Looks] = []
        self._limits: Looks | None = None  # least mean, least deviation, most clipped, least sharpness
        self._first: U8 | None = None  # of the run, every fourth pixel
        self.run = 0  # pictures that are the same, with the last one
        self.longest = 0  # such run that ended
        self._on_disk = 0  # of what was seen

    @property
    def frozen_at(self) -> int:
        """Return the run from which a stream counts as frozen."""
        return max(FROZEN_FRAMES, round(FROZEN_FACTOR * self.longest))

    def check(self, frame: Frame) -> list[Finding]:
        """Return what is wrong with a picture, worst first; learn from one that is healthy."""
        self._follow(frame.pixels)
        looks = self.measure(frame.pixels)
        found = [Finding(fault, min(score, MOST)) for fault, score in self._scores(looks) if score >= 1.0]
        if not found and len(self._seen) < self._warm_up:
            self._seen.append(looks)
            self._limits = None
        return sorted(found, key=lambda one: -one.score)

    def _scores(self, looks: Looks) -> list[tuple[PictureFault, float]]:
        """Return how many times the limit of each fault was passed. Black or white hides what is covered or blurred."""
        limits = self._limits_now()
        dead = looks.deviation < _DEAD_DEVIATION and looks.mean < _DEAD_MEAN
        black = MOST if dead and len(self._seen) < MIN_PICTURES else limits.mean / max(looks.mean, 1e-6)
        white = looks.clipped / limits.clipped
        scores = [(PictureFault.BLACK, black), (PictureFault.WHITE, white)]
        if max(black, white) < 1.0:
            covered = limits.deviation / max(looks.deviation, 1e-6)
            scores.append((PictureFault.COVERED, covered))
            if covered < 1.0:
                scores.append((PictureFault.BLURRED, float(np.exp(limits.sharpness - looks.sharpness))))
        return [*scores, (PictureFault.FROZEN, self.run / self.frozen_at)]

    def _limits_now(self) -> Looks:
        if self._limits is None:
            self._limits = limits_of(self._seen)
        return self._limits

    def _follow(self, pixels: U8) -> None:
        """Count how long pictures have been the same."""
        few = pixels[::_EVERY, ::_EVERY]
        if self._first is not None:
            differs = few != self._first
            changed = differs[..., 0] | differs[..., 1] | differs[..., 2]  # `any` takes three times as long
            kept = changed if self._kept is None else changed[self._kept[::_EVERY, ::_EVERY]]
            if kept.mean() <= CHANGED_SHARE:
                self.run += 1
                return
            if self.run < self.frozen_at:
                self.longest = max(self.longest, self.run)
        self._first, self.run = few.copy(), 1

    def measure(self, pixels: U8) -> Looks:
        """Return the looks of a picture, uint8 [height, width, 3]."""
        height, width, _ = pixels.shape
        work = self._workspace
        gray = np.matmul(work.floats(pixels), _LUMA, out=work.lend("gray", (height, width)))
        edges: F32 = work.lend("edges", (height - 2, width - 2))
        centre = work.lend("centre", edges.shape)
        np.add(gray[:-2, 1:-1], gray[2:, 1:-1], out=edges)
        edges += gray[1:-1, :-2]
        edges += gray[1:-1, 2:]
        edges -= np.multiply(gray[1:-1, 1:-1], np.float32(4.0), out=centre)
        if self._kept is not None:
            gray, edges = gray[self._kept], edges[self._kept[1:-1, 1:-1]]
        mean, variance = moments(gray, work)
        return Looks(
            mean,
            float(np.sqrt(variance)),
            float(np.count_nonzero(gray >= CLIPPED)) / gray.size,
            float(np.log((moments(edges, work)[1] + 1e-3) / (variance + 1e-3))),
        )

    def snapshot(self) -> dict[str, Any]:
        """Return what was learnt, and the run that lasts."""
        return {
            "seen": [list(msgspec.structs.astuple(one)) for one in self._seen],
            "first": self._first,
            "run": self.run,
            "longest": self.longest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._seen, self._limits = [Looks(*one) for one in state["seen"]], None
        self._first, self.run, self.longest = state["first"], state["run"], state["longest"]

    def saved(self) -> None:
        """Know that all of it is on disk, from where `addition` goes on."""
        self._on_disk = len(self._seen)

    def addition(self) -> dict[str, Any]:
        """Return what is new since it was on disk, for `extend`. Of a run of one picture that picture is left out."""
        return {
            "seen": [list(msgspec.structs.astuple(one)) for one in self._seen[self._on_disk :]],
            "first": self._first if self.run > 1 else None,
            "run": self.run if self.run > 1 else 0,
            "longest": self.longest,
        }


def extend(state: dict[str, Any], added: dict[str, Any]) -> None:
    """Take an addition into a snapshot, whose parts are replaced."""
    state.update({**added, "seen": [*state["seen"], *added["seen"]]})


def moments(values: F32, workspace: Workspace) -> tuple[float, float]:
    """Return mean and variance of float32 values: one product each, several times faster than `var`."""
    flat = values.reshape(-1)
    mean = float(flat.mean())
    away = np.subtract(flat, np.float32(mean), out=workspace.lend("away", flat.shape))
    return mean, float(away @ away) / flat.size


def limits_of(seen: list[Looks]) -> Looks:
    """Return the least mean, least deviation, most clipped and least sharpness of healthy pictures.

    With fewer than MIN_PICTURES only what is dead for certain is beyond them.
    """
    if len(seen) < MIN_PICTURES:
        return Looks(0.0, _DEAD_DEVIATION, _DEAD_CLIPPED, -np.inf)
    means, deviations, clipped, sharpness = np.array([msgspec.structs.astuple(one) for one in seen]).T
    return Looks(
        LOW_SHARE * float(np.quantile(means, 0.02)),
        LOW_SHARE * float(np.median(deviations)),
        max(WHITE_SHARE, WHITE_FACTOR * float(np.median(clipped))),
        _least_sharpness(sharpness),
    )


def _least_sharpness(sharpness: F64) -> float:
    """Return what lies BLURRED_Z deviations below the mean, and below all that was seen."""
    deviation = max(float(sharpness.std()), _LEAST_SHARPNESS_DEVIATION)
    return min(float(sharpness.mean()) - BLURRED_Z * deviation, float(sharpness.min()))
