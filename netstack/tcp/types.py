"""What applications see of TCP: options, how a connection ends, and what connections call back.

Names and meanings are those of the transport's streams, so that whoever relays can treat both alike. All calls happen on
one thread. Callbacks are made from ``Stack.tell``, never from inside the call or the packet that caused them, with one
exception, as in asyncio: ``pause_writing`` may be called from ``write``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

IPAddress = IPv4Address | IPv6Address


class TcpError(Exception):
    """Our caller used an interface wrongly or asked for what is not to be had; nothing was sent."""


class End(enum.Enum):
    """Who ended a connection, and why."""

    LOCALLY_RESET = "reset by us"
    RESET = "reset by the peer"
    REFUSED = "refused by the peer"
    UNREACHABLE = "the network refuses to carry packets to the peer"
    TIMED_OUT = "no answer from the peer"
    STACK_CLOSED = "the stack was closed"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended other than by both ends having finished.

    kind, code: of the ICMP or ICMPv6 error that ended it or, for TIMED_OUT, that came last and may be why (RFC 9293
    SHLD-25); None: there was none.
    """

    end: End
    kind: int | None = None
    code: int | None = None

    def __str__(self) -> str:
        detail = "" if self.kind is None else f" (ICMP type {self.kind}, code {self.code})"
        return f"{self.end.value}{detail}"


class Handler(Protocol):
    """What a connection calls. After ``connection_lost``, and after both ``eof_received`` and ``send_completed``, nothing
    more is called."""

    def connected(self) -> None:
        """The handshake is complete."""

    def data_received(self, data: bytes) -> None:
        """In-order octets; never empty. Return their credit later with ``Connection.consumed``."""

    def eof_received(self) -> None:
        """The peer's FIN, after all its data."""

    def reset_received(self, code: int) -> None:
        """The peer's RST: undelivered data is gone. ``connection_lost`` follows. code is 0: TCP has none."""

    def pause_writing(self) -> None:
        """More than the high-water mark is buffered: stop calling ``write``."""

    def resume_writing(self) -> None:
        """The buffer has drained below the low-water mark."""

    def send_completed(self) -> None:
        """Our FIN and all data have been acknowledged."""

    def connection_lost(self, ended: Ended) -> None:
        """The connection is over before both ends have finished. A reset of our own is told, too."""


@dataclass(frozen=True, slots=True)
class Options:
    """How TCP behaves, what it may hold and how long it waits. The reason for each value stands beside it."""

    congestion: str = "cubic"
    """Congestion controller: "cubic" (RFC 9438), "reno" (RFC 5681) or "bbr" (BBRv3)."""
    nagle: bool = True
    """Whether small segments wait for what is in flight (RFC 9293 SHLD-7); each connection can switch it off (MUST-17)."""
    timestamps: bool = True
    """RFC 7323: PAWS, and round trips of what was sent twice. 12 octets a segment."""
    window_scaling: bool = True
    """RFC 7323 §2: without it no window is larger than 64 KiB."""
    sack: bool = True
    """RFC 2018; without it there is neither RACK nor TLP."""
    ecn: bool = False
    """Ask for ECN (RFC 3168), and take it from peers that do. Off: there are paths that drop what is marked."""
    initial_receive_window: int = 256 << 10
    """Octets that one connection may have unconsumed at first: what a stalled one costs, and 2 MB/s at 100 ms."""
    receive_window: int = 16 << 20
    """What that grows to for a connection whose octets are consumed as fast as they come: 1 Gbit/s at 100 ms."""
    receive_memory: int = 64 << 20
    """The same for all connections together. None grows beyond a quarter of what is left of it, so that stalled ones cannot
    take it all from those that move."""
    send_window: int = 16 << 20
    """Octets in flight on one connection, at most: they are kept until acknowledged."""
    send_high_water: int = 256 << 10
    """``pause_writing`` above this many unsent octets; ``resume_writing`` at a quarter of it."""
    send_memory: int = 64 << 20
    """Octets written and not acknowledged, of all connections together: above half of it each is paused earlier, at 16 KiB in
    the end."""
    connections: int = 65536
    """Connections at once, half-open ones among them: 3 to 5 KiB each while idle."""
    half_open: int = 4096
    """Connections whose handshake a peer has begun, at once and of all listeners (RFC 4987): two seconds' worth of a
    thousand a second and a retransmission. Beyond it there are cookies."""
    syn_cookies: bool = True
    """Answer SYNs for which there is no room with cookies (RFC 4987 §3.6) instead of not at all."""
    attempts: int = 4096
    """SYNs that wait for the application's word, at once (``Tcp.on_attempt``)."""
    attempt_timeout: float = 60.0
    """Seconds that they wait: what peers try for, mostly."""
    time_waits: int = 65536
    """Connections in TIME-WAIT at once: 20 MB. The oldest goes first (RFC 9293 §3.6.1 would keep them all)."""
    time_wait: float = 60.0
    """Seconds in TIME-WAIT, 2 MSL (MUST-13): what Linux takes, for an MSL of 30 s. RFC 9293's 4 minutes cost ports."""
    fin_wait_2: float = 60.0
    """Seconds that a connection nobody reads from any more waits for the peer's FIN, as on Linux."""
    connect_timeout: float = 180.0
    """Seconds until a connection attempt is given up: R2 of a SYN, at least 3 minutes (RFC 9293 MUST-23). An application
    that is less patient resets it sooner."""
    user_timeout: float = 924.6
    """Seconds that data may go unacknowledged: R2 (MUST-20), 100 s or more (SHLD-11). What Linux comes to; each connection
    can have its own (MUST-21)."""
    accept_timeout: float = 60.0
    """Seconds that a handshake which a peer has begun may take: six SYN-ACKs, as on Linux."""
    initial_rto: float = 1.0
    """Seconds (RFC 6298 §2.1)."""
    minimum_rto: float = 0.2
    """Seconds on top of the smoothed round trip. RFC 6298 has 1 s; Linux and others have this, for a clock of milliseconds."""
    maximum_rto: float = 120.0
    """Seconds, 60 or more (RFC 6298 §2.5)."""
    delayed_ack: float = 0.04
    """Seconds that an acknowledgement may wait for company, below 0.5 (MUST-40)."""
    keepalive: float = 0.0
    """Seconds of silence until a keep-alive is sent; 0: never, the default (MUST-25). 7200 or more where switched on for all
    (MUST-28)."""
    keepalive_interval: float = 75.0
    """Seconds between keep-alives that are not answered."""
    keepalive_probes: int = 9
    """How many of them, until the connection is given up (MUST-26: not one)."""
    slow_start_after_idle: bool = True
    """Begin with the initial window again after an idle time of one RTO (RFC 5681 §4.1)."""
    mtu_probing: bool = True
    """Find the path's MTU without ICMP (RFC 4821, RFC 8899): fall back when large segments vanish, and search upwards then."""
    first_port: int = 32768
    last_port: int = 60999
    """Local ports of connections that do not ask for one: Linux' range, away from well-known ones (RFC 6056 §3.2 allows all
    from 1024)."""
