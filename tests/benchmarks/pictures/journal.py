"""`python -m tests.benchmarks.pictures.journal`: what a journal of pictures would write; how long a snapshot takes.

One camera at default settings whose references are full; all that changes within so many pictures, compressed as the
journals of readings are. The snapshot is written to DIR. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import msgspec
import numpy as np
from PIL import Image

from agent.adapters.mqtt import Topics
from agent.adapters.store import Store, _encode
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders
from agent.config import load_configuration
from agent.picture_stream import PictureStream
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import content_of
from tests.benchmarks.tables import table
from tests.scenes import encoded, scene

TOPIC = "cam/hall"
_DIFFERENT = 400  # pictures
_FULL = 1320  # pictures until the references are full
_INTERVALS_A_DAY = 144


def size_of(what: Any) -> int:
    """Return how large it is in a journal, bytes."""
    return len(zlib.compress(msgspec.msgpack.encode(what, enc_hook=_encode)))


def changed(stream: PictureStream, since: int) -> list[int]:
    """Return the bytes of what is new since a picture of that number: of pictures, examples, usual places, the rest."""
    (detector,) = stream.sight.detectors
    ring, bank = detector.memory.ring, detector.memory.bank
    new = np.flatnonzero(ring.numbers[: ring.count] >= since)
    born = np.flatnonzero(bank.born[: bank.filled] >= since)
    seen = np.where(bank.seen[: bank.filled] >= since, bank.seen[: bank.filled] - since + 1, 0).astype(np.uint16)
    state = detector.snapshot()
    waiting = [one[:3] for one in state["memory"]["waiting"]]
    pictures = [ring.pooled[new], ring.patch_scores[new], ring.times[new], ring.numbers[new], waiting]
    examples = [born.astype(np.uint16), bank.vectors[born].astype(np.float16), bank.cells[born], bank.times[born]]
    return [
        size_of(one) for one in (pictures, examples, state["usual"], [seen, ring.pool_scores, state["turned_away"]])
    ]


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures.journal", description=__doc__)
    parser.add_argument("--dir", type=Path, help="where the snapshot is written; default: where temporary files are")
    wanted = parser.parse_args()
    pictures = [encoded(np.asarray(Image.fromarray(scene(n)).resize((640, 480)))) for n in range(_DIFFERENT)]
    with tempfile.TemporaryDirectory(dir=wanted.dir) as name, closing(Store(Path(name) / "state")) as store:
        path = Path(name) / "redshank.yaml"
        path.write_text(f"agent: {{id: bench}}\nstreams: [{{name: cam, topic: {TOPIC}, kind: image}}]\n")
        configuration = load_configuration(path)
        topics = Topics("redshank", "bench")
        pipeline = Pipeline(configuration, load_encoders(configuration), topics, SilentObserver())
        sent = 0

        def send(count: int) -> None:
            nonlocal sent
            for number in range(sent, sent + count):
                payload = pictures[number * 7 % _DIFFERENT]
                pipeline.process([InboundMessage(TOPIC, payload, 1e9 + number, float(number))])
            sent += count

        send(_FULL)
        stream = cast("PictureStream", pipeline.streams["cam"])
        rows = []
        for count, rate in ((10, "1 a minute"), (60, "1 in 10 s"), (600, "1 a second")):
            before = sent
            send(count)
            found = changed(stream, before)
            rows.append([rate, *(f"{one / 1e3:.0f}" for one in found), f"{sum(found) * _INTERVALS_A_DAY / 1e6:.0f}"])
        pieces = []
        begun = perf_counter()
        for _ in store.save_in_pieces(stream.name, content_of(stream)):
            pieces.append(1e3 * (perf_counter() - begun))
            begun = perf_counter()
        whole = store.bytes_written
    header = ["pictures", "kB in 10 minutes: pictures", "examples", "usual places", "the rest", "MB a day"]
    print(table(header, rows))
    print(f"\nA whole snapshot: {whole / 1e6:.1f} MB, {whole * _INTERVALS_A_DAY / 1e6:.0f} MB a day;")
    print(f"{sum(pieces):.0f} ms in {len(pieces)} pieces, the longest {max(pieces):.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
