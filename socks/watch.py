"""Watches the raw sockets of connections and flows: tells when they can be read or written, and when the other end is gone.

While a flow is being opened the application's bytes must stay in the kernel, where the relay will find them, and its
half-close must stay there too; but a reset must end the attempt. Event loops only look at a socket that they read or
write. epoll reports EPOLLERR and EPOLLHUP on every registered descriptor, asked for or not (epoll_ctl(2)), so a
registration for no events sees just that and costs nothing else.

One epoll instance for each loop, itself watched by the loop, also spares system calls: a socket is registered once and
forgotten when it is closed, where an event loop's ``add_reader`` and ``remove_reader`` make half a dozen calls a pair.
Where there is no epoll the loop does the work, and sockets are looked at once a second.
"""

from __future__ import annotations

import asyncio
import select
import socket
import weakref
from collections.abc import Callable
from typing import Final

LOOK_INTERVAL: Final = 1.0
"""Seconds between looks where there is no epoll: a person who has cancelled does not wait for it."""

_BATCH: Final = 64
"""Sockets served in one turn of the loop."""

_IN: Final = getattr(select, "EPOLLIN", 1)
_OUT: Final = getattr(select, "EPOLLOUT", 4)
_GONE: Final = getattr(select, "EPOLLERR", 8) | getattr(select, "EPOLLHUP", 16)
_ERROR: Final = getattr(select, "EPOLLERR", 8)
_NOTHING: Final = getattr(select, "EPOLLET", 1 << 31)
"""What a socket is registered for when nothing is wanted of it. Edge-triggered, or its end would be reported again and
again to somebody who has heard."""

_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = weakref.WeakKeyDictionary()


class _Entry:
    """armed: the events that the kernel has been asked for; reading may be among them although nobody reads now, until
    it fires in vain once. heard: its end has been reported."""

    __slots__ = ("armed", "fd", "gone", "heard", "over", "readable", "sock", "writable")

    def __init__(self, sock: socket.socket, fd: int, gone: Callable[[bool], None]) -> None:
        self.sock = sock
        self.fd = fd
        self.gone = gone
        self.readable: Callable[[], object] | None = None
        self.writable: Callable[[], object] | None = None
        self.armed = 0
        self.heard = False
        self.over = False


