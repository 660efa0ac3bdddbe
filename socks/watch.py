"""Watches the raw sockets of connections and flows: tells when they can be read or written, and when the other end is gone.

While a flow is being opened the application's bytes must stay in the kernel, where the relay will find them, and its
half-close must stay there too; but a reset must end the attempt. Event loops only look at a socket that they read or
write. epoll reports EPOLLERR and EPOLLHUP on every registered descriptor, asked for or not (epoll_ctl(2)), so a
registration for no events sees just that and costs nothing else.

One epoll instance for each loop (``epolled``), itself watched by the loop, also spares system calls: a socket is registered
once and forgotten when it is closed, where an event loop's ``add_reader`` and ``remove_reader`` make half a dozen calls a
pair. Where there is no epoll the loop does the work, and sockets are looked at once a second.
"""

from __future__ import annotations

import asyncio
import select
import socket
import weakref
from collections.abc import Callable
from typing import Final

from .epolled import Epolled

LOOK_INTERVAL: Final = 1.0
"""Seconds between looks where there is no epoll: a person who has cancelled does not wait for it."""

_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = weakref.WeakKeyDictionary()


class Watch(Epolled):
    """Watches any number of sockets for one loop. ``close`` it, and ``discard`` each socket before it is closed.

    ``add(sock, callback, reading=False, readable=None)``: call callback(failed) from the loop. failed: the connection was
    reset or timed out. Otherwise both of its directions have ended in order, which is also what a unix socket says when
    its other end has closed. For a socket that is watched already the callback takes the place of the former, and hears
    of an end that the former has heard of; readers and writers are gone. reading: it will be read from soon; readable: as
    ``on_readable`` takes it. Raises OSError when the kernel has no room for another (epoll(7), max_user_watches).

    ``add_writer(sock, callback)``: as ``add`` and ``on_writable`` for a socket that is not watched yet, and of whose end
    callback hears, too: one that is being connected.

    ``on_readable(sock, callback)``, ``on_writable(sock, callback)``: call callback whenever a read or a write would not
    block, until it is None. sock: watched.

    ``discard(sock, closing=False)``: stop watching. Unknown ones are ignored. closing: the caller closes it at once, which
    saves a system call.
    """

    def __new__(cls) -> Watch:
        return super().__new__(cls if hasattr(select, "epoll") else _LoopWatch)

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._users = 1
        self._descriptor = self.open()
        if self._descriptor >= 0:
            self._loop.add_reader(self._descriptor, self.serve, self._failed)

    @classmethod
    def shared(cls) -> Watch:
        """The running loop's, so that a socket can go from hand to hand. Every caller closes it once."""
        loop = asyncio.get_running_loop()
        watch = _shared.get(loop)
        if watch is None:
            watch = _shared[loop] = cls()
        else:
            watch._users += 1
        return watch

    @staticmethod
    def current(loop: asyncio.AbstractEventLoop) -> Watch | None:
        """The loop's shared one, if there is one."""
        return _shared.get(loop)

    async def wait_readable(self, sock: socket.socket) -> None:
        """Wait until a read would not block. Cancelling takes nothing."""
        if sock not in self:
            self.add(sock, _ignore, reading=True)
            try:
                await self.wait_readable(sock)
            finally:
                self.discard(sock)
            return
        ready: asyncio.Future[None] = self._loop.create_future()
        self.on_readable(sock, lambda: _resolve(ready))
        try:
            await ready
        finally:
            if sock in self:
                self.on_readable(sock, None)

    async def wait_writable(self, sock: socket.socket) -> None:
        """Wait until a write would not block."""
        ready: asyncio.Future[None] = self._loop.create_future()
        known = sock in self
        if known:
            self.on_writable(sock, lambda: _resolve(ready))
        else:
            self.add_writer(sock, lambda: _resolve(ready))
        try:
            await ready
        finally:
            if not known:
                self.discard(sock)
            elif sock in self:
                self.on_writable(sock, None)

    def close(self) -> None:
        """Stop watching everything, when nobody else shares it. Idempotent for the last."""
        self._users -= 1
        if self._users > 0:
            return
        if _shared.get(self._loop) is self:
            del _shared[self._loop]
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            self._descriptor = -1
        self.shut()

    def _failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "serving a socket failed", "exception": error})


class _Entry:
    """Of a socket that a loop watches."""

    __slots__ = ("fd", "gone", "sock")

    def __init__(self, sock: socket.socket, gone: Callable[[bool], None]) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.gone = gone


class _LoopWatch(Watch):
    """Without epoll."""

    def open(self) -> int:
        self._watched: dict[int, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        return -1

    def shut(self) -> None:
        for entry in self._watched.values():
            self._stop(entry)
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __contains__(self, sock: socket.socket) -> bool:
        entry = self._watched.get(sock.fileno())
        return entry is not None and entry.sock is sock

    def add(
        self,
        sock: socket.socket,
        callback: Callable[[bool], None],
        *,
        reading: bool = False,
        readable: Callable[[], object] | None = None,
    ) -> None:
        entry = self._watched.get(sock.fileno())
        if entry is not None and entry.sock is sock:
            self._stop(entry)
        self._watched[sock.fileno()] = _Entry(sock, callback)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)
        if readable is not None:
            self._loop.add_reader(sock.fileno(), readable)

    def add_writer(self, sock: socket.socket, callback: Callable[[], object]) -> None:
        self.add(sock, _ignore)
        self._loop.add_writer(sock.fileno(), callback)

    def discard(self, sock: socket.socket, *, closing: bool = False) -> None:
        if sock in self:
            self._stop(self._watched.pop(sock.fileno()))

    def on_readable(self, sock: socket.socket, callback: Callable[[], object] | None) -> None:
        entry = self._watched[sock.fileno()]
        if callback is not None:
            self._loop.add_reader(entry.fd, callback)
        else:
            self._loop.remove_reader(entry.fd)

    def on_writable(self, sock: socket.socket, callback: Callable[[], object] | None) -> None:
        entry = self._watched[sock.fileno()]
        if callback is not None:
            self._loop.add_writer(entry.fd, callback)
        else:
            self._loop.remove_writer(entry.fd)

    def _stop(self, entry: _Entry) -> None:
        if entry.sock.fileno() == entry.fd:
            self._loop.remove_reader(entry.fd)
            self._loop.remove_writer(entry.fd)

    def _look(self) -> None:
        self._timer = None
        for entry in list(self._watched.values()):
            if entry.sock.fileno() != entry.fd:
                del self._watched[entry.fd]  # Closed without a word.
            elif entry.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                entry.gone(True)
        if self._watched:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)


def _ignore(_failed: bool) -> None:
    """Whoever waits to read or write hears of it by that."""


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
