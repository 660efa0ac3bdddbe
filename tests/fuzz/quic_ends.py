"""What ``quic_operations`` lets be called: a connection's application, its streams, and what both must be true to.

Each direction of a stream is a ``Half``, which its sender and its receiver share: so each callback is held against what the
other end has done.
"""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest

from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import PeerParameters
from quicsocks.userspace.quic.errors import Ended, LocalError
from quicsocks.userspace.quic.native.connection import Connection
from quicsocks.userspace.quic.native.stream import Pump, Stream
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Address, Limits, Priority

OCTETS = random.Random("operations").randbytes(1 << 20)
CLIENT: Address = ("192.0.2.1", 50000)
SERVER: Address = ("198.51.100.1", 443)
SECRETS = {True: bytes([1]) * 32, False: bytes([2]) * 32}
"""By whether a client sends under it."""
SUITE, VERSION, CID = 0x1301, 1, 8
LIMITS = Limits(
    idle_timeout=0.0,
    initial_stream_window=6_000,
    stream_window=50_000,
    session_window=80_000,
    send_high_water=20_000,
    session_send_buffer=100_000,
    max_streams_bidi=6,
    max_streams_uni=2,
    datagram_queue=8,
    streams_waiting=8,
)
MOST_WRITTEN = 150_000
"""Octets of a stream."""
SOCKET_BUFFER = 4096
"""Octets that a socket is asked to hold: few, so that it is full often."""


def octets_of(number: int, by_client: bool, begin: int, size: int) -> bytes:
    """Those of one direction of a stream."""
    at = (number * 7919 + by_client * 104_729) % (len(OCTETS) - MOST_WRITTEN) + begin
    return OCTETS[at : at + size]


class World(Protocol):
    """What the ends share."""

    now: float
    halves: dict[tuple[int, bool], Half]

    def route_of(self, is_client: bool) -> Route: ...


@dataclass(eq=False)
class Half:
    """One direction of a stream, as its sender and its receiver know it."""

    number: int
    by_client: bool
    written: int = 0
    finished: bool = False
    reset: int | None = None
    completed: bool = False
    received: int = 0
    consumed: int = 0
    over: str = ""
    stopped: int | None = None
    stop_heard: int | None = None

    @property
    def is_settled(self) -> bool:
        return self.completed and (bool(self.over) or self.stopped is not None)


