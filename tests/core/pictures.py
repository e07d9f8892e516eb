"""Generated encoder outputs: a scene with its own channels in each cell, noise, and defects in one patch."""

from __future__ import annotations

import numpy as np

from agent.core.picture_settings import PictureDetectorSettings, PictureReferenceSettings
from agent.core.pictures import PictureDetector
from agent.core.types import Frame

SHAPES = [(6, 6, 6), (3, 3, 8)]
PIXELS = np.random.default_rng(9).integers(60, 200, (24, 24, 3)).astype(np.uint8)


def outputs(rng, *, defect=0.0, shift=0.0):
    """Return one picture's maps; a defect adds to one patch of each, a shift to all."""
    made = []
    for rows, columns, dim in SHAPES:
        base = np.sin(np.arange(rows * columns * dim)).reshape(rows, columns, dim)
        one = base + rng.normal(0, 0.3, base.shape) + rng.normal(0, 0.2, dim) + shift
        one[rows // 2, columns // 2] += defect
        made.append(one.astype(np.float32))
    return made


def frame(at, pixels=PIXELS):
    return Frame(float(at), pixels)


def make(size=150, warm_up=120, ignored=None, **settings):
    wanted = PictureDetectorSettings(reference=PictureReferenceSettings(size=size, warm_up=warm_up), **settings)
    return PictureDetector(wanted, SHAPES, ignored)


def feed(detector, rng, count, first=0, **how):
    """Push so many pictures, one a second; return the assessments."""
    return [detector.push(frame(first + i), outputs(rng, **how)) for i in range(count)]


def learnt(seed=0, **settings):
    """Return a detector that has just become active, and the generator of what comes next."""
    detector, rng = make(**settings), np.random.default_rng(seed)
    feed(detector, rng, detector.learning_left)
    return detector, rng
