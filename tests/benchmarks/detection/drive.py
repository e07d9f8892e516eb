"""Drives the detection core over many recorded streams at once, as agent/pipeline.py does, without messages."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from tqdm import tqdm

from agent.core.bank import DetectorBank
from agent.core.budget import FROZEN_SHARE
from agent.core.detector import DetectorSettings, Due, StreamDetector, WarmUp
from agent.core.reference import ReferenceSettings
from agent.core.types import F32, F64, Mode, Sample
from agent.core.views import plain
from agent.core.windowing import GridSettings
from agent.core.workspace import Workspace
from tests.benchmarks.detection.encoders import BenchmarkEncoder

BATCH_LANES = 384  # channels decided in one go: large enough that calls cost little, small enough for the cache
PERIOD_S = 1.0  # every recording's clock is told in its own periods, so that all of them share a bank


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 1 << 30


def keep_memory() -> None:
    """Let memory that is taken again and again stay with the process."""
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@dataclass
class Feed:
    """A recording and the detector that reads it.

    `at` float64 [rows] counts periods; `values` float64 [rows, channels], NaN where missing; `scores` float32 [rows]
    is filled with what the detector says, NaN where it makes no decision.
    """

    name: str
    detector: StreamDetector
    at: F64
    values: F64
    scores: F32


class Driver:
    """One bank and what is fed to it. `frozen`: whether alerts of frozen values, which have their own score, count."""

    def __init__(
        self,
        encoder: BenchmarkEncoder,
        mode: Mode = Mode.ADAPT,
        workspace: Workspace | None = None,
        *,
        frozen: bool = True,
    ) -> None:
        self._frozen = frozen
        self.encoder = encoder
        self.settings = DetectorSettings(mode=mode, grid=GridSettings(), score=encoder.score)
        self.workspace = workspace or Workspace()
        views = tuple(view for view in encoder.views if mode is not Mode.HOLD or not view.encoded)
        self.bank = DetectorBank(self.settings, views, self.workspace)
        self._pending: list[tuple[Feed, int, Due]] = []
        self._lanes = 0

    @property
    def warm_up_rows(self) -> int:
        """Return how many rows a stream learns from by default."""
        return self.settings.reference.warm_up + self.encoder.views[0].span

    def feed(self, name: str, at: F64, values: F64, warm_up_rows: int) -> Feed:
        """Return a new stream that learns from its first `warm_up_rows` rows, if they come without a gap."""
        span = self.encoder.views[0].span
        reference = ReferenceSettings(size=self.settings.reference.size, warm_up=warm_up_rows - span)
        # The bank reads of its own settings only what all of its streams share; how long one learns is its own affair.
        settings = msgspec.structs.replace(self.settings, reference=reference)
        channels = tuple(str(index) for index in range(values.shape[1]))
        detector = StreamDetector(settings, self.encoder.views, channels)
        return Feed(name, detector, at, values, np.full(len(at), np.nan, np.float32))

    def run(self, feeds: list[Feed], bar: tqdm, before_row: Callable[[int], None] | None = None) -> None:
        """Feed all recordings row by row, side by side; `before_row` is called with each row's number."""
        feeds = sorted(feeds, key=lambda feed: -len(feed.at))
        rows = [list(zip(feed.at.tolist(), feed.values.tolist(), strict=True)) for feed in feeds]
        names = [feed.detector.grid.channels for feed in feeds]
        live = len(feeds)
        for row in range(len(rows[0]) if rows else 0):
            while len(rows[live - 1]) <= row:
                live -= 1
            if before_row is not None:
                before_row(row)
            for place in range(live):
                at, values = rows[place][row]
                given = {name: value for name, value in zip(names[place], values, strict=True) if value == value}  # noqa: PLR0124  NaN
                if given:
                    self._push(feeds[place], row, Sample(at, given))
            bar.update(live)
        self.flush()

    def _push(self, feed: Feed, row: int, sample: Sample) -> None:
        _, due = feed.detector.push(sample)
        if due is None:
            return
        if isinstance(due, WarmUp):
            for part in self.bank.warm_up(due):
                part.embedding = self.encoder.encode(part.windows) if part.view.encoded else plain(part.windows)
            return
        self._pending.append((feed, row, due))
        self._lanes += len(due.run)
        if self._lanes >= BATCH_LANES:
            self.flush()

    def flush(self) -> None:
        """Make the decisions that are due."""
        if not self._pending:
            return
        pending, self._pending, self._lanes = self._pending, [], 0
        batch = self.bank.batch([due for _, _, due in pending])
        for view, embedding in enumerate(batch.embeddings):
            if embedding is None:
                batch.embeddings[view] = self.encoder.encode(batch.windows[view])
        for (feed, row, _), assessment in zip(pending, self.bank.step(batch), strict=True):
            # An alert of either kind: values that no longer change need a tenth of the probability.
            frozen = assessment.frozen_score - FROZEN_SHARE if self._frozen else 0.0
            feed.scores[row] = max(assessment.score, frozen)
