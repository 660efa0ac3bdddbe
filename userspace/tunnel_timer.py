"""Drives a tunnel's timer from an event loop: the tunnel says when, this file calls it then."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Timed(Protocol):
    """A sans-IO machine with one deadline at a time."""

    def get_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...


class TunnelTimer:
    """Give ``changed`` to the machine as its ``timer_changed``, then the machine to ``drive``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._machine: Timed | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._at: float | None = None

    def drive(self, machine: Timed) -> None:
        self._machine = machine
        self.changed()

    def changed(self) -> None:
        """The deadline may have moved."""
        if self._machine is None:
            return
        at = self._machine.get_timer()
        if at == self._at and self._handle is not None:
            return
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._at = at
        if at is not None:
            self._handle = self._loop.call_at(at, self._fire)

    def stop(self) -> None:
        """Idempotent."""
        self._machine = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._machine is not None:
            self._machine.handle_timer(self._loop.time())
            self.changed()
