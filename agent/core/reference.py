"""The rolling, bounded set of embeddings regarded as normal, and who may enter it.

Embeddings are kept as int8, with one step and offset per view: for the encoder these are the quantized network's own
output quantization, so nothing is lost. Distances are exact in the quantized space.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.core.types import F32, F64, I64, Bools, Mode, Settings

I8 = npt.NDArray[np.int8]

GUARD_SAMPLES: Final = 32  # the newest windows overlap the one being scored: they wait before they count
REFUSE_ABOVE_Z: Final = 4.0
HOLD_ABOVE_Z: Final = 0.5
REOPEN_ABOVE: Final = 0.63  # share of refusals at which a change is taken to be here to stay
_REFUSAL_MEMORY: Final = 0.01  # time constant of 100 decisions
_MOMENT_MEMORY: Final = 0.002  # slow running moments of the log distance, 500 decisions


class ReferenceSettings(Settings, frozen=True):
    """Windows kept per stream, and how many are learnt before the first decision counts."""

    size: int = 1000
    warm_up: int = 600


class AdmissionPolicy:
    """Who may enter the reference, decided for each part from how odd it looked.

    `adapt` refuses what lies beyond z = 4 until refusals become the rule; `hold` refuses anything above z = 0.5 and
    never reopens; `frozen` refuses everything. z is taken of the raw score against its own slow running moments.
    """

    _STATE: Final = ("mean", "variance", "refusal_rate", "refused_run")

    def __init__(self, mode: Mode, parts: int) -> None:
        self.mode = mode
        self.mean: F64 = np.zeros(parts)
        self.variance: F64 = np.ones(parts)
        self.refusal_rate: F64 = np.zeros(parts)
        self.refused_run: I64 = np.zeros(parts, np.int64)

    def prime(self, part: int, raw_scores: F32) -> None:
        """Start the moments from a warm-up's scores."""
        self.mean[part] = raw_scores.mean(dtype=np.float64)
        self.variance[part] = max(raw_scores.var(dtype=np.float64), 1e-4)
        self.refusal_rate[part] = 0.0

    @property
    def counted(self) -> Bools:
        """Return whose last score belongs into the calibration, bool [parts]: of a run of refused ones, one in 32.

        Overlapping windows see one event many times; counted each time, it would make itself look common.
        """
        return self.refused_run % GUARD_SAMPLES <= 1

    def admit(self, raw_scores: F32) -> Bools:
        """Return who enters, bool [parts], and learn from the scores; NaN (not scored yet) is admitted."""
        scored = ~np.isnan(raw_scores)
        deviation = np.sqrt(self.variance)
        z = np.where(scored, (raw_scores - self.mean) / deviation, 0.0)
        odd = z > (HOLD_ABOVE_Z if self.mode is Mode.HOLD else REFUSE_ABOVE_Z)
        self.refusal_rate += _REFUSAL_MEMORY * (odd - self.refusal_rate)
        self.refused_run = np.where(odd, self.refused_run + 1, 0)
        admitted = ~odd
        if self.mode is Mode.ADAPT:
            reopened = self.refusal_rate > REOPEN_ABOVE
            admitted |= reopened
            self.refused_run[reopened] = 0
        moved = np.where(scored, np.clip(z, -REFUSE_ABOVE_Z, REFUSE_ABOVE_Z) * deviation, 0.0)
        self.mean += _MOMENT_MEMORY * moved
        self.variance += np.where(scored, _MOMENT_MEMORY * (np.square(moved) - self.variance), 0.0)
        return admitted & (self.mode is not Mode.FROZEN)

    def grow(self, parts: int) -> None:
        """Make room for parts that were met while learning."""
        more = parts - len(self.mean)
        self.mean = np.append(self.mean, np.zeros(more))
        self.variance = np.append(self.variance, np.ones(more))
        self.refusal_rate = np.append(self.refusal_rate, np.zeros(more))
        self.refused_run = np.append(self.refused_run, np.zeros(more, np.int64))

    def snapshot(self) -> dict[str, Any]:
        """Return the moments and what is being refused."""
        return {name: getattr(self, name).copy() for name in self._STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them up again."""
        for name in self._STATE:
            setattr(self, name, state[name].copy())


class Workspace:
    """Scratch memory shared by all streams of one worker: references as float32 while they are compared."""

    def __init__(self) -> None:
        self._buffer: F32 = np.empty(0, np.float32)

    def floats(self, values: I8) -> F32:
        """Return `values` as float32 of the same shape; valid until the next call."""
        if self._buffer.size < values.size:
            self._buffer = np.empty(values.size, np.float32)
        out = self._buffer[: values.size].reshape(values.shape)
        np.copyto(out, values)
        return out


class ReferenceWindow:
    """First in, first out: int8 [parts, size, dim]; each part has its own head, since each admits for itself."""

    def __init__(self, parts: int, size: int, dim: int, *, step: float, offset: int, guard: int) -> None:
        self.size, self.dim, self.step, self.offset, self.guard = size, dim, step, offset, guard
        self._entries: I8 = np.zeros((parts, size, dim), np.int8)
        self._norms: F32 = np.full((parts, size), np.inf, np.float32)
        self._times: npt.NDArray[np.uint32] = np.zeros((parts, size), np.uint32)
        self._count: I64 = np.zeros(parts, np.int64)
        self._head: I64 = np.zeros(parts, np.int64)
        self._waiting: list[tuple[I8, Bools, float]] = []

    @property
    def count(self) -> I64:
        """Return how many references each part has, int64 [parts]."""
        return self._count

    def quantize(self, embedding: F32) -> I8:
        """Return the int8 form of an embedding, same shape."""
        return np.clip(np.rint(embedding / self.step) + self.offset, -128, 127).astype(np.int8)

    def squared_distances(self, query: I8, workspace: Workspace) -> F32:
        """Return squared distances of `query` int8 [parts, dim] to the references, float32 [parts, filled].

        Units are those of the embedding; inf where a part has fewer references. Exact while dim x 255^2 < 2^24.
        """
        filled = max(1, int(self._count.max(initial=0)))
        floats = query.astype(np.float32)
        entries = workspace.floats(self._entries[:, :filled])
        squared = np.matmul(entries, floats[:, :, None])[:, :, 0]
        squared *= -2.0
        squared += self._norms[:, :filled]
        squared += np.square(floats).sum(axis=1)[:, None]
        np.maximum(squared, 0.0, out=squared)
        squared *= np.float32(self.step * self.step)
        return squared

    def admit(self, query: I8, admitted: Bools, at: float) -> None:
        """Let the admitted parts in, once the guard has passed."""
        self._waiting.append((query, admitted, at))
        while len(self._waiting) > self.guard:
            entry, parts, when = self._waiting.pop(0)
            self._insert(entry, np.flatnonzero(parts), when)

    def fill(self, part: int, entries: I8, times: F64) -> None:
        """Replace a part's references, oldest first: the warm-up."""
        kept, when = entries[-self.size :], times[-self.size :]
        self._norms[part] = np.inf
        self._entries[part, : len(kept)] = kept
        self._norms[part, : len(kept)] = np.square(kept.astype(np.float32)).sum(axis=1)
        self._times[part, : len(kept)] = np.clip(when, 0, 2**32 - 1).astype(np.uint32)
        self._count[part] = len(kept)
        self._head[part] = len(kept) % self.size

    def _insert(self, entry: I8, parts: I64, at: float) -> None:
        head = self._head[parts]
        self._entries[parts, head] = entry[parts]
        self._norms[parts, head] = np.square(entry[parts].astype(np.float32)).sum(axis=1)
        self._times[parts, head] = np.uint32(min(max(at, 0.0), 2**32 - 1))
        self._head[parts] = (head + 1) % self.size
        self._count[parts] = np.minimum(self._count[parts] + 1, self.size)

    def nearest(self, query: I8, part: int, neighbours: int, workspace: Workspace) -> list[tuple[float, float]]:
        """Return (time, distance) of the nearest references of one part, nearest first."""
        squared = self.squared_distances(query, workspace)[part]
        order = np.argsort(squared, kind="stable")[:neighbours]
        return [
            (float(self._times[part, index]), float(np.sqrt(squared[index])))
            for index in order
            if np.isfinite(squared[index])
        ]

    def grow(self, parts: int) -> None:
        """Make room for parts that were met while learning."""
        fresh = ReferenceWindow(
            parts - len(self._count),
            self.size,
            self.dim,
            step=self.step,
            offset=self.offset,
            guard=self.guard,
        )
        for name in ("_entries", "_norms", "_times", "_count", "_head"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(fresh, name)]))
        self._waiting.clear()

    def snapshot(self) -> dict[str, Any]:
        """Return the references and what waits behind the guard."""
        filled = int(self._count.max(initial=0))
        return {
            "entries": self._entries[:, :filled].copy(),
            "times": self._times[:, :filled].copy(),
            "count": self._count.copy(),
            "head": self._head.copy(),
            "waiting": [[entry, parts, at] for entry, parts, at in self._waiting],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up references."""
        entries = state["entries"]
        parts, filled = entries.shape[:2]
        self._entries = np.zeros((parts, self.size, self.dim), np.int8)
        self._entries[:, :filled] = entries
        self._times = np.zeros((parts, self.size), np.uint32)
        self._times[:, :filled] = state["times"]
        self._count, self._head = state["count"].copy(), state["head"].copy()
        self._norms = np.full((parts, self.size), np.inf, np.float32)
        norms = np.square(entries.astype(np.float32)).sum(axis=2)
        held = np.arange(filled) < self._count[:, None]
        self._norms[:, :filled] = np.where(held, norms, np.inf)
        self._waiting = [(entry, admitted, at) for entry, admitted, at in state["waiting"]]
