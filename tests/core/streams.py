"""Drives a detector without a network over generated samples."""

from __future__ import annotations

import numpy as np

from agent.core.detector import DetectorSettings, StreamDetector
from agent.core.reference import ReferenceSettings, Workspace
from agent.core.types import Sample
from agent.core.views import plain, views_for

SMALL = ReferenceSettings(size=200, warm_up=150)


def make(channels=("a", "b"), *, encoded=False, **settings):
    """Return a detector; `encoded` adds the encoder's views, with the identity for a network."""
    settings.setdefault("reference", SMALL)
    return StreamDetector(
        DetectorSettings(**settings), views_for(64, 128, 8 / 127, 0) if encoded else views_for(0, 0, 1.0, 0), channels
    )


def feed(detector, samples, workspace=None):
    """Return the assessments that the samples led to."""
    workspace = workspace or Workspace()
    found = []
    for sample in samples:
        _, due = detector.push(sample)
        if due is not None:
            embeddings = [None if w is None else plain(w) for w in due.windows]
            assessment = detector.step(due, embeddings, workspace)
            if assessment is not None:
                found.append(assessment)
    return found


def normal(count, channels=("a", "b"), seed=0, start=0):
    rng = np.random.default_rng(seed)
    return [
        Sample(
            float(start + i),
            {name: float(10 * k + np.sin(i / 9) + rng.normal(0, 0.2)) for k, name in enumerate(channels)},
        )
        for i in range(count)
    ]


def changed(samples, name, change):
    return [Sample(s.at, {**s.values, name: change(s.values[name])}) for s in samples]
