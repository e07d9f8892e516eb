from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters import store as module
from agent.adapters.statelock import Holder, holder
from agent.adapters.store import AlertRow, OutboxRow, Store
from agent.errors import StateError, UnwritableError

MAGIC = b"redshank snapshot 2\n"


@pytest.fixture
def open_store(tmp_path):
    """Return a function that opens the same directory again, as a restart does: what was open before is closed."""
    opened = []

    def make():
        if opened:
            opened.pop().close()
        opened.append(Store(tmp_path / "state"))
        return opened[-1]

    yield make
    if opened:
        opened.pop().close()


@pytest.fixture
def store(open_store):
    return open_store()


def row(number, topic="redshank/pi/pump/alert"):
    return OutboxRow(topic, f"payload {number}".encode(), 1_700_000_000.0 + number)


def snapshot_file(store):
    (path,) = (store.directory / "streams").glob("*.snapshot")
    return path


def framed(body):
    packed = zlib.compress(body)
    return MAGIC + zlib.crc32(packed).to_bytes(4, "big") + packed


def test_only_the_owner_may_look_into_the_directory(tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o755)
    for directory in (loose, tmp_path / "made" / "on" / "the" / "way"):
        Store(directory).close()
        assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_belongs_to_one_process_at_a_time(store):
    with pytest.raises(StateError, match=r"found it in use by process \d+; stop the other agent"):
        Store(store.directory)
    store.close()
    Store(store.directory).close()


def test_alert_states_and_messages_are_there_after_a_restart(store, open_store):
    state = {"state": "firing", "id": "a1", "ended_at": float("-inf"), "in_row": 2}
    store.commit([AlertRow("pump/a", "anomaly", state), AlertRow("pump/a", "silent", {})], [row(1), row(2)])
    again = open_store()
    assert again.alerts() == [AlertRow("pump/a", "anomaly", state), AlertRow("pump/a", "silent", {})]
    assert [(one.topic, one.payload, one.created_at) for one in again.outbox(0, 10)] == [
        ("redshank/pi/pump/alert", b"payload 1", 1_700_000_001.0),
        ("redshank/pi/pump/alert", b"payload 2", 1_700_000_002.0),
    ]


def test_a_later_alert_state_replaces_the_earlier_one(store):
    for state in ("pending", "firing"):
        store.commit([AlertRow("pump/a", "anomaly", {"state": state})], [])
    assert store.alerts() == [AlertRow("pump/a", "anomaly", {"state": "firing"})]


def test_a_commit_that_fails_leaves_nothing_behind(store, open_store):
    unstorable = OutboxRow("redshank/pi/pump/alert", None, 0.0)
    with pytest.raises(sqlite3.IntegrityError):
        store.commit([AlertRow("pump/a", "anomaly", {})], [row(1), unstorable])
    for find in (lambda: store, open_store):
        one = find()
        assert one.alerts() == []
        assert one.outbox_length() == 0