@dataclass(eq=False)
class Face:
    """A stream at one of its ends. Implements ``StreamHandler``."""

    end: EndPoint
    stream: Stream
    out: Half | None
    into: Half | None
    paused: bool = False
    past: int = 0
    pump: Pump | None = None
    far: socket.socket | None = None
    """The application's end of the socket that is joined to the stream."""
    full: bool = False
    broken: bool = False

    def data_received(self, data: bytes) -> None:
        half = self.into
        assert half is not None
        assert self.pump is None
        assert not half.over
        assert half.stopped is None, "data for one who has stopped it"
        self._take(half, data)
        if self.end.greedy:
            half.consumed += len(data)
            self.stream.consumed(len(data))

    def _take(self, half: Half, data: bytes) -> None:
        assert data
        assert data == octets_of(half.number, half.by_client, half.received, len(data)), "other octets"
        half.received += len(data)
        assert half.received <= half.written
        assert half.received - half.consumed <= LIMITS.stream_window, "more than the window"

    def eof_received(self) -> None:
        half = self.into
        assert half is not None
        assert half.stopped is None
        assert not half.over
        assert half.finished
        self.drain()
        assert half.received == half.written, f"an end after {half.received} of {half.written}"
        half.over = "eof"

    def reset_received(self, code: int) -> None:
        half = self.into
        assert half is not None
        assert not half.over
        assert half.reset == code
        half.over = "reset"

    def stop_received(self, code: int) -> None:
        half = self.out
        assert half is not None
        assert half.stopped == code
        assert half.stop_heard is None
        half.stop_heard = code
        if code & 1:
            self.reset(code)

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused, self.past = True, 0

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False

    def send_completed(self) -> None:
        half = self.out
        assert half is not None
        assert not half.completed
        assert half.finished or half.reset is not None
        half.completed = True

    def connection_lost(self, ended: Ended) -> None:
        raise AssertionError(f"lost: {ended}")

    # What applications do. A call that is a mistake must be told so.

    def write(self, size: int) -> None:
        half = self.out
        if half is None or half.finished or half.reset is not None:
            with pytest.raises(LocalError):
                self.stream.write(b"x" * (size + 1))
            return
        size = min(size, MOST_WRITTEN - half.written)
        if self.paused and self.past + size > 1 << 16:
            return
        self.past += size
        # The callback that it may bring looks at what has been written.
        begin, half.written = half.written, half.written + size
        self.stream.write(octets_of(half.number, half.by_client, begin, size))
        assert self.stream.send_buffered <= half.written

    def finish(self) -> None:
        half = self.out
        if half is None:
            with pytest.raises(LocalError):
                self.stream.finish()
            return
        if half.reset is None:
            half.finished = True
        self.stream.finish()

    def reset(self, code: int) -> None:
        half = self.out
        if half is None:
            with pytest.raises(LocalError):
                self.stream.reset(code)
            return
        if half.reset is None and not half.completed:
            half.reset = code
            self.paused = False
        self.stream.reset(code)

    def stop(self, code: int) -> None:
        half = self.into
        if half is None:
            with pytest.raises(LocalError):
                self.stream.stop_sending(code)
            return
        if half.stopped is None and not half.over:
            half.stopped = code
        self.stream.stop_sending(code)

    def consume(self, size: int) -> None:
        half = self.into
        if half is None:
            with pytest.raises(LocalError):
                self.stream.consumed(size)
            return
        if self.pump is not None:
            return
        held = half.received - half.consumed
        if size > held and not half.over and half.stopped is None and half.reset is None:
            with pytest.raises(LocalError):
                self.stream.consumed(size)
        size = min(size, held)
        half.consumed += size
        self.stream.consumed(size)

    # Joined to a socket, as the relay has it.

    def join(self) -> None:
        if self.out is None or self.into is None or self.pump is not None:
            if self.out is None or self.into is None:
                with pytest.raises(LocalError):
                    self.stream.pump(0, self._on_full, self._on_error)
            return
        near, self.far = socket.socketpair()
        for one in (near, self.far):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            self.end.sockets.append(one)
        # What the handler still holds has been passed on: the pump gives credit for what it passes on itself.
        self.consume(self.into.received - self.into.consumed)
        self.full = self.broken = False
        self.pump = self.stream.pump(near.fileno(), self._on_full, self._on_error)

    def _on_full(self) -> None:
        assert not self.full
        self.full = True

    def _on_error(self, error: OSError) -> None:
        assert self.broken, error

    def feed(self, size: int) -> None:
        """The application writes into its socket, and the stream takes it."""
        half, pump = self.out, self.pump
        if half is None or pump is None or self.far is None or self.paused or self.broken:
            return
        try:
            given = self.far.send(octets_of(half.number, half.by_client, half.written, min(size, self.left())))
        except BlockingIOError:
            given = 0  # What was written before its end is still in it.
        taken = 0
        while (count := pump.read()) > 0:
            taken += count
            half.written += count
        assert taken == given or half.finished or half.reset is not None

    def left(self) -> int:
        return MOST_WRITTEN - self.out.written if self.out is not None else 0

    def drain(self, size: int = 1 << 20) -> None:
        """The application reads what its socket has, at most size octets."""
        half = self.into
        if half is None or self.far is None or self.broken:
            return
        try:
            while size > 0 and (data := self.far.recv(min(size, 1 << 16))):
                size -= len(data)
                half.consumed += len(data)
                self._take(half, data)
        except BlockingIOError:
            pass

    def writable(self) -> None:
        """The socket has room again, if it had none."""
        if self.full and self.pump is not None:
            self.full = False
            assert self.pump.write() is not self.full

    def break_off(self) -> None:
        """The application has gone: its socket is closed."""
        if self.pump is None or self.far is None or self.broken:
            return
        self.drain()
        self.broken = True
        self.far.close()
        self.full = False
        self.pump.write()
        self.reset(9)
        self.stop(9)

    def part(self) -> None:
        """From now on the handler has the stream again."""
        if self.pump is not None and not self.broken:
            self.pump.close()
            self.drain()
            self.pump = self.far = None


