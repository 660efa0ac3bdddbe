"""Two ends of a handshake on a simulated path: our handshaker, or aioquic as it is, at either.

An end of the handshaker has the least of an engine beside it, which shows that the secrets handed out are good: it seals
and opens 1-RTT packets with HANDSHAKE_DONE and CRYPTO frames, and knows nothing of loss but to send again.
"""

from __future__ import annotations

import heapq
import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion

from quicsocks.userspace.quic.aioquic_internals.handshaker import Handshaker, Secret, walk
from quicsocks.userspace.quic.cid import LENGTH
from quicsocks.userspace.quic.tls_profile import (
    KeyLogs,
    client_configuration,
    profile,
    server_configuration,
    verifier,
)
from quicsocks.userspace.quic.types import DialConfig, Limits, ListenConfig, Trust

from ...sim.link import Conditions, Link
from ..keys import Identity, self_signed

PAIRINGS = [(True, True), (True, False), (False, True)]
NAMES = {(True, True): "ours-ours", (True, False): "ours-aioquic", (False, True): "aioquic-ours"}
pairings = pytest.mark.parametrize("ours", PAIRINGS, ids=NAMES.get)
"""Whether the client, the server is ours."""
SEEDS = 40
BAD = Conditions(delay=0.02, jitter=0.03, loss=0.2, duplicate=0.05, reorder=0.2, reorder_by=0.05)
V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
CLIENT: Any = ("192.0.2.2", 50000)
SERVER: Any = ("192.0.2.1", 443)
"""Where each end is, as the other sees it."""
AGAIN = 0.2
"""Seconds after which the stand-in for an engine repeats itself."""
HANDSHAKE_DONE = b"\x1e"
MOST_STEPS = 20_000
TICK = 1e-6
"""A clock that stood still would let a timer of aioquic's fire for ever that rounding makes due too early."""


def client_setup(identity: Identity | None = None, *, alpn: str = "test/1", pinned: bool = True) -> QuicConfiguration:
    """Trusts identity by pin; else by name and the system's roots, which know no identity of ours."""
    identity = identity if identity is not None else self_signed()
    trust = Trust("server.example", (identity.pin,) if pinned else ())
    configuration = client_configuration(DialConfig((alpn,), trust, Limits()), KeyLogs())
    configuration.secrets_log_file = io.StringIO()
    return configuration


def server_setup(identity: Identity | None = None) -> QuicConfiguration:
    identity = identity if identity is not None else self_signed()
    listening = ListenConfig(("test/1",), identity.certificate, identity.private_key, bytes(32), Limits())
    configuration = server_configuration(listening, KeyLogs())
    configuration.secrets_log_file = io.StringIO()
    return configuration


def token_of(cid: bytes) -> bytes:
    return bytes(octet ^ 0x55 for octet in cid * 2)


def make(
    configuration: QuicConfiguration,
    *,
    seed: int = 0,
    identity: Identity | None = None,
    original_cid: bytes | None = None,
    retry_cid: bytes | None = None,
    extra: Mapping[int, bytes] | None = None,
    tickets: Callable[[tls.SessionTicket], None] | None = None,
    fetch: Callable[[bytes], tls.SessionTicket | None] | None = None,
) -> Handshaker:
    """identity: whose pin a client demands; None: nobody's."""
    suite = profile("default")
    draw = random.Random(f"{seed} {configuration.is_client}")
    return Handshaker(
        configuration=configuration,
        new_cid=lambda: draw.randbytes(LENGTH),
        reset_token=token_of,
        verify_peer=verifier(Trust("server.example", (identity.pin,))) if identity is not None else None,
        groups=suite.client_groups if configuration.is_client else suite.server_groups,
        signature_algorithms=suite.signature_algorithms,
        max_streams=(7, 3),
        original_destination_connection_id=original_cid,
        retry_source_connection_id=retry_cid,
        extra_parameters=extra,
        session_ticket_handler=tickets,
        session_ticket_fetcher=fetch,
        accepts_early_data=lambda: fetch is not None,
    )


def key_log(configuration: QuicConfiguration) -> dict[str, str]:
    """Secrets in hexadecimal by label, the last of each."""
    log = configuration.secrets_log_file
    assert isinstance(log, io.StringIO)
    return {line.split()[0]: line.split()[2] for line in log.getvalue().splitlines()}


