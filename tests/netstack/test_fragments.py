"""Fragments: cut and put together by scapy and by us, and all that must not be put together."""

from __future__ import annotations

import itertools
import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from quicsocks.netstack.fragments import cut
from quicsocks.netstack.stack import Stack, StackOptions

from .packets import A4, A6, B4, B6, parsed, udp


class Taker:
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def datagram_received(self, data: bytes, address: object, port: int) -> None:
        self.got.append(data)

    def error_received(self, error: OSError) -> None:
        raise AssertionError(error)


def listening(port: int = 53) -> tuple[Stack, Taker]:
    stack, taker = Stack(StackOptions(addresses=(B4, B6))), Taker()
    stack.udp.open(taker, port=port)
    return stack, taker


def fragmented(packet: bytes, size: int) -> list[bytes]:
    return [bytes(piece) for piece in fragment(IP(packet), fragsize=size)]  # type: ignore[no-untyped-call]


def pieces6(packet: bytes, *cuts: int, ident: int = 7) -> list[bytes]:
    """IPv6 fragments of a packet without extension headers, cut at these multiples of 8 (written apart from the product)."""
    head, rest = packet[:40], packet[40:]
    edges = [0, *cuts, len(rest)]
    found = []
    for start, stop in itertools.pairwise(edges):
        fragment_header = (
            bytes([head[6], 0]) + (start | (stop < len(rest))).to_bytes(2, "big") + ident.to_bytes(4, "big")
        )
        body = fragment_header + rest[start:stop]
        found.append(head[:4] + len(body).to_bytes(2, "big") + b"\x2c" + head[7:] + body)
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([4, 6]))
def test_what_we_cut_is_what_scapy_puts_together(seed: int, version: int) -> None:
    chance = random.Random(seed)
    source, destination = (A4, B4) if version == 4 else (A6, B6)
    packet = udp(source, destination, 5, 6, chance.randbytes(chance.randrange(9000)))
    header = 20 if version == 4 else 40
    mtu = chance.choice([68, 576, 1280, 1500])
    joined = bytearray()
    fragments = cut(packet, mtu, 77)
    for index, piece in enumerate(fragments):
        found = parsed(piece)
        assert len(piece) <= mtu
        last = index == len(fragments) - 1
        if version == 4:
            assert (found.frag * 8, found.flags.MF, found.id) == (len(joined), not last, 77)
            joined += piece[header:]
        else:
            part = found[IPv6ExtHdrFragment]
            assert (part.offset * 8, bool(part.m), part.id, part.nh) == (len(joined), not last, 77, 17)
            joined += piece[header + 8 :]
    assert joined == packet[header:]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_in_any_order_and_among_others(seed: int) -> None:
    chance = random.Random(seed)
    stack, taker = listening()
    wanted, pieces = [], []
    for ident in range(chance.randrange(1, 5)):
        data = chance.randbytes(chance.randrange(20, 6000))
        wanted.append(data)
        if chance.random() < 0.5:
            size = chance.choice([64, 512, 1400])
            pieces += fragmented(udp(A4, B4, 9, 53, data, id=ident), size)
        else:
            size = len(data) + 8
            cuts = sorted({8 * chance.randrange(1, size // 8 + 1) for _ in range(4)} - {size})
            pieces += pieces6(udp(A6, B6, 9, 53, data), *cuts, ident=ident)
    chance.shuffle(pieces)
    for piece in pieces:
        stack.receive(piece, 1.0)
    stack.tell()
    assert sorted(taker.got) == sorted(wanted)


HOSTILE = {
    # (what comes, in order) of a datagram of 24 octets of payload behind 8 of UDP header: offsets into the 32
    "overlaps by one": [(0, 16, True), (8, 24, True), (24, 32, False)],
    "the same twice": [(0, 16, True), (0, 16, True), (16, 32, False)],
    "inside another": [(0, 24, True), (8, 16, True), (24, 32, False)],
    "beyond the end": [(16, 32, False), (32, 40, True), (0, 16, True)],
    "two ends": [(16, 32, False), (16, 24, False), (0, 16, True)],
    "an end before what has come": [(16, 32, True), (0, 16, False)],
    "an odd size before the end": [(0, 16, True), (16, 27, True), (27, 32, False)],
    "nothing in it": [(0, 16, True), (16, 16, True), (16, 32, False)],
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_datagram_with_contradictions_is_dropped_whole(name: str, version: int) -> None:
    stack, taker = listening()
    source, destination = (A4, B4) if version == 4 else (A6, B6)
    packet = udp(source, destination, 9, 53, bytes(range(24)) + bytes(8))
    body = packet[20:] if version == 4 else packet[40:]
    for start, stop, more in HOSTILE[name]:
        part = body[start:stop]
        if version == 4:
            made = bytes(IP(src=A4, dst=B4, proto=17, id=5, flags="MF" if more else 0, frag=start // 8) / Raw(part))
        else:
            head = bytes([17, 0]) + (start & ~7 | more).to_bytes(2, "big") + (5).to_bytes(4, "big")
            made = bytes(IPv6(src=A6, dst=B6, nh=44) / Raw(head + part))
        stack.receive(made, 1.0)
    # Nor is it whole when everything comes again.
    for piece in cut(packet, 44 if version == 4 else 64, 5):
        stack.receive(piece, 1.0)
    stack.tell()
    assert taker.got == []
    assert stack.counted()["fragments_refused"] >= 1
    # When its time is over, its number may be used again.
    stack.handle_timer(100.0)
    for piece in cut(udp(source, destination, 9, 53, b"x" * 100), 44 if version == 4 else 64, 5):
        stack.receive(piece, 101.0)
    stack.tell()
    assert taker.got == [b"x" * 100]


@pytest.mark.parametrize("protocol", [6, 17, 1])
def test_a_transport_header_cut_in_two(protocol: int) -> None:
    """RFC 1858, RFC 3128: nothing may hide ports or flags behind the first fragment."""
    stack, _ = listening()
    least = {6: 16, 17: 0, 1: 0}[protocol]
    if least:
        stack.receive(bytes(IP(src=A4, dst=B4, proto=protocol, id=5, flags="MF") / Raw(bytes(least))), 1.0)
        assert stack.counted()["fragments_refused"] == 1
    stack.receive(bytes(IP(src=A4, dst=B4, proto=6, id=6, frag=1) / Raw(bytes(40))), 1.0)
    assert stack.counted()["fragments_refused"] == (2 if least else 1)


def test_the_largest_datagram_and_one_beyond() -> None:
    stack, taker = listening()
    data = random.Random(1).randbytes(65507)
    for piece in cut(udp(A4, B4, 9, 53, data), 1500, 3):
        stack.receive(piece, 1.0)
    stack.tell()
    assert taker.got == [data]
    stack.receive(bytes(IP(src=A4, dst=B4, proto=17, id=9, frag=8189) / Raw(bytes(100))), 1.0)
    assert stack.counted()["fragments_refused"] == 1


def test_memory_is_bounded() -> None:
    stack, taker = listening()
    for ident in range(3000):
        stack.receive(bytes(IP(src=A4, dst=B4, proto=17, id=ident, frag=8000, flags="MF") / Raw(bytes(8))), 1.0)
    counted = stack.counted()
    # 64 kB each: 4 MiB hold 65 of them.
    assert counted["reassemblies_timed_out"] == 3000 - 65
    for piece in cut(udp(A4, B4, 9, 53, b"y" * 3000), 576, 1):
        stack.receive(piece, 2.0)
    stack.tell()
    assert taker.got == [b"y" * 3000]


@pytest.mark.parametrize("version", [4, 6])
def test_time_exceeded_when_the_first_has_come(version: int) -> None:
    stack, _ = listening()
    source, destination = (A4, B4) if version == 4 else (A6, B6)
    pieces = cut(udp(source, destination, 9, 53, bytes(3000)), 1280, 4)
    stack.receive(pieces[0], 1.0)
    stack.receive(cut(udp(source, destination, 9, 53, bytes(3000)), 1280, 5)[1], 1.0)
    assert stack.next_timer() == 1.0 + (30.0 if version == 4 else 60.0)
    stack.handle_timer(stack.next_timer())
    (packet,) = stack.packets_to_send(70.0)
    found = parsed(packet)
    assert (found.dst, found.src) == (source, destination)
    assert packet[20:22] == b"\x0b\x01" if version == 4 else packet[40:42] == b"\x03\x01"
    assert pieces[0][:200] in packet
    assert stack.next_timer() == float("inf")


def test_marks_of_congestion_survive() -> None:
    """RFC 3168 §5.3: one marked fragment marks the datagram; none that cannot be marked may be."""
    stack, taker = listening()
    pieces = [bytearray(p) for p in cut(udp(A4, B4, 9, 53, bytes(2000), tos=2), 1280, 4)]
    pieces[1][1] |= 3
    for piece in pieces:
        packet = IP(bytes(piece))
        del packet.chksum
        stack.receive(bytes(packet), 1.0)
    stack.tell()
    assert taker.got == [bytes(2000)]
    pieces[0][1] &= 0xFC
    for piece in pieces:
        packet = IP(bytes(piece))
        del packet.chksum
        stack.receive(bytes(packet), 1.0)
    stack.tell()
    assert len(taker.got) == 1


def test_addresses_keep_datagrams_apart() -> None:
    stack, taker = listening()
    stack.set_addresses((B4, "192.0.2.77", B6))
    assert ip_address("192.0.2.77") in stack.addresses
    one, two = (
        cut(udp(A4, to, 9, 53, data, id=1), 1280, 1) for to, data in ((B4, b"1" * 2000), ("192.0.2.77", b"2" * 2000))
    )
    for piece in (one[0], two[1], two[0], one[1]):
        stack.receive(piece, 1.0)
    stack.tell()
    assert taker.got == [b"2" * 2000, b"1" * 2000]
