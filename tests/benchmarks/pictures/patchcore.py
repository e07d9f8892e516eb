"""The peer: PatchCore (Roth et al. 2022) in numpy over the same encoder's maps, without its re-weighting."""

from __future__ import annotations

import numpy as np

from agent.core.types import F32, F64

CORESET = 2000
_DRAWN = 20_000  # patches among which the coreset is chosen


def patches(maps: list[F32]) -> F32:
    """Return both maps on the finer grid, averaged over 3 x 3 cells and joined, float32 [cells, dim]."""
    rows = maps[0].shape[0]
    made = []
    for one in maps:
        padded = np.pad(one, ((1, 1), (1, 1), (0, 0)), mode="edge")
        n = one.shape[0]
        mean = sum(padded[i : i + n, j : j + n] for i in range(3) for j in range(3)) / np.float32(9)
        wide = np.repeat(np.repeat(mean, rows // n, axis=0), rows // n, axis=1)
        made.append(wide.reshape(rows * rows, -1))
    return np.concatenate(made, axis=1)


class PatchCore:
    """A coreset by greedy k-centre; a picture's score is the largest distance of its patches to it."""

    def __init__(self, references: list[list[F32]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        each = -(-_DRAWN // len(references))
        drawn = [found[rng.permutation(len(found))[:each]] for found in map(patches, references)]
        pool = np.concatenate(drawn)
        flat = pool @ rng.normal(0, 1 / 8, (pool.shape[1], 64)).astype(np.float32)  # Johnson and Lindenstrauss
        squares = np.square(flat).sum(axis=1)
        away = np.full(len(pool), np.inf, np.float32)
        chosen = [0]
        for _ in range(CORESET - 1):
            last = flat[chosen[-1]]
            np.minimum(away, squares - 2.0 * flat @ last + last @ last, out=away)
            chosen.append(int(away.argmax()))
        self.bank = pool[chosen]
        self._squares = np.square(self.bank).sum(axis=1)

    @property
    def bytes(self) -> int:
        """Return what it keeps. While it is fitted, all patches drawn are there at once: ten times as much."""
        return int(self.bank.nbytes + self._squares.nbytes)

    def score(self, maps: list[F32]) -> float:
        """Return a picture's score."""
        query = patches(maps)
        squared = self._squares - 2.0 * query @ self.bank.T + np.square(query).sum(axis=1)[:, None]
        return float(np.sqrt(max(float(squared.min(axis=1).max()), 0.0)))

    def scores(self, pictures: list[list[F32]]) -> F64:
        """Return the scores of pictures, float64 [n]."""
        return np.array([self.score(one) for one in pictures])
