"""What one client may use of the exit: flows, pending connects, bytes per second.

Sans-IO: the clock is an argument. One ``ClientQuota`` belongs to one client (a key, not a connection), so that
reconnecting or opening two sessions gains nothing. Where several processes serve a client, each has a ``ClientQuota``
and an ``Account``, in which they see one another's counters.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from ..tunnel.types import Cause, FlowFailed


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """0 means no limit."""

    max_flows: int = 4096
    """Flows open or being opened: two descriptors' worth of buffers each, and as many as a session has streams."""
    max_pending: int = 256
    """Flows that wait for their destination: a client must not use the exit to send SYNs in bulk. A browser that opens
    with a hundred tabs stays below."""
    bytes_per_second: int = 0
    """Both directions together."""
    burst: int = 0
    """Bytes that may pass at once after a pause; 0: a quarter of a second's worth, and 64 KiB at least."""


class Use(enum.IntEnum):
    """What is counted of a client. OCTETS only ever grows, and only while the client's rate is limited."""

    FLOWS = 0
    PENDING = 1
    SESSIONS = 2
    OCTETS = 3


class Account(Protocol):
    """One client's counters, this process's and those of the others who serve it."""

    def publish(self, use: Use, value: int) -> None:
        """Say what this process counts."""

    def others(self, use: Use) -> int:
        """What all others together do."""


class TokenBucket:
    """A rate limit with a burst.

    rate: units per second, above 0. burst: the most that can be saved up, above 0. Debt is allowed: what has already
    arrived is charged in full, and ``delay`` tells how long to stop reading for it.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError("rate and burst are above zero")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._updated = now

    def take(self, amount: float, now: float) -> float:
        """Charge amount, and return ``delay``."""
        self._refill(now)
        self._tokens -= amount
        return self.delay(now)

    def delay(self, now: float) -> float:
        """Seconds until the balance is no longer negative; 0 when it is not."""
        self._refill(now)
        return max(0.0, -self._tokens / self.rate)

    def is_full(self, now: float) -> bool:
        self._refill(now)
        return self._tokens >= self.burst

    def _refill(self, now: float) -> None:
        # A clock that steps back gives nothing and takes nothing.
        if now > self._updated:
            self._tokens = min(self.burst, self._tokens + (now - self._updated) * self.rate)
            self._updated = now


class ClientQuota:
    """One client's counters. ``open`` per flow, then ``connected`` or not, then ``close``; ``transferred`` per
    chunk. account: None where one process serves all."""

    def __init__(self, limits: ClientLimits, now: float, account: Account | None = None) -> None:
        self.flows = 0
        self.pending = 0
        self._account = account
        self._octets = 0
        self._octets_elsewhere = account.others(Use.OCTETS) if account is not None else 0
        self._bucket: TokenBucket | None = None
        self._limits = limits
        self.set_limits(limits, now)

    @property
    def limits(self) -> ClientLimits:
        return self._limits

    def set_limits(self, limits: ClientLimits, now: float) -> None:
        """New limits count for what comes; flows that are open stay open. The same rate as before keeps its balance."""
        burst = limits.burst or max(limits.bytes_per_second // 4, MIN_BURST)
        same = self._bucket is not None and (self._bucket.rate, self._bucket.burst) == (limits.bytes_per_second, burst)
        self._limits = limits
        if limits.bytes_per_second and not same:
            self._bucket = TokenBucket(limits.bytes_per_second, burst, now)
        elif not limits.bytes_per_second:
            self._bucket = None

    def is_unused(self, now: float) -> bool:
        """Whether a new quota would be the same."""
        return self.flows == 0 and (self._bucket is None or self._bucket.is_full(now))

    def open(self) -> FlowTicket:
        """Count a flow that is going to be dialled. Raises FlowFailed with Cause.LIMIT."""
        limits, account = self._limits, self._account
        flows, pending = self.flows, self.pending
        if account is not None:
            flows += account.others(Use.FLOWS)
            pending += account.others(Use.PENDING)
        if limits.max_flows and flows >= limits.max_flows:
            raise FlowFailed(Cause.LIMIT, f"the client has {flows} flows open, the most that it may have")
        if limits.max_pending and pending >= limits.max_pending:
            raise FlowFailed(Cause.LIMIT, f"the client has {pending} connects under way, the most that it may have")
        return FlowTicket(self)

    def count(self, flows: int, pending: int) -> None:
        """Add to the counters."""
        self.flows += flows
        self.pending += pending
        if self._account is not None:
            self._account.publish(Use.FLOWS, self.flows)
            self._account.publish(Use.PENDING, self.pending)

    def transferred(self, size: int, now: float) -> float:
        """Charge size bytes, and return for how many seconds not to read from either side."""
        if self._bucket is None:
            return 0.0
        if self._account is not None:
            # Each process charges its bucket with what all of them pass, so that together they keep to the rate.
            self._octets += size
            self._account.publish(Use.OCTETS, self._octets)
            elsewhere = self._account.others(Use.OCTETS)
            # Less than before: one of them has been started anew, and counts from zero.
            size += max(0, elsewhere - self._octets_elsewhere)
            self._octets_elsewhere = elsewhere
        return self._bucket.take(size, now)


class FlowTicket:
    """One flow's place in its client's counters. ``connected`` and ``close`` count once, however often called."""

    __slots__ = ("_closed", "_pending", "_quota")

    def __init__(self, quota: ClientQuota) -> None:
        self._quota = quota
        self._pending = True
        self._closed = False
        quota.count(1, 1)

    def connected(self) -> None:
        """The destination has answered, one way or the other."""
        if self._pending:
            self._pending = False
            self._quota.count(0, -1)

    def close(self) -> None:
        self.connected()
        if not self._closed:
            self._closed = True
            self._quota.count(-1, 0)


MIN_BURST = 64 << 10
"""One read's worth: a smaller bucket would cut every chunk to pieces."""