def test_a_process_killed_after_a_commit_loses_none_of_it(tmp_path, open_store):
    code = (
        "import os, signal, sys; from pathlib import Path; from agent.adapters.store import *\n"
        "store = Store(Path(sys.argv[1]))\n"
        "store.commit([AlertRow('s', 'anomaly', {'n': 1})], [OutboxRow('t', b'p', 1.0)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "state")], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = open_store()
    assert store.alerts() == [AlertRow("s", "anomaly", {"n": 1})]
    assert store.outbox(0, 10) == [OutboxRow("t", b"p", 1.0, 1)]


def test_messages_come_in_the_order_they_were_stored(store):
    store.commit([], [row(2), row(1)])
    store.commit([], [row(0)])
    found = store.outbox(0, 10)
    assert [one.payload for one in found] == [b"payload 2", b"payload 1", b"payload 0"]
    assert [one.seq for one in found] == sorted(one.seq for one in found)


def test_the_outbox_is_read_from_a_number_on_and_not_beyond_a_limit(store):
    store.commit([], [row(number) for number in range(5)])
    seqs = [one.seq for one in store.outbox(0, 10)]
    assert [one.seq for one in store.outbox(seqs[1], 2)] == seqs[2:4]


def test_delivered_messages_are_forgotten_and_their_numbers_never_used_again(store, open_store):
    store.commit([], [row(1), row(2), row(3)])
    seqs = [one.seq for one in store.outbox(0, 10)]
    store.delivered([seqs[0], seqs[2], 999])
    assert [one.payload for one in store.outbox(0, 10)] == [b"payload 2"]
    assert store.outbox_length() == 1
    store.delivered([])
    again = open_store()
    again.commit([], [row(4)])
    assert again.outbox(0, 10)[-1].seq > max(seqs)


def test_beyond_its_cap_the_outbox_drops_the_oldest_and_counts_them(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_OUTBOX", 5)
    store.commit([], [row(number) for number in range(5)])
    assert store.outbox_dropped == 0
    store.commit([], [row(5), row(6)])
    store.commit([], [row(7)])
    assert [one.payload for one in store.outbox(0, 100)] == [f"payload {n}".encode() for n in range(3, 8)]
    assert store.outbox_dropped == 3


def test_nothing_counts_as_dropped_where_the_commit_failed(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_OUTBOX", 1)
    with pytest.raises(sqlite3.IntegrityError):
        store.commit([], [row(1), row(2), OutboxRow("t", None, 0.0)])
    assert store.outbox_dropped == 0


def test_the_last_message_of_each_topic_outlives_its_delivery(store, open_store):
    store.commit([], [row(1), row(2), row(3, "redshank/pi/gate/alert")])
    store.delivered([one.seq for one in store.outbox(0, 10)])
    again = open_store()
    assert again.last_alerts() == {"redshank/pi/pump/alert": b"payload 2", "redshank/pi/gate/alert": b"payload 3"}
    again.forget_last_alerts(["redshank/pi/pump/alert"])
    assert again.last_alerts().keys() == {"redshank/pi/gate/alert"}


def test_retained_topics_are_those_added_and_not_dropped(store, open_store):
    assert store.retained() == set()
    store.change_retained({"a/state", "b/state"}, ())
    store.change_retained({"b/state", "c/state"}, ["a/state"])
    assert open_store().retained() == {"b/state", "c/state"}


def test_a_choice_is_remembered_until_another_is_made(store, open_store):
    assert store.choice("which runtime") is None
    for answer in ("slow", "fast"):
        store.choose("which runtime", answer)
    again = open_store()
    assert again.choice("which runtime") == "fast"
    assert again.choice("which other") is None


def test_subscriptions_are_those_last_told(store, open_store):
    assert store.subscriptions() == {}
    store.set_subscriptions({"a/#": 1})
    store.set_subscriptions({"plant/+/é": 0})
    assert open_store().subscriptions() == {"plant/+/é": 0}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b'{"a": "x"}', b'{"\xff": 1}'])
def test_damaged_subscriptions_count_as_none(store, content):
    store.set_subscriptions({"a": 1})
    (store.directory / "subscriptions.json").write_bytes(content)
    assert store.subscriptions() == {}


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i1", "i8", "u2", "?", "c8", "M8[s]"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 4), (2, 3, 4)])
def test_arrays_of_any_kind_and_shape_come_back_as_they_were(store, dtype, shape):
    raw = np.random.default_rng(0).integers(0, 2, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = raw.view(dtype).reshape(shape)
    store.save("pump/a", {"array": array})
    found = store.load("pump/a")["array"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_what_is_read_back_can_be_written_to(store):
    store.save("pump/a", {"array": np.zeros(3, np.float32)})
    found = store.load("pump/a")["array"]
    found += 1
    assert found.tolist() == [1, 1, 1]


def test_a_part_of_an_array_is_kept_as_it_looks_and_not_as_it_lies(store):
    array = np.arange(24, dtype=np.int16).reshape(4, 6)[::2, ::-1].T
    store.save("pump/a", {"array": array})
    np.testing.assert_array_equal(store.load("pump/a")["array"], array)


def test_nan_and_infinities_survive(store):
    store.save("s", {"array": np.array([np.nan, np.inf, -np.inf, -0.0]), "low": float("-inf"), "one": np.float32(0.5)})
    found = store.load("s")
    np.testing.assert_array_equal(found["array"], [np.nan, np.inf, -np.inf, -0.0])
    assert np.signbit(found["array"][3])
    assert (found["low"], found["one"]) == (float("-inf"), 0.5)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(name=st.text(), snapshot=st.dictionaries(st.text(), plain, max_size=4))
def test_whatever_a_snapshot_holds_comes_back_under_whatever_name(tmp_path_factory, name, snapshot):
    store = Store(tmp_path_factory.mktemp("state"))
    store.save(name, snapshot)
    store.save(f"{name}/", {"another": True})
    assert store.load(name) == snapshot
    store.close()


def test_what_cannot_be_kept_is_refused_and_the_old_snapshot_stays(store):
    store.save("pump/a", {"n": 1})
    with pytest.raises(NotImplementedError, match="object"):
        store.save("pump/a", {"n": object()})
    assert store.load("pump/a") == {"n": 1}


def test_a_stream_without_a_snapshot_has_none(store, caplog):
    assert store.load("pump/never") is None
    assert not caplog.records


def test_written_bytes_are_counted(store):
    store.save("a", {"array": np.zeros(100)})
    assert store.bytes_written == snapshot_file(store).stat().st_size


def test_a_snapshot_is_replaced_as_a_whole(store):
    store.save("pump/a", {"n": 1})
    with snapshot_file(store).open("rb") as old:
        before = snapshot_file(store).read_bytes()
        store.save("pump/a", {"n": 2, "array": np.zeros(1000)})
        assert old.read() == before  # whoever reads the old one reads all of it
    assert store.load("pump/a")["n"] == 2
    assert [path.suffix for path in (store.directory / "streams").iterdir()] == [".snapshot"]


def test_what_a_kill_left_half_written_is_not_read_and_does_not_stop_the_next_write(store, open_store):
    store.save("pump/a", {"n": 1})
    left = snapshot_file(store).with_suffix(".new")
    left.write_bytes(snapshot_file(store).read_bytes()[:30])
    again = open_store()
    assert again.load("pump/a") == {"n": 1}
    again.save("pump/a", {"n": 2})
    assert again.load("pump/a") == {"n": 2}
    assert not left.exists()


@pytest.fixture
def half_written(store, monkeypatch):
    """Return a store that is in the middle of writing a large snapshot, in parts, beside an older one."""
    monkeypatch.setattr(module, "_LARGE_BYTES", 50_000)
    monkeypatch.setattr(module, "_PART_BYTES", 20_000)
    store.save("s", {"n": 1})
    pieces = store.save_in_pieces("s", {"n": 2, "noise": np.random.default_rng(0).bytes(100_000)})
    left = snapshot_file(store).with_suffix(".new")
    while not left.exists() or left.stat().st_size < 40_000:
        assert next(pieces) == 0
    assert store.load("s") == {"n": 1}
    return pieces, left


def test_a_large_snapshot_is_written_in_parts_and_takes_its_place_with_the_last(store, half_written):
    pieces, left = half_written
    rest = list(pieces)
    assert len(rest) == 4
    assert rest[-1] == snapshot_file(store).stat().st_size
    assert (store.load("s")["n"], left.exists()) == (2, False)
    assert store.append("s", {"n": 3})
    assert additions(store, "s") == [{"n": 3}]


def test_of_a_large_snapshot_that_is_given_up_nothing_is_left(store, half_written):
    pieces, left = half_written
    pieces.close()
    assert (store.load("s"), left.exists()) == ({"n": 1}, False)


def test_a_large_snapshot_that_is_half_written_gives_way_to_a_newer_one(store, half_written):
    pieces, left = half_written
    store.save("s", {"n": 3})
    assert list(pieces) == [0]
    assert (store.load("s"), left.exists()) == ({"n": 3}, False)
    assert store.append("s", {"n": 4})
    assert additions(store, "s") == [{"n": 4}]


def test_a_large_snapshot_that_is_half_written_goes_no_further_where_a_newer_one_failed(
    store, half_written, monkeypatch
):
    pieces, left = half_written

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save("s", {"n": 3})
    monkeypatch.undo()
    assert list(pieces) == [0]
    assert (store.load("s"), left.exists()) == ({"n": 1}, False)


def additions(store, stream):
    return list(store.additions(stream))


def journal_file(store):
    (path,) = (store.directory / "streams").glob("*.journal")
    return path


def test_what_was_added_to_a_snapshot_comes_back_in_order(open_store):
    store = open_store()
    assert not store.append("pump/a", {"n": 0})
    store.save("pump/a", {"n": 1})
    before = store.bytes_written
    assert all(store.append("pump/a", {"n": n, "array": np.arange(n)}) for n in (2, 3))
    assert store.bytes_written - before == journal_file(store).stat().st_size
    again = open_store()
    assert again.load("pump/a") == {"n": 1}
    assert [one["n"] for one in additions(again, "pump/a")] == [2, 3]
    assert additions(again, "pump/a")[1]["array"].tolist() == [0, 1, 2]
    assert additions(again, "pump/b") == []
    assert not again.append("pump/a", {"n": 4})  # a run begins with a snapshot of its own


def test_a_new_snapshot_ends_the_journal_even_if_it_could_not_be_removed(store):
    store.save("s", {"n": 1})
    assert store.append("s", {"n": 2})
    left = journal_file(store)
    content = left.read_bytes()
    store.save("s", {"n": 3})
    assert not left.exists()
    left.write_bytes(content)
    assert additions(store, "s") == []
    assert store.append("s", {"n": 4})
    assert [one["n"] for one in additions(store, "s")] == [4]


def test_a_journal_many_times_as_long_as_its_snapshot_asks_for_a_new_one(store):
    store.save("s", {"n": 1})
    large = {"array": np.random.default_rng(0).bytes(1000)}
    appended = 0
    while store.append("s", large):
        appended += 1
    assert 0 < appended < 10
    store.save("s", {"n": 2})
    assert store.append("s", large)


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_what_a_kill_left_half_written_of_a_journal_is_left_out_and_said(store, caplog, cut):
    store.save("s", {"n": 1})
    for n in (2, 3):
        assert store.append("s", {"n": n, "array": np.arange(n)})
    path = journal_file(store)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert [one["n"] for one in additions(store, "s")] == [2]
    assert "journal" in caplog.text
    path.write_bytes(content[:3])
    assert additions(store, "s") == []


def test_a_try_that_failed_halfway_leaves_nothing_behind(store, monkeypatch):
    store.save("s", {"n": 1})
    assert store.append("s", {"n": 2})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.append("s", {"n": 3})
    monkeypatch.undo()
    assert store.append("s", {"n": 4})
    assert [one["n"] for one in additions(store, "s")] == [2, 4]


def test_a_process_killed_while_it_writes_leaves_the_old_snapshot_or_the_new_one(tmp_path, open_store):
    code = (
        "import sys, numpy as np; from pathlib import Path; from agent.adapters.store import *\n"
        "store, n = Store(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    n += 1\n"
        "    store.save('s', {'n': n, 'array': np.full(100_000, n)})\n"
        "    print(n, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state")], stdout=subprocess.PIPE)
    with process:
        written = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.kill()
    found = open_store().load("s")
    assert found["n"] >= written
    assert (found["array"] == found["n"]).all()


def damaged_at(position):
    def damage(content):
        changed = bytearray(content)
        changed[position] ^= 0x10
        return bytes(changed)

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damaged_at(0), "foreign"),
        (damaged_at(len(MAGIC)), "corrupt"),
        (damaged_at(len(MAGIC) + 10), "corrupt"),
        (damaged_at(-1), "corrupt"),
        (lambda content: content[:-1], "corrupt"),
        (lambda content: content[: len(MAGIC) + 2], "corrupt"),
        (lambda content: content[:5], "foreign"),
        (lambda content: b"", "foreign"),  # noqa: ARG005  nothing is left of it
        (lambda content: content.replace(b"snapshot 2", b"snapshot 3"), "foreign"),
        (lambda content: framed(b""), "corrupt"),  # noqa: ARG005  the checksum of another content is right
        (lambda content: framed(b"\xc1"), "corrupt"),  # noqa: ARG005
        (lambda content: framed(msgspec.msgpack.encode([1])), "corrupt"),  # noqa: ARG005
        (lambda content: framed(msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(7, b"x")})), "foreign"),  # noqa: ARG005
        (lambda content: framed(msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(1, b"")})), "corrupt"),  # noqa: ARG005
    ],
)
def test_a_damaged_or_foreign_snapshot_is_set_aside_with_a_word_and_the_stream_starts_cold(store, caplog, damage, says):
    store.save("pump/a", {"n": 1, "array": np.arange(100)})
    path = snapshot_file(store)
    spoiled = damage(path.read_bytes())
    path.write_bytes(spoiled)
    assert store.load("pump/a") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "pump/a" in record.getMessage()
    assert says in record.getMessage()
    assert not path.exists()
    aside = path.with_suffix(".unusable")
    assert aside.name in record.getMessage()
    assert aside.read_bytes() == spoiled
    assert store.load("pump/a") is None
    assert len(caplog.records) == 1
    store.save("pump/a", {"n": 2})
    assert store.load("pump/a") == {"n": 2}


