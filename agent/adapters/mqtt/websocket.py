"""MQTT inside WebSocket frames (RFC 6455; MQTT 5, section 6): the library's protocol without IO, on our wire.

Loaded only where `broker.url` asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from agent.adapters.mqtt.frames import MalformedError
from agent.adapters.mqtt.wire import READ_BYTES, Wire

if TYPE_CHECKING:
    import socket

    from agent.adapters.mqtt.broker import Endpoint
    from agent.adapters.mqtt.frames import FrameReader

# A broker may put a packet into one frame, and MQTT's packets are at most this long; their header comes on top.
MAX_FRAME_BYTES: Final = (1 << 28) + 5
_DATA: Final = (Opcode.BINARY, Opcode.CONT)


class WebSocketWire(Wire):
    """A wire whose bytes travel in binary frames; where frames begin and end says nothing about packets."""

    def __init__(self, sock: socket.socket, reader: FrameReader, address: Endpoint) -> None:
        """Shake hands on a connected socket, within its timeout for each read. Raises OSError."""
        super().__init__(sock, reader)
        self._gathered = bytearray()
        self._protocol = ClientProtocol(
            parse_uri(str(address)), subprotocols=[Subprotocol("mqtt")], max_size=MAX_FRAME_BYTES
        )
        self._protocol.send_request(self._protocol.connect())
        sock.sendall(b"".join(self._protocol.data_to_send()))
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            try:
                data = sock.recv(READ_BYTES)
            except ConnectionResetError:
                data = b""
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
        if self._protocol.handshake_exc is not None:
            raise ConnectionError(_in_words(self._protocol.handshake_exc))
        if self._protocol.subprotocol is None:
            raise ConnectionError("speaks WebSocket, but not MQTT in it")
        self._take()

    @property
    def unsent(self) -> bool:
        """Tell whether bytes wait for the network."""
        return bool(self._gathered) or super().unsent

    def send(self, buffer: bytes | bytearray) -> int:
        """Gather bytes for the next flush, which makes one frame of them."""
        self._gathered += buffer
        return len(buffer)

    def flush(self) -> None:
        """Write what has been gathered, as far as the network takes it."""
        if self._gathered and self._protocol.state is State.OPEN:
            self._protocol.send_binary(bytes(self._gathered))
            self._gathered.clear()
        self._unsent += b"".join(self._protocol.data_to_send())
        super().flush()

    def abort(self, reason: Exception) -> None:
        """Let paho find a broken connection at its next read."""
        self._gathered.clear()
        super().abort(reason)

    def close(self) -> None:
        """Say farewell, if that is possible at once, and close."""
        self.flush()
        if self._protocol.state is State.OPEN:
            self._protocol.send_close()
        super().close()

    def _feed(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._take()
        self._unsent += b"".join(self._protocol.data_to_send())  # answers to pings, and to a farewell
        if self._protocol.parser_exc is not None:
            raise MalformedError(f"no WebSocket frames: {self._protocol.parser_exc}")

    def _take(self) -> None:
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        data = b"".join([frame.data for frame in frames if frame.opcode in _DATA])
        if data:
            self.reader.feed(data)
        self._ended = self._ended or any(frame.opcode is Opcode.CLOSE for frame in frames)


def _in_words(error: Exception) -> str:
    """Return why there is no WebSocket, to be read behind the address."""
    if isinstance(error, InvalidStatus):
        return f"answers with HTTP {error.response.status_code}, not with a WebSocket; is the path in broker.url right?"
    return f"does not open a WebSocket: {error}"
