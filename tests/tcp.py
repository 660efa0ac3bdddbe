"""Kernel TCP sockets for tests: connected pairs on loopback, and what became of them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds until a test that waits for something gives up; far more than a busy machine needs."""

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(main: Coroutine[Any, Any, T], factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> T:
    """Run main on a loop of the given kind, for PATIENCE at most."""
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(main, PATIENCE))


def tcp_pair(buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets on loopback, non-blocking. buffer: bytes that the kernel keeps for each direction at
    each end, when not its own choice."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.socket()
        for sock in (listener, left) if buffer else ():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        left.connect(listener.getsockname())
        right, _ = listener.accept()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def close_with_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let the loop run until condition holds; the runner's patience bounds it."""
    while not condition():
        await asyncio.sleep(0.001)