def test_a_snapshot_that_cannot_be_read_is_set_aside_too(store, caplog):
    store.save("pump/a", {"n": 1})
    path = snapshot_file(store)
    path.unlink()
    path.mkdir()  # reading it fails, whoever we are
    assert store.load("pump/a") is None
    assert "unreadable (Is a directory)" in caplog.text


def test_a_caller_may_set_a_snapshot_aside_for_its_own_reason(store, caplog):
    store.save("pump/a", {"n": 1})
    store.set_aside("pump/a", "of another encoder")
    assert "stream pump/a starts cold: its snapshot is of another encoder" in caplog.text
    assert store.load("pump/a") is None


def overwritten(start, count):
    def damage(path):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(os.urandom(count))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"this is not a database " * 100), id="foreign"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), id="truncated"),
        pytest.param(overwritten(0, 100), id="header"),
        pytest.param(overwritten(8192, 16384), id="middle"),
    ],
)
def test_a_damaged_database_is_set_aside_with_a_word_and_a_new_one_begun(store, open_store, caplog, damage):
    store.commit([AlertRow("s", "anomaly", {})], [row(number) for number in range(2000)])
    store.close()
    path = store.directory / "state.sqlite"
    damage(path)
    spoiled = path.read_bytes()
    again = open_store()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{path} is damaged" in record.getMessage()
    assert "lost" in record.getMessage()
    assert path.with_name("state.sqlite.unusable").read_bytes() == spoiled
    assert (again.alerts(), again.outbox_length()) == ([], 0)
    again.commit([AlertRow("s", "anomaly", {})], [row(1)])
    again.close()
    assert open_store().outbox_length() == 1
    assert len(caplog.records) == 1


