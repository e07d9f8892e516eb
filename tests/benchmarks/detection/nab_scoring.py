"""The score of the Numenta Anomaly Benchmark, after Lavin and Ahmad (2015) and the behaviour of numenta/NAB 1.1.

Written anew; the units, edges and ties follow its nab/sweeper.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.core.types import F64, I64, Bools

PROBATION_SHARE = 0.15
PROBATION_MOST = 750  # rows: 15 % of 5,000
_FAR = 3.0  # window widths behind a window from which a false alarm costs its full weight
_CANDIDATE_STEP = 0.01  # between thresholds that are tried with a refractory period


@dataclass(frozen=True)
class Profile:
    """What a detected window, a missed window and a false alarm weigh."""

    tp: float
    fn: float
    fp: float


@dataclass(frozen=True)
class Truth:
    """Labels of one file: its rows, and its anomaly windows as (first row, last row)."""

    rows: int
    windows: Sequence[tuple[int, int]]

    @property
    def probation(self) -> int:
        """Return how many rows at the beginning are not scored."""
        return math.floor(min(PROBATION_SHARE * self.rows, PROBATION_MOST))


@dataclass(frozen=True)
class Corpus:
    """All files one after the other.

    `worth` float64 [rows]: share of `tp` inside windows (1 at the left edge), of `fp` outside (-1 far from any);
    `window` int64 [rows]: number of the window, -1 outside; `counts` bool [rows]: behind the probation;
    `place` int64 [rows]: row number with 1,000 free places between files; `silent` int64 [rows]: refractory rows;
    `file` int64 [rows]: number of the file.
    """

    worth: F64
    window: I64
    counts: Bools
    place: I64
    silent: I64
    file: I64
    windows: int


def scaled_sigmoid(position: F64) -> F64:
    """Return 2 / (1 + exp(5 x)) - 1, and -1 from three window widths on; float64 of the same shape."""
    return np.where(position >= _FAR, -1.0, 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, _FAR))) - 1.0)


def worth_of(truth: Truth) -> tuple[F64, I64]:
    """Return each row's worth, float64 [rows], and the number of its window, int64 [rows], -1 outside."""
    row = np.arange(truth.rows)
    window = np.full(truth.rows, -1)
    past = np.full(truth.rows, _FAR)
    inside = np.zeros(truth.rows)
    best = scaled_sigmoid(np.array(-1.0))
    for number, (first, last) in enumerate(truth.windows):
        width = last - first + 1
        window[first : last + 1] = number
        within = row[first : last + 1]
        inside[first : last + 1] = scaled_sigmoid(-(last - within + 1) / width) / best
        past[last + 1 :] = (row[last + 1 :] - last) / max(width - 1, 1e-9)
    return np.where(window >= 0, inside, scaled_sigmoid(past)), window


def corpus_of(truths: Sequence[Truth]) -> Corpus:
    """Join the files' labels."""
    worth, window, counts, place, silent, file = [], [], [], [], [], []
    windows = free = 0
    for number_of_file, truth in enumerate(truths):
        value, number = worth_of(truth)
        worth.append(value)
        window.append(np.where(number >= 0, number + windows, -1))
        counts.append(np.arange(truth.rows) >= truth.probation)
        place.append(free + np.arange(truth.rows))
        silent.append(np.full(truth.rows, int(min(0.13 * truth.probation, 100))))
        file.append(np.full(truth.rows, number_of_file))
        windows += len(truth.windows)
        free += truth.rows + 1000
    joined = [np.concatenate(parts) for parts in (worth, window, counts, place, silent, file)]
    return Corpus(*joined, windows)


def scaled(corpus: Corpus, total: float | F64, profile: Profile) -> float | F64:
    """Return a sum of weights on the scale where no detection is 0 and every window at its first row is 100."""
    seen = len(np.unique(corpus.window[corpus.counts & (corpus.window >= 0)]))
    null = -profile.fn * seen
    return 100.0 * (total - null) / (corpus.windows * profile.tp - null)


def total_of(corpus: Corpus, detections: I64, profile: Profile) -> float:
    """Return the sum of weights for detections at these rows of the joined files."""
    detections = detections[corpus.counts[detections]]
    window, worth = corpus.window[detections], corpus.worth[detections]
    missed = np.unique(corpus.window[corpus.counts & (corpus.window >= 0)])
    best = np.full(corpus.windows, -profile.fn)
    np.maximum.at(best, window[window >= 0], worth[window >= 0] * profile.tp)
    return float(best[missed].sum() + profile.fp * worth[window < 0].sum())


