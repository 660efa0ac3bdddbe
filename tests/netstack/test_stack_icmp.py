"""ICMP and ICMPv6 of a stack: what is answered, with what, and what is not; every answer is read by scapy."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.packet import Raw

from quicsocks.netstack.checksum import internet_checksum, pseudo_header_sum
from quicsocks.netstack.stack import Stack, StackOptions

from .packets import A4, A6, B4, B6, C4, C6, ip, parsed, udp

PAIRS = [(A4, B4), (A6, B6)]


def stack_at(*addresses: str, **options: Any) -> Stack:
    return Stack(StackOptions(addresses=addresses or (B4, B6), **options))


def answers(stack: Stack, packet: bytes, now: float = 1.0) -> list[bytes]:
    stack.receive(packet, now)
    return stack.packets_to_send(now)


def echo(source: str, destination: str, data: bytes = b"data", ident: int = 7, seq: int = 9, **fields: Any) -> bytes:
    kind = ICMPv6EchoRequest if ":" in source else ICMP
    return bytes(ip(source, destination, **fields) / kind(id=ident, seq=seq) / Raw(data))


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize("size", [0, 1, 56, 1200])
def test_an_echo_is_answered(source: str, destination: str, size: int) -> None:
    data = bytes(range(256)) * 5
    (answer,) = answers(stack_at(), echo(source, destination, data[:size], 0x1234, 0x5678))
    found = parsed(answer)
    assert (found.src, found.dst) == (destination, source)
    part = found[ICMPv6EchoReply] if ":" in source else found[ICMP]
    assert (part.type, part.id, part.seq) == (129 if ":" in source else 0, 0x1234, 0x5678)
    assert answer[-size:] == data[:size] if size else True


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_large_echo_is_answered_in_fragments(source: str, destination: str) -> None:
    far, near = stack_at(), stack_at(source)
    seen: list[tuple[object, ...]] = []

    class Handler:
        def reply_received(self, *what: object) -> None:
            seen.append(what)

        def error_received(self, *what: object) -> None:
            raise AssertionError(what)

    socket = near.echo.open(Handler())
    packet = echo(source, destination, b"z" * 5000, socket.id, 1)
    far.receive(packet, 1.0)
    for piece in far.packets_to_send(1.0):
        assert len(piece) <= 1280
        parsed(piece)
        near.receive(piece, 1.5)
    near.tell()
    assert seen == [(ip_address(destination), 1, b"z" * 5000, 64, 1.5)]


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_broken_echo_is_not_answered(source: str, destination: str) -> None:
    packet = bytearray(echo(source, destination))
    packet[-1] ^= 1
    assert answers(stack_at(), bytes(packet)) == []


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_pinging_one_another(source: str, destination: str) -> None:
    near, far = stack_at(source), stack_at(destination)
    seen: list[tuple[object, ...]] = []

    class Handler:
        def reply_received(self, *what: object) -> None:
            seen.append(what)

        def error_received(self, *what: object) -> None:
            seen.append(what)

    socket = near.echo.open(Handler())
    assert socket.send(b"payload", destination, 3, hops=17)
    (request,) = near.packets_to_send(1.0)
    assert parsed(request).fields["hlim" if ":" in source else "ttl"] == 17
    (reply,) = answers(far, request)
    near.receive(reply, 1.25)
    near.tell()
    assert seen == [(ip_address(destination), 3, b"payload", 64, 1.25)]
    # Not to another identifier, and not once it is closed.
    near.receive(bytes(_other_id(reply)), 1.5)
    socket.close()
    near.receive(reply, 1.5)
    near.tell()
    assert len(seen) == 1
    with pytest.raises(OSError, match="closed"):
        socket.send(b"", destination, 1)


def _other_id(packet: bytes) -> Any:
    found = parsed(packet)
    part = found[ICMPv6EchoReply] if found.version == 6 else found[ICMP]
    part.id ^= 1
    if found.version == 6:
        del part.cksum
    else:
        del part.chksum
    return found


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_port_unreachable(source: str, destination: str) -> None:
    packet = udp(source, destination, 1000, 9, b"hello")
    (answer,) = answers(stack_at(), packet)
    found = parsed(answer)
    assert (found.src, found.dst) == (destination, source)
    if ":" in source:
        assert (found[ICMPv6DestUnreach].code, bytes(found[ICMPv6DestUnreach].payload)) == (4, packet)
    else:
        assert (found[ICMP].type, found[ICMP].code, bytes(found[ICMP].payload)) == (3, 3, packet)


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_no_more_is_quoted_than_may_be(source: str, destination: str) -> None:
    (answer,) = answers(stack_at(), udp(source, destination, 1000, 9, bytes(3000)))
    parsed(answer)
    assert len(answer) == (576 if ":" not in source else 1280)


def test_unknown_protocols() -> None:
    (answer,) = answers(stack_at(), bytes(IP(src=A4, dst=B4, proto=200) / Raw(b"12345678")))
    assert (parsed(answer)[ICMP].type, parsed(answer)[ICMP].code) == (3, 2)
    packet = bytes(IPv6(src=A6, dst=B6, nh=60) / IPv6ExtHdrDestOpt(nh=200) / Raw(b"12345678"))
    (answer,) = answers(stack_at(), packet)
    # RFC 4443 §3.4: code 1, and the pointer to the field that names the protocol.
    assert answer[40:42] == b"\x04\x01"
    assert int.from_bytes(answer[44:48], "big") == 40
    assert answers(stack_at(), bytes(IPv6(src=A6, dst=B6, nh=59) / Raw(b"12345678"))) == []


def test_parameter_problems() -> None:
    option = IPv6ExtHdrDestOpt(nh=59, options=[HBHOptUnknown(otype=0x9E, optdata=b"1234")])
    (answer,) = answers(stack_at(), bytes(IPv6(src=A6, dst=B6, nh=60) / option))
    assert (answer[40:42], int.from_bytes(answer[44:48], "big")) == (b"\x04\x02", 42)


ERRORS4 = [bytes(IP(src=A4, dst=B4) / ICMP(type=kind) / IP(src=B4, dst=A4) / UDP()) for kind in (3, 4, 5, 11, 12)]
UNANSWERABLE = {
    "an error": (*ERRORS4, bytes(IPv6(src=A6, dst=B6) / ICMPv6DestUnreach() / IPv6(src=B6, dst=A6) / UDP())),
    "a later fragment": (bytes(IP(src=A4, dst=B4, proto=200, frag=5) / Raw(b"12345678")),),
    "no unicast source": tuple(
        bytes(IP(src=source, dst=B4) / UDP(dport=9) / Raw(b"x"))
        for source in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1")
    )
    + tuple(bytes(IPv6(src=source, dst=B6) / UDP(dport=9) / Raw(b"x")) for source in ("::", "::1", "ff02::1")),
    "to many": (
        *(bytes(IP(src=A4, dst=to) / UDP(dport=9)) for to in ("224.0.0.1", "255.255.255.255")),
        bytes(IPv6(src=A6, dst="ff02::1") / UDP(dport=9)),
    ),
    "to another": (udp(A4, C4, 1, 9), udp(A6, C6, 1, 9)),
}


@pytest.mark.parametrize(
    ("what", "takes_all"),
    [
        (what, takes_all)
        for what in UNANSWERABLE
        for takes_all in (False, True)
        if not takes_all or what != "to another"
    ],
)
def test_what_must_not_be_answered(what: str, takes_all: bool) -> None:
    """RFC 1122 §3.2.2, RFC 4443 §2.4 (e)."""
    stack = stack_at(takes_all=takes_all)
    for packet in UNANSWERABLE[what]:
        assert answers(stack, packet) == [], packet.hex()


def test_errors_are_few() -> None:
    stack = stack_at()
    sent = sum(len(answers(stack, udp(A4, B4, 1, port))) for port in range(1, 1000))
    assert sent == 50
    assert sum(len(answers(stack, udp(A4, B4, 1, port), 1.1)) for port in range(1, 1000)) == 20
    assert stack.counted()["errors_withheld"] == 2 * 999 - 70


def test_at_the_far_end_of_the_world() -> None:
    """Where every address is local: hops count, and who answers is who was asked."""
    stack = stack_at(takes_all=True)
    (answer,) = answers(stack, udp(A4, C4, 1, 9))
    assert (parsed(answer).src, parsed(answer)[ICMP].code) == (C4, 3)
    (answer,) = answers(stack, udp(A6, C6, 1, 9))
    assert parsed(answer).src == C6
    (answer,) = answers(stack, udp(A4, C4, 1, 9, ttl=1))
    assert (parsed(answer).src, parsed(answer)[ICMP].type) == (B4, 11)
    (answer,) = answers(stack, udp(A6, C6, 1, 9, hlim=1))
    assert (parsed(answer).src, parsed(answer)[ICMPv6TimeExceeded].code) == (B6, 0)
    # To itself, the last hop is far enough.
    (answer,) = answers(stack, echo(A4, B4, ttl=1))
    assert parsed(answer)[ICMP].type == 0
    seen: list[bytes] = []

    def requested(packet: bytes) -> bool:
        seen.append(packet)
        return True

    stack.echo.on_request = requested
    request = echo(A4, C4)
    assert answers(stack, request) == []
    assert seen == [request]


def test_only_peers_may_send() -> None:
    stack = stack_at(takes_all=True)
    stack.set_peers((A4, A6))
    (answer,) = answers(stack, udp(A4, C4, 1, 9))
    assert parsed(answer)[ICMP].code == 3
    (answer,) = answers(stack, udp("192.0.2.66", C4, 1, 9))
    assert (parsed(answer)[ICMP].code, parsed(answer).dst, parsed(answer).src) == (13, "192.0.2.66", C4)
    (answer,) = answers(stack, udp("2001:db8::66", C6, 1, 9))
    assert parsed(answer)[ICMPv6DestUnreach].code == 5
    assert stack.counted()["forged"] == 2
    stack.set_peers(None)
    (answer,) = answers(stack, udp("192.0.2.66", C4, 1, 9))
    assert parsed(answer)[ICMP].code == 3
    with pytest.raises(ValueError, match="cannot be a host"):
        stack.set_peers(("224.0.0.1",))


# What others report.


class Noted:
    def __init__(self) -> None:
        self.errors: list[OSError] = []

    def datagram_received(self, *_: object) -> None:
        raise AssertionError

    def error_received(self, error: OSError) -> None:
        self.errors.append(error)


def too_big(reporter: str, to: str, quoted: bytes, mtu: int) -> bytes:
    if ":" in reporter:
        return bytes(IPv6(src=reporter, dst=to) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quoted))
    return bytes(IP(src=reporter, dst=to) / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quoted))


@pytest.mark.parametrize(
    ("remote", "mtu", "believed"),
    [
        (C4, 1000, 1000),
        (C4, 300, 552),
        (C4, 68, 552),
        (C4, 0, 1492),
        (C4, 1500, 1500),
        (C4, 9000, 1500),
        (C6, 1400, 1400),
        (C6, 1280, 1280),
        (C6, 1279, 1500),
        (C6, 0, 1500),
    ],
)
def test_too_big(remote: str, mtu: int, believed: int) -> None:
    stack, noted = stack_at(mtu=1500), Noted()
    local = B6 if ":" in remote else B4
    socket = stack.udp.open(noted)
    socket.send_to(bytes(1400), remote, 99)
    (packet,) = stack.packets_to_send(1.0)
    stack.receive(too_big(A6 if ":" in remote else A4, local, packet[:100], mtu), 1.0)
    stack.tell()
    assert stack.mtu_towards(remote) == believed
    assert stack.mtu_towards("198.51.100.8") == 1500
    assert len(noted.errors) == 1
    # Smaller ones that are told later count, larger ones do not; after ten minutes all is forgotten.
    stack.receive(too_big(A6 if ":" in remote else A4, local, packet[:100], 1450), 2.0)
    assert stack.mtu_towards(remote) == min(believed, 1450)
    stack.handle_timer(700.0)
    assert stack.mtu_towards(remote) == 1500


def test_too_big_about_what_was_never_sent() -> None:
    stack = stack_at(mtu=1500)
    stack.receive(too_big(A4, B4, udp(B4, C4, 5, 6, bytes(1400))[:100], 600), 1.0)
    assert stack.mtu_towards(C4) == 1500
    assert stack.counted()["reports_ignored"] == 1


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([(A4, B4), (A6, B6)]), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=120))
def test_any_message_is_survived(pair: tuple[str, str], kind: int, code: int, data: bytes) -> None:
    source, destination = pair
    body = bytes([kind, code, 0, 0]) + data
    start = 0
    if ":" in source:
        start = pseudo_header_sum(ip_address(source).packed, ip_address(destination).packed, 58, len(body))
    body = body[:2] + internet_checksum(body, start).to_bytes(2, "big") + body[4:]
    packet = bytes(ip(source, destination, **({"nh": 58} if ":" in source else {"proto": 1})) / Raw(body))
    for takes_all in (False, True):
        for answer in answers(stack_at(takes_all=takes_all), packet):
            parsed(answer)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_mutation_of_a_packet_is_survived(data: st.DataObject) -> None:
    packet = bytearray(data.draw(st.sampled_from([echo(A4, B4), echo(A6, B6), udp(A4, B4, 1, 2, b"x" * 30), *ERRORS4])))
    for _ in range(data.draw(st.integers(1, 6))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    if packet[0] >> 4 == 4 and data.draw(st.booleans()):
        packet[10:12] = b"\0\0"
        mended = IP(bytes(packet))
        del mended.chksum
        packet = bytearray(bytes(mended))
    stack = stack_at(takes_all=data.draw(st.booleans()))
    stack.receive(bytes(packet), 1.0)
    stack.handle_timer(100.0)
    for answer in stack.packets_to_send(100.0):
        parsed(answer)