def test_a_write_ahead_log_never_meets_a_database_that_it_does_not_belong_to(store, open_store):
    store.commit([AlertRow("s", "anomaly", {"n": 1})], [row(1)])
    store.close()
    other = open_store()
    other.commit([AlertRow("s", "anomaly", {"n": 2})], [])
    path = store.directory / "state.sqlite"
    log = store.directory / "state.sqlite-wal"
    kept = log.read_bytes()  # as a power cut leaves it
    assert kept
    other.close()
    log.write_bytes(kept)
    path.write_bytes(b"\xff" * 5000)
    assert open_store().alerts() == []
    assert path.with_name("state.sqlite.unusable").read_bytes()[:100] == b"\xff" * 100


def test_a_database_that_cannot_be_opened_is_an_error_that_names_it_and_nothing_is_set_aside(store):
    store.close()
    path = store.directory / "state.sqlite"
    path.unlink()
    path.mkdir()
    with pytest.raises(StateError, match=r"state\.sqlite: expected a database that can be written"):
        Store(store.directory)
    assert path.is_dir()


def test_a_patient_store_works_in_memory_until_its_directory_can_be_made(tmp_path):
    (tmp_path / "mount").write_text("in the way")
    directory = tmp_path / "mount" / "state"
    with pytest.raises(OSError, match="Not a directory"):
        Store(directory)
    with closing(Store(directory, patient=True)) as store:
        assert isinstance(store.failure, OSError)
        assert store.detached
        assert not store.unread
        store.listens("127.0.0.1:9791")
        store.commit([AlertRow("pump", "anomaly", {"state": "firing"})], [row(1)])
        with pytest.raises(OSError, match="Not a directory"):
            store.save("pump", {"x": 1})
        with pytest.raises(OSError, match="Not a directory"):
            store.attach()
        assert [one.payload for one in store.outbox(0, 10)] == [b"payload 1"]
        (tmp_path / "mount").unlink()
        store.attach()
        store.probe()
        assert (store.detached, store.failure) == (False, None)
        assert holder(directory) == Holder(os.getpid(), "127.0.0.1:9791")
        store.commit([], [row(2)])
        store.save("pump", {"x": 1})
    with closing(Store(directory)) as again:
        assert [(one.seq, one.payload) for one in again.outbox(0, 10)] == [(1, b"payload 1"), (2, b"payload 2")]
        assert again.alerts() == [AlertRow("pump", "anomaly", {"state": "firing"})]


