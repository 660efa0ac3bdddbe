"""The server's side of SOCKS version 5, sans-IO: RFC 1928 with RFC 1929.

Give it what the client sends with ``receive_data``; take ``next_event`` until it is None; send ``data_to_send``. Once
a ``Command`` has come, answer with ``succeed`` or ``fail`` and take ``remainder``: bytes that the client sent behind
its request, which belong to the destination. The codec must not touch sockets, nor decide where a flow may go.

BIND and UDP ASSOCIATE are read in full and reported like CONNECT, so that they can be served; today the listener
answers them with ``unsupported``.
"""

from __future__ import annotations

import enum
import ipaddress
from functools import lru_cache
from typing import Final, NamedTuple

from .credentials import Credentials
from .errors import AccessDenied, PeerError
from .hosts import parse_host
from .replies import REPLIES
from .types import Bound, Failure

VERSION: Final = 5
AUTH_VERSION: Final = 1
"""RFC 1929 §2: the subnegotiation has its own version, 1, not 5."""

NO_AUTHENTICATION: Final = 0x00
USERNAME_PASSWORD: Final = 0x02
NO_ACCEPTABLE_METHODS: Final = 0xFF

SUCCEEDED: Final = 0x00
GENERAL_FAILURE: Final = 0x01
COMMAND_NOT_SUPPORTED: Final = 0x07
ADDRESS_TYPE_NOT_SUPPORTED: Final = 0x08

ATYP_IPV4: Final = 1
ATYP_DOMAIN: Final = 3
ATYP_IPV6: Final = 4

MAX_NEGOTIATION: Final = 257 + 513 + 262
"""Bytes that a client can need until its request is complete: the largest greeting, RFC 1929 message and request."""


