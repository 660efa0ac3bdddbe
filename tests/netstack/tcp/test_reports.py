"""ICMP errors (RFC 9293 §3.9.2.2, RFC 5927, RFC 1191, RFC 8201) and the path's MTU without them (RFC 4821, RFC 8899)."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from quicsocks.netstack.tcp.types import Options
from tests.sim.link import Conditions

from .pair import End, Pair
from .peer import Peer, Segment

ROUTER4, ROUTER6 = "198.51.100.254", "2001:db8:ffff::ffff"


def report(peer: Peer, kind: int, code: int, segment: Segment, *, mtu: int = 0, seq: int | None = None) -> None:
    """An ICMP error about a segment of the stack's."""
    number = segment.raw_seq if seq is None else seq
    head = peer.stack_port.to_bytes(2, "big") + peer.port.to_bytes(2, "big") + number.to_bytes(4, "big") + bytes(12)
    if ":" in peer.here:
        quoted: Any = IPv6(src=peer.here, dst=peer.there, nh=6) / Raw(head)
        outer: Any = IPv6(src=ROUTER6, dst=peer.here)
        error = ICMPv6PacketTooBig(mtu=mtu) if kind == 2 else ICMPv6DestUnreach(type=kind, code=code)
        packet = bytes(outer / error / quoted)
    else:
        quoted = IP(src=peer.here, dst=peer.there, proto=6) / Raw(head)
        packet = bytes(IP(src=ROUTER4, dst=peer.here) / ICMP(type=kind, code=code, nexthopmtu=mtu) / quoted)
    peer.stack.receive(packet, peer.now)
    peer.stack.tell()


@pytest.mark.parametrize(("code", "end"), [(0, "UNREACHABLE"), (1, "UNREACHABLE"), (3, "REFUSED"), (13, "UNREACHABLE")])
def test_a_connection_attempt_ends_with_what_routers_say(code: int, end: str) -> None:
    peer = Peer()
    syn = peer.connect()
    report(peer, 3, code, syn)
    assert list(peer.events()) == [end]
    assert peer.connection.ended is not None
    assert (peer.connection.ended.kind, peer.connection.ended.code) == (3, code)


@pytest.mark.parametrize(("code", "end"), [(0, "UNREACHABLE"), (4, "REFUSED")])
def test_the_same_of_icmpv6(code: int, end: str) -> None:
    peer = Peer(v6=True)
    report(peer, 1, code, peer.connect())
    assert list(peer.events()) == [end]


def test_a_forged_error_does_nothing() -> None:
    peer = Peer()
    syn = peer.connect()
    report(peer, 3, 1, syn, seq=syn.raw_seq + 1)
    peer.port += 1
    report(peer, 3, 1, syn)
    assert peer.state == "SYN-SENT"


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 2), (3, 3), (3, 5), (11, 0), (12, 0), (4, 0), (3, 13)])
def test_must_55_must_56_no_error_ends_what_is_established(kind: int, code: int) -> None:
    peer = Peer()
    peer.establish()
    peer.connection.write(b"x")
    report(peer, kind, code, peer.one())
    assert peer.state == "ESTABLISHED"
    peer.send("A", 1, 2)
    assert peer.state == "ESTABLISHED"


def test_shld_25_the_last_error_is_told_in_the_end() -> None:
    peer = Peer()
    peer.establish()
    peer.connection.write(b"x")
    report(peer, 3, 1, peer.one())
    peer.advance(2000.0)
    assert "TIMED_OUT" in peer.events()
    assert peer.connection.ended is not None
    assert (peer.connection.ended.kind, peer.connection.ended.code) == (3, 1)


@pytest.mark.parametrize("v6", [False, True])
def test_too_large_segments_are_sent_again_in_pieces(v6: bool) -> None:
    peer = Peer(v6=v6)
    peer.establish()
    peer.connection.write(bytes(index % 251 for index in range(6000)))
    sent = peer.got()
    window = peer.statistics["congestion_window"]
    report(peer, 2 if v6 else 3, 0 if v6 else 4, sent[1], mtu=1300)
    again = peer.got()
    assert all(segment.size <= 1300 for segment in again)
    assert again[0].seq == 1
    whole = b"".join(segment.data for segment in again)
    assert whole == bytes(index % 251 for index in range(len(whole)))
    assert peer.statistics["congestion_window"] >= window * 0.8, "no congestion"
    assert peer.statistics["mtu"] == 1300
    peer.send("A", 1, 6001)
    assert peer.statistics["in_flight"] == 0


def test_a_forged_too_big_is_not_believed() -> None:
    peer = Peer()
    peer.establish()
    peer.connection.write(bytes(3000))
    sent = peer.got()
    report(peer, 3, 4, sent[0], mtu=600, seq=(sent[0].raw_seq + 5000) & 0xFFFFFFFF)
    assert peer.statistics["mtu"] == 1500
    report(peer, 3, 4, sent[0], mtu=9000)
    assert peer.statistics["mtu"] == 1500


@pytest.mark.parametrize("v6", [False, True])
def test_a_black_hole_is_found_and_the_mtu_searched(v6: bool) -> None:
    largest = 0

    def watch(packet: bytes, from_near: bool) -> None:
        nonlocal largest
        if from_near:
            largest = max(largest, len(packet))

    pair = Pair(5, Conditions(delay=0.01, mtu=1380), v6=v6, mtu=1500, watch=watch)
    near, far = End(0, 3_000_000, 1, 0), End(1, 0, 0, 3_000_000)
    pair.open(near, far)
    pair.run(300.0)
    assert far.received == 3_000_000
    assert largest == 1500
    assert near.connection is not None
    statistics = near.connection.statistics()
    assert 1380 - 40 <= statistics["mtu"] <= 1380, "found by halves"
    assert statistics["mtu_probes"] >= 3


def test_the_link_becomes_narrower_and_wider() -> None:
    peer = Peer()
    peer.establish()
    peer.stack.set_mtu(1000)
    peer.connection.write(bytes(3000))
    assert max(segment.size for segment in peer.got()) == 1000
    peer.send("A", 1, 3001)
    assert peer.statistics["mtu"] == 1000


def test_without_probing_nothing_is_searched() -> None:
    peer = Peer(options=Options(mtu_probing=False))
    peer.establish()
    peer.connection.write(bytes(3000))
    peer.got()
    peer.advance(30.0)
    assert peer.statistics["mtu"] == 1500