def test_what_is_held_in_memory_goes_on_from_the_database_and_returns_to_it(store, open_store):
    store.commit([AlertRow("pump", "anomaly", {"state": "pending"})], [row(1), row(2)])
    store.detach()
    assert store.detached
    store.delivered([1])
    store.commit([AlertRow("pump", "anomaly", {"state": "firing"})], [row(3)])
    store.attach()
    store.commit([], [row(4)])
    again = open_store()
    assert [one.seq for one in again.outbox(0, 10)] == [2, 3, 4]
    assert again.alerts() == [AlertRow("pump", "anomaly", {"state": "firing"})]


def test_a_database_that_was_not_closed_is_read_with_its_log_where_it_cannot_be_opened(store, monkeypatch):
    """As after a loss of power that left the disk read-only: what was committed last is in the write-ahead log."""
    store.commit([], [row(1)])
    copy = store.directory.with_name("copy")
    shutil.copytree(store.directory, copy)
    assert (copy / "state.sqlite-wal").stat().st_size > 0
    open_database = module._open

    def refuse(path):
        if path.parent == copy:
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY
            raise error
        return open_database(path)

    monkeypatch.setattr(module, "_open", refuse)
    with closing(Store(copy, patient=True)) as patient:
        assert isinstance(patient.failure, UnwritableError)
        assert not patient.unread
        assert [one.payload for one in patient.outbox(0, 10)] == [b"payload 1"]
    assert (copy / "state.sqlite-wal").stat().st_size > 0  # it was not touched


