"""Moves bytes between a raw socket and something that encodes them, with half-closes and resets kept.

``Layer`` is the encoding (Shadowsocks, TLS, or none), sans-IO. ``pump`` joins two sockets, one of them through a layer.
Read first: docs on TCP semantics in ARCHITECTURE.md. asyncio and uvloop do not report a reset that comes after EOF or
while nobody reads, so ``was_reset`` asks the descriptor itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Protocol

from quicsocks.socks.sockets import reset

from ..quic.errors import PeerError


class Layer(Protocol):
    """An encoding of one connection's two directions. ``ended``: the peer has said, inside the layer, that it is
    done."""

    @property
    def ended(self) -> bool: ...

    def encode(self, data: bytes) -> bytes: ...

    def encode_eof(self) -> bytes:
        """What goes out before the FIN."""

    def decode(self, data: bytes) -> bytes:
        """Raises PeerError."""

    def decode_eof(self) -> None:
        """The peer's FIN has come. Raises PeerError when it came in the middle of something."""


class Plain:
    """No encoding."""

    ended = False

    def encode(self, data: bytes) -> bytes:
        return data

    def encode_eof(self) -> bytes:
        return b""

    def decode(self, data: bytes) -> bytes:
        return data

    def decode_eof(self) -> None:
        pass


async def pump(plain: socket.socket, outer: socket.socket, layer: Layer) -> None:
    """Carry bytes both ways until both directions have ended, then close both sockets. Raises nothing of its own.

    plain, outer: connected and non-blocking; owned from the call on. An error or a reset on either side resets both.
    """
    try:
        await both(_plain_to_outer(plain, outer, layer), _outer_to_plain(plain, outer, layer), plain, outer)
    except (OSError, PeerError):
        reset(plain)
        reset(outer)
    except asyncio.CancelledError:
        # The flow did not end in order, so it must not look as if it had.
        reset(plain)
        reset(outer)
        raise
    finally:
        plain.close()
        outer.close()


async def both(up: Coroutine[Any, Any, None], down: Coroutine[Any, Any, None], *watched: socket.socket) -> None:
    """Run both directions, and look after the sockets' errors meanwhile. Raises the first error, after both ended."""
    tasks = [asyncio.create_task(up), asyncio.create_task(down)]
    watcher = asyncio.create_task(_watch(watched))
    try:
        waiting = set(tasks)
        while waiting:
            done, _ = await asyncio.wait({*waiting, watcher}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            waiting -= done
    finally:
        for task in (*tasks, watcher):
            task.cancel()
        await asyncio.gather(*tasks, watcher, return_exceptions=True)


async def _watch(sockets: tuple[socket.socket, ...]) -> None:
    """Raise when a socket was reset though nobody was reading."""
    while True:
        await asyncio.sleep(WATCH_INTERVAL)
        for sock in sockets:
            if was_reset(sock):
                raise ConnectionResetError("the connection was reset")


async def _plain_to_outer(plain: socket.socket, outer: socket.socket, layer: Layer) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(plain, CHUNK):
        await loop.sock_sendall(outer, layer.encode(data))
    if last := layer.encode_eof():
        await loop.sock_sendall(outer, last)
    outer.shutdown(socket.SHUT_WR)


async def _outer_to_plain(plain: socket.socket, outer: socket.socket, layer: Layer) -> None:
    loop = asyncio.get_running_loop()
    while not layer.ended:
        data = await loop.sock_recv(outer, CHUNK)
        if not data:
            layer.decode_eof()
            break
        if decoded := layer.decode(data):
            await loop.sock_sendall(plain, decoded)
    plain.shutdown(socket.SHUT_WR)


def was_reset(sock: socket.socket) -> bool:
    """Whether an error waits on a socket; asking takes it away."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return False  # closed meanwhile, and so not reset


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking TCP sockets on loopback.

    Not socketpair: a Unix socket cannot be reset, and so could not pass a reset on. Raises OSError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        ours = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            ours.settimeout(1.0)  # loopback answers at once; never wait for long if something is in the way
            listener.settimeout(1.0)
            ours.connect(listener.getsockname())
            while True:
                theirs, peer = listener.accept()
                if peer == ours.getsockname():
                    break
                theirs.close()  # another local process was quicker; not what was asked for
        except OSError:
            ours.close()
            raise
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


CHUNK = 64 << 10
"""Bytes read at once: what a socket buffer of the default size hands out well."""

WATCH_INTERVAL = 5.0
"""Seconds between two looks at a descriptor that nobody reads: a reset then is rare, and nothing but memory waits."""
