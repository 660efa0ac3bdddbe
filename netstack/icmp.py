"""ICMP and ICMPv6 errors: made up from an errno where no real packet can be had, and read.

Read first: RFC 792, RFC 4443 §2.4 and §3, RFC 1812 §5.2.7. An unprivileged process is told why a TCP connect failed by
errno alone, never by the packet. ``icmp_error`` makes the message that would have led to it, quoting a SYN that could
have been the cause: addresses and ports are right, all other fields are invented. Pure functions over bytes.

A message starts at the ICMP header (type, code, checksum), without an IP header of its own. IPv4 or IPv6 can be told
from the quoted header.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from .checksum import internet_checksum, pseudo_header_sum

MAX_MESSAGE = 253
"""Bytes of a message made or read here: what fits a TLV of 255 bytes behind a 16-bit code."""

PROTOCOL_TCP = 6
PROTOCOL_ICMPV6 = 58


class Unreachable(enum.Enum):
    """What an error says, whichever the IP version: (ICMP type, code), (ICMPv6 type, code)."""

    NETWORK = ((3, 0), (1, 0))
    HOST = ((3, 1), (1, 3))
    PORT = ((3, 3), (1, 4))
    PROHIBITED = ((3, 13), (1, 1))
    HOP_LIMIT = ((11, 0), (3, 0))


class IcmpError(Exception):
    """Bytes that are no ICMP error quoting an IP packet."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """The packet that an error is about. Ports are None when the quotation ends before them or it is not TCP or UDP."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int | None
    destination_port: int | None


@dataclass(frozen=True, slots=True)
class Message:
    """An ICMP (version 4) or ICMPv6 (version 6) error. meaning: None for a type and code without a member."""

    version: int
    type: int
    code: int
    meaning: Unreachable | None
    quoted: Quoted


def unreachable_for_errno(number: int) -> Unreachable | None:
    """The error that Linux turns into this errno on connect (icmp_err_convert in its net/ipv4/icmp.c); None when the
    errno does not come from the network. ECONNREFUSED may also come from a RST: callers who can tell should."""
    return _ERRNOS.get(number)


def icmp_error(
    meaning: Unreachable,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    source_port: int,
    destination_port: int,
    reporter: IPv4Address | IPv6Address | None = None,
) -> bytes:
    """Make the message that meaning would have sent back to source for a SYN to destination.

    source and destination have the same version. Ports: 0 to 65535. reporter: who sends the message, which counts in
    ICMPv6's checksum; by default the destination. The result has 48 or 68 bytes. Raises ValueError for mixed versions.
    """
    if source.version != destination.version:
        raise ValueError("source and destination of different IP versions")
    segment = _syn(source.packed, destination.packed, source_port, destination_port)
    if source.version == 4:
        kind, code = meaning.value[0]
        quoted = _ipv4_header(source.packed, destination.packed, len(segment)) + segment
        message = bytes((kind, code, 0, 0, 0, 0, 0, 0)) + quoted
        start = 0
    else:
        kind, code = meaning.value[1]
        quoted = _ipv6_header(source.packed, destination.packed, len(segment)) + segment
        message = bytes((kind, code, 0, 0, 0, 0, 0, 0)) + quoted
        sender = reporter if reporter is not None and reporter.version == 6 else destination
        # RFC 4443 §2.3: the pseudo-header is that of the message's own packet, from the reporter to the source.
        start = pseudo_header_sum(sender.packed, source.packed, PROTOCOL_ICMPV6, len(message))
    return message[:2] + internet_checksum(message, start).to_bytes(2, "big") + message[4:]


