"""The network of the QUIC interop runner: what its ns-3 scenarios do to packets, and a capture of all that was sent.

Read github.com/quic-interop/quic-network-simulator, sim/scenarios: rates are in percent, bursts bound what is lost or
spoilt in a row, and packets are numbered as they arrive. Queues there hold packets; here they hold as many octets.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from .link import NOT_ECT, Conditions, Link
from .pair import Pair

QUEUE = 25 * 1500
"""Octets: ``--queue=25``, in packets of an Ethernet."""
BURST = 3
SIMPLE = Conditions(delay=0.015, rate=10e6, queue=QUEUE)
"""``--delay=15ms --bandwidth=10Mbps --queue=25``."""
HEADER = 50
"""Octets at a packet's begin of which one is spoilt: often it is in the header."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """up: from the client. sent, arrives: on the simulation's clock; arrives is None when it was lost. data: as sent."""

    up: bool
    sent: float
    arrives: float | None
    data: bytes
    ecn: int


class RunnerLink(Link):
    """drop, corrupt: percent. drops: numbers of packets to lose, from 1."""

    def __init__(
        self,
        capture: list[Datagram],
        up: bool,
        conditions: Conditions,
        seed: int,
        *,
        drop: int = 0,
        corrupt: int = 0,
        drops: Collection[int] = (),
    ) -> None:
        super().__init__(conditions, seed)
        self.corrupted = 0
        self._capture, self._up = capture, up
        self._drop, self._corrupt, self._drops = drop, corrupt, drops
        self._in_a_row = 0
        self._number = 0

    def carry(self, data: bytes, now: float, ecn: int = NOT_ECT) -> list[tuple[float, bytes, int]]:
        arrivals = super().carry(data, now, ecn)
        if arrivals:
            self._number += 1
            if self._number in self._drops or self._strikes(self._drop):
                self.dropped += 1
                arrivals = []
            elif self._strikes(self._corrupt):
                self.corrupted += 1
                arrivals = [(at, self._spoilt(form), mark) for at, form, mark in arrivals]
        self._capture.append(Datagram(self._up, now, arrivals[0][0] if arrivals else None, data, ecn))
        return arrivals

    def _strikes(self, percent: int) -> bool:
        if not percent:
            return False
        strikes = self._in_a_row < BURST and self._random.random() * 100 < percent
        self._in_a_row = self._in_a_row + 1 if strikes else 0
        return strikes

    def _spoilt(self, data: bytes) -> bytes:
        spoilt = bytearray(data)
        spoilt[self._random.randrange(min(HEADER, len(data)))] ^= self._random.randrange(1, 256)
        return bytes(spoilt)


def runner_pair(
    engines: tuple[str, str],
    conditions: Conditions = SIMPLE,
    *,
    seed: int = 0,
    drop: int = 0,
    corrupt: int = 0,
    drops_to_server: Collection[int] = (),
    black: tuple[float, float] | None = None,
) -> tuple[Pair, list[Datagram]]:
    """black: seconds after the begin at which the network goes, and for how long. The capture grows as the pair runs."""
    pair = Pair(seed, conditions, engines=engines)
    if black is not None:
        begin = pair.now + black[0]
        conditions = replace(conditions, blackouts=((begin, begin + black[1]),))
    capture: list[Datagram] = []
    pair.up = RunnerLink(capture, True, conditions, seed * 4 + 2, drop=drop, corrupt=corrupt, drops=drops_to_server)
    pair.down = RunnerLink(capture, False, conditions, seed * 4 + 3, drop=drop, corrupt=corrupt)
    return pair, capture
