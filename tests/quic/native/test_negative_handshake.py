"""What a peer may not do in the handshake: the rest of h3spec's transport list, restated for both roles where it applies.

The peer is aioquic with a tampered transport parameter, TLS message or packet; the victim is the handshaker. KeyUpdate
in 1-RTT (RFC 9001 §6), ALPN without a common protocol (§8.1) and CRYPTO beyond measure are in ``test_handshaker`` and
``test_handshaker_hostile``. CRYPTO in 0-RTT (§8.3) cannot be read: no server here takes early data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair

from quicsocks.userspace.quic.aioquic_internals.common import ClosedBy
from quicsocks.userspace.quic.aioquic_internals.handshaker import Handshaker
from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import encode_parameters

from .forger import ack, frame, varint
from .handshaking import Path, client_of, join, server_of
from .test_handshaker_parameters import spans

PARAMETER, VIOLATION, ENCODING = 0x08, 0x0A, 0x07
UNEXPECTED = 0x100 + tls.AlertDescription.unexpected_message
MISSING = 0x100 + tls.AlertDescription.missing_extension
ROLES = ("server", "client")
TAG = 16
Changes = dict[int, bytes | None]
PREFERRED = bytes(6) + bytes(18) + b"\x08" + bytes(8) + bytes(16)

PARAMETERS: list[tuple[str, str, str, Changes]] = [
    # Who is told, RFC 9000's clause, what it is, what is put in the place of what: None, nothing.
    ("server", "18.2", "original_destination_connection_id of a client", {0x00: b"DUMMY"}),
    ("server", "18.2", "stateless_reset_token of a client", {0x02: bytes(16)}),
    ("server", "18.2", "preferred_address of a client", {0x0D: PREFERRED}),
    ("server", "18.2", "retry_source_connection_id of a client", {0x10: b"DUMMY"}),
    ("client", "7.3", "original_destination_connection_id is missing", {0x00: None}),
    ("client", "7.3", "original_destination_connection_id of another", {0x00: bytes(8)}),
    ("client", "7.3", "retry_source_connection_id without a Retry", {0x10: b"DUMMY"}),
    *((role, clause, what, changes) for role in ROLES for clause, what, changes in list[tuple[str, str, Changes]]([
        ("7.3", "initial_source_connection_id is missing", {0x0F: None}),
        ("7.3", "initial_source_connection_id of another", {0x0F: bytes(8)}),
        ("7.4", "max_udp_payload_size of 1199", {0x03: varint(1199)}),
        ("7.4", "ack_delay_exponent of 21", {0x0A: varint(21)}),
        ("7.4", "max_ack_delay of 2^14", {0x0B: varint(1 << 14)}),
        ("7.4", "active_connection_id_limit of 1", {0x0E: varint(1)}),
        ("4.6", "initial_max_streams_bidi beyond 2^60", {0x08: varint((1 << 60) + 1)}),
        ("4.6", "initial_max_streams_uni beyond 2^60", {0x09: varint((1 << 60) + 1)}),
        ("18", "an integer with something behind it", {0x04: b"\x05\x05"}),
    ])),
]  # fmt: skip


@pytest.fixture
def tamper(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace a method of every aioquic peer: change(connection, what the method returns) gives what it returns now."""

    def apply(name: str, change: Callable[[QuicConnection, Any], Any]) -> None:
        method = getattr(QuicConnection, name)

        def tampered(self: QuicConnection, *args: Any, **named: Any) -> Any:
            result = method(self, *args, **named)
            return change(self, result) if type(self) is QuicConnection else result

        monkeypatch.setattr(QuicConnection, name, tampered)

    return apply


def begin(role: str) -> tuple[Path, Handshaker]:
    """role: of the victim, which is returned."""
    path = join((role == "client", role == "server"))
    return path, client_of(path) if role == "client" else server_of(path)


def code_of(path: Path, victim: Handshaker) -> int:
    path.run(lambda: victim.is_closing, seconds=20.0)
    assert victim.close_event is not None
    assert victim.closed_by is ClosedBy.ENGINE
    return victim.close_event.error_code


