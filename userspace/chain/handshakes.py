"""The client's side of SOCKS5 and HTTP CONNECT, with the upstream's answer taken for what it says.

Read first: RFC 1928, RFC 1929, RFC 9110 §9.3.6, RFC 9209. Sans-IO: ``data_to_send`` and ``receive_data`` until
``done``. Both ask for no byte beyond the answer (``wants``), so that the socket can be handed on as it is.

pproxy's client is not used for these two: it asserts on SOCKS replies without saying which it was, and does not look at
the status of an HTTP answer at all, so that every refusal would be reported as a success.
"""

from __future__ import annotations

import base64
import re
from ipaddress import IPv4Address

from ..egress.special import IPAddress
from ..quic.errors import PeerError
from ..tunnel.types import Cause, FlowFailed


class Socks5Handshake:
    """CONNECT to an address. user: empty for none. Both user and password have at most 255 bytes."""

    def __init__(self, address: IPAddress, port: int, user: str = "", password: str = "") -> None:
        self._address = address
        self._port = port
        self._user = user.encode()
        self._password = password.encode()
        methods = b"\x00\x02" if user else b"\x00"
        self._out = bytearray(b"\x05" + bytes((len(methods),)) + methods)
        self._buffer = bytearray()
        self._state = "method"
        self._needed = 2
        self.done = False

    @property
    def wants(self) -> int:
        """How many bytes may be read now without taking any of the tunnelled stream."""
        return self._needed - len(self._buffer)

    def data_to_send(self) -> bytes:
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        """At most ``wants`` bytes. Raises FlowFailed when the upstream refuses, PeerError when it speaks no SOCKS5."""
        self._buffer += data
        if len(self._buffer) < self._needed or self.done:
            return
        match self._state:
            case "method":
                self._method()
            case "login":
                self._login()
            case "reply":
                self._reply_head()
            case _:
                self.done = True

    def _method(self) -> None:
        version, method = self._take()
        if version != 5:
            raise PeerError("the upstream does not speak SOCKS5")
        if method == 0x02 and self._user:
            self._out += b"\x01" + _short(self._user) + _short(self._password)
            self._state, self._needed = "login", 2
        elif method == 0x00:
            self._request()
        else:
            raise FlowFailed(Cause.DENIED, "the upstream wants another way of logging in")

    def _login(self) -> None:
        _, status = self._take()
        if status != 0:
            raise FlowFailed(Cause.DENIED, "the upstream refuses the user name or the password")
        self._request()

    def _request(self) -> None:
        kind = b"\x01" if isinstance(self._address, IPv4Address) else b"\x04"
        self._out += b"\x05\x01\x00" + kind + self._address.packed + self._port.to_bytes(2, "big")
        # RFC 1928 §6: five bytes are enough to know how long the reply is.
        self._state, self._needed = "reply", 5

    def _reply_head(self) -> None:
        version, reply, _, kind, first = self._buffer[:5]
        if version != 5:
            raise PeerError("the upstream's reply is no SOCKS5 reply")
        if reply != 0:
            cause, text = SOCKS5_CAUSES.get(reply, (UPSTREAM_FAILED, f"reply {reply:#04x}"))
            raise FlowFailed(cause, f"the upstream says: {text}")
        lengths = {1: 10, 3: 7 + first, 4: 22}
        if kind not in lengths:
            raise PeerError("the upstream's reply has an unknown address type")
        self._state, self._needed = "rest", lengths[kind]
        self.receive_data(b"")

    def _take(self) -> tuple[int, int]:
        first, second = self._buffer[:2]
        self._buffer.clear()
        return first, second


