"""What survives a restart: alert states and the outbox in SQLite, exact; snapshots of streams in files, atomic.

SQLite is used by the worker alone. A snapshot file is a line of magic, a checksum, and MessagePack, compressed. Beside
it lies a journal: a line of magic, the snapshot's checksum, and what was added since, each with length and checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sqlite3
import tempfile
import zlib
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
import numpy as np

from agent.adapters.statelock import StateLock
from agent.errors import SnapshotError, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

logger = logging.getLogger(__name__)

MAX_OUTBOX: Final = 10000
JOURNAL_FACTOR: Final = 8  # times the snapshot's size, at most; then a new one is cheaper than to go on
MAX_UNPACKED_BYTES: Final = 1 << 30  # of a snapshot; a few bytes may claim anything
_MAGIC: Final = b"redshank snapshot 2\n"
_PAGE_BYTES: Final = 4096  # that disks are written in: a page that is begun would be written twice
_JOURNAL_MAGIC: Final = b"redshank journal 1\n"
_JOURNAL_HEAD: Final = len(_JOURNAL_MAGIC) + 4
_PICTURES_MAGIC: Final = b"redshank pictures 1\n"
_PICTURES: Final = ".pictures"
_HALF_WRITTEN: Final = ".pictures-new"
_PART_BYTES: Final = 200_000  # of something large, written at once: a slow SD card takes 10 MB each second
_LARGE_BYTES: Final = 1_000_000  # a snapshot of more is written in such parts
_FRAME_HEAD: Final = 8  # length and checksum
_LEVEL: Final = 1  # of compression: half the size; more takes four times as long for a tenth
_JOURNAL_LEVEL: Final = 6
_PIECE_BYTES: Final = 1 << 18  # that are compressed at once: 5 ms
_ARRAY: Final = 1
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SHM: Final = Path("/dev/shm")  # noqa: S108  folders of our own in it; memory, where other disks may be full as well
_DATABASE: Final = "state.sqlite"
_PROBE_BYTES: Final = 65536
_COLUMNS: Final = {
    "alerts": "stream, kind, state",
    "outbox": "topic, payload, created_at",
    "last_alerts": "topic, payload",
    "retained": "topic",
    "streams": "topic",
    "choices": "question, answer",
    "nodes": "name, births",
}
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alerts (stream TEXT, kind TEXT, state BLOB NOT NULL, PRIMARY KEY (stream, kind));
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS last_alerts (topic TEXT PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS streams (topic TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS nodes (name TEXT PRIMARY KEY, births BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS choices (question TEXT PRIMARY KEY, answer TEXT NOT NULL);
"""


class OutboxRow(msgspec.Struct, frozen=True):
    """A message that has yet to reach the broker. `seq` is 0 until it is stored."""

    topic: str
    payload: bytes
    created_at: float
    seq: int = 0


class AlertRow(msgspec.Struct, frozen=True):
    """The exact state of one alert machine."""

    stream: str
    kind: str
    state: dict[str, Any]


class Written(msgspec.Struct):
    """What lies on disk of a stream: its snapshot's checksum and size, its journal's size. Bytes."""

    checksum: bytes
    snapshot_bytes: int
    journal_bytes: int = 0


