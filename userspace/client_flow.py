"""A flow as the front doors see it (quicsocks.socks.types.Flow), over a flow of the tunnel.

It exists before the tunnel flow does: while there is no connection to the concentrator it waits, up to a limit, and
what is written meanwhile is kept. It is used either through ``relay``, which hands the tunnel flow to a ``Relay``, or
through ``read`` and ``write``, where it is the tunnel flow's handler itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from quicsocks.socks.deadlines import Deadlines
from quicsocks.socks.sockets import reset
from quicsocks.socks.types import Bound, Failure, FlowError, Request

from .causes import to_flow_error
from .flows import FlowTable
from .relay import Relay
from .tunnel.types import BoundAddress, Cause, FlowFailed, TunnelFlow

WRITE_AHEAD = 256 << 10
"""Bytes kept by ``write`` before there is a tunnel flow; then ``drain`` waits."""
FIN_WAIT = 60.0
"""Seconds that a closed flow waits for the destination's FIN: Linux's tcp_fin_timeout."""


class ClientFlow:
    """One flow of an application. The uplink calls ``attach`` when there is a tunnel to carry it, or ``fail``.

    What only coroutines need is made when one comes: most flows have none.
    """

    __slots__ = (
        "_before",
        "_bound",
        "_carried",
        "_close_timer",
        "_closed",
        "_deadlines",
        "_eof",
        "_error",
        "_finish_wanted",
        "_flow",
        "_flows",
        "_full",
        "_loop",
        "_on_over",
        "_over",
        "_paused",
        "_readable",
        "_received",
        "_relay",
        "_taken",
        "_told",
        "_unanswered",
        "_waiter",
        "_writable",
        "_wrote",
        "events",
        "request",
    )

    def __init__(self, request: Request, flows: FlowTable, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self._flows = flows
        self._loop = loop
        self.events = _Events(self)
        """The handler to open the tunnel flow with."""
        self._flow: TunnelFlow | None = None
        self._bound: Bound | None = None
        """Set when the destination has accepted."""
        self._error: FlowError | None = None
        self._told: Callable[[Bound | FlowError], None] | None = None
        self._waiter: asyncio.Future[Bound] | None = None
        self._before: bytearray | None = None
        self._finish_wanted = False
        self._received: list[bytes] = []
        self._eof = False
        self._taken = 0
        self._paused = False
        self._full = False
        self._readable: asyncio.Event | None = None
        self._writable: asyncio.Event | None = None
        self._relay: Relay | None = None
        self._carried: Callable[[Exception | None], None] | None = None
        self._over = False
        self._closed = False
        self._wrote = False
        self._unanswered: Callable[[FlowFailed], bool] | None = None
        self._on_over: Callable[[], None] | None = None
        self._deadlines: Deadlines[ClientFlow] | None = None
        self._close_timer: asyncio.TimerHandle | None = None

    # What the uplink calls.

    @property
    def is_waiting(self) -> bool:
        """Whether it still wants a tunnel flow."""
        return self._flow is None and not self._over

    @property
    def can_move(self) -> bool:
        """Whether it may be opened again elsewhere: unanswered, and no byte of the application's was sent."""
        return not self._over and self._bound is None and not self._wrote

    def attach(self, flow: TunnelFlow) -> None:
        """Use flow, whose handler is ``events``, from now on. What was written so far is sent at once."""
        self._flow = flow
        if self._before:
            self._wrote = True
            before, self._before = self._before, None
            flow.write(before)
        if self._finish_wanted:
            flow.finish()
        if self._full and not self._paused:
            self._set_full(False)

    def detach(self) -> None:
        """The tunnel flow is of no use any more; wait for another."""
        if self._flow is not None:
            self._flow.reset()
            self._flow = None

    def fail(self, error: FlowError) -> None:
        """The flow cannot be opened, or has broken."""
        if self._over:
            return
        self._over = True
        self._error = error
        self._flows.remove(self.events)
        self._settle()
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        if self._bound is None:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
            told, self._told = self._told, None
            if told is not None:
                told(error)
        self._wake_reader()
        self._set_full(False)
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over()

    def on_over(self, callback: Callable[[], None]) -> None:
        """Call callback when the flow fails, whoever ends it."""
        self._on_over = callback

    def on_unanswered(self, callback: Callable[[FlowFailed], bool]) -> None:
        """Ask callback before failing while nothing has been answered yet; True when it takes the flow elsewhere."""
        self._unanswered = callback

    def expire_in(self, deadlines: Deadlines[ClientFlow]) -> None:
        """Call ``expire`` by deadlines unless the destination has answered by then."""
        if self._deadlines is None and self._bound is None and not self._over:
            self._deadlines = deadlines
            deadlines.add(self)

    def expire(self) -> None:
        """The destination has not answered in time."""
        self._deadlines = None
        if self._bound is None:
            if self._flow is not None:
                self._flow.reset()
            self.fail(FlowError(Failure.TIMED_OUT, "no answer from the concentrator"))

    def _settle(self) -> None:
        """It is answered. What waited for that lets go of the flow, which would wait for the collector otherwise."""
        self._unanswered = None
        if self._deadlines is not None:
            self._deadlines.discard(self)
            self._deadlines = None

    # What ``events`` passes on.

    def on_connected(self, bound: BoundAddress) -> None:
        self._settle()
        self.events.active_at = self._loop.time()
        self._bound = answer = Bound(bound.host, bound.port)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)
        told, self._told = self._told, None
        if told is not None:
            told(answer)
        # Who was told has begun to carry it by now, in most cases.
        if self._relay is None:
            self._flows.add(self.events)
            if self._over:
                self._flows.remove(self.events)

    def on_data(self, data: bytes) -> None:
        if self._over or self._closed:
            if self._flow is not None:
                self._flow.consumed(len(data))
            if not self._over:
                # As a kernel does for data to a socket that has been closed (RFC 1122 §4.2.2.13).
                self.abort()
            return
        self.events.received += len(data)
        self.events.active_at = self._loop.time()
        self._received.append(data)
        self._wake_reader()

    def on_eof(self) -> None:
        self._eof = True
        self._wake_reader()

    def on_pause(self, paused: bool) -> None:
        self._paused = paused
        self._set_full(paused)

    def on_ended(self, error: FlowFailed | None) -> None:
        if error is not None:
            if self._bound is None and self._unanswered is not None and self._unanswered(error):
                return
            self.fail(to_flow_error(error))
            return
        self._eof = True
        self._flows.remove(self.events)
        if self._closed:
            self.fail(FlowError(Failure.RESET, "closed"))
        self._wake_reader()
        self._set_full(False)

    # What the front door calls.

    async def connected(self) -> Bound:
        if self._bound is not None:
            return self._bound
        if self._error is not None:
            raise self._error
        if self._waiter is None:
            self._waiter = self._loop.create_future()
            # Nobody may be waiting any more, e.g. when the application has gone: that is not an error to report.
            self._waiter.add_done_callback(_retrieve)
        return await asyncio.shield(self._waiter)

    def when_connected(self, told: Callable[[Bound | FlowError], None]) -> None:
        known = self._bound or self._error
        if known is not None:
            told(known)
        else:
            self._told = told

    async def relay(self, sock: socket.socket, early: bytes = b"") -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self.carry(sock, early, lambda _error: None if done.done() else done.set_result(None))
        try:
            await done
        except asyncio.CancelledError:
            if self._relay is not None:
                self._relay.abort(Cause.RESET, "the listener was closed")
            raise

    def carry(self, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
        flow = self._flow
        if self._error is not None or flow is None:
            # Broken since it was connected: the application sees what TCP would have shown it.
            self._flows.watch.discard(sock, closing=True)
            reset(sock)
            over(None)
            return
        self._carried = over
        relay = self._relay = Relay(flow, sock, self._relay_over, loop=self._loop, watch=self._flows.watch)
        self._flows.replace(self.events, relay)
        flow.set_handler(relay)
        self.events.hand_over()
        if self._paused:
            relay.pause_writing()
        relay.start(early, waiting=bool(self._received))
        if self._taken:
            flow.consumed(self._taken)
            self._taken = 0
        received, self._received = self._received, []
        for data in received:
            relay.data_received(data)
        if self._eof:
            relay.eof_received()

    def _relay_over(self, _error: FlowFailed | None) -> None:
        relay, over = self._relay, self._carried
        self._over = True
        self._carried = None
        if relay is not None:
            self._flows.remove(relay)
        if over is not None:
            over(None)

    async def read(self) -> bytes:
        self._return_credit()
        while not self._received:
            if self._error is not None:
                raise self._error
            if self._eof:
                return b""
            if self._readable is None:
                self._readable = asyncio.Event()
            self._readable.clear()
            await self._readable.wait()
        data = b"".join(self._received) if len(self._received) > 1 else self._received[0]
        self._received.clear()
        self._taken = len(data)
        return data

    def write(self, data: bytes) -> None:
        if self._over or not data:
            return
        self.events.sent += len(data)
        self.events.active_at = self._loop.time()
        if self._flow is not None:
            self._wrote = True
            self._flow.write(data)
            return
        if self._before is None:
            self._before = bytearray()
        self._before += data
        if len(self._before) > WRITE_AHEAD:
            self._set_full(True)

    async def drain(self) -> None:
        if self._full:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()
        if self._error is not None:
            raise self._error

    def write_eof(self) -> None:
        if self._over or self._finish_wanted:
            return
        self._finish_wanted = True
        if self._flow is not None:
            self._flow.finish()

    def abort(self) -> None:
        if self._relay is not None:
            self._relay.abort(Cause.RESET, "ended by the application")
        else:
            self.break_off(FlowFailed(Cause.RESET, "ended by the application"))

    def break_off(self, failed: FlowFailed) -> None:
        """Reset towards the destination, and fail here."""
        if self._flow is not None and not self._over:
            self._flow.reset()
        self.fail(to_flow_error(failed))
        self._drop_received()

    def close(self) -> None:
        if self._over or self._closed or self._relay is not None:
            return
        if self._flow is None or self._bound is None:
            self.abort()
            return
        self._closed = True
        self.write_eof()
        received = bool(self._received)
        self._drop_received()
        if received:
            self.abort()
        elif self._eof:
            self.fail(FlowError(Failure.RESET, "closed"))
        else:
            self._close_timer = self._loop.call_later(FIN_WAIT, self.abort)

    def _wake_reader(self) -> None:
        if self._readable is not None:
            self._readable.set()

    def _set_full(self, full: bool) -> None:
        """Whether ``drain`` waits."""
        self._full = full
        if self._writable is not None:
            if full:
                self._writable.clear()
            else:
                self._writable.set()

    def _return_credit(self) -> None:
        if self._taken and self._flow is not None:
            self._flow.consumed(self._taken)
        self._taken = 0

    def _drop_received(self) -> None:
        self._return_credit()
        if self._received and self._flow is not None:
            self._flow.consumed(sum(len(chunk) for chunk in self._received))
        self._received.clear()


class _Events:
    """What the tunnel flow calls until a relay takes over, and what the table of flows counts until then."""

    __slots__ = ("_owner", "active_at", "received", "sent")

    def __init__(self, owner: ClientFlow) -> None:
        self._owner: ClientFlow | None = owner
        self.sent = 0
        self.received = 0
        self.active_at = 0.0

    def hand_over(self) -> None:
        """A relay has taken over: nothing is to be called any more."""
        self._owner = None

    def abort(self, cause: Cause, detail: str = "") -> None:
        if self._owner is not None:
            self._owner.break_off(FlowFailed(cause, detail))

    def connected(self, bound: BoundAddress) -> None:
        if self._owner is not None:
            self._owner.on_connected(bound)

    def data_received(self, data: bytes) -> None:
        if self._owner is not None:
            self._owner.on_data(data)

    def eof_received(self) -> None:
        if self._owner is not None:
            self._owner.on_eof()

    def pause_writing(self) -> None:
        if self._owner is not None:
            self._owner.on_pause(True)

    def resume_writing(self) -> None:
        if self._owner is not None:
            self._owner.on_pause(False)

    def flow_ended(self, error: FlowFailed | None) -> None:
        if self._owner is not None:
            self._owner.on_ended(error)


def _retrieve(future: asyncio.Future[Bound]) -> None:
    if not future.cancelled():
        future.exception()
