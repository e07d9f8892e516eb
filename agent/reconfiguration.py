"""What a changed configuration does to the streams that there are, in words for a person."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.config import Configuration
    from agent.pipeline import Outcome
    from agent.stream import Stream


class Fate(StrEnum):
    """What became of a stream, or of an entry in `streams`."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    ANEW = "learning anew"
    ADDED = "added"
    REMOVED = "removed"


class Reconfigured(msgspec.Struct):
    """What a pipeline's streams became; `removed` are those that it no longer has."""

    outcome: Outcome
    fates: dict[str, Fate]  # by the stream's name
    removed: list[Stream]


class EntryChange(msgspec.Struct, frozen=True):
    """What became of one entry: how many streams it has (or had, if removed), and how many it no longer matches."""

    name: str
    fate: Fate
    streams: int = 0
    gone: int = 0

    def __str__(self) -> str:
        of = f" ({self.streams} stream{'' if self.streams == 1 else 's'})" if self.streams else ""
        gone = f", {self.gone} no longer matched" if self.gone and self.fate is not Fate.REMOVED else ""
        return f"{self.name}: {self.fate}{of}{gone}"


def entry_changes(
    before: Configuration, after: Configuration, streams: Iterable[Stream], done: Reconfigured
) -> list[EntryChange]:
    """Return what became of each entry, those of `after` first; `streams` are those that there are now."""
    old = {one.name: one for one in before.streams}
    fates: dict[str, list[Fate]] = {}
    for stream in streams:
        fates.setdefault(stream.settings.name, []).append(done.fates[stream.name])
    gone = [stream.settings.name for stream in done.removed]
    changes = []
    for entry in after.streams:
        of = fates.get(entry.name, [])
        if entry.name not in old:
            fate = Fate.ADDED
        elif old[entry.name] == entry:
            fate = Fate.UNCHANGED
        else:
            fate = Fate.ANEW if Fate.ANEW in of else Fate.CHANGED
        changes.append(EntryChange(entry.name, fate, len(of), gone.count(entry.name)))
    left = [name for name in old if name not in {one.name for one in after.streams}]
    return changes + [EntryChange(name, Fate.REMOVED, gone.count(name)) for name in left]
