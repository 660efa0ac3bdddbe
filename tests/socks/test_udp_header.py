"""The header of UDP datagrams (RFC 1928 §7), byte by byte, and fragments."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.socks.udp_header import Reassembly, decode_udp, encode_udp

V4 = bytes.fromhex("0000 00 01 c0000207 0035")
V6 = bytes.fromhex("0000 00 04 20010db8000000000000000000000007 0035")
NAME = bytes.fromhex("0000 00 03 0b") + b"Example.org" + bytes.fromhex("0035")


@pytest.mark.parametrize(
    ("header", "host"), [(V4, "192.0.2.7"), (V6, "2001:db8::7"), (NAME, "example.org")], ids=["IPv4", "IPv6", "name"]
)
def test_reading(header: bytes, host: str) -> None:
    assert decode_udp(header + b"data") == (0, host, 53, b"data")
    assert decode_udp(header) == (0, host, 53, b"")
    for size in range(len(header)):
        assert decode_udp(header[:size]) is None


def test_overheads() -> None:
    """Of the RFC's table, but for IPv6: it has 20 there."""
    assert (len(V4), len(V6)) == (10, 22)
    assert encode_udp("192.0.2.7", 53, b"data") == V4 + b"data"
    assert encode_udp("2001:db8::7", 53, b"data") == V6 + b"data"


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\x01" + V4[1:],
        b"\0\x01" + V4[2:],
        V4[:3] + b"\x02" + V4[4:],
        V4[:3] + b"\x00" + V4[4:],
        V4[:-2] + b"\0\0",
        b"\0\0\0\x03\0\0\x35",
        b"\0\0\0\x03\x03a\0b\0\x35",
        b"\0\0\0\x03\x03a\xffb\0\x35",
    ],
)
def test_what_is_none(wrong: bytes) -> None:
    assert decode_udp(wrong) is None


def test_a_fragment_is_told_to_be_one() -> None:
    assert decode_udp(V4[:2] + b"\x85" + V4[3:] + b"x") == (0x85, "192.0.2.7", 53, b"x")


@pytest.mark.parametrize(("host", "port"), [("example.org", 53), ("192.0.2.7", 0), ("192.0.2.7", 65536)])
def test_what_cannot_be_written(host: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        encode_udp(host, port, b"")


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(1, 65535), st.binary(max_size=100))
def test_what_is_written_is_read(host: IPv4Address | IPv6Address, port: int, data: bytes) -> None:
    assert decode_udp(encode_udp(str(host), port, data)) == (0, str(host), port, data)


@given(st.binary(max_size=300))
def test_anything_is_read_or_none(data: bytes) -> None:
    for first in (b"", b"\0\0\0", b"\0\0\0\x03"):
        found = decode_udp(first + data)
        assert found is None or data.endswith(found[3])


def fragments(
    reassembly: Reassembly, *numbers: int, at: float = 0.0, to: str = "a"
) -> list[tuple[str, int, bytes] | None]:
    return [reassembly.add(number, to, 53, bytes([number & 0x7F]), at) for number in numbers]


def test_fragments_in_order() -> None:
    reassembly = Reassembly()
    assert fragments(reassembly, 1, 2, 0x83) == [None, None, ("a", 53, b"\1\2\3")]
    assert fragments(reassembly, 0x81) == [("a", 53, b"\1")]
    assert fragments(reassembly, *range(1, 127), 0xFF)[-1] == ("a", 53, bytes(range(1, 128)))


@pytest.mark.parametrize("numbers", [(2, 0x83), (1, 0x83), (1, 2, 2, 0x83), (0x82,), (1, 2, 4, 0x85), (0x80,)])
def test_fragments_that_do_not_fit_make_nothing(numbers: tuple[int, ...]) -> None:
    reassembly = Reassembly()
    assert set(fragments(reassembly, *numbers)) == {None}
    # Nor do they spoil what comes next.
    assert fragments(reassembly, 1, 0x82)[-1] == ("a", 53, b"\1\2")


def test_a_lower_number_begins_anew() -> None:
    reassembly = Reassembly()
    assert fragments(reassembly, 1, 2, 1, 0x82)[-1] == ("a", 53, b"\1\2")


def test_five_seconds() -> None:
    reassembly = Reassembly()
    fragments(reassembly, 1, at=10.0)
    assert fragments(reassembly, 0x82, at=14.9) == [("a", 53, b"\1\2")]
    fragments(reassembly, 1, at=20.0)
    assert fragments(reassembly, 0x82, at=25.0) == [None]


def test_one_destination() -> None:
    reassembly = Reassembly()
    fragments(reassembly, 1)
    assert fragments(reassembly, 0x82, to="b") == [None]


def test_no_more_than_a_datagram_holds() -> None:
    reassembly = Reassembly()
    assert reassembly.add(1, "a", 53, bytes(40_000), 0.0) is None
    assert reassembly.add(0x82, "a", 53, bytes(25_508), 0.0) is None
    assert reassembly.add(1, "a", 53, bytes(40_000), 0.0) is None
    assert reassembly.add(0x82, "a", 53, bytes(25_507), 0.0) == ("a", 53, bytes(65_507))
