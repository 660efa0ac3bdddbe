"""IP addresses as the draft's TLVs carry them: always 16 octets, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).

It decides only what the protocol itself forbids in a Connect TLV. What may be dialled is the concentrator's policy,
which looks at the address that is really dialled; nothing here replaces it.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from ..quic.errors import LocalError

ADDRESS_SIZE = 16
REMEMBERED = 1024
"""Answers that each function here remembers: programs ask for the same few addresses again and again."""

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(REMEMBERED)
def parse_literal(host: str) -> IPAddress | None:
    """The address that host spells, or None when it is not an IP literal. Four decimal parts or RFC 4291 text only:
    forms such as ``127.1`` or ``0x7f000001`` are names here. IPv4-mapped IPv6 becomes IPv4.

    Raises LocalError for a literal with a zone: a zone means nothing at the far end.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise LocalError(f"{host} has a zone, which means nothing at the far end: leave it out")
        return address.ipv4_mapped or address
    return address


def pack_address(address: IPAddress) -> bytes:
    """16 octets."""
    if isinstance(address, ipaddress.IPv4Address):
        return _MAPPED_PREFIX + address.packed
    return address.packed


@lru_cache(REMEMBERED)
def unpack_address(octets: bytes) -> IPAddress:
    """The address in 16 octets; IPv4-mapped IPv6 becomes IPv4."""
    address = ipaddress.IPv6Address(octets)
    return address.ipv4_mapped or address


@lru_cache(REMEMBERED)
def forbidden(address: IPAddress, *, loopback: bool) -> str:
    """Why address must not stand in a Connect TLV, or "".

    loopback: whether the host's loopback is forbidden as well, as the draft has it; on ``quicsocks/1`` the
    concentrator's policy decides about it.
    """
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address == _BROADCAST:
        return "the broadcast address"
    if loopback and address.is_loopback:
        return "a loopback address"
    return ""
