"""pproxy's server-side parsers, fed from a raw socket through a layer.

Read first: pproxy.proto. The one place that imports pproxy. Its parsers want a reader with ``read_w``, ``read_n``,
``read_until`` and ``rollback``; ``ParserReader`` has them, with a bound on what it holds and no thread of asyncio's
streams. Whatever a parser raises is a ``PeerError`` here: it asserts, and raises plain ``Exception``, on what it is
sent.
"""

from __future__ import annotations

import asyncio
import socket
import warnings
from typing import Any

from ..egress.names import HostError, parse_host
from ..quic.errors import LocalError, PeerError
from .pipe import CHUNK, Layer
from .tls import TlsServer


class Parsers:
    """One protocol of pproxy's. target: HOST:PORT for "tunnel", else empty. Raises LocalError when pproxy lacks it."""

    def __init__(self, protocol: str, target: str = "") -> None:
        with warnings.catch_warnings():
            # Compiled for the first time, pproxy's sources warn about escapes in its regular expressions.
            warnings.simplefilter("ignore")
            from pproxy import proto
        self._accept = proto.accept
        error, self._protocols = proto.get_protos([f"{protocol}{{{target}}}" if target else protocol])
        if error:
            raise LocalError(f"this pproxy has no protocol {protocol}: {error}")

    async def destination(
        self, reader: ParserReader, sock: socket.socket, users: tuple[bytes, ...] = ()
    ) -> tuple[str, int]:
        """What the client asks for: a normalised name or an IP literal, and a port. Raises PeerError or OSError."""
        try:
            _, _, host, port, *_ = await self._accept(
                self._protocols,
                reader,
                writer=_NoWriter(),
                users=list(users) or None,
                sock=sock,
                reader_cipher=None,
                authtable=None,
            )
        except (OSError, PeerError):
            raise
        except Exception as error:
            if reader.failure is not None:
                raise reader.failure from None
            raise PeerError(f"the request cannot be understood: {type(error).__name__}") from None
        return _destination(host, port)


class ParserReader:
    """Bytes from a socket through a layer: first for a parser, then, by ``take`` and ``read``, for the flow."""

    def __init__(self, sock: socket.socket, layer: Layer) -> None:
        self._sock = sock
        self._layer = layer
        self._buffer = bytearray()
        self._ended = False
        self.failure: OSError | PeerError | None = None
        """What broke the socket or the layer: parsers turn it into a plain exception."""

    async def read_n(self, size: int) -> bytes:
        """Exactly size bytes. Raises EOFError before that many."""
        while len(self._buffer) < size:
            if not await self._fill():
                raise EOFError("the connection ended inside the request")
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def read_w(self, size: int) -> bytes:
        """pproxy's "read some": exact here too, since its callers compare with what has just this size."""
        return await self.read_n(size)

    async def read_until(self, separator: bytes) -> bytes:
        while (end := self._buffer.find(separator)) < 0:
            if not await self._fill():
                raise EOFError("the connection ended inside the request")
        return await self.read_n(end + len(separator))

    def rollback(self, data: bytes) -> None:
        self._buffer[:0] = data

    def take(self) -> bytes:
        """What is here already and no parser has taken."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def read(self) -> bytes:
        """Some bytes, b"" after the end. Raises PeerError or OSError."""
        if not self._buffer:
            await self._fill(bounded=False)
        return self.take()

    async def _fill(self, bounded: bool = True) -> bool:
        """Wait until there is more; False at the end."""
        if bounded and len(self._buffer) > MAX_REQUEST:
            raise PeerError("the request is too long")
        loop = asyncio.get_running_loop()
        before = len(self._buffer)
        try:
            while len(self._buffer) == before and not self._ended:
                data = await loop.sock_recv(self._sock, CHUNK)
                if data:
                    try:
                        self._buffer += self._layer.decode(data)
                    finally:
                        if isinstance(self._layer, TlsServer) and (answer := self._layer.pending()):
                            await loop.sock_sendall(self._sock, answer)
                    self._ended = self._layer.ended
                else:
                    self._ended = True
                    self._layer.decode_eof()
        except (OSError, PeerError) as error:
            self.failure = error
            raise
        return len(self._buffer) > before


class _NoWriter:
    """None of the offered protocols answers a request."""

    def write(self, data: bytes) -> None:
        raise PeerError("the parser wanted to answer")

    def get_extra_info(self, name: str) -> Any:
        return None


def _destination(host: object, port: object) -> tuple[str, int]:
    if not isinstance(host, str) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise PeerError("the request has no valid destination")
    try:
        return str(parse_host(host)), port
    except HostError as error:
        raise PeerError(f"the request's destination: {error}") from None


MAX_REQUEST = 64 << 10
"""Bytes that may wait before a destination is known: a request of 300 bytes, and what was sent right behind it."""
