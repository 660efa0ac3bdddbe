"""Makes a link worse than it is: for trying out what stands on it.

Sans-IO: with a seeded source of chance, the same packets meet the same faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Chances, from 0 to 1, of what may happen to a packet; several may at once."""

    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    """Of one octet."""
    reordering: float = 0.0
    """It waits until ``reordering_depth`` others have passed it."""
    reordering_depth: int = 3
    largest: int = 65535
    """Octets: what is larger is lost."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "corruption", "reordering"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a chance from 0 to 1, not {getattr(self, name)}")
        if self.reordering_depth < 1 or self.largest < 0:
            raise ValueError("reordering_depth of at least 1, largest of at least 0")


class FaultInjector:
    """One direction of a link. chance: gives numbers from 0 up to 1, like ``random.Random(7).random``. lost, duplicated,
    corrupted, reordered: packets to which that has happened."""

    def __init__(self, faults: Faults, chance: Callable[[], float]) -> None:
        self._faults = faults
        self._chance = chance
        self._waiting: list[tuple[int, bytes]] = []
        self._passed = 0
        self.lost = self.duplicated = self.corrupted = self.reordered = 0

    def pass_on(self, packet: bytes) -> list[bytes]:
        """A packet comes: those that leave now, in order."""
        faults, chance = self._faults, self._chance
        if chance() < faults.loss or len(packet) > faults.largest:
            self.lost += 1
            return self._overtaken([])
        if packet and chance() < faults.corruption:
            self.corrupted += 1
            at = int(chance() * len(packet))
            packet = packet[:at] + bytes([packet[at] ^ 1 + int(chance() * 255)]) + packet[at + 1 :]
        copies = [packet]
        if chance() < faults.duplication:
            self.duplicated += 1
            copies.append(packet)
        if chance() < faults.reordering:
            self.reordered += 1
            self._waiting.append((self._passed + faults.reordering_depth, copies.pop()))
        return self._overtaken(copies)

    def rest(self) -> list[bytes]:
        """Those that still wait for others to overtake them, when no others come."""
        packets = [packet for _, packet in self._waiting]
        self._waiting.clear()
        return packets

    def _overtaken(self, packets: list[bytes]) -> list[bytes]:
        self._passed += len(packets)
        while self._waiting and self._waiting[0][0] <= self._passed:
            packets.append(self._waiting.pop(0)[1])
        return packets
