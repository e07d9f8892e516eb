"""The rolling, bounded set of embeddings regarded as normal, who may enter it, and how what entered is taken out.

Embeddings are kept as int8, with one step and offset per view: for the encoder these are the quantized network's own
output quantization, so nothing is lost. Distances are exact in the quantized space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from agent.core.lanes import LaneArrays, Lanes, grown, kept, trimmed
from agent.core.types import F32, F64, I8, I64, Bools, Mode, Settings

if TYPE_CHECKING:
    from agent.core.workspace import Workspace

PROVENANCE_BYTES: Final = 5  # of each reference: its time and mark
ROW_BYTES: Final = 4  # of each, where it can be embedded anew: its row
GUARD_SAMPLES: Final = 32  # the newest windows overlap the one being scored: they wait before they count
REFUSE_ABOVE_Z: Final = 4.0
HOLD_ABOVE_Z: Final = 0.5
REOPEN_ABOVE: Final = 0.63  # share of refusals at which a change is taken to be here to stay
# NAB's standard score by time and by rows, without an encoder: 60.5 and 67.4, without a cap 59.9 and 66.8. With a cap
# of 0.5 on windows of any z: 56.5 and 63.2.
RENEW_FREELY_BELOW_Z: Final = 1.0
RENEWAL: Final = 0.25  # windows above that which may enter for each decision, in the long run
RENEWAL_BURST: Final = 32.0  # and at once
_CACHED_FLOATS: Final = 64 * 1024  # lanes are compared in blocks that stay in a small processor's cache
_REFUSAL_MEMORY: Final = 0.01  # time constant of 100 decisions
_MOMENT_MEMORY: Final = 0.002  # slow running moments of the log distance, 500 decisions


class ReferenceSettings(Settings, frozen=True):
    """Windows kept per stream, and how many are learnt before the first decision counts."""

    size: int = 1000
    warm_up: int = 600


class AdmissionPolicy(LaneArrays):
    """Who may enter the reference, decided for each row (a lane's view) from how odd it looked.

    `adapt` refuses what lies beyond z = 4 until refusals become the rule; `hold` refuses anything above z = 0.5 and
    never reopens; `frozen` refuses everything. z is taken of the raw score against its own slow running moments.

    Windows above z = 1, such as those of a ramp too slow to be refused, enter more slowly than they come, so that they
    cannot walk the reference away: each decision earns RENEWAL of `credit`, up to RENEWAL_BURST, and such a window that
    enters costs 1. Where things are as usual a sixth of the windows is above z = 1, and nothing is held up.
    """

    _BLANK: ClassVar = {"mean": 0.0, "variance": 1.0, "refusal_rate": 0.0, "refused_run": 0, "credit": RENEWAL_BURST}

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.mean: F64 = np.zeros(0)
        self.variance: F64 = np.zeros(0)
        self.refusal_rate: F64 = np.zeros(0)
        self.refused_run: I64 = np.zeros(0, np.int64)
        self.credit: F64 = np.zeros(0)  # windows

    def prime(self, row: int, raw_scores: F32) -> None:
        """Start the moments from a warm-up's scores."""
        self.mean[row] = raw_scores.mean(dtype=np.float64)
        self.variance[row] = max(raw_scores.var(dtype=np.float64), 1e-4)
        self.refusal_rate[row] = 0.0

    def admit(self, rows: I64, raw_scores: F32) -> tuple[Bools, Bools]:
        """Return who enters and whose score belongs into the calibration, bool [rows], and learn from the scores.

        NaN (not scored yet) is admitted. Of a run of refused scores, one in 32 is counted: overlapping windows see
        one event many times; counted each time, it would make itself look common.
        """
        scored = ~np.isnan(raw_scores)
        mean, variance = self.mean[rows], self.variance[rows]
        deviation = np.sqrt(variance)
        z = np.where(scored, (raw_scores - mean) / deviation, 0.0)
        odd = z > (HOLD_ABOVE_Z if self.mode is Mode.HOLD else REFUSE_ABOVE_Z)
        rate = self.refusal_rate[rows]
        rate += _REFUSAL_MEMORY * (odd - rate)
        run = np.where(odd, self.refused_run[rows] + 1, 0)
        admitted = ~odd
        if self.mode is Mode.ADAPT:
            reopened = rate > REOPEN_ABOVE
            admitted |= reopened
            run[reopened] = 0
        moved = np.where(scored, np.clip(z, -REFUSE_ABOVE_Z, REFUSE_ABOVE_Z) * deviation, 0.0)
        self.mean[rows] = mean + _MOMENT_MEMORY * moved
        self.variance[rows] = variance + np.where(scored, _MOMENT_MEMORY * (np.square(moved) - variance), 0.0)
        self.refusal_rate[rows], self.refused_run[rows] = rate, run
        admitted &= self.mode is not Mode.FROZEN
        limited = z > RENEW_FREELY_BELOW_Z
        credit = np.minimum(self.credit[rows] + RENEWAL, RENEWAL_BURST)
        admitted &= ~limited | (credit >= 1.0)
        self.credit[rows] = credit - (admitted & limited)
        return admitted, run % GUARD_SAMPLES <= 1


class ReferenceWindow:
    """First in, first out: int8 [lanes, size, dim]; each lane has its own head, since each admits for itself.

    Each entry has its provenance: the time of its window, uint32 s since the epoch, and a mark: 0, or the number of the
    accepted alert that it came with. With `rows` it has also the row of the grid that its window ends with, uint32, so
    that another encoder can embed it anew; 0 where that is not known.
    """

    def __init__(self, size: int, dim: int, *, step: float, offset: int, rows: bool = False) -> None:
        self.size, self.dim, self.step, self.offset = size, dim, step, offset
        self._entries: I8 = np.empty((0, size, dim), np.int8)
        self._times: npt.NDArray[np.uint32] = np.empty((0, size), np.uint32)
        self._marks: npt.NDArray[np.uint8] = np.empty((0, size), np.uint8)
        self._arrays = ["_entries", "_times", "_marks"]
        self._has_rows = rows
        if rows:
            self._rows: npt.NDArray[np.uint32] = np.empty((0, size), np.uint32)
            self._arrays.append("_rows")
        self._count: I64 = np.zeros(0, np.int64)
        self._head: I64 = np.zeros(0, np.int64)

    @property
    def count(self) -> I64:
        """Return how many references each lane has, int64 [lanes]."""
        return self._count

    def trim(self, lanes: int) -> None:
        """Give back the memory of all lanes but so many."""
        for name in self._arrays:
            trimmed(getattr(self, name), lanes)

    def make_room(self, first: int, last: int) -> None:
        """Begin lanes `first` to `last`, empty."""
        for name in (*self._arrays, "_count", "_head"):
            setattr(self, name, grown(getattr(self, name), last))
        self._count[first:last] = 0
        self._head[first:last] = 0

    def quantize(self, embedding: F32) -> I8:
        """Return the int8 form of an embedding, same shape."""
        levels = np.rint(embedding / np.float32(self.step))
        levels += self.offset
        return np.clip(levels, -128, 127, out=levels).astype(np.int8)

    def squared_distances(self, query: I8, lanes: Lanes, workspace: Workspace) -> F32:
        """Return squared distances of `query` int8 [lanes, dim] to the references, float32 [lanes, filled].

        Units are those of the embedding; inf where a lane has fewer references. Exact while dim x 255^2 < 2^24.
        Valid until the next call with this workspace.
        """
        filled = max(1, int(self._count[lanes.index].max(initial=0)))
        floats = query.astype(np.float32)
        double = -2.0 * floats[:, :, None]
        squared = workspace.squares(len(query), filled)
        for row, block in lanes.blocks(max(1, _CACHED_FLOATS // (filled * self.dim))):
            part = squared[row : row + block.stop - block.start]
            entries = workspace.floats(self._entries[block, :filled])
            np.matmul(entries, double[row : row + len(part)], out=part[:, :, None])
            # To keep the norms would save a sixth of a decision's time, and cost 3.6 MB for 100 streams.
            part += np.einsum("lnd,lnd->ln", entries, entries)
        held = self._count[lanes.index]
        if held.min(initial=filled) < filled:
            squared[np.arange(filled) >= held[:, None]] = np.inf
        squared += np.square(floats).sum(axis=1)[:, None]
        np.maximum(squared, 0.0, out=squared)
        squared *= np.float32(self.step * self.step)
        return squared

    def insert(self, entries: I8, index: I64, times: F64, mark: int = 0, rows: I64 | int = 0) -> None:
        """Let int8 [n, dim] into the lanes `index`, each of which occurs once; the oldest leave."""
        head = self._head[index]
        if self._has_rows:
            self._rows[index, head] = rows
        self._entries[index, head] = entries
        self._times[index, head] = whole_seconds(times)
        self._marks[index, head] = mark
        self._head[index] = (head + 1) % self.size
        self._count[index] = np.minimum(self._count[index] + 1, self.size)

    def fill(self, lane: int, entries: I8, times: F64, rows: I64) -> None:
        """Replace a lane's references, oldest first: the warm-up."""
        newest, when = entries[-self.size :], times[-self.size :]
        if self._has_rows:
            self._rows[lane, : len(newest)] = rows[-self.size :]
        self._entries[lane, : len(newest)] = newest
        self._times[lane, : len(newest)] = whole_seconds(when)
        self._marks[lane, : len(newest)] = 0
        self._count[lane] = len(newest)
        self._head[lane] = len(newest) % self.size

    def nearest(self, query: I8, lane: int, neighbours: int, workspace: Workspace) -> list[tuple[float, float]]:
        """Return (time, distance) of the references of one lane nearest to int8 [dim], nearest first."""
        squared = self.squared_distances(query[None], Lanes.of((lane, lane + 1)), workspace)[0]
        order = np.argsort(squared, kind="stable")[:neighbours]
        return [
            (float(self._times[lane, index]), float(np.sqrt(squared[index])))
            for index in order
            if np.isfinite(squared[index])
        ]

    def snapshot(self, first: int, last: int) -> dict[str, Any]:
        """Return the references of lanes `first` to `last`."""
        filled = int(self._count[first:last].max(initial=0))
        rows = {"rows": self._rows[first:last, :filled].copy()} if self._has_rows else {}
        return {
            **rows,
            "entries": self._entries[first:last, :filled].copy(),
            "times": self._times[first:last, :filled].copy(),
            "marks": self._marks[first:last, :filled].copy(),
            "count": self._count[first:last].copy(),
            "head": self._head[first:last].copy(),
        }

    def restore(self, first: int, state: dict[str, Any]) -> None:
        """Take up references."""
        entries = state["entries"]
        lanes, filled = entries.shape[:2]
        block = slice(first, first + lanes)
        self._entries[block, :filled] = entries
        self._times[block, :filled], self._marks[block, :filled] = state["times"], state["marks"]
        if self._has_rows:
            self._rows[block, :filled] = state.get("rows", 0)  # earlier versions did not keep them
        self._count[block], self._head[block] = state["count"], state["head"]

    def places(self, first: int, last: int) -> dict[str, Any]:
        """Return how many references lanes `first` to `last` have, and where the next ones go."""
        return {"count": self._count[first:last].copy(), "head": self._head[first:last].copy()}

    def put_back(self, first: int, offset: int, entries: I8, times: F64, places: dict[str, Any], rows: I64) -> None:
        """Let the newest int8 [n, dim] into lane `first + offset`, oldest first; `places` are what holds afterwards."""
        lane, kept_entries = first + offset, entries[-self.size :]
        count = len(kept_entries)
        self._count[lane], self._head[lane] = places["count"][offset], places["head"][offset]
        put = self.newest(lane, count)
        self._entries[lane, put], self._times[lane, put] = kept_entries, whole_seconds(times[len(times) - count :])
        self._marks[lane, put] = 0
        if self._has_rows:
            self._rows[lane, put] = rows[len(rows) - count :]

    def rows(self, lane: int) -> I64:
        """Return the rows of a lane's references, int64 [count], 0 where not known."""
        return self._rows[lane, : self._count[lane]].astype(np.int64)

    def newest(self, lane: int, count: int) -> I64:
        """Return the places of a lane's `count` newest references, oldest of them first, int64 [count]."""
        return (self._head[lane] - count + np.arange(count)) % self.size

    def entry(self, lane: int, place: int) -> I8:
        """Return a reference of a lane, int8 [dim]: a view."""
        return self._entries[lane, place]

    def marked(self, first: int, last: int, mark: int) -> Bools:
        """Return which references of lanes `first` to `last` came with an accepted alert, bool [lanes, size]."""
        return self._held(first, last) & (self._marks[first:last] == mark)

    def within(self, first: int, last: int, begin: float, end: float) -> Bools:
        """Return which references of lanes `first` to `last` are of a time span, whole seconds, bool [lanes, size]."""
        low, high = whole_seconds(np.array([begin, end]))
        times = self._times[first:last]
        return self._held(first, last) & (times >= low) & (times <= high)

    def _held(self, first: int, last: int) -> Bools:
        return np.asarray(np.arange(self.size) < self._count[first:last, None])

    def unmark(self, first: int, last: int, mark: int) -> None:
        """Let a mark stand for something else from now on."""
        marks = self._marks[first:last]
        marks[marks == mark] = 0

    def remove(self, first: int, leaving: Bools) -> None:
        """Take references out of the lanes from `first` on, bool [lanes, size]; the others keep their order."""
        for lane in first + np.flatnonzero(leaving.any(axis=1)):
            count = int(self._count[lane])
            places = self.newest(int(lane), count)
            order = places[~leaving[lane - first, places]]
            for name in self._arrays:
                kept(getattr(self, name), int(lane), order)
            self._count[lane] = len(order)
            self._head[lane] = len(order) % self.size


def whole_seconds(times: F64) -> npt.NDArray[np.uint32]:
    """Return times in whole seconds since the epoch, as references keep them."""
    return np.clip(times, 0, 2**32 - 1).astype(np.uint32)
