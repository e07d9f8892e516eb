"""What is fuzzed: each target takes any bytes and raises only where something is wrong with the agent.

A target's name is the folder of its inputs below `corpus`. Most take the first byte as a choice of settings, and the
rest as what arrives. They keep nothing from one input to the next, so that an input alone makes a finding again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import io
import json
import math
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from PIL import Image

from agent.adapters.mqtt import Command
from agent.adapters.mqtt.frames import MalformedError
from agent.adapters.mqtt.paho_client import command_of
from agent.adapters.payload import (
    ByteOrder,
    Compression,
    Format,
    NumberType,
    PayloadRejected,
    PayloadSettings,
    RawSettings,
    TextNumbers,
    TimeSettings,
    TimeUnit,
    make_decoder,
)
from agent.adapters.payload.sparkplug_wire import read_payload
from agent.adapters.payload.tree import LARGEST
from agent.adapters.pictures import PictureDecoder, PictureFormat, PictureSettings
from agent.adapters.recording import read_csv, read_messages
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import make_restore, with_defaults
from agent.bundle import ENCODERS, MANIFEST, load_bundle, sign_bundle
from agent.commands import Commander
from agent.config import CommandSettings, load_configuration
from agent.core.windowing import MAX_CHANNELS
from agent.errors import BundleError, ConfigurationError, RecordingError
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import save
from agent.signing import SIGNATURE, generate_key
from tests.fuzz.messages import COMMAND, TOPICS, packets, reader
from tests.fuzz.pipelines import (
    NOW,
    STREAMS,
    check_outcome,
    check_snapshots,
    configured,
    experience,
    experienced,
    learnt,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.core.types import F32, Frame, Sample

LIMIT: Final = 1_000_000  # bytes of a payload
EPOCH_TIME: Final = TimeSettings(path="ts")
ISO_TIME: Final = TimeSettings(path="t.0", unit=TimeUnit.ISO, zone="Europe/Berlin")
NAMED: Final = ("a", "b.c", "0", "é")
WAYS: Final[list[dict[str, Any]]] = [
    {},
    {"channels": NAMED},
    {"time": EPOCH_TIME},
    {"time": ISO_TIME, "text_numbers": TextNumbers.PARSE},
    {"time": TimeSettings(path="ts", unit=TimeUnit.NS), "channels": NAMED, "columns": ("ts", "a", "b.c")},
    {"delimiter": ";", "columns": ("a", "ts", "a"), "time": ISO_TIME},
    {"text_numbers": TextNumbers.PARSE, "delimiter": "\t", "ignore_channels": ("a", "b")},
]
PACKED: Final[list[dict[str, Any]]] = [{"compression": Compression.GZIP}, {"compression": Compression.ZSTD}]
BLOCKS: Final[list[dict[str, Any]]] = [
    *({"raw": RawSettings(dtype=one, sample_rate=1000.0), "channels": ("x", "y")} for one in NumberType),
    {"raw": RawSettings(dtype=NumberType.FLOAT64, byte_order=ByteOrder.BIG, skip_bytes=3, sample_rate=1e-3)},
]


def decoder_of(form: Format) -> Callable[[bytes], None]:
    """Return what gives bytes to a payload format's decoder, with one of several settings."""
    ways: list[dict[str, Any]] = [*BLOCKS] if form is Format.RAW else [*WAYS, *PACKED]
    if form is Format.VALUE:
        ways = [way for way in ways if "time" not in way]
    decoders = [make_decoder(PayloadSettings(format=form, **way), LIMIT) for way in ways]

    def run(data: bytes) -> None:
        try:
            samples = decoders[data[0] % len(decoders) if data else 0](data[1:], NOW)
        except PayloadRejected:
            return
        for sample in samples:
            check_sample(sample)

    return run


def check_sample(sample: Sample) -> None:
    """Check what the core takes for granted of a sample."""
    assert math.isfinite(sample.at), sample.at
    assert 0 < len(sample.values) <= MAX_CHANNELS
    for name, value in sample.values.items():
        assert type(value) is float, (name, value)
        assert abs(value) <= LARGEST, (name, value)
        name.encode()  # it is published in alerts


