"""What a change of the encoder takes from the worker's time: `python -m tests.benchmarks.pictures.change`.

A camera with the shipped encoder changes from its int8 variant to the one with int8 weights, from kept pictures and
from the live stream. Milliseconds of processor time, on one core: of a picture as such, and of each step that is done
for the change between two pictures, which is what a picture may have to wait for at most.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import thread_time

import numpy as np

from agent.adapters.mqtt.topics import Topics
from agent.adapters.telemetry import SilentObserver
from agent.adapters.tflite import load_picture_encoder
from agent.bundle import find_bundle
from agent.config import load_configuration
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from tests.benchmarks.tables import table
from tests.scenes import encoded, scene

NAME = "efficientnet-lite0"
LEARNT, MOST = 330, 800
YAML = """
streams:
  - {{name: gate, topic: gate, kind: image{keep}}}
"""
KEPT = ", keep: {pictures: 1000, limit: 100MB}"


def timed(work):
    """Return what some work gives, and its milliseconds."""
    begun = thread_time()
    found = work()
    return found, 1e3 * (thread_time() - begun)


def change(folder, keep):
    """Return milliseconds: of pictures before, while the heir looks on, and of each step of the change."""
    first, second = (
        load_picture_encoder(find_bundle(NAME), "ai-edge-litert", f"{NAME}.{one}.tflite")
        for one in ("int8", "int8-weights")
    )
    path = folder / "redshank.yaml"
    path.write_text(YAML.format(keep=keep))
    pipeline = Pipeline(load_configuration(path), {NAME: first}, Topics("redshank", "pi"), SilentObserver())
    before, during, steps = [], [], []
    for number in range(MOST):
        if number == LEARNT:
            pipeline.change_encoder(NAME, second)
        message = InboundMessage("gate", encoded(scene(number)), float(number), float(number))
        (before if number < LEARNT else during).append(timed(lambda: pipeline.process([message]))[1])  # noqa: B023  at once
        busy = number >= LEARNT
        while busy:
            (_, busy), took = timed(pipeline.advance)
            steps.append(took)
        if number > LEARNT and pipeline.carry_over.left == 0:
            break
    return before[300:], during, steps


def main():
    """Print a row for each way."""
    rows = []
    for name, keep in (("kept pictures", KEPT), ("the live stream", "")):
        with tempfile.TemporaryDirectory() as folder:
            before, during, steps = change(Path(folder), keep)
        figures = [np.median(before), np.median(during), np.median(steps), np.quantile(steps, 0.99), max(steps)]
        rows.append([name, *(f"{one:.1f}" for one in figures), str(len(steps)), str(len(during))])
    heads = ["learns from", "a picture", "meanwhile", "a step", "99 %", "longest", "steps", "pictures"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