class Verb(enum.Enum):
    """RFC 1928 §4: CMD."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3


_VERBS = {verb.value: verb for verb in Verb}


class Command(NamedTuple):
    """A complete request. host: a name or an IP literal without brackets. port: 1 to 65535 for CONNECT, else from 0.
    user: the name given with RFC 1929, None without."""

    verb: Verb
    host: str
    port: int
    user: str | None


class _State(enum.Enum):
    GREETING = enum.auto()
    AUTHENTICATION = enum.auto()
    REQUEST = enum.auto()
    DONE = enum.auto()


class Socks5Server:
    """One client's negotiation. credentials: None lets everybody in."""

    __slots__ = ("_credentials", "_ipv6", "_received", "_state", "_to_send", "_user")

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials
        self._state = _State.GREETING
        self._received = b""
        self._to_send = b""
        self._user: str | None = None
        self._ipv6 = False

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent. Then poll ``next_event`` and ``data_to_send``."""
        self._received = self._received + data if self._received else data

    def next_event(self) -> Command | None:
        """The request, once; None while more bytes are needed.

        Raises PeerError, whose reply is to be sent after ``data_to_send``; then the connection is to be closed.
        """
        if self._state is _State.GREETING and not self._greeting():
            return None
        if self._state is _State.AUTHENTICATION and not self._authentication():
            return None
        if self._state is _State.REQUEST:
            return self._request()
        return None

    def data_to_send(self) -> bytes:
        """Answers of the negotiation so far, once."""
        data, self._to_send = self._to_send, b""
        return data

    @property
    def remainder(self) -> bytes:
        """What came behind the request. RFC 1928 has no framing after it: these are the destination's bytes."""
        return self._received if self._state is _State.DONE else b""

    def succeed(self, bound: Bound) -> bytes:
        """The reply after which bytes flow."""
        return encode_reply(SUCCEEDED, bound, ipv6=self._ipv6)

    def fail(self, failure: Failure) -> bytes:
        """The reply after which the connection must be closed within ten seconds (RFC 1928 §6)."""
        return encode_reply(REPLIES[failure].rep, ipv6=self._ipv6)

    def unsupported(self) -> bytes:
        """The reply to a command that is not served."""
        return encode_reply(COMMAND_NOT_SUPPORTED, ipv6=self._ipv6)

    def _greeting(self) -> bool:
        data = self._received
        if data and data[0] != VERSION:
            raise PeerError(f"version {data[0]} in the SOCKS greeting, expected 5")
        if len(data) < 2 or len(data) < 2 + data[1]:
            return False
        offered = data[2 : 2 + data[1]]
        self._received = data[2 + len(offered) :]
        method = self._choose(offered)
        if method == NO_ACCEPTABLE_METHODS:
            wanted = "a user name and password" if self._credentials else "no authentication"
            raise AccessDenied(f"the client offers no method that is served here ({wanted})", reply=b"\x05\xff")
        self._to_send += bytes((VERSION, method))
        self._state = _State.AUTHENTICATION if method == USERNAME_PASSWORD else _State.REQUEST
        return True

    def _choose(self, offered: bytes) -> int:
        # RFC 1928 §3: one of those offered. No-auth is never chosen where a password is wanted.
        if self._credentials is None and NO_AUTHENTICATION in offered:
            return NO_AUTHENTICATION
        # Without a password configured, a client that insists on giving one is let in with any (Tor does this too).
        if USERNAME_PASSWORD in offered:
            return USERNAME_PASSWORD
        return NO_ACCEPTABLE_METHODS

    def _authentication(self) -> bool:
        # RFC 1929 §2: VER ULEN UNAME PLEN PASSWD
        data = self._received
        if data and data[0] != AUTH_VERSION:
            raise PeerError(f"version {data[0]} in the password message, expected 1", reply=b"\x01\x01")
        if len(data) < 2 or len(data) < 3 + data[1]:
            return False
        name = data[2 : 2 + data[1]]
        end = 3 + len(name) + data[2 + len(name)]
        if len(data) < end:
            return False
        password = data[3 + len(name) : end]
        self._received = data[end:]
        if self._credentials is not None and not self._credentials.check(name, password):
            raise AccessDenied("wrong user name or password", reply=b"\x01\x01")
        self._to_send += b"\x01\x00"
        self._user = name.decode("utf-8", "replace")
        self._state = _State.REQUEST
        return True

    def _request(self) -> Command | None:
        # RFC 1928 §4: VER CMD RSV ATYP DST.ADDR DST.PORT. RSV is not looked at: nothing depends on it.
        data = self._received
        if data and data[0] != VERSION:
            raise PeerError(f"version {data[0]} in the SOCKS request, expected 5", reply=encode_reply(GENERAL_FAILURE))
        if len(data) < 4:
            return None
        address_type = data[3]
        if address_type == ATYP_IPV4:
            start, size = 4, 4
        elif address_type == ATYP_IPV6:
            start, size = 4, 16
        elif address_type == ATYP_DOMAIN:
            if len(data) < 5:
                return None
            start, size = 5, data[4]
        else:
            # The port cannot be found behind an address of unknown length, so the answer does not wait for it.
            reply = encode_reply(ADDRESS_TYPE_NOT_SUPPORTED)
            raise PeerError(f"unknown address type {address_type} in the SOCKS request", reply=reply)
        if len(data) < start + size + 2:
            return None
        command = data[1]
        end = start + size
        raw = data[start:end]
        port = data[end] << 8 | data[end + 1]
        self._received = data[end + 2 :]
        self._ipv6 = address_type == ATYP_IPV6
        self._state = _State.DONE
        verb = _VERBS.get(command)
        if verb is None:
            raise PeerError(f"unknown SOCKS command {command}", reply=self.unsupported())
        if address_type == ATYP_DOMAIN:
            try:
                host = parse_host(raw)
            except ValueError as error:
                raise PeerError(f"bad SOCKS request: {error}", reply=self._general_failure()) from None
        else:
            host = _text_of(raw)
        if port == 0 and verb is Verb.CONNECT:
            raise PeerError("bad SOCKS request: port 0 cannot be connected to", reply=self._general_failure())
        return Command(verb, host, port, self._user)

    def _general_failure(self) -> bytes:
        return encode_reply(GENERAL_FAILURE, ipv6=self._ipv6)


def encode_reply(rep: int, bound: Bound | None = None, *, ipv6: bool = False) -> bytes:
    """RFC 1928 §6, always complete: 05 REP 00 ATYP BND.ADDR BND.PORT.

    An address that is not known is zeros, of IPv6 when the request was. ATYP 3 is never used: many clients read ten
    bytes and no more.
    """
    packed = _packed(bound.host) if bound is not None else b""
    port = bound.port if bound is not None and packed else 0
    packed = packed or bytes(16 if ipv6 else 4)
    return b"\x05%c\0%c%b%c%c" % (rep, ATYP_IPV6 if len(packed) == 16 else ATYP_IPV4, packed, port >> 8, port & 0xFF)


@lru_cache(1024)
def _text_of(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


@lru_cache(1024)
def _packed(host: str) -> bytes:
    """b"" for what is no address, or an unspecified one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return b""
    return b"" if address.is_unspecified else address.packed
