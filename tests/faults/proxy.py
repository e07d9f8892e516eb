"""A small TCP proxy between a client and its broker, which does to the network what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from tests.brokers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT: Final = 1
PUBLISH: Final = 3
PUBACK: Final = 4
_UNAVAILABLE: Final = b"\x20\x03\x00\x88\x00"  # MQTT 5's CONNACK: server unavailable
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class Packets:
    """Cuts a byte stream into MQTT packets."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the packets that are complete by now."""
        self._left += data
        found = []
        while True:
            length = shift = 0
            at = 1
            while at < len(self._left):
                byte = self._left[at]
                length |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if byte < 0x80:
                    break
            else:
                return found
            if len(self._left) < at + length:
                return found
            found.append(self._left[: at + length])
            self._left = self._left[at + length :]


def packet_id(packet: bytes) -> int:
    """Return the packet identifier of a PUBLISH of QoS 1 or of a PUBACK, 0 of a PUBLISH of QoS 0."""
    at = 2
    while packet[at - 1] & 0x80:  # the remaining length goes on
        at += 1
    if packet[0] >> 4 == PUBLISH:
        if not packet[0] & 0x06:
            return 0
        at += 2 + int.from_bytes(packet[at : at + 2])
    return int.from_bytes(packet[at : at + 2])


class Link:
    """One connection through the proxy. `dead`: bytes were swallowed, so that nothing may pass any more.

    `owed`: each PUBLISH of QoS 1 that the client has not acknowledged on it, by its packet identifier.
    """

    def __init__(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.ends = (client, broker)
        self.dead = False
        self.owed: dict[int, bytes] = {}

    def reset(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()


class Proxy:
    """Listens on `port` for as long as it is there; what it does is set from any thread.

    `half_open`: swallows all bytes, of new connections too, and closes nothing. `deaf`: no PUBLISH gets from the
    broker to the client; all else does. `closing`: connections are taken and closed at once. `delay_s` before each
    piece, and `trickle`: byte by byte. `hold_connack_s`: the broker's first packet of a connection waits so long.
    `refusing`: every CONNECT is answered with a refusal. `keep_back` tells which of the client's packets never arrive.
    `delivered` holds each PUBLISH that the broker sent, `acknowledged` those that a PUBACK of the client passed for,
    `sent` how many packets of each type the client did.
    """

    def __init__(self, broker_port: int) -> None:
        self.broker_port = broker_port
        self.port = free_port()
        self.heal()
        self.connections = 0
        self.delivered: list[bytes] = []
        self.acknowledged: deque[bytes] = deque()
        self.sent: Counter[int] = Counter()
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._never = asyncio.Event()  # whose waiters it holds: a task that nothing holds is collected
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", self.port), self._loop
        ).result(5)

    @property
    def url(self) -> str:
        return f"mqtt://localhost:{self.port}"

    def cut(self) -> None:
        """Reset every connection that there is."""
        self._call(lambda: [link.reset() for link in self._links])

    def swallow(self) -> None:
        """Let every connection that there is stand, and nothing pass on it any more."""
        self._call(lambda: [setattr(link, "dead", True) for link in self._links])

    def heal(self) -> None:
        """Let new connections, and those that lost nothing, pass as they are."""
        self.half_open = self.deaf = self.closing = self.trickle = self.refusing = False
        self.delay_s = self.hold_connack_s = 0.0
        self.keep_back: Callable[[bytes], bool] = lambda _packet: False

    def close(self) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, what: object) -> None:
        done = threading.Event()

        def call() -> None:
            what()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.closing:
            writer.close()
            return
        try:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self.broker_port)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, to_broker)
        self._links.add(link)
        up = asyncio.ensure_future(self._pump(link, reader, to_broker, down=False))
        down = asyncio.ensure_future(self._pump(link, from_broker, writer, down=True))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if link.dead:  # the other end shall not hear of it
                with contextlib.suppress(asyncio.CancelledError):
                    await self._never.wait()
        finally:
            self._links.discard(link)
            up.cancel()
            down.cancel()
            for end in link.ends:
                end.close()

    def _downwards(self, link: Link, packet: bytes) -> bool:
        if packet[0] >> 4 != PUBLISH:
            return True
        if self.deaf or link.dead:
            return False
        self.delivered.append(packet)
        if number := packet_id(packet):
            link.owed[number] = packet
        return True

    def _upwards(self, link: Link, packet: bytes) -> bool:
        kind = packet[0] >> 4
        self.sent[kind] += 1
        if self.refusing and kind == CONNECT:
            link.ends[0].write(_UNAVAILABLE)
            return False
        if self.keep_back(packet):
            return False
        if kind == PUBACK and not link.dead and (owed := link.owed.pop(packet_id(packet), None)) is not None:
            self.acknowledged.append(owed)
        return True

    async def _pump(
        self, link: Link, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, down: bool
    ) -> None:
        packets, first = Packets(), True
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                link.dead = link.dead or self.half_open
                pass_on = self._downwards if down else self._upwards
                data = b"".join(one for one in packets.feed(data) if pass_on(link, one))
                if down and first and data:
                    first = False
                    await asyncio.sleep(self.hold_connack_s)
                if link.dead:
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                for piece in [data[i : i + 1] for i in range(len(data))] if self.trickle else [data]:
                    target.write(piece)
                    await target.drain()
                    if self.trickle:
                        await asyncio.sleep(0.0005)
