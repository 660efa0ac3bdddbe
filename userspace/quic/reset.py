"""Stateless reset: how a server that has lost a connection says so, and how a client recognises it.

Read RFC 9000 §10.3 first. The token of a connection ID is an HMAC of it, so that a server that comes back with the
same secret can still end the connections of its former life; that turns an idle timeout into one round trip. This file
must not import asyncio, socket, time or random.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable

TOKEN_LENGTH = 16
SMALLEST = 21
"""Octets of the smallest packet that may be a stateless reset (RFC 9000 §10.3)."""
LARGEST = 43
"""A reset is no longer than this: indistinguishable from a packet with a little data, useless for amplification."""
SMALLEST_ANSWERED = 22
"""A reset is smaller than what it answers, so that two servers never answer each other for ever (§10.3.3)."""


def reset_token(key: bytes, cid: bytes) -> bytes:
    """The stateless reset token of one of our connection IDs (RFC 9000 §10.3.2)."""
    return hmac.new(key, cid, hashlib.sha256).digest()[:TOKEN_LENGTH]


def reset_packet(token: bytes, trigger: int, random_bytes: Callable[[int], bytes]) -> bytes | None:
    """The packet that answers one of trigger octets; None when that one was too small to be answered."""
    if trigger < SMALLEST_ANSWERED:
        return None
    filler = bytearray(random_bytes(min(trigger - 1, LARGEST) - TOKEN_LENGTH))
    filler[0] = filler[0] & 0x3F | 0x40  # A short header: header form 0, fixed bit 1.
    return bytes(filler) + token


def is_reset(data: bytes, tokens: Iterable[bytes]) -> bool:
    """Whether a packet that belongs to no connection ends with one of tokens. Takes the same time for every token."""
    if len(data) < SMALLEST:
        return False
    found = False
    for token in tokens:
        found |= len(token) == TOKEN_LENGTH and hmac.compare_digest(data[-TOKEN_LENGTH:], token)
    return found


class TokenBucket:
    """Limits how often something is done. rate: times per second in the long run; burst: at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether once more is allowed now; counts it when it is."""
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
