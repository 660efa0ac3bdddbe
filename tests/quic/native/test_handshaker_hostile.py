"""The handshaker against what was made to break it. It never raises, and a stranger cannot end it."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.connection import MAX_PENDING_CRYPTO
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import encode_quic_version_negotiation
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.quic.aioquic_internals.handshaker import MOST_TLS, Handshaker, walk
from quicsocks.userspace.quic.cid import LENGTH

from .handshaking import CLIENT, SERVER, V1, V2, Path, client_of, join, make, ours_of, server_of, server_setup

KINDS = {"initial", "zero_rtt", "handshake", "retry", "version", "one_rtt"}
STAGES = 4


def at_stage(stage: int, seed: int) -> Path:
    """0: nothing received; 1: the server has the ClientHello; 2: the client has the answer; 3: both are complete."""
    path = join(seed=seed)
    (hello,) = path.client.send(0.0)
    if stage >= 1:
        path.server.receive(hello, CLIENT, 0.0)
    if stage >= 2:
        for datagram in path.server.send(0.0):
            path.client.receive(datagram, SERVER, 0.0)
    if stage >= 3:
        for datagram in path.client.send(0.0):
            path.server.receive(datagram, CLIENT, 0.0)
    return path


def drive(handshaker: Handshaker, now: float) -> None:
    """Everything that the engine calls."""
    handshaker.datagrams_to_send(now)
    handshaker.take_secrets()
    handshaker.take_crypto()
    timer = handshaker.get_timer()
    if timer is not None and timer <= now:
        handshaker.handle_timer(now)


def forged(draw: random.Random, handshaker: Handshaker) -> bytes:
    """Something like a packet for handshaker, by somebody who knows its connection IDs and no key."""
    number = draw.choice([0, 1, 2])  # Not a Retry, which is protected by what its forger knows here.
    version = draw.choice([V1, V1, V1, V2, 0x0A1A2A3A])
    cids = [handshaker.host_cid, handshaker.host_cid, handshaker.original_destination_connection_id, b"", bytes(20)]
    to, source = draw.choice(cids), draw.choice([handshaker.peer_cid, b"", draw.randbytes(8)])
    packet = bytes([0xC0 | number << 4 | draw.randrange(16)]) + version.to_bytes(4, "big")
    packet += bytes([len(to)]) + to + bytes([len(source)]) + source
    if number == 0:
        packet += draw.choice([b"\x00", b"\x04abcd", b"\xff"])
    size = draw.choice([0, 1, 3, 4, 5, 19, 20, 21, 40, 1200])
    packet += draw.choice([(size | 0x4000).to_bytes(2, "big"), b"\xff" * 8, b""]) + draw.randbytes(size)
    return packet + draw.choice([b"", packet, bytes(1200), b"\x40" + to + draw.randbytes(30)])


@pytest.mark.parametrize("stage", range(STAGES))
def test_strangers_change_nothing(stage: int) -> None:
    draw = random.Random(stage)
    for seed in range(20):
        path = at_stage(stage, seed)
        for end, route in ((path.client, SERVER), (path.server, CLIENT)):
            handshaker = end.connection
            assert isinstance(handshaker, Handshaker)
            for _ in range(60):
                end.receive(forged(draw, handshaker), route, 0.0)
                drive(handshaker, 0.0)
            for _ in range(10):
                end.receive(draw.randbytes(draw.randrange(50)), route, 0.0)
            assert not handshaker.is_closing
        if stage:
            # A server that knows no client would take the first Initial that it can read for its client's.
            path.run()


@settings(max_examples=300)
@given(st.binary(max_size=100), st.integers(0, STAGES - 1), st.booleans())
def test_junk_never_raises(data: bytes, stage: int, to_client: bool) -> None:
    path = at_stage(stage, 0)
    end, route = (path.client, SERVER) if to_client else (path.server, CLIENT)
    end.receive(data, route, 0.0)
    end.receive(b"\xc0" + data, route, 0.0)
    end.connection.datagrams_to_send(0.0)
    end.timer()


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_peer_that_talks_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Whose packets are authentic, and hold anything whatever."""
    draw = random.Random(share)
    decrypt = CryptoPair.decrypt_packet

    def garbled(
        pair: CryptoPair, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        header, payload, number = decrypt(pair, packet, encrypted_offset, expected_packet_number)
        if packet[0] & 0x80 and draw.random() < share:
            at = draw.randrange(len(payload) + 1)
            match draw.randrange(4):
                case 0 if payload:
                    octets = bytearray(payload)
                    octets[at - 1] ^= 1 << draw.randrange(8)
                    payload = bytes(octets)
                case 1:
                    payload = payload[:at]
                case 2:
                    payload = payload[:at] + draw.randbytes(draw.randrange(20)) + payload[at:]
                case _:
                    payload = draw.randbytes(draw.randrange(30)) + payload
        return header, payload, number

    monkeypatch.setattr(CryptoPair, "decrypt_packet", garbled)
    ends = {"joined": 0, "refused": 0}
    for seed in range(300):
        path = join(seed=seed)
        handshakers = [end.handshaker for end in ours_of(path)]

        def settled(path: Path = path, handshakers: list[Handshaker] = handshakers) -> bool:
            return any(one.is_closing for one in handshakers) or path.client.confirmed or path.now > 3.0

        path.run(settled)
        for handshaker in handshakers:
            drive(handshaker, path.now)
            handshaker.detach()
        ends["joined" if path.client.confirmed else "refused"] += 1
    assert min(ends.values()) > 10, ends


@pytest.mark.parametrize("of_client", [True, False])
def test_a_tls_message_without_end(of_client: bool) -> None:
    path = join((not of_client, of_client))
    connection = (path.client if of_client else path.server).connection
    push, begun = connection._push_crypto_data, False

    def flood() -> None:
        nonlocal begun
        push()
        if not begun:
            begun = True
            for stream in connection._crypto_streams.values():
                stream.sender.write(b"\x14\xff\xff\xff" + bytes(3 * MOST_TLS))

    connection._push_crypto_data = flood  # type: ignore[method-assign]
    if of_client:
        # Its ClientHello is already waiting to be sent.
        flood()
    victim = server_of(path) if of_client else client_of(path)
    path.run(lambda: victim.is_closing, seconds=200.0)
    assert victim.close_event is not None
    assert victim.close_event.error_code == 0x0D
    assert len(victim.tls._receive_buffer) <= MOST_TLS + MAX_PENDING_CRYPTO, "what filled a gap came at once"


def test_a_failure_of_aioquics_is_an_end_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("_handle_ack_frame", 1), ("_write_handshake", 1), ("_find_network_path", 1)):
        path = at_stage(1, 0)
        server = server_of(path)

        def fail(*_: object) -> None:
            raise IndexError

        setattr(server, name, fail)
        if name == "_handle_ack_frame":
            server._QuicConnection__frame_handlers[0x02] = (fail, server._QuicConnection__frame_handlers[0x02][1])  # type: ignore[attr-defined]
        for datagram in path.server.send(0.0):
            path.client.receive(datagram, SERVER, 0.0)
        for datagram in path.client.send(0.0):
            path.server.receive(datagram, CLIENT, 0.0)
        path.server.send(0.0)
        assert server.close_event is not None, name
        assert server.close_event.error_code == code
        server.handle_timer(server.get_timer() or 0.0)
        assert server.is_terminated