def test_what_could_not_be_read_is_added_once_it_can_be(tmp_path):
    directory = tmp_path / "state"
    with closing(Store(directory)) as before:
        before.commit([AlertRow("pump", "anomaly", {"a": 1}), AlertRow("tank", "anomaly", {"a": 1})], [row(1), row(2)])
        before.choose("which", "that")
    content = (directory / "state.sqlite").read_bytes()
    (directory / "state.sqlite").unlink()
    (directory / "state.sqlite").mkdir()  # can be neither read nor opened, even by root
    with closing(Store(directory, patient=True)) as store:
        assert store.unread
        store.commit([AlertRow("pump", "anomaly", {"a": 2})], [row(3)])
        (directory / "state.sqlite").rmdir()
        (directory / "state.sqlite").write_bytes(content)
        store.attach()
        assert sorted(one.payload for one in store.outbox(0, 10)) == [b"payload 1", b"payload 2", b"payload 3"]
        assert store.outbox(0, 10)[0].payload == b"payload 3"  # the number under which it may be on its way stays
        assert {one.stream: one.state for one in store.alerts()} == {"pump": {"a": 2}, "tank": {"a": 1}}
        assert store.choice("which") == "that"


def test_a_patient_store_waits_for_no_other_process(store):
    with pytest.raises(StateError, match="in use by process"):
        Store(store.directory, patient=True)


