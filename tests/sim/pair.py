"""Two hubs, a client's and a server's, joined by two links on a jumping clock.

Time stands still while anyone has something to do, and then jumps to whatever comes next: minutes of a bad network take
milliseconds, and a seed gives the same network again (aioquic draws its own keys, so packets differ in their octets and
a little in their sizes). The server sees the client behind a NAT, whose mapping may change.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from quicsocks.userspace.quic.hub import Hub
from quicsocks.userspace.quic.native.outlet import MemoryOutlet
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Address, DialConfig, ListenConfig, Session, SessionHandler

from .link import NOT_ECT, Conditions, Link

CLIENT: Address = ("192.0.2.1", 50000)
SERVER: Address = ("198.51.100.1", 443)
EPOCH = 1_700_000_000.0
"""Unix time when the simulation begins."""


class Host:
    """A hub, and its end of the wire."""

    def __init__(self, pair: Pair, seed: int, engine: str) -> None:
        self.awake = False
        self.engine = engine
        self.random = random.Random(seed)
        self.hub = Hub(
            random_bytes=self.random.randbytes,
            wall_clock=lambda: EPOCH + pair.now,
            wake=self._wake,
            engine=engine,
            server_id=7,
        )
        if engine == "native":
            # As over sockets: packets may carry ECN marks.
            self.hub.outlet = MemoryOutlet()

    def send(self, now: float) -> list[tuple[bytes, Route, int]]:
        """What it has to send: datagrams, their routes, and their ECN codepoints."""
        self.awake = False
        datagrams = [(data, route, NOT_ECT) for data, route in self.hub.datagrams_to_send(now)]
        outlet = self.hub.outlet
        if outlet is not None:
            assert isinstance(outlet, MemoryOutlet)
            datagrams += outlet.take()
        return datagrams

    def _wake(self) -> None:
        self.awake = True


class Pair:
    """up: conditions from client to server; down: back, the same when not given. engines: the client's, the server's."""

    engines = ("aioquic", "aioquic")
    """Those of pairs that name none."""

    def __init__(
        self,
        seed: int = 0,
        up: Conditions | None = None,
        down: Conditions | None = None,
        engines: tuple[str, str] | None = None,
    ) -> None:
        engines = engines if engines is not None else Pair.engines
        up = up if up is not None else Conditions()
        self.now = 100.0
        self.client = Host(self, seed * 4, engines[0])
        self.server = Host(self, seed * 4 + 1, engines[1])
        self.up = Link(up, seed * 4 + 2)
        self.down = Link(down if down is not None else up, seed * 4 + 3)
        self.nat: Address = ("203.0.113.9", 61000)
        """The client's address as the server sees it now."""
        self.seen: list[tuple[str, bytes]] = []
        """Every datagram sent, as ("up" or "down", data), when ``record`` is set."""
        self.record = False
        self._flying: list[tuple[float, int, str, bytes, Any, int]] = []
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def listen(self, config: ListenConfig, accept: Callable[[Session], SessionHandler]) -> None:
        self.server.hub.listen(config, accept)

    def dial(self, config: DialConfig, handler: SessionHandler) -> Session:
        return self.client.hub.dial(Route(CLIENT, SERVER), config, handler, self.now)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Let action happen at that time, or with the next step when it has passed."""
        self._count += 1
        heapq.heappush(self._planned, (time, self._count, action))

    def rebind(self, address: Address) -> None:
        """The client's NAT gives it another port or address: what is under way to the old one is lost."""
        self.nat = address

    def datagrams_sent(self, up: bool) -> int:
        """By the client, or by the server, so far."""
        link = self.up if up else self.down
        return link.carried + link.dropped

    def restart_server(self, seed: int) -> None:
        """The server dies without a word, and another begins in its place."""
        self.server = Host(self, seed, self.server.engine)

    def send_up(self, data: bytes, source: Address | None = None) -> None:
        """A datagram of a stranger's, or of the client's NAT address, straight to the server."""
        self.server.hub.receive_datagram(data, Route(SERVER, source or self.nat), self.now)
        self._flush()

    def step(self, latest: float = float("inf")) -> bool:
        """Jump to the next thing that happens, if it is not later than latest, and let it happen."""
        self._flush()
        times = [at for at in (self.client.hub.get_timer(), self.server.hub.get_timer()) if at is not None]
        if self._flying:
            times.append(self._flying[0][0])
        if self._planned:
            times.append(self._planned[0][0])
        if not times or min(times) > latest:
            return False
        # A timer that is due already costs a microsecond, as it would anywhere: aioquic's may come a rounding error early.
        self.now = max(self.now + 1e-6, min(times))
        while self._flying and self._flying[0][0] <= self.now:
            self._deliver(*heapq.heappop(self._flying)[2:])
        for host in (self.client, self.server):
            host.hub.handle_timer(self.now)
        while self._planned and self._planned[0][0] <= self.now:
            heapq.heappop(self._planned)[2]()
        self._flush()
        return True

    def drive(self, until: Callable[[], bool], seconds: float = 60.0, steps: int = 200_000) -> None:
        """Step until it is so. Fails after so many simulated seconds or steps."""
        latest = self.now + seconds
        for _ in range(steps):
            if until():
                return
            if not self.step(latest):
                break
        assert until(), f"not reached after {self.now - latest + seconds:.3f} s on the simulation's clock"

    def settle(self, quiet: float = 3.0, steps: int = 200_000) -> None:
        """Step until nothing happens for so many seconds."""
        for _ in range(steps):
            if not self.step(self.now + quiet):
                return
        raise AssertionError(f"still busy after {steps} steps")

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, with all that happens in it."""
        end = self.now + seconds
        while self.step(end):
            pass
        self.now = end

    def close(self) -> None:
        """Close what the hubs hold open: key logs."""
        for host in (self.client, self.server):
            host.hub.forget()

    def _deliver(self, direction: str, data: bytes, address: Any, ecn: int) -> None:
        if direction == "up":
            self.server.hub.receive_datagram(data, Route(SERVER, address), self.now, ecn)
        elif address == self.nat:
            self.client.hub.receive_datagram(data, Route(CLIENT, SERVER), self.now, ecn)

    def _flush(self) -> None:
        for _ in range(10_000):
            busy = (self._send(self.client, "up"), self._send(self.server, "down"))
            if not any(busy):
                return
        raise AssertionError("the hubs never come to rest")

    def _send(self, host: Host, direction: str) -> bool:
        """Whether it had anything to send, or wants to be asked again."""
        link = self.up if direction == "up" else self.down
        datagrams = host.send(self.now)
        for data, route, ecn in datagrams:
            if self.record:
                self.seen.append((direction, data))
            address = self.nat if direction == "up" else route.remote
            for arrives, form, marked in link.carry(data, self.now, ecn):
                self._count += 1
                heapq.heappush(self._flying, (arrives, self._count, direction, form, address, marked))
        return bool(datagrams) or host.awake
