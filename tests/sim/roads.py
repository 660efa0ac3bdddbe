"""A client and a server with several addresses each, and a road of its own, both ways, between any two of them.

Every address of the client's stands behind a NAT of its own, whose mapping may change. Read ``pair`` first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Address, DialConfig, Session, SessionHandler

from .link import NOT_ECT, Conditions, Link
from .pair import CLIENT, SERVER, Host, Pair

WIFI: Address = CLIENT
MOBILE: Address = ("192.0.2.130", 50001)
CABLE: Address = ("192.0.2.200", 50002)
PREFERRED: Address = ("198.51.100.77", 4433)
WIFI_6: Address = ("2001:db8:1::1", 50000)
SERVER_6: Address = ("2001:db8:2::1", 443)
PREFERRED_6: Address = ("2001:db8:2::77", 4433)
SERVERS = [SERVER, PREFERRED, SERVER_6, PREFERRED_6]


@dataclass(frozen=True)
class Sent:
    """A datagram that left. local, remote: the client's address and the server's, outside: as its NAT showed it."""

    at: float
    up: bool
    local: Address
    outside: Address
    remote: Address
    data: bytes

    @property
    def cid(self) -> bytes:
        """The destination connection ID of a short header; empty for a long one."""
        return b"" if self.data[0] & 0x80 else self.data[1:9]


class Roads(Pair):
    """up, down: conditions of every road, until ``road`` is asked for one."""

    def __init__(
        self,
        seed: int = 0,
        up: Conditions | None = None,
        down: Conditions | None = None,
        engines: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(seed, up, down, engines if engines is not None else ("native", "native"))
        self._seed = seed * 1000
        self.locals: list[Address] = [WIFI, MOBILE, CABLE, WIFI_6]
        self.nats: dict[Address, Address] = {
            WIFI: ("203.0.113.9", 61000),
            MOBILE: ("203.0.113.130", 61001),
            CABLE: ("203.0.113.200", 61002),
            WIFI_6: WIFI_6,
        }
        self.sent: list[Sent] = []
        self.tap: Callable[[Sent], None] | None = None
        """Sees every datagram of the client's as it leaves."""
        self._roads: dict[tuple[Address, Address], tuple[Link, Link]] = {}
        self.client.hub.find_route = self._find_route

    def dial_from(self, local: Address, remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
        return self.client.hub.dial(self._find_route(local, remote), config, handler, self.now)

    def road(self, local: Address, remote: Address = SERVER) -> tuple[Link, Link]:
        """Up and down."""
        found = self._roads.get((local, remote))
        if found is None:
            self._seed += 2
            found = Link(self.up.conditions, self._seed), Link(self.down.conditions, self._seed + 1)
            self._roads[local, remote] = found
        return found

    def change(self, local: Address, conditions: Conditions, remote: Address = SERVER) -> None:
        for link in self.road(local, remote):
            link.conditions = conditions

    def rebind(self, address: Address, local: Address = WIFI) -> None:
        """As Pair's, of the NAT before that local address."""
        # Two NATs have no address in common.
        first, _, last = address[0].rpartition(".")
        self.nats[local] = (f"{first}.{int(last) + 10 * self.locals.index(local)}", address[1])

    def datagrams_sent(self, up: bool) -> int:
        links = [road[0 if up else 1] for road in self._roads.values()]
        return sum(link.carried + link.dropped for link in links)

    def used(self, local: Address, *, up: bool = True, remote: Address = SERVER) -> list[Sent]:
        return [sent for sent in self.sent if (sent.local, sent.up, sent.remote) == (local, up, remote)]

    def send_as(self, data: bytes, source: Address, delay: float) -> None:
        """A datagram that somebody sends to the server from an address of his."""
        self._push(self.now + delay, "up", data, (SERVER, source), NOT_ECT)

    def send_down(self, data: bytes, source: Address, delay: float) -> None:
        """A datagram that somebody sends to the client's Wi-Fi, from an address of his."""
        self._push(self.now + delay, "down", data, (WIFI, self.nats[WIFI], source), NOT_ECT)

    def _find_route(self, local: Address, remote: Address) -> Route:
        if local not in self.locals or (":" in local[0]) != (":" in remote[0]):
            raise LocalError("no such address")
        return Route(local, remote, self.locals.index(local))

    def _push(self, at: float, direction: str, data: bytes, where: Any, ecn: int) -> None:
        self._count += 1
        heapq.heappush(self._flying, (at, self._count, direction, data, where, ecn))

    def _deliver(self, direction: str, data: bytes, address: Any, ecn: int) -> None:
        if direction == "up":
            remote, source = address
            self.server.hub.receive_datagram(data, Route(remote, source, SERVERS.index(remote)), self.now, ecn)
            return
        local, outside, remote = address
        if self.nats[local] == outside:
            self.client.hub.receive_datagram(data, self._find_route(local, remote), self.now, ecn)

    def _send(self, host: Host, direction: str) -> bool:
        up = direction == "up"
        datagrams = host.send(self.now)
        for data, route, ecn in datagrams:
            if up:
                local, remote = route.local, route.remote
                sent = Sent(self.now, up, local, self.nats[local], remote, data)
            else:
                # To an address that is nobody's any more, or an attacker's, it is written down and lost.
                mapped = {outside: local for local, outside in self.nats.items()}
                local, remote = mapped.get(route.remote, ("", 0)), route.local
                sent = Sent(self.now, up, local, route.remote, remote, data)
            self.sent.append(sent)
            if up and self.tap is not None:
                self.tap(sent)
            if local[0]:
                for arrives, form, marked in self.road(local, remote)[0 if up else 1].carry(data, self.now, ecn):
                    where = (remote, sent.outside) if up else (local, sent.outside, remote)
                    self._push(arrives, direction, form, where, marked)
        return bool(datagrams) or host.awake