@dataclass
class Ours:
    """The handshaker and its stand-in for an engine."""

    handshaker: Handshaker
    secrets: list[Secret] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    crypto: CryptoPair = field(default_factory=CryptoPair)
    tickets: bytes = b""
    heard: bool = False
    """A 1-RTT packet has been opened."""
    _number: int = 0
    _again_at: float = float("inf")
    _waiting: list[bytes] = field(default_factory=list)
    _tickets_read: int = 0

    @property
    def connection(self) -> QuicConnection:
        return self.handshaker

    @property
    def complete(self) -> bool:
        return self.handshaker.is_complete

    @property
    def confirmed(self) -> bool:
        return self.handshaker.is_confirmed

    @property
    def ended(self) -> bool:
        return self.handshaker.is_terminated

    def receive(self, data: bytes, route: Any, now: float) -> None:
        if data and data[0] & 0x80:
            self.handshaker.receive_datagram(data, route, now)
            tails = [data[start:end] for kind, start, end in walk(data, LENGTH) if kind == "one_rtt"]
        else:
            tails = [data]
        self._follow(now)
        for packet in [*self._waiting, *tails]:
            self._open(packet)

    def send(self, now: float) -> list[bytes]:
        self._follow(now)
        datagrams = [data for data, _ in self.handshaker.datagrams_to_send(now)]
        self.sent += datagrams
        if now >= self._again_at and not self.handshaker.is_closing:
            self._again_at = now + AGAIN
            frames = HANDSHAKE_DONE
            if self.tickets:
                frames += b"\x06\x00" + (len(self.tickets) | 0x4000).to_bytes(2, "big") + self.tickets
            datagrams.append(self._seal(frames + bytes(16)))
        return datagrams

    def timer(self) -> float:
        timer = self.handshaker.get_timer()
        return min(self._again_at, timer if timer is not None else float("inf"))

    def fire(self, now: float) -> None:
        self.handshaker.handle_timer(now)

    def _follow(self, now: float) -> None:
        for secret in self.handshaker.take_secrets():
            self.secrets.append(secret)
            if not secret.early:
                half = self.crypto.send if secret.encrypt else self.crypto.recv
                suite = tls.CipherSuite(secret.suite)
                half.setup(cipher_suite=suite, secret=secret.secret, version=secret.version)
        self.tickets += self.handshaker.take_crypto()
        if self._again_at == float("inf") and self.complete and not self.handshaker.configuration.is_client:
            self._again_at = now

    def _seal(self, frames: bytes) -> bytes:
        header = bytes([0x41]) + self.handshaker.peer_cid + self._number.to_bytes(2, "big")
        self._number += 1
        return self.crypto.encrypt_packet(header, frames, self._number - 1)

    def _open(self, packet: bytes) -> None:
        if not self.crypto.recv.is_valid():
            self._waiting = [*self._waiting, packet][-32:]
            return
        try:
            _, plain, _ = self.crypto.decrypt_packet(packet, 1 + LENGTH, 0)
        except ValueError:
            return  # Damaged on the way.
        self.heard = True
        buffer = Buffer(data=plain)
        while not buffer.eof():
            match buffer.pull_uint_var():
                case 0x1E:
                    self.handshaker.handshake_done_received()
                case 0x06:
                    offset = buffer.pull_uint_var()
                    data = buffer.pull_bytes(buffer.pull_uint_var())
                    if offset == self._tickets_read:
                        self._tickets_read += len(data)
                        self.handshaker.receive_crypto(data)
                case 0x18:
                    buffer.pull_uint_var()
                    buffer.pull_uint_var()
                    buffer.pull_bytes(buffer.pull_uint8() + 16)
                case 0x02:
                    for _ in range(2):
                        buffer.pull_uint_var()
                    for _ in range(1 + 2 * buffer.pull_uint_var()):
                        buffer.pull_uint_var()
                case _:
                    pass  # PADDING, PING


@dataclass
class Theirs:
    """aioquic as it is."""

    connection: QuicConnection
    sent: list[bytes] = field(default_factory=list)
    complete: bool = False
    end: events.ConnectionTerminated | None = None

    @property
    def confirmed(self) -> bool:
        return self.connection._handshake_confirmed

    @property
    def ended(self) -> bool:
        return self.end is not None

    def receive(self, data: bytes, route: Any, now: float) -> None:
        self.connection.receive_datagram(data, route, now)
        self._events()

    def send(self, now: float) -> list[bytes]:
        datagrams = []
        if self.connection.get_peer_address() is not None:
            datagrams = [data for data, _ in self.connection.datagrams_to_send(now)]
        self.sent += datagrams
        self._events()
        return datagrams

    def timer(self) -> float:
        timer = self.connection.get_timer() if self.connection.get_peer_address() is not None else None
        return timer if timer is not None else float("inf")

    def fire(self, now: float) -> None:
        if self.end is None:
            self.connection.handle_timer(now)
            self._events()

    def _events(self) -> None:
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self.complete = True
            elif isinstance(event, events.ConnectionTerminated):
                self.end = event


End = Ours | Theirs