@pytest.mark.parametrize(("role", "clause", "what", "changes"), PARAMETERS, ids=str)
def test_a_parameter(tamper: Callable[..., None], role: str, clause: str, what: str, changes: Changes) -> None:
    def change(_: QuicConnection, data: bytes) -> bytes:
        kept = b"".join(data[start:end] for identifier, start, end in spans(data) if identifier not in changes)
        return kept + encode_parameters({key: value for key, value in changes.items() if value is not None})

    tamper("_serialize_transport_parameters", change)
    path, victim = begin(role)
    assert code_of(path, victim) == PARAMETER
    assert not victim.is_complete


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("instead", [None, 0xFFA5], ids=["none", "the draft's"])
def test_without_transport_parameters(tamper: Callable[..., None], role: str, instead: int | None) -> None:
    """RFC 9001 §8.2."""

    def change(connection: QuicConnection, _: None) -> None:
        extensions = connection.tls.handshake_extensions
        connection.tls.handshake_extensions = [(instead, data) for _, data in extensions if instead is not None]

    tamper("_initialize", change)
    path, victim = begin(role)
    assert code_of(path, victim) == MISSING
    assert not victim.is_complete


@pytest.mark.parametrize(
    ("role", "before", "behind"),
    [
        ("server", b"", b"\x18\x00\x00\x01\x01"),
        ("client", b"", b"\x18\x00\x00\x01\x01"),
        ("server", b"\x05\x00\x00\x00", b""),
        ("client", b"\x05\x00\x00\x00", b""),
    ],
    ids=["server-KeyUpdate", "client-KeyUpdate", "server-EndOfEarlyData", "client-EndOfEarlyData"],
)
def test_a_tls_message_out_of_place(monkeypatch: pytest.MonkeyPatch, role: str, before: bytes, behind: bytes) -> None:
    """RFC 9001 §6 and §8.3."""
    push = QuicConnection._push_crypto_data
    tampered = []

    def changed(self: QuicConnection) -> None:
        buffer = self._crypto_buffers[tls.Epoch.HANDSHAKE]
        flight = buffer.data
        if type(self) is QuicConnection and flight:
            buffer.seek(0)
            buffer.push_bytes(before + flight + behind)
            tampered.append(self)
        push(self)

    monkeypatch.setattr(QuicConnection, "_push_crypto_data", changed)
    path, victim = begin(role)
    assert code_of(path, victim) == UNEXPECTED
    assert len(tampered) == 1


LEVELS = {"initial": 0xC0, "handshake": 0xE0}
PACKETS: list[tuple[str, str, str, int, int, bytes | None]] = [
    # Level, clause, what it is, code, bits of the first octet, payload.
    ("handshake", "12.4", "no frames", VIOLATION, 0, b""),
    ("handshake", "19.3", "an ACK below zero", ENCODING, 0, ack(0, 1)),
    *((level, *rule) for level in LEVELS for rule in [
        ("17.2", "a reserved bit", VIOLATION, 0x04, None),
        ("17.2", "the other one", VIOLATION, 0x08, None),
        ("12.4", "an unknown frame", ENCODING, 0, frame(0x20)),
        ("12.5", "PATH_CHALLENGE", VIOLATION, 0, b"\x1a" + bytes(8)),
        ("12.5", "STREAM", VIOLATION, 0, frame(0x0A, 0, 0)),
        ("12.5", "HANDSHAKE_DONE", VIOLATION, 0, frame(0x1E)),
        ("12.5", "an application's CONNECTION_CLOSE", VIOLATION, 0, frame(0x1D, 0, 0)),
        ("13.1", "a packet acknowledged that was never sent", VIOLATION, 0, ack(1000)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("level", "clause", "what", "code", "bits", "payload"),
    PACKETS,
    ids=[f"{level}-{clause}-{what}".replace(" ", "_") for level, clause, what, *_ in PACKETS],
)
def test_a_packet(
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    level: str,
    clause: str,
    what: str,
    code: int,
    bits: int,
    payload: bytes | None,
) -> None:
    path, victim = begin(role)
    peer = path.client if role == "server" else path.server
    encrypt = CryptoPair.encrypt_packet

    def tampered(self: CryptoPair, header: bytes, plain: bytes, number: int) -> bytes:
        cryptos = getattr(peer.connection, "_cryptos", {})
        initials = getattr(peer.connection, "_cryptos_initial", {})
        ours = any(self is pair for pair in [*cryptos.values(), *initials.values()])
        if ours and header[0] & 0xF0 == LEVELS[level]:
            header = bytes([header[0] | bits]) + header[1:]
            if payload:
                # What is pushed out at the end is padding, or comes too late to matter.
                plain = (payload + plain)[: len(plain)]
            elif payload is not None:
                # Its number takes four octets, so that header protection has its sample.
                octets = (header[0] & 3) + 1
                start, length = header[: -octets - 2], (4 + TAG) | 0x4000
                header = bytes([start[0] | 3]) + start[1:] + length.to_bytes(2, "big") + number.to_bytes(4, "big")
                plain = b""
        return encrypt(self, header, plain, number)

    monkeypatch.setattr(CryptoPair, "encrypt_packet", tampered)
    assert code_of(path, victim) == code
