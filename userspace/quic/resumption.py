"""Resuming TLS sessions: what a server and a client keep between connections, and when a ticket may be used.

A ticket saves a signature and its verification, and lets a client send early data (0-RTT). It stands for the server that
gave it, whose certificate is kept beside it at the client; it says nothing of who the client is. Read RFC 8446 §2.2,
§4.2.10, §4.2.11, §4.6.1 and §8, and RFC 9001 §4.6. All is kept in memory: after a restart, and at another worker, a
handshake is a full one. This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aioquic import tls
from cryptography import x509

from .aioquic_internals.handshaker_parameters import PeerParameters
from .aioquic_internals.tickets import without_early_data
from .errors import LocalError
from .types import VERSION_1, ListenConfig, Resumption

if TYPE_CHECKING:
    from .aioquic_internals.handshaker import Handshaker

IDENTITY = 32
"""Octets of a ticket: nobody can guess one, and it is the name of what is kept."""
LONGEST_LIFETIME = 7 * 86400.0
"""s (RFC 8446 §4.6.1)."""
MOST_PER_CONNECTION = 4
"""Tickets that are given out, or looked at, on one connection: a peer must not make the other derive keys for ever."""
LIMITS = (
    "active_connection_id_limit",
    "initial_max_data",
    "initial_max_stream_data_bidi_local",
    "initial_max_stream_data_bidi_remote",
    "initial_max_stream_data_uni",
    "initial_max_streams_bidi",
    "initial_max_streams_uni",
    "max_datagram_frame_size",
)
"""Of the transport parameters, those that early data counts on (RFC 9000 §7.4.1, RFC 9221 §3)."""


def is_reduced(remembered: PeerParameters, current: PeerParameters) -> bool:
    """Whether early data that keeps to the remembered limits may break the current ones."""
    return any(getattr(current, name) < getattr(remembered, name) for name in LIMITS)


@dataclass(frozen=True, slots=True)
class _Issued:
    """until: Unix time. parameters: the server's own, which the client remembers."""

    session: tls.SessionTicket
    until: float
    alpn: str
    parameters: PeerParameters


def check_resumption(engine: str) -> None:
    """Raises LocalError when the engine has no tickets."""
    if engine != "native":
        raise LocalError(f"session tickets need the native engine; this is {engine}")


class ServerTickets:
    """Those that a process has given out and that have not come back. random_bytes: unpredictable octets."""

    def __init__(
        self, options: Resumption, random_bytes: Callable[[int], bytes], wall_clock: Callable[[], float]
    ) -> None:
        if not 0 < options.lifetime <= LONGEST_LIFETIME:
            raise LocalError(f"tickets of {options.lifetime} s; they may live up to {LONGEST_LIFETIME:.0f} s")
        if not 0 <= options.per_connection <= MOST_PER_CONNECTION:
            raise LocalError(f"{options.per_connection} tickets a connection; {MOST_PER_CONNECTION} are the most")
        self.options = options
        self._random_bytes = random_bytes
        self._wall_clock = wall_clock
        self._issued: dict[bytes, _Issued] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def outlive(self, former: ListenConfig, config: ListenConfig) -> bool:
        """Whether they are good under config, too: a ticket stands for the key that it was given out under."""
        return (
            self.options == config.resumption
            and former.certificate == config.certificate
            and former.crypto_profile == config.crypto_profile
        )

    def issue(self, handshaker: Handshaker, nonce: int) -> bool:
        """Give one out on a connection whose handshake is complete. False: its client has no use for it."""
        parameters, options = handshaker.local_parameters, self.options
        assert parameters is not None
        identity = self._random_bytes(IDENTITY)
        session = handshaker.issue_ticket(
            identity=identity,
            nonce=bytes([nonce]),
            age_add=int.from_bytes(self._random_bytes(4), "big"),
            lifetime=int(options.lifetime),
            early_data=options.early_data,
        )
        if session is None:
            return False
        self._drop_old()
        self._issued[identity] = _Issued(session, self._wall_clock() + options.lifetime, handshaker.alpn, parameters)
        return True

    def take(self, identity: bytes) -> _Issued | None:
        """The ticket of that name, which nobody gets a second time (RFC 8446 §8.1)."""
        issued = self._issued.pop(identity, None)
        return issued if issued is not None and self._wall_clock() <= issued.until else None

    def _drop_old(self) -> None:
        # All live equally long, so that the first is the oldest.
        now = self._wall_clock()
        while self._issued:
            first = next(iter(self._issued))
            if len(self._issued) < self.options.most and now <= self._issued[first].until:
                return
            del self._issued[first]


