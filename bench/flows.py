"""Opening one flow to the origin, directly or through a SOCKS5 proxy, with blocking sockets.

Read RFC 1928. The client waits for every answer before it goes on, as curl, browsers and OpenSSH's nc do; nothing is
sent ahead. It must not know what kind of proxy it speaks to.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

TIMEOUT = 15.0  # for each step; longer than the 10 s after which proxies themselves give up


class FlowError(Exception):
    """The proxy or the origin did not do what was asked; the text says what came instead."""


@dataclass(frozen=True, slots=True)
class Via:
    """How to get to the origin. kind: "direct", "socks5", or "http" for plain HTTP requests in absolute form.
    address: the proxy's; not used for direct."""

    kind: str
    address: tuple[str, int] = ("", 0)


def connect(via: Via, target: tuple[str, int], timeout: float = TIMEOUT) -> socket.socket:
    """A connected blocking socket whose other end is target, an IP address and a port. Raises FlowError, OSError."""
    sock = socket.create_connection(target if via.kind == "direct" else via.address, timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if via.kind == "socks5":
            sock.sendall(b"\x05\x01\x00")
            if (answer := receive_exactly(sock, 2)) != b"\x05\x00":
                raise FlowError(f"SOCKS5 greeting answered with {answer.hex()}")
            sock.sendall(socks_request(target))
            receive_reply(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def socks_request(target: tuple[str, int]) -> bytes:
    """RFC 1928 section 4: CONNECT to an IP address."""
    address = ipaddress.ip_address(target[0])
    kind = b"\x01" if address.version == 4 else b"\x04"
    return b"\x05\x01\x00" + kind + address.packed + struct.pack("!H", target[1])


def receive_reply(sock: socket.socket) -> None:
    """RFC 1928 section 6: take the reply, whatever the kind of its address. Raises FlowError unless it is success."""
    version, code, _, kind = receive_exactly(sock, 4)
    if version != 5 or code != 0:
        raise FlowError(f"SOCKS5 request answered with code {code}")
    length = {1: 4, 4: 16}.get(kind)
    if length is None:
        length = receive_exactly(sock, 1)[0]
    receive_exactly(sock, length + 2)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Exactly size bytes. Raises FlowError when the stream ends before."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise FlowError(f"the connection was closed after {len(data)} of {size} bytes")
        data += more
    return data


def receive_head(sock: socket.socket) -> tuple[str, bytes]:
    """An HTTP response head, and the bytes of the body that came with it. Raises FlowError unless it is a 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise FlowError(f"the connection was closed after {len(data)} bytes of a response head")
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        raise FlowError(f"HTTP answer {head.splitlines()[0].decode('latin-1')}")
    return head.decode("latin-1"), rest
