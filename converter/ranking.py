"""Whether two encoders rank the same inputs alike: cosine, neighbours, scores, tail, labels. Pure numpy.

An encoder's outputs are looked at as rows. An embedding [dim] is a row of its own; of maps [rows, columns, dim] mean
and standard deviation over space of all maps together are one row ("pooled"), and some patches of the last map are
rows of their own ("patches"). Pictures are scored by both: quantization can ruin one and leave the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
import numpy as np

from agent.core.calibration import Calibration
from agent.core.lanes import Lanes
from agent.core.scoring import nearest_distance
from agent.core.types import F32, F64, I64, Bools

NEIGHBOURS: Final = 5
TAIL: Final = 0.01  # the share of inputs whose p-values must not move
LEAST_TAIL: Final = 5  # inputs in it, where there are few
_REACH: Final = 0.1  # p-values are followed to this over the number of references
_TINY: Final = 1e-12


class Figures(msgspec.Struct, frozen=True):
    """How close the quantized rows come to the float ones. `tail_shift` is in decades of p-value."""

    cosine_mean: float
    cosine_p01: float
    overlap: float
    spearman_neighbours: float
    spearman_gaussian: float
    tail_shift: float
    auroc_loss: float | None


class Population(msgspec.Struct, frozen=True):
    """What n rows are. `stream` int64 [n]: rows are compared within their stream, as the agent does.

    `reference` bool [n]: regarded as normal, the others are scored against them. `odd` bool [n] labels anomalous ones.
    """

    stream: I64
    reference: Bools
    odd: Bools | None


class Scores(msgspec.Struct, frozen=True):
    """Scores of one stream's queries, float64 [queries], and those of its references, each half against the other."""

    queries: F64
    own: F64


def compare(expected: F32, found: F32, population: Population) -> tuple[Figures, dict[str, tuple[F64, F64]]]:
    """Return how alike two encoders rank, and both encoders' scores of all queries, for each scorer.

    `expected` (float) and `found` (quantized) are float32 [n, dim] of the same n inputs. Cosines are of rows less their
    mean: what all have in common says nothing. Other figures are means over streams.
    """
    a, b = expected.astype(np.float64), found.astype(np.float64)
    centre = a.mean(axis=0)
    overlaps: list[float] = []
    agreement: dict[str, list[float]] = {name: [] for name in SCORERS}
    lost: dict[str, list[float]] = {name: [] for name in SCORERS}
    pairs: dict[str, list[tuple[Scores, Scores]]] = {name: [] for name in SCORERS}
    for stream in np.unique(population.stream):
        here = population.stream == stream
        reference = population.reference[here]
        overlaps.append(neighbour_overlap(a[here], b[here]))
        for name, scorer in SCORERS.items():
            before, after = (_scores(scorer, rows[here], reference) for rows in (a, b))
            agreement[name].append(spearman(before.queries, after.queries))
            pairs[name].append((before, after))
            odd = population.odd[here][~reference] if population.odd is not None else np.zeros(0, np.bool_)
            if odd.any() and not odd.all():
                areas = [area_under_curve(one.queries, odd) for one in (before, after)]
                lost[name].append(areas[0] - areas[1])
    joined = {
        name: (_joined([one[0] for one in parts]), _joined([one[1] for one in parts])) for name, parts in pairs.items()
    }
    a, b = a - centre, b - centre
    cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), _TINY)
    figures = Figures(
        cosine_mean=float(cosine.mean()),
        cosine_p01=float(np.quantile(cosine, 0.01)),
        overlap=float(np.mean(overlaps)),
        spearman_neighbours=float(np.mean(agreement["neighbours"])),
        spearman_gaussian=float(np.mean(agreement["gaussian"])),
        tail_shift=max(tail_shift(*(joined[name])) for name in SCORERS),
        auroc_loss=max(float(np.mean(one)) for one in lost.values()) if lost["neighbours"] else None,
    )
    return figures, {name: (before.queries, after.queries) for name, (before, after) in joined.items()}


def _scores(scorer: Scorer, rows: F64, reference: Bools) -> Scores:
    known = rows[reference]
    even = np.arange(len(known)) % 2 == 0
    own = np.concatenate([scorer(known[even], known[~even]), scorer(known[~even], known[even])])
    return Scores(scorer(rows[~reference], known), own)


def _joined(streams: list[Scores]) -> Scores:
    """Return the scores of all streams together, each by the mean and deviation of its references' own."""
    scaled = [
        [(part - one.own.mean()) / max(float(one.own.std()), _TINY) for part in (one.queries, one.own)]
        for one in streams
    ]
    return Scores(np.concatenate([one[0] for one in scaled]), np.concatenate([one[1] for one in scaled]))


