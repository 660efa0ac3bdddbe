"""What the sessions of every engine have in common: their owner, their handler, keepalive, and their end.

A session is a sans-IO core that calls its handlers, driven by ``receive_datagram``, ``datagrams_to_send``, ``get_timer``
and ``handle_timer``, each with the time. After any of them, and whenever ``session_wakes`` of the owner was called, call
``datagrams_to_send`` and then ``get_timer`` again. Handlers are called from these four only, or from ``close``; an
exception out of a handler ends the session, and is logged. Read ``types`` first. This file must not import asyncio,
socket, time or random.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aioquic.quic.packet import QuicErrorCode

from .endings import printable
from .errors import End, Ended, LocalError
from .exporter import Exporter
from .types import Address, Limits, NetworkPath, Priority, SessionHandler, SessionStatistics, Stream

if TYPE_CHECKING:
    from .native.outlet import Outlet
    from .qlog_files import QlogFolder

logger = logging.getLogger(__name__)

SUSPICION_PING = 1.0
"""Seconds between PINGs to a peer that the network says is gone: a restarted server's stateless reset is then seen
within about a second of its being up again."""


COUNTED = (
    "bytes_sent", "bytes_received", "packets_sent", "packets_received", "packets_lost", "datagrams_sent",
    "datagrams_received", "datagrams_dropped",
)  # fmt: skip
"""Of ``SessionStatistics``, what adds up over sessions."""


class Route(NamedTuple):
    """Where datagrams come from and go to; engines only compare them and their parts. socket: the adapter's number for its
    socket."""

    local: Address
    remote: Address
    socket: int = 0


class SessionOwner(Protocol):
    """What a session tells whoever drives it. outlet: where to put packets that are not to become Python objects."""

    outlet: Outlet | None

    def session_wakes(self, session: BaseSession) -> None:
        """``datagrams_to_send`` has something to do."""

    def session_blocked(self, session: BaseSession) -> None:
        """The outlet is full: ``session_wakes`` when it is not."""

    def session_established(self, session: BaseSession) -> None: ...

    def session_over(self, session: BaseSession) -> None:
        """``session_ended`` has been called; packets may still be sent until ``is_terminated``."""

    def cid_retired(self, session: BaseSession, cid: bytes) -> None: ...

    def early_over(self, session: BaseSession) -> None:
        """It reads no 0-RTT packets any more."""

    def session_moved(self, session: BaseSession) -> None:
        """Its ``route`` has changed."""

    def route_from(self, local: Address, remote: Address) -> Route:
        """Raises LocalError when there is no such local address."""


class BaseSession(ABC):
    """Implements ``types.Session``, together with an engine.

    begun: when the handshake began, on the clock of the calls. key: for the owner's own use."""

    def __init__(
        self, owner: SessionOwner, *, limits: Limits, is_client: bool, route: Route, begun: float, key: object = None
    ) -> None:
        self.limits = limits
        self.key = key
        self.now = begun
        """The time of the last call that told it."""
        self._owner = owner
        self._is_client = is_client
        self._route = route
        self._handler: SessionHandler | None = None
        self._ended: Ended | None = None
        self._established = False
        self._alpn = ""
        self._peer_key = b""
        self._max_datagram_size = 0
        self._handshake_deadline = begun + limits.handshake_timeout
        self._alive_at = begun  # When the peer was last heard or pinged.
        self._suspected_at: float | None = None

    # What the room above calls.

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def alpn(self) -> str:
        return self._alpn

    @property
    def peer_public_key(self) -> bytes:
        return self._peer_key

    @property
    def peer_address(self) -> Address:
        return self._route.remote

    @property
    def local_address(self) -> Address:
        return self._route.local

    @property
    def ended(self) -> Ended | None:
        return self._ended

    @property
    def max_datagram_size(self) -> int:
        return self._max_datagram_size

    def set_handler(self, handler: SessionHandler) -> None:
        self._handler = handler

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        exporter = self._exporter() if self._established else None
        if exporter is None:
            raise LocalError("no keying material before the handshake completes")
        return exporter.export(label, context, length)

    @abstractmethod
    def open_stream(self, *, bidirectional: bool = True, priority: Priority = Priority.NORMAL) -> Stream: ...

    @abstractmethod
    def streams_available(self, *, bidirectional: bool = True) -> int: ...

    @abstractmethod
    def send_datagram(self, data: bytes | bytearray | memoryview, ecn: int = 0) -> bool: ...

    @abstractmethod
    def paths(self) -> tuple[NetworkPath, ...]: ...

    @abstractmethod
    def statistics(self) -> SessionStatistics: ...

    def migrate(self, local: Address) -> bool:
        return False

    def counters(self) -> dict[str, int]:
        """How often what has happened, by name. An engine that counts more says more."""
        statistics = self.statistics()
        return {name: getattr(statistics, name) for name in COUNTED}

    @abstractmethod
    def probe(self) -> None: ...

    @abstractmethod
    def close(self, code: int = 0, reason: str = "") -> None: ...

    # What drives the session.

    @property
    def is_established(self) -> bool:
        return self._established

    @property
    def route(self) -> Route:
        return self._route

    @property
    @abstractmethod
    def is_terminated(self) -> bool:
        """Nothing will be sent any more; the session may be forgotten."""

    @property
    @abstractmethod
    def is_heard(self) -> bool:
        """Whether a packet of the peer's has been authenticated."""

    @property
    def is_resumed(self) -> bool:
        """With a ticket of an earlier session (RFC 8446 §2.2); from the end of the handshake on."""
        return False

    @property
    def reads_early(self) -> bool:
        """Whether 0-RTT packets are read."""
        return False

    @property
    @abstractmethod
    def peer_reset_tokens(self) -> list[bytes]:
        """The stateless reset tokens of the peer's connection IDs that we use (RFC 9000 §10.3.1)."""

    @abstractmethod
    def connect(self, now: float) -> None:
        """Begin the handshake, on a client."""

    @abstractmethod
    def receive_datagram(self, data: bytes, route: Route, now: float, ecn: int = 0) -> None: ...

    @abstractmethod
    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Route]]:
        """Also makes the callbacks that calls from above have put off."""

    def join(self, outlet: Outlet, cid: bytes) -> None:
        """An engine that can lets packets to that connection ID come to it straight from the sockets."""
        return

    def log_to(self, folder: QlogFolder | None, now: float) -> None:
        """An engine that can logs the session's events from now on into a file of its own there; None: no more."""
        return

    @abstractmethod
    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due; None: never again."""

    @abstractmethod
    def handle_timer(self, now: float) -> None: ...

    def suspect(self, now: float) -> None:
        """The network says that the peer cannot be reached. That may be forged, so it only makes us look."""
        if self._ended is None and self._established and self._suspected_at is None:
            self._suspected_at = now
            self.wake()

    def abandon(self) -> None:
        """Forget it without a word to anyone: it never was a connection."""
        self._end_at_once(Ended(End.HANDSHAKE_TIMED_OUT))

    def receive_stateless_reset(self) -> None:
        """RFC 9000 §10.3.1: the peer has lost the connection's state."""
        self._end_at_once(Ended(End.PEER_RESET))

    def receive_unreachable(self, reason: str) -> None:
        """A dial attempt met an ICMP error. It may be forged, so it ends no more than this attempt."""
        if not self._established:
            self._end_at_once(Ended(End.UNREACHABLE, None, reason))

    def wake(self) -> None:
        self._owner.session_wakes(self)

    # What an engine fills in.

    @abstractmethod
    def _exporter(self) -> Exporter | None: ...

    @abstractmethod
    def _last_heard(self) -> float | None:
        """When the newest 1-RTT packet came."""

    @abstractmethod
    def _lose_streams(self, ended: Ended) -> None:
        """Tell every stream, each through ``_guard``."""

    @abstractmethod
    def _close_by_engine(self, code: int, reason: str) -> None: ...

    def _log_end(self, ended: Ended) -> None:
        """Into what ``log_to`` has begun."""
        return

    @abstractmethod
    def _discard(self) -> None:
        """Forget everything at once and send nothing more."""

    # Keepalive.

    @property
    def _keeps_alive(self) -> bool:
        return bool(self.limits.keepalive) or self._suspected_at is not None

    def _keepalive_at(self) -> float:
        heard = self._last_heard()
        if heard is not None and self._suspected_at is not None and heard > self._suspected_at:
            self._suspected_at = None
        interval = self.limits.keepalive
        if self._suspected_at is not None:
            interval = min(interval, SUSPICION_PING) if interval else SUSPICION_PING
        elif not interval:
            interval = float("inf")
        return max(self._alive_at, heard if heard is not None else 0.0) + interval

    # Ending.

    def _end(self, ended: Ended) -> None:
        if self._ended is not None:
            return
        self._ended = ended = Ended(ended.end, ended.code, printable(ended.reason))
        self._log_end(ended)
        self._lose_streams(ended)
        handler = self._handler
        if handler is not None:
            self._guard(lambda: handler.session_ended(ended))
        self._owner.session_over(self)

    def _end_at_once(self, ended: Ended) -> None:
        self._discard()
        self._end(ended)

    def _fail(self, doing: str) -> None:
        """Something of ours, of aioquic's or of the handler's went wrong: this session only must pay for it."""
        logger.exception("internal error while %s; closing the connection to %s", doing, self._route.remote)
        self._close_by_engine(QuicErrorCode.INTERNAL_ERROR, "internal error")
        self._end(Ended(End.LOCALLY_CLOSED, QuicErrorCode.INTERNAL_ERROR, "internal error"))
        self.wake()

    def _guard(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            self._fail("telling the handler")
