"""What the front doors hand on and what they are handed: the border between an application and whatever carries it.

This room knows nothing of QUIC. The listener parses a proxy protocol, asks its ``Exit`` to open a flow, answers the
application truthfully with what came of it, and then hands socket and flow to each other.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Failure(enum.Enum):
    """Why a flow could not be opened: one member for each cause that RFC 1928 or RFC 9209 can tell apart."""

    REFUSED = "connection refused"
    NETWORK_UNREACHABLE = "network unreachable"
    HOST_UNREACHABLE = "host unreachable"
    TIMED_OUT = "connection timed out"
    TTL_EXPIRED = "TTL exceeded on the way"
    NAME_NOT_FOUND = "no such host name"
    NAME_TIMEOUT = "the name lookup timed out"
    DENIED = "denied by rule"
    ADDRESS_PROHIBITED = "the address is one that the exit never dials"
    FAMILY_UNSUPPORTED = "address family not supported"
    LOOP = "loop detected"
    LIMIT = "a connection limit is reached"
    TUNNEL_DOWN = "no connection to the concentrator"
    TUNNEL_TIMEOUT = "no connection to the concentrator in time"
    RESET = "connection reset"
    INTERNAL = "internal error"


class FlowError(Exception):
    """A flow could not be opened or broke. detail: more for a person, without secrets; may be empty."""

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(f"{failure.value}: {detail}" if detail else failure.value)
        self.failure = failure
        self.detail = detail


class Request(NamedTuple):
    """What an application asks for.

    host: a name, or an IP literal without brackets. port: 1 to 65535. protocol: "socks5", "socks4", "http" or an
    inbound's name. client: the application's address, None for unix sockets. user: who it said it is.
    """

    host: str
    port: int
    protocol: str
    client: tuple[str, int] | None = None
    user: str | None = None


class Bound(NamedTuple):
    """The far end's address of an open flow, as BND.ADDR and BND.PORT want it; zeros when not known."""

    host: str = "0.0.0.0"
    port: int = 0


class Flow(Protocol):
    """One flow being opened or open. It is used either through ``relay`` or ``carry``, or through ``read`` and ``write``."""

    async def connected(self) -> Bound:
        """Wait until the destination has accepted. Raises FlowError. Cancelling it does not end the flow."""

    def when_connected(self, told: Callable[[Bound | FlowError], None]) -> None:
        """``connected`` for one who does not wait: told is called once with what it would return or raise, from the loop,
        or at once when that is known."""

    async def relay(self, sock: socket.socket, early: bytes = b"") -> None:
        """Take over a connected, non-blocking socket, send early first, and carry bytes, half-closes and resets both
        ways until both directions have ended; then close the socket. The flow owns the socket from the call on."""

    def carry(self, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
        """``relay`` for one who does not wait: over is called once when it would return, also before this returns; with
        an exception only for an internal error. sock may be watched by the loop's ``Watch``, which goes over with it."""

    async def read(self) -> bytes:
        """Some bytes from the destination, b"" after its FIN. Credit is returned by the next call. Raises FlowError,
        also when connecting failed."""

    def write(self, data: bytes) -> None:
        """Send; allowed before ``connected``, so that a request travels right behind the connect."""

    async def drain(self) -> None:
        """Wait while too much is buffered. Raises FlowError when the flow is broken."""

    def write_eof(self) -> None:
        """Half-close towards the destination."""

    def abort(self) -> None:
        """End the flow with a reset in both directions, at any time. Idempotent."""

    def close(self) -> None:
        """End the flow quietly: FIN towards the destination, and nothing more is read. Idempotent."""


class Exit(Protocol):
    """Opens flows. The client implements it on the tunnel; tests on sockets or memory."""

    def open(self, request: Request) -> Flow:
        """Begin to open; returns at once."""
