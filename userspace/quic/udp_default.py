"""UDP sockets with nothing but the portable calls: one datagram a call, no reports of ICMP errors.

``udp`` picks this module where there is no better one, and says what the class offers.
"""

from __future__ import annotations

import socket

from .session import Route
from .types import Address

BATCH = 64
"""Datagrams taken per readiness, so that timers and other sockets of the loop get their turn."""
LARGEST = 65536
BUFFER = 1 << 20
"""Octets of the kernel's buffers: 20 ms of what this engine can read, for the time that the event loop is busy
elsewhere. More is a queue that every flow waits in while a bulk transfer outruns the reader."""
ROUTES = 4096
"""Remote addresses remembered, to save making the same small object for every datagram."""


class UdpSocket:
    """One bound, unconnected, non-blocking socket. number: its place in the endpoint's list."""

    def __init__(self, bound: socket.socket, number: int) -> None:
        self.socket = bound
        self.family = bound.family
        self.number = number
        name = bound.getsockname()
        self.local: Address = (name[0], name[1])
        self.wildcard = name[0] in ("0.0.0.0", "::")  # a comparison, not a binding
        self.suspicious = False
        """The event loop may have lost interest in the socket after an error on it."""
        self._routes: dict[object, Route] = {}
        self.configure()

    def configure(self) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)

    @property
    def receive_buffer(self) -> int:
        """Octets that the kernel grants; Linux counts its own overhead in, twice the data."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def route_to(self, remote: Address) -> Route:
        return Route(self.local, remote, self.number)

    def receive(self) -> list[tuple[bytes, Route]]:
        """What has arrived, at most about BATCH datagrams."""
        arrived: list[tuple[bytes, Route]] = []
        while len(arrived) < BATCH:
            try:
                data, address = self.socket.recvfrom(LARGEST)
            except BlockingIOError:
                break
            except OSError:
                # An error of an earlier datagram. It takes a place, so that a stream of them cannot hold us here.
                self.suspicious = True
                break
            arrived.append((data, self.remember(address, address, self.local)))
        return arrived

    def remember(self, key: object, address: tuple[str, int], local: Address) -> Route:
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= ROUTES:
                self._routes.clear()
            route = self._routes[key] = Route(local, (address[0], address[1]), self.number)
        return route

    def send(self, datagrams: list[tuple[bytes, Route]]) -> int:
        """Send in order; how many were taken. Fewer than all: the socket is full, try again when it is writable.
        Datagrams that the network refuses count as taken, as lost ones do."""
        for count, (data, route) in enumerate(datagrams):
            try:
                self.socket.sendto(data, route.remote)
            except BlockingIOError:
                return count
            except OSError:
                self.suspicious = True
        return len(datagrams)

    def errors(self) -> list[tuple[Address, str]]:
        """Remote addresses that the network says cannot be reached, and why."""
        return []
