"""`python -m tests.benchmarks.fast`: what a fast stream costs, by how often it decides.

An accelerometer of three axes at 1,600 readings a second, in raw blocks of 400, all in process; the time is virtual.
Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from agent.config import load_configuration
from agent.ports import InboundMessage
from agent.stream import SensorStream
from tests.benchmarks.tables import table
from tests.benchmarks.virtual import VirtualAgent

RATE, BLOCK, CHANNELS = 1600, 400, 3
LEARNING_S, SECONDS = 5, 15
STRIDES = ("auto", "1", "5", "100")
EPOCH = 1e9


def blocks(seconds: int) -> list[bytes]:
    """Return what the accelerometer sends, int16, little endian."""
    noise = np.random.default_rng(0).normal(0, 100, (seconds * RATE, CHANNELS))
    turning = 1000 * np.sin(2 * np.pi * 29.0 * np.arange(seconds * RATE)[:, None] / RATE)
    return [part.tobytes() for part in np.split((noise + turning).astype("<i2"), seconds * RATE // BLOCK)]


def row(folder: Path, stride: str, payloads: list[bytes]) -> list[str]:
    """Return the stride that is settled, decisions and processor time for each second of readings."""
    path = folder / "redshank.yaml"
    path.write_text(
        f"agent: {{id: bench, state_dir: {folder / stride}}}\n"
        "streams: [{name: bench, topic: bench, format: raw, channels: [x, y, z], "
        f"raw: {{sample_rate: {RATE}}}, stride: {stride}}}]\n"
    )
    agent = VirtualAgent(load_configuration(path))
    messages = [
        InboundMessage("bench", payload, EPOCH + place * BLOCK / RATE, place * BLOCK / RATE)
        for place, payload in enumerate(payloads)
    ]
    learning = LEARNING_S * RATE // BLOCK
    agent.take(messages[:learning])
    (stream,) = agent.pipeline.streams.values()
    assert isinstance(stream, SensorStream)
    assert stream.learnt
    before, begun = stream.budget.decisions, time.process_time()
    agent.take(messages[learning:])
    took = time.process_time() - begun
    decided = stream.budget.decisions - before
    agent.close()
    return [stride, str(stream.detector.stride), f"{decided / SECONDS:.0f}", f"{took / SECONDS:.2f}"]


def main() -> None:
    payloads = blocks(LEARNING_S + SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(Path(folder), stride, payloads) for stride in STRIDES]
    header = ["`stride`", "grid steps", "decisions a second", "s of processor time for a second of readings"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
