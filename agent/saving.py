"""Writes what streams have learnt: of all at once, or a little in each turn of the worker, so that nothing waits."""

from __future__ import annotations

from collections import deque
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from agent.picture_stream import PictureStream
from agent.stream import alert_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.adapters.store import Store
    from agent.adapters.telemetry import Telemetry
    from agent.disk import Disk
    from agent.pipeline import Pipeline
    from agent.stream import Stream

SLICE_S: Final = 0.02  # of each turn; what was begun by then is finished
AT_ONCE: Final = 32  # streams whose alert states are written in one transaction


def save_all(store: Store, pipeline: Pipeline, *, whole: bool = True, now: float | None = None) -> None:
    """Write what every stream has learnt, and where its alerts stand between two transitions.

    With `whole` false, what was learnt since the last time is added to the snapshots; where that cannot be, a whole one
    is written if it is due. `now`: a monotonic clock, None for that of the system.
    """
    now = monotonic() if now is None else now
    streams = pipeline.streams.values()
    store.set_topics([stream.topic for stream in streams])
    save_alerts(store, streams)
    for stream in streams:
        if whole:
            save(store, stream, now)
        else:
            add(store, stream, now)
        finish(pictures_due(store, stream, now, at_once=whole))


def save_alerts(store: Store, streams: Iterable[Stream]) -> None:
    """Write where the alerts of these streams stand, but for what a restart would not miss, in one transaction."""
    rows = []
    for stream in streams:
        saved = {row.kind: row.state for row in store.alerts(stream.name)}
        for kind, machine in stream.alerts.items():
            if machine.would_be_missed(saved.get(kind.value, {})):
                rows.append(alert_row(stream, machine))
    if rows:
        store.commit(rows, [])


def add(store: Store, stream: Stream, now: float) -> None:
    """Add what a stream has learnt to its snapshot; where that cannot be, write a whole one, if it is due."""
    addition = stream.addition()
    if addition is not None and store.append(stream.name, addition):
        stream.saved()
    elif addition is not None or stream.whole_due(now):
        _save_whole(store, stream, now)


def save(store: Store, stream: Stream, now: float | None = None) -> None:
    """Write a stream's snapshot, and the pictures that it keeps, if some of them are no longer to be on disk.

    `now`: a monotonic clock, None for that of the system.
    """
    now = monotonic() if now is None else now
    _save_whole(store, stream, now)
    if isinstance(stream, PictureStream) and stream.kept.must_write:
        finish(pictures_due(store, stream, now))


def _save_whole(store: Store, stream: Stream, now: float) -> None:
    size = store.save(stream.name, content_of(stream))
    stream.saved()
    stream.saved_whole(size, now)


def pictures_due(store: Store, stream: Stream, now: float, *, at_once: bool = False) -> Iterator[None] | None:
    """Return what writes the pictures that a stream keeps, if it is time, or `at_once`: a little with each step.

    Where some are to be gone in between, or all are written in one go, nothing comes of it.
    """
    if not isinstance(stream, PictureStream) or not stream.kept.wanted or not (at_once or stream.kept.due(now)):
        return None
    return _pictures(store, stream, now)


def _pictures(store: Store, stream: PictureStream, now: float) -> Iterator[None]:
    kept, size = stream.kept, 0
    kept.edition += 1
    work, edition = store.write_pictures(stream.name, kept.snapshot()), kept.edition
    for part in work:
        size += part
        yield
        if kept.edition != edition:
            work.close()
            return
    kept.written(size, now)


def finish(work: Iterator[None] | None) -> None:
    """Do all of it, if there is any."""
    for _ in work or ():
        pass


def tidy_pictures(store: Store, pipeline: Pipeline) -> None:
    """Remove from disk the pictures of streams that keep none. Raises OSError."""
    streams = pipeline.streams.values()
    store.tidy_pictures(one.name for one in streams if isinstance(one, PictureStream) and one.kept.wanted)


def content_of(stream: Stream) -> dict[str, Any]:
    """Return what a stream's snapshot holds."""
    return {"signature": stream.signature, "detector": stream.snapshot()}


