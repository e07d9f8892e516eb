"""From one encoder to another without forgetting: references are embedded anew from the readings still at hand.

All that does not hang on the encoder is carried over as it is: plain values, known ranges, seasons, how long values
have not changed. The encoder is called from here as little as from the bank: windows are handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from agent.core.bank import DetectorBank, WarmUpPart
from agent.core.detector import StreamDetector, Waiting
from agent.core.quarantine import Accepted, Held, fields
from agent.core.types import F32, I8, I64
from agent.core.views import View, windows

_AT_ONCE: Final = 256  # windows


class _Made:
    """What windows of one view and channel became: `rows` int64 [n] ascending, `vectors` int8 [n, dim]."""

    def __init__(self, dim: int) -> None:
        self.rows: I64 = np.zeros(0, np.int64)
        self.vectors: I8 = np.zeros((0, dim), np.int8)
        self.past: tuple[F32, np.float32] | None = None

    def add(self, rows: I64, vectors: I8) -> None:
        together = np.concatenate([self.rows, rows])
        order = np.argsort(together)
        self.rows = together[order]
        self.vectors = np.concatenate([self.vectors, vectors])[order]

    def knows(self, rows: I64) -> Any:
        """Return which rows were embedded, bool [n]."""
        return np.isin(rows, self.rows)

    def of(self, rows: I64) -> I8:
        """Return what known rows became, int8 [n, dim]."""
        return self.vectors[np.searchsorted(self.rows, rows)]


class Succession:
    """The way of an active stream's `detector` from its bank `old` to the bank `new`, whose encoder is another one.

    References whose readings have left the grid are let go. `heir` is there once nothing more comes from `parts`: it
    shares the stream's grid and scale, so from then on each decision of the old one has to be its own too.
    """

    def __init__(self, old: DetectorBank, detector: StreamDetector, new: DetectorBank) -> None:
        self._old, self._detector, self._new = old, detector, new
        self._views = [(index, view) for index, view in enumerate(new.views) if view.encoded]
        channels = len(detector.grid.channels)
        self._made = {index: [_Made(view.dim) for _ in range(channels)] for index, view in self._views}
        self.heir: StreamDetector | None = None
        self.at_once = False

    def is_of(self, detector: StreamDetector) -> bool:
        """Tell whether this is about that detector."""
        return detector is self._detector

    def parts(self) -> Iterator[WarmUpPart]:
        """Yield windows; who embeds them puts float32 [windows, dim] into `embedding` before going on.

        Between two of them the old detector may decide and learn, until `at_once`: the rest, of what it has learnt
        meanwhile, belongs together.
        """
        for self.at_once in (False, False, True):
            waiting = np.array([one.row for one in self._detector.waiting], np.int64)
            held = self._held_rows()
            for index, view in self._views:
                for channel, made in enumerate(self._made[index]):
                    rows = self._old.rows(self._detector, index, channel)
                    wanted = np.unique(np.concatenate([rows, waiting, held.get(channel, waiting[:0])]))
                    missing = self._at_hand(view, wanted[~made.knows(wanted)])
                    yield from self._embed(index, channel, missing)
                    if made.past is None:
                        known = np.unique(rows[made.knows(rows)])
                        made.past = self._new.compared(index, made.of(known), known)
        self.heir = self._finish()

    def _held_rows(self) -> dict[int, I64]:
        """Return for each channel the rows of what is kept for alerts."""
        state = self._detector.quarantine.snapshot()
        kept = [one for _, several in state["alerts"] for one in several]
        kept += state["pending"][1] if state["pending"] else []
        found: dict[int, list[int]] = {}
        for one in (Held(*each) for each in kept):
            for channel in one.channels.tolist():
                found.setdefault(channel, []).append(one.row)
        return {channel: np.array(rows, np.int64) for channel, rows in found.items()}

    def _at_hand(self, view: View, rows: I64) -> I64:
        """Return those rows whose windows the grid still has."""
        grid = self._detector.grid
        first = max(view.span, grid.total_rows - grid.stored_rows + view.span)
        return rows[(rows >= first) & (rows <= grid.total_rows)]

    def _embed(self, index: int, channel: int, rows: I64) -> Iterator[WarmUpPart]:
        view, made, grid = self._new.views[index], self._made[index][channel], self._detector.grid
        for start in range(0, len(rows), _AT_ONCE):
            some = self._at_hand(view, rows[start : start + _AT_ONCE])  # readings may have come meanwhile
            known = grid.rows(grid.stored_rows)
            ends = some - (grid.total_rows - len(known))
            points = known[ends[:, None] + np.arange(-view.span, 0), channel]
            part = WarmUpPart(view, windows((view,), points, self._detector.scale.table[channel : channel + 1])[0])
            yield part
            assert part.embedding is not None
            made.add(some, self._new.quantized(index, part.embedding))

    def _finish(self) -> StreamDetector:
        """Return the heir, with lanes of its own."""
        old, new, detector = self._old, self._new, self._detector
        learnt = old.learnt(detector)
        for index, _ in self._views:
            learnt["references"][index] = self._references(index, learnt["references"][index])
        lanes = new.take_up(learnt)
        for index, _ in self._views:
            for channel, made in enumerate(self._made[index]):
                new.begin_view(lanes[0] + channel, index, made.past)
        heir = new.detector()
        heir.grid, heir.scale, heir.stride = detector.grid, detector.scale, detector.stride
        heir.budget.echo(detector.budget)
        heir.waiting.extend(self._waiting(one) for one in detector.waiting)
        heir.quarantine.restore(self._quarantine(detector.quarantine.snapshot()))
        heir.begin(lanes)
        return heir

    def _references(self, index: int, state: dict[str, Any]) -> dict[str, Any]:
        """Return a view's references, embedded anew, oldest first; those that are not known are left out."""
        size = self._old.settings.reference.size // self._new.views[index].every
        lanes = []
        for channel, made in enumerate(self._made[index]):
            count = int(state["count"][channel])
            places = (state["head"][channel] - count + np.arange(count)) % size
            lanes.append(places[made.knows(state["rows"][channel, places])])
        counts = np.array([len(places) for places in lanes], np.int64)
        shape = (len(lanes), int(counts.max(initial=0)))
        kept: dict[str, Any] = {name: np.zeros(shape, state[name].dtype) for name in ("times", "marks", "rows")}
        entries = np.zeros((*shape, self._new.views[index].dim), np.int8)
        for channel, (places, made) in enumerate(zip(lanes, self._made[index], strict=True)):
            for name, array in kept.items():
                array[channel, : len(places)] = state[name][channel, places]
            entries[channel, : len(places)] = made.of(state["rows"][channel, places])
        return {**kept, "entries": entries, "count": counts, "head": counts % size}

    def _queries(self, query: I8, channels: I64, row: int) -> tuple[I8, Any]:
        """Return embeddings int8 [n, all views' dims] of one row as the new encoder has them, and which it has.

        bool [n, views].
        """
        views = self._new.views
        made = np.zeros((len(channels), self._new.columns(len(views) - 1).stop), np.int8)
        known = np.ones((len(channels), len(views)), np.bool_)
        rows = np.array([row], np.int64)
        for index, view in enumerate(views):
            if not view.encoded:
                made[:, self._new.columns(index)] = query[:, self._old.columns(index)]
                continue
            for place, channel in enumerate(channels.tolist()):
                one = self._made[index][channel]
                known[place, index] = one.knows(rows)[0]
                if known[place, index]:
                    made[place, self._new.columns(index)] = one.of(rows)[0]
        return made, known

    def _waiting(self, one: Waiting) -> Waiting:
        query, known = self._queries(one.query, np.arange(len(one.query)), one.row)
        return Waiting(query, one.admitted & known, one.at, one.row)

    def _held(self, one: Held) -> Held:
        query, known = self._queries(one.query, one.channels, one.row)
        return msgspec.structs.replace(one, query=query, refused=one.refused & known)

    def _quarantine(self, state: dict[str, Any]) -> dict[str, Any]:
        def anew(kept: list[list[Any]]) -> list[list[Any]]:
            return [fields(self._held(Held(*one))) for one in kept]

        pending = state["pending"]
        return {
            **state,
            "alerts": [[alert, anew(kept)] for alert, kept in state["alerts"]],
            "pending": None if pending is None else [pending[0], anew(pending[1])],
            "accepted": [[alert, fields(self._accepted(Accepted(*one)))] for alert, one in state["accepted"]],
        }

    def _accepted(self, one: Accepted) -> Accepted:
        """Leave out the scores that the old encoder gave: they are no longer among the past ones."""
        views = self._new.views
        plain = np.array([not views[int(row) % len(views)].encoded for row in one.rows], np.bool_)
        return msgspec.structs.replace(one, rows=one.rows[plain], scores=one.scores[plain])
