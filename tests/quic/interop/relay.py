"""A UDP relay on loopback between a client and a server that are programs: loses, repeats and reorders, seeded.

What it does to a datagram is ``sim.link``'s; what passes it can be written down (``capture``). One relay serves as many
clients as come; each has a socket of its own towards the server, as behind a NAT. Marks of ECN end here, as on some
paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from quicsocks.userspace.quic.types import Address

from ...sim.link import Conditions, Link

LOOPBACK: Address = ("127.0.0.1", 0)
CLEAN = Conditions(delay=0.0)
BAD = Conditions(delay=0.003, loss=0.03, duplicate=0.02, reorder=0.03, reorder_by=0.002)
"""Enough for every datagram of a handshake to be lost in some run, and for hundreds of a transfer to be."""
RETRY = 0xF0
"""First octet of a Retry packet of version 1, without its low bits."""
BUFFER = 4 << 20
"""Octets that the relay's own sockets hold, so that it is the link that loses and not the kernel."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A datagram that the relay has taken. source, target: as the client sees the path, with the relay as the server."""

    at: float
    source: Address
    target: Address
    data: bytes


class Relay:
    """address: where clients send to. retries: whether a Retry packet (RFC 9000 §17.2.5) has come from the server.
    taken: all that came, when ``record`` is set; before losses."""

    def __init__(self, server: Address, conditions: Conditions, seed: int) -> None:
        self._server = server
        self._conditions = conditions
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self._upstreams: dict[Address, _Side] = {}
        self._links: list[Link] = []
        self._closed = False
        self.retries = False
        self.record = False
        self.taken: list[Passed] = []
        self._front = _Side(self._from_client)
        self.address = self._front.address

    @property
    def dropped(self) -> int:
        return sum(link.dropped for link in self._links)

    def close(self) -> None:
        self._closed = True
        for side in (self._front, *self._upstreams.values()):
            side.close()

    def _from_client(self, data: bytes, client: Address) -> None:
        side = self._upstreams.get(client)
        if side is None:
            back = self._link()
            side = self._upstreams[client] = _Side(lambda data, _: self._from_server(data, client, back))
            side.link = self._link()
        self._take(data, client, self.address)
        assert side.link is not None
        self._carry(data, side.link, side, self._server)

    def _from_server(self, data: bytes, client: Address, link: Link) -> None:
        self._take(data, self.address, client)
        self.retries |= data[0] & 0xF0 == RETRY
        self._carry(data, link, self._front, client)

    def _take(self, data: bytes, source: Address, target: Address) -> None:
        if self.record:
            self.taken.append(Passed(self._loop.time(), source, target, data))

    def _carry(self, data: bytes, link: Link, side: _Side, target: Address) -> None:
        now = self._loop.time()
        for arrives, form, _ in link.carry(data, now):
            if arrives <= now:
                side.send(form, target)
            else:
                self._loop.call_at(arrives, self._arrive, form, side, target)

    def _arrive(self, data: bytes, side: _Side, target: Address) -> None:
        if not self._closed:
            side.send(data, target)

    def _link(self) -> Link:
        self._links.append(Link(self._conditions, self._seed + len(self._links)))
        return self._links[-1]


class _Side:
    """A socket of the relay's. link: what its clients' datagrams go through."""

    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received
        self.link: Link | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self._socket.bind(LOOPBACK)
        self.address: Address = self._socket.getsockname()
        self._loop.add_reader(self._socket, self._read)

    def send(self, data: bytes, target: Address) -> None:
        # Whoever has ended is no concern of the relay's, nor is a socket that is full: both are losses.
        with contextlib.suppress(OSError):
            self._socket.sendto(data, target)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(64):
            try:
                data, source = self._socket.recvfrom(65536)
            except OSError:
                return
            self._received(data, source)


@contextlib.asynccontextmanager
async def relay(server: Address, conditions: Conditions, seed: int = 0) -> AsyncIterator[Relay]:
    made = Relay(server, conditions, seed)
    try:
        yield made
    finally:
        made.close()
