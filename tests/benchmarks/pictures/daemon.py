"""`python -m tests.benchmarks.pictures.daemon`: a whole frame, over MQTT, beside the bare interpreter; memory.

Real processes: Mosquitto and `redshank run` with one image stream, then with more. 640 x 480 JPEGs, each sent when the
decision on the last one has come, over a bare socket: to send costs next to nothing. The bare figure is the same file's
invocation in this process, taking turns with blocks of frames, so that both meet the machine alike.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from agent.adapters.mqtt.frames import FrameReader, packed_publication
from agent.adapters.tflite import TfliteModel, load_picture_encoder
from agent.bundle import find_bundle
from tests.benchmarks.publisher import connect
from tests.benchmarks.tables import table
from tests.brokers import Mosquitto, free_port
from tests.scenes import encoded, scene

BLOCK = 50  # frames
_FRAME = (640, 480)
_PICTURES = 60  # different ones
_LEARNING_S = 0.01  # between frames that get no decision
_PATIENCE_S = 2.0
_SAMPLED = 10  # frames: a frame between two looks at memory meets a warm processor
_SCORES = b"redshank/bench/+/+/score"


class Daemon:
    """The agent as a process that watches so many cameras, and a client that sends pictures and awaits decisions."""

    def __init__(self, folder: Path, cameras: int) -> None:
        self.cameras = cameras
        self._broker = Mosquitto(folder / "broker")
        self._broker.start()
        path = folder / "redshank.yaml"
        path.write_text(
            f"""
agent: {{id: bench, state_dir: {folder / "state"}, snapshot_interval: 1h}}
broker: {{url: "{self._broker.url}"}}
metrics: {{listen: "127.0.0.1:{free_port()}"}}
streams: [{{name: cam, topic: cam/+, kind: image, score_topic: always}}]
"""
        )
        command = [sys.executable, "-m", "agent.cli", "--log-level", "error", "run", "--config", str(path)]
        self._process = subprocess.Popen(command)
        self._socket = connect(self._broker.port)
        asked = b"\0\1" + len(_SCORES).to_bytes(2, "big") + _SCORES + b"\0"
        self._socket.sendall(bytes((0x82, len(asked))) + asked)
        self._reader = FrameReader(
            own_roots=(), command=None, noticed=frozenset(), mqtt5=False, connection=1, max_size=1 << 20
        )

    def send(self, payload: bytes, *, learning: bool = False) -> list[float]:
        """Send a picture to every camera, one after the other; return how long each decision took, s."""
        took = []
        for camera in range(self.cameras):
            packet = packed_publication(f"cam/{camera}", payload, retain=False, mqtt5=False)
            begun = time.perf_counter()
            self._socket.sendall(packet)
            if self._decided(_LEARNING_S if learning else _PATIENCE_S):
                took.append(time.perf_counter() - begun)
        return took

    def _decided(self, within_s: float) -> bool:
        """Tell whether a decision comes within that time."""
        self._reader.messages.clear()
        self._socket.settimeout(within_s)
        with contextlib.suppress(TimeoutError):
            while not self._reader.messages:
                self._reader.feed(self._socket.recv(1 << 16))
        return bool(self._reader.messages)

    def learn(self, pictures: list[bytes]) -> None:
        """Send pictures until every camera has decided."""
        sent = 0
        while len(self.send(pictures[sent % len(pictures)], learning=True)) < self.cameras:
            sent += 1

    @property
    def busy_s(self) -> float:
        """Return the agent's processor time so far, s."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime and stime

    @property
    def resident_mb(self) -> float:
        """Return the agent's resident memory, MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmRSS"))

    def close(self) -> None:
        """End everything."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)
        self._broker.stop()


def bare(model: TfliteModel, count: int) -> list[float]:
    """Return how long invocations of the interpreter take, s."""
    picture = np.zeros((1, *model.shape), np.uint8)
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        model.run(picture)
        took.append(time.perf_counter() - begun)
    return took


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures.daemon", description=__doc__)
    parser.add_argument("--cameras", type=int, default=4, help="of the second run; default: %(default)s")
    parser.add_argument(
        "--frames", type=int, default=1200, help="of each camera, once it has learnt; default: %(default)s"
    )
    wanted = parser.parse_args()
    pictures = [encoded(np.asarray(Image.fromarray(scene(seed)).resize(_FRAME))) for seed in range(_PICTURES)]
    model = load_picture_encoder(find_bundle("efficientnet-lite0"))
    rows = []
    resident: list[tuple[float, float]] = []
    for cameras in (1, wanted.cameras):
        with tempfile.TemporaryDirectory() as folder:
            daemon = Daemon(Path(folder), cameras)
            try:
                daemon.learn(pictures)
                whole: list[float] = []
                alone: list[float] = []
                taken: list[float] = []  # MB
                busy_s = daemon.busy_s
                for number in range(wanted.frames):
                    whole += daemon.send(pictures[number % _PICTURES])
                    if number % BLOCK == 0:
                        alone += bare(model, BLOCK)
                    if number >= wanted.frames // 2 and number % _SAMPLED == 0:
                        taken.append(daemon.resident_mb)
                resident.append((float(np.median(taken)), max(taken)))
                busy_ms = 1e3 * (daemon.busy_s - busy_s) / len(whole)
            finally:
                daemon.close()
        middle, least = 1e3 * np.median(whole), 1e3 * np.median(alone)
        rows.append(
            [
                str(cameras),
                f"{middle:.1f} ({1e3 * np.quantile(whole, 0.95):.1f}, {1e3 * max(whole):.0f})",
                f"{busy_ms:.1f}",
                f"{least:.1f}",
                f"{middle / least:.2f}",
                f"{resident[-1][0]:.0f}, {resident[-1][1]:.0f}",
            ]
        )
    header = ["cameras", "frame to decision, ms: median (p95, longest)", "of it the agent's processor time, mean"]
    header += [f"bare invocation, ms ({model.runtime})", "ratio"]
    print(table([*header, "resident, MB: median, most"], rows))
    each = [(many - one) / max(1, wanted.cameras - 1) for one, many in zip(*resident, strict=True)]
    print(f"\n{each[0]:.1f} MB for each further camera, {each[1]:.1f} while the fits of all are made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
