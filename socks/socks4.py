"""The server's side of SOCKS4 and SOCKS4a, sans-IO.

Read Ying-Da Lee's notes "SOCKS: A protocol for TCP proxy across firewalls" and "SOCKS 4A". Use is as for
``socks5.Socks5Server``: ``receive_data``, ``next_event``, then ``succeed`` or ``fail``, and ``remainder``. SOCKS4 knows
a user's name but no password, so a listener with a password does not serve it.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from typing import Final

from .errors import PeerError
from .hosts import parse_host
from .replies import REPLIES
from .types import Bound, Failure

VERSION: Final = 4
GRANTED: Final = 0x5A
REJECTED: Final = 0x5B

MAX_FIELD: Final = 255
"""Bytes of the user id, and of the name: the note gives no limit, RFC 1928 and RFC 1929 have this one."""

MAX_NEGOTIATION: Final = 8 + 2 * (MAX_FIELD + 1)
"""Bytes that a client can need until its request is complete."""


class Verb(enum.Enum):
    """CD of a request."""

    CONNECT = 1
    BIND = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A complete request. host: a name (4a) or an IPv4 literal. port: 1 to 65535 for CONNECT. user: may be empty."""

    verb: Verb
    host: str
    port: int
    user: str


class Socks4Server:
    """One client's request."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._done = False

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent. Then poll ``next_event``."""
        self._received += data

    def next_event(self) -> Command | None:
        """The request, once; None while more bytes are needed. Raises PeerError with the reply to send."""
        if self._done:
            return None
        data = self._received
        if data and data[0] != VERSION:
            raise PeerError(f"version {data[0]} in the SOCKS4 request, expected 4")
        if len(data) < 8:
            return None
        address = bytes(data[4:8])
        user, end = self._field(8, "user id")
        if user is None:
            return None
        # SOCKS 4A: an address 0.0.0.x with x not 0, which no destination has, announces a name.
        name: bytes | None = None
        if address[:3] == b"\0\0\0" and address[3] != 0:
            name, end = self._field(end, "host name")
            if name is None:
                return None
        command, port = data[1], int.from_bytes(data[2:4], "big")
        del data[:end]
        self._done = True
        try:
            verb = Verb(command)
        except ValueError:
            raise PeerError(f"unknown SOCKS4 command {command}", reply=encode_reply(REJECTED)) from None
        try:
            host = str(ipaddress.IPv4Address(address)) if name is None else parse_host(name)
        except ValueError as error:
            raise PeerError(f"bad SOCKS4 request: {error}", reply=encode_reply(REJECTED)) from None
        if verb is Verb.CONNECT and (port == 0 or host == "0.0.0.0"):
            raise PeerError("bad SOCKS4 request: no destination", reply=encode_reply(REJECTED))
        return Command(verb, host, port, user.decode("utf-8", "replace"))

    @property
    def remainder(self) -> bytes:
        """What came behind the request: the destination's bytes."""
        return bytes(self._received) if self._done else b""

    def succeed(self, bound: Bound) -> bytes:
        """The reply after which bytes flow."""
        return encode_reply(GRANTED, bound)

    def fail(self, failure: Failure) -> bytes:
        """The reply after which the connection is closed."""
        return encode_reply(REPLIES[failure].cd)

    def unsupported(self) -> bytes:
        """The reply to a command that is not served."""
        return encode_reply(REJECTED)

    def _field(self, start: int, what: str) -> tuple[bytes | None, int]:
        end = self._received.find(b"\0", start, start + MAX_FIELD + 1)
        if end >= 0:
            return bytes(self._received[start:end]), end + 1
        if len(self._received) > start + MAX_FIELD:
            raise PeerError(f"the SOCKS4 {what} is longer than {MAX_FIELD} bytes", reply=encode_reply(REJECTED))
        return None, start


def encode_reply(code: int, bound: Bound | None = None) -> bytes:
    """00 CD DSTPORT DSTIP, with zeros where the address is not known or is not IPv4, which the format cannot say."""
    address, port = ipaddress.IPv4Address(0), 0
    if bound is not None:
        try:
            address, port = ipaddress.IPv4Address(bound.host), bound.port
        except ValueError:
            pass  # IPv6, or nothing we know
        if address.is_unspecified:
            port = 0
    return bytes((0, code)) + port.to_bytes(2, "big") + address.packed
