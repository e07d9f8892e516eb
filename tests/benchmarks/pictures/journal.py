"""`python -m tests.benchmarks.pictures.journal`: what a camera writes, and how long that keeps messages waiting.

One camera at default settings whose references are full: what is added to its snapshot after so many pictures, by
parts, each compressed by itself, and as written to DIR; a whole snapshot is made when the journal is eight times as
large. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from agent.adapters.mqtt import Topics
from agent.adapters.store import JOURNAL_FACTOR, Store, _encode
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, make_restore
from agent.config import load_configuration
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import content_of
from tests.benchmarks.tables import table
from tests.scenes import encoded, lorry, scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.picture_stream import PictureStream

TOPIC = "cam/hall"
_AFTER = 200  # pictures behind a kill
_FULL = 1320  # pictures until the references are full
_INTERVALS_A_DAY = 144


def size_of(what: Any) -> int:
    """Return how large it is in a journal, bytes."""
    return len(zlib.compress(msgspec.msgpack.encode(what, enc_hook=_encode)))


def message(number: int, change: Any = None) -> InboundMessage:
    """Return a picture of a scene whose light changes slowly, one a second."""
    light = 1.0 - 0.3 * np.sin(number / 2000)
    return InboundMessage(TOPIC, encoded(scene(number, change, light=light)), 1e9 + number, float(number))


def judged(pipeline: Pipeline, first: int) -> list[str]:
    """Return how a pipeline goes on: pictures rarer than 1 in 100, the mean score, that of an odd picture, alerts."""
    outcomes = [pipeline.process([message(number)]) for number in range(first, first + _AFTER)]
    scores = np.array([one.assessment.score for outcome in outcomes for one in outcome.decided])
    odd = [pipeline.process([message(first + _AFTER, lorry)])]
    (found,) = [one.assessment.score for outcome in odd for one in outcome.decided]
    return [
        f"{scores.mean():.2f}",
        f"{(scores >= 2.0).mean():.3f}",
        str(sum(len(one.outbox) for one in outcomes)),
        f"{found:.1f}",
        f"{pipeline.streams['cam'].budget.threshold:.2f}",
    ]


def parts_of(addition: dict[str, Any]) -> list[int]:
    """Return the bytes of what an addition tells of pictures, examples, usual places, and the rest."""
    (tile,) = addition["tiles"]
    detector = tile["detector"]
    memory = detector["memory"]
    examples = {name: part for name, part in memory["bank"].items() if name not in ("places", "seen")}
    parts = [size_of(one) for one in (memory["pooled"], examples, detector["usual"])]
    return [*parts, size_of(addition) - sum(parts)]


def timed(pieces: Iterator[int]) -> tuple[int, list[float]]:
    """Do the work; return the bytes written, and how long each piece took, ms."""
    took, sizes, begun = [], [], perf_counter()
    for size in pieces:
        sizes.append(size)
        took.append(1e3 * (perf_counter() - begun))
        begun = perf_counter()
    return sizes[-1], took


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures.journal", description=__doc__)
    parser.add_argument("--dir", type=Path, help="where the snapshot is written; default: where temporary files are")
    wanted = parser.parse_args()
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
                pipeline.process([message(number)])
            sent += count

        send(_FULL)
        stream = cast("PictureStream", pipeline.streams["cam"])
        whole, took = timed(store.save_in_pieces(stream.name, content_of(stream)))
        stream.saved()
        rows, longest = [], 0.0
        for count, rate in ((10, "1 a minute"), (60, "1 in 10 s"), (600, "1 a second")):
            send(count)
            begun = perf_counter()
            addition = stream.addition()
            made_ms = 1e3 * (perf_counter() - begun)
            assert addition is not None
            stream.saved()
            pieces = store.append_in_pieces(stream.name, addition)
            assert pieces is not None
            written, each = timed(pieces)
            longest = max(longest, made_ms, *each)
            parts = [f"{one / 1e3:.0f}" for one in (*parts_of(addition), written)]
            rows.append([rate, *parts, f"{written * _INTERVALS_A_DAY * (1 + 1 / JOURNAL_FACTOR) / 1e6:.0f}"])
        begun = perf_counter()
        again = Pipeline(configuration, pipeline.encoders, topics, SilentObserver(), restore=make_restore(store))
        again.stream_of(TOPIC)
        resumed_ms = 1e3 * (perf_counter() - begun)
        after = [
            ["goes on", *judged(pipeline, sent)],
            ["was killed", *judged(again, sent)],
        ]
    header = ["pictures", "kB in 10 minutes: pictures", "examples", "usual places", "the rest", "written", "MB a day"]
    print(table(header, rows))
    print(f"\nThe longest piece of an addition: {longest:.0f} ms. To go on from all of it: {resumed_ms:.0f} ms.")
    print(
        f"A whole snapshot: {whole / 1e6:.1f} MB, {sum(took):.0f} ms in {len(took)} pieces, at most {max(took):.0f} ms"
    )
    print(f"\n{_AFTER} pictures later, one a second:\n")
    header = ["camera that", "mean score", "as rare as 1 in 100", "messages", "score of an odd picture", "threshold"]
    print(table(header, after))
    return 0


if __name__ == "__main__":
    sys.exit(main())
