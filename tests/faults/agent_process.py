"""The agent as a real process, on a state directory whose disk can be filled."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Final

from agent.adapters.store import MAX_OUTBOX
from tests.brokers import free_port, wait_until
from tests.faults.observer import WAITED

if TYPE_CHECKING:
    from pathlib import Path

DISK_MB: Final = 32
SNAPSHOT_INTERVAL_S: Final = 2
KEEPALIVE_S: Final = 2


class AgentProcess:
    """`redshank run`, tapped. `processed` and `acknowledged` count readings by their number, over all lives."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.port = free_port()
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self.mounted = os.geteuid() == 0 and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(self.disk)],
            check=False, capture_output=True,
        ).returncode  # fmt: skip
        self.state = self.disk / "state"
        self.processed: Counter[int] = Counter()
        self.acknowledged: Counter[int] = Counter()
        self._read_to = 0
        self._tap, self._clock, self.log = folder / "tap", folder / "clock", folder / "log"
        self._tap.touch()
        self.set_clock(0.0)
        self.config = folder / "redshank.yaml"
        self.config.write_text(
            f"""
agent: {{id: pi, state_dir: {self.state}, snapshot_interval: {SNAPSHOT_INTERVAL_S}s}}
broker: {{url: "{url}", keepalive: {KEEPALIVE_S}s, echo: 2s}}
metrics: {{listen: "127.0.0.1:{self.port}"}}
commands: {{enabled: true}}
streams:
  - name: pump
    topic: plant/+/telemetry
    channels: [temp, flow]
    time: {{path: ts}}
    mode: hold
    reference: {{size: 300, warm_up: 200}}
    alert: {{false_alarms: 1 per 50000 decisions, cooldown: 5s}}
    silence: {{after: 30s}}
  - name: climate
    topic: plant/+/climate
    channels: [level]
    reference: {{size: 300, warm_up: 200}}
    alert: {{false_alarms: 1 per 50000 decisions, cooldown: 5s}}
    silence: {{after: 30s}}
"""
        )
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.tapped", str(self._tap), str(self._clock),
                 "run", "--config", str(self.config)],
                stderr=log, stdout=log, start_new_session=True,
            )  # fmt: skip

    @contextlib.contextmanager
    def twin(self):  # type: ignore[no-untyped-def]
        """Have a second agent of our id, as from a copied card, with nothing learnt. What it acknowledges counts."""
        twin = AgentProcess(self.folder / "twin", self.url)
        twin.start()
        try:
            yield twin
        finally:
            twin.close()
        twin.look()
        self.processed += twin.processed
        self.acknowledged += twin.acknowledged
        shutil.rmtree(self.folder / "twin")

    def end(self, number: int) -> int:
        """Send a signal that ends it, and return its exit code."""
        assert self.popen is not None
        self.popen.send_signal(number)
        self.popen.send_signal(signal.SIGCONT)
        return self.popen.wait(60)

    def close(self) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.end(signal.SIGKILL)
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def ready(self) -> bool:
        try:
            return self.get("/readyz") == "ok\n"
        except OSError:
            return False

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, line: str) -> float | None:
        """Return a figure, None if it is not told, or nobody answers."""
        with contextlib.suppress(OSError):
            for one in self.get("/metrics").splitlines():
                if one.startswith(line + " "):
                    return float(one.split()[-1])
        return None

    def look(self) -> None:
        """Read on in what was tapped."""
        with self._tap.open("rb") as file:
            file.seek(self._read_to)
            new = file.read()
        self._read_to += len(new)
        for line in new.split():
            (self.processed if line[:1] == b"p" else self.acknowledged)[int(line[1:])] += 1

    def set_clock(self, wrong_by_s: float) -> None:
        if not self._clock.exists():
            self._clock.write_bytes(bytes(8))
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", wrong_by_s))

    def state_files(self) -> list[Path]:
        return sorted((self.state / "streams").glob("*.snapshot"))

    def saved_at(self) -> float:
        """Return when what was learnt was last written, s since 1970, of the stream where that is longest ago."""
        found = []
        for path in self.state_files():
            journal = path.with_suffix(".journal")
            found.append(max(one.stat().st_mtime for one in (path, journal) if one.exists()))
        return min(found, default=0.0)

    def catch_a_save(self, within_s: float) -> None:
        """Return as soon as something is being written in the state directory."""
        before = self.saved_sizes()
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self.saved_sizes() == before:
            pass

    def saved_sizes(self) -> dict[str, int]:
        found = {}
        for entry in os.scandir(self.state / "streams"):
            with contextlib.suppress(OSError):
                found[entry.name] = entry.stat().st_size
        return found

    @contextlib.contextmanager
    def full_disk(self):  # type: ignore[no-untyped-def]
        """Have no space left on the disk."""
        self._needs_disk()
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    @contextlib.contextmanager
    def read_only_disk(self):  # type: ignore[no-untyped-def]
        """Have the disk mounted read-only. Nothing may be writing there when this begins."""
        self._needs_disk()
        subprocess.run(["mount", "-o", "remount,ro", str(self.disk)], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", str(self.disk)], check=True)

    def _needs_disk(self) -> None:
        assert self.mounted, "expected the right to mount a tmpfs, found none; run the fault suite as root"

    @contextlib.contextmanager
    def disk_turned_read_only(self):  # type: ignore[no-untyped-def]
        """Have nothing opened for writing, made or renamed there any more. What is open by then goes on."""
        self._needs_disk()
        subprocess.run(["mount", "--bind", str(self.disk), str(self.disk)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.disk)], check=True)
        yield
        subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def fill_outbox(self) -> None:
        """Put as many alerts in the outbox of an agent that does not run as fit; they bear their numbers."""
        with contextlib.closing(sqlite3.connect(self.state / "state.sqlite")) as database, database:
            database.executemany(
                "INSERT INTO outbox (topic, payload, created_at) VALUES (?, ?, ?)",
                [(WAITED, b'{"number": %d, "late": false}' % number, time.time()) for number in range(MAX_OUTBOX)],
            )

    def outbox(self) -> tuple[int, list[int]]:
        """Return how many alerts wait on disk, and the numbers of those that were put there."""
        with contextlib.closing(sqlite3.connect(self.state / "state.sqlite")) as database:
            rows = database.execute("SELECT topic, payload FROM outbox ORDER BY seq").fetchall()
        return len(rows), [json.loads(payload)["number"] for topic, payload in rows if topic == WAITED]

    @contextlib.contextmanager
    def locked_database(self):  # type: ignore[no-untyped-def]
        with contextlib.closing(sqlite3.connect(self.state / "state.sqlite", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")

    def wait_ready(self, within_s: float) -> None:
        wait_until(self.ready, within_s, "for the agent to be ready")