class HttpConnectHandshake:
    """CONNECT to an address on HTTP/1.1. ``receive_data`` is given whole header blocks' bytes only, see
    ``find_end``."""

    def __init__(self, address: IPAddress, port: int, user: str = "", password: str = "") -> None:
        authority = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if user:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {token}")
        self._out = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self._buffer = bytearray()
        self.done = False

    def data_to_send(self) -> bytes:
        data, self._out = self._out, b""
        return data

    def consume(self, peeked: bytes) -> int:
        """How many of the bytes that wait to be read belong to the answer's header block."""
        # The end may stand across what was taken already and what is new.
        tail = bytes(self._buffer[-3:])
        end = (tail + peeked).find(b"\r\n\r\n")
        return len(peeked) if end < 0 else end + 4 - len(tail)

    def receive_data(self, data: bytes) -> None:
        """Bytes as ``consume`` allowed. Raises FlowFailed when the upstream refuses, PeerError when it is no HTTP."""
        self._buffer += data
        if len(self._buffer) > MAX_HEADER:
            raise PeerError("the upstream's answer has too long a header")
        if not self._buffer.endswith(b"\r\n\r\n"):
            return
        head = self._buffer.decode("latin-1")
        status = _STATUS.match(head)
        if status is None:
            raise PeerError("the upstream does not speak HTTP/1.1")
        code = int(status[1])
        if 100 <= code < 200:
            self._buffer.clear()  # RFC 9110 §15.2: any number of interim answers may come first
            return
        if 200 <= code < 300:
            self.done = True
            return
        raise FlowFailed(_http_cause(code, head), f"the upstream says: HTTP status {code}")


def _http_cause(code: int, head: str) -> Cause:
    """RFC 9209's error token tells most; without one the status alone."""
    token = _PROXY_ERROR.search(head)
    if token is not None and token[1].lower() in PROXY_STATUS_CAUSES:
        return PROXY_STATUS_CAUSES[token[1].lower()]
    return {
        401: Cause.DENIED,
        403: Cause.DENIED,
        405: Cause.DENIED,
        407: Cause.DENIED,
        429: Cause.LIMIT,
        503: Cause.HOST_UNREACHABLE,
        504: Cause.TIMED_OUT,
    }.get(code, UPSTREAM_FAILED)


def _short(data: bytes) -> bytes:
    return bytes((len(data),)) + data


UPSTREAM_FAILED = Cause.INTERNAL
"""The proxy behind us failed, and said nothing of the destination. Not NETWORK_FAILURE, which on bare ``qt`` is how a
refused connection looks, so that an application would be told that its destination has refused."""

SOCKS5_CAUSES = {
    0x01: (UPSTREAM_FAILED, "general failure"),
    0x02: (Cause.DENIED, "not allowed by its rules"),
    0x03: (Cause.NETWORK_UNREACHABLE, "network unreachable"),
    0x04: (Cause.HOST_UNREACHABLE, "host unreachable"),
    0x05: (Cause.REFUSED, "connection refused"),
    # TTL expired by the RFC, "timed out" by the custom of Tor, Dante and others; the latter is what happens.
    0x06: (Cause.TIMED_OUT, "TTL expired or timed out"),
    0x07: (UPSTREAM_FAILED, "command not supported"),
    0x08: (Cause.FAMILY_UNSUPPORTED, "address type not supported"),
}

PROXY_STATUS_CAUSES = {
    "connection_refused": Cause.REFUSED,
    "connection_timeout": Cause.TIMED_OUT,
    "connection_terminated": Cause.RESET,
    "connection_limit_reached": Cause.LIMIT,
    "destination_ip_unroutable": Cause.HOST_UNREACHABLE,
    "destination_unavailable": Cause.HOST_UNREACHABLE,
    "destination_not_found": Cause.HOST_UNREACHABLE,
    "destination_ip_prohibited": Cause.DENIED,
    "http_request_denied": Cause.DENIED,
    "proxy_loop_detected": Cause.LOOP,
    "dns_error": Cause.NAME_NOT_FOUND,
    "dns_timeout": Cause.NAME_TIMEOUT,
}
"""RFC 9209 §2.3."""

MAX_HEADER = 16 << 10
"""Bytes of the upstream's header block: what common servers send at most is 8 KiB."""

_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_PROXY_ERROR = re.compile(r"\r\nproxy-status:[^\r\n]*;\s*error=([a-z_]+)", re.IGNORECASE)