class ServerResumption:
    """One connection's."""

    def __init__(self, tickets: ServerTickets) -> None:
        self._tickets = tickets
        self._taken: _Issued | None = None

    @property
    def hands_on_at_once(self) -> bool:
        """Whether the application wants early data before the handshake is complete."""
        return self._tickets.options.early_data_at_once

    def find(self, identity: bytes) -> tls.SessionTicket | None:
        """For aioquic: what belongs to the ticket that a client has offered."""
        self._taken = self._tickets.take(identity)
        return self._taken.session if self._taken is not None else None

    def accepts_early_data(self, handshaker: Handshaker) -> bool:
        """Whether the early data that comes with the ticket is to be read: RFC 8446 §4.2.10, RFC 9000 §7.4.1."""
        taken, parameters = self._taken, handshaker.local_parameters
        return (
            self._tickets.options.early_data
            and handshaker.version == VERSION_1
            and taken is not None
            and taken.session.max_early_data_size is not None
            and taken.alpn == handshaker.alpn
            and parameters is not None
            and not is_reduced(taken.parameters, parameters)
        )

    def issue(self, handshaker: Handshaker) -> None:
        """Tickets are of one QUIC version (RFC 9369 §5), which here is 1: whoever begins with it comes back with it."""
        if handshaker.version != VERSION_1:
            return
        for nonce in range(self._tickets.options.per_connection):
            if not self._tickets.issue(handshaker, nonce):
                return


@dataclass(frozen=True, slots=True)
class _Kept:
    """certificate: the server's, which the client has verified. until: Unix time."""

    session: tls.SessionTicket
    certificate: x509.Certificate
    until: float


class ClientTickets:
    """The last ticket of each exit, for one use. An exit is what the caller trusts: other pins, another name or other
    protocols are another exit. most: exits. lifetime: s, when the server allows for more."""

    def __init__(self, *, most: int = 64, lifetime: float = 86400.0) -> None:
        self._most = most
        self._lifetime = min(lifetime, LONGEST_LIFETIME)
        self._kept: dict[Hashable, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, exit_: Hashable, session: tls.SessionTicket, certificate: x509.Certificate, now: float) -> None:
        lifetime = (session.not_valid_after - session.not_valid_before).total_seconds()
        self._kept.pop(exit_, None)
        if lifetime <= 0:
            return
        self._kept[exit_] = _Kept(session, certificate, now + min(lifetime, self._lifetime))
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def take(self, exit_: Hashable, now: float) -> _Kept | None:
        """It is not kept any longer: used twice, it would show that both connections are of one client
        (RFC 8446 §C.4)."""
        kept = self._kept.pop(exit_, None)
        return kept if kept is not None and now <= kept.until else None


class ClientResumption:
    """One connection's. early_data: early data may be offered with the ticket. lapses: a certificate that has expired since
    does not stand for the server any more, because no pin does."""

    def __init__(
        self,
        tickets: ClientTickets,
        exit_: Hashable,
        wall_clock: Callable[[], float],
        *,
        early_data: bool,
        lapses: bool,
    ) -> None:
        self._tickets = tickets
        self._exit = exit_
        self._wall_clock = wall_clock
        self._seen = 0
        self.session: tls.SessionTicket | None = None
        self.certificate: x509.Certificate | None = None
        now = wall_clock()
        kept = tickets.take(exit_, now)
        if kept is not None and not (lapses and kept.certificate.not_valid_after_utc.timestamp() < now):
            self.session = kept.session if early_data else without_early_data(kept.session)
            self.certificate = kept.certificate

    def keep(self, handshaker: Handshaker, session: tls.SessionTicket) -> None:
        """A ticket has come."""
        certificate = handshaker.peer_certificate
        self._seen += 1
        if self._seen <= MOST_PER_CONNECTION and certificate is not None and handshaker.version == VERSION_1:
            self._tickets.put(self._exit, session, certificate, self._wall_clock())


def remembered(parameters: PeerParameters) -> PeerParameters:
    """Of a ticket's transport parameters, what may be used before the server's have come (RFC 9000 §7.4.1)."""
    fresh = PeerParameters()
    return replace(fresh, **{name: getattr(parameters, name) for name in LIMITS})
