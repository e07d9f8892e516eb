"""How long the agent is held by one payload of many readings, and another stream's message waits for it.

Blocks of 16,384 readings reach a stream that has learnt nothing yet: decoded, learnt from, decided. Between two slices
another stream's message is taken. Processor time of one thread, of each slice the least of some runs, since a busy
machine adds to it: what a slice is, is counted, and the same in each run.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from agent.adapters.mqtt.topics import Topics
from agent.adapters.payload import Format
from agent.adapters.payload.settings import RawSettings
from agent.adapters.telemetry import SilentObserver, Telemetry
from agent.app import BATCH, load_encoders
from agent.config import AgentSettings, Configuration, SensorSettings
from agent.inbox import Inbox
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from tests.benchmarks.tables import table

READINGS = 16_384
RUNS = 2
CASES = ((1, 1), (4, 4), (1, 1000))  # channels, stride
_RATE = 1600.0
_AT = 1e9


def held(channels: int, stride: int, readings: int) -> tuple[list[float], list[float]]:
    """Return for each slice what it took, and how long another stream's message waited, in ms."""
    block = SensorSettings(
        name="block",
        topic="block",
        format=Format.RAW,
        raw=RawSettings(sample_rate=_RATE),
        channels=tuple(f"c{number}" for number in range(channels)),
        period_s=1.0 / _RATE,
        stride=stride,
    )
    other = SensorSettings(name="other", topic="other", format=Format.VALUE, period_s=1.0)
    configuration = Configuration(agent=AgentSettings(id="bench"), streams=[block, other])
    encoders = load_encoders(configuration)
    pipeline = Pipeline(configuration, encoders, Topics("redshank", "bench"), SilentObserver())
    inbox = Inbox(configuration, Telemetry(2, configuration.agent.memory_limit_bytes))
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(readings) / 9.0)[:, None] + rng.normal(0.0, 0.1, (readings, channels))
    payload = (1000.0 * waves).astype("<i2").tobytes()
    pipeline.take([InboundMessage("block", payload[: 2 * channels], _AT - 60.0, 0.0)])  # what is loaded once is there
    begun = time.thread_time()
    pipeline.take([InboundMessage("block", payload, _AT, 0.0)])
    slices, number = [1e3 * (time.thread_time() - begun)], 0
    waits = [*slices]
    while pipeline.busy:
        number += 1
        begun = time.thread_time()
        pipeline.go_on()
        slices.append(1e3 * (time.thread_time() - begun))
        inbox.put([InboundMessage("other", b"%d" % (number % 7), _AT + number, float(number))])
        pipeline.take(inbox.take(BATCH, pipeline))
        waits.append(1e3 * (time.thread_time() - begun))
    return slices, waits


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.slices", description=__doc__)
    parser.add_argument("--readings", type=int, default=READINGS, help="of a payload; default: %(default)s")
    wanted = parser.parse_args()
    rows = []
    for channels, stride in CASES:
        runs = np.array([held(channels, stride, wanted.readings) for _ in range(RUNS)])
        slices, waits = runs.min(axis=0)
        cells = [f"{channels}", f"{stride:,}", f"{slices.sum():,.0f}", f"{len(slices):,}"]
        rows.append([*cells, f"{slices[0]:.0f}", f"{slices.max():.0f}", f"{waits.max():.0f}"])
    heads = ["channels", "stride", "whole payload, ms", "slices", "the first, ms", "the longest, ms"]
    print(table([*heads, "longest wait of another stream, ms"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
