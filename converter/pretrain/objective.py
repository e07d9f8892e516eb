"""What is learnt: the statistic that the detector uses, and what it should say of normal windows and of events."""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor, arange, inf, no_grad
from torch.nn import functional as nnf

from converter.pretrain.corpus import GUARD, KNOWN, LENGTH

NEIGHBOURS: Final = 5
HARDEST: Final = 0.05  # share of the normal windows that events must rank above, most of all
_OWN: Final = 128  # references whose own distances are taken
_NOTHING: Final = 1e-2  # added to a distance before its logarithm
_NORMAL_WEIGHT: Final = 3.0


def nearest_distance(queries: Tensor, references: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return the log mean distance to the nearest references, float32 [episodes, queries].

    Both are embeddings [episodes, n, dim]; `allowed` bool [queries, references] leaves pairs out. Only the nearest
    take part in the gradient.
    """
    with no_grad():
        squared = (references * references).sum(2)[:, None, :] - 2 * queries @ references.transpose(1, 2)
        if allowed is not None:
            squared = squared.masked_fill(~allowed, inf)
        chosen = squared.topk(NEIGHBOURS, dim=2, largest=False).indices
    dim = queries.shape[2]
    found = references.gather(1, chosen.flatten(1)[:, :, None].expand(-1, -1, dim)).view(*chosen.shape, dim)
    away = (found - queries[:, :, None, :]).square().sum(3)
    return ((away + 1e-9).sqrt().mean(2) + _NOTHING).log()


def standardised(references: Tensor, queries: Tensor) -> Tensor:
    """Return scores of the queries by those of the references without their neighbours, float32 [episodes, queries].

    References are embeddings [episodes, n, dim], evenly spread over the known points and in order of time.
    """
    count = references.shape[1]
    spacing = (KNOWN - LENGTH) / count
    own = arange(0, count, max(1, count // _OWN), device=references.device)
    apart = (own[:, None] - arange(count, device=references.device)[None, :]).abs() * spacing >= GUARD
    usual = nearest_distance(references[:, own], references, apart)
    centre, spread = usual.mean(1, keepdim=True), usual.std(1, keepdim=True)
    return (nearest_distance(queries, references) - centre) / (spread + 0.1)


def loss_of(normal: Tensor, events: Tensor, threshold: Tensor, slope: Tensor) -> Tensor:
    """Return the mean loss over episodes of scores `normal` [episodes, n] and `events` [episodes, events, windows].

    Cross-entropy of all windows, pairwise ranking, and ranking of each event's best window above the hardest normal
    ones: the partial area under the curve at few false positives, by its pairwise surrogate (Narasimhan and Agarwal
    2013).
    """
    odd = events.flatten(1)
    calm = nnf.softplus(slope.exp() * (normal - threshold)).mean()
    loud = nnf.softplus(-slope.exp() * (odd - threshold)).mean()
    every = nnf.softplus(normal[:, :, None] - odd[:, None, :]).mean()
    return (_NORMAL_WEIGHT * calm + loud) / 2 + every + low_rate_loss(normal, events)


def low_rate_loss(normal: Tensor, events: Tensor) -> Tensor:
    """Return the ranking loss of events, by a smooth maximum over their windows, against the hardest normal windows."""
    hardest = normal.topk(max(1, math.ceil(HARDEST * normal.shape[1])), dim=1).values
    best = events.logsumexp(2) - math.log(events.shape[2])
    return nnf.softplus(hardest[:, :, None] - best[:, None, :]).mean()


def areas(normal: Tensor, odd: Tensor, share: float) -> tuple[float, float]:
    """Return the area under the ROC curve, and its mean height where at most `share` of normal scores are above.

    Scores are float32 [n]; ties count half.
    """
    wins = (odd[:, None] > normal[None, :]).float() + 0.5 * (odd[:, None] == normal[None, :]).float()
    hardest = normal.topk(max(1, math.ceil(share * len(normal)))).indices
    return float(wins.mean()), float(wins[:, hardest].mean())
