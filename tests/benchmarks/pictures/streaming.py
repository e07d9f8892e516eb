"""Streams with 3 % of odd pictures from the first one on: are there as many false alarms as were promised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.adapters.tflite import TfliteModel
from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertSettings, AlertState
from agent.core.budget import HASTE, BudgetControl
from agent.core.picture_settings import PictureAssessment
from agent.core.types import F64, U8, Budget
from agent.pipeline import judge
from tests.benchmarks.pictures.drive import Driver
from tests.benchmarks.pictures.kept import Kept
from tests.benchmarks.pictures.measures import augmented, auroc, kept_promise, lit
from tests.benchmarks.pictures.sets import Scene

SHARE = 0.03
RATES = (0.01, 0.001)
LATE = 300  # decisions
_NOTHING: Final[U8] = np.zeros((2, 2, 3), np.uint8)  # where the maps are known: light is in them
_LIGHTS = (("same light", None, True), ("day", 150, True), ("day, left in", 150, False))


class Alerts:
    """The agent's own alerts of one stream at one rate, each odd picture one of its own.

    True ones are `confirmed` each time, or never: the agent cannot tell by itself that they are none of its budget.
    """

    def __init__(self, rate: float, *, confirmed: bool) -> None:
        self._confirmed = confirmed
        budget = Budget(count=1, per_decisions=1.0 / rate)
        settings = AlertSettings(false_alarms=budget, after=1, clear_after=1, cooldown_s=0.0)
        self._budget = BudgetControl(settings, haste=HASTE)
        self._budget.configure(1.0)
        self._machine = AlertMachine(settings, agent="bench", stream="pictures", kind=AlertKind.ANOMALY)

    def follow(self, found: PictureAssessment, *, odd: bool) -> float:
        """Take a decision; return 1 where an alert begins, .5 where it goes on, else 0."""
        transition = judge(self._budget, self._machine, found.at, found.score)
        if transition is not None and transition.event is AlertEvent.RAISED:
            if odd and self._confirmed:
                self._budget.confirm(transition.id)
            return 1.0
        return 0.5 if self._machine.state is AlertState.FIRING else 0.0


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
    cache: Path | None = None,
) -> tuple[F64, list[float]]:
    """Return (score, odd, late, alerts) of each decision, float64 [decisions, 7], and seconds of each push.

    An alert is 1 where one begins and .5 where one goes on: by rate where true ones are confirmed, then where they are
    not.

    Each picture is augmented anew. `day`: behind the warm-up light changes, and is the same again after so many
    pictures. Without `light` it is left in. With a `cache` maps are kept there, or taken from there.
    """
    rng = np.random.default_rng(seed)
    driver = Driver(model)
    alerts = [Alerts(rate, confirmed=confirmed) for confirmed in (True, False) for rate in RATES]
    rows = []
    order = order_of(scene, rng)
    kept = Kept(cache, f"stream-{seed}-{scene.name}", model, len(order))
    for number, (place, odd) in enumerate(order):
        pixels = _NOTHING if kept.known else augmented(scene.pictures[place], rng, flips=scene.masks is not None)
        if day is not None and rows:
            pixels = lit(pixels, len(rows) % day / day)
        outputs = kept.maps(number)
        if outputs is None:
            outputs = driver.encode(pixels) if light else driver.run(pixels)
            kept.note(number, outputs)
        found = driver.push(pixels, outputs)
        if found is not None:
            rows.append((found.score, odd, len(rows) >= LATE, *(one.follow(found, odd=odd) for one in alerts)))
        step()
    kept.save()
    return np.array(rows, np.float64), driver.seconds


def promise(rows: F64) -> dict[float, dict[str, float]]:
    """Return for each rate what was promised and what happened."""
    odd = rows[:, 1] == 1
    found = {}
    for place, rate in enumerate(RATES):
        found[rate] = kept_promise(rows[~odd, 0], rows[odd, 0], rows[odd, 2], rate)
        for name, column in (("steered", 3 + place), ("unconfirmed", 3 + len(RATES) + place)):
            alerts, late = rows[:, column], rows[:, 2] == 1
            found[rate][f"{name}_alarms"] = float((alerts[~odd] == 1).sum())
            found[rate][f"{name}_cold"] = float((alerts[odd & ~late] > 0).mean())
            found[rate][f"{name}_later"] = float((alerts[odd & late] > 0).mean())
    return found


def ranking(rows: F64) -> float:
    """Return the AUROC of a stream's scores."""
    odd = rows[:, 1] == 1
    return auroc(rows[~odd, 0], rows[odd, 0])


def repeat(
    scenes: list[Scene], model: TfliteModel, alarms: float, cache: Path | None, step: Callable[[], object]
) -> tuple[F64, list[float], int]:
    """Play scenes in turn, in new orders, until `alarms` are promised at the lowest rate: rows, seconds, runs."""
    made: list[F64] = []
    seconds: list[float] = []
    while sum(int((one[:, 1] == 0).sum()) for one in made) * RATES[-1] < alarms or len(made) % len(scenes):
        rows, took = stream(scenes[len(made) % len(scenes)], model, len(made), step, cache=cache)
        made.append(rows)
        seconds += took
    return np.concatenate(made), seconds, len(made)


def days(scene: Scene, model: TfliteModel, step: Callable[[], object]) -> dict[str, Any]:
    """Return what becomes of a promise of 1 % in the warm-up's light, over days, and with their light left in."""
    return {
        name: promise(stream(scene, model, 0, step, day=day, light=light)[0])[RATES[0]] for name, day, light in _LIGHTS
    }