class Watch:
    """Watches any number of sockets for one loop. ``close`` it, and ``discard`` each socket before it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._entries: dict[int, _Entry] = {}
        self._users = 1
        self._timer: asyncio.TimerHandle | None = None
        self._epoll: select.epoll | None = None
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._ready)

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

    def __contains__(self, sock: socket.socket) -> bool:
        entry = self._entries.get(sock.fileno())
        return entry is not None and entry.sock is sock

    def add(
        self,
        sock: socket.socket,
        callback: Callable[[bool], None],
        *,
        reading: bool = False,
        readable: Callable[[], object] | None = None,
    ) -> None:
        """Call callback(failed) from the loop. failed: the connection was reset or timed out. Otherwise both of its
        directions have ended in order, which is also what a unix socket says when its other end has closed.

        For a socket that is watched already the callback takes the place of the former, and hears of an end that the
        former has heard of; readers and writers are gone. reading: it will be read from soon; readable: as
        ``on_readable`` takes it. Raises OSError when the kernel has no room for another (epoll(7), max_user_watches).
        """
        fd = sock.fileno()
        entry = self._entries.get(fd)
        if entry is not None and entry.sock is sock:
            if self._epoll is None:
                self._stop(entry)
            entry.gone = callback
            entry.readable = readable
            entry.writable = None
            events = _IN if reading or readable is not None else entry.armed & _IN
            if events != entry.armed or entry.heard:
                # Also when they are the same: an end that has been reported is reported again.
                self._arm(entry, events)
        else:
            entry = _Entry(sock, fd, callback)
            entry.readable = readable
            self._register(entry, _IN if reading or readable is not None else 0)
        if self._epoll is None and readable is not None:
            self._loop.add_reader(fd, readable)

    def add_writer(self, sock: socket.socket, callback: Callable[[], object]) -> None:
        """As ``add`` and ``on_writable`` for a socket that is not watched yet, and of whose end callback hears, too: one
        that is being connected."""
        entry = _Entry(sock, sock.fileno(), _ignore)
        entry.writable = callback
        self._register(entry, _OUT)
        if self._epoll is None:
            self._loop.add_writer(entry.fd, callback)

    def discard(self, sock: socket.socket, *, closing: bool = False) -> None:
        """Stop watching. Unknown ones are ignored. closing: the caller closes it at once, which saves a system call."""
        fd = sock.fileno()
        entry = self._entries.get(fd)
        if entry is None or entry.sock is not sock:
            return
        del self._entries[fd]
        entry.over = True
        if self._epoll is None:
            self._stop(entry)
        elif not closing:
            self._epoll.unregister(fd)

    def on_readable(self, sock: socket.socket, callback: Callable[[], object] | None) -> None:
        """Call callback whenever a read would not block, until it is None. sock: watched."""
        entry = self._entries[sock.fileno()]
        entry.readable = callback
        if self._epoll is None:
            if callback is not None:
                self._loop.add_reader(entry.fd, callback)
            else:
                self._loop.remove_reader(entry.fd)
        elif callback is not None and not entry.armed & _IN:
            self._arm(entry, entry.armed | _IN)

    def on_writable(self, sock: socket.socket, callback: Callable[[], object] | None) -> None:
        """Call callback whenever a write would not block, until it is None. sock: watched."""
        entry = self._entries[sock.fileno()]
        entry.writable = callback
        if self._epoll is None:
            if callback is not None:
                self._loop.add_writer(entry.fd, callback)
            else:
                self._loop.remove_writer(entry.fd)
        elif (callback is not None) != bool(entry.armed & _OUT):
            # Not left to fire in vain, as reading is: a socket can nearly always be written.
            self._arm(entry, entry.armed ^ _OUT)

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
        if sock not in self:
            self._register(_Entry(sock, sock.fileno(), _ignore), _OUT)
            try:
                await self.wait_writable(sock)
            finally:
                self.discard(sock)
            return
        ready: asyncio.Future[None] = self._loop.create_future()
        self.on_writable(sock, lambda: _resolve(ready))
        try:
            await ready
        finally:
            if sock in self:
                self.on_writable(sock, None)

    def close(self) -> None:
        """Stop watching everything, when nobody else shares it. Idempotent for the last."""
        self._users -= 1
        if self._users > 0:
            return
        if _shared.get(self._loop) is self:
            del _shared[self._loop]
        for entry in self._entries.values():
            entry.over = True
            if self._epoll is None:
                self._stop(entry)
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _register(self, entry: _Entry, events: int) -> None:
        if self._epoll is not None:
            entry.armed = events
            self._epoll.register(entry.fd, events or _NOTHING)
        elif self._timer is None:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)
        self._entries[entry.fd] = entry

    def _arm(self, entry: _Entry, events: int) -> None:
        entry.armed = events
        entry.heard = False
        if self._epoll is not None:
            self._epoll.modify(entry.fd, events or _NOTHING)

    def _stop(self, entry: _Entry) -> None:
        if entry.sock.fileno() == entry.fd:
            self._loop.remove_reader(entry.fd)
            self._loop.remove_writer(entry.fd)

    def _ready(self) -> None:
        if self._epoll is None:
            return
        # Looked up before anything is called: a number may be another socket's by the time that its turn comes.
        found = [(self._entries.get(fd), events) for fd, events in self._epoll.poll(0, _BATCH)]
        for entry, events in found:
            if entry is None or entry.over:
                continue
            try:
                self._tell(entry, events)
            except Exception as error:
                self._loop.call_exception_handler({"message": "serving a socket failed", "exception": error})

    def _tell(self, entry: _Entry, events: int) -> None:
        # What has arrived before the end is read before it.
        if events & _IN:
            if entry.readable is not None:
                entry.readable()
            elif entry.armed & _IN:
                self._arm(entry, entry.armed & ~_IN)
        if events & _OUT and not entry.over and entry.writable is not None:
            entry.writable()
        if events & _GONE and not entry.over:
            entry.heard = True
            entry.gone(bool(events & _ERROR))

    def _look(self) -> None:
        self._timer = None
        for entry in list(self._entries.values()):
            if entry.sock.fileno() != entry.fd:
                del self._entries[entry.fd]  # Closed without a word.
            elif entry.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                entry.gone(True)
        if self._entries:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)


def _ignore(_failed: bool) -> None:
    """Whoever waits to read or write hears of it by that."""


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
