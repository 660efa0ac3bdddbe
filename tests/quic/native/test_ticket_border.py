"""Tickets, tokens and HANDSHAKE_DONE cross the border between the two halves of a client in every order.

Read ``native_session`` first: until the handshake is confirmed, TLS messages of 1-RTT packets go to a handshaker that is
still at work, and afterwards to what is left of it. The server here is a handshaker whose 1-RTT packets a test writes.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from aioquic import tls

from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.hub import Hub
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.resumption import ClientTickets
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import DialConfig, Trust

from ..keys import self_signed
from ..recorders import SessionLog
from .forger import crypto, frame
from .handshaking import CLIENT, SERVER, Ours, make, server_setup

IDENTITY = bytes(range(64))
DONE = frame(0x1E)
TOKEN = frame(0x07, 5, tail=b"token")
VIOLATION, UNEXPECTED_MESSAGE = 0x0A, 0x10A


class Border:
    """A client of ours, and the server."""

    def __init__(self) -> None:
        identity = self_signed()
        self.now = 100.0
        self.tickets = ClientTickets()
        self.hub = Hub(
            random_bytes=random.Random(1).randbytes,
            wall_clock=lambda: self.now,
            wake=lambda: None,
            engine="native",
        )
        self.log = SessionLog()
        trust = Trust("server.example", (identity.pin,))
        session = self.hub.dial(
            Route(CLIENT, SERVER), DialConfig(("test/1",), trust, tickets=self.tickets), self.log, self.now
        )
        assert isinstance(session, NativeSession)
        self.client = session
        original = session.handshaker.original_destination_connection_id
        self.server = Ours(make(server_setup(identity), original_cid=original))
        self.flight: list[bytes] = []
        """What the server has answered to the ClientHello."""
        for datagram, _ in self.hub.datagrams_to_send(self.now):
            self.server.receive(datagram, CLIENT, self.now)
        self.server._follow(self.now)
        self.flight = [datagram for datagram, _ in self.server.handshaker.datagrams_to_send(self.now)]

    def ticket(self) -> tuple[bytes, tls.SessionTicket]:
        """A message of the server's, and what it keeps. It is the same before and after the client's Finished."""
        kept = self.server.handshaker.issue_ticket(
            identity=IDENTITY, nonce=b"\0", age_add=7, lifetime=100, early_data=False
        )
        assert kept is not None
        return self.server.handshaker.take_crypto(), kept

    def finish(self) -> None:
        """Let the handshake be completed, with no 1-RTT packet but the test's."""
        for datagram in self.flight:
            self.give(datagram)
        for datagram, _ in self.hub.datagrams_to_send(self.now):
            self.server.receive(datagram, CLIENT, self.now)

    def say(self, *frames: bytes) -> None:
        """One 1-RTT packet of the server's."""
        self.give(self.server._seal(b"".join(frames) + bytes(4)))

    def give(self, datagram: bytes) -> None:
        self.now += 0.001
        self.hub.receive_datagram(datagram, Route(CLIENT, SERVER), self.now)

    def rest(self) -> None:
        self.hub.datagrams_to_send(self.now)


ORDERS: list[Any] = list(itertools.permutations("DTAB"))


@pytest.mark.parametrize("early", range(5))
@pytest.mark.parametrize("together", [False, True], ids=["a packet each", "one packet"])
def test_every_order(early: int, together: bool) -> None:
    """D is HANDSHAKE_DONE, T NEW_TOKEN, A and B halves of a ticket. early: how many of them overtake the handshake."""
    for order in ORDERS:
        border = Border()
        message, kept = border.ticket()
        half = len(message) // 2
        frames = {"D": DONE, "T": TOKEN, "A": crypto(0, message[:half]), "B": crypto(half, message[half:])}
        parts = [frames[name] for name in order]
        packets = [parts[:early], parts[early:]] if together else [[part] for part in parts]
        ahead, behind = (packets[:1], packets[1:]) if together else (packets[:early], packets[early:])

        for packet in ahead:
            border.say(*packet)
        assert not border.log.completed
        border.finish()
        for packet in behind:
            border.say(*packet)
            border.rest()
        border.rest()

        assert border.client.ended is None, order
        assert border.client.connection.confirmed, order
        assert border.client._detached, order
        (found,) = border.tickets._kept.values()
        assert found.session.ticket == IDENTITY, order
        assert found.session.resumption_secret == kept.resumption_secret, order
        assert found.certificate == border.client.handshaker.peer_certificate