@dataclass
class Path:
    """client and server, joined. spoil: changes a datagram of the client's or drops it with b""."""

    client: End
    server: End
    seed: int = 0
    conditions: Conditions = field(default_factory=Conditions)
    now: float = 0.0
    spoil: Callable[[bool, bytes], bytes] | None = None

    def __post_init__(self) -> None:
        self._links = {
            True: Link(self.conditions, self.seed * 2),
            False: Link(self.conditions, self.seed * 2 + 1),
        }
        self._flying: list[tuple[float, int, bool, bytes]] = []
        self._count = 0

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 60.0) -> Path:
        """Until that holds, or nothing is left to happen; without until, both ends are complete and confirmed."""
        done = until if until is not None else self._joined
        limit = self.now + seconds
        for _ in range(MOST_STEPS):
            self._flush()
            if done():
                return self
            arrival = self._flying[0][0] if self._flying else float("inf")
            due = min(self.client.timer(), self.server.timer(), arrival)
            if due == float("inf") or due > limit:
                break
            self.now = max(self.now + TICK, due)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, to_server, data = heapq.heappop(self._flying)
                if to_server:
                    self.server.receive(data, CLIENT, self.now)
                else:
                    self.client.receive(data, SERVER, self.now)
            for end in (self.client, self.server):
                if end.timer() <= self.now:
                    end.fire(self.now)
        else:
            raise AssertionError(f"seed {self.seed}: it spins at {self.now}")
        assert until is None or done(), f"seed {self.seed}: did not happen in {seconds} s"
        assert until is not None or self._joined(), f"seed {self.seed}: no handshake in {seconds} s"
        return self

    def _joined(self) -> bool:
        return self.client.complete and self.server.complete and self.client.confirmed and self.server.confirmed

    def _flush(self) -> None:
        for to_server, end in ((True, self.client), (False, self.server)):
            for datagram in end.send(self.now):
                data = self.spoil(to_server, datagram) if self.spoil is not None else datagram
                if data:
                    for arrival, copy, _ in self._links[to_server].carry(data, self.now):
                        self._count += 1
                        heapq.heappush(self._flying, (arrival, self._count, to_server, copy))


def join(
    ours: tuple[bool, bool] = (True, True),
    *,
    seed: int = 0,
    conditions: Conditions | None = None,
    client: QuicConfiguration | None = None,
    server: QuicConfiguration | None = None,
    pin: Identity | None = None,
    extra: Mapping[int, bytes] | None = None,
    server_extra: Mapping[int, bytes] | None = None,
    client_tickets: Callable[[tls.SessionTicket], None] | None = None,
    server_tickets: Callable[[tls.SessionTicket], None] | None = None,
    fetch: Callable[[bytes], tls.SessionTicket | None] | None = None,
    retry_cid: bytes | None = None,
) -> Path:
    """A handshake about to begin. ours: whether the client, the server is the handshaker."""
    client = client if client is not None else client_setup()
    server = server if server is not None else server_setup()
    near: End
    far: End
    if ours[0]:
        near = Ours(make(client, seed=seed, identity=pin, extra=extra, tickets=client_tickets))
    else:
        near = Theirs(QuicConnection(configuration=client, session_ticket_handler=client_tickets))
    original = near.connection.original_destination_connection_id
    if ours[1]:
        far = Ours(
            make(
                server,
                seed=seed,
                original_cid=original,
                retry_cid=retry_cid,
                extra=server_extra if server_extra is not None else extra,
                tickets=server_tickets,
                fetch=fetch,
            )
        )
    else:
        far = Theirs(
            QuicConnection(
                configuration=server,
                original_destination_connection_id=original,
                retry_source_connection_id=retry_cid,
                session_ticket_handler=server_tickets,
                session_ticket_fetcher=fetch,
            )
        )
    near.connection.connect(SERVER, 0.0)
    return Path(near, far, seed, conditions if conditions is not None else Conditions())


def copied(configuration: QuicConfiguration, **changes: Any) -> QuicConfiguration:
    return replace(configuration, secrets_log_file=io.StringIO(), **changes)


def ours_of(path: Path) -> list[Ours]:
    return [end for end in (path.client, path.server) if isinstance(end, Ours)]


def client_of(path: Path) -> Handshaker:
    assert isinstance(path.client, Ours)
    return path.client.handshaker


def server_of(path: Path) -> Handshaker:
    assert isinstance(path.server, Ours)
    return path.server.handshaker


def kinds_sent(end: Ours) -> set[str]:
    return {kind for datagram in end.sent for kind, _, _ in walk(datagram, LENGTH)}


def both_ended(path: Path) -> Callable[[], bool]:
    return lambda: path.client.ended and path.server.ended


def measure(path: Path) -> Path:
    """Have it checked that the server stays below three times what has reached it, as long as it must."""
    received = sent = 0
    deliver = path.server.receive

    def receive(data: bytes, route: Any, now: float) -> None:
        nonlocal received
        received += len(data)
        deliver(data, route, now)

    def spoil(to_server: bool, datagram: bytes) -> bytes:
        nonlocal sent
        if not to_server:
            sent += len(datagram)
            assert sent <= 3 * received or server_of(path).path_validated
        return datagram

    path.server.receive = receive  # type: ignore[method-assign]
    path.spoil = spoil
    return path
