"""Which addresses are this host's own, so that the exit is not a way around its own firewall.

Read first: rtnetlink(7), RFC 3549. Linux is asked over netlink: the addresses of all interfaces, and the table "local",
which also has whole networks that are delivered here without being on an interface, and the broadcast addresses of
every network. Where netlink is not to be had (another system, a sandbox without AF_NETLINK) /proc and then the portable
ways are tried, which may miss addresses. It sends nothing to any other host and keeps no state but the last answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from .special import IPAddress, IPNetwork


class OwnAddresses:
    """The host's networks, asked for again when the last answer is older than max_age seconds.

    read: returns the networks; replaced in tests.
    """

    def __init__(self, read: Callable[[], tuple[IPNetwork, ...]] | None = None, max_age: float = 1.0) -> None:
        # One second: an address that is new on the host is protected as soon as that, and a busy exit asks once a
        # second (about 0.1 ms) and not for each of its flows.
        self._read = read or read_own_networks
        self._max_age = max_age
        self._networks: tuple[IPNetwork, ...] = ()
        self._expires: float | None = None

    def current(self, now: float) -> tuple[IPNetwork, ...]:
        """The host's own networks as of now. Raises nothing: when they cannot be read, the last answer stays."""
        if self._expires is None or now >= self._expires:
            networks = self._read()
            # The same answer stays the same object, which is quick to compare.
            if (networks or self._expires is None) and networks != self._networks:
                self._networks = networks
            self._expires = now + self._max_age
        return self._networks


def read_own_networks() -> tuple[IPNetwork, ...]:
    """Ask the system, by the best way that it offers. Raises nothing; empty when no way works."""
    for way in (_by_netlink, _by_proc, _by_socket):
        with contextlib.suppress(OSError, ValueError, struct.error, AttributeError):
            found = way()
            if found:
                return tuple(dict.fromkeys(found))
    return ()


def _by_netlink() -> list[IPNetwork]:
    found = list(_dump(_RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0), _address_networks))
    # The table is a refinement: some sandboxes answer for addresses only.
    with contextlib.suppress(OSError):
        found += _dump(_RTM_GETROUTE, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0), _route_networks)
    return found


def _dump(kind: int, body: bytes, parse: Callable[[int, bytes], Iterator[IPNetwork]]) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        # The kernel answers at once or not at all; this bounds a stall of the event loop.
        sock.settimeout(0.5)
        sock.bind((0, 0))
        sock.sendto(struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST_DUMP, 1, 0) + body, (0, 0))
        for _ in range(_MAX_REPLIES):
            data, (sender, _groups) = sock.recvfrom(1 << 16)
            if sender != 0:  # Only the kernel is believed (netlink(7)).
                continue
            offset = 0
            while offset + 16 <= len(data):
                size, message = struct.unpack_from("=IH", data, offset)
                if message == _NLMSG_DONE or size < 16:
                    return found
                if message == _NLMSG_ERROR:
                    raise OSError("netlink refused")
                found += parse(message, data[offset + 16 : offset + size])
                offset += size + 3 & ~3
    raise OSError("netlink answered without an end")


def _address_networks(message: int, body: bytes) -> Iterator[IPNetwork]:
    if message != _RTM_NEWADDR or len(body) < 8:
        return
    family = body[0]
    for kind, value in _attributes(body[8:]):
        # On a point-to-point interface IFA_ADDRESS is the far end and IFA_LOCAL ours; elsewhere they are the same, and
        # IPv6 has only IFA_ADDRESS.
        if kind in (_IFA_LOCAL, _IFA_BROADCAST) or (kind == _IFA_ADDRESS and family == socket.AF_INET6):
            yield _network(value, len(value) * 8)


def _route_networks(message: int, body: bytes) -> Iterator[IPNetwork]:
    if message != _RTM_NEWROUTE or len(body) < 12:
        return
    prefix, table, kind = body[1], body[4], body[7]
    if kind not in (_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST) or table != _RT_TABLE_LOCAL:
        return
    for attribute, value in _attributes(body[12:]):
        if attribute == _RTA_DST:
            yield _network(value, prefix)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, offset)
        if size < 4:
            return
        yield kind, data[offset + 4 : offset + size]
        offset += size + 3 & ~3


def _by_proc(root: Path = Path("/proc/net")) -> list[IPNetwork]:
    """fib_trie marks a local address with "/32 host LOCAL" in the line below it; if_inet6 has one address a line."""
    found: list[IPNetwork] = []
    leaf = ""
    with contextlib.suppress(OSError):
        for line in (root / "fib_trie").read_text("ascii", "replace").splitlines():
            words = line.split()
            if words[:1] == ["|--"]:
                leaf = words[1]
            elif leaf and len(words) >= 2 and words[0].startswith("/") and words[-1] in ("LOCAL", "BROADCAST"):
                found.append(IPv4Network(f"{leaf}{words[0]}"))
    with contextlib.suppress(OSError):
        lines = (root / "if_inet6").read_text("ascii", "replace").splitlines()
        found += [_network(bytes.fromhex(line.split()[0]), 128) for line in lines]
    return found


def _by_socket() -> list[IPNetwork]:
    """The addresses that this host would send from. Connecting a datagram socket sends
    nothing: it looks up a route. The destinations are documentation addresses (RFC 5737, RFC 3849)."""
    found: list[IPAddress] = []
    for family, destination in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((destination, 9))
            found.append(ip_address(sock.getsockname()[0].partition("%")[0]))
    return [_network(address.packed, address.max_prefixlen) for address in found]


def _network(packed: bytes, prefix: int) -> IPNetwork:
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    bits = address.max_prefixlen - prefix
    start = int(address) >> bits << bits
    return IPv4Network((start, prefix)) if isinstance(address, IPv4Address) else IPv6Network((start, prefix))


# linux/netlink.h and linux/rtnetlink.h
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST = 1
_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST = 2, 3, 4
_RT_TABLE_LOCAL = 255

_MAX_REPLIES = 1024
"""Datagrams of one dump: 32 MiB, more than any table "local" has, and an end to a loop."""