class Store:
    """The state directory, mode 0700. A damaged database is set aside and said so.

    Raises StateError or OSError. A `patient` one raises StateError only where another process holds the directory: if
    it cannot be written it works in memory, on what could be read, until `attach` succeeds; `failure` says why.
    """

    def __init__(self, directory: Path, *, patient: bool = False) -> None:
        self.directory = directory
        self.outbox_dropped = 0
        self.bytes_written = 0
        self.failure: Exception | None = None
        self.unread = False  # what the directory held could not be read
        self._lock: StateLock | None = None
        self._listens: tuple[str, str] | None = None
        self._written: dict[str, Written] = {}  # by stream
        self._writing: dict[str, object] = {}  # whose snapshot is being written, and by whom
        try:
            self._database = self._take()
        except (OSError, UnwritableError) as error:
            if not patient:
                self._let_go()
                raise
            self.failure = error
            self._database, self.unread = _copy(directory / _DATABASE)
        except BaseException:
            self._let_go()
            raise
        self.detached = self.failure is not None

    def close(self) -> None:
        """Close the database and let the directory go."""
        self._database.close()
        self._let_go()

    def listens(self, address: str, token: str = "") -> None:
        """Tell other processes that this is an agent, which they find at HOST:PORT, and the token that lets them in."""
        self._listens = address, token
        if self._lock is not None:
            self._lock.listens(address, token)

    def detach(self) -> None:
        """Go on in memory, from what the database holds: it cannot be written."""
        memory = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._database.backup(memory)
        except sqlite3.Error:  # it cannot even be read: what it holds is added when it can
            memory.close()
            memory, self.unread = _blank(), True
            # Numbers of before may be on their way; these are above them.
            memory.execute("INSERT INTO sqlite_sequence VALUES ('outbox', ?)", (time_ns() // 1_000_000,))
            memory.commit()
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._database, self.detached = memory, True

    def attach(self) -> None:
        """Write what is in memory to the directory, and go on there. Raises OSError, StateError or sqlite3.Error."""
        memory, disk = self._database, self._take()
        try:
            if self.unread:
                _merge(disk, memory)
            memory.backup(disk)
        except BaseException:
            disk.close()
            raise
        memory.close()
        self._database, self.detached, self.failure = disk, False, None

    def probe(self) -> None:
        """Raise OSError if no file of some size can be written."""
        path = self.directory / "probe"
        _write(path, bytes(_PROBE_BYTES))
        path.unlink()

    def _take(self) -> sqlite3.Connection:
        """Make the directory ours and open the database. Raises OSError or StateError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        if self._lock is None:
            self._lock = StateLock(self.directory)
            if self._listens is not None:
                self._lock.listens(*self._listens)
        (self.directory / "streams").mkdir(exist_ok=True)
        return _database(self.directory / _DATABASE)

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def commit(
        self, alerts: list[AlertRow], outbox: list[OutboxRow], nodes: Mapping[str, bytes | None] | None = None
    ) -> None:
        """Write alert states, what they send, and births of Sparkplug nodes (None: dead) in one transaction.

        It is durable when this returns.
        """
        with self._database as database:
            database.executemany(
                "INSERT INTO alerts VALUES (?, ?, ?) ON CONFLICT (stream, kind) DO UPDATE SET state = excluded.state "
                "WHERE state IS NOT excluded.state",  # what is the same takes no page of the disk
                [(row.stream, row.kind, msgspec.msgpack.encode(row.state)) for row in alerts],
            )
            database.executemany(
                "INSERT INTO outbox (topic, payload, created_at) VALUES (?, ?, ?)",
                [(row.topic, row.payload, row.created_at) for row in outbox],
            )
            database.executemany(
                "INSERT OR REPLACE INTO last_alerts VALUES (?, ?)", [(row.topic, row.payload) for row in outbox]
            )
            for name, births in (nodes or {}).items():
                database.execute("DELETE FROM nodes WHERE name = ?", (name,))
                if births is not None:
                    database.execute("INSERT INTO nodes VALUES (?, ?)", (name, births))
            excess = max(0, self.outbox_length() - MAX_OUTBOX)
            if excess:
                database.execute(
                    "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT ?)", (excess,)
                )
        self.outbox_dropped += excess

    def alerts(self, stream: str | None = None) -> list[AlertRow]:
        """Return every alert state, or those of one stream. One that is damaged is left out, and said so."""
        found = []
        asked = "SELECT stream, kind, state FROM alerts"
        rows = (
            self._database.execute(asked)
            if stream is None
            else self._database.execute(f"{asked} WHERE stream = ?", (stream,))
        )
        for name, kind, state in rows:
            try:
                found.append(AlertRow(name, kind, msgspec.msgpack.decode(state, type=dict[str, Any])))
            except (msgspec.DecodeError, RecursionError) as error:
                logger.warning("stream %s: the state of its alert %s is lost: it is damaged (%s)", name, kind, error)
        return found

    def nodes(self) -> list[tuple[str, bytes]]:
        """Return the births of each Sparkplug node that lives."""
        return [(name, births) for name, births in self._database.execute("SELECT name, births FROM nodes")]

    def outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """Return waiting messages with a number above `after`, in order."""
        rows = self._database.execute(
            "SELECT topic, payload, created_at, seq FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, limit),
        )
        return [OutboxRow(*row) for row in rows]

    def outbox_length(self) -> int:
        """Return how many messages wait."""
        return int(self._database.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def delivered(self, seqs: list[int]) -> None:
        """Forget messages that the broker has taken."""
        with self._database as database:
            database.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])

    def last_alerts(self) -> dict[str, bytes]:
        """Return the last message of each topic that was put in the outbox, delivered or not."""
        return dict(self._database.execute("SELECT topic, payload FROM last_alerts"))

    def forget_last_alerts(self, topics: Iterable[str]) -> None:
        """Forget the last messages of these topics."""
        with self._database as database:
            database.executemany("DELETE FROM last_alerts WHERE topic = ?", [(topic,) for topic in topics])

    def retained(self) -> set[str]:
        """Return the topics on which something of ours is retained."""
        return {row[0] for row in self._database.execute("SELECT topic FROM retained")}

    def change_retained(self, added: Iterable[str], dropped: Iterable[str]) -> None:
        """Remember on which further topics something of ours is retained, and on which nothing is any more."""
        with self._database as database:
            database.executemany("INSERT OR IGNORE INTO retained VALUES (?)", [(topic,) for topic in added])
            database.executemany("DELETE FROM retained WHERE topic = ?", [(topic,) for topic in dropped])

    def topics(self) -> list[str]:
        """Return the concrete topics of the streams that were watched, sorted."""
        return [row[0] for row in self._database.execute("SELECT topic FROM streams ORDER BY topic")]

    def set_topics(self, topics: list[str]) -> None:
        """Remember the concrete topics of the streams that are watched; writes nothing if they are the same."""
        if sorted(topics) == self.topics():
            return
        with self._database as database:
            database.execute("DELETE FROM streams")
            database.executemany("INSERT INTO streams VALUES (?)", [(topic,) for topic in topics])

    def choice(self, question: str) -> str | None:
        """Return what was chosen before, None if nothing was."""
        row = self._database.execute("SELECT answer FROM choices WHERE question = ?", (question,)).fetchone()
        return None if row is None else str(row[0])

    def choose(self, question: str, answer: str) -> None:
        """Remember a choice."""
        with self._database as database:
            database.execute("INSERT OR REPLACE INTO choices VALUES (?, ?)", (question, answer))

    def subscriptions(self) -> dict[str, int]:
        """Return what the broker's session holds, as last told."""
        try:
            return msgspec.json.decode((self.directory / "subscriptions.json").read_bytes(), type=dict[str, int])
        except (OSError, ValueError):  # a decoder's error is a ValueError too
            return {}

    def set_subscriptions(self, subscriptions: dict[str, int]) -> None:
        """Remember what the broker's session holds. Called from the network thread."""
        _write(self.directory / "subscriptions.json", msgspec.json.encode(subscriptions))

    def save(self, stream: str, snapshot: dict[str, Any]) -> int:
        """Write a stream's snapshot: the old one or the new one is there, never half of one. Its journal is let go.

        Return its size, bytes.
        """
        *_, size = self.save_in_pieces(stream, snapshot)
        return size

    def save_in_pieces(self, stream: str, snapshot: dict[str, Any]) -> Iterator[int]:
        """Do what `save` does, and yield 0 between two pieces of that work; at last the size, bytes.

        It is 0 too where something newer of this stream was written since this was asked for: that stays.
        """
        return self._in_pieces(stream, snapshot, self._written.get(stream))

    def _in_pieces(self, stream: str, snapshot: dict[str, Any], before: Written | None) -> Iterator[int]:
        parts = []
        for part in _compressed(snapshot, _LEVEL):
            parts.append(part)
            yield 0
        if self._written.get(stream) is not before:
            yield 0
            return
        body = b"".join(parts)
        checksum = _checksum(body)
        content = memoryview(_MAGIC + checksum + body)
        path, mine = self._path(stream), object()
        beside = path.with_suffix(".new")
        self._writing[stream] = mine
        try:
            with beside.open("wb") as file:
                step = _PART_BYTES if len(content) > _LARGE_BYTES else len(content)
                for first in range(0, len(content), step):
                    if first:
                        os.fdatasync(file.fileno())
                        yield 0
                        if self._writing.get(stream) is not mine or self._written.get(stream) is not before:
                            yield 0
                            return
                    self.bytes_written += file.write(content[first : first + step])
                    file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            if self._writing.get(stream) is mine:  # else the file is another one's
                del self._writing[stream]
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
        sync_names(path.parent)
        self._written[stream] = Written(checksum, len(content))
        self._journal(stream).unlink(missing_ok=True)  # one that is left names the older snapshot, and counts no more
        yield len(content)

    def append(self, stream: str, addition: dict[str, Any]) -> bool:
        """Write what was added to a stream's snapshot; durable when this returns.

        False where a new snapshot is wanted instead: there is none of this run, or its journal is long.
        """
        pieces = self.append_in_pieces(stream, addition)
        if pieces is None:
            return False
        for _ in pieces:
            pass
        return True

    def append_in_pieces(self, stream: str, addition: dict[str, Any]) -> Iterator[int] | None:
        """Do what `append` does, and yield 0 between two pieces of that work; at last the size, bytes.

        It is 0 too where something newer of this stream was written since this was asked for. None is False there.
        """
        written = self._written.get(stream)
        if written is None or written.journal_bytes > JOURNAL_FACTOR * _in_pages(written.snapshot_bytes):
            return None
        return self._added_in_pieces(stream, addition, written, written.journal_bytes)

    def _added_in_pieces(
        self, stream: str, addition: dict[str, Any], written: Written, journal_bytes: int
    ) -> Iterator[int]:
        parts = []
        for part in _compressed(addition, _JOURNAL_LEVEL):
            parts.append(part)
            yield 0
        if self._written.get(stream) is not written or written.journal_bytes != journal_bytes:
            yield 0
            return
        body = b"".join(parts)
        end = (written.journal_bytes or _JOURNAL_HEAD) + _FRAME_HEAD + len(body)
        body += bytes(_in_pages(end) - end)
        content = _frame(body)
        if written.journal_bytes == 0:
            content = _JOURNAL_MAGIC + written.checksum + content
        with self._journal(stream).open("r+b" if written.journal_bytes else "wb") as file:
            file.truncate(written.journal_bytes)  # what an earlier try left
            file.seek(written.journal_bytes)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if written.journal_bytes == 0:
            sync_names(self._journal(stream).parent)
        written.journal_bytes += len(content)
        self.bytes_written += len(content)
        yield len(content)

    def load(self, stream: str) -> dict[str, Any] | None:
        """Return a stream's snapshot or None. A corrupt one is set aside and said so; the stream starts cold."""
        path = self._path(stream)
        try:
            return _decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self.set_aside(stream, f"unreadable ({error.strerror})")
        except SnapshotError as error:
            self.set_aside(stream, str(error))
        return None

    def additions(self, stream: str) -> Iterator[dict[str, Any]]:
        """Yield what was added to a stream's snapshot, in order, one at a time: together they may be large.

        What a kill left half written is left out.
        """
        try:
            with self._path(stream).open("rb") as file:
                checksum = file.read(len(_MAGIC) + 4)[len(_MAGIC) :]
            with self._journal(stream).open("rb") as file:
                if file.read(_JOURNAL_HEAD) != _JOURNAL_MAGIC + checksum:
                    return
                for body in _frames(file):
                    if body is None:
                        logger.warning(
                            "stream %s: the end of its journal is damaged; it goes on from before that", stream
                        )
                        return
                    yield _unpacked(body)
        except SnapshotError as error:
            logger.warning("stream %s: its journal is %s; it goes on from before that", stream, error)
        except OSError:
            return

    def write_pictures(self, stream: str, pictures: Iterable[tuple[float, list[bytes]]]) -> Generator[int]:
        """Write a stream's packed pictures, a little at a time: yield how many bytes each part has, once it is on disk.

        Those of before are there until the last one; where it does not come to that, nothing else is left. Raises
        OSError.
        """
        path = self._pictures(stream)
        beside = path.with_suffix(_HALF_WRITTEN)
        part = _PICTURES_MAGIC
        try:
            with beside.open("wb") as file:
                for picture in pictures:
                    body = msgspec.msgpack.encode(picture)
                    part += _frame(body)
                    if len(part) >= _PART_BYTES:
                        yield self._put_part(file, part)
                        part = b""
                last = self._put_part(file, part)
            beside.replace(path)
        except BaseException:  # a full disk; or it is given up
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        sync_names(path.parent)
        yield last

    def _put_part(self, file: BinaryIO, part: bytes) -> int:
        file.write(part)
        file.flush()
        os.fdatasync(file.fileno())
        self.bytes_written += len(part)
        return len(part)

    def load_pictures(self, stream: str) -> list[tuple[float, list[bytes]]]:
        """Return a stream's packed pictures, by time, a file for each tile; those before damage, where there is any."""
        found: list[tuple[float, list[bytes]]] = []
        try:
            with self._pictures(stream).open("rb") as file:
                begun = file.read(len(_PICTURES_MAGIC))
                damaged = not begun
                for body in _frames(file) if begun == _PICTURES_MAGIC else ():
                    found.append(msgspec.msgpack.decode(body or b"", type=tuple[float, list[bytes]]))  # noqa: PERF401
        except OSError:
            return []
        except (ValueError, RecursionError):
            damaged = True
        if damaged:
            logger.warning("stream %s: the pictures that it kept are damaged; %d are left", stream, len(found))
        return found

    def drop_pictures(self, stream: str) -> None:
        """Remove a stream's pictures, if there are any. Raises OSError."""
        self._pictures(stream).unlink(missing_ok=True)

    def tidy_pictures(self, streams: Iterable[str]) -> None:
        """Remove the pictures of all streams but these, and what was left half written. Raises OSError."""
        kept = {self._pictures(stream) for stream in streams}
        for path in (self.directory / "streams").glob(f"*{_PICTURES}*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def set_aside(self, stream: str, reason: str) -> None:
        """Rename a snapshot that cannot be used, if there is one; pictures are not kept then."""
        path = self._path(stream)
        with contextlib.suppress(OSError):
            self.drop_pictures(stream)
        self._written.pop(stream, None)
        aside = path.with_suffix(".unusable")
        try:
            path.replace(aside)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("stream %s starts cold: its snapshot is %s, and stays (%s)", stream, reason, error.strerror)
            return
        logger.warning("stream %s starts cold: its snapshot is %s; kept as %s", stream, reason, aside.name)

    def _path(self, stream: str) -> Path:
        return self.directory / "streams" / f"{hashlib.sha256(stream.encode()).hexdigest()[:24]}.snapshot"

    def _pictures(self, stream: str) -> Path:
        return self._path(stream).with_suffix(_PICTURES)

    def _journal(self, stream: str) -> Path:
        return self._path(stream).with_suffix(".journal")


def _database(path: Path) -> sqlite3.Connection:
    """Open the database; where it is damaged, start a new one beside what is left of it."""
    try:
        return _open(path)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in _DAMAGED:
            raise UnwritableError(f"{path}: expected a database that can be written, found: {error}") from error
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.replace(path.with_name(f"{path.name}.unusable{suffix}"))
        logger.error(  # noqa: TRY400  a traceback says nothing more
            "%s is damaged (%s): alert states and unsent alerts are lost; kept as %s.unusable", path, error, path.name
        )
        return _open(path)


def _blank() -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    memory.executescript(_SCHEMA)
    return memory


def _copy(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Return a copy in memory of a database that cannot be written, and whether there is one that cannot be read.

    A write-ahead log can only be read where it can be written to: if there is one, both are copied first.
    """
    memory = _blank()
    log = path.with_name(f"{path.name}-wal")
    try:
        if not path.exists():
            return memory, False
        if not log.exists() or log.stat().st_size == 0:
            with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as source:
                source.backup(memory)
        else:
            with tempfile.TemporaryDirectory(dir=_SHM if os.access(_SHM, os.W_OK) else None) as folder:
                for one in (path, log):
                    shutil.copy(one, folder)
                with contextlib.closing(_open(Path(folder) / path.name)) as source:
                    source.backup(memory)
    except (OSError, sqlite3.Error):
        memory.close()
        return _blank(), True
    memory.executescript(_SCHEMA)
    return memory, False


def _merge(disk: sqlite3.Connection, memory: sqlite3.Connection) -> None:
    """Add to `memory` what `disk` held from before, where memory knows nothing newer."""
    with memory:
        for table, columns in _COLUMNS.items():
            marks = ", ".join("?" * len(columns.split(", ")))
            rows = disk.execute(f"SELECT {columns} FROM {table}").fetchall()  # noqa: S608  names of our own
            memory.executemany(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608  likewise


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            damage = sqlite3.DatabaseError(found)
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    write_out(temporary, content)
    temporary.replace(path)
    sync_names(path.parent)


def write_out(path: Path, content: bytes) -> None:
    """Write a file, and have its content on disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_names(directory: Path) -> None:
    """Have the names in a directory on disk. Raises OSError."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _in_pages(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + _checksum(body) + body


def _frames(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield what each frame from here on holds; None for one that is damaged, behind which nothing can be told."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    while head := file.read(_FRAME_HEAD):
        left -= len(head)
        body = file.read(min(left, int.from_bytes(head[:4], "big")))  # what is damaged may claim anything
        left -= len(body)
        if _checksum(body) != head[4:]:
            yield None
            return
        yield body


def _compressed(content: dict[str, Any], level: int) -> Iterator[bytes]:
    """Yield a snapshot or an addition to one, packed and compressed, a piece at a time."""
    packed = memoryview(msgspec.msgpack.encode(content, enc_hook=_encode))
    packer = zlib.compressobj(level)
    for first in range(0, len(packed), _PIECE_BYTES):
        yield packer.compress(packed[first : first + _PIECE_BYTES])
    yield packer.flush()


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        header = msgspec.msgpack.encode((value.dtype.str, value.shape))
        # First bytes first, then all second ones: what numbers have in common then stands together, and is compressed.
        planes = np.frombuffer(value.tobytes(), np.uint8).reshape(value.size, value.itemsize).T
        return msgspec.msgpack.Ext(_ARRAY, len(header).to_bytes(2, "big") + header + planes.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(type(value).__name__)


def _array(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise SnapshotError(f"foreign (unknown extension {code})")
    length = int.from_bytes(data[:2], "big")
    dtype, shape = msgspec.msgpack.decode(data[2 : 2 + length], type=tuple[str, list[int]])
    kind = np.dtype(dtype)
    planes = np.frombuffer(data[2 + length :], np.uint8).reshape(kind.itemsize, -1)
    return np.frombuffer(planes.T.tobytes(), kind).reshape(shape).copy()


def _decode(content: bytes) -> dict[str, Any]:
    if not content.startswith(_MAGIC):
        raise SnapshotError("foreign (another format or version)")
    body = content[len(_MAGIC) + 4 :]
    if _checksum(body) != content[len(_MAGIC) : len(_MAGIC) + 4]:
        raise SnapshotError("corrupt (checksum)")
    return _unpacked(body)


def _unpacked(body: bytes) -> dict[str, Any]:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(body, MAX_UNPACKED_BYTES)
        if not unpacker.eof:
            raise SnapshotError(f"corrupt (cut off, or more than {MAX_UNPACKED_BYTES} bytes)")
        return msgspec.msgpack.decode(content, type=dict[str, Any], ext_hook=_array)
    except (zlib.error, ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:  # numpy's included
        raise SnapshotError(f"corrupt ({error})") from error
