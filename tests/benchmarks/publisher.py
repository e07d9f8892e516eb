"""Publishes readings of many streams over a bare socket: nothing between it and the broker that could be slow.

`python -m tests.benchmarks.publisher PORT QOS STREAMS SECONDS RATE FIRST_TS PERIOD` sends `RATE` messages a second
(0: as fast as the broker takes them), stream after stream, each JSON with a time and three channels. With RATE the
time is the wall clock's, without it goes on by PERIOD for each stream, from FIRST_TS. Prints the rate that it kept, and
how many it has sent.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import sys
import time

CHANNELS = 3
_TICK_S = 0.002
_READINGS = 4096


def connect(port: int) -> socket.socket:
    """Return a socket on which MQTT 3.1.1 has been accepted."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    name = f"bench{random.getrandbits(32):08x}".encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
    sock.sendall(bytes([0x10, len(body)]) + body)
    assert sock.recv(4)[3] == 0
    return sock


def channels() -> list[str]:
    """Return the payloads' second halves: three channels that look like sensors."""
    rng = random.Random(1)
    return [
        f'"temp":{20 + math.sin(i / 40) + rng.gauss(0, 0.1):.3f},"flow":{5 + rng.gauss(0, 0.3):.3f},'
        f'"power":{100 + 30 * math.sin(i / 97) + rng.gauss(0, 2):.2f}}}'
        for i in range(_READINGS)
    ]


def packet(stream: int, at: float, rest: str, qos: int, number: int) -> bytes:
    topic = f"bench/{stream}".encode()
    payload = f'{{"ts":{at:.3f},{rest}'.encode()
    middle = (number % 65535 + 1).to_bytes(2, "big") if qos else b""
    length = 2 + len(topic) + len(middle) + len(payload)
    assert length < 128 * 128
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([0x30 | qos << 1]) + size + len(topic).to_bytes(2, "big") + topic + middle + payload


def main() -> None:
    port, qos, streams = (int(word) for word in sys.argv[1:4])
    seconds, rate, at, period = (float(word) for word in sys.argv[4:8])
    sock = connect(port)
    rest = channels()
    begun = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < begun + seconds:
        due = int((now - begun) * rate) - sent if rate else 4 * streams
        if due <= 0:
            time.sleep(_TICK_S)
            continue
        made = []
        for _ in range(due):
            step = sent // streams
            stamp = time.time() if rate and not period else at + step * period
            made.append(packet(sent % streams, stamp, rest[step % _READINGS], qos, sent))
            sent += 1
        sock.sendall(b"".join(made))
        if qos:
            with contextlib.suppress(BlockingIOError):
                while sock.recv(1 << 16, socket.MSG_DONTWAIT):
                    pass
    sys.stdout.write(f"{sent / (time.monotonic() - begun):.0f} {sent}\n")


if __name__ == "__main__":
    main()
