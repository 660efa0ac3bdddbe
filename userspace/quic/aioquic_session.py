"""One QUIC connection of the aioquic engine. Read ``session`` first; this file must not import asyncio, socket, time or
random."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aioquic.quic import events
from aioquic.quic.connection import QuicNetworkPath
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.stream import QuicStream

from .aioquic_internals.common import public_key_of
from .aioquic_internals.connection import Connection
from .aioquic_internals.streams import (
    DatagramSizeChanged,
    SendDrained,
    SendFinished,
    StreamOpened,
    stream_id_of,
)
from .aioquic_stream import AioquicStream
from .congestion import large_packets_lost, packets_lost
from .endings import ended_of
from .errors import End, Ended, LocalError
from .exporter import Exporter
from .session import BaseSession, Route, SessionOwner
from .types import (
    Limits,
    NetworkPath,
    PathChange,
    PathEvent,
    Priority,
    SessionHandler,
    SessionStatistics,
    Stream,
)

SMALLEST_HIGH_WATER = 16 << 10
"""Unsent octets that every stream may have, however many there are: a dozen packets."""


class AioquicSession(BaseSession):
    """Implements ``types.Session``."""

    def __init__(
        self,
        connection: Connection,
        owner: SessionOwner,
        *,
        limits: Limits,
        is_client: bool,
        route: Route,
        begun: float,
        key: object = None,
    ) -> None:
        super().__init__(owner, limits=limits, is_client=is_client, route=route, begun=begun, key=key)
        self.connection = connection
        self._streams: dict[int, AioquicStream] = {}
        self._deferred: deque[Callable[[], None]] = deque()
        self._path: QuicNetworkPath | None = None
        self._path_validated = True
        self._consumed = 0
        self._first_window = min(limits.initial_stream_window, limits.stream_window)
        self._farewell: list[tuple[bytes, Route]] = []
        self._heard_since_end = 0
        self._statistics = SessionStatistics(engine="aioquic")

    # What the room above calls.

    def open_stream(self, *, bidirectional: bool = True, priority: Priority = Priority.NORMAL) -> Stream:
        if self._ended is not None:
            raise LocalError(f"the session has ended: {self._ended}")
        if -self.connection.streams_available(bidirectional) >= self.limits.streams_waiting:
            raise LocalError(f"{self.limits.streams_waiting} streams wait for the peer's limit already")
        quic_stream = self.connection.open_stream(bidirectional, priority)
        stream = AioquicStream(self, quic_stream, self._first_window)
        self._streams[stream.id] = stream
        return stream

    def streams_available(self, *, bidirectional: bool = True) -> int:
        if self._ended is not None or not self._established:
            return 0
        return max(0, self.connection.streams_available(bidirectional))

    def send_datagram(self, data: bytes | bytearray | memoryview, ecn: int = 0) -> bool:
        """ecn is not used: aioquic's packets do not go out with marks of their own."""
        if self._ended is not None or len(data) > self._max_datagram_size:
            return False
        connection = self.connection
        if connection.datagrams_queued >= self.limits.datagram_queue:
            connection.drop_oldest_datagram()
        connection.send_datagram_frame(bytes(data))
        self._statistics.datagrams_sent += 1
        self.wake()
        return True

    def paths(self) -> tuple[NetworkPath, ...]:
        if self._ended is not None or self._path is None:
            return ()
        return (_network_path(self._path),)

    def statistics(self) -> SessionStatistics:
        connection, statistics = self.connection, self._statistics
        statistics.smoothed_rtt = connection.smoothed_rtt
        statistics.minimum_rtt = connection.minimum_rtt
        statistics.congestion_window = connection.congestion_window
        statistics.bytes_in_flight = connection.bytes_in_flight
        statistics.packets_sent = connection.packets_sent
        statistics.packets_lost = packets_lost(connection.congestion_controller)
        statistics.streams_open = len(self._streams)
        statistics.stream_bytes_sent = connection.data_sent
        statistics.datagrams_dropped = connection.datagrams_dropped
        return statistics

    def probe(self) -> None:
        if self._ended is None and self._established:
            self.connection.send_probe()
            self.wake()

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._ended is not None:
            return
        self.connection.close_by_application(code, reason)
        self._end(Ended(End.LOCALLY_CLOSED, code, reason))
        self.wake()

    # What drives the session.

    @property
    def is_terminated(self) -> bool:
        return self.connection.is_terminated

    @property
    def is_heard(self) -> bool:
        return self.connection.is_heard

    @property
    def peer_reset_tokens(self) -> list[bytes]:
        return self.connection.peer_reset_tokens

    def connect(self, now: float) -> None:
        self.connection.connect(self._route, now)

    def receive_datagram(self, data: bytes, route: Route, now: float, ecn: int = 0) -> None:
        self.now = now
        self._statistics.bytes_received += len(data)
        self._statistics.packets_received += 1
        if self._ended is not None:
            self._repeat_farewell()
        try:
            self.connection.receive_datagram(data, route, now)
            self._handle_events()
        except Exception:
            self._fail("handling a datagram")
        self._notice_close()
        if self._ended is None and (self._path is not self.connection.active_path or not self._path_validated):
            self._guard(self._notice_path)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Route]]:
        self.now = now
        try:
            self._run_deferred()
            lost, since = large_packets_lost(self.connection.congestion_controller)
            if lost:
                self.connection.large_packets_lost(lost, now - since)
            datagrams: list[tuple[bytes, Route]] = self.connection.datagrams_to_send(now)
            if self.connection.has_events:
                self._handle_events()
            if self.connection.has_more:
                self.wake()
        except Exception:
            self._fail("making datagrams")
            datagrams = []
        if self._ended is not None:
            datagrams = self._note_farewell(datagrams)
        for data, _ in datagrams:
            self._statistics.bytes_sent += len(data)
        self._notice_close()
        return datagrams

    def get_timer(self) -> float | None:
        timer = self.connection.get_timer()
        if timer is None or self._ended is not None:
            return timer
        if not self._established:
            return min(timer, self._handshake_deadline)
        if self._keeps_alive:
            return min(timer, self._keepalive_at())
        return timer

    def handle_timer(self, now: float) -> None:
        try:
            self.connection.handle_timer(now)
            self._handle_events()
        except Exception:
            self._fail("handling a timer")
        self._notice_close()
        if self._ended is not None:
            return
        if not self._established:
            if now >= self._handshake_deadline:
                self.connection.close_by_engine(QuicErrorCode.NO_ERROR, "handshake timeout")
                self._end(Ended(End.HANDSHAKE_TIMED_OUT))
            return
        if self._keeps_alive and now >= self._keepalive_at():
            self._alive_at = now
            self.connection.send_ping(0)

    # What streams call.

    def defer(self, callback: Callable[[], None]) -> None:
        """Make a callback soon, from the loop."""
        self._deferred.append(callback)
        self.wake()

    def credit(self, size: int) -> None:
        """size octets more are consumed, on any stream."""
        self._consumed += size
        window = self.limits.session_window
        if self._consumed + window - self.connection.max_data >= window >> 2:
            self.connection.raise_max_data(self._consumed + window)
            self.wake()

    def window_for(self, wanted: int) -> int:
        """What a stream may have of the window that it wants: a quarter of what the session has left, and no less than
        it began with."""
        left = self.limits.session_window - (self.connection.data_received - self._consumed)
        return min(wanted, max(left >> 2, self._first_window))

    @property
    def send_high_water(self) -> int:
        """Unsent octets above which a stream is paused, with as many open as there are."""
        share = self.limits.session_send_buffer // max(len(self._streams), 1)
        return min(self.limits.send_high_water, max(share, SMALLEST_HIGH_WATER))

    @property
    def smoothed_rtt(self) -> float:
        return self.connection.smoothed_rtt

    def raise_stream_limit(self, stream: QuicStream, value: int) -> None:
        self.connection.raise_max_stream_data(stream, value)
        self.wake()

    def forget(self, stream: QuicStream) -> None:
        del self._streams[stream_id_of(stream)]
        self.connection.forget_stream(stream)
        self.wake()

    # Events.

    def _handle_events(self) -> None:
        statistics = self._statistics
        streams = self._streams
        for event in self.connection.drain_events():
            if self._ended is not None:
                continue
            kind = type(event)
            if kind is events.StreamDataReceived:
                data = event.data  # type: ignore[attr-defined] # kind says so, faster than isinstance
                statistics.stream_bytes_received += len(data)
                stream = streams.get(event.stream_id)  # type: ignore[attr-defined] # as above
                if stream is not None:
                    stream.receive(data, event.end_stream)  # type: ignore[attr-defined] # as above
            else:
                self._handle_rare_event(event)

    def _handle_rare_event(self, event: events.QuicEvent) -> None:
        handler = self._handler
        if handler is None:
            return  # A server's first datagram: the session is offered only once it has proved to be a handshake.
        match event:
            case StreamOpened():
                stream = AioquicStream(self, event.stream, self._first_window)
                self._streams[stream.id] = stream
                handler.stream_opened(stream)
            case SendFinished():
                if (known := self._streams.get(event.stream_id)) is not None:
                    known.complete_sending()
            case SendDrained():
                if (known := self._streams.get(event.stream_id)) is not None:
                    known.resume()
            case events.StreamReset():
                if (known := self._streams.get(event.stream_id)) is not None:
                    known.receive_reset(event.error_code)
            case events.StopSendingReceived():
                if (known := self._streams.get(event.stream_id)) is not None:
                    known.receive_stop(event.error_code)
            case events.DatagramFrameReceived():
                self._statistics.datagrams_received += 1
                handler.datagram_received(event.data, 0)
            case events.HandshakeCompleted():
                self._establish(event, handler)
            case DatagramSizeChanged():
                self._notice_datagram_size(handler)
            case events.ConnectionIdRetired():
                self._owner.cid_retired(self, event.connection_id)

    def _establish(self, event: events.HandshakeCompleted, handler: SessionHandler) -> None:
        self._established = True
        self._alpn = event.alpn_protocol or ""
        certificate = self.connection.peer_certificate
        self._peer_key = public_key_of(certificate) if certificate is not None else b""
        self._alive_at = self.connection.last_received or self._alive_at
        self._owner.session_established(self)
        handler.handshake_completed()
        self._notice_datagram_size(handler)

    def _notice_datagram_size(self, handler: SessionHandler) -> None:
        size = self.connection.max_datagram_payload
        if size != self._max_datagram_size and self._established and self._ended is None:
            self._max_datagram_size = size
            handler.max_datagram_size_changed(size)

    def _notice_path(self) -> None:
        path = self.connection.active_path
        if path is None or self._handler is None:
            return
        before = self._path
        self._path = path
        if before is None:
            self._path_validated = True  # The handshake validates the first path.
            return
        if before is not path:
            self._route = path.addr
            self._path_validated = False
            self._handler.path_changed(PathEvent(PathChange.ADDED, _network_path(path)))
        if not self._path_validated and path.is_validated:
            self._path_validated = True
            self._handler.path_changed(PathEvent(PathChange.VALIDATED, _network_path(path)))

    def _run_deferred(self) -> None:
        for _ in range(len(self._deferred)):
            callback = self._deferred.popleft()
            if self._ended is None:
                callback()
        if self._deferred:
            self.wake()

    # Ending.

    def _notice_close(self) -> None:
        """aioquic reports an end only after the closing period; we do as soon as it is certain."""
        if self._ended is None and (event := self.connection.close_event) is not None:
            self._end(ended_of(event, self.connection.closed_by, self._established))

    def _exporter(self) -> Exporter | None:
        return self.connection.exporter

    def _last_heard(self) -> float | None:
        return self.connection.last_received

    def _lose_streams(self, ended: Ended) -> None:
        self._deferred.clear()
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            self._guard(lambda stream=stream: stream.lose(ended))  # type: ignore[misc] # the default binds it now

    def _close_by_engine(self, code: int, reason: str) -> None:
        self.connection.close_by_engine(code, reason)

    def _discard(self) -> None:
        self.connection.discard()

    def _note_farewell(self, datagrams: list[tuple[bytes, Route]]) -> list[tuple[bytes, Route]]:
        if datagrams:
            self._farewell = datagrams[-1:]
        elif self._heard_since_end < 0 and not self.is_terminated:
            # RFC 9000 §10.2.1: the close is repeated to a peer that goes on sending, less and less often.
            self._heard_since_end = -self._heard_since_end
            return self._farewell
        return datagrams

    def _repeat_farewell(self) -> None:
        count = self._heard_since_end = abs(self._heard_since_end) + 1
        if self._farewell and count & (count - 1) == 0:
            self._heard_since_end = -count  # A power of two: one more is due.
            self.wake()


def _network_path(path: QuicNetworkPath) -> NetworkPath:
    return NetworkPath("udp", path.addr.local, path.addr.remote, path.is_validated)
