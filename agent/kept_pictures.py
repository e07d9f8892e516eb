"""The last pictures of a stream, packed, where its operator allows that: another encoder can learn from them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from agent.adapters.picture_files import pack, unpack
from agent.core.types import Frame
from agent.stream import pause_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.config import KeepSettings

_SLACK: Final = 32  # pictures more than wanted, before it is looked which of them are not needed any more
_FILLED: Final = 0.95  # of the limit in bytes, after that look


class KeptPictures:
    """Pictures by their time, one file for each tile, oldest first; `needed` tells the times that still matter."""

    def __init__(self, settings: KeepSettings, needed: Callable[[], set[float]]) -> None:
        self._settings, self._needed = settings, needed
        self._pictures: OrderedDict[float, list[bytes]] = OrderedDict()
        self.bytes = 0
        self.written_bytes = 0  # in this run, the last time
        self._written_at: float | None = None
        self.must_write = False  # what is on disk has pictures that are not to be there any more
        self.edition = 0  # of what is to be on disk: another one where some are to be gone, or it is written anew

    @property
    def wanted(self) -> bool:
        """Tell whether pictures may be kept at all."""
        return self._settings.pictures > 0

    def __len__(self) -> int:
        return len(self._pictures)

    def __contains__(self, at: float) -> bool:
        return at in self._pictures

    def add(self, frames: list[Frame]) -> None:
        """Keep a picture, if that is allowed."""
        if self.wanted:
            self._put(frames[0].at, [pack(one.pixels) for one in frames])
            self._tidy()

    def _put(self, at: float, files: list[bytes]) -> None:
        self._drop(at)
        self._pictures[at] = files
        self.bytes += sum(map(len, files))

    def _drop(self, at: float) -> None:
        self.bytes -= sum(map(len, self._pictures.pop(at, ())))

    def _tidy(self) -> None:
        """Stay within the limits: first what nothing hangs on any more goes, then the oldest."""
        most, limit = self._settings.pictures, self._settings.limit_bytes
        if len(self) > most + _SLACK or self.bytes > limit:
            self._forget_unneeded()
            while len(self) > most or self.bytes > limit * _FILLED:
                self._drop(next(iter(self._pictures)))

    def _forget_unneeded(self) -> bool:
        needed = self._needed()
        gone = [at for at in self._pictures if at not in needed]
        for at in gone:
            self._drop(at)
        return bool(gone)

    def forget(self) -> None:
        """Let go at once what nothing hangs on any more: something was forgotten."""
        if self._forget_unneeded():
            self._removed()

    def clear(self) -> None:
        """Let everything go."""
        if self._pictures:
            self._removed()
        self._pictures.clear()
        self.bytes = 0

    def _removed(self) -> None:
        self.must_write = True
        self.edition += 1

    def due(self, now: float) -> bool:
        """Tell whether they are to be written: seldom, or because some are to be gone. `now`: a monotonic clock."""
        at = self._written_at
        return self.must_write or at is None or now - at >= pause_after(self.written_bytes)

    def written(self, size: int, now: float) -> None:
        """Know that they were written, so many bytes."""
        self.written_bytes, self._written_at, self.must_write = size, now, False

    def frame(self, at: float, tile: int) -> Frame | None:
        """Return what a tile showed at a time, None if that is not kept."""
        files = self._pictures.get(at)
        return None if files is None else Frame(at, unpack(files[tile]))

    def snapshot(self) -> list[tuple[float, list[bytes]]]:
        """Return all pictures: time, and a file for each tile."""
        return list(self._pictures.items())

    def restore(self, saved: Iterable[tuple[float, list[bytes]]]) -> None:
        """Take up what still matters."""
        if self.wanted:
            for at, files in saved:
                self._put(at, files)
            self._forget_unneeded()
            self._tidy()
