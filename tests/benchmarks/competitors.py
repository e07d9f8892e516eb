"""Other streaming detectors, one value at a time, as their authors set them; they come with the extra `bench`."""

from __future__ import annotations

import math
from collections import deque
from functools import cache
from typing import Any, Protocol

import numpy as np

from tests.benchmarks.plots import missing_package

GAUSSIAN_ROWS = 1000
KNN_PROBATION = 500
FOREST_TREES, FOREST_SIZE, FOREST_SHINGLE = 40, 256, 4  # of the example in rrcf's documentation
_LEAST = 1e-12  # added before a logarithm
_LEAST_MASS = 1e-3


class Competitor(Protocol):
    """Scores a value and learns from it."""

    def step(self, value: float) -> tuple[float, float]:
        """Return its own score, and a raw one for our head: the logarithm of what the own one is made of.

        NaN where there is none yet; higher is stranger.
        """


class RunningGaussian:
    """Deviations from the mean of the last 1,000 values."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=GAUSSIAN_ROWS)
        self._first = self._sum = self._squares = 0.0

    def step(self, value: float) -> tuple[float, float]:
        """Return |x - mean| / deviation and its logarithm."""
        count = len(self._values)
        if not count:
            self._first = value
        moved = value - self._first  # sums of small numbers keep their digits
        own = math.nan
        if count > 1:
            mean = self._sum / count
            deviation = math.sqrt(max(self._squares / count - mean * mean, 0.0))
            own = abs(moved - mean) / max(deviation, 1e-9)
        if count == GAUSSIAN_ROWS:
            left = self._values[0]
            self._sum -= left
            self._squares -= left * left
        self._values.append(moved)
        self._sum += moved
        self._squares += moved * moved
        return own, math.log(own + _LEAST_MASS) if count > 1 else math.nan


class HalfSpace:
    """River's half-space trees at their defaults, behind its scaler as its documentation has it."""

    def __init__(self) -> None:
        try:
            from river.anomaly import HalfSpaceTrees  # noqa: PLC0415  an extra
            from river.preprocessing import MinMaxScaler  # noqa: PLC0415
        except ImportError as error:
            raise missing_package(error, "half-space trees") from error
        self._scaler, self._trees = MinMaxScaler(), HalfSpaceTrees(seed=1)
        self._seen = 0

    def step(self, value: float) -> tuple[float, float]:
        """Return River's score and minus the logarithm of the mass that it is made of."""
        given = {"x": value}
        self._scaler.learn_one(given)
        scaled = self._scaler.transform_one(given)
        own = float(self._trees.score_one(scaled))
        self._trees.learn_one(scaled)
        self._seen += 1
        if self._seen <= self._trees.window_size:
            return math.nan, math.nan
        return own, -math.log(max(1.0 - own, 0.0) + _LEAST_MASS)


class NearestConformal:
    """PySAD's KNN-CAD: 19 values, 27 neighbours, silent for a fifth of the probation behind an alarm."""

    def __init__(self, probation: int = KNN_PROBATION) -> None:
        try:
            self._model = _nearest_class()(probationary_period=probation)
        except ImportError as error:
            raise missing_package(error, "KNN-CAD") from error

    def step(self, value: float) -> tuple[float, float]:
        """Return PySAD's score and the logarithm of the window's distance."""
        own, raw = float(self._model.fit_score_partial(value)), self._model.raw
        return (math.nan, math.nan) if raw is None else (own, math.log(max(raw, 0.0) + _LEAST))


@cache
def _nearest_class() -> Any:
    """Return KNNCAD that keeps the distance behind its last score in `raw`."""
    from pysad.models import KNNCAD  # noqa: PLC0415  an extra

    class Keeping(KNNCAD):
        raw: float | None = None

        def _score(self, value: float) -> tuple[float, float | None]:
            score, self.raw = super()._score(value)
            return score, self.raw

    return Keeping


class RandomCutForest:
    """rrcf with 40 trees of 256 windows of 4 values: the mean collusive displacement."""

    def __init__(self) -> None:
        try:
            import rrcf  # noqa: PLC0415  an extra
        except ImportError as error:
            raise missing_package(error, "random cut forest") from error
        self._trees: list[Any] = [rrcf.RCTree(random_state=number) for number in range(FOREST_TREES)]
        self._last: deque[float] = deque(maxlen=FOREST_SHINGLE)
        self._number = 0

    def step(self, value: float) -> tuple[float, float]:
        """Return the mean displacement and its logarithm."""
        self._last.append(value)
        if len(self._last) < FOREST_SHINGLE:
            return math.nan, math.nan
        point, total = np.array(self._last), 0.0
        for tree in self._trees:
            if len(tree.leaves) >= FOREST_SIZE:
                tree.forget_point(self._number - FOREST_SIZE)
            tree.insert_point(point, index=self._number)
            total += float(tree.codisp(self._number))
        self._number += 1
        own = total / FOREST_TREES
        return own, math.log(own + _LEAST_MASS)


COMPETITORS: dict[str, type[Competitor]] = {
    "running Gaussian": RunningGaussian,
    "half-space trees (River)": HalfSpace,
    "KNN-CAD (PySAD)": NearestConformal,
    "random cut forest (rrcf)": RandomCutForest,
}
SLOW = frozenset({"random cut forest (rrcf)"})
