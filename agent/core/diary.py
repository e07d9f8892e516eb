"""What a stream has learnt since it was last saved, decision by decision: little enough to be written often.

Embeddings are not kept: those that matter are made again from the readings, to the bit. The encoder is not called from
here.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.core.types import F32, F64, I64, Bools

MOST_DECISIONS: Final = 4000  # without being saved; a whole snapshot is due after more
ENTERS: Final = 1  # the window may enter the reference
COUNTS: Final = 2  # its score entered the calibration


class Diary:
    """`since` is the grid's count of rows when the stream was last saved, None: nothing to go on from is on disk."""

    def __init__(self) -> None:
        self.since: int | None = None
        self._rows = array("q")  # of the grid, at each decision
        self._times = array("d")
        self._flags = bytearray()  # of each decision, channel and view
        self._tables: list[tuple[int, F32]] = []

    def begin(self, total_rows: int) -> None:
        """Begin anew: all that was learnt so far is on disk."""
        self.end()
        self.since = total_rows

    def end(self) -> None:
        """Note nothing any more: the stream changes in a way that only a whole snapshot tells."""
        self.since = None
        self._rows, self._times, self._flags, self._tables = array("q"), array("d"), bytearray(), []

    def note(self, row: int, at: float, entering: Bools, counted: Bools) -> None:
        """Note a decision: what of it may enter and what counts, bool [channels, views]."""
        if self.since is None:
            return
        if len(self._rows) == MOST_DECISIONS:
            self.end()
            return
        self._rows.append(row)
        self._times.append(at)
        self._flags += (entering * np.uint8(ENTERS) | counted * np.uint8(COUNTS)).tobytes()

    def note_table(self, row: int, table: F32) -> None:
        """Note the scale that decisions from a row of the grid on are made with."""
        if self.since is not None:
            self._tables.append((row, table))

    def decisions(self, channels: int, views: int) -> dict[str, Any]:
        """Return what was noted."""
        count = len(self._rows)
        return {
            "row_steps": np.diff(np.array(self._rows, np.int64), prepend=0),  # a few bytes: mostly alike
            "time_steps": np.diff(np.array(self._times).view(np.int64), prepend=0),
            "flags": np.frombuffer(bytes(self._flags), np.uint8).reshape(count, channels, views),
            "tables": [[row, table] for row, table in self._tables],
        }


class Past:
    """Decisions of several diaries in order, and the readings they were made on.

    `grid_rows` float32 [rows, channels] end with row `last_row`. `flags` uint8 [decisions, channels, views].
    """

    def __init__(self, first_table: F32, grid_rows: list[F32], last_row: int, noted: list[dict[str, Any]]) -> None:
        self._grid = np.concatenate(grid_rows)
        self._first_row = last_row - len(self._grid)
        self.rows: I64 = np.concatenate([np.cumsum(one["row_steps"]) for one in noted])
        self.times: F64 = np.concatenate([np.cumsum(one["time_steps"]).view(np.float64) for one in noted])
        self.flags: npt.NDArray[np.uint8] = np.concatenate([one["flags"] for one in noted])
        changes = [(int(row), table) for one in noted for row, table in one["tables"]]
        self._from: I64 = np.array([row for row, _ in changes], np.int64)
        self._tables: F32 = np.stack([first_table, *(table for _, table in changes)])

    def tail(self, count: int) -> F32:
        """Return the last rows of the grid, float32 [rows, channels]."""
        return self._grid[-count:]

    def lanes(self, decisions: I64, channels: I64, span: int) -> tuple[F32, F32]:
        """Return the points that windows are cut from, and their scales, for pairs of a decision and a channel.

        float32 [pairs, span], ending with the decision's row, and float32 [pairs, pools, 2, 2].
        """
        ends = self.rows[decisions] - self._first_row
        points = self._grid[ends[:, None] + np.arange(-span, 0), channels[:, None]]
        tables = np.searchsorted(self._from, self.rows[decisions], side="right")
        return points, self._tables[tables, channels]


def newest(entering: Bools, size: int) -> Bools:
    """Return the `size` newest of those that enter, for each lane, bool [decisions, lanes]."""
    later = np.cumsum(entering[::-1], axis=0)[::-1]  # those from here on
    return np.asarray(entering & (later <= size))
