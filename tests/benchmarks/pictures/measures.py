"""The arithmetic of the tables."""

from __future__ import annotations

import numpy as np

from agent.core.types import F32, F64, U8


def auroc(normal: F64, odd: F64) -> float:
    """Return the share of pairs in which the odd one scores higher, ties counted half."""
    scores = np.concatenate([normal, odd])
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    return float((rank[len(normal) :].sum() - len(odd) * (len(odd) + 1) / 2.0) / (len(normal) * len(odd)))


def enlarged(heat: F32, side: int) -> F64:
    """Return a map float [n, n] at `side` x `side`, bilinear between the centres of its cells."""
    n = len(heat)
    place = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
    low = np.minimum(place.astype(int), n - 2)
    across = np.zeros((side, n))
    across[np.arange(side), low] = 1.0 - (place - low)
    across[np.arange(side), low + 1] = place - low
    return across @ heat @ across.T


def augmented(pixels: U8, rng: np.random.Generator, *, flips: bool) -> U8:
    """Return a picture a little moved, lit and noisy, and perhaps mirrored: another one of the same kind."""
    made = pixels.astype(np.float32)
    if flips:
        for axis in (0, 1):
            if rng.random() < 0.5:
                made = np.flip(made, axis)
    down, right = rng.integers(-4, 5, 2)
    padded = np.pad(made, ((4, 4), (4, 4), (0, 0)), mode="edge")
    made = padded[4 + down : 4 + down + len(pixels), 4 + right : 4 + right + len(pixels)]
    made = made * rng.uniform(0.95, 1.05) + rng.normal(0, 1.5, made.shape[:2])[..., None]
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def lit(pixels: U8, day: float) -> U8:
    """Return a picture in the light of a time of the day, 0 to 1: gain 1 to .5 and back, white balance +-10 %."""
    phase = 2.0 * np.pi * day
    gain = 0.75 + 0.25 * np.cos(phase)
    balance = 1.0 + 0.1 * np.sin(phase) * np.array([1.0, 0.0, -1.0])
    return np.clip(np.rint(pixels * (gain * balance)), 0, 255).astype(np.uint8)


def kept_promise(normal: F64, odd: F64, late: F64, rate: float) -> dict[str, float]:
    """Return what scores of a stream are worth at a promised rate: -log10 p of normal and odd pictures.

    `late` tells which of the odd ones came after 300 decisions. `ideal` is the recall at the threshold that exactly
    `rate` of the normal ones exceed.
    """
    threshold = -np.log10(rate)
    alarms, found = normal >= threshold, odd >= threshold
    return {
        "alarms": float(alarms.sum()),
        "promised": rate * len(normal),
        "recall": float(found.mean()),
        "cold": float(found[late == 0].mean()),
        "later": float(found[late == 1].mean()),
        "ideal": float((odd > np.quantile(normal, 1.0 - rate)).mean()),
    }
