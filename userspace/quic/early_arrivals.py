"""0-RTT packets that have overtaken the Initial that begins their connection (RFC 9000 §5.2.2).

A few datagrams are held for a moment, by the connection ID that they name; nothing is known of them yet but that. Whoever
fills this up only makes others' early data go out again. This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

from dataclasses import dataclass

from .session import Route
from .types import VERSION_1

MOST = 64
"""Datagrams: 100 KiB."""
MOST_OF_ONE = 8
"""Of them for one connection: about an initial window, which is what a client may send early (RFC 9002 §7.2)."""
PATIENCE = 0.5
"""Seconds: packets overtake each other by milliseconds, and an Initial that was lost comes again after about a second,
with more early data likely."""
SHORTEST_CID = 8
"""Octets of a Destination Connection ID that a client makes up (RFC 9000 §7.2)."""
ZERO_RTT = 0xD0
"""Of a first octet: long header, fixed bit, type (RFC 9000 §17.2.3)."""


def is_early(data: bytes) -> bool:
    """Whether a datagram begins with a 0-RTT packet of the version that has early data here."""
    return (
        len(data) > 6
        and data[0] & 0xF0 == ZERO_RTT
        and int.from_bytes(data[1:5], "big") == VERSION_1
        and SHORTEST_CID <= data[5] < len(data) - 6
    )


@dataclass(frozen=True, slots=True)
class _Held:
    data: bytes
    route: Route
    ecn: int
    until: float


class EarlyArrivals:
    """Times: s, on the clock of the calls."""

    def __init__(self) -> None:
        self._held: dict[bytes, list[_Held]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keep(self, data: bytes, route: Route, now: float, ecn: int) -> bool:
        """False: there is no room. data: as ``is_early`` has it."""
        self._drop_old(now)
        held = self._held.get(data[6 : 6 + data[5]], [])
        if self._count >= MOST or len(held) >= MOST_OF_ONE:
            return False
        held.append(_Held(data, route, ecn, now + PATIENCE))
        self._held[data[6 : 6 + data[5]]] = held
        self._count += 1
        return True

    def take(self, cid: bytes, now: float) -> list[tuple[bytes, Route, int]]:
        """What has come for it, in order."""
        held = self._held.pop(cid, [])
        self._count -= len(held)
        return [(each.data, each.route, each.ecn) for each in held if now < each.until]

    def _drop_old(self, now: float) -> None:
        # By their first arrivals, which is the order of the connection IDs here.
        while self._held:
            cid, held = next(iter(self._held.items()))
            if now < held[0].until:
                return
            self.take(cid, now)
