"""A SOCKS5 server on uvloop that does nothing but relay: what one hop costs in Python before there is any tunnel.

``python -m bench.bare_hop ADDRESS PORT``. CONNECT to IPv4 addresses without authentication, half-close, backpressure by
pausing the reader. It must not become a product: no limits, no policy, for the benchmark's loopback only. The requests
are RFC 1928's, and are expected whole in one segment, which is how the benchmark sends them.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import cast

import uvloop

from bench.origin import raise_descriptor_limit

HIGH_WATER = 256 << 10  # bytes waiting towards one side before the other is no longer read


class Half(asyncio.Protocol):
    """One side of a flow; what it receives goes to its other side."""

    other: Half
    transport: asyncio.Transport
    ended = False  # its sender has sent FIN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        self.ended = True
        if self.other.ended:
            # Nobody else closes them, and uvloop 0.23 crashes when open transports are found by the garbage collector.
            self.transport.close()
            self.other.transport.close()
        else:
            self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.close()


class Door(Half):
    """The application's side, with the SOCKS5 greeting and request in front."""

    _greeted = False
    _dialled = False

    def data_received(self, data: bytes) -> None:
        if self._dialled:
            self.other.transport.write(data)
        elif not self._greeted:
            self._greeted = True
            self.transport.write(b"\x05\x00")
        elif len(data) == 10 and data[:4] == b"\x05\x01\x00\x01":
            self.transport.pause_reading()
            asyncio.get_running_loop().create_task(self._dial(socket.inet_ntoa(data[4:8]), data[8:]))
        else:
            self.transport.close()

    async def _dial(self, host: str, port: bytes) -> None:
        loop = asyncio.get_running_loop()
        far = Half()
        far.other = self
        try:
            await loop.create_connection(lambda: far, host, struct.unpack("!H", port)[0])
        except OSError:
            self.transport.write(b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00")
            self.transport.close()
            return
        self.other, self._dialled = far, True
        self.transport.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01" + port)
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        return self._dialled and super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._dialled:
            super().connection_lost(exc)


async def serve(address: str, port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Door, address, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    raise_descriptor_limit()
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
