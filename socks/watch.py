"""Notices that the other end of a socket is gone while nobody reads from or writes to it.

While a flow is being opened the application's bytes must stay in the kernel, where the relay will find them, and its
half-close must stay there too; but a reset must end the attempt. Event loops only look at a socket that they read or
write. epoll reports EPOLLERR and EPOLLHUP on every registered descriptor, asked for or not (epoll_ctl(2)), so one
epoll instance with registrations for no events, itself watched by the loop, sees just that and costs nothing else.
Elsewhere, the sockets are looked at once a second.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

LOOK_INTERVAL: Final = 1.0
"""Seconds between looks where there is no epoll: a person who has cancelled does not wait for it."""

_BATCH: Final = 64


class Watch:
    """Watches any number of sockets for one loop. ``close`` it, and ``discard`` each socket before it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[int, tuple[socket.socket, Callable[[bool], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._epoll: select.epoll | None = None
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, sock: socket.socket, callback: Callable[[bool], None]) -> None:
        """Call callback(failed) from the loop. failed: the connection was reset or timed out. Otherwise both of its
        directions have ended in order, which is also what a unix socket says when its other end has closed."""
        fd = sock.fileno()
        self._sockets[fd] = (sock, callback)
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLET)
        elif self._timer is None:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)

    def discard(self, sock: socket.socket) -> None:
        """Stop watching. Unknown ones are ignored."""
        fd = sock.fileno()
        if self._sockets.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Stop watching everything. Idempotent."""
        self._sockets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _ready(self) -> None:
        if self._epoll is None:
            return
        for fd, events in self._epoll.poll(0, _BATCH):
            entry = self._sockets.get(fd)
            if entry is not None and events & (select.EPOLLERR | select.EPOLLHUP):
                entry[1](bool(events & select.EPOLLERR))

    def _look(self) -> None:
        self._timer = None
        for sock, callback in list(self._sockets.values()):
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                callback(True)
        if self._sockets:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)