class FakeCamera:
    """An encoder of pictures that costs nothing: means of squares of the picture."""

    name, digest, runtime, shape = "fake", "0" * 64, "fake 1", (24, 24, 3)
    output_shapes: Final = [(6, 6, 3), (3, 3, 3)]

    def run(self, inputs: F32) -> list[F32]:
        """Return the means."""
        made = inputs.reshape(len(inputs), 6, 4, 6, 4, 3).mean(axis=(2, 4))
        return [made, made.reshape(len(inputs), 3, 2, 3, 2, 3).mean(axis=(2, 4))]


def sparkplug() -> Callable[[bytes], None]:
    """Return what gives bytes to the reader of Sparkplug's payloads."""

    def run(data: bytes) -> None:
        with contextlib.suppress(PayloadRejected):
            read_payload(data, LIMIT)

    return run


def pictures() -> Callable[[bytes], None]:
    """Return what gives bytes to the decoder of pictures, with one of several settings."""
    most = {"max_pixels": 1_000_000}
    ways = [
        PictureSettings(**most),
        PictureSettings(**most, tiles=(3, 2), ignore=(((0.0, 0.0), (0.4, 0.0), (0.4, 0.6)),)),
        PictureSettings(**most, region=(0.1, 0.2, 0.9, 0.7)),
        PictureSettings(**most, format=PictureFormat.JSON, path="image", time=EPOCH_TIME),
    ]
    decoders = [PictureDecoder(way, 24, 24, LIMIT) for way in ways]

    def run(data: bytes) -> None:
        try:
            frames = decoders[data[0] % len(decoders) if data else 0].decode(data[1:], NOW)
        except PayloadRejected:
            return
        check_frames(frames)

    return run


def check_frames(frames: list[Frame]) -> None:
    """Check what the core takes for granted of frames."""
    assert frames
    for frame in frames:
        assert math.isfinite(frame.at), frame.at
        assert (frame.pixels.shape, frame.pixels.dtype) == ((24, 24, 3), np.uint8)


def messages() -> Callable[[bytes], None]:
    """Return what takes a run of messages the whole way: bytes from the broker, topics, decoders, grid, decisions."""
    configuration, observer = configured(STREAMS), SilentObserver()

    def run(data: bytes) -> None:
        pipeline, cutter = Pipeline(configuration, {}, TOPICS, observer), reader()
        for one in packets(data):
            cutter.feed(one)
        timed = [
            msgspec.structs.replace(one, received_at=NOW + i, elapsed_s=i) for i, one in enumerate(cutter.messages)
        ]
        check_outcome(pipeline, pipeline.process(timed))
        check_outcome(pipeline, pipeline.tick(NOW + 9999, 9999.0, 0.0))
        check_snapshots(pipeline, observer)

    return run


def active() -> Callable[[bytes], None]:
    """Return what gives messages to streams that have learnt, so that they are judged and alarm."""
    experience()

    def run(data: bytes) -> None:
        pipeline, cutter = experienced(), reader()
        for one in packets(data):
            cutter.feed(one)
        timed = [
            msgspec.structs.replace(one, received_at=NOW + i, elapsed_s=i) for i, one in enumerate(cutter.messages)
        ]
        check_outcome(pipeline, pipeline.process(timed))
        check_snapshots(pipeline, SilentObserver())

    return run


CAMERAS: Final = """
agent: {id: pi}
streams:
  - {name: gate, topic: gate/+, kind: image, encoder: fake, max_pixels: 100000, tiles: [2, 1],
     reference: {size: 100, warm_up: 40}}
  - {name: json, topic: json/+, kind: image, encoder: fake, format: json, path: i, max_pixels: 100000, time: {path: ts}}
"""


def camera() -> Callable[[bytes], None]:
    """Return what takes pictures the whole way: each is sent twice, then one that is normal follows."""
    configuration, camera_encoder = configured(CAMERAS), FakeCamera()

    def run(data: bytes) -> None:
        topic = "json/a" if data[:1] == b"j" else "gate/a"
        pipeline = Pipeline(configuration, {"fake": camera_encoder}, TOPICS, SilentObserver())
        outcome = pipeline.process([InboundMessage(topic, data[1:], NOW + i, float(i)) for i in range(2)])
        check_outcome(pipeline, outcome)

    return run


