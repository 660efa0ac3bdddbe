"""Happy Eyeballs: in which order, and when, several addresses of one name are tried.

Read first: RFC 8305 §4 and §5. Sans-IO: the caller starts what ``next_attempt`` returns, reports failures, waits until
``get_timer`` at most, and calls ``handle_timer``. After any of these calls ``next_attempt`` must be polled until it
returns None. The first attempt that connects wins; cancelling the others is the caller's part.
"""

from __future__ import annotations

from collections.abc import Iterable

from .special import IPAddress

ATTEMPT_DELAY = 0.25
"""Seconds between two attempts while none has failed (RFC 8305 §5 and §8: 250 ms)."""

MAX_CANDIDATES = 16
"""Addresses of one name that are tried: a name with hundreds of addresses must not turn one request into as many SYNs.
At the delay above, more could not be tried within the usual ten seconds by much."""


def interleave(addresses: Iterable[IPAddress], limit: int = MAX_CANDIDATES) -> list[IPAddress]:
    """Order addresses by turns of the family, beginning with that of the first (RFC 8305 §4, First Address Family Count
    of 1), each family in its given order (RFC 6724, as the resolver sorted them), without repeats, limit at most."""
    unique = list(dict.fromkeys(addresses))
    if not unique:
        return []
    first = [address for address in unique if address.version == unique[0].version]
    other = [address for address in unique if address.version != unique[0].version]
    ordered: list[IPAddress] = []
    while first or other:
        if first:
            ordered.append(first.pop(0))
        if other:
            ordered.append(other.pop(0))
    return ordered[:limit]


class Race:
    """One name's attempts. candidates: in the order to be tried. timeout: seconds for all of them together."""

    def __init__(
        self, candidates: Iterable[IPAddress], now: float, timeout: float, delay: float = ATTEMPT_DELAY
    ) -> None:
        self._waiting = list(candidates)
        self._running: set[IPAddress] = set()
        self._delay = delay
        self._next = now
        self._deadline = now + timeout
        self._expired = False

    @property
    def lost(self) -> bool:
        """Whether nothing is left that could connect."""
        return self._expired or not (self._waiting or self._running)

    @property
    def expired(self) -> bool:
        """Whether time ran out."""
        return self._expired

    def next_attempt(self, now: float) -> IPAddress | None:
        """The address to connect to now, or None."""
        if self._expired or not self._waiting or (self._running and now < self._next):
            return None
        address = self._waiting.pop(0)
        self._running.add(address)
        self._next = now + self._delay
        return address

    def attempt_failed(self, address: IPAddress, now: float) -> None:
        """A started attempt has failed: the next one need not wait (RFC 8305 §5)."""
        self._running.discard(address)
        self._next = now

    def get_timer(self) -> float:
        """When to call ``handle_timer``: at the next attempt or at the end."""
        if self._waiting and not self._expired:
            return min(self._next, self._deadline)
        return self._deadline

    def handle_timer(self, now: float) -> None:
        if now >= self._deadline:
            self._expired = True
            self._waiting.clear()
            self._running.clear()
