"""The destination of all benchmark traffic: an HTTP/1.1 server that serves and absorbs bytes and costs next to nothing.

``python -m bench.origin ADDRESS PORT``. It knows three requests, and keeps connections alive between them:

* ``GET /N`` serves N bytes of ``pattern``, by sendfile(2) from memory;
* ``POST /absorb/KEY`` takes a body of Content-Length and answers with the number of bytes that came, in decimal;
* ``GET /absorbed/KEY`` answers how many have come so far, also while that body still arrives.

One thread and epoll. Bodies are dropped by recv(2) with MSG_TRUNC, which for TCP copies nothing. It is for loopback and
emulated paths only: it trusts its clients not to send heads without end beyond ``HEAD_LIMIT``, and nothing more.
"""

from __future__ import annotations

import hashlib
import os
import resource
import select
import socket
import sys
from dataclasses import dataclass

HEAD_LIMIT = 16 << 10  # what browsers and proxies send is below this
CHUNK = 1 << 20  # bytes a system call; larger ones gain nothing
PATTERN_SIZE = 4 << 20
# Counters of absorbed uploads that are remembered; a run makes a few dozen.
COUNTERS_LIMIT = 10_000


def pattern() -> bytes:
    """The 4 MiB that every download repeats: no two 32 byte blocks in it are the same, so misplaced bytes show."""
    return b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(PATTERN_SIZE // 32))


@dataclass(slots=True, eq=False)
class _Connection:
    """head: bytes of an unfinished request head. left_to_send: of the body being served, at offset of the pattern.
    left_to_absorb: of the body being received, counted under key. out: an answer not yet sent."""

    socket: socket.socket
    head: bytes = b""
    out: bytes = b""
    left_to_send: int = 0
    offset: int = 0
    left_to_absorb: int = 0
    key: str = ""
    writing: bool = False


class Origin:
    """Serves on one listening socket until the process ends."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)
        self._connections: dict[int, _Connection] = {}
        self._counters: dict[str, int] = {}
        self._sink = bytearray(CHUNK)
        self._file = os.memfd_create("pattern")
        os.write(self._file, pattern())

    def run(self) -> None:
        """Serve for ever."""
        while True:
            self.step(-1)

    def step(self, timeout: float) -> None:
        """Handle what is ready within timeout seconds; -1 waits for something."""
        for descriptor, _ in self._epoll.poll(timeout):
            if descriptor == self._listener.fileno():
                self._accept()
                continue
            connection = self._connections.get(descriptor)
            if connection is None:
                continue
            try:
                alive = self._write(connection) if connection.writing else self._read(connection)
            except OSError:
                alive = False  # the client reset it: how bounded downloads end
            if not alive:
                del self._connections[descriptor]
                connection.socket.close()

    def _accept(self) -> None:
        for _ in range(64):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[accepted.fileno()] = _Connection(accepted)
            self._epoll.register(accepted, select.EPOLLIN)

    def _read(self, connection: _Connection) -> bool:
        if connection.left_to_absorb:
            return self._absorb(connection)
        try:
            data = connection.socket.recv(HEAD_LIMIT)
        except BlockingIOError:
            return True
        if not data:
            return False
        connection.head += data
        return self._request(connection)

    def _request(self, connection: _Connection) -> bool:
        end = connection.head.find(b"\r\n\r\n")
        if end < 0:
            return len(connection.head) < HEAD_LIMIT
        head, rest = connection.head[:end].decode("latin-1"), connection.head[end + 4 :]
        connection.head = b""
        first, *fields = head.split("\r\n")
        try:
            method, path, _ = first.split(" ")
            if method == "GET" and path.startswith("/absorbed/"):
                connection.head = rest
                return self._answer(connection, str(self._counters.get(path[10:], 0)).encode())
            if method == "GET":
                connection.head = rest
                return self._serve(connection, int(path[1:]))
            if method == "POST" and path.startswith("/absorb/"):
                length = next(int(field[15:]) for field in fields if field.lower().startswith("content-length:"))
                return self._start_absorbing(connection, path[8:], length, len(rest))
        except (ValueError, StopIteration):
            pass
        connection.socket.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return False

    def _serve(self, connection: _Connection, size: int) -> bool:
        connection.left_to_send, connection.offset = size, 0
        connection.out = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % size
        )
        if size <= 4096:  # one segment for head and body, as a server would
            connection.out += os.pread(self._file, size, 0)
            connection.left_to_send = 0
        return self._write(connection)

    def _answer(self, connection: _Connection, body: bytes) -> bool:
        connection.out = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        return self._write(connection)

    def _write(self, connection: _Connection) -> bool:
        try:
            while connection.out:
                connection.out = connection.out[connection.socket.send(connection.out) :]
            # At most so much in one turn, so that the other connections are served too.
            for _ in range(4):
                if not connection.left_to_send:
                    break
                size = min(connection.left_to_send, CHUNK, PATTERN_SIZE - connection.offset)
                sent = os.sendfile(connection.socket.fileno(), self._file, connection.offset, size)
                connection.left_to_send -= sent
                connection.offset = (connection.offset + sent) % PATTERN_SIZE
        except BlockingIOError:
            pass
        writing = bool(connection.out or connection.left_to_send)
        if writing != connection.writing:
            connection.writing = writing
            self._epoll.modify(connection.socket, select.EPOLLOUT if writing else select.EPOLLIN)
        # A request that came right behind the last one has no event of its own any more.
        return writing or not connection.head or self._request(connection)

    def _start_absorbing(self, connection: _Connection, key: str, length: int, early: int) -> bool:
        if len(self._counters) >= COUNTERS_LIMIT or early > length:
            raise ValueError
        connection.key, connection.left_to_absorb = key, length - early
        self._counters[key] = early
        return self._finish_absorbing(connection) if not connection.left_to_absorb else self._absorb(connection)

    def _absorb(self, connection: _Connection) -> bool:
        for _ in range(4):
            try:
                size = min(CHUNK, connection.left_to_absorb)
                count = connection.socket.recv_into(self._sink, size, socket.MSG_TRUNC)
            except BlockingIOError:
                return True
            if not count:
                return False
            connection.left_to_absorb -= count
            self._counters[connection.key] += count
            if not connection.left_to_absorb:
                return self._finish_absorbing(connection)
        return True

    def _finish_absorbing(self, connection: _Connection) -> bool:
        return self._answer(connection, str(self._counters[connection.key]).encode())


def raise_descriptor_limit() -> None:
    """Let this process and its children open as many files as it may: thousands of flows need as many descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(address: str, port: int) -> socket.socket:
    """A non-blocking listening socket."""
    listener = socket.create_server((address, port), backlog=4096)
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    raise_descriptor_limit()
    Origin(listen(sys.argv[1], int(sys.argv[2]))).run()