def frames() -> Callable[[bytes], None]:
    """Return what gives bytes to the reader of MQTT packets: whole, and in pieces, with the same result."""

    def run(data: bytes) -> None:
        mqtt5, size = bool(data[:1] and data[0] & 1), 1 + (data[1] if len(data) > 1 else 0)
        whole, parts, failed = reader(mqtt5=mqtt5, max_size=300), reader(mqtt5=mqtt5, max_size=300), []
        pieces_of = [data[i : i + size] for i in range(2, len(data), size)] if len(data) < 5000 else [data[2:]]
        for one, pieces in ((whole, [data[2:]]), (parts, pieces_of)):
            try:
                for piece in pieces:
                    one.feed(piece)
                failed.append(False)
            except MalformedError:
                failed.append(True)
        assert failed[0] == failed[1]
        if not failed[0]:
            assert [(m.topic, m.payload) for m in whole.messages] == [(m.topic, m.payload) for m in parts.messages]
            assert (whole.ignored_ids, whole.oversized) == (parts.ignored_ids, parts.oversized)
            assert whole.control == parts.control
        for _, message, raw in whole.commands:
            command_of(message, raw)

    return run


def commands() -> Callable[[bytes], None]:
    """Return what gives commands to streams that have learnt, one of which alarms."""
    experience()
    settings = CommandSettings(enabled=True, reply_topic_prefix="ops")

    def run(data: bytes) -> None:
        pipeline = experienced()
        odd = [{"ts": NOW + i, "a": 50.0 + i % 3, "b": -40.0} for i in range(6)]
        told = pipeline.process(
            [InboundMessage("timed/a", json.dumps(one).encode(), NOW + i, float(i)) for i, one in enumerate(odd)]
        )
        assert told.outbox
        alert = json.loads(told.outbox[0].payload)["id"].encode()
        commander = Commander(pipeline, TOPICS, settings, SilentObserver())
        for part in data.split(b"\n"):
            message = InboundMessage(COMMAND, part.replace(b"@ALERT", alert), NOW + 9, 9.0, retained=part[:1] == b"r")
            done = commander.obey(Command(message, part[:9].decode(errors="replace"), part))
            answer = commander.finish(done, stored=True)
            assert answer is None or json.loads(answer)["ok"] in (True, False)
            check_outcome(pipeline, done.outcome)

    return run


def configuration_file() -> Callable[[bytes], None]:
    """Return what reads a configuration file."""
    path = Path(tempfile.mkdtemp()) / "redshank.yaml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            made = load_configuration(path)
        except ConfigurationError as error:
            str(error).encode()
            return
        msgspec.json.encode(made)
        Pipeline(with_defaults(made), {}, TOPICS, SilentObserver()).stream_of("timed/a")

    return run


@functools.cache
def state_files() -> Callable[[bytes], None]:
    """Return what takes up a stream from a snapshot and a journal.

    The first byte says which of the two is made of the data, and whether as the file itself or as content with a right
    checksum; the other is a true one. It also says whether the stream is one of readings or of pictures.
    """
    store = Store(Path(tempfile.mkdtemp()) / "state")
    atexit.register(store.close)
    pipeline = experienced()
    timed = _SavedStream(
        store, pipeline, "timed/a", [], [replaced(one, NOW + 300) for one in moved(learnt("timed", "timed/a", 40))]
    )
    rng = np.random.default_rng(0)
    shots = [InboundMessage("gate/a", noise(rng), NOW + i, float(i)) for i in range(60)]
    cameras = Pipeline(configured(CAMERAS), {"fake": FakeCamera()}, TOPICS, SilentObserver())
    gate = _SavedStream(store, cameras, "gate/a", shots[:50], shots[50:])

    def run(data: bytes) -> None:
        way = data[0] if data else 0
        (gate if way & 4 else timed).run(way & 1, data[1:], framed=bool(way & 2))

    return run


class _SavedStream:
    """A stream that learnt from the messages `first`, and was saved, and then from `later`, and was saved again."""

    def __init__(
        self, store: Store, pipeline: Pipeline, topic: str, first: list[InboundMessage], later: list[InboundMessage]
    ) -> None:
        self._store, self._pipeline, self._topic = store, pipeline, topic
        pipeline.process(first)
        stream = pipeline.stream_of(topic)
        assert stream is not None
        assert stream.learnt
        save(store, stream)
        pipeline.process(later)
        addition = stream.addition()
        assert addition is not None
        assert store.append(stream.name, addition)
        self._files = store._path(stream.name), store._journal(stream.name)
        self._good = [one.read_bytes() for one in self._files]
        self._heads = [one[: len(one.split(b"\n")[0]) + more] for one, more in zip(self._good, (1, 5), strict=True)]

    def run(self, which: int, body: bytes, *, framed: bool) -> None:
        """Let it be taken up, its snapshot (0) or journal (1) being these bytes, or having them as content."""
        made = list(self._good)
        made[which] = body
        if framed:
            body = zlib.compress(body, 0)
            length = len(body).to_bytes(4, "big") if which else b""
            made[which] = self._heads[which] + length + zlib.crc32(body).to_bytes(4, "big") + body
        for path, content in zip(self._files, made, strict=True):
            path.write_bytes(content)
        configuration, encoders = self._pipeline._configuration, self._pipeline.encoders
        again = Pipeline(configuration, encoders, TOPICS, SilentObserver(), restore=make_restore(self._store))
        assert again.stream_of(self._topic) is not None


