"""Examples as tensors: which windows of them are taken, how these are embedded and scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from agent.core.preprocess import CLIP
from agent.core.views import VALUES_LENGTH
from converter.pretrain.corpus import GUARD, LENGTH, Example, example
from converter.pretrain.network import STRIDE
from converter.pretrain.objective import standardised

_OFFSETS: Final = (2, 4, 4, 8)  # of the eight windows that begin within a stride: 250, 500 or 1000 references
_NORMAL_OFFSETS: Final = 3
_INPUT_STEP: Final = CLIP / 127  # the model's input is int8
# float32 [n, points, 2] to float32 [n, windows, dim], a window every 8 points
Embed: TypeAlias = Callable[[Tensor], Tensor]


def plain(series: Tensor) -> Tensor:
    """Embed without a network, as the agent's first view: the newest 32 points of each window as they are."""
    cut = series[:, LENGTH - VALUES_LENGTH :].unfold(1, VALUES_LENGTH, STRIDE)
    return cut.flatten(2)


def _stacked(parts: list[np.ndarray[Any, Any]]) -> Tensor:
    windows = torch.from_numpy(np.stack(parts))
    return (windows / _INPUT_STEP).round() * _INPUT_STEP


def _at_offsets(embed: Embed, series: Tensor, offsets: list[int], first: int) -> Tensor:
    """Return embeddings of the windows at all `offsets`, in order of time, [episodes, windows, dim]."""
    count = len(series)
    length = (series.shape[1] - first - STRIDE + 1) // STRIDE * STRIDE
    cuts = torch.stack([series[:, first + one : first + one + length] for one in sorted(offsets)], 1)
    found = embed(cuts.flatten(0, 1))
    return found.unflatten(0, (count, len(offsets))).transpose(1, 2).flatten(1, 2)


class Batch:
    """Examples of one step, and which windows of them are taken."""

    def __init__(self, made: list[Example], offsets: list[int], normal_offsets: list[int]) -> None:
        self.known = _stacked([one.known for one in made])
        self.new = _stacked([one.new for one in made])
        self.events = _stacked([one.events for one in made])
        self.offsets, self.normal_offsets = offsets, normal_offsets

    def to(self, device: str) -> Batch:
        """Move to a device."""
        self.known, self.new, self.events = (one.to(device) for one in (self.known, self.new, self.events))
        return self

    def embed(self, embed: Embed) -> tuple[Tensor, ...]:
        """Return embeddings of references, normal windows and events, each [episodes, windows, dim]."""
        references = _at_offsets(embed, self.known, self.offsets, 0)
        normal = _at_offsets(embed, self.new, self.normal_offsets, GUARD)
        events = embed(self.events.flatten(0, 1))
        return references, normal, events.reshape(len(self.known), -1, events.shape[2])

    def score(self, embedded: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return scores of normal windows [episodes, n] and of events [episodes, events, windows]."""
        references, normal, events = embedded
        found = standardised(references, torch.cat([normal, events], 1))
        count = self.events.shape[1]
        return found[:, : normal.shape[1]], found[:, normal.shape[1] :].unflatten(1, (count, -1))


def batch_of(seed: int, step: int, episodes: int) -> Batch:
    """Return the examples of a training's step."""
    rng = np.random.default_rng([seed, step])
    offsets = rng.permutation(STRIDE)[: rng.choice(_OFFSETS)].tolist()
    normal_offsets = rng.permutation(STRIDE)[:_NORMAL_OFFSETS].tolist()
    return Batch([example(rng) for _ in range(episodes)], offsets, normal_offsets)
