"""An application's side of SOCKS5, SOCKS4 and HTTP, written out byte by byte (RFC 1928, RFC 9112).

Deliberately independent of the project's own codecs: a test that used them would only show that they agree with
themselves. Sockets are blocking, with a timeout.
"""

from __future__ import annotations

import ipaddress
import re
import select
import socket
import struct
import time
from dataclasses import dataclass

NO_AUTHENTICATION = b"\x05\x01\x00"


@dataclass(frozen=True, slots=True)
class Socks5Reply:
    """code: REP. host and port: BND.ADDR and BND.PORT."""

    code: int
    host: str
    port: int


def socks5_request(host: str, port: int, command: int = 1) -> bytes:
    """A request (RFC 1928 §4): an address literal as such, anything else as a domain."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        destination = bytes((3, len(name))) + name
    else:
        destination = (b"\x01" if address.version == 4 else b"\x04") + address.packed
    return bytes((5, command, 0)) + destination + struct.pack("!H", port)


def socks5(sock: socket.socket, host: str, port: int, *, early: bytes = b"") -> Socks5Reply:
    """Greeting and request; early travels right behind the request. Returns the reply, whatever its code."""
    sock.sendall(NO_AUTHENTICATION)
    assert receive(sock, 2) == b"\x05\x00"
    sock.sendall(socks5_request(host, port) + early)
    version, code, reserved, kind = receive(sock, 4)
    assert (version, reserved) == (5, 0)
    assert kind in (1, 4), "a reply with a domain confuses many clients"
    address = ipaddress.ip_address(receive(sock, 4 if kind == 1 else 16))
    return Socks5Reply(code, str(address), struct.unpack("!H", receive(sock, 2))[0])


def socks4(sock: socket.socket, host: str, port: int) -> int:
    """A SOCKS4 request, or SOCKS4a for a name; returns the reply's code (90 is granted)."""
    try:
        address, name = ipaddress.IPv4Address(host).packed, b""
    except ValueError:
        address, name = b"\x00\x00\x00\x01", host.encode("ascii") + b"\x00"
    sock.sendall(b"\x04\x01" + struct.pack("!H", port) + address + b"\x00" + name)
    version, code = receive(sock, 2)
    assert version == 0
    receive(sock, 6)
    return int(code)


@dataclass(frozen=True, slots=True)
class HttpReply:
    status: int
    fields: dict[str, str]
    """Names in lower case; the last value of each."""
    body: bytes


def http_connect(sock: socket.socket, authority: str) -> HttpReply:
    """CONNECT (RFC 9110 §9.3.6). A reply other than 2xx is read with its body."""
    sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    return http_reply(sock, tunnel=True)


def http_get(sock: socket.socket, url: str) -> HttpReply:
    """A request in absolute-form, as to a proxy (RFC 9112 §3.2.2)."""
    host = re.match(r"http://([^/]+)", url)
    assert host is not None
    sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {host[1]}\r\n\r\n".encode())
    return http_reply(sock)


def http_reply(sock: socket.socket, *, tunnel: bool = False) -> HttpReply:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(sock, 1)
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    fields = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    body = b""
    if "content-length" in fields and not (tunnel and 200 <= status < 300):
        body = receive(sock, int(fields["content-length"]))
    return HttpReply(status, fields, body)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly size bytes; EOFError when the peer ends before."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError(f"{len(data)} of {size} bytes, then the end: {data!r}")
        data += more
    return data


def receive_all(sock: socket.socket) -> bytes:
    """Everything up to the peer's FIN."""
    return b"".join(iter(lambda: sock.recv(1 << 18), b""))


def reset(sock: socket.socket) -> None:
    """Close with a RST instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_reset(sock: socket.socket, timeout: float = 5.0) -> bool:
    """Whether the kernel reports a RST within the timeout. Nothing is read for it: a reset must arrive also at a
    socket whose owner does not read."""
    poll = select.poll()
    poll.register(sock, 0)
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if ready := poll.poll(left * 1000):
            # POLLHUP alone: both directions ended in order, and no reset can come any more.
            return bool(ready[0][1] & select.POLLERR)
    return False


def flood(sock: socket.socket, limit: int, patience: float = 0.5) -> int:
    """Send until nothing has been taken for patience seconds, or limit bytes are sent; how many bytes were taken.

    The bytes are those of ``pattern``."""
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    sent = 0
    block = pattern(0, 1 << 20)
    try:
        while sent < limit and poll.poll(patience * 1000):
            try:
                start = sent % (1 << 20)
                sent += sock.send(block[start : start + min(1 << 18, limit - sent)])
            except BlockingIOError:
                continue
    finally:
        sock.settimeout(15)
    return sent


def pattern(start: int, size: int) -> bytes:
    """Bytes start to start + size of a stream that repeats after 1 MiB and no sooner."""
    period = 1 << 20
    whole = b"".join(struct.pack("!I", number) for number in range(period // 4))
    offset = start % period
    repeats = (offset + size + period - 1) // period
    return (whole * repeats)[offset : offset + size]
