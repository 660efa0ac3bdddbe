"""What a listener is told: where to listen, who may use it, and its limits, each with its reason.

Everything is checked here, before a socket is made, and what is wrong is said in one line that a person can act on.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from .credentials import Credentials
from .errors import LocalError
from .hosts import format_authority

PROTOCOLS: Final = frozenset({"socks5", "socks4", "http"})


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """Raises LocalError when the values cannot be served.

    addresses: (host, port) of TCP listeners; port 0 lets the kernel choose; a name is resolved, all its addresses are
    listened on. unix_paths: files for unix sockets, made with mode 0600. At least one of both.
    credentials: who may enter, None for everybody. allow_open: permit TCP addresses off loopback without credentials.
    protocols: which of socks5, socks4 and http are served.
    via: the pseudonym for Via fields, None for no Via. RFC 9110 §7.6.3 wants one; the default is none, because this
    proxy stands for its one user's own program, which the field would make recognisable, and because servers send
    uncompressed pages to requests that have it (nginx's gzip_proxied is off by default).
    All times are in seconds.
    """

    addresses: tuple[tuple[str, int], ...] = ()
    unix_paths: tuple[str, ...] = ()
    credentials: Credentials | None = field(default=None)
    allow_open: bool = False
    protocols: frozenset[str] = PROTOCOLS
    via: str | None = None

    handshake_timeout: float = 30.0
    """From accept to a complete request, in all, however the bytes trickle in. Dante's timeout.negotiate is 30."""

    connect_timeout: float = 180.0
    """For the exit to open a flow: beyond the two minutes and a bit that Linux tries a TCP connect (tcp_syn_retries),
    so that the exit's own, more telling timeout comes first."""

    idle_timeout: float = 75.0
    """Between two HTTP requests of one connection: nginx's keepalive_timeout."""

    linger_timeout: float = 5.0
    """For a client to read our last words before its connection is closed. RFC 1928 §6 allows ten seconds in all."""

    max_head: int = 64 << 10
    """Bytes of an HTTP head, and of trailers: Squid's request_header_max_size. With 2,048 connections 128 MiB."""

    max_connections: int = 2048
    """In total: a browser uses up to 256; HAProxy's former default is 2,000. Each is one descriptor here."""

    max_connections_per_address: int | None = None
    """Of one IPv4 address or one IPv6 /64. None: 512 off loopback, so that one machine of four or more cannot take
    all, and no limit but the total on loopback and unix sockets, where every program has the same address."""

    def __post_init__(self) -> None:
        if not self.addresses and not self.unix_paths:
            raise LocalError("no address to listen on; give at least one HOST:PORT or the path of a unix socket")
        for _host, port in self.addresses:
            if not 0 <= port <= 65535:
                raise LocalError(f"cannot listen on port {port}: a port is a number from 0 to 65535")
        unknown = sorted(self.protocols - PROTOCOLS)
        if unknown or not self.protocols:
            what = f"unknown protocol {unknown[0]}" if unknown else "no protocol"
            raise LocalError(f"{what} for a listener; choose from {', '.join(sorted(PROTOCOLS))}")
        if self.credentials is not None and self.protocols == {"socks4"}:
            raise LocalError("SOCKS4 has no passwords; serve socks5 or http as well, or take the password away")
        times = (self.handshake_timeout, self.connect_timeout, self.idle_timeout, self.linger_timeout)
        if min(times) <= 0:
            raise LocalError("a listener's timeouts must be greater than zero")
        if self.linger_timeout > 10:
            raise LocalError("linger_timeout is over 10 seconds, the most RFC 1928 allows; choose less")
        per_address = self.max_connections_per_address
        if self.max_head < 1024 or self.max_connections < 1 or (per_address is not None and per_address < 1):
            raise LocalError("a listener's limits are too small: 1,024 bytes for max_head, 1 for connections")
        if self.via is not None and not (self.via.isascii() and self.via.replace("-", "").isalnum()):
            raise LocalError("the name for Via must be letters, digits and hyphens")

    def per_address(self, host: str) -> int:
        """The limit for one client address."""
        if self.max_connections_per_address is not None:
            return self.max_connections_per_address
        return self.max_connections if is_loopback(host) else min(512, self.max_connections)

    def check_open(self, host: str, port: int) -> None:
        """host: a resolved address. Raises LocalError when listening there would serve strangers."""
        if self.credentials is None and not self.allow_open and not is_loopback(host):
            where = format_authority(host, port)
            raise LocalError(
                f"will not listen on {where} without a password: anybody who reaches it could use it; "
                "set a user and password, listen on 127.0.0.1, or pass --allow-open"
            )


@lru_cache(1024)
def is_loopback(host: str) -> bool:
    """host: an IP literal, possibly with a zone."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


@lru_cache(1024)
def address_key(host: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 /64, which one machine usually has for itself."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address) + "/64"
    return host
