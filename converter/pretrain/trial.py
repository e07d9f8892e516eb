"""The trial of an encoder: streams that no training has seen, scored as the detector scores them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from converter.pretrain.batch import Batch, Embed
from converter.pretrain.corpus import example
from converter.pretrain.network import STRIDE
from converter.pretrain.objective import areas

LOW_RATE: Final = 0.01
SEED: Final = 77  # the same streams for all trainings


def evaluate(embeds: dict[str, Embed], seed: int, episodes: int, device: str = "cpu") -> dict[str, dict[str, float]]:
    """Return for each way to embed its mean areas over held-out episodes with 1000 references and all normal windows.

    `auc` is of windows, `auc_low` the share of events found at 1 % false alarms, on average from none to that.
    "NAME+plain" stands for the sum of the scores of that and of "plain".
    """
    rng = np.random.default_rng([seed, 0, 1])  # a training's have two numbers, which is as if the third were 0
    everything = list(range(STRIDE))
    found: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for _ in range(episodes):
            batch = Batch([example(rng)], everything, everything).to(device)
            scores = {name: batch.score(batch.embed(embed)) for name, embed in embeds.items()}
            for name in list(scores):
                if name != "plain":
                    pair = zip(scores[name], scores["plain"], strict=True)
                    scores[name + "+plain"] = tuple(a + b for a, b in pair)
            for name, (normal, events) in scores.items():
                windows, _ = areas(normal[0], events[0].flatten(), LOW_RATE)
                _, low = areas(normal[0], events[0].amax(1), LOW_RATE)
                found.setdefault(name, []).append((windows, low))
    return {
        name: dict(zip(("auc", "auc_low"), np.mean(pairs, axis=0).round(4).tolist(), strict=True))
        for name, pairs in found.items()
    }
