from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent.adapters.statelock import Holder, StateLock, holder
from agent.errors import StateError


@pytest.fixture
def lock(tmp_path):
    made = StateLock(tmp_path)
    yield made
    made.close()


def test_others_see_who_holds_a_directory_and_where_an_agent_listens(lock, tmp_path):
    assert holder(tmp_path) == Holder(os.getpid())
    lock.listens("127.0.0.1:9791")
    assert holder(tmp_path) == Holder(os.getpid(), "127.0.0.1:9791")
    lock.listens("0.0.0.0:9791", "secret")
    assert holder(tmp_path) == Holder(os.getpid(), "0.0.0.0:9791", "secret")


def test_nobody_else_reads_the_token(tmp_path):
    (tmp_path / "lock").touch(0o644)  # of an earlier version
    held = StateLock(tmp_path)
    held.listens("0.0.0.0:9791", "secret")
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    held.close()


def test_a_second_process_is_told_which_one_is_first(lock, tmp_path):
    lock.listens("127.0.0.1:9791")
    script = (
        f"from pathlib import Path; from agent.adapters.statelock import StateLock; StateLock(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert f"found it in use by process {os.getpid()}; stop the other agent or replay" in done.stderr
    assert holder(tmp_path) == Holder(os.getpid(), "127.0.0.1:9791")  # the attempt has not blotted it out


def test_nobody_holds_what_was_let_go(lock, tmp_path):
    lock.close()
    assert holder(tmp_path) is None
    StateLock(tmp_path).close()


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b'{"pid": %d}' % os.getpid(), b'{"pid": 4194305}', b'{"pid": "x"}']
)
def test_a_number_of_a_process_that_has_not_opened_the_file_is_nobody(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)  # left behind by a crash, or from another container
    assert holder(tmp_path) is None


def test_where_there_is_no_lock_there_is_nobody(tmp_path):
    assert holder(tmp_path) is None


def test_a_directory_is_held_also_where_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.adapters.statelock.msgspec.json.encode", lambda _: (_ for _ in ()).throw(OSError(28)))
    held = StateLock(tmp_path)
    with pytest.raises(StateError):
        StateLock(tmp_path)
    held.close()


def test_who_may_not_look_at_the_process_is_told_so(lock, tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError

    monkeypatch.setattr("agent.adapters.statelock.Path.iterdir", refused)
    with pytest.raises(PermissionError):
        holder(tmp_path)
    with pytest.raises(StateError, match="found it in use; stop the other"):
        StateLock(tmp_path)
    lock.close()
