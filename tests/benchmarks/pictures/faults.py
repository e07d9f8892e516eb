"""Are black, white, covered and blurred pictures told, and healthy ones let through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from agent.core.picture_health import PictureFault, PictureHealth
from agent.core.types import U8, Frame
from tests.benchmarks.pictures.sets import Scene

WARM_UP = 300
SPOILT = 100


def _blurred(pixels: U8, deviation: float) -> U8:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))


def _white(pixels: U8) -> U8:
    return np.clip(pixels * 6.0 + 60.0, 0, 255).astype(np.uint8)


def _covered(pixels: U8) -> U8:
    noise = np.random.default_rng(int(pixels.sum())).normal(40.0, 2.0, pixels.shape)
    return np.clip(noise, 0, 255).astype(np.uint8)


SPOILS: dict[str, tuple[PictureFault, Callable[[U8], U8]]] = {
    "a fiftieth of the light": (PictureFault.BLACK, lambda pixels: (pixels * 0.02).astype(np.uint8)),
    "six times the light": (PictureFault.WHITE, _white),
    "gray with noise": (PictureFault.COVERED, _covered),
    "blurred by 2 pixels": (PictureFault.BLURRED, lambda pixels: _blurred(pixels, 2.0)),
    "blurred by 4 pixels": (PictureFault.BLURRED, lambda pixels: _blurred(pixels, 4.0)),
}


def faults(scene: Scene, step: Callable[[], object]) -> dict[str, float]:
    """Return the share of a scene's normal pictures with any fault, and of spoilt ones with the right one."""
    health = PictureHealth(WARM_UP)
    places = np.random.default_rng(0).permutation([*scene.reference, *scene.tested])
    false = 0
    for place in places:
        false += bool(health.check(Frame(0.0, scene.pictures[place])))
        step()
    found = {"healthy": false / len(places)}
    for name, (fault, spoil) in SPOILS.items():
        told = [health.check(Frame(0.0, spoil(scene.pictures[place]))) for place in places[-SPOILT:]]
        found[name] = float(np.mean([any(one.fault is fault for one in findings) for findings in told]))
        step()
    return found
