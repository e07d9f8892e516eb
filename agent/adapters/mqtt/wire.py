"""The socket between the broker and paho: reads in large pieces, keeps PUBLISH packets back, gathers writes.

paho sees an ordinary socket that carries only the packets it has to know about.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final

from agent.adapters.mqtt.frames import MalformedError

if TYPE_CHECKING:
    import socket

    from agent.adapters.mqtt.frames import FrameReader

READ_BYTES: Final = 65536
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """One connection's socket. Nothing here blocks; used by the network thread only.

    `failure` is why the connection ended, where the operating system or TLS knows it.
    """

    def __init__(self, sock: socket.socket, reader: FrameReader) -> None:
        self._socket = sock
        self._unsent = bytearray()
        self._ended = False
        self.reader = reader
        self.failure: Exception | None = None

    def receive(self) -> bool:
        """Read once from the network; return whether anything, an end included, was found."""
        try:
            data = self._socket.recv(READ_BYTES)
            if data:
                self._feed(data)
            else:
                self._ended = True
        except _WAIT:
            return False
        except (OSError, MalformedError) as error:
            self.abort(error)
        return True

    def _feed(self, data: bytes) -> None:
        self.reader.feed(data)

    def flush(self) -> None:
        """Write what has been gathered, as far as the network takes it."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except _WAIT:
            return
        except OSError as error:
            self.abort(error)

    def abort(self, reason: Exception) -> None:
        """Let paho find a broken connection at its next read."""
        self.failure = self.failure or reason
        self._ended = True
        self._unsent.clear()
        self.reader.control.clear()

    @property
    def unsent(self) -> bool:
        """Tell whether bytes wait for the network."""
        return bool(self._unsent)

    @property
    def news(self) -> bool:
        """Tell whether paho has something to read: a packet or the end."""
        return bool(self.reader.control) or self._ended

    def pending(self) -> int:
        """Return how many decrypted bytes wait where poll() does not see them."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    # What paho calls.

    def recv(self, buffer_size: int) -> bytes:
        """Return bytes of packets other than PUBLISH; b"" after the end of the connection."""
        control = self.reader.control
        if not control:
            if self._ended:
                return b""
            raise BlockingIOError
        data = bytes(control[:buffer_size])
        del control[:buffer_size]
        return data

    def send(self, buffer: bytes | bytearray) -> int:
        """Gather bytes for the next flush."""
        self._unsent += buffer
        return len(buffer)

    def close(self) -> None:
        """Write what is left, if that is possible at once, and close."""
        with contextlib.suppress(OSError):
            if not self._ended:
                self.flush()
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of socket.setblocking
        """Pass on."""
        self._socket.setblocking(flag)
