"""Two sessions joined in memory: the doors of ``types`` without packets, sockets or a clock, for the tests of the rooms
above and as the measure for the real engines, which pass the same contract tests.

Read ``types`` first. A ``MemoryLink`` owns both ends and a set of lanes, one for each stream end and one for each
session. Whatever one end does becomes an event in its lane, and ``run`` takes the lanes in turn, most urgent first, so
that callbacks are never made from inside the call that caused them. Order is kept within a lane; across lanes it is
round robin, or seeded chance when ``rng`` is given, as QUIC promises nothing there. The same flow control, stream
limits and buffer limits hold as on the wire. An exception out of a handler is not caught: a test shall see it.

This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .errors import End, Ended, LocalError
from .memory_stream import Lane, MemoryStream
from .types import (
    Address,
    Limits,
    NetworkPath,
    PathEvent,
    Priority,
    SessionHandler,
    SessionStatistics,
    Stream,
)


class Chooser(Protocol):
    """The part of ``random.Random`` that a link uses."""

    def randrange(self, stop: int, /) -> int: ...


class MemoryLink:
    """A client session and a server session, and what is under way between them.

    limits, server_limits: as for real sessions; server_limits defaults to limits.
    chunk_size: most bytes that one ``data_received`` carries. 1 splits a stream at every byte boundary.
    rng: chooses the next lane; None takes them in turn.
    schedule: like ``loop.call_soon``; called with a function that runs what is ready. None: call ``run``.
    client_key, server_key: what the *other* end sees as ``peer_public_key``.
    """

    def __init__(
        self,
        *,
        alpn: str = "quicsocks/1",
        limits: Limits | None = None,
        server_limits: Limits | None = None,
        chunk_size: int = 1200,
        rng: Chooser | None = None,
        schedule: Callable[[Callable[[], None]], object] | None = None,
        client_key: bytes = b"",
        server_key: bytes = b"server's SubjectPublicKeyInfo",
        secret: bytes = b"exporter secret of this link",
    ) -> None:
        if chunk_size < 1:
            raise ValueError("chunk_size is at least 1 byte")
        limits = limits if limits is not None else Limits()
        self.alpn = alpn
        self.chunk_size = chunk_size
        self.secret = secret
        self._lanes: dict[int, deque[Lane]] = {priority: deque() for priority in sorted(Priority)}
        self._rng = rng
        self._schedule = schedule
        self._scheduled = False
        client_address, server_address = ("192.0.2.1", 50000), ("192.0.2.2", 443)
        self.client = MemorySession(self, True, limits, server_key, client_address, server_address)
        self.server = MemorySession(
            self,
            False,
            server_limits if server_limits is not None else limits,
            client_key,
            server_address,
            client_address,
        )
        self.client._join(self.server)
        self.server._join(self.client)

    def complete_handshake(self) -> None:
        """Let both ends see ``handshake_completed``. Both need a handler by now."""
        for session in (self.client, self.server):
            if session._handler is None:
                raise LocalError("set_handler comes before complete_handshake")
            self.post(session._lane, session._complete_handshake)

    def sever(self, client: Ended, server: Ended | None = None) -> None:
        """End both sessions as a broken network would; server defaults to the client's value."""
        self.client._end(client)
        self.server._end(server if server is not None else client)

    def run(self, most: int = 1_000_000) -> int:
        """Handle events until none is left; the number handled. Raises RuntimeError after most events: a livelock."""
        count = 0
        while (lane := self._take()) is not None:
            if count == most:
                raise RuntimeError(f"still busy after {most} events")
            count += 1
            lane.events.popleft()()
        return count

    def step(self) -> bool:
        """Handle one event; False when there was none."""
        lane = self._take()
        if lane is None:
            return False
        lane.events.popleft()()
        return True

    def post(self, lane: Lane, event: Callable[[], None]) -> None:
        lane.events.append(event)
        if len(lane.events) == 1:
            self._lanes[lane.priority].append(lane)
            self._wake()

    def _take(self) -> Lane | None:
        """The lane whose first event is next; it goes to the end of its priority when it holds more."""
        for lanes in self._lanes.values():
            while lanes:
                if self._rng is not None:
                    lanes.rotate(-self._rng.randrange(len(lanes)))
                lane = lanes.popleft()
                if len(lane.events) > 1:
                    lanes.append(lane)
                if lane.events:
                    return lane
        return None

    def _wake(self) -> None:
        if self._schedule is not None and not self._scheduled:
            self._scheduled = True
            self._schedule(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._scheduled = False
        # One event a lane on average, then back to the loop, so that other callbacks of the loop get their turn.
        for _ in range(max(16, sum(map(len, self._lanes.values())))):
            if not self.step():
                return
        self._wake()


class MemorySession:
    """One end of a ``MemoryLink``; implements ``types.Session``."""

    def __init__(
        self, link: MemoryLink, is_client: bool, limits: Limits, peer_key: bytes, local: Address, remote: Address
    ) -> None:
        self.link = link
        self.limits = limits
        self.close_calls: list[tuple[int, str]] = []
        self._is_client = is_client
        self._peer_key = peer_key
        self._local = local
        self._remote = remote
        self._handler: SessionHandler | None = None
        self._lane = Lane(Priority.CONTROL)
        self._ended: Ended | None = None
        self._complete = False
        self._streams: dict[int, MemoryStream] = {}
        self._blocked: dict[int, MemoryStream] = {}
        """Streams that wait for the handshake, the peer's stream limit or the session's credit, in order."""
        # Streams by (bidirectional?): those we opened so far, those the peer lets us open, those we let the peer open.
        self._opened = {True: 0, False: 0}
        self._allowed = {True: 0, False: 0}
        self._granted = {True: limits.max_streams_bidi, False: limits.max_streams_uni}
        self._send_limit = 0
        self._sent = 0
        self._max_datagram_size = 0
        self._datagrams: deque[tuple[bytes, int]] = deque()
        self._statistics = SessionStatistics(engine="memory")

    def _join(self, peer: MemorySession) -> None:
        self._peer = peer
        self._allowed = dict(peer._granted)
        self._send_limit = peer.limits.session_window
        if peer.limits.max_datagram_frame_size:
            self._max_datagram_size = min(peer.limits.max_datagram_frame_size - 3, self.limits.max_udp_payload - 40)

    # What the room above calls.

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def alpn(self) -> str:
        return self.link.alpn if self._complete else ""

    @property
    def peer_public_key(self) -> bytes:
        return self._peer_key if self._complete else b""

    @property
    def peer_address(self) -> Address:
        return self._remote

    @property
    def local_address(self) -> Address:
        return self._local

    @property
    def ended(self) -> Ended | None:
        return self._ended

    @property
    def max_datagram_size(self) -> int:
        return self._max_datagram_size if self._complete else 0

    def set_handler(self, handler: SessionHandler) -> None:
        self._handler = handler

    def open_stream(self, *, bidirectional: bool = True, priority: Priority = Priority.NORMAL) -> Stream:
        if self._ended is not None:
            raise LocalError(f"the session has ended: {self._ended}")
        index = self._opened[bidirectional]
        if index - self._allowed[bidirectional] >= self.limits.streams_waiting:
            raise LocalError(f"{self.limits.streams_waiting} streams wait for the peer's limit already")
        self._opened[bidirectional] += 1
        stream_id = index << 2 | (0 if self._is_client else 1) | (0 if bidirectional else 2)
        stream = MemoryStream(self, stream_id, priority)
        self._streams[stream_id] = stream
        return stream

    def streams_available(self, *, bidirectional: bool = True) -> int:
        if self._ended is not None or not self._complete:
            return 0
        return max(0, self._allowed[bidirectional] - self._opened[bidirectional])

    def send_datagram(self, data: bytes | bytearray | memoryview, ecn: int = 0) -> bool:
        if self._ended is not None or len(data) > self.max_datagram_size:
            return False
        if len(self._datagrams) >= self.limits.datagram_queue:
            self._datagrams.popleft()
            self._statistics.datagrams_dropped += 1
        else:
            self.link.post(self._lane, self._transfer_datagram)
        self._datagrams.append((bytes(data), ecn))
        return True

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """Not RFC 8446's, but like it: equal at both ends and different for each link, label, context and length."""
        if not self._complete:
            raise LocalError("no keying material before the handshake completes")
        parts = (self.link.secret, label, context, length.to_bytes(2, "big"))
        return hashlib.shake_256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest(length)

    def paths(self) -> tuple[NetworkPath, ...]:
        return () if self._ended is not None else (NetworkPath("udp", self._local, self._remote, True),)

    def migrate(self, local: Address) -> bool:
        return False

    def probe(self) -> None:
        """Memory loses nothing, so there is nothing to find out."""

    def statistics(self) -> SessionStatistics:
        self._statistics.streams_open = len(self._streams)
        return self._statistics

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._ended is not None:
            return
        self.close_calls.append((code, reason))
        peer = self._peer
        self.link.post(peer._lane, lambda: peer._end(Ended(End.PEER_CLOSED, code, reason)))
        self._end(Ended(End.LOCALLY_CLOSED, code, reason))

    # What tests call to make things happen from outside.

    def change_max_datagram_size(self, size: int) -> None:
        def change() -> None:
            if self._ended is None:
                self._max_datagram_size = size
                self._called.max_datagram_size_changed(size)

        self.link.post(self._lane, change)

    def change_path(self, event: PathEvent) -> None:
        def change() -> None:
            if self._ended is None:
                self._called.path_changed(event)

        self.link.post(self._lane, change)

    # What happens in the lanes.

    @property
    def _called(self) -> SessionHandler:
        assert self._handler is not None
        return self._handler

    def _complete_handshake(self) -> None:
        if self._ended is not None or self._complete:
            return
        self._complete = True
        self._called.handshake_completed()
        if self._max_datagram_size:
            self._called.max_datagram_size_changed(self._max_datagram_size)
        self._pump()
        self._peer._pump()

    def _transfer_datagram(self) -> None:
        if self._ended is not None or not self._datagrams:
            return
        data, ecn = self._datagrams.popleft()
        self._statistics.datagrams_sent += 1
        peer = self._peer
        if peer._ended is None:
            peer._statistics.datagrams_received += 1
            peer._called.datagram_received(data, ecn)

    def _accept(self, stream_id: int, priority: Priority) -> MemoryStream:
        """The peer's first frame on a stream: its other end appears here."""
        stream = MemoryStream(self, stream_id, priority)
        self._streams[stream_id] = stream
        self._called.stream_opened(stream)
        return stream

    def _credit(self, size: int) -> None:
        """Our sink has consumed size bytes: the peer may send as many more."""
        peer = self._peer
        peer._send_limit += size
        if peer._ended is None:
            peer._pump()

    def _forget(self, stream: MemoryStream) -> None:
        """Both directions are over: the stream's place is free for another."""
        if self._streams.pop(stream.id, None) is None or stream.is_local:
            return
        bidirectional = stream.is_bidirectional
        self._granted[bidirectional] += 1
        self._peer._allowed[bidirectional] += 1
        self._peer._pump()

    def _pump(self) -> None:
        blocked, self._blocked = self._blocked, {}
        for stream in blocked.values():
            stream._pump()

    def _end(self, ended: Ended) -> None:
        if self._ended is not None:
            return
        self._ended = ended
        streams = list(self._streams.values())
        self._streams.clear()
        self._blocked.clear()
        self._datagrams.clear()
        for stream in streams:
            stream._lose(ended)
        if self._handler is not None:
            self._handler.session_ended(ended)
