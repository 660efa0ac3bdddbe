"""Real peers on loopback: pproxy as a program, an origin that echoes, and an Exit that dials sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

from quicsocks.socks.sockets import reset
from quicsocks.socks.types import Bound, Failure, FlowError, Request


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# pproxy 2.7.9's main() asks for a loop that Python no longer makes by itself, and for uvloop's policy.
PPROXY = "import asyncio, warnings; warnings.simplefilter('ignore'); asyncio.set_event_loop(asyncio.new_event_loop())\n"
PPROXY += "import sys; from pproxy import server; sys.modules['uvloop'] = None; server.main()"


@contextlib.contextmanager
def pproxy(*arguments: str) -> Iterator[None]:
    """pproxy as a program, from when it serves until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-W", "ignore", "-c", PPROXY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("Serving on"):
                break
        else:
            raise AssertionError(f"pproxy did not start: {''.join(seen)}")
        yield
    finally:
        process.kill()
        process.communicate()


@contextlib.asynccontextmanager
async def origin(answer: bytes | None = None) -> AsyncIterator[int]:
    """A server that echoes until EOF, then says goodbye and closes; or that sends answer first."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if answer is not None:
                writer.write(answer)
            while data := await reader.read(1 << 16):
                if data.startswith(b"RESET"):
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()
            writer.write(b"goodbye")
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class SocketFlow:
    """A Flow that is a TCP connection."""

    def __init__(self, request: Request, map_to: int | None) -> None:
        self.request = request
        self._early = bytearray()
        self.aborted = False
        self.closed = False
        self._streams = asyncio.ensure_future(asyncio.open_connection("127.0.0.1", map_to or request.port))

    async def connected(self) -> Bound:
        try:
            _, writer = await asyncio.shield(self._streams)
        except OSError as error:
            raise FlowError(Failure.REFUSED, str(error)) from None
        writer.write(bytes(self._early))
        self._early.clear()
        return Bound(*writer.get_extra_info("sockname")[:2])

    async def relay(self, sock: socket.socket, early: bytes = b"") -> None:
        raise NotImplementedError

    def when_connected(self, told: Callable[[Bound | FlowError], None]) -> None:
        raise NotImplementedError

    def carry(self, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
        raise NotImplementedError

    async def read(self) -> bytes:
        try:
            return await self._streams.result()[0].read(1 << 16)
        except OSError as error:
            raise FlowError(Failure.RESET, str(error)) from None

    def write(self, data: bytes) -> None:
        if self._streams.done():
            self._streams.result()[1].write(data)
        else:
            self._early += data

    async def drain(self) -> None:
        await self._streams.result()[1].drain()

    def write_eof(self) -> None:
        self._streams.result()[1].write_eof()

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self._streams.cancel()
            if self._streams.done() and not self._streams.cancelled() and self._streams.exception() is None:
                transport = self._streams.result()[1].transport
                if not transport.is_closing():
                    sock = transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                transport.abort()

    def close(self) -> None:
        self.closed = True
        self._streams.result()[1].close()


class SocketExit:
    """map_to: a port on loopback that every request is taken to, whatever it asks for."""

    def __init__(self, map_to: int | None = None) -> None:
        self.map_to = map_to
        self.flows: list[SocketFlow] = []

    def open(self, request: Request) -> SocketFlow:
        self.flows.append(SocketFlow(request, self.map_to))
        return self.flows[-1]


async def read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    out = bytearray()
    while data := await loop.sock_recv(sock, 1 << 16):
        out += data
    return bytes(out)


__all__ = ["SocketExit", "SocketFlow", "free_port", "origin", "pproxy", "read_all", "reset"]
