"""Many deadlines of one kind, all equally far away when they are set, with one timer for them.

An event loop's timer for each connection costs more than most of what a connection does, and nearly all are cancelled.
Those here are set in the order in which they expire, so the loop is only asked for the first. The clock and the timer are
arguments: an event loop's ``time`` and ``call_later``, or a test's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

SHORTEST: float = 0.001
"""Seconds: what event loops can tell apart."""


class Handle(Protocol):
    """A timer that has been set."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What an event loop has of one."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle: ...


class Deadlines(Generic[T]):
    """Calls expired(item) for each item that was not discarded within seconds (above 0) of its ``add``, in that order and
    from the clock's timer. Items are told apart as keys of a dict."""

    __slots__ = ("_clock", "_expired", "_items", "_timer", "seconds")

    def __init__(self, seconds: float, expired: Callable[[T], None], clock: Clock) -> None:
        self.seconds = seconds
        self._expired = expired
        self._clock = clock
        self._items: OrderedDict[T, float] = OrderedDict()
        self._timer: Handle | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        """item: none that is here."""
        self._items[item] = self._clock.time() + self.seconds
        if self._timer is None:
            self._timer = self._clock.call_later(self.seconds, self._fire)

    def discard(self, item: T) -> None:
        """Unknown ones are ignored."""
        # The timer stays: the next connection would set it again.
        self._items.pop(item, None)

    def close(self) -> None:
        """Forget all, and expire nothing more."""
        self._items.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.time()
        try:
            while self._items:
                item, due = next(iter(self._items.items()))
                if due > now:
                    break
                del self._items[item]
                self._expired(item)
        finally:
            if self._items and self._timer is None:
                due = next(iter(self._items.values()))
                self._timer = self._clock.call_later(max(due - now, SHORTEST), self._fire)
