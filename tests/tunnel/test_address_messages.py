"""Addresses and routes as RFC 9484 §4.7 has them: round trips, and lists that must not be."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import LocalError, PeerError
from quicsocks.userspace.tunnel.address_messages import (
    MAX_ADDRESSES,
    MAX_ROUTES,
    AddressAssign,
    AddressRequest,
    Assigned,
    Requested,
    Route,
    RouteAdvertisement,
    decode_assign,
    decode_request,
    decode_routes,
    encode_addresses,
    encode_routes,
)


def masked(address: IPv4Address | IPv6Address, bits: int) -> IPv4Interface | IPv6Interface:
    prefix = bits % (address.max_prefixlen + 1)
    network = ip_interface(f"{address}/{prefix}").network
    return ip_interface(f"{network.network_address}/{prefix}")


INTERFACES = st.builds(masked, st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
NUMBERS = st.integers(0, 2**62 - 1)


@given(st.lists(st.builds(Assigned, NUMBERS, INTERFACES), max_size=8))
def test_assigned_addresses(addresses: list[Assigned]) -> None:
    message = AddressAssign(tuple(addresses))
    assert decode_assign(encode_addresses(message)) == message


@given(st.lists(INTERFACES, min_size=1, max_size=8))
def test_requested_addresses(addresses: list[IPv4Interface | IPv6Interface]) -> None:
    message = AddressRequest(tuple(Requested(number, address) for number, address in enumerate(addresses, 1)))
    assert decode_request(encode_addresses(message)) == message


def test_by_hand() -> None:
    """Request ID, IP version, address, prefix length; version, start, end, protocol."""
    assert encode_addresses(AddressAssign((Assigned(7, ip_interface("192.0.2.1/32")),))).hex() == "0704c000020120"
    message = RouteAdvertisement((Route(ip_address("192.0.2.0"), ip_address("192.0.2.255"), 17),))
    assert encode_routes(message).hex() == "04c0000200c00002ff11"
    assert decode_assign(b"") == AddressAssign()
    assert decode_routes(b"") == RouteAdvertisement()


@pytest.mark.parametrize(
    ("address", "refused"), [("0.0.0.0/32", True), ("::/128", True), ("0.0.0.0/0", False), ("10.0.0.1/32", False)]
)
def test_a_refusal(address: str, refused: bool) -> None:
    assert Assigned(1, ip_interface(address)).refuses is refused


@pytest.mark.parametrize(
    "body",
    [
        "07", "0704", "0704c00002", "0704c0000201", "0705c000020120",
        "0704c000020121",  # a prefix of 33 bits
        "0704c000020118",  # bits behind the prefix
        "0706" + "20010db8" + "00" * 12 + "81",
    ],
)  # fmt: skip
def test_addresses_that_cannot_be(body: str) -> None:
    with pytest.raises(PeerError):
        decode_assign(bytes.fromhex(body))
    with pytest.raises(PeerError):
        decode_request(bytes.fromhex(body))


@pytest.mark.parametrize("body", ["", "0004c000020120", "0104c0000201200104c000020220"])
def test_requests_that_cannot_be(body: str) -> None:
    with pytest.raises(PeerError):
        decode_request(bytes.fromhex(body))


def routes(*ranges: tuple[str, str, int]) -> RouteAdvertisement:
    return RouteAdvertisement(
        tuple(Route(ip_address(start), ip_address(end), protocol) for start, end, protocol in ranges)
    )


@pytest.mark.parametrize(
    "ranges",
    [
        (("0.0.0.0", "255.255.255.255", 0), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0)),
        (
            ("10.0.0.0", "10.0.0.255", 0),
            ("10.0.1.0", "10.0.1.255", 0),
            ("10.0.2.0", "10.0.2.9", 6),
            ("10.0.2.0", "10.0.2.9", 17),
        ),
        (("10.0.0.1", "10.0.0.1", 0),),
    ],
)
def test_routes(ranges: tuple[tuple[str, str, int], ...]) -> None:
    message = routes(*ranges)
    assert decode_routes(encode_routes(message)) == message


@pytest.mark.parametrize(
    "ranges",
    [
        (("::", "::1", 0), ("10.0.0.0", "10.0.0.1", 0)),
        (("10.0.0.0", "10.0.0.1", 6), ("10.0.0.0", "10.0.0.1", 1)),
        (("10.0.0.5", "10.0.0.6", 6), ("10.0.0.0", "10.0.0.1", 6)),
        (("10.0.0.0", "10.0.0.5", 6), ("10.0.0.5", "10.0.0.6", 6)),
        (("10.0.0.0", "10.0.0.255", 0), ("10.0.0.5", "10.0.0.6", 6)),
        (("10.0.0.5", "10.0.0.4", 0),),
        (("10.0.0.5", "::5", 0),),
    ],
)
def test_routes_that_cannot_be(ranges: tuple[tuple[str, str, int], ...]) -> None:
    message = routes(*ranges)
    with pytest.raises(LocalError):
        encode_routes(message)
    body = b"".join(
        bytes([r.start.version]) + r.start.packed + r.end.packed + bytes([r.protocol]) for r in message.routes
    )
    with pytest.raises(PeerError):
        decode_routes(body)


@pytest.mark.parametrize("body", ["04", "04c0000200c00002ff", "05c0000200c00002ff11"])
def test_routes_cut_short(body: str) -> None:
    with pytest.raises(PeerError):
        decode_routes(bytes.fromhex(body))


def test_lists_are_bounded() -> None:
    one = bytes.fromhex("0704c000020120")
    assert len(decode_assign(one * MAX_ADDRESSES).addresses) == MAX_ADDRESSES
    with pytest.raises(PeerError):
        decode_assign(one * (MAX_ADDRESSES + 1))
    with pytest.raises(LocalError):
        encode_addresses(AddressAssign((Assigned(7, ip_interface("192.0.2.1")),) * (MAX_ADDRESSES + 1)))
    many = [(str(IPv4Address(number * 2)), str(IPv4Address(number * 2)), 0) for number in range(1, MAX_ROUTES + 2)]
    with pytest.raises(LocalError):
        encode_routes(routes(*many))
    with pytest.raises(LocalError):
        encode_addresses(AddressRequest(()))
    with pytest.raises(LocalError):
        encode_addresses(AddressAssign((Assigned(0, ip_interface("192.0.2.1/24")),)))


@given(st.binary(max_size=80))
def test_anything_is_read_or_a_violation(body: bytes) -> None:
    for decode in (decode_assign, decode_request, decode_routes):
        try:
            decode(body)
        except PeerError:
            continue