class Saver:
    """Saves each stream once in every interval, in rounds; `saved_at` is when the last one was over.

    The next round begins as much sooner as the last one took, so that no stream waits longer than an interval. Where
    the disk refuses a write the round ends, and begins anew with the next interval, or when it is told to.
    """

    def __init__(self, store: Store, disk: Disk, pipeline: Pipeline, telemetry: Telemetry) -> None:
        self._store, self._disk, self._pipeline, self._telemetry = store, disk, pipeline, telemetry
        self._left: deque[str] = deque()  # streams of this round, whose alert states are yet to be written
        self._ready: deque[str] = deque()  # whose alert states are written
        self._stream: Stream | None = None  # of which the next two are
        # What is being written in pieces; what it knows, if it is a whole snapshot.
        self._large: tuple[object | None, Iterator[int]] | None = None
        self._pictures: Iterator[None] | None = None  # being written, behind that
        self._running = self._topics_due = False
        self._begun_at = self.saved_at = monotonic()
        self._took_s = 0.0  # from begin to end
        self._busy_s = 0.0  # of it, in the writes themselves

    def look(self, interval_s: float) -> None:
        """Begin a round if one is due."""
        if not self._running and monotonic() - self._begun_at >= interval_s - min(self._took_s, interval_s / 2):
            self.begin()

    def begin(self) -> None:
        """Begin a round now."""
        self.end()
        self._running = self._topics_due = True
        self._begun_at, self._busy_s = monotonic(), 0.0
        self._left, self._ready = deque(self._pipeline.streams), deque()

    def advance(self) -> bool:
        """Go on with a round for a moment, if there is one; tell whether there is more to do at once."""
        if not self._running:
            return False
        before, begun = self._store.bytes_written, monotonic()
        written = self._disk.write(self._slice)
        self._telemetry.state_bytes.inc(self._store.bytes_written - before)
        now = monotonic()
        self._busy_s += now - begun
        if not written:
            self.end()
        elif not (self._left or self._ready or self._large or self._pictures):
            self._running, self.saved_at, self._took_s = False, now, now - self._begun_at
            self._stream = None
            self._telemetry.snapshot_seconds.observe(self._busy_s)
        return self._running

    def end(self) -> None:
        """Give the round up, if there is one."""
        self._running = False
        self._let_go()

    def _let_go(self) -> None:
        """Give up what is being written of a stream."""
        if self._stream is not None and self._large:
            self._stream.unsaved()
        self._stream = self._large = self._pictures = None

    def _begin_large(self, stream: Stream) -> None:
        """Begin with what is new of a stream, or with a whole snapshot; what it learns meanwhile is not in it."""
        addition, known = stream.addition(), None
        pieces = None if addition is None else self._store.append_in_pieces(stream.name, addition)
        if pieces is None:
            if addition is None and not stream.whole_due(monotonic()):
                return
            known, pieces = _known(stream), self._store.save_in_pieces(stream.name, content_of(stream))
        self._stream, self._large = stream, (known, pieces)
        stream.saved()

    def _go_on(self, stream: Stream, known: object | None, pieces: Iterator[int]) -> None:
        size = next(pieces, None)
        if size and known is not None and _known(stream) == known:  # else it is no more what a snapshot has to know
            stream.saved_whole(size, monotonic())
        elif size is None:
            self._large, self._pictures = None, pictures_due(self._store, stream, monotonic())

    def _slice(self) -> None:
        """Write until the time is up, or the round is over."""
        until, streams = monotonic() + SLICE_S, self._pipeline.streams
        if self._topics_due:
            self._store.set_topics([stream.topic for stream in streams.values()])
            self._topics_due = False
        if self._stream is not None and streams.get(self._stream.name) is not self._stream:
            self._ready.append(self._stream.name)  # what took its place, if anything did
            self._let_go()
        while self._left or self._ready or self._large or self._pictures:
            if self._stream is not None and self._large:
                self._go_on(self._stream, *self._large)
            elif self._pictures:
                for _ in self._pictures:
                    break
                else:
                    self._pictures = None
            elif not self._ready:
                names = list(islice(self._left, AT_ONCE))
                save_alerts(self._store, [streams[name] for name in names if name in streams])
                for name in names:
                    self._left.popleft()
                    self._ready.append(name)
            else:
                stream = streams.get(self._ready[0])
                if stream is not None and stream.in_pieces:
                    self._begin_large(stream)
                elif stream is not None:
                    add(self._store, stream, monotonic())
                self._ready.popleft()
            if monotonic() >= until:
                break


def _known(stream: Stream) -> object:
    """Return what a snapshot that is written now tells for days: another one is due where it is no longer so."""
    return stream.learnt, stream.signature
