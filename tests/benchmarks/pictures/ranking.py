"""Do odd pictures score higher than normal ones? References are streamed through; the tested ones are not learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agent.core.types import F32
from tests.benchmarks.pictures.drive import Driver
from tests.benchmarks.pictures.kept import Kept
from tests.benchmarks.pictures.measures import auroc, enlarged
from tests.benchmarks.pictures.sets import Scene

_PIXELS = 56  # a side, at which pixels are ranked


def features(scene: Scene, driver: Driver, cache: Path | None, step: Callable[[], object]) -> list[list[F32]]:
    """Return the maps of reference and tested pictures in order, from the cache or encoded; feed the reference."""
    order = [*scene.reference, *scene.tested, *scene.odd]
    kept = Kept(cache, scene.name, driver.model, len(order))
    made: list[list[F32]] = []
    for place, index in enumerate(order):
        pixels = scene.pictures[index]
        outputs = kept.maps(place)
        if outputs is None:
            outputs = driver.encode(pixels)
            kept.note(place, outputs)
        if place < len(scene.reference):
            driver.push(pixels, outputs)
        made.append(outputs)
        step()
    kept.save()
    return made


def rank(scene: Scene, driver: Driver, maps: list[list[F32]]) -> dict[str, Any]:
    """Return AUROC by patches, as a whole and by both, and that of pixels where masks are known."""
    first = len(scene.reference)
    split = len(scene.tested)
    scores = np.array([driver.look(one) for one in maps[first:]])
    found: dict[str, Any] = {
        name: auroc(scores[:split, place], scores[split:, place])
        for place, name in enumerate(("patches", "whole", "both"))
    }
    if scene.masks is not None:
        step = scene.masks.shape[1] // _PIXELS
        masks = np.concatenate(
            [np.zeros((split, _PIXELS, _PIXELS), np.bool_), scene.masks[:, step // 2 :: step, step // 2 :: step]]
        )
        heat = np.array([enlarged(driver.detector.heat(one), _PIXELS) for one in maps[first:]])
        found["pixels"] = auroc(heat[~masks], heat[masks])
        for kind in dict.fromkeys(scene.kinds):
            here = np.concatenate([np.zeros(split, np.bool_), np.array(scene.kinds) == kind])
            found[f"pixels {kind}"] = auroc(heat[here][~masks[here]], heat[here][masks[here]])
    return found
