"""Which addresses a client has in the tunnel, and what can be reached through it: RFC 9484 §4.7's capsules as messages.

Read first: RFC 9484 §4.7.1 to §4.7.3. The contents are the capsules', octet by octet. An ADDRESS_ASSIGN and a
ROUTE_ADVERTISEMENT are complete lists: each replaces the one before. Pure functions; what the peer sends raises PeerError
only.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from itertools import pairwise

from ..quic.errors import LocalError, PeerError
from .types import CloseCode
from .varint import decode_varint, encode_varint

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface

MAX_ADDRESSES = 64
"""Of one message: a node has a few; a longer list is a mistake or an attack."""
MAX_ROUTES = 1024
"""Of one message: a site's networks by IP version and protocol."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """request: the Request ID that is answered, 0 for none. An address of nothing but zeros with a full prefix refuses it."""

    request: int
    address: IPInterface

    @property
    def refuses(self) -> bool:
        return int(self.address.ip) == 0 and self.address.network.prefixlen == self.address.max_prefixlen


@dataclass(frozen=True, slots=True)
class Requested:
    """request: not 0, and never used before. An address of nothing but zeros has no preference."""

    request: int
    address: IPInterface


@dataclass(frozen=True, slots=True)
class Route:
    """Addresses from start to end, both included, of one IP version; protocol: 0 for all."""

    start: IPAddress
    end: IPAddress
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class AddressAssign:
    addresses: tuple[Assigned, ...] = ()


@dataclass(frozen=True, slots=True)
class AddressRequest:
    addresses: tuple[Requested, ...]


@dataclass(frozen=True, slots=True)
class RouteAdvertisement:
    """Sorted by version, protocol and start; ranges of one version and protocol do not overlap (RFC 9484 §4.7.3)."""

    routes: tuple[Route, ...] = ()


def decode_assign(body: bytes) -> AddressAssign:
    """Raises PeerError."""
    return AddressAssign(tuple(Assigned(request, address) for request, address in _addresses(body)))


def decode_request(body: bytes) -> AddressRequest:
    """Raises PeerError, also for no address at all and for a Request ID of 0 or one that is there twice."""
    found = tuple(Requested(request, address) for request, address in _addresses(body))
    requests = {one.request for one in found}
    if not found or 0 in requests or len(requests) != len(found):
        raise _violation("ADDRESS_REQUEST without an address, or with a Request ID that cannot be")
    return AddressRequest(found)


def decode_routes(body: bytes) -> RouteAdvertisement:
    """Raises PeerError, also for ranges out of order or overlapping."""
    routes: list[Route] = []
    at = 0
    while at < len(body):
        size = _address_size(body[at])
        end = at + 1 + 2 * size
        if end >= len(body):
            raise _violation("ROUTE_ADVERTISEMENT cut short")
        routes.append(Route(ip_address(body[at + 1 : at + 1 + size]), ip_address(body[at + 1 + size : end]), body[end]))
        if len(routes) > MAX_ROUTES:
            raise _violation(f"ROUTE_ADVERTISEMENT of more than {MAX_ROUTES} ranges")
        at = end + 1
    if (problem := _disorder(routes)) is not None:
        raise _violation(f"ROUTE_ADVERTISEMENT with {problem}")
    return RouteAdvertisement(tuple(routes))


def encode_addresses(message: AddressAssign | AddressRequest) -> bytes:
    """A message's content. Raises LocalError for what must not be sent."""
    if len(message.addresses) > MAX_ADDRESSES:
        raise LocalError(f"more than {MAX_ADDRESSES} addresses")
    if isinstance(message, AddressRequest) and (
        not message.addresses or any(not one.request for one in message.addresses)
    ):
        raise LocalError("a request has at least one address, each with a Request ID of its own")
    body = b""
    for one in message.addresses:
        if one.address.ip != one.address.network.network_address:
            raise LocalError(f"{one.address} has bits behind its prefix")
        body += encode_varint(one.request) + bytes([one.address.version]) + one.address.ip.packed
        body += bytes([one.address.network.prefixlen])
    return body


def encode_routes(message: RouteAdvertisement) -> bytes:
    """A message's content. Raises LocalError for what must not be sent."""
    if len(message.routes) > MAX_ROUTES:
        raise LocalError(f"more than {MAX_ROUTES} ranges")
    if (problem := _disorder(list(message.routes))) is not None:
        raise LocalError(f"a list of routes with {problem}")
    return b"".join(
        bytes([route.start.version]) + route.start.packed + route.end.packed + bytes([route.protocol])
        for route in message.routes
    )


def _addresses(body: bytes) -> list[tuple[int, IPInterface]]:
    found: list[tuple[int, IPInterface]] = []
    at = 0
    while at < len(body):
        number = decode_varint(body, at)
        if number is None or number[1] >= len(body):
            raise _violation("a list of addresses cut short")
        request, at = number
        size = _address_size(body[at])
        end = at + 1 + size
        if end >= len(body):
            raise _violation("a list of addresses cut short")
        address, prefix = ip_address(body[at + 1 : end]), body[end]
        if prefix > address.max_prefixlen:
            raise _violation(f"a prefix of {prefix} bits")
        interface: IPInterface = (
            IPv4Interface((int(address), prefix)) if address.version == 4 else IPv6Interface((int(address), prefix))
        )
        if interface.ip != interface.network.network_address:
            raise _violation("an address with bits behind its prefix")
        found.append((request, interface))
        if len(found) > MAX_ADDRESSES:
            raise _violation(f"more than {MAX_ADDRESSES} addresses")
        at = end + 1
    return found


def _address_size(version: int) -> int:
    if version not in (4, 6):
        raise _violation(f"an address of IP version {version}")
    return 4 if version == 4 else 16


def _disorder(routes: list[Route]) -> str | None:
    for route in routes:
        if route.start.version != route.end.version or int(route.start) > int(route.end):
            return "a range that ends before it begins"
    for before, after in pairwise(routes):
        one, other = (before.start.version, before.protocol), (after.start.version, after.protocol)
        if one > other:
            return "ranges out of order"
        if one == other and int(before.end) >= int(after.start):
            return "ranges that overlap or are out of order"
    # What holds for all protocols of a version may not overlap what holds for one. Those for all are sorted by now.
    for version in (4, 6):
        everything = [route for route in routes if route.start.version == version and not route.protocol]
        starts = [int(route.start) for route in everything]
        for route in routes:
            if route.start.version == version and route.protocol:
                below = bisect_right(starts, int(route.end))
                if below and int(everything[below - 1].end) >= int(route.start):
                    return "ranges that overlap"
    return None


def _violation(message: str) -> PeerError:
    return PeerError(message, CloseCode.PROTOCOL_VIOLATION)