def best_threshold(corpus: Corpus, scores: F64, profile: Profile) -> tuple[float, float]:
    """Return the best scaled score over all thresholds, and that threshold; `scores` float64 [rows]."""
    rows = np.flatnonzero(corpus.counts)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    window, worth, score = corpus.window[rows], corpus.worth[rows], scores[rows]
    gain = np.where(window < 0, worth * profile.fp, 0.0)
    order = np.argsort(window, kind="stable")
    order = order[window[order] >= 0]
    seen, starts = np.unique(window[order], return_index=True)
    for here in np.split(order, starts[1:]) if len(seen) else []:
        gain[here] = np.diff(np.maximum.accumulate(worth[here] * profile.tp), prepend=-profile.fn)
    totals = -profile.fn * len(seen) + np.concatenate([[0.0], np.cumsum(gain)])
    last_of_tie = np.concatenate([[True], score[1:] != score[:-1], [True]])  # [0]: nothing is detected
    thresholds = np.concatenate([[np.inf], score])
    best = int(np.argmax(np.where(last_of_tie, totals, -np.inf)))
    return float(scaled(corpus, totals[best], profile)), float(thresholds[best])


def alarms(corpus: Corpus, scores: F64, threshold: float) -> I64:
    """Return the rows at or above the threshold that no earlier alarm silences, int64 [alarms]."""
    rows = np.flatnonzero(scores >= threshold)
    following = np.searchsorted(corpus.place[rows], corpus.place[rows] + corpus.silent[rows] + 1).tolist()
    kept, at = [], 0
    while at < len(following):
        kept.append(at)
        at = following[at]
    return rows[kept] if kept else rows[:0]


def candidates(corpus: Corpus, scores: F64) -> F64:
    """Return the thresholds, 0.01 apart, that are tried where each alarm silences the rows behind it, ascending."""
    levels = np.unique(np.floor(scores[corpus.counts] / _CANDIDATE_STEP)) * _CANDIDATE_STEP
    return levels[levels > 0.0]  # no decision is no alarm


def best_with_refractory(corpus: Corpus, scores: F64, profiles: dict[str, Profile]) -> dict[str, tuple[float, float]]:
    """Return for each profile the best scaled score and its threshold when each alarm silences the rows behind it.

    Which rows alarm depends on the threshold, so each candidate, 0.01 apart, is played through.
    """
    levels = candidates(corpus, scores)
    best = {name: (float(scaled(corpus, total_of(corpus, np.zeros(0, np.int64), p), p)), math.inf)
            for name, p in profiles.items()}  # fmt: skip
    for threshold in levels[::-1].tolist():
        found = alarms(corpus, scores, threshold)
        for name, profile in profiles.items():
            value = float(scaled(corpus, total_of(corpus, found, profile), profile))
            best[name] = max(best[name], (value, threshold))
    return best


def totals_by_file(corpus: Corpus, detections: I64, profile: Profile) -> F64:
    """Return each file's sum of weights, float64 [files]: `total_of` is the sum of them."""
    files = int(corpus.file[-1]) + 1
    detections = detections[corpus.counts[detections]]
    window, worth = corpus.window[detections], corpus.worth[detections]
    best = np.full(corpus.windows, -profile.fn)
    np.maximum.at(best, window[window >= 0], worth[window >= 0] * profile.tp)
    seen, file_of_seen = _windows_of(corpus, corpus.counts)
    caught = np.bincount(file_of_seen, best[seen], files)
    outside = window < 0
    return caught + profile.fp * np.bincount(corpus.file[detections[outside]], worth[outside], files)


def on_other_halves(
    corpus: Corpus, scores: F64, profiles: dict[str, Profile], splits: int, seed: int
) -> dict[str, list[float]]:
    """Return scaled scores of one random half of the files at the threshold that is best on the other half.

    Each alarm silences the rows behind it. One score for each of `splits` halvings.
    """
    files = int(corpus.file[-1]) + 1
    levels = np.append(candidates(corpus, scores), np.inf)
    found = [alarms(corpus, scores, level) for level in levels.tolist()]
    every = np.bincount(_windows_of(corpus, np.ones_like(corpus.counts))[1], minlength=files)
    counted = np.bincount(_windows_of(corpus, corpus.counts)[1], minlength=files)
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(files) < files // 2 for _ in range(splits)]
    result: dict[str, list[float]] = {}
    for name, profile in profiles.items():
        totals = np.stack([totals_by_file(corpus, rows, profile) for rows in found])
        null = -profile.fn * counted
        result[name] = []
        for fitted in halves:
            best = int(np.argmax(totals[:, fitted].sum(axis=1)))
            rest = ~fitted
            gained = float((totals[best, rest] - null[rest]).sum())
            result[name].append(100.0 * gained / float((every[rest] * profile.tp - null[rest]).sum()))
    return result


def _windows_of(corpus: Corpus, among: Bools) -> tuple[I64, I64]:
    """Return the windows that have rows among those, and the file of each, int64 [windows]."""
    inside = among & (corpus.window >= 0)
    seen, first = np.unique(corpus.window[inside], return_index=True)
    return seen, corpus.file[inside][first]
