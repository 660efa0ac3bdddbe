"""Exits for tests: one in memory, whose every step the test decides, and one that dials loopback.

They stand beside the interface that they imitate so that a change to ``types.Exit`` changes them too. Nothing of the
program uses them.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping

from . import waiting
from .direct import SocketExit
from .sockets import receive, reset, send_all
from .types import Bound, Failure, FlowError, Request


class MemoryFlow:
    """A flow whose far end is the test.

    The test calls ``accept`` or ``refuse``, then ``feed``, ``feed_eof`` and ``break_off``, and looks at ``written``,
    ``write_ended``, ``aborted`` and ``closed``; ``changed`` wakes when one of these has changed.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.written = bytearray()
        self.written_before_connected = 0
        self.write_ended = False
        self.aborted = False
        self.closed = False
        self.relayed = False
        self.changed = asyncio.Condition()
        self._connected: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
        self._connected.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._incoming: deque[bytes] = deque()
        self._incoming_ended = False
        self._error: FlowError | None = None
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._notifications: set[asyncio.Task[None]] = set()

    # The test's side.

    def accept(self, bound: Bound | None = None) -> None:
        """The destination has accepted."""
        if not self._connected.done():
            self._connected.set_result(bound if bound is not None else Bound("192.0.2.1", 4321))

    def refuse(self, failure: Failure, detail: str = "") -> None:
        """The flow cannot be opened."""
        self.break_off(failure, detail)

    def feed(self, data: bytes) -> None:
        """Bytes from the destination."""
        self._incoming.append(data)
        self._wake.set()

    def feed_eof(self) -> None:
        """The destination's FIN."""
        self._incoming_ended = True
        self._wake.set()

    def break_off(self, failure: Failure = Failure.RESET, detail: str = "") -> None:
        """The flow breaks."""
        self._error = FlowError(failure, detail)
        if not self._connected.done():
            self._connected.set_exception(self._error)
        self._wake.set()
        self._writable.set()

    def pause(self) -> None:
        """The destination stops reading: ``drain`` waits until ``resume``."""
        self._writable.clear()

    def resume(self) -> None:
        """The destination reads again."""
        self._writable.set()

    @property
    def unread(self) -> int:
        """Bytes fed that nobody has taken yet."""
        return sum(map(len, self._incoming))

    async def until_written(self, expected: bytes) -> None:
        """Wait until written ends with expected."""
        await self._until(lambda: bytes(self.written).endswith(expected))

    async def until_write_ended(self) -> None:
        """Wait for the application's FIN."""
        await self._until(lambda: self.write_ended)

    async def until_over(self) -> None:
        """Wait until the flow was aborted or closed."""
        await self._until(lambda: self.aborted or self.closed)

    # The front door's side: ``types.Flow``.

    async def connected(self) -> Bound:
        return await asyncio.shield(self._connected)

    async def relay(self, sock: socket.socket, early: bytes = b"") -> None:
        self.relayed = True
        self.write(early)
        upload = asyncio.ensure_future(self._upload(sock))
        download = asyncio.ensure_future(self._download(sock))
        try:
            await asyncio.gather(upload, download)
            sock.close()
            self.closed = True
        except (FlowError, OSError):
            self.aborted = True
            reset(sock)
        finally:
            upload.cancel()
            download.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)
            reset(sock)
            self._notify()
            await asyncio.gather(*self._notifications)

    def when_connected(self, told: Callable[[Bound | FlowError], None]) -> None:
        """See ``types.Flow``."""
        waiting.when_connected(self, told)

    def carry(self, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
        """See ``types.Flow``."""
        waiting.carry(self, sock, early, over)

    async def read(self) -> bytes:
        while not self._incoming:
            if self._error is not None:
                raise self._error
            if self._incoming_ended:
                return b""
            self._wake.clear()
            await self._wake.wait()
        return self._incoming.popleft()

    def write(self, data: bytes) -> None:
        self.written += data
        if not self._connected.done():
            self.written_before_connected += len(data)
        self._notify()

    async def drain(self) -> None:
        await self._writable.wait()
        if self._error is not None:
            raise self._error

    def write_eof(self) -> None:
        self.write_ended = True
        self._notify()

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.break_off(Failure.RESET, "aborted")
            self._notify()

    def close(self) -> None:
        self.closed = True
        self.write_ended = True
        self._notify()

    async def _upload(self, sock: socket.socket) -> None:
        while data := await receive(sock):
            self.write(data)
            await self.drain()
        self.write_eof()

    async def _download(self, sock: socket.socket) -> None:
        while data := await self.read():
            await send_all(sock, data)
        sock.shutdown(socket.SHUT_WR)

    async def _until(self, condition: object, seconds: float = 10.0) -> None:
        assert callable(condition)
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    def _notify(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._notifications.add(task)
        task.add_done_callback(self._notifications.discard)


class MemoryExit:
    """Opens ``MemoryFlow``; ``next_flow`` gives them to the test in order."""

    def __init__(self) -> None:
        self.flows: list[MemoryFlow] = []
        self._opened: asyncio.Queue[MemoryFlow] = asyncio.Queue()

    def open(self, request: Request) -> MemoryFlow:
        flow = MemoryFlow(request)
        self.flows.append(flow)
        self._opened.put_nowait(flow)
        return flow

    async def next_flow(self, seconds: float = 10.0) -> MemoryFlow:
        """The next flow that a front door opens."""
        async with asyncio.timeout(seconds):
            return await self._opened.get()


def loopback_exit(places: Mapping[tuple[str, int], tuple[str, int]] | None = None) -> SocketExit:
    """An exit that dials a loopback address: the one that places gives for (host, port), else the one asked for.
    Anything else is refused as denied, so that a test cannot reach a network by mistake."""

    async def dial(request: Request) -> socket.socket:
        host, port = (places or {}).get((request.host, request.port), (request.host, request.port))
        if host == "localhost":
            host = "127.0.0.1"
        if host != "::1" and not host.startswith("127."):
            raise FlowError(Failure.DENIED, "tests dial loopback only")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    return SocketExit(dial)
