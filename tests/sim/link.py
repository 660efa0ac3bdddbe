"""One direction of a network path, seeded and without a clock of its own: delay, jitter, loss, reordering, duplication,
corruption, a rate with a queue, a smallest MTU on the way, and blackouts.

What the numbers mean is that of tc-netem(8), so that results can be compared with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """delay, jitter: seconds, one way; jitter is uniform around delay and never reorders by itself.
    loss, duplicate, corrupt, reorder: probabilities; what is reordered overtakes by ``reorder_by`` seconds.
    rate: bits per second, 0 for no limit; queue: octets that wait for it, more are dropped.
    mtu: largest UDP payload that passes. blackouts: (begin, end) on the simulation's clock."""

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_by: float = 0.01
    rate: float = 0.0
    queue: int = 1 << 17
    mtu: int = 65536
    blackouts: tuple[tuple[float, float], ...] = ()


class Link:
    """``carry`` says when and in what form a datagram arrives."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self.conditions = conditions
        self.carried = 0
        self.dropped = 0
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._last_arrival = 0.0

    def carry(self, data: bytes, now: float) -> list[tuple[float, bytes]]:
        """Arrivals of a datagram sent now: none when it is lost, two when it is duplicated."""
        conditions, chance = self.conditions, self._random.random
        if (
            len(data) > conditions.mtu
            or chance() < conditions.loss
            or any(begin <= now < end for begin, end in conditions.blackouts)
        ):
            self.dropped += 1
            return []
        leaves = now
        if conditions.rate:
            waiting = max(0.0, self._free_at - now) * conditions.rate / 8
            if waiting + len(data) > conditions.queue:
                self.dropped += 1
                return []
            leaves = self._free_at = max(now, self._free_at) + len(data) * 8 / conditions.rate
        self.carried += 1
        arrives = leaves + conditions.delay + conditions.jitter * (2 * chance() - 1)
        if conditions.reorder and chance() < conditions.reorder:
            arrives = max(now, arrives - conditions.reorder_by)
        else:
            arrives = self._last_arrival = max(arrives, self._last_arrival)
        if chance() < conditions.corrupt:
            data = self._corrupted(data)
        arrivals = [(arrives, data)]
        if chance() < conditions.duplicate:
            arrivals.append((arrives + conditions.delay * chance(), data))
        return arrivals

    def _corrupted(self, data: bytes) -> bytes:
        if self._random.random() < 0.3:
            return data[: self._random.randrange(1, len(data) + 1)]
        flipped = bytearray(data)
        flipped[self._random.randrange(len(flipped))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)
