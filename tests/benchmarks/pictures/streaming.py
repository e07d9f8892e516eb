"""Streams with 3 % of odd pictures from the first one on: are there as many false alarms as were promised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agent.adapters.tflite import TfliteModel
from agent.core.types import F64
from tests.benchmarks.pictures.drive import Driver
from tests.benchmarks.pictures.measures import augmented, auroc, kept_promise, lit
from tests.benchmarks.pictures.sets import Scene

SHARE = 0.03
RATES = (0.01, 0.001)
LATE = 300  # decisions
_LIGHTS = (("same light", None, True), ("day", 150, True), ("day, left in", 150, False))


def order_of(scene: Scene, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Return all normal pictures and so many odd ones that they are 3 %, shuffled: (place, whether odd)."""
    normal = [*scene.reference, *scene.tested]
    odd = rng.permutation(scene.odd)[: round(SHARE / (1.0 - SHARE) * len(normal))]
    order = [*((place, False) for place in normal), *((int(place), True) for place in odd)]
    return [order[place] for place in rng.permutation(len(order))]


def stream(
    scene: Scene,
    model: TfliteModel,
    seed: int,
    step: Callable[[], object],
    *,
    day: int | None = None,
    light: bool = True,
) -> tuple[F64, list[float]]:
    """Return (score, odd, late) of each decision, float64 [decisions, 3], and seconds of each push.

    Each picture is augmented anew. `day`: behind the warm-up light changes, and is the same again after so many
    pictures. Without `light` it is left in.
    """
    rng = np.random.default_rng(seed)
    driver = Driver(model)
    rows = []
    for place, odd in order_of(scene, rng):
        pixels = augmented(scene.pictures[place], rng, flips=scene.masks is not None)
        if day is not None and rows:
            pixels = lit(pixels, len(rows) % day / day)
        found = driver.push(pixels, None if light else driver.run(pixels.astype(np.float32)))
        if found is not None:
            rows.append((found.score, odd, len(rows) >= LATE))
        step()
    return np.array(rows, np.float64), driver.seconds


def promise(rows: F64) -> dict[float, dict[str, float]]:
    """Return for each rate what was promised and what happened."""
    odd = rows[:, 1] == 1
    return {rate: kept_promise(rows[~odd, 0], rows[odd, 0], rows[odd, 2], rate) for rate in RATES}


def ranking(rows: F64) -> float:
    """Return the AUROC of a stream's scores."""
    odd = rows[:, 1] == 1
    return auroc(rows[~odd, 0], rows[odd, 0])


def repeat(
    scenes: list[Scene], model: TfliteModel, alarms: float, step: Callable[[], object]
) -> tuple[F64, list[float], int]:
    """Play scenes in turn, in new orders, until `alarms` are promised at the lowest rate: rows, seconds, runs."""
    made: list[F64] = []
    seconds: list[float] = []
    while sum(int((one[:, 1] == 0).sum()) for one in made) * RATES[-1] < alarms or len(made) % len(scenes):
        rows, took = stream(scenes[len(made) % len(scenes)], model, len(made), step)
        made.append(rows)
        seconds += took
    return np.concatenate(made), seconds, len(made)


def days(scene: Scene, model: TfliteModel, step: Callable[[], object]) -> dict[str, Any]:
    """Return what becomes of a promise of 1 % in the warm-up's light, over days, and with their light left in."""
    return {
        name: promise(stream(scene, model, 0, step, day=day, light=light)[0])[RATES[0]] for name, day, light in _LIGHTS
    }
