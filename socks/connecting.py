"""Connects sockets by callbacks: no task waits for a connection, and no timer is its own.

Read first: ``watch``, ``deadlines``. ``sockets.connect`` does the same for coroutines.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from .deadlines import Deadlines
from .watch import Watch

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Told = Callable[[OSError | None], None]


class Connector:
    """Connects sockets within seconds each. Made before there is a loop, it takes that in which it first connects. ``close``
    it in the end, when nothing connects any more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watch: Watch | None = None
        self._deadlines: Deadlines[Connecting] | None = None

    def begin(self, sock: socket.socket, address: SocketAddress, told: Told) -> Connecting:
        """Connect a non-blocking socket to an IP literal. Raises OSError when that fails at once.

        told: called once from the loop, unless it is cancelled: with None, and sock is still watched, for whoever takes it
        over; or with why it failed, and sock is not watched any more. It stays the caller's to close.
        """
        watch, deadlines = self._watch, self._deadlines
        if watch is None or deadlines is None:
            watch, deadlines = self._watch, self._deadlines = self._start()
        connecting = Connecting(sock, told, watch, deadlines)
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            pass  # as ever; connected at once is told in the same way
        watch.add_writer(sock, connecting.ready)
        deadlines.add(connecting)
        return connecting

    def close(self) -> None:
        """Idempotent."""
        if self._watch is not None and self._deadlines is not None:
            self._deadlines.close()
            self._watch.close()
        self._watch = self._deadlines = None

    def _start(self) -> tuple[Watch, Deadlines[Connecting]]:
        return Watch.shared(), Deadlines(self._seconds, Connecting.expire, asyncio.get_running_loop())


class Connecting:
    """One socket on its way."""

    __slots__ = ("_deadlines", "_sock", "_told", "_watch")

    def __init__(self, sock: socket.socket, told: Told, watch: Watch, deadlines: Deadlines[Connecting]) -> None:
        self._sock = sock
        self._told: Told | None = told
        self._watch = watch
        self._deadlines = deadlines

    def cancel(self) -> None:
        """Tell nobody, and do not watch the socket any more, which is to be closed next. Not when somebody has taken it
        over. Idempotent."""
        self._told = None
        self._deadlines.discard(self)
        self._watch.discard(self._sock, closing=True)

    def ready(self) -> None:
        """The socket can be written, or has failed."""
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(OSError(number, os.strerror(number)))
            return
        told, self._told = self._told, None
        if told is not None:
            self._deadlines.discard(self)
            told(None)

    def expire(self) -> None:
        """It has taken too long."""
        self._fail(TimeoutError(errno.ETIMEDOUT, "no answer in time"))

    def _fail(self, error: OSError) -> None:
        told = self._told
        if told is not None:
            self.cancel()
            told(error)