@pytest.mark.parametrize(
    "body",
    [b"\x91" * 20_000, b"\x81\xa1a" * 20_000, b"\xc1", b"", msgspec.msgpack.encode([1])],
    ids=["deep list", "deep object", "reserved", "nothing", "no object"],
)
def test_content_that_only_the_checksum_vouches_for_is_damage_too(store, caplog, body):
    store.save("pump/a", {"n": 1})
    assert store.append("pump/a", {"n": 2})
    assert store.append("pump/a", {"n": 3})
    good = journal_file(store).read_bytes()
    packed = zlib.compress(body)
    frame = len(packed).to_bytes(4, "big") + zlib.crc32(packed).to_bytes(4, "big") + packed
    size = 8 + int.from_bytes(good[23:27], "big")
    journal_file(store).write_bytes(good[: 23 + size] + frame + good[23 + size :])
    assert additions(store, "pump/a") == [{"n": 2}]
    assert "its journal is corrupt" in caplog.text
    snapshot_file(store).write_bytes(framed(body))
    assert store.load("pump/a") is None


def test_what_a_snapshot_unpacks_to_is_bounded(store, caplog, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1000)
    store.save("pump/a", {"n": b"x" * 900})
    assert store.load("pump/a") == {"n": b"x" * 900}
    snapshot_file(store).write_bytes(framed(msgspec.msgpack.encode({"n": bytes(2_000_000)})))
    assert store.load("pump/a") is None
    assert "more than 1000 bytes" in caplog.text


@pytest.mark.parametrize("state", [b"\xc1", b"", b"\x91" * 20_000, b"\x01"])
def test_an_alert_state_that_is_damaged_is_left_out(store, caplog, state):
    store.commit([AlertRow("pump/a", "anomaly", {"n": 1}), AlertRow("pump/b", "anomaly", {"n": 2})], [])
    with store._database as database:
        database.execute("UPDATE alerts SET state = ? WHERE stream = 'pump/a'", (state,))
    assert [one.stream for one in store.alerts()] == ["pump/b"]
    assert "stream pump/a: the state of its alert anomaly is lost" in caplog.text


def test_what_a_database_holds_that_fails_even_to_be_read_is_there_again_later(store):
    store.commit([AlertRow("pump", "anomaly", {"a": 1})], [row(1), row(2)], {"plant/edge": b"births"})
    (_, sent) = store.outbox(0, 10)
    store._database.close()  # as a disk that has gone: it raises at any use
    store.detach()
    assert store.unread
    store.commit([], [row(3)])
    (new,) = store.outbox(0, 10)
    assert new.seq > sent.seq  # it is not taken for one that was sent
    store.attach()
    assert [one.payload for one in store.outbox(sent.seq, 10)] == [b"payload 3", b"payload 1", b"payload 2"]
    assert store.alerts() == [AlertRow("pump", "anomaly", {"a": 1})]
    assert store.nodes() == [("plant/edge", b"births")]
