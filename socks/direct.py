"""An exit that dials real sockets: for destinations that a rule sends out directly, and for tests of everything else.

What is dialled, and whether it may be, is the business of the ``Dial`` that is injected; this file only keeps the
contract of ``types.Flow`` on top of the socket that it returns: success is reported when the destination has accepted,
a FIN stays a FIN and a reset a reset, in both directions and in every order, and no more than a stated number of bytes
is held.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Final

from . import waiting
from .sockets import READ_SIZE, close_gently, failure_of, prepare, receive, reset, send_all
from .types import Bound, Failure, FlowError, Request
from .watch import Watch

Dial = Callable[[Request], Coroutine[None, None, socket.socket]]
"""Returns a connected TCP socket. Raises FlowError or OSError. It is cancelled when the application goes away."""

WRITE_HIGH: Final = 256 << 10
"""Bytes that ``write`` holds before ``drain`` waits: what the tunnel's flows hold, four reads of a front door."""

WRITE_LOW: Final = 64 << 10
"""Bytes held at which ``drain`` lets go."""

CLOSE_TIMEOUT: Final = 30.0
"""Seconds that ``close`` gives the destination to take what has been written; then the flow is reset."""


class SocketExit:
    """Opens flows by dialling. ``close`` it in the end: flows that still run are reset."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._flows: set[SocketFlow] = set()
        self._watch: Watch | None = None

    def open(self, request: Request) -> SocketFlow:
        """Begin to dial; returns at once. Must be called from a running loop."""
        if self._watch is None:
            self._watch = Watch.shared()
        flow = SocketFlow(self._dial, request, self._watch, self._flows.discard)
        self._flows.add(flow)
        return flow

    @property
    def open_flows(self) -> int:
        return len(self._flows)

    async def close(self) -> None:
        """Reset what still runs and wait for its tasks. Idempotent."""
        flows = list(self._flows)
        for flow in flows:
            flow.abort()
        for flow in flows:
            await flow.wait_ended()
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class SocketFlow:
    """One flow over a dialled socket; ``types.Flow`` says what its methods promise."""

    def __init__(self, dial: Dial, request: Request, watch: Watch, on_ended: Callable[[SocketFlow], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._watch = watch
        self._on_ended = on_ended
        self._sock: socket.socket | None = None
        self._error: FlowError | None = None
        self._write_error: FlowError | None = None
        self._pending: deque[memoryview] = deque()
        self._pending_size = 0
        self._eof_wanted = False
        self._closing = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._flushed = asyncio.Event()
        self._read_waiter: asyncio.Future[None] | None = None
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._close_task: asyncio.Task[None] | None = None
        self._dial_task = self._loop.create_task(self._connect(dial, request))
        self._dial_task.add_done_callback(_retrieve)

    async def connected(self) -> Bound:
        """See ``types.Flow``. The dial is shielded: a caller may give up waiting without ending the flow."""
        try:
            return await asyncio.shield(self._dial_task)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._error is not None and (task is None or not task.cancelling()):
                raise self._error from None  # the dial was cancelled, not the caller
            raise

    async def relay(self, sock: socket.socket, early: bytes = b"") -> None:
        """See ``types.Flow``."""
        try:
            await self.connected()
            if self._sock is not None:
                await _join(sock, self._sock, early, self._watch, self._broken)
        except FlowError:
            pass  # the reset below is how the application is told
        finally:
            # After an orderly end the sockets are closed already, and these change nothing.
            reset(sock)
            self._end(FlowError(Failure.RESET, "the flow has ended"))

    def when_connected(self, told: Callable[[Bound | FlowError], None]) -> None:
        """See ``types.Flow``."""
        waiting.when_connected(self, told)

    def carry(self, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
        """See ``types.Flow``."""
        waiting.carry(self, sock, early, over)

    async def read(self) -> bytes:
        """See ``types.Flow``."""
        await self.connected()
        while True:
            if self._error is not None or self._sock is None:
                raise self._error or FlowError(Failure.RESET)
            try:
                return self._sock.recv(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                await self._wait_readable(self._sock)
            except OSError as error:
                self._end(FlowError(failure_of(error), error.strerror or ""))

    def write(self, data: bytes) -> None:
        """See ``types.Flow``. After the end of the flow it does nothing; ``read`` and ``drain`` say why."""
        if self._error is not None or self._write_error is not None or self._eof_wanted or not data:
            return
        self._pending.append(memoryview(data))
        self._pending_size += len(data)
        if self._pending_size > WRITE_HIGH:
            self._drained.clear()
        self._flush()

    async def drain(self) -> None:
        """See ``types.Flow``."""
        await self._drained.wait()
        error = self._error or self._write_error
        if error is not None:
            raise error

    def write_eof(self) -> None:
        """See ``types.Flow``."""
        if not self._eof_wanted:
            self._eof_wanted = True
            self._flush()

    def abort(self) -> None:
        """See ``types.Flow``."""
        self._end(FlowError(Failure.RESET, "aborted"))

    def close(self) -> None:
        """See ``types.Flow``. What the destination has not taken after CLOSE_TIMEOUT is lost, with a reset."""
        if self._closing or self._error is not None:
            return
        self._closing = True
        self._eof_wanted = True
        self._close_task = self._loop.create_task(self._close())

    async def wait_ended(self) -> None:
        """Wait until no task of the flow is left. ``abort`` or ``close`` it first."""
        tasks = [task for task in (self._dial_task, self._close_task) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, dial: Dial, request: Request) -> Bound:
        try:
            sock = await dial(request)
        except asyncio.CancelledError:
            self._end(FlowError(Failure.RESET, "aborted"))
            raise
        except FlowError as error:
            self._end(error)
            raise
        except OSError as error:
            failure = FlowError(failure_of(error), error.strerror or "")
            self._end(failure)
            raise failure from error
        if self._error is not None:
            reset(sock)
            raise self._error
        prepare(sock)
        self._sock = sock
        try:
            address = sock.getsockname()
        except OSError as error:
            failure = FlowError(failure_of(error), error.strerror or "")
            self._end(failure)
            raise failure from error
        self._flush()
        return Bound(address[0], address[1]) if isinstance(address, tuple) else Bound()

    async def _wait_readable(self, sock: socket.socket) -> None:
        waiter = self._read_waiter = self._loop.create_future()
        self._loop.add_reader(sock.fileno(), _resolve, waiter)
        try:
            await waiter
        finally:
            self._read_waiter = None
            if self._sock is not None:  # otherwise _end has removed it, and the number may be another socket's by now
                self._loop.remove_reader(sock.fileno())

    def _flush(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            while self._pending:
                chunk = self._pending[0]
                sent = sock.send(chunk)
                self._pending_size -= sent
                if sent == len(chunk):
                    self._pending.popleft()
                else:
                    self._pending[0] = chunk[sent:]
            if self._eof_wanted:
                sock.shutdown(socket.SHUT_WR)
                self._flushed.set()
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(sock.fileno(), self._flush)
        except OSError as error:
            # The destination has reset. What it had sent before may still be read (RFC 9112 §9.6 relies on that),
            # so only the writing side ends here; the next read that finds nothing says what happened.
            self._pending.clear()
            self._pending_size = 0
            self._loop.remove_writer(sock.fileno())
            self._write_error = FlowError(failure_of(error), error.strerror or "")
            self._flushed.set()
        else:
            self._loop.remove_writer(sock.fileno())
        if self._pending_size <= WRITE_LOW:
            self._drained.set()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.shield(self._dial_task)
                self._flush()
                await self._flushed.wait()
        except (TimeoutError, FlowError, asyncio.CancelledError):
            self._end(FlowError(Failure.RESET, "not taken in time"))
            return
        sock = self._release()
        if sock is not None:
            # What the destination still sends is thrown away; were it left unread, close would send a RST.
            await close_gently(sock, CLOSE_TIMEOUT)
        self._end(FlowError(Failure.RESET, "the flow has been closed"))

    def _release(self) -> socket.socket | None:
        """Let go of the socket: no callback of the loop is left on it."""
        sock, self._sock = self._sock, None
        if sock is not None and sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
        return sock

    def _end(self, error: FlowError) -> None:
        """End with a reset, once; wake everybody who waits."""
        if self._error is not None:
            return
        self._error = error
        sock = self._release()
        if sock is not None:
            reset(sock)
        self._pending.clear()
        self._pending_size = 0
        self._drained.set()
        self._flushed.set()
        if not self._broken.done():
            self._broken.set_result(None)
        if self._read_waiter is not None:
            _resolve(self._read_waiter)
        if self._dial_task is not asyncio.current_task(self._loop):
            self._dial_task.cancel()
        if self._close_task is not None and self._close_task is not asyncio.current_task(self._loop):
            self._close_task.cancel()
        self._on_ended(self)


async def _join(
    application: socket.socket, destination: socket.socket, early: bytes, watch: Watch, broken: asyncio.Future[None]
) -> None:
    """Carry bytes and half-closes both ways until both directions have ended, then close both sockets. When either is
    reset, or broken is resolved, or this is cancelled, both are left open for the caller to reset."""
    loop = asyncio.get_running_loop()

    def gone(failed: bool) -> None:
        # An end in order is seen by the pumps, in its place in the stream of bytes.
        if failed:
            _resolve(broken)

    # A pump that waits to write, or has seen EOF, would not see a reset of the side that it reads.
    watch.add(application, gone)
    watch.add(destination, gone)
    pumps = {
        loop.create_task(_pump(application, destination, early)),
        loop.create_task(_pump(destination, application)),
    }
    waiting: set[asyncio.Future[None]] = {*pumps, broken}
    try:
        while pumps & waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if broken in done or any(task.exception() is not None for task in done):
                return
    finally:
        watch.discard(application)
        watch.discard(destination)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    application.close()
    destination.close()


async def _pump(source: socket.socket, sink: socket.socket, early: bytes = b"") -> None:
    if early:
        await send_all(sink, early)
    while data := await receive(source):
        await send_all(sink, data)
    sink.shutdown(socket.SHUT_WR)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _retrieve(task: asyncio.Task[Bound]) -> None:
    # Nobody may be waiting, e.g. when the application has gone: that is not an error to report.
    if not task.cancelled():
        task.exception()
