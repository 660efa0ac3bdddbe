"""Watches descriptors for errors with one epoll instance, itself watched by the event loop.

asyncio and uvloop only look at a socket while it is being read or written. A relay stops reading when the other side
is slow, and after EOF; a RST that comes then would go unnoticed for as long as nothing has to be written. epoll reports
EPOLLERR and EPOLLHUP on every registered descriptor, asked for or not (epoll_ctl(2)), so registering with no events
at all and edge-triggered costs nothing while data flows.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

_BATCH = 64
"""Events taken a turn; the rest stay ready and are taken in the next."""


class Watcher:
    """One epoll for the errors of many descriptors."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None

    @property
    def watched(self) -> int:
        return len(self._callbacks)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call callback from the loop when fd has an error or has been hung up on. Once an edge, not once a turn."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        self._epoll.register(fd, select.EPOLLET)
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """Stop watching fd, before it is closed. Unknown ones are ignored."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)
        if not self._callbacks:
            # So that a loop whose last flow has ended holds no descriptor of ours.
            self.close()

    def close(self) -> None:
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        self._callbacks.clear()

    def _ready(self) -> None:
        if self._epoll is None:
            return
        for fd, _events in self._epoll.poll(0, _BATCH):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
