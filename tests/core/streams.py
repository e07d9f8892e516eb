"""Drives detectors without a network over generated samples."""

from __future__ import annotations

import numpy as np

from agent.core.bank import DetectorBank
from agent.core.detector import DetectorSettings, WarmUp
from agent.core.reference import ReferenceSettings
from agent.core.types import Sample
from agent.core.views import plain, views_for
from agent.core.workspace import Workspace

SMALL = ReferenceSettings(size=200, warm_up=150)


class Lone:
    """A stream alone in its bank; `encoded` adds the encoder's views, with the identity for a network."""

    def __init__(self, channels=("a", "b"), *, bank=None, encoded=False, **settings):
        settings.setdefault("reference", SMALL)
        views = views_for(64, 128, 8 / 127, 0) if encoded else views_for(0, 0, 1.0, 0)
        self.bank = bank or DetectorBank(DetectorSettings(**settings), views, Workspace())
        self.detector = self.bank.detector(channels)

    def __getattr__(self, name):
        if name.startswith("__"):  # of a copy that is being made, which has no detector yet
            raise AttributeError(name)
        return getattr(self.detector, name)

    def push(self, sample):
        """Push, finish a warm-up, and return the decision that is due, if any."""
        _, due = self.detector.push(sample)
        if isinstance(due, WarmUp):
            for part in self.bank.warm_up(due):
                part.embedding = plain(part.windows)
            return None
        return due

    @property
    def reference_size(self):
        return self.bank.reference_size(self.detector)

    def snapshot(self):
        return self.bank.snapshot(self.detector)

    def restore(self, state):
        self.bank.restore(self.detector, state)


make = Lone


def decide(bank, dues):
    """Return the assessments of decisions that are due."""
    batch = bank.batch(dues)
    batch.embeddings = [plain(one) for one in batch.windows]
    return list(bank.step(batch))


def feed(stream, samples):
    """Return the assessments that the samples led to."""
    found = []
    for sample in samples:
        due = stream.push(sample)
        if due is not None:
            found += decide(stream.bank, [due])
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
