"""IP headers read, against scapy's, and what must not be taken for one."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Raw

from quicsocks.netstack.address import classify, through
from quicsocks.netstack.ip import look

from .packets import A4, A6, B4, B6

SHORT, BAD_VERSION, BAD_HEADER, BAD_FIELD, UNKNOWN_NEXT, UNKNOWN_OPTION, INCOMPLETE_CHAIN = range(1, 8)


@pytest.mark.parametrize("options", [[], [IPOption_RR(), IPOption_Timestamp()]])
@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=100))
def test_version_4(options: list[Any], tos: int, ttl: int, proto: int, ident: int, data: bytes) -> None:
    packet = bytes(IP(src=A4, dst=B4, tos=tos, ttl=ttl, proto=proto, id=ident, options=options) / Raw(data))
    found = look(packet + b"behind it")
    assert found == {
        "reading": 0,
        "version": 4,
        "size": len(packet),
        "traffic": tos,
        "hops": ttl,
        "protocol": proto,
        "source": ip_address(A4),
        "destination": ip_address(B4),
        "payload": data,
        "fragment": False,
        "more": False,
        "keep": False,
        "offset": 0,
        "id": ident,
    }


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**20 - 1), st.binary(max_size=100))
def test_version_6(traffic: int, hops: int, label: int, data: bytes) -> None:
    packet = bytes(IPv6(src=A6, dst=B6, tc=traffic, hlim=hops, fl=label, nh=17) / Raw(data))
    found = look(packet + b"behind it")
    assert (found["traffic"], found["hops"], found["protocol"]) == (traffic, hops, 17)
    assert (found["source"], found["destination"]) == (ip_address(A6), ip_address(B6))
    assert (found["size"], found["payload"], found["fragment"]) == (len(packet), data, False)


def test_extension_headers_are_skipped() -> None:
    chain = (
        IPv6ExtHdrHopByHop(options=[PadN(optdata=b"123")])
        / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"skip me")])
        / IPv6ExtHdrRouting(type=0, segleft=0, addresses=[])
        / IPv6ExtHdrFragment(m=0, offset=0, id=7, nh=17)
    )
    found = look(bytes(IPv6(src=A6, dst=B6) / chain / Raw(b"data")))
    # An atomic fragment stands for itself (RFC 6946).
    assert (found["protocol"], found["payload"], found["fragment"]) == (17, b"data", False)


def test_fragments() -> None:
    found = look(bytes(IP(src=A4, dst=B4, flags="MF", frag=3, id=9) / Raw(b"12345678")))
    assert (found["fragment"], found["more"], found["offset"], found["id"]) == (True, True, 24, 9)
    found = look(bytes(IP(src=A4, dst=B4, flags="DF") / Raw(b"1")))
    assert (found["fragment"], found["keep"]) == (False, True)
    packet = bytes(IPv6(src=A6, dst=B6, nh=44) / Raw(bytes([17, 0, 0, 25]) + (77).to_bytes(4, "big") + b"12345678"))
    found = look(packet)
    assert (found["fragment"], found["more"], found["offset"], found["id"]) == (True, True, 24, 77)
    assert (found["protocol"], found["payload"]) == (17, b"12345678")


def v6(first: int, *headers: bytes) -> bytes:
    return bytes(IPv6(src=A6, dst=B6, nh=first) / Raw(b"".join(headers)))


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", {"reading": SHORT}),
        (b"\x45", {"reading": SHORT}),
        (bytes([0x55]) + bytes(60), {"reading": BAD_VERSION}),
        (bytes([0x44]) + bytes(60), {"reading": BAD_HEADER}),
        (bytes(IP(src=A4, dst=B4, len=19) / Raw(b"12345")), {"reading": BAD_HEADER}),
        (bytes(IP(src=A4, dst=B4, len=30) / Raw(b"12345")), {"reading": SHORT}),
        (bytes(IP(src=A4, dst=B4, chksum=1) / Raw(b"12345")), {"reading": BAD_HEADER}),
        (bytes(IPv6(src=A6, dst=B6))[:39], {"reading": SHORT}),
        (bytes(IPv6(src=A6, dst=B6, plen=6) / Raw(b"12345")), {"reading": SHORT}),
        (bytes(IPv6(src="::ffff:192.0.2.1", dst=B6) / Raw(b"12345")), {"reading": BAD_HEADER}),
        # A hop-by-hop header that is not the first (RFC 8200 §4): pointer to the field that names it.
        (v6(60, b"\x00\x00\x01\x04\x00\x00\x00\x00", b"\x11\x00" + bytes(6)), {"reading": UNKNOWN_NEXT, "pointer": 40}),
        # A routing header of unknown type with segments left, RH0 with some among them (RFC 5095).
        (v6(43, b"\x11\x00\x00\x01" + bytes(4)), {"reading": BAD_FIELD, "pointer": 42}),
        # Options by their two highest bits: skip, drop, answer, answer unless multicast.
        (v6(60, b"\x11\x00\x5e\x04" + bytes(4)), {"reading": BAD_HEADER}),
        (v6(60, b"\x11\x00\x9e\x04" + bytes(4)), {"reading": UNKNOWN_OPTION, "pointer": 42}),
        (v6(60, b"\x11\x00\x00\xde\x03" + bytes(3)), {"reading": UNKNOWN_OPTION, "pointer": 43}),
        # Options and headers that reach beyond their ends.
        (v6(60, b"\x11\x00\x01\x05" + bytes(4)), {"reading": BAD_HEADER}),
        (v6(60, b"\x11\x01\x01\x04" + bytes(4)), {"reading": BAD_HEADER}),
        (v6(60, b"\x11"), {"reading": BAD_HEADER}),
        # A first fragment that ends within its headers (RFC 7112).
        (v6(44, b"\x3c\0\0\x01\0\0\0\x07", b"\x11\x01\x01\x04" + bytes(4)), {"reading": INCOMPLETE_CHAIN, "pointer": 48}),
        # A fragment of a fragment.
        (v6(44, b"\x2c\x00\x00\x01\x00\x00\x00\x07", b"\x11\x00\x00\x01\x00\x00\x00\x07"), {"reading": BAD_HEADER}),
        (v6(60, *[b"\x3c\x00\x01\x04\x00\x00\x00\x00"] * 9), {"reading": BAD_HEADER}),
    ],
)  # fmt: skip
def test_what_is_no_packet(packet: bytes, expected: dict[str, int]) -> None:
    assert look(packet) == expected


@given(st.binary(max_size=200))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for first in (b"", b"\x45", b"\x60"):
        found = look(first + data)
        if found["reading"] == 0:
            assert found["payload"] in first + data
            assert found["size"] <= len(first + data)


@pytest.mark.parametrize(
    ("address", "kinds"),
    [
        ("192.0.2.1", {"unicast"}),
        ("0.0.0.0", {"unspecified"}),
        ("0.1.2.3", {"unspecified"}),
        ("127.0.0.1", {"loopback"}),
        ("224.0.0.1", {"multicast"}),
        ("239.255.255.255", {"multicast"}),
        ("240.0.0.1", set()),
        ("255.255.255.255", {"broadcast"}),
        ("2001:db8::1", {"unicast"}),
        ("::", {"unspecified"}),
        ("::1", {"loopback"}),
        ("ff02::1", {"multicast"}),
    ],
)
def test_kinds_of_addresses(address: str, kinds: set[str]) -> None:
    assert classify(address) == kinds
    assert through(address) == ip_address(address)


@pytest.mark.parametrize("address", ["fe80::1%1", "", "192.0.2"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone"):
        classify(address)
