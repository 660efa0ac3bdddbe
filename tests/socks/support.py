"""What the listener's tests share: a loop of either kind, a door with an exit behind it, and a bare client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import uvloop

from quicsocks.socks.config import ListenerConfig
from quicsocks.socks.fake import MemoryExit, MemoryFlow
from quicsocks.socks.listener import Listener, start
from quicsocks.socks.sockets import receive, send_all
from quicsocks.socks.types import Exit

LIMIT = 20.0
"""Seconds after which a test that hangs fails."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

SOCKS5_GREETING = b"\x05\x01\x00"
SOCKS5_CONNECT = b"\x05\x01\x00\x03\x0bexample.com\x00\x50"
SOCKS4_CONNECT = b"\x04\x01\x00\x50\x00\x00\x00\x01\x00example.com\x00"
HTTP_CONNECT = b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n"

SOCKS5_OK = b"\x05\x00\x05\x00\x00\x01\xc0\x00\x02\x01\x10\xe1"
SOCKS4_OK = b"\x00\x5a\x10\xe1\xc0\x00\x02\x01"
HTTP_OK = b"HTTP/1.1 200 Connection established\r\n\r\n"

OPENINGS = {
    "socks5": (SOCKS5_GREETING + SOCKS5_CONNECT, SOCKS5_OK),
    "socks4": (SOCKS4_CONNECT, SOCKS4_OK),
    "http": (HTTP_CONNECT, HTTP_OK),
}
"""What asks for example.com:80 in each protocol, in one piece, and the whole answer when MemoryFlow accepts."""


def run(coroutine: Coroutine[Any, Any, None], loop: str = "asyncio") -> None:
    """Run a test on a loop of its own; it must end in time and leave no task behind."""

    async def bounded() -> None:
        async with asyncio.timeout(LIMIT):
            await coroutine
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


class Door:
    """A running listener, the exit behind it, and what it reported."""

    def __init__(self, listener: Listener, exit: Exit, events: list[tuple[str, str]]) -> None:
        self.listener = listener
        self.exit = exit
        self.events = events
        self.applications: list[Application] = []

    @property
    def address(self) -> tuple[str, int]:
        address = self.listener.addresses[0]
        assert isinstance(address, tuple)
        return address

    @property
    def memory(self) -> MemoryExit:
        assert isinstance(self.exit, MemoryExit)
        return self.exit

    async def next_flow(self) -> MemoryFlow:
        return await self.memory.next_flow()

    async def connect(self, first: bytes = b"") -> Application:
        application = await Application.connect(self.address, first)
        self.applications.append(application)
        return application


@contextlib.asynccontextmanager
async def door(exit: Exit | None = None, **options: Any) -> AsyncIterator[Door]:
    """A listener on a port of loopback, with a MemoryExit unless another exit is given."""
    events: list[tuple[str, str]] = []
    options.setdefault("addresses", (("127.0.0.1", 0),))
    options.setdefault("linger_timeout", 2.0)
    exit = exit if exit is not None else MemoryExit()
    listener = await start(ListenerConfig(**options), exit, lambda kind, text: events.append((kind, text)))
    opened = Door(listener, exit, events)
    try:
        yield opened
    finally:
        for application in opened.applications:
            application.close()
        await listener.close()
    assert not [text for kind, text in events if kind == "internal"]


class Application:
    """A client on a bare socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = b""

    @classmethod
    async def connect(cls, address: tuple[str, int] | str, first: bytes = b"") -> Application:
        inet = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else inet, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        application = cls(sock)
        await application.send(first)
        return application

    async def send(self, data: bytes) -> None:
        await send_all(self.sock, data)

    async def expect(self, expected: bytes) -> None:
        """The next bytes are exactly expected."""
        received = bytearray(self._received)
        while len(received) < len(expected) and (data := await receive(self.sock)):
            received += data
        got, self._received = bytes(received[: len(expected)]), bytes(received[len(expected) :])
        assert got == expected

    async def read_until(self, end: bytes) -> bytes:
        """Everything up to and with end."""
        while end not in self._received:
            data = await receive(self.sock)
            assert data, f"EOF before {end!r}, after {self._received!r}"
            self._received += data
        at = self._received.index(end) + len(end)
        got, self._received = self._received[:at], self._received[at:]
        return got

    async def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """A response with Content-Length, or without content: status, fields with small names, body."""
        head = (await self.read_until(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.rstrip("\r\n").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(fields.get("content-length", "0"))
        while len(self._received) < size:
            data = await receive(self.sock)
            assert data
            self._received += data
        body, self._received = self._received[:size], self._received[size:]
        return int(status_line.split(" ")[1]), fields, body

    async def read_all(self) -> bytes:
        """Everything until EOF."""
        received = bytearray(self._received)
        while data := await receive(self.sock):
            received += data
        self._received = b""
        return bytes(received)

    async def expect_eof(self) -> None:
        assert await self.read_all() == b""

    async def expect_reset(self) -> None:
        """The connection is reset, whatever was sent before."""
        try:
            while await receive(self.sock):
                pass
        except ConnectionResetError:
            return
        raise AssertionError("the connection ended with a FIN")

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()
