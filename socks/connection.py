"""One accepted connection: what every protocol needs to serve it, and how it ends.

Read first: ``types`` for the contract with the exit. The order is always the same: parse the request within the
handshake time, open the flow, wait for the destination while watching that the application is still there, answer
truthfully, hand socket and unread bytes to the flow. The protocols themselves are served by ``socks_session`` and
``http_session``; ``listener`` makes the connections and counts them.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from .config import ListenerConfig
from .sockets import close_gently, reset, send_all
from .types import Bound, Exit, Failure, Flow, FlowError, Request
from .watch import Watch

T = TypeVar("T")

MAX_PASSWORD_ATTEMPTS: Final = 8
"""Wrong passwords on one HTTP connection; SOCKS5 closes after the first (RFC 1929 §2)."""


class ClientGone(Exception):
    """The application has reset its connection, or closed a unix socket: nobody is left to answer."""


class Phase(enum.Enum):
    """What a listener that closes waits for: NEGOTIATING briefly, OPEN as long as it is told, IDLE not at all."""

    NEGOTIATING = enum.auto()
    IDLE = enum.auto()
    OPEN = enum.auto()


class Ending(enum.Enum):
    """How a connection is closed on which nothing is relayed: after what we said has been read, or at once."""

    GENTLY = enum.auto()
    RESET = enum.auto()


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An open flow that takes over the socket, and bytes read from the application that belong to it."""

    flow: Flow
    early: bytes


Outcome = Tunnel | Ending


@dataclass(slots=True)
class Statistics:
    """Counts since the start, but for open, which is now.

    refused: connections answered that a limit is reached, or closed for it. evicted: connections without a request, or
    between two, that made room for new ones at a limit. failed: requests that could not be read.
    denied: wrong or missing passwords. socks5, socks4, http: connections of each protocol. flows: opened at the exit.
    """

    accepted: int = 0
    open: int = 0
    refused: int = 0
    evicted: int = 0
    failed: int = 0
    denied: int = 0
    socks5: int = 0
    socks4: int = 0
    http: int = 0
    flows: int = 0


class Client:
    """What a session knows of its connection, and what it can do with it.

    peer: the application's address, None on a unix socket. refusing: a limit is reached, and requests are answered so.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: tuple[str, int] | None,
        exit: Exit,
        config: ListenerConfig,
        statistics: Statistics,
        *,
        refusing: bool = False,
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.exit = exit
        self.config = config
        self.statistics = statistics
        self.refusing = refusing
        self.closing = False
        """The listener is closing: no further request is to be taken."""
        self.phase = Phase.NEGOTIATING
        self.since = asyncio.get_running_loop().time()
        """When it was accepted, in loop time."""
        self.key: str | None = None
        """What its address is counted as."""
        self.evicted = False
        """It is being closed to make room."""
        self.asked = False
        """Whether it has made a complete request; until then it may have to make room for others."""
        self.started = False
        """Whether ``run`` has begun, and with it the care for the socket."""
        self._flow: Flow | None = None
        self._half_closed = False
        self._gone = False
        self._working: asyncio.Task[Any] | None = None
        """The task that works for the application, and is of no use when that has gone."""

    async def run(self, serve: Callable[[Client], Coroutine[Any, Any, Outcome]], watch: Watch) -> None:
        """Serve the connection, then relay or close as serve says. The socket is closed in the end, come what may."""
        outcome: Outcome = Ending.RESET
        self.started = True
        try:
            watch.add(self.sock, self.on_gone, reading=True)
            outcome = await serve(self)
        except (ClientGone, OSError):
            pass  # the application is gone; there is nobody to tell
        finally:
            # A relay takes the watch over with the socket.
            if not isinstance(outcome, Tunnel):
                watch.discard(self.sock, closing=outcome is Ending.RESET)
            if outcome is Ending.RESET:
                reset(self.sock)
        if isinstance(outcome, Tunnel):
            try:
                await self._relay(outcome)
            finally:
                watch.discard(self.sock)
        elif outcome is Ending.GENTLY:
            self.phase = Phase.IDLE
            await close_gently(self.sock, self.config.linger_timeout)

    @property
    def is_dispensable(self) -> bool:
        """Whether nothing is lost if it is closed: it has not asked for anything yet, or has been answered."""
        return not self.refusing and (self.phase is Phase.IDLE or not self.asked)

    def abort(self) -> None:
        """Reset the flow that is open or being opened."""
        self.closing = True
        if self._flow is not None:
            self._flow.abort()

    def begin(self, request: Request) -> Flow:
        """Begin to open a flow. Raises FlowError at a limit."""
        self.asked = True
        if self.refusing:
            raise FlowError(Failure.LIMIT)
        self._flow = self.exit.open(request)
        self.statistics.flows += 1
        return self._flow

    def use(self, flow: Flow) -> None:
        """flow, opened earlier, is in use again."""
        self._flow = flow

    async def open(self, request: Request) -> tuple[Flow, Bound]:
        """Open a flow and wait until its destination has accepted. Raises FlowError, ClientGone."""
        flow = self.begin(request)
        return flow, await self.until_gone(flow, self.connected(flow))

    async def connected(self, flow: Flow) -> Bound:
        """Wait until flow's destination has accepted, for as long as is configured. Raises FlowError."""
        try:
            async with asyncio.timeout(self.config.connect_timeout):
                return await flow.connected()
        except TimeoutError:
            flow.abort()
            raise FlowError(Failure.TIMED_OUT) from None

    async def until_gone(self, flow: Flow, work: Coroutine[Any, Any, T]) -> T:
        """The result of work, which uses flow. Raises what work raises, and ClientGone when the application goes
        first; then, and when this is cancelled, flow is aborted and work cancelled."""
        if self._left():
            work.close()
            flow.abort()
            raise ClientGone
        # As asyncio.timeout does it: a cancellation of our own is told from others' by their count.
        task = self._working = asyncio.current_task()
        assert task is not None
        others = task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            flow.abort()
            if self._left() and task.uncancel() <= others:
                raise ClientGone from None
            raise
        finally:
            self._working = None

    async def say(self, data: bytes) -> None:
        """Send our last words, not waiting longer than the client is given to read them."""
        try:
            async with asyncio.timeout(self.config.linger_timeout):
                await send_all(self.sock, data)
        except TimeoutError:
            pass  # it does not read; the connection is closed next

    def half_close(self) -> None:
        """Pass the destination's FIN on. Raises OSError."""
        self._half_closed = True
        self.sock.shutdown(socket.SHUT_WR)

    async def _relay(self, tunnel: Tunnel) -> None:
        self._flow = tunnel.flow
        self.phase = Phase.OPEN
        try:
            await tunnel.flow.relay(self.sock, tunnel.early)
        except FlowError:
            pass  # relay has told the application already, with a reset
        except Exception:
            reset(self.sock)
            raise

    def _left(self) -> bool:
        return self._gone

    def on_gone(self, failed: bool) -> None:
        """What a ``Watch`` calls."""
        # Without failing: a unix socket whose other end was closed, or any whose directions have both ended in order.
        if (failed or not self._half_closed) and not self._gone:
            self._gone = True
            if self._working is not None:
                self._working.cancel()
