"""One direction of a network path, seeded and without a clock of its own: delay, jitter, loss, reordering, duplication,
corruption, a rate with a queue that may mark (ECN), a smallest MTU on the way that may change, and blackouts.

What the numbers mean is that of tc-netem(8), so that results can be compared with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NOT_ECT, ECT_0, CE = 0, 2, 3
"""ECN codepoints (RFC 3168 §5)."""


@dataclass(frozen=True)
class Conditions:
    """delay, jitter: seconds, one way; jitter is uniform around delay and never reorders by itself.
    loss, duplicate, corrupt, reorder: probabilities; what is reordered overtakes by ``reorder_by`` seconds.
    rate: bits per second, 0 for no limit; queue: octets that wait for it, more are dropped.
    mark_above: octets waiting from which on what is ECN-capable is marked CE (RFC 3168), 0: never; bleach: marks of any
    kind are taken off. mtu: largest UDP payload that passes; mtu_changes: (from when, what it is then), in order.
    blackouts: (begin, end). All times are on the simulation's clock."""

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_by: float = 0.01
    rate: float = 0.0
    queue: int = 1 << 17
    mark_above: int = 0
    bleach: bool = False
    mtu: int = 65536
    mtu_changes: tuple[tuple[float, int], ...] = ()
    blackouts: tuple[tuple[float, float], ...] = ()

    def mtu_at(self, now: float) -> int:
        mtu = self.mtu
        for begin, changed in self.mtu_changes:
            if now >= begin:
                mtu = changed
        return mtu

    def is_black(self, now: float) -> bool:
        return any(begin <= now < end for begin, end in self.blackouts)


class Link:
    """``carry`` says when and in what form a datagram arrives.

    carried, dropped, marked: datagrams so far, without those that the link has made itself."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self.conditions = conditions
        self.carried = 0
        self.dropped = 0
        self.marked = 0
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._last_arrival = 0.0

    def carry(self, data: bytes, now: float, ecn: int = NOT_ECT) -> list[tuple[float, bytes, int]]:
        """Arrivals of a datagram sent now: when, the octets, the ECN codepoint. None when it is lost, two when it is
        duplicated."""
        conditions, chance = self.conditions, self._random.random
        if (
            len(data) > (conditions.mtu_at(now) if conditions.mtu_changes else conditions.mtu)
            or chance() < conditions.loss
            or (conditions.blackouts and conditions.is_black(now))
        ):
            self.dropped += 1
            return []
        if conditions.bleach:
            ecn = NOT_ECT
        leaves = now
        if conditions.rate:
            waiting = max(0.0, self._free_at - now) * conditions.rate / 8
            if waiting + len(data) > conditions.queue:
                self.dropped += 1
                return []
            if ecn != NOT_ECT and conditions.mark_above and waiting >= conditions.mark_above:
                ecn = CE
                self.marked += 1
            leaves = self._free_at = max(now, self._free_at) + len(data) * 8 / conditions.rate
        self.carried += 1
        arrives = leaves + conditions.delay + conditions.jitter * (2 * chance() - 1)
        if conditions.reorder and chance() < conditions.reorder:
            arrives = max(now, arrives - conditions.reorder_by)
        else:
            arrives = self._last_arrival = max(arrives, self._last_arrival)
        if conditions.corrupt and chance() < conditions.corrupt:
            data = self._corrupted(data)
        arrivals = [(arrives, data, ecn)]
        if conditions.duplicate and chance() < conditions.duplicate:
            arrivals.append((arrives + conditions.delay * chance(), data, ecn))
        return arrivals

    def _corrupted(self, data: bytes) -> bytes:
        if self._random.random() < 0.3:
            return data[: self._random.randrange(1, len(data) + 1)]
        flipped = bytearray(data)
        flipped[self._random.randrange(len(flipped))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)