def parse_error(data: bytes) -> Message:
    """Read a message, possibly cut short behind the quoted IP header. The checksum is not judged: a message cut short
    cannot be, and ICMPv6's needs addresses that are not in it. Raises IcmpError."""
    if len(data) < 9:
        raise IcmpError("too short for an ICMP error")
    kind, code = data[0], data[1]
    version = data[8] >> 4
    if version == 4:
        header = (data[8] & 15) * 4
        if header < 20 or len(data) < 8 + header:
            raise IcmpError("the quoted IPv4 header is cut short")
        if kind not in _ICMP_ERRORS:
            raise IcmpError(f"ICMP type {kind} is not an error")
        quoted = data[8:]
        protocol = quoted[9]
        source: IPv4Address | IPv6Address = IPv4Address(quoted[12:16])
        destination: IPv4Address | IPv6Address = IPv4Address(quoted[16:20])
    elif version == 6:
        header = 40
        if len(data) < 8 + header:
            raise IcmpError("the quoted IPv6 header is cut short")
        if kind >= 128:  # RFC 4443 §2.1: error messages have types below 128.
            raise IcmpError(f"ICMPv6 type {kind} is not an error")
        quoted = data[8:]
        # Extension headers are not walked: what is quoted here is a TCP or UDP packet without any.
        protocol = quoted[6]
        source, destination = IPv6Address(quoted[8:24]), IPv6Address(quoted[24:40])
    else:
        raise IcmpError("no IP packet is quoted")
    ports = quoted[header : header + 4]
    has_ports = len(ports) == 4 and protocol in (PROTOCOL_TCP, 17)
    return Message(
        version,
        kind,
        code,
        _meaning(version, kind, code),
        Quoted(
            source,
            destination,
            protocol,
            int.from_bytes(ports[:2], "big") if has_ports else None,
            int.from_bytes(ports[2:], "big") if has_ports else None,
        ),
    )


def _meaning(version: int, kind: int, code: int) -> Unreachable | None:
    if version == 4:
        return _ICMP_MEANINGS.get((kind, code))
    return _ICMPV6_MEANINGS.get((kind, code))


def _syn(source: bytes, destination: bytes, source_port: int, destination_port: int) -> bytes:
    """A TCP header without options: sequence number 0, SYN, the largest window (RFC 9293 §3.1)."""
    header = (
        source_port.to_bytes(2, "big")
        + destination_port.to_bytes(2, "big")
        + bytes(8)
        + bytes((5 << 4, 0x02, 0xFF, 0xFF, 0, 0, 0, 0))
    )
    start = pseudo_header_sum(source, destination, PROTOCOL_TCP, len(header))
    return header[:16] + internet_checksum(header, start).to_bytes(2, "big") + header[18:]


def _ipv4_header(source: bytes, destination: bytes, payload: int) -> bytes:
    """RFC 791 §3.1: no options, Don't Fragment, TTL 64."""
    header = (
        bytes((0x45, 0))
        + (20 + payload).to_bytes(2, "big")
        + bytes((0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0))
        + source
        + destination
    )
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]


def _ipv6_header(source: bytes, destination: bytes, payload: int) -> bytes:
    """RFC 8200 §3: hop limit 64."""
    return bytes((0x60, 0, 0, 0)) + payload.to_bytes(2, "big") + bytes((PROTOCOL_TCP, 64)) + source + destination


_ICMP_ERRORS = frozenset([3, 4, 5, 11, 12])

# How receivers group the codes (RFC 1122 §3.2.2.1 and §4.2.3.9; protocol unreachable counts as the host's refusal).
_ICMP_MEANINGS = {
    **dict.fromkeys([(3, 0), (3, 6), (3, 11)], Unreachable.NETWORK),
    **dict.fromkeys([(3, 1), (3, 5), (3, 7), (3, 8), (3, 12)], Unreachable.HOST),
    **dict.fromkeys([(3, 2), (3, 3)], Unreachable.PORT),
    **dict.fromkeys([(3, 9), (3, 10), (3, 13)], Unreachable.PROHIBITED),
    **dict.fromkeys([(11, 0), (11, 1)], Unreachable.HOP_LIMIT),
}
_ICMPV6_MEANINGS = {
    **dict.fromkeys([(1, 0), (1, 2)], Unreachable.NETWORK),
    (1, 3): Unreachable.HOST,
    (1, 4): Unreachable.PORT,
    **dict.fromkeys([(1, 1), (1, 5), (1, 6)], Unreachable.PROHIBITED),
    **dict.fromkeys([(3, 0), (3, 1)], Unreachable.HOP_LIMIT),
}
_ERRNOS = {
    errno.ENETUNREACH: Unreachable.NETWORK,
    errno.EHOSTUNREACH: Unreachable.HOST,
    errno.EHOSTDOWN: Unreachable.HOST,
    errno.ETIMEDOUT: Unreachable.HOST,
    errno.ECONNREFUSED: Unreachable.PORT,
    errno.EACCES: Unreachable.PROHIBITED,
    errno.EPERM: Unreachable.PROHIBITED,
}