def test_all_of_it_twice_and_in_pieces() -> None:
    border = Border()
    message, kept = border.ticket()
    border.finish()
    pieces = [(at, crypto(at, message[at : at + 7])) for at in range(0, len(message), 7)]
    random.Random(3).shuffle(pieces)
    for _ in range(2):
        for _, piece in pieces:
            border.say(DONE, piece, TOKEN)
            border.rest()

    assert border.client.ended is None
    (found,) = border.tickets._kept.values()
    assert found.session.resumption_secret == kept.resumption_secret


def test_the_last_of_many_tickets_is_kept_long_after_the_handshake() -> None:
    border = Border()
    border.finish()
    border.say(DONE)
    border.rest()
    assert border.client._detached
    at, issued = 0, list[tls.SessionTicket]()
    for number in range(3):
        border.now += 10.0
        kept = border.server.handshaker.issue_ticket(
            identity=bytes([number]) * 8, nonce=bytes([number]), age_add=0, lifetime=100, early_data=False
        )
        assert kept is not None
        issued.append(kept)
        message = border.server.handshaker.take_crypto()
        border.say(crypto(at, message))
        at += len(message)

    (found,) = border.tickets._kept.values()
    assert found.session.ticket == bytes([2]) * 8
    assert found.session.resumption_secret == issued[-1].resumption_secret


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\x04\x00\x00\x00", 0x132),  # An empty NewSessionTicket: decode_error.
        (b"\x04\x00\x00\x05hello", 0x132),
        (b"\x14\x00\x00\x20" + bytes(32), UNEXPECTED_MESSAGE),  # Finished.
        (b"\x18\x00\x00\x01\x00", UNEXPECTED_MESSAGE),  # KeyUpdate, which QUIC does not have (RFC 9001 §6).
        (b"\x05\x00\x00\x00", UNEXPECTED_MESSAGE),  # EndOfEarlyData, which it does not have either (§8.3).
        (b"\xff\x00\x00\x00", UNEXPECTED_MESSAGE),
    ],
    ids=["an empty ticket", "half a ticket", "Finished", "KeyUpdate", "EndOfEarlyData", "unknown"],
)
@pytest.mark.parametrize("confirmed", [False, True], ids=["unconfirmed", "confirmed"])
def test_what_is_no_ticket(message: bytes, code: int, confirmed: bool) -> None:
    border = Border()
    border.finish()
    if confirmed:
        border.say(DONE)
        border.rest()

    border.say(crypto(0, message))

    assert border.client.ended is not None
    assert border.client.ended.end is End.LOCAL_TRANSPORT or border.client.ended.end is End.TLS_FAILED
    assert border.client.ended.code == code
    assert len(border.tickets) == 0


def test_a_ticket_for_some_early_data_is_refused() -> None:
    """RFC 9001 §4.6.1: all or nothing."""
    border = Border()
    border.finish()
    message, _ = border.ticket()
    extension = b"\x00\x08" + b"\x00\x2a\x00\x04" + (1 << 14).to_bytes(4, "big")
    changed = message[4:-2] + extension

    border.say(crypto(0, b"\x04" + len(changed).to_bytes(3, "big") + changed))

    assert border.client.ended is not None
    assert border.client.ended.code == VIOLATION


def test_a_ticket_without_an_end_is_refused() -> None:
    border = Border()
    border.finish()
    border.say(DONE)
    border.rest()
    message = b"\x04\x0f\xff\xff" + bytes(1 << 18)

    for at in range(0, len(message), 1000):
        if border.client.ended is None:
            border.say(crypto(at, message[at : at + 1000]))

    assert border.client.ended is not None
    assert border.client.ended.code == 0x0D
