"""Reading and writing raw non-blocking sockets from coroutines, and ending them in the way that is meant.

The front doors need the socket itself, not an asyncio transport: after the handshake it is handed on whole, and a
transport can neither send a reset nor be stopped without losing bytes. ``loop.sock_recv`` loses what it has read when
it is cancelled at the wrong moment; here nothing is read before the caller is there to take it. Runs on asyncio and
on uvloop. Must not be used on a descriptor that a transport owns.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import Final

from .types import Failure
from .watch import Watch

READ_SIZE: Final = 64 << 10
"""Bytes read at once: fills a TCP window of a fast path, and is fair to other connections."""

DRAIN_LIMIT: Final = 256 << 10
"""Bytes read and thrown away before a close, so that a client which is still sending reads our answer."""

_LINGER_RESET: Final = struct.pack("ii", 1, 0)


async def wait_readable(sock: socket.socket) -> None:
    """Wait until a read would not block. Cancelling takes nothing."""
    loop = asyncio.get_running_loop()
    watch = Watch.current(loop)
    if watch is not None:
        await watch.wait_readable(sock)
        return
    fd = sock.fileno()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def wait_writable(sock: socket.socket) -> None:
    """Wait until a write would not block."""
    loop = asyncio.get_running_loop()
    watch = Watch.current(loop)
    if watch is not None:
        await watch.wait_writable(sock)
        return
    fd = sock.fileno()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


async def connect(sock: socket.socket, address: tuple[str, int] | tuple[str, int, int, int]) -> None:
    """Connect a non-blocking socket to an IP literal. Raises OSError.

    ``loop.sock_connect`` of uvloop 0.22 looks even literals up in a thread, which costs more than the connection.
    """
    try:
        sock.connect(address)
    except (BlockingIOError, InterruptedError):
        await wait_writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error)) from None


async def receive(sock: socket.socket, size: int = READ_SIZE) -> bytes:
    """Some bytes, b"" after the peer's FIN. Raises OSError.

    Lets others run first, even when bytes are waiting: two fast peers must not keep the loop to themselves.
    """
    await asyncio.sleep(0)
    while True:
        try:
            return sock.recv(size)
        except (BlockingIOError, InterruptedError):
            await wait_readable(sock)


async def send_all(sock: socket.socket, data: bytes | bytearray | memoryview) -> None:
    """Give all of data to the kernel. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            sent = sock.send(view)
        except (BlockingIOError, InterruptedError):
            await wait_writable(sock)
        else:
            view = view[sent:]


def reset(sock: socket.socket) -> None:
    """Close with a RST instead of a FIN (SO_LINGER with time zero, socket(7)). A unix socket is merely closed."""
    if sock.fileno() < 0:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    except OSError:
        pass  # the connection is gone already: close does what can be done
    sock.close()


async def close_gently(sock: socket.socket, seconds: float) -> None:
    """Half-close, read what still comes for at most seconds and 256 KiB, then close.

    Closing a socket with unread bytes sends a RST, and a RST makes the peer's kernel drop what it has received from
    us and the program has not read yet: our answer (RFC 9112 §9.6 describes the same for HTTP).
    """
    try:
        async with asyncio.timeout(seconds):
            sock.shutdown(socket.SHUT_WR)
            left = DRAIN_LIMIT
            while left > 0:
                data = await receive(sock, min(left, READ_SIZE))
                if not data:
                    break
                left -= len(data)
    except (TimeoutError, OSError):
        pass  # either way there is nothing more to wait for
    finally:
        sock.close()


def prepare(sock: socket.socket) -> None:
    """Make a connected socket fit for relaying: non-blocking; for TCP no delay, and keepalive, which finds a peer that
    has vanished without a word."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            pass  # reset before we looked; the first read says so


def failure_of(error: BaseException) -> Failure:
    """Why a connect failed, from the kernel's error."""
    if isinstance(error, socket.gaierror):
        return Failure.NAME_TIMEOUT if error.errno == socket.EAI_AGAIN else Failure.NAME_NOT_FOUND
    if isinstance(error, OSError):
        return _FAILURES.get(
            error.errno or 0, Failure.TIMED_OUT if isinstance(error, TimeoutError) else Failure.INTERNAL
        )
    return Failure.INTERNAL


_FAILURES: Final[dict[int, Failure]] = {
    errno.ECONNREFUSED: Failure.REFUSED,
    errno.ENETUNREACH: Failure.NETWORK_UNREACHABLE,
    errno.ENETDOWN: Failure.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Failure.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Failure.HOST_UNREACHABLE,
    errno.ETIMEDOUT: Failure.TIMED_OUT,
    errno.EACCES: Failure.DENIED,
    errno.EPERM: Failure.DENIED,
    errno.EAFNOSUPPORT: Failure.FAMILY_UNSUPPORTED,
    errno.EADDRNOTAVAIL: Failure.NETWORK_UNREACHABLE,
    errno.ECONNRESET: Failure.RESET,
    errno.EPIPE: Failure.RESET,
    errno.ECONNABORTED: Failure.RESET,
    errno.EMFILE: Failure.LIMIT,
    errno.ENFILE: Failure.LIMIT,
    errno.ENOBUFS: Failure.LIMIT,
    errno.ENOMEM: Failure.LIMIT,
}


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