def test_a_failure_before_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    server = make(server_setup(), original_cid=bytes(8), extra={0x7F: bytes(1)})
    monkeypatch.setattr(server, "_serialize_transport_parameters", lambda: 1 // 0)
    path = join()
    for datagram in path.client.send(0.0):
        server.receive_datagram(datagram, CLIENT, 0.0)
    assert server.is_terminated
    assert server.datagrams_to_send(0.0) == []
    assert server.get_timer() is None


# --- Walking ----------------------------------------------------------------------------------------------------------


def long_header(kind: int, payload: bytes, version: int = V1) -> bytes:
    number = kind << 4
    packet = bytes([0xC3 | number]) + version.to_bytes(4, "big") + b"\x08" + bytes(8) + b"\x00"
    return packet + (b"\x00" if kind == 0 else b"") + (len(payload) | 0x4000).to_bytes(2, "big") + payload


def test_packets_of_a_datagram() -> None:
    pieces = [long_header(0, bytes(30)), long_header(1, bytes(25)), long_header(2, b""), b"\x40" + bytes(40)]
    expected, at = [], 0
    for kind, piece in zip(("initial", "zero_rtt", "handshake", "one_rtt"), pieces, strict=True):
        expected.append((kind, at, at + len(piece)))
        at += len(piece)
    whole = b"".join(pieces)
    assert list(walk(whole, LENGTH)) == expected
    assert list(walk(whole[: expected[2][2] - 1], LENGTH)) == expected[:2]
    assert list(walk(whole[: expected[3][1]] + b"\x00" * 30, LENGTH)) == expected[:3], "padding behind a packet"
    assert list(walk(b"", LENGTH)) == []
    for packet, kind in (
        (long_header(3, b"token" + bytes(16)), "retry"),
        (encode_quic_version_negotiation(bytes(8), bytes(8), [V1]), "version"),
        (long_header(3, bytes(25), V2), "handshake"),
    ):
        assert list(walk(packet, LENGTH)) == [(kind, 0, len(packet))]


@given(st.binary(max_size=200), st.lists(st.sampled_from([0, 1, 2]), max_size=3), st.integers(0, 20))
def test_walking_reads_anything(tail: bytes, kinds: list[int], length: int) -> None:
    data = b"".join(long_header(kind, bytes(30)) for kind in kinds) + tail
    end = 0
    for kind, start, stop in walk(data, length):
        assert kind in KINDS
        assert start == end < stop <= len(data)
        end = stop


def test_walking_is_quick() -> None:
    """Datagrams of many packets are cheap to make: each may be looked at once, and not copied for each."""
    tiny = long_header(2, b"")
    assert len(list(walk(tiny * (65000 // len(tiny)), LENGTH))) == 65000 // len(tiny)
