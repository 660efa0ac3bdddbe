"""One QUIC connection of aioquic's, with its doors open where the session needs them.

Read aioquic.quic.connection first. Part of the guarded room; see ``__init__``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
    stream_is_client_initiated,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, pull_quic_transport_parameters
from aioquic.quic.stream import QuicStream
from cryptography import x509

from ..exporter import Exporter
from ..types import Priority
from .common import SMALLEST_DATAGRAM, ClosedBy, shorten, use_negotiated_version
from .sending import BLACK_HOLE_LOSSES, BLACK_HOLE_PTOS, PROBE_SIZES, SendingConnection
from .streams import Receiver, Sender, StreamOpened, Streams, sender_of, stream_id_of


class Connection(SendingConnection):
    """One QUIC connection of aioquic's, with its doors open where we need them.

    new_cid: makes connection IDs. reset_token: the stateless reset token of one of them.
    verify_peer: called on a client with the server's leaf certificate after its CertificateVerify and Finished have been
    checked and before anything is sent under 1-RTT keys; raises tls.Alert to refuse it.
    groups, signature_algorithms: what TLS may negotiate.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        new_cid: Callable[[], bytes],
        reset_token: Callable[[bytes], bytes],
        verify_peer: Callable[[x509.Certificate], None] | None,
        groups: tuple[tls.Group, ...],
        signature_algorithms: tuple[tls.SignatureAlgorithm, ...],
        max_streams: tuple[int, int],
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._new_cid = new_cid
        self._reset_token = reset_token
        self._verify_peer = verify_peer
        self._groups = groups
        self._signature_algorithms = signature_algorithms
        self.exporter: Exporter | None = None
        self.closed_by: ClosedBy | None = None

        own = self._host_cids[0]
        own.cid = self.host_cid = self._local_initial_source_connection_id = new_cid()
        if not self._is_client:
            own.stateless_reset_token = reset_token(own.cid)
        for limit, value in zip((self._local_max_streams_bidi, self._local_max_streams_uni), max_streams, strict=True):
            limit.value = limit.sent = value

        self._prepare_sending(configuration.max_datagram_size)
        self._streams = Streams(self.adopt)

    # What the session asks.

    def drain_events(self) -> Iterator[events.QuicEvent]:
        """Take the events that have come up, also those that come up meanwhile."""
        queue = self._events
        while queue:
            yield queue.popleft()

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def append_event(self, event: events.QuicEvent) -> None:
        self._events.append(event)

    @property
    def is_established(self) -> bool:
        return self._handshake_complete

    @property
    def is_heard(self) -> bool:
        """Whether a packet of the peer's has been authenticated."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def is_closing(self) -> bool:
        return self._state in END_STATES or self._close_event is not None

    @property
    def is_terminated(self) -> bool:
        return self._state is QuicConnectionState.TERMINATED

    @property
    def close_event(self) -> events.ConnectionTerminated | None:
        return self._close_event

    @property
    def peer_reset_tokens(self) -> list[bytes]:
        """The stateless reset tokens of the peer's connection IDs that we use (RFC 9000 §10.3.1)."""
        return [token for token in (self._peer_cid.stateless_reset_token,) if token]

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self.tls._peer_certificate if self._state is not QuicConnectionState.FIRSTFLIGHT else None

    @property
    def active_path(self) -> QuicNetworkPath | None:
        return self._network_paths[0] if self._network_paths else None

    @property
    def last_received(self) -> float | None:
        """When the newest 1-RTT packet came, on the caller's clock."""
        space = self._spaces.get(tls.Epoch.ONE_RTT)
        return space.largest_received_time if space is not None else None

    @property
    def packets_sent(self) -> int:
        return self._packet_number

    @property
    def smoothed_rtt(self) -> float:
        return self._loss._rtt_smoothed

    @property
    def minimum_rtt(self) -> float:
        return self._loss._rtt_min if self._loss._rtt_initialized else 0.0

    @property
    def congestion_window(self) -> int:
        return self._loss.congestion_window

    @property
    def bytes_in_flight(self) -> int:
        return self._loss.bytes_in_flight

    @property
    def congestion_controller(self) -> object:
        return self._loss._cc

    @property
    def datagrams_queued(self) -> int:
        return len(self._datagrams_pending)

    def streams_available(self, bidirectional: bool) -> int:
        """Streams that the peer lets us open beyond those open; negative: so many wait."""
        if bidirectional:
            return self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4
        return self._remote_max_streams_uni - self._local_next_stream_id_uni // 4

    @property
    def streams_open(self) -> int:
        return len(self._streams)

    # What the session commands.

    def open_stream(self, bidirectional: bool, priority: Priority) -> QuicStream:
        stream = self._get_or_create_stream_for_send(self.get_next_available_stream_id(not bidirectional))
        sender_of(stream).priority = priority
        return stream

    def forget_stream(self, stream: QuicStream) -> None:
        """Both halves are finished and reported: make room for another."""
        stream_id = stream_id_of(stream)
        if self._streams.pop(stream_id, None) is None:
            return
        self._limits_pending.pop(stream, None)
        self._credit_blocked.discard(stream)
        if stream_is_client_initiated(stream_id) != self._is_client:
            self._stream_limit(stream_id).value += 1

    def raise_max_data(self, value: int) -> None:
        """Let the peer send up to value octets on all streams together (RFC 9000 §4.1)."""
        self._local_max_data.value = value

    @property
    def max_data(self) -> int:
        return self._local_max_data.value

    @property
    def data_received(self) -> int:
        """Octets that the peer has used of ``max_data``."""
        return self._local_max_data.used

    @property
    def data_sent(self) -> int:
        """Octets of stream data sent so far, those sent again not counted twice."""
        return self._remote_max_data_used

    def raise_max_stream_data(self, stream: QuicStream, value: int) -> None:
        stream.max_stream_data_local = value
        self._limits_pending[stream] = None

    def send_probe(self) -> None:
        """A PING that the congestion window does not hold back, as after a probe timeout (RFC 9002 §7.5)."""
        self._probe_pending = True

    def close_by_application(self, code: int, reason: str) -> None:
        if self._close_event is None:
            self.closed_by = ClosedBy.APPLICATION
            super().close(code, None, shorten(reason))

    def close_by_engine(self, code: int, reason: str) -> None:
        self.close(code, QuicFrameType.PADDING, reason)

    def discard(self) -> None:
        """Forget everything at once and send nothing more."""
        if self._state is not QuicConnectionState.TERMINATED:
            if self._close_event is None:
                self._close_event = events.ConnectionTerminated(QuicErrorCode.NO_ERROR, None, "")
            self._close_end()

    def adopt(self, stream: QuicStream) -> None:
        """aioquic has made a stream: give it our halves."""
        stream.sender = Sender(self, stream, writable=not stream.sender.is_finished)
        stream.receiver = Receiver(self, stream, readable=not stream.receiver.is_finished)
        if stream_is_client_initiated(stream_id_of(stream)) != self._is_client:
            self._events.append(StreamOpened(stream))

    # aioquic's public methods.

    def close(
        self, error_code: int = QuicErrorCode.NO_ERROR, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """Called by aioquic itself when the peer breaks the protocol."""
        if self._close_event is None and self.closed_by is None:
            self.closed_by = ClosedBy.ENGINE
        # A close without a frame type would go out as one of the application's.
        super().close(error_code, frame_type or QuicFrameType.PADDING, shorten(reason_phrase))

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if not self._network_paths:
            return []  # A server that has not understood any packet yet.
        if self._close_pending and not self._network_paths[0].can_send(SMALLEST_DATAGRAM):
            # RFC 9000 §8.1 holds for CONNECTION_CLOSE too, which aioquic does not count.
            self._close_pending = False
            self._close_begin(is_initiator=True, now=now)
            return []
        datagrams = super().datagrams_to_send(now)
        # aioquic's own queue of streams is not used.
        self._streams_queue.clear()
        if self._probe_sizes and not self._probe_in_flight and self._handshake_confirmed and not self.is_closing:
            datagrams += self._probe_size(now)
        return datagrams

    def get_timer(self) -> float | None:
        return None if self._close_at is None else super().get_timer()

    def handle_timer(self, now: float) -> None:
        if self._close_at is None:
            return
        if now >= self._close_at and self._close_event is None:
            self.closed_by = ClosedBy.TIMEOUT
        super().handle_timer(now)
        if self._close_event is not None and self.closed_by is None:
            self.closed_by = ClosedBy.NO_PATH
        if self._loss._pto_count >= BLACK_HOLE_PTOS:
            self._shrink()

    def large_packets_lost(self, count: int, seconds: float) -> None:
        """So many of more than 1200 octets are lost since one of them was acknowledged, for so long. While small ones pass,
        there is no probe timeout to tell that the path has narrowed."""
        if count >= BLACK_HOLE_LOSSES and seconds > BLACK_HOLE_PTOS * self._loss.get_probe_timeout():
            self._shrink()

    def _shrink(self) -> None:
        if self._max_datagram_size > SMALLEST_DATAGRAM:
            self._probe_sizes = []
            self._set_datagram_size(SMALLEST_DATAGRAM)

    # Handshake.

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._supported_groups = list(self._groups)
        self.tls._signature_algorithms = list(self._signature_algorithms)

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        # Both ends get the server's 1-RTT secret exactly when the transcript is ClientHello to server Finished.
        own = tls.Direction.DECRYPT if self._is_client else tls.Direction.ENCRYPT
        if epoch is tls.Epoch.ONE_RTT and direction is own:
            if self._is_client and self._verify_peer is not None:
                assert self.tls._peer_certificate is not None
                self._verify_peer(self.tls._peer_certificate)
            schedule = self.tls.key_schedule
            assert schedule is not None
            self.exporter = Exporter(schedule.derive_secret(b"exp master"), schedule.algorithm)
            log = self._configuration.secrets_log_file
            if log is not None:
                log.write(f"EXPORTER_SECRET {self.tls.client_random.hex()} {self.exporter.secret.hex()}\n")
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
        use_negotiated_version(self)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        parameters = pull_quic_transport_parameters(Buffer(data=data))
        if not parameters.max_idle_timeout:
            self._remote_max_idle_timeout = None  # RFC 9000 §10.1: 0 or absent is no limit.
        if parameters.ack_delay_exponent is not None:
            self._remote_ack_delay_exponent = parameters.ack_delay_exponent
        if parameters.max_udp_payload_size is not None:
            self._largest_datagram = min(self._largest_datagram, parameters.max_udp_payload_size)
        if self._largest_datagram > SMALLEST_DATAGRAM:
            smaller = (size for size in PROBE_SIZES if size < self._largest_datagram)
            self._probe_sizes = [self._largest_datagram, *smaller]

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < min(8, self._remote_active_connection_id_limit):
            cid = self._new_cid()
            self._host_cids.append(QuicConnectionId(cid, self._host_cid_seq, self._reset_token(cid)))
            self._host_cid_seq += 1

    def _handle_connection_close_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_connection_close_frame(context, frame_type, buf)
        if self.closed_by is None:
            application = frame_type == QuicFrameType.APPLICATION_CLOSE
            self.closed_by = ClosedBy.PEER_APPLICATION if application else ClosedBy.PEER_ENGINE
