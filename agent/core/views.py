"""The views of a sensor window: what is embedded, with and without a network, at which time scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from agent.core.preprocess import CLIP, POOLS, features

if TYPE_CHECKING:
    from agent.core.types import F32

VALUES_LENGTH: Final = 32
SLOW_LENGTH: Final = 16
_VALUES_STEP: Final = CLIP / 127
SHORTEST_SPAN: Final = (VALUES_LENGTH + 1) * POOLS[0]  # of all views: that of the values themselves


class View(msgspec.Struct, frozen=True):
    """One way to look at a window. `length` points after pooling; `dim`, `step`, `offset` of its int8 embedding.

    `says` is the word for it in an alert: level (values themselves) or shape (the network). Every `every`-th window may
    enter the reference, which is that much smaller: at a slower scale, windows differ less from one to the next.
    """

    name: str
    says: str
    pool_index: int
    length: int
    dim: int
    step: float
    offset: int
    encoded: bool
    every: int = 1

    @property
    def span(self) -> int:
        """Return how many rows of the grid it needs: one point more than its length, for the first difference."""
        return (self.length + 1) * POOLS[self.pool_index]


def views_for(length: int, dim: int, step: float, offset: int) -> tuple[View, ...]:
    """Return the views of a sensor stream whose encoder takes `length` points; `dim` 0 means no encoder.

    The second and slower one is the encoder's where there is one: plain values there found half as many injected
    disturbances at 1 per 10,000 decisions, at the same score on NAB (docs/benchmarks.md).
    """
    values = View("values", "level", 0, VALUES_LENGTH, 2 * VALUES_LENGTH, _VALUES_STEP, 0, encoded=False)
    if dim == 0:
        return (
            values,
            View("values_x4", "level", 1, SLOW_LENGTH, 2 * SLOW_LENGTH, _VALUES_STEP, 0, encoded=False, every=2),
        )
    return (
        values,
        View("encoder", "shape", 0, length, dim, step, offset, encoded=True),
        View("encoder_x4", "shape", 1, length, dim, step, offset, encoded=True, every=2),
    )


def windows(views: tuple[View, ...], lanes: F32, table: F32) -> list[F32]:
    """Return each view's scaled windows that end with the last point, float32 [lanes, length, 2].

    `lanes` float32 [lanes, points] must hold as many points as the longest view spans; `table` is the scale's.
    """
    made = {}
    for index in {view.pool_index for view in views}:
        longest = max(view.length for view in views if view.pool_index == index)
        made[index] = features(lanes, index, longest, table)
    return [made[view.pool_index][:, -view.length :] for view in views]


def plain(made: F32) -> F32:
    """Return windows as embeddings, without a network: float32 [n, length x 2]."""
    return np.ascontiguousarray(made).reshape(len(made), made.shape[1] * made.shape[2])
