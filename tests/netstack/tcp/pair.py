"""Two stacks joined by a simulated path, on a clock that jumps, all from one seed. Every octet is checked as it comes."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from quicsocks.netstack.stack import Stack, StackOptions
from quicsocks.netstack.tcp.connection import Connection
from quicsocks.netstack.tcp.types import Ended, Options
from tests.sim.link import Conditions, Link

NEAR, FAR = "10.0.0.1", "10.0.0.2"
NEAR6, FAR6 = "fd00::1", "fd00::2"
MOST_STEPS = 2_000_000
_SLAB = random.Random(20).randbytes(1 << 16)


def octets(key: int, offset: int, size: int) -> bytes:
    """What belongs at offset in the stream of this key: no two places within 64 KiB are alike."""
    start = (offset + key * 7919) % len(_SLAB)
    found = _SLAB[start : start + size]
    while len(found) < size:
        found += _SLAB[: size - len(found)]
    return found


@dataclass
class End:
    """A handler that sends ``total`` octets as it may, finishes, and checks what comes.

    write: octets at once. hold: seconds that credit is kept back."""

    key: int
    total: int
    peer_key: int
    peer_total: int
    write: int = 20000
    hold: float = 0.0
    written: int = 0
    received: int = 0
    paused: bool = False
    events: list[str] = field(default_factory=list)
    connection: Connection | None = None
    owed: list[tuple[float, int]] = field(default_factory=list)
    world: Pair | None = None
    finish: bool = True

    def pump(self) -> None:
        connection = self.connection
        assert connection is not None
        while self.written < self.total and not self.paused:
            size = min(self.write, self.total - self.written)
            connection.write(octets(self.key, self.written, size))
            self.written += size
        if self.written == self.total and self.finish:
            connection.finish()

    def connected(self) -> None:
        self.events.append("connected")
        self.pump()

    def data_received(self, data: bytes) -> None:
        assert data == octets(self.peer_key, self.received, len(data)), f"wrong octets at {self.received}"
        self.received += len(data)
        assert self.connection is not None
        assert self.world is not None
        if self.hold:
            self.owed.append((self.world.now + self.hold, len(data)))
        else:
            self.connection.consumed(len(data))

    def eof_received(self) -> None:
        assert self.received == self.peer_total, f"the end at {self.received} of {self.peer_total}"
        self.events.append("eof")

    def reset_received(self, code: int) -> None:
        self.events.append("reset")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pump()

    def send_completed(self) -> None:
        self.events.append("sent")

    def connection_lost(self, ended: Ended) -> None:
        self.events.append(ended.end.name)


class Pair:
    """conditions: of both directions, or one each. watch(packet, from_near): sees every packet that a stack sends."""

    def __init__(
        self,
        seed: int,
        conditions: Conditions | tuple[Conditions, Conditions],
        *,
        options: Options | tuple[Options, Options] = Options(),  # noqa: B008 - it is frozen
        mtu: int = 1400,
        v6: bool = False,
        start: float | None = None,
        watch: Any = None,
    ) -> None:
        self.random = random.Random(seed)
        there, back = conditions if isinstance(conditions, tuple) else (conditions, conditions)
        self.links = (Link(there, seed * 2), Link(back, seed * 2 + 1))
        near, far = options if isinstance(options, tuple) else (options, options)
        self.addresses = (NEAR6, FAR6) if v6 else (NEAR, FAR)
        # Timestamps and sequence numbers wrap around anywhere.
        self.now = self.random.uniform(0, 5e6) if start is None else start
        self.begun = self.now
        self.stacks = tuple(
            Stack(
                StackOptions(addresses=(address,), mtu=mtu, tcp=tcp), random_bytes=self.random.randbytes, now=self.now
            )
            for address, tcp in zip(self.addresses, (near, far), strict=True)
        )
        self.flights: list[tuple[float, int, int, bytes]] = []
        self.sent = 0
        self.watch = watch
        self.ends: list[End] = []

    def open(self, here: End, there: End, port: int = 80) -> None:
        """Connect one more pair of ends, the first at the near stack."""
        for end in (here, there):
            end.world = self
            self.ends.append(end)

        def accepted(connection: Connection) -> None:
            there.connection = connection
            connection.set_handler(there)

        self.stacks[1].tcp.listen(port, accepted)
        here.connection = self.stacks[0].tcp.connect(self.addresses[1], port, here)

    def flush(self) -> None:
        for side, stack in enumerate(self.stacks):
            while packets := stack.packets_to_send(self.now):
                for packet in packets:
                    if self.watch is not None:
                        self.watch(packet, side == 0)
                    for at, arrived, ecn in self.links[side].carry(packet, self.now, _codepoint(packet)):
                        self.sent += 1
                        heapq.heappush(self.flights, (at, self.sent, 1 - side, _marked(arrived, ecn)))

    def next_at(self) -> float:
        owed = min((end.owed[0][0] for end in self.ends if end.owed), default=float("inf"))
        flight = self.flights[0][0] if self.flights else float("inf")
        return min(flight, owed, *(stack.next_timer() for stack in self.stacks))

    def step(self) -> bool:
        """On to the next thing that happens. False: nothing will."""
        self.flush()
        at = self.next_at()
        if at == float("inf"):
            return False
        self.now = max(self.now, at)
        while self.flights and self.flights[0][0] <= self.now:
            _, _, side, packet = heapq.heappop(self.flights)
            self.stacks[side].receive(packet, self.now)
        for stack in self.stacks:
            if stack.next_timer() <= self.now:
                stack.handle_timer(self.now)
        for end in self.ends:
            while end.owed and end.owed[0][0] <= self.now:
                assert end.connection is not None
                end.connection.consumed(end.owed.pop(0)[1])
        for stack in self.stacks:
            stack.tell()
        return True

    def run(self, most: float = 600.0, until: Any = None) -> float:
        """Until all ends have heard the end of it, or until() says so, or for so many seconds. Seconds that it took."""
        begun = self.now
        for _ in range(MOST_STEPS):
            if until is not None and until():
                break
            if until is None and all({"eof", "sent"} <= set(end.events) for end in self.ends):
                break
            if self.now - begun > most or not self.step():
                break
        else:
            raise AssertionError("it does not come to an end")
        return self.now - begun


def _codepoint(packet: bytes) -> int:
    return packet[1] & 3 if packet[0] >> 4 == 4 else packet[1] >> 4 & 3


def _marked(packet: bytes, ecn: int) -> bytes:
    """With another codepoint, IPv6 only: there is no checksum over it."""
    if packet[0] >> 4 != 6 or len(packet) < 2 or ecn == _codepoint(packet):
        return packet
    return packet[:1] + bytes([packet[1] & 0xCF | ecn << 4]) + packet[2:]