@dataclass(eq=False)
class EndPoint:
    """A connection and its application. greedy: consumes what it is given at once."""

    pair: World
    is_client: bool
    greedy: bool = True
    faces: list[Face] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    datagrams: list[bytes] = field(default_factory=list)
    """Sent ones that have not been seen at the other end."""
    crypto: int = 0
    crypto_seen: int = 0
    first_cid: bytes = b""
    cids: set[bytes] = field(default_factory=set)
    """Those by which the hub would know it now."""
    other: EndPoint = field(init=False)
    connection: Connection = field(init=False)

    def begin(self, seed: int, congestion: str) -> None:
        draw = random.Random(seed)
        limits = replace(LIMITS, congestion=congestion)
        self.first_cid = draw.randbytes(CID)
        self.cids = {self.first_cid}

        def new_cid() -> bytes:
            cid = draw.randbytes(CID)
            self.cids.add(cid)
            return cid

        self.connection = Connection(
            is_client=self.is_client,
            limits=limits,
            random_bytes=draw.randbytes,
            new_cid=new_cid,
            reset_token=lambda cid: cid * 2,
            waker=lambda: None,
            own_cid=self.first_cid,
            route=self.pair.route_of(self.is_client),
            now=self.pair.now,
        )

    def meet(self) -> None:
        connection = self.connection
        connection.install_key(True, SUITE, SECRETS[self.is_client], VERSION)
        connection.install_key(False, SUITE, SECRETS[not self.is_client], VERSION)
        parameters = PeerParameters(
            initial_max_data=LIMITS.session_window,
            initial_max_stream_data_bidi_local=LIMITS.initial_stream_window,
            initial_max_stream_data_bidi_remote=LIMITS.initial_stream_window,
            initial_max_stream_data_uni=LIMITS.initial_stream_window,
            initial_max_streams_bidi=LIMITS.max_streams_bidi,
            initial_max_streams_uni=LIMITS.max_streams_uni,
            active_connection_id_limit=4,
            max_datagram_frame_size=65535,
        )
        connection.set_peer(parameters, self.other.first_cid, None)
        connection.confirm(self.pair.now)

    def opened(self, stream: Stream) -> None:
        there = self.pair.halves[stream.id, not self.is_client]
        back = self.pair.halves.get((stream.id, self.is_client))
        face = Face(self, stream, back, there)
        self.faces.append(face)
        stream.set_handler(face)

    def open(self, bidirectional: bool, priority: int) -> None:
        if -self.connection.streams_available(bidirectional) >= LIMITS.streams_waiting:
            return
        stream = self.connection.open_stream(bidirectional, Priority(priority))
        halves = self.pair.halves
        out = halves[stream.id, self.is_client] = Half(stream.id, self.is_client)
        into = None
        if bidirectional:
            into = halves[stream.id, not self.is_client] = Half(stream.id, not self.is_client)
        face = Face(self, stream, out, into)
        self.faces.append(face)
        stream.set_handler(face)
        # Nobody can hear of a stream on which nothing is sent.
        face.write(1)

    def send_datagram(self, size: int) -> None:
        data = len(self.datagrams).to_bytes(2, "big") + bytes(size)
        sent = self.connection.send_datagram(data, self.pair.now)
        assert sent == (len(data) <= self.connection.max_datagram_size)
        if sent:
            self.datagrams.append(data)

    def follow(self) -> None:
        self.connection.tell(self.opened)
        for event in self.connection.take_events():
            match event:
                case ("datagram", data):
                    assert self.other.datagrams[int.from_bytes(data[:2], "big")] == data, "a datagram twice, or another"
                    self.other.datagrams[int.from_bytes(data[:2], "big")] = b""
                case ("crypto", data):
                    begin = self.crypto_seen
                    assert data == octets_of(0, False, begin, len(data))
                    self.crypto_seen += len(data)
                    assert self.crypto_seen <= self.other.crypto
                case ("cid_retired", cid):
                    self.cids.remove(cid)
                case ("path", _, _, _) | ("datagram_size",) | ("peer_cids",):
                    pass
                case _:
                    raise AssertionError(f"an event that nothing has caused: {event}")