def tail_shift(before: Scores, after: Scores) -> float:
    """Return by how many decades the p-values of the most anomalous queries move, on average over them."""
    count = min(len(before.queries), max(LEAST_TAIL, round(TAIL * len(before.queries))))
    farthest = np.argsort(before.queries, kind="stable")[-count:]
    decades = [np.log10(_p_values(one)[farthest]) for one in (before, after)]
    return float(np.abs(decades[0] - decades[1]).mean())


def neighbour_scores(queries: F64, references: F64) -> F64:
    """Return log mean distance of each query to its nearest references, float64 [queries]."""
    squared = _squared_distances(queries, references)
    return np.log(nearest_distance(squared, NEIGHBOURS) + _TINY).astype(np.float64)


def gaussian_scores(queries: F64, references: F64) -> F64:
    """Return the log Mahalanobis distance of each query from the references' Gaussian, float64 [queries].

    Features are divided by the references' standard deviation; the covariance is shrunk towards its mean variance as
    Ledoit and Wolf (2004) have it, "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    centre, deviation = references.mean(axis=0), references.std(axis=0)
    deviation = np.where(deviation > _TINY, deviation, 1.0)
    centred, scaled = (references - centre) / deviation, (queries - centre) / deviation
    share, target = _shrinkage(centred)
    weight, ridge = (1.0 - share) / len(centred), share * target + _TINY
    if ridge > _TINY * len(centred) and centred.shape[1] > len(centred):
        # More features than references: the inverse of the small Gram matrix will do (Woodbury's identity).
        gram = weight * (centred @ centred.T)
        gram.flat[:: len(gram) + 1] += ridge
        along = scaled @ centred.T
        inner = weight * (along * np.linalg.solve(gram, along.T).T).sum(axis=1)
        squared = (np.square(scaled).sum(axis=1) - inner) / ridge
    else:
        covariance = weight * (centred.T @ centred)
        covariance.flat[:: len(covariance) + 1] += ridge
        squared = (scaled * np.linalg.solve(covariance, scaled.T).T).sum(axis=1)
    return np.log(np.sqrt(np.maximum(squared, 0.0)) + _TINY)


Scorer: TypeAlias = Callable[[F64, F64], F64]
SCORERS: Final[dict[str, Scorer]] = {"neighbours": neighbour_scores, "gaussian": gaussian_scores}


def _shrinkage(centred: F64) -> tuple[float, float]:
    """Return by what share the covariance is shrunk, 0 to 1, and towards which variance."""
    count, dim = centred.shape
    small = centred @ centred.T if dim > count else centred.T @ centred
    total, norm = float(np.trace(small)) / count, float(np.square(small).sum()) / count**2
    target = total / dim
    distance = norm - dim * target**2
    spread = (np.square(np.square(centred).sum(axis=1)).sum() / count - norm) / count
    return 1.0 if distance <= 0 else min(max(spread / distance, 0.0), 1.0), target


def neighbour_overlap(a: F64, b: F64) -> float:
    """Return the mean share of each row's nearest neighbours that is the same in both, 0 to 1."""
    nearest = []
    for rows in (a, b):
        squared = _squared_distances(rows, rows)
        np.fill_diagonal(squared, np.inf)
        nearest.append(np.argsort(squared, axis=1, kind="stable")[:, :NEIGHBOURS])
    shared = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(axis=2)
    return float(shared.mean())


def _p_values(scores: Scores) -> F64:
    """Return the queries' p-values as the agent has them: rank among the references' scores, a fitted tail beyond.

    The tail is followed to a tenth of the rarest that so many scores can tell; what lies beyond moves without meaning.
    """
    calibration = Calibration()
    calibration.make_room(0, 1)
    calibration.fill(0, scores.own.astype(np.float32))
    row = Lanes.of((0, 1))
    found = [calibration.p_values(row, np.array([one], np.float32))[0] for one in scores.queries]
    return np.maximum(found, _REACH / len(scores.own))


def spearman(a: F64, b: F64) -> float:
    """Return Spearman's rank correlation; 0 where either is constant."""
    ranks = [_ranks(one) for one in (a, b)]
    centred = [one - one.mean() for one in ranks]
    norm = np.linalg.norm(centred[0]) * np.linalg.norm(centred[1])
    return float(centred[0] @ centred[1] / norm) if norm > 0 else 0.0


def _ranks(values: F64) -> F64:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse], np.float64)


def area_under_curve(scores: F64, odd: Bools) -> float:
    """Return the probability that an anomaly scores above a normal query (ties count half)."""
    ranks = _ranks(scores)
    anomalies = int(odd.sum())
    return float((ranks[odd].sum() - anomalies * (anomalies + 1) / 2) / (anomalies * (len(odd) - anomalies)))


def _squared_distances(a: F64, b: F64) -> F32:
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0).astype(np.float32)
