"""Made-up ICMP errors, judged by scapy, and the reading of all kinds."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6TimeExceeded, IPv6
from scapy.packet import Raw

from quicsocks.netstack.icmp import (
    MAX_MESSAGE,
    IcmpError,
    Quoted,
    Unreachable,
    icmp_error,
    parse_error,
    unreachable_for_errno,
)

SOURCE4, DESTINATION4 = IPv4Address("198.51.100.7"), IPv4Address("203.0.113.9")
SOURCE6, DESTINATION6 = IPv6Address("2001:db8::7"), IPv6Address("2001:db8:1::9")
ports = st.integers(0, 65535)


@pytest.mark.parametrize("meaning", list(Unreachable))
@given(
    source=st.integers(0, 2**32 - 1), destination=st.integers(0, 2**32 - 1), source_port=ports, destination_port=ports
)
def test_ipv4(meaning: Unreachable, source: int, destination: int, source_port: int, destination_port: int) -> None:
    src, dst = IPv4Address(source), IPv4Address(destination)
    message = icmp_error(meaning, src, dst, source_port, destination_port)
    assert len(message) <= MAX_MESSAGE
    whole = bytes(IP(src=str(dst), dst=str(src), proto=1) / Raw(message))
    packet = IP(whole)
    assert (packet[ICMP].type, packet[ICMP].code) == meaning.value[0]
    quoted = packet[ICMP].payload
    assert (quoted.src, quoted.dst, quoted.proto) == (str(src), str(dst), 6)
    tcp = quoted.payload
    assert (tcp.sport, tcp.dport, str(tcp.flags)) == (source_port, destination_port, "S")
    # Checksums: the message over all of it, the quoted headers each by itself.
    assert bytes(ICMP(message)) == message
    remade = ICMP(message)
    del remade.chksum
    assert bytes(remade) == message
    inner = message[8:]
    assert bytes(IP(src=str(src), dst=str(dst), id=0, flags="DF", ttl=64) / TCP(
        sport=source_port, dport=destination_port, flags="S", seq=0, window=65535
    )) == inner  # fmt: skip
    assert parse_error(message).meaning is meaning
    assert parse_error(message).quoted == Quoted(src, dst, 6, source_port, destination_port)


@pytest.mark.parametrize("meaning", list(Unreachable))
@given(
    source=st.integers(0, 2**128 - 1), destination=st.integers(0, 2**128 - 1), source_port=ports, destination_port=ports
)
def test_ipv6(meaning: Unreachable, source: int, destination: int, source_port: int, destination_port: int) -> None:
    src, dst = IPv6Address(source), IPv6Address(destination)
    message = icmp_error(meaning, src, dst, source_port, destination_port)
    assert len(message) <= MAX_MESSAGE
    packet = IPv6(bytes(IPv6(src=str(dst), dst=str(src), nh=58) / Raw(message)))
    kind = packet[ICMPv6TimeExceeded if meaning is Unreachable.HOP_LIMIT else ICMPv6DestUnreach]
    assert (kind.type, kind.code) == meaning.value[1]
    given_sum = kind.cksum
    del kind.cksum
    assert IPv6(bytes(packet))[type(kind)].cksum == given_sum
    inner = message[8:]
    assert bytes(IPv6(src=str(src), dst=str(dst), hlim=64) / TCP(
        sport=source_port, dport=destination_port, flags="S", seq=0, window=65535
    )) == inner  # fmt: skip
    parsed = parse_error(message)
    assert (parsed.version, parsed.meaning) == (6, meaning)
    assert parsed.quoted == Quoted(src, dst, 6, source_port, destination_port)


def test_the_reporter_counts_in_icmpv6() -> None:
    router = IPv6Address("2001:db8:ffff::1")
    message = icmp_error(Unreachable.NETWORK, SOURCE6, DESTINATION6, 1, 2, reporter=router)
    packet = IPv6(bytes(IPv6(src=str(router), dst=str(SOURCE6), nh=58) / Raw(message)))
    given_sum = packet[ICMPv6DestUnreach].cksum
    del packet[ICMPv6DestUnreach].cksum
    assert IPv6(bytes(packet))[ICMPv6DestUnreach].cksum == given_sum


def test_versions_do_not_mix() -> None:
    with pytest.raises(ValueError, match="different IP versions"):
        icmp_error(Unreachable.HOST, SOURCE4, DESTINATION6, 1, 2)


CODES4 = {
    Unreachable.NETWORK: [(3, 0), (3, 6), (3, 11)],
    Unreachable.HOST: [(3, 1), (3, 5), (3, 7), (3, 8), (3, 12)],
    Unreachable.PORT: [(3, 2), (3, 3)],
    Unreachable.PROHIBITED: [(3, 9), (3, 10), (3, 13)],
    Unreachable.HOP_LIMIT: [(11, 0), (11, 1)],
    None: [(3, 4), (3, 14), (3, 99), (4, 0), (12, 0)],
}


@pytest.mark.parametrize(
    ("meaning", "kind", "code"), [(m, kind, code) for m, codes in CODES4.items() for kind, code in codes]
)
def test_real_ipv4_messages(meaning: Unreachable | None, kind: int, code: int) -> None:
    quoted = IP(src="10.0.0.1", dst="10.0.0.2", options=[]) / UDP(sport=5, dport=6)
    parsed = parse_error(bytes(ICMP(type=kind, code=code) / quoted))
    assert (parsed.version, parsed.type, parsed.code, parsed.meaning) == (4, kind, code, meaning)
    assert parsed.quoted == Quoted(ip_address("10.0.0.1"), ip_address("10.0.0.2"), 17, 5, 6)


@pytest.mark.parametrize(
    ("meaning", "code"),
    [
        (Unreachable.NETWORK, 0),
        (Unreachable.PROHIBITED, 1),
        (Unreachable.NETWORK, 2),
        (Unreachable.HOST, 3),
        (Unreachable.PORT, 4),
        (Unreachable.PROHIBITED, 5),
        (Unreachable.PROHIBITED, 6),
        (None, 7),
    ],
)
def test_real_ipv6_messages(meaning: Unreachable | None, code: int) -> None:
    quoted = IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(sport=5, dport=6)
    parsed = parse_error(bytes(IPv6() / ICMPv6DestUnreach(code=code) / quoted)[40:])
    assert (parsed.version, parsed.meaning, parsed.quoted.destination_port) == (6, meaning, 6)


def test_a_message_cut_short_still_tells_the_rest() -> None:
    for source, destination, header in ((SOURCE4, DESTINATION4, 28), (SOURCE6, DESTINATION6, 48)):
        message = icmp_error(Unreachable.PORT, source, destination, 1234, 443)
        for size in range(len(message)):
            if size < header:
                with pytest.raises(IcmpError):
                    parse_error(message[:size])
            else:
                quoted = parse_error(message[:size]).quoted
                assert quoted.destination == destination
                assert quoted.destination_port == (443 if size >= header + 4 else None)


def test_what_is_no_error() -> None:
    for message in (bytes(ICMP(type=8) / IP()), bytes(ICMP(type=0) / IP()), b"\x80" + bytes(7) + b"\x60" + bytes(60)):
        with pytest.raises(IcmpError, match="is not an error"):
            parse_error(message)
    with pytest.raises(IcmpError, match="no IP packet"):
        parse_error(b"\x03" + bytes(60))


@given(st.binary(max_size=300))
def test_only_icmp_errors_are_raised(data: bytes) -> None:
    try:
        parsed = parse_error(data)
    except IcmpError:
        return
    assert parsed.version in (4, 6)


def test_errnos() -> None:
    assert unreachable_for_errno(errno.ENETUNREACH) is Unreachable.NETWORK
    assert unreachable_for_errno(errno.EHOSTUNREACH) is Unreachable.HOST
    assert unreachable_for_errno(errno.ECONNREFUSED) is Unreachable.PORT
    assert unreachable_for_errno(errno.EACCES) is Unreachable.PROHIBITED
    assert unreachable_for_errno(errno.EMFILE) is None
