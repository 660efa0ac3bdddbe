"""The open flows of a process: their limits in time, and what ``status`` counts.

A flow without a byte for the idle timeout is ended, as a NAT would (RFC 5382 REQ-5: no sooner than 2 h 4 min). One
timer looks at all flows, since a timer a flow would cost more than the flow.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from quicsocks.socks.watch import Watch

from .tunnel.types import Cause

IDLE_TIMEOUT = 7440.0
"""Seconds: RFC 5382 REQ-5."""

_SWEEPS = 8
"""Looks at all flows within one idle timeout: a flow ends at most an eighth late."""

_SWEEP_AT_MOST = 60.0


class Carried(Protocol):
    """A flow that bytes pass through: a ``Relay``, or a ``ClientFlow`` that is read and written."""

    @property
    def sent(self) -> int: ...

    @property
    def received(self) -> int: ...

    @property
    def active_at(self) -> float:
        """The loop's time at the last byte."""

    def abort(self, cause: Cause, detail: str = "") -> None: ...


class FlowTable:
    """Every open flow of this process, from ``add`` to ``remove``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self._loop = loop
        self._idle_timeout = idle_timeout
        self.watch = Watch.shared()
        """Of all relays' sockets."""
        self._closed = False
        self._flows: set[Carried] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self.opened = 0
        self._sent = 0
        self._received = 0

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def bytes_sent(self) -> int:
        """Bytes read from sockets and given to the tunnel, ended flows included."""
        return self._sent + sum(flow.sent for flow in self._flows)

    @property
    def bytes_received(self) -> int:
        """Bytes from the tunnel written to sockets, ended flows included."""
        return self._received + sum(flow.received for flow in self._flows)

    def add(self, flow: Carried) -> None:
        self._flows.add(flow)
        self._idle.clear()
        self.opened += 1
        if self._timer is None and self._idle_timeout > 0:
            self._schedule()

    def replace(self, old: Carried, new: Carried) -> None:
        """new goes on with the flow that old has begun, if it was added."""
        self.add(new)
        if old in self._flows:
            self.opened -= 1
            self.remove(old)

    def remove(self, flow: Carried) -> None:
        if flow in self._flows:
            self._flows.remove(flow)
            self._sent += flow.sent
            self._received += flow.received
        if not self._flows:
            self._idle.set()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def close(self) -> None:
        """Reset what is still open and let go of the descriptor."""
        self.abort_all(Cause.RESET, "shutting down")
        if not self._closed:
            self._closed = True
            self.watch.close()

    async def wait_empty(self) -> None:
        """Return when no flow is open."""
        await self._idle.wait()

    def abort_all(self, cause: Cause, detail: str) -> None:
        """Reset every flow."""
        for flow in list(self._flows):
            flow.abort(cause, detail)

    def _schedule(self) -> None:
        delay = min(self._idle_timeout / _SWEEPS, _SWEEP_AT_MOST)
        self._timer = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        limit = self._loop.time() - self._idle_timeout
        for flow in [flow for flow in self._flows if flow.active_at < limit]:
            flow.abort(Cause.TIMED_OUT, "idle for too long")
        if self._flows:
            self._schedule()
