"""Rubbish that is known to be hard, made here because most of it is large; what fuzzing found lies in `corpus`."""

from __future__ import annotations

import base64
import gzip
import importlib
import io
import json
import math
import struct
import zipfile
import zlib
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

import cbor2
import msgspec
import numpy as np
from PIL import Image

from agent.adapters.payload import Format
from agent.adapters.payload.compression import ZSTD_MODULE
from agent.bundle import ENCODERS
from tests.fuzz.messages import NAMES, packet, varint
from tests.fuzz.pipelines import NOW, STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEEP: Final = 10_000
FULL: Final = 999_000  # bytes: just below the limit of a payload
LARGE: Final = 20_000


def texts() -> Iterator[bytes]:
    """Yield JSON, and what is nearly JSON."""
    yield b""
    yield b'{"ts": 1699999999, "a": 1.5, "b": {"c": 2}, "t": ["2023-11-14T22:13:19"], "x": [1, true, null, "7"]}'
    yield b'{"ts": 1699999999, "a": 1.5, "b": {"c'
    yield b"[" * DEEP + b"]" * DEEP
    yield b"[" * FULL
    yield b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield b'{"a":' * (FULL // 5)
    yield b'{"a": ' + b"9" * 5000 + b', "ts": ' + b"9" * 5000 + b"}"
    yield b"9" * FULL
    yield b"-" + b"9" * 400 + b"." + b"9" * 400 + b"e-400"
    yield b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999, "ts": NaN}'
    yield b'{"ts": 1e308, "a": 1}'
    yield b'{"a": 1, "a": 2, "ts": 1, "ts": 1699999999, "b": {"c": 1, "c": {}}}'
    yield b'{"a": "\xff\xfe", "b": 1}'
    yield b'{"a\xed\xa0\x80": 1}'
    yield b'{"\\ud800": 1, "b": NaN}'
    yield b'{"\\u0000": 1, "": 2, ".": 3, "a.b": 4}'
    yield b"\xef\xbb\xbf{}"
    yield '{"a": 1}'.encode("utf-16")
    yield b'"' + b"a" * FULL + b'"'
    yield b"[" + b"0," * (FULL // 2 - 1) + b"0]"
    yield b"[" + b"[]," * (FULL // 3 - 2) + b"[]]"
    yield b"[" + b"[0]," * (FULL // 4 - 2) + b"NaN]"
    yield b"{" + b",".join(b'"%d":NaN' % i for i in range(FULL // 12)) + b"}"
    yield b"{" + b",".join(b'"%d":"1"' % i for i in range(FULL // 12)) + b"}"
    yield b'{"t": ["0001-01-01T00:00:00+23:59"], "a": 1}'
    yield b'{"t": ["9999-12-31T23:59:59.999999-23:59"], "a": 1}'
    yield b'{"t": ["2023-03-26T02:30:00"], "a": 1}'
    yield from (b"null", b"true", b"[]", b"{}", b'""', b"-0", b"0.1.2", b"{'a': 1}", b"\0" * 100)


def tables() -> Iterator[bytes]:
    """Yield CSV."""
    yield b"ts,a,b\n1699999999,1,2\n1699999999.5,,nan\n"
    yield b"1\n" * (FULL // 2)
    yield b"a\n" + b"1\n" * (FULL // 2 - 2)
    yield b"\n" * FULL
    yield b"," * FULL
    yield b"a" + b",a" * (FULL // 4) + b"\n" + b"1" + b",1" * (FULL // 4)
    yield b'a\n"' + b"1\n" * (FULL // 2 - 3)
    yield b'a\n"' + b'""' * (FULL // 2 - 3)
    yield b"a,b\n1,2\x00\n"
    yield b"a\n1_000\n" + "٣\n".encode()
    yield b"a\r1\r2\x0b3\x0c4\x1c5" + "\u20286".encode()
    yield b"ts,a\n" + b"".join(b"%d,%d\n" % (NOW - 60_000 + i, i % 7) for i in range(50_000))


def documents(form: Format) -> Iterator[bytes]:
    """Yield MessagePack or CBOR: what JSON can say, and what it cannot."""
    encode = {Format.MSGPACK: msgspec.msgpack.encode, Format.CBOR: cbor2.dumps}[form]
    tree = {
        "ts": 1699999999,
        "a": 1.5,
        "b": {"c": 2},
        "t": ["2023-11-14T22:13:19"],
        "x": [True, None, "7", b"y", 2**64 - 1],
    }
    yield encode(tree)
    yield encode(tree)[:-9]
    yield encode({"a": math.nan, "b": math.inf, "ts": math.nan})
    yield encode([0] * 300)
    yield encode(datetime(2023, 11, 14, tzinfo=UTC))
    for head in (b"\x91", b"\x81", b"\x81\x01", b"\x81\xa1a", b"\x81\x61a", b"\xc1", b"\xd8\x1c", b"\x9f", b"\xbf"):
        yield head * DEEP
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9", b"\x9a", b"\xba", b"\x5a", b"\x7a"):
        for claimed in (FULL - 5, 0xFFFFFFFF):
            yield head + claimed.to_bytes(4, "big") + b"\x80" * (FULL - 5)
            yield head + claimed.to_bytes(4, "big")
    yield b"\xc2" + b"\x5a" + (FULL - 6).to_bytes(4, "big") + b"\xff" * (FULL - 6)  # an integer of a million bytes
    yield b"\xc4\x82\x1b" + b"\xff" * 8 + b"\x01" + b"\xc4\x82\x3b" + b"\x7f" * 8 + b"\x01"
    yield b"\x9a" + (FULL // 2 - 5).to_bytes(4, "big") + b"\xc2\x40" * (FULL // 2 - 5)
    yield b"\xa2\x61a\x01\x61a\x02"
    yield b"\xa3\x80\x01\xa0\x02\xf6\x03"
    yield b"\x82\x90\x01\x80\x02"
    yield b"\xd6\xff" + b"\xff" * 4 + b"\xd7\xff" + b"\xff" * 8 + b"\xc7\x0c\xff" + b"\xff" * 12


def sparkplugs() -> Iterator[bytes]:
    """Yield Sparkplug B: protocol buffers, whole, cut off, nested, and of many empty metrics."""
    metric = b"\x0a\x01a\x10\x05\x18\xe8\x07\x20\x0a\x69" + struct.pack("<d", 1.5)
    good = b"\x08" + b"\xff" * 5 + b"\x01" + b"\x12" + bytes([len(metric)]) + metric + b"\x18\x07"
    yield good
    yield good[:-9]
    yield b"\x12\0" * (FULL // 2)
    yield b"\x12\xff\xff\xff\xff\x0f"
    yield b"\x08" + b"\xff" * 5000
    nested = metric
    for _ in range(2000):  # templates in templates
        nested = b"\x9a\x01" + varint(len(nested)) + nested
    yield b"\x12" + varint(len(nested)) + nested
    yield b"\x12\x0a\x0a\x02\xff\xfe\x20\x0a\x69" + b"\0" * 8


def blocks() -> Iterator[bytes]:
    """Yield blocks of bare numbers."""
    yield bytes(range(256))
    yield b"\x00\x00\xc0\x7f\x00\x00\x80\x7f\x00\x00\x80\xff\x01\x00\x80\x7f"
    yield bytes(FULL)
    yield bytes(32_768)
    yield bytes(7)


def packed(those: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each packed with gzip and with zstd, with the byte that says so, and what is no such thing."""
    zstd = importlib.import_module(ZSTD_MODULE)
    for one in those:
        yield b"\x07" + gzip.compress(one, 9)
        yield b"\x08" + zstd.compress(one)
    for bomb in (gzip.compress(bytes(50_000_000), 9), gzip.compress(b"") * 40_000):
        yield b"\x07" + bomb
    for bomb in (zstd.compress(bytes(50_000_000)), zstd.compress(b"") * 40_000, b"\x28\xb5\x2f\xfd\x00\xff" + bytes(9)):
        yield b"\x08" + bomb
        yield b"\x08" + bomb[:-2]


def values() -> Iterator[bytes]:
    """Yield plain values."""
    yield from (
        b"21.5",
        b" 1e5\n",
        b"nan",
        b"inf",
        b"1" * 100,
        b"1" * 101,
        b"1_0",
        "٣".encode(),
        b"0x10",
        b"\xff",
        b"",
        b"1e400",
    )


def images() -> Iterator[bytes]:
    """Yield picture files."""
    noise = np.random.default_rng(5).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    good = {}
    for name, way in (
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("TIFF", {}),
        ("BMP", {}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, name, **way)
        good[name] = buffer.getvalue()
    yield from good.values()
    for one in good.values():  # truncated
        yield one[: len(one) // 2]
        yield one[:20]
    for mode, name, way in (
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {"progressive": True}),
        ("I;16", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {"transparency": 0}),
        ("LA", "PNG", {}),
        ("RGBA", "WEBP", {}),
    ):
        buffer = io.BytesIO()
        grey = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
        (grey if mode == "I;16" else picture.convert(mode)).save(buffer, name, **way)
        yield buffer.getvalue()
    for name in ("GIF", "WEBP", "PNG"):  # animated
        buffer = io.BytesIO()
        picture.save(buffer, name, save_all=True, append_images=[picture.rotate(90 * i) for i in range(1, 9)])
        yield buffer.getvalue()
    start = good["JPEG"].index(b"\xff\xc0")
    for size in ((65_000, 65_000), (65_500, 1), (0, 0)):  # what it declares, of a few bytes
        yield good["JPEG"][: start + 5] + struct.pack(">HH", *size) + good["JPEG"][start + 9 :]
    yield png(65_000, 65_000)
    yield png(900, 1000)
    yield png(2**31 - 1, 2**31 - 1)
    yield png(1, 1, [(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 50_000_000, 9))])
    yield png(1, 1, [(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 50_000_000, 9))])
    yield png(8, 8, [(b"tRNS", b"\0\1" * 9), (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12" * 40)])
    yield b"RIFF\x24\0\0\0WEBPVP8L\x18\0\0\0\x2f\xff\xff\xff\x0f" + b"\0" * 20
    yield (
        b"GIF89a"
        + struct.pack("<HHBBB", 65_000, 65_000, 0x80, 0, 0)
        + b"\0" * 6
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
    )
    yield b"data:image/jpeg;base64," + base64.b64encode(good["JPEG"])
    yield b"data:,x"
    yield base64.b64encode(good["PNG"])
    yield base64.b64encode(good["PNG"])[:-7]
    for one in (b"", b"\xff\xd8\xff", b"BM", b"%PDF-1.4", b"P6 65000 65000 255\n", b"<svg/>"):
        yield one


def png(width: int, height: int, chunks: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """Return a PNG of that size, black, as far as a few bytes go."""
    rows = zlib.compress(b"\0" * min((width + 1) * height, 1_000_000), 9)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        *(chunks or []),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def record(topic: int, payload: bytes, flags: int = 0) -> bytes:
    """Return one message of the targets `messages` and `active`."""
    return bytes([topic, flags]) + min(len(payload), 65_535).to_bytes(2, "big") + payload[:65_535]


def reading(i: float, **more: object) -> bytes:
    """Return a reading of the targets' time."""
    return json.dumps({"ts": NOW + i, "a": i % 5, "b": -i, **more}).encode()


def conversations() -> Iterator[bytes]:
    """Yield runs of messages."""
    yield b"".join(record(topic, reading(topic), topic % 4) for topic in range(len(NAMES)))
    yield b"".join(record(0, reading(i)) for i in range(40))
    yield b"".join(record(0, reading(-i)) for i in range(60))  # a clock that runs backwards
    yield b"".join(record(0, reading(i + 1e-7 * (i % 3))) for i in range(60) for _ in range(2))
    yield b"".join(
        record(2, json.dumps({"ts": NOW + i, "a": v}).encode()) for i, v in enumerate([0, 1e30, -1e30, 65535, 1, 0] * 4)
    )
    yield b"".join(record(1, reading(i, a=1e30 * (-1) ** i, b=1e-30)) for i in range(40))
    yield record(3, b"ts,a,b\n" + b"".join(b"%d,%d,%d\n" % (NOW + i, i % 7, i % 11) for i in range(300)))
    yield record(3, b"ts,a\n" + b"".join(b"%d,1e30\n%d,-1e30\n" % (NOW + 2 * i, NOW + 2 * i + 1) for i in range(200)))
    yield record(4, b"a,b\n" + b"1,2\n3,4\n" * 300)
    yield b"".join(record(5, b"%d" % (i % 3), i % 4) for i in range(40))
    yield b"".join(record(22, bytes([i]) + b"/" + b'{"a":1}') for i in range(30))  # more streams than there may be
    yield b"".join(record(0, reading(i * 1e9)) for i in range(-2, 3))
    yield b"".join(record(6, json.dumps({str(j): j for j in range(i, i + 250)}).encode()) for i in range(8))
    yield b"".join(record(0, one) for one in texts() if len(one) < LARGE)


def streams() -> Iterator[bytes]:
    """Yield what a broker may send."""
    yield packet(b"timed/a", b"{}", qos=1)
    yield packet(b"redshank/pi/command", b'{"command":"snapshot"}', properties=b"\x08\0\3ops\x09\0\2xy")
    yield packet(b"redshank/pi/command", b"{}", properties=b"\x08\0\1+\x08\0\1#\x26\0\1\xff\0\0")
    yield packet(b"ha/status", b"online", retained=True)
    yield packet(b"a" * 65_535, b"x")
    yield packet(b"a", b"x" * 400, qos=1) + packet(b"b", b"y")
    yield b"\x30" + varint(200) + b"\0\1a" + b"\xff" * 197
    yield b"\x30\x02\xff\xff"
    yield b"\x30\xff\xff\xff\xff\x01"
    yield b"\x34\x06\0\1a\0\1\0" + b"\xd0\0" + b"\x40\x02\0\1"
    yield bytes(range(256))


def orders() -> Iterator[bytes]:
    """Yield commands, one a line."""
    yield b"\n".join(
        [
            b'{"command": "accept", "alert": "@ALERT"}',
            b'{"command": "confirm", "stream": "timed/a", "correlation": "x"}',
            b'{"command": "forget", "alert": "@ALERT"}',
            b'{"command": "forget", "stream": "timed/a", "from": "2023-11-14T22:00:00Z", "to": "2023-11-14T22:14:00Z"}',
            b'{"command": "snooze", "stream": "timed/a", "for": "1h"}',
            b'{"command": "relearn", "stream": "timed/a"}',
            b'{"command": "snapshot"}',
            b'{"command": "heatmap", "stream": "timed/a"}',
        ]
    )
    yield b'{"command": "snooze", "stream": "timed/a", "for": "' + b"9" * 400 + b'd"}'
    span = b'"from": "0001-01-01T00:00:00+23:59", "to": "9999-12-31T23:59:59-23:59"'
    yield b'{"command": "forget", "stream": "timed/a", ' + span + b"}"
    yield b'{"command": ["accept"]}'
    yield b'{"command": {"accept": 1}}'
    yield b'{"command": "accept", "command": "confirm", "alert": "@ALERT", "stream": "timed/a"}'
    yield b'r{"command": "snapshot"}'
    yield b'{"command": "\\ud800"}'
    yield from (one for one in texts() if len(one) < 5000)


def files() -> Iterator[bytes]:
    """Yield configuration files."""
    yield STREAMS.encode()
    yield b"streams: [{name: a, topic: timed/+, encoder: none}]"
    yield b"streams: [{name: a, topic: timed/+, carry_limit: " + b"9" * 5000 + b"}]"
    yield b"streams: [{name: a, topic: timed/+, period: " + b"9" * 400 + b"s, encoder: none}]"
    yield b"agent: {memory_limit: " + b"9" * 400 + b"MB}\nstreams: []"
    yield b'streams: [{name: "\\ud800", topic: "\\udfff", time: {path: x, zone: "\\ud800"}}]'
    yield b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nstreams: *c"
    yield b"streams: &s [*s]"
    yield b"&r streams: [{? *r : 1}]"
    yield b"{? [a, b] : c, ? {d: e} : f}"
    yield b"[" * 300
    yield b"!!python/object/apply:os.system [ls]"
    yield b"broker: {url: 'mqtt://[::1:99999'}\nstreams: [{name: a, topic: b}]"
    yield b"metrics: {listen: 'x:\xd9\xa3'}\nstreams: [{name: a, topic: b}]"
    yield b"\xff\xfe\0"
    yield b"%YAML 9.9\n---\na: 1\n--- \nb: 2"
    yield b"x" * 2000 + b": 1\n" + b"streams: 1"


def states() -> Iterator[bytes]:
    """Yield snapshots and journals, with the byte that says what they are."""
    some = msgspec.msgpack.encode({"signature": {}, "detector": {"grid": {}, "learnt": None}})
    for way in range(8):
        yield bytes([way]) + some
        yield bytes([way]) + b"\x81\xa1a" * 2000
        yield bytes([way]) + b"\x91" * 20_000
        yield bytes([way]) + b"redshank snapshot 2\n" + bytes(50)
    for header in (
        b"\x92\xa1O\x91\1",
        b"\x92\xa2S0\x91\1",
        b"\x92\xa6(2,3)f\x91\1",
        b"\x92\xa2f4\x91\xcd\xff\xff",
        b"\x93",
        b"\x92\xa3<f(\x90",
    ):
        body = len(header).to_bytes(2, "big") + header + bytes(8)
        yield b"\2" + msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(1, body)})

    memory = {"bank": {"filled": 10**12}, "pooled": [], "fitted": None}
    for detector in (
        {},
        {"apart": {"quarantine": {}}, "pictures": [], "usual": None},
        {"apart": {}, "pictures": [], "usual": None, "number": 1, "light": {}, "gate": {}, "memory": memory},
        {"apart": {}, "pictures": [], "usual": {"count": 1, "means": [[]]}, "first": {}},
    ):
        tiles = [{"detector": detector, "health": {"seen": []}}] * 2
        yield b"\7" + msgspec.msgpack.encode({"tiles": tiles, "heir": None, "heir_waits": True})


def manifests() -> Iterator[bytes]:
    """Yield manifests."""
    made = json.loads((ENCODERS / "sensor-small" / "manifest.json").read_text())
    variant = {**made["variants"][0], "file": "m.tflite", "sha256": "@SHA"}
    good = {**made, "files": {}, "variants": [variant]}
    yield json.dumps(good).encode()
    yield json.dumps({**good, "variants": [{**variant, "sha256": "0" * 64}]}).encode()
    yield json.dumps({**good, "files": {"../m.tflite": "@SHA", "a\0b": "", "": "x", ".": "y"}}).encode()
    yield json.dumps({**good, "variants": [{**variant, "file": "\ud800"}]}).encode()
    yield json.dumps({**good, "schema": 10**30}).encode()
    yield from (one for one in texts() if len(one) < 5000)


def signatures() -> Iterator[bytes]:
    """Yield signatures and manifests of a bundle that is signed: `@S` and `@M` are the right ones."""
    yield from (b"@S", b"@S\n", b"", b"ed25519:", b"ed25519:" + b"A" * 86 + b"==", b"@S@S", b"ed25519:@S", b"\xff")
    yield from (b"m@M", b"m@M ", b"m", b"m@M@M", b'm{"schema":2}')


def zips() -> Iterator[bytes]:
    """Yield zip files."""
    for way in (
        {"compression": zipfile.ZIP_STORED},
        {"compression": zipfile.ZIP_DEFLATED},
        {"compression": zipfile.ZIP_LZMA},
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", **way) as archive:
            archive.writestr("x/manifest.json", b"{}" + b" " * 1000)
            archive.writestr("x/../m.tflite", b"x")
        yield buffer.getvalue()
        yield buffer.getvalue()[:-30]
    yield b"PK\5\6" + b"\xff" * 18


def recordings() -> Iterator[bytes]:
    """Yield recordings."""
    yield b'{"topic":"a","received_at":1.5,"text":"x"}\n{"topic":"a","received_at":1,"base64":"eA=="}\n'
    yield b"ts;a\n1;2\n2023-11-14T22:13:19;x\n"
    yield b"ts,a\n0001-01-01T00:00:00+23:59,1\n9999-12-31T23:59:59-23:59,1\n1e999,2\nnan,1\n"
    yield b'{"topic":"\\ud800","received_at":1e400,"text":"\\ud800"}\n'
    yield b"\xef\xbb\xbfts,a\n1,2,3,4\n"


def prefixed(those: Iterator[bytes], ways: int) -> Iterator[bytes]:
    """Yield each with every choice of settings before it; a large one with the first alone."""
    for one in those:
        for way in range(1 if len(one) > LARGE else ways):
            yield bytes([way]) + one


SEEDS: Final[dict[str, Callable[[], Iterable[bytes]]]] = {
    "json": lambda: prefixed(texts(), 7),
    "csv": lambda: prefixed(tables(), 7),
    "value": lambda: prefixed(values(), 2),
    "msgpack": lambda: prefixed(documents(Format.MSGPACK), 7),
    "cbor": lambda: prefixed(documents(Format.CBOR), 7),
    "sparkplug": sparkplugs,
    "raw": lambda: prefixed(blocks(), 7),
    "packed": lambda: packed(one for one in texts() if len(one) < LARGE),
    "pictures": lambda: (bytes([number % 4]) + one for number, one in enumerate(images())),
    "camera": lambda: (b"g" + one for one in images()),
    "messages": conversations,
    "active": lambda: islice(conversations(), 2, 8, 2),
    "frames": lambda: (bytes([1, size]) + one for one in streams() for size in (0, 7)),
    "commands": orders,
    "configuration": files,
    "state": states,
    "manifest": manifests,
    "signed": signatures,
    "zip": zips,
    "recording": recordings,
}