def noise(rng: np.random.Generator) -> bytes:
    """Return a picture of noise, PNG."""
    made = io.BytesIO()
    Image.fromarray(rng.integers(60, 200, (48, 96, 3), np.uint8)).save(made, "PNG")
    return made.getvalue()


def replaced(message: InboundMessage, at: float) -> InboundMessage:
    """Return a message as if it had come then."""
    return msgspec.structs.replace(message, received_at=at)


def moved(those: list[InboundMessage]) -> list[InboundMessage]:
    """Return messages as if they had come right after those of `experience`."""
    made = []
    for i, one in enumerate(those):
        content = json.loads(one.payload) | {"ts": NOW + i}
        made.append(msgspec.structs.replace(one, payload=json.dumps(content).encode()))
    return made


def bundle_manifest() -> Callable[[bytes], None]:
    """Return what loads a bundle: its manifest is the data, where `@SHA` stands for the digest of its one model."""
    folder = Path(tempfile.mkdtemp())
    (folder / "m.tflite").write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest().encode()

    def run(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data.replace(b"@SHA", digest))
        try:
            bundle = load_bundle(folder)
        except BundleError as error:
            str(error).encode(errors="surrogateescape")
            return
        assert all(variant.file == "m.tflite" for variant in bundle.manifest.variants)

    return run


def signed_bundle() -> Callable[[bytes], None]:
    """Return what spoils a signed bundle: its signature, or after a first byte `m` its manifest, where that is `@M`."""
    folder = Path(tempfile.mkdtemp())
    path, key = folder / "bundle", folder / "key"
    shutil.copytree(ENCODERS / "sensor-small", path)
    public = generate_key(key)
    sign_bundle(path, key)
    manifest, signature = ((path / name).read_bytes() for name in (MANIFEST, SIGNATURE))

    def run(data: bytes) -> None:
        own = data[:1] == b"m"
        given = data[1:].replace(b"@M", manifest) if own else manifest
        (path / MANIFEST).write_bytes(given)
        (path / SIGNATURE).write_bytes(signature if own else data.replace(b"@S", signature))
        try:
            load_bundle(path, (public,))
        except BundleError as error:
            str(error).encode(errors="surrogateescape")
            return
        assert given == manifest, "a manifest was taken that nobody signed"

    return run


def bundle_zip() -> Callable[[bytes], None]:
    """Return what loads a bundle from a zip file, which is the data."""
    path = Path(tempfile.mkdtemp()) / "bundle.zip"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load_bundle(path)
        except BundleError as error:
            str(error).encode(errors="surrogateescape")

    return run


def recordings() -> Callable[[bytes], None]:
    """Return what reads a recording: as JSON Lines, and as CSV."""
    path = Path(tempfile.mkdtemp()) / "recording"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        for read in (read_messages(path), read_csv(path, "ts")):
            try:
                for _ in read:
                    pass
            except RecordingError as error:
                str(error).encode(errors="surrogateescape")

    return run


TARGETS: Final[dict[str, Callable[[], Callable[[bytes], None]]]] = {
    **{form.value: functools.partial(decoder_of, form) for form in Format if form is not Format.SPARKPLUG},
    "sparkplug": sparkplug,
    "packed": functools.partial(decoder_of, Format.JSON),
    "pictures": pictures,
    "messages": messages,
    "active": active,
    "camera": camera,
    "frames": frames,
    "commands": commands,
    "configuration": configuration_file,
    "state": state_files,
    "manifest": bundle_manifest,
    "signed": signed_bundle,
    "zip": bundle_zip,
    "recording": recordings,
}
