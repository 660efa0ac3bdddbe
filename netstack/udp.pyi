from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from .host import Flow, Host, Transport

Address = IPv4Address | IPv6Address

class UdpHandler(Protocol):
    def datagram_received(self, data: bytes, address: Address, port: int) -> None: ...
    def error_received(self, error: OSError) -> None:
        """What ICMP has said of datagrams sent (RFC 1122 §4.1.3.3)."""

@dataclass(frozen=True, slots=True)
class UdpLimits:
    """What sockets may hold."""

    sockets: int = ...
    received: int = ...
    received_packets: int = ...
    waiting: int = ...
    waiting_packets: int = ...

class UdpSocket(Flow):
    """What ``Udp.open`` gives. Its handler is called from ``Stack.tell`` only."""

    closed: bool
    sent: int
    active_at: float
    @property
    def dropped(self) -> int:
        """Datagrams received that the application was too slow for: the oldest go first."""
    @property
    def address(self) -> Address: ...
    @property
    def port(self) -> int: ...
    @property
    def peer(self) -> tuple[Address, int] | None:
        """What it is joined to: only from there, it receives."""
    def send_to(
        self,
        data: bytes | bytearray | memoryview,
        address: Address | str | None = None,
        port: int = 0,
        *,
        hops: int = 64,
        ecn: int = 0,
        keep: bool = False,
    ) -> bool:
        """Queue a datagram; the oldest goes when too many wait. hops: TTL, 1 to 255. ecn: codepoint. keep: Don't Fragment.

        False: it is larger than a datagram may be or, with keep, than what passes. Raises OSError: EBADF, EDESTADDRREQ,
        EINVAL, EISCONN, ENETUNREACH; ValueError for what is no address."""
    def close(self) -> None: ...

class Udp(Transport):
    """UDP of a stack: ``Stack.udp``. on_unknown: called for a datagram that no socket takes, with its source address and
    port and its destination's; false: Port Unreachable is the answer."""

    limits: UdpLimits
    on_unknown: Callable[[Address, int, Address, int], bool] | None
    def __init__(self, host: Host, limits: UdpLimits | None = None) -> None: ...
    def open(
        self,
        handler: UdpHandler,
        *,
        address: Address | str | None = None,
        port: int = 0,
        peer: tuple[Address | str, int] | None = None,
    ) -> UdpSocket:
        """address: one of the stack's; any when None. port: 0 for a free one. peer: the only one to talk to.
        Raises OSError: EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENETUNREACH, ENFILE."""
