"""What a connection puts into its 1-RTT packets, in which order, and how large they are.

aioquic looks at every open stream for every packet; here only streams with something to send are looked at, by
priority, and those of one priority take turns. Read RFC 9000 §13 and §14 and ``QuicConnection._write_application``
first. Part of the guarded room; see ``__init__``. ``Connection`` is the only subclass.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream

from ..types import Priority
from .common import SMALLEST_DATAGRAM
from .streams import DatagramSizeChanged, SendDrained, sender_of, stream_id_of

PROBE_SIZES = (1400, 1340, 1280)
"""What is probed for when the largest size does not come through: Ethernet behind PPPoE, WireGuard or IPsec, a 1280
link's neighbour."""
PROBE_TRIES = 2
"""Probes of one size before the next smaller one: one may be lost by congestion."""
BLACK_HOLE_PTOS = 3
"""Probe timeouts in a row after which large datagrams are suspected to be dropped (RFC 8899 §4.3)."""
BLACK_HOLE_LOSSES = 6
"""Large packets lost in a row, over as long as that, after which they are, too."""
MOST_PACKETS = 64
"""Packets made at once, about 2 ms of work: the other sessions of the event loop want their turn, too. As many as one
system call can send."""
TIMER_GRANULARITY = 0.002
"""Seconds worth of packets that pacing lets go at once: event loops wake up at most once a millisecond."""


class Pacer(QuicPacketPacer):
    """Lets bursts be as long as the event loop's timers are coarse."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, TIMER_GRANULARITY)


class SendingConnection(QuicConnection):
    """aioquic's connection with a scheduler of ours."""

    datagrams_dropped = 0
    """DATAGRAMs that waited too long or that the path can no longer carry."""
    has_more = False
    """Whether ``datagrams_to_send`` has stopped only to let others have their turn."""

    def _prepare_sending(self, largest: int) -> None:
        """Called once, at the end of the constructor. largest: octets of the largest datagram to send."""
        self._ready: tuple[deque[QuicStream], ...] = tuple(deque() for _ in Priority)
        self._credit_blocked: set[QuicStream] = set()
        self._limits_pending: dict[QuicStream, None] = {}
        self._datagrams_turn = False
        # Initials are padded to this. Congestion control and pacing count in the configured, larger size.
        self._max_datagram_size = SMALLEST_DATAGRAM
        self._loss._pacer = Pacer(max_datagram_size=largest)
        self._largest_datagram = largest
        self._probe_sizes: list[int] = []
        self._probe_tries = 0
        self._probe_in_flight = False

    def activate(self, stream: QuicStream) -> None:
        """The stream may have something to send: let it be served in its turn."""
        sender = sender_of(stream)
        if not sender.queued and not stream.is_blocked:
            sender.queued = True
            self._ready[sender.priority].append(stream)

    @property
    def max_datagram_payload(self) -> int:
        """Octets of the largest DATAGRAM frame payload that fits in a packet and that the peer takes; 0: none."""
        frame_limit = self._remote_max_datagram_frame_size
        if not frame_limit:
            return 0
        # Short header: 1 + connection ID + 2 octets of packet number; AEAD tag 16; frame type 1 and length 2.
        room = self._max_datagram_size - (1 + len(self._peer_cid.cid) + 2) - 16 - 3
        return max(0, min(room, frame_limit - 3))

    def drop_oldest_datagram(self) -> None:
        self._datagrams_pending.popleft()
        self.datagrams_dropped += 1

    # Flow control: what wakes a stream that could not send.

    def _handle_max_data_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        blocked, self._credit_blocked = self._credit_blocked, set()
        for stream in sorted(blocked, key=stream_id_of):
            self.activate(stream)

    def _handle_max_stream_data_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        self.activate(self._streams[stream_id])

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        waiting = self._streams_blocked_uni if is_unidirectional else self._streams_blocked_bidi
        before = list(waiting)
        super()._unblock_streams(is_unidirectional)
        for stream in before[: len(before) - len(waiting)]:
            self.activate(stream)

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if delivery is not QuicDeliveryState.ACKED and stream.stream_id in self._streams:
            self._limits_pending[stream] = None

    # What goes into 1-RTT packets, in the order of urgency.

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        crypto = self._cryptos[tls.Epoch.ONE_RTT]
        if not crypto.send.is_valid():
            return
        space = self._spaces[tls.Epoch.ONE_RTT]
        pacer = self._loss._pacer
        self.has_more = False
        for _ in range(MOST_PACKETS):
            ack_due = space.ack_at is not None and space.ack_at <= now
            if not ack_due:
                if not self._has_work(network_path):
                    return
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None:
                    return
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            try:
                if ack_due:
                    self._write_ack_frame(builder=builder, space=space, now=now)
                self._fill_packet(builder, space, network_path, now)
            except QuicPacketBuilderStop:
                pass  # The packet or the congestion window is full; in the latter case the next packet stays empty.
            if builder.packet_is_empty:
                return
            pacer.update_after_send(now=now)
        self.has_more = True

    def _has_work(self, network_path: QuicNetworkPath) -> bool:
        data, bidi, uni = self._local_max_data, self._local_max_streams_bidi, self._local_max_streams_uni
        return bool(
            any(self._ready)
            or self._limits_pending
            or self._datagrams_pending
            or self._ping_pending
            or self._probe_pending
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or data.sent != data.value
            or bidi.sent != bidi.value
            or uni.sent != uni.value
            or network_path.remote_challenges
            or not (network_path.is_validated or network_path.local_challenge_sent)
            or not self._crypto_streams[tls.Epoch.ONE_RTT].sender.buffer_is_empty
            or not all(connection_id.was_sent for connection_id in self._host_cids)
        )

    def _fill_packet(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, network_path: QuicNetworkPath, now: float
    ) -> None:
        """Raises QuicPacketBuilderStop when something more would have been sent but for want of room."""
        if self._handshake_complete:
            self._write_connection_frames(builder, space, network_path, now)
        while self._limits_pending:
            stream = next(iter(self._limits_pending))
            if not stream.receiver.is_finished:
                self._write_stream_limits(builder=builder, space=space, stream=stream)
            del self._limits_pending[stream]
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder, comment="probe")
            self._probe_pending = False
        crypto_stream = self._crypto_streams[tls.Epoch.ONE_RTT]
        if not crypto_stream.sender.buffer_is_empty:
            self._write_crypto_frame(builder=builder, space=space, stream=crypto_stream)
        control, *others = self._ready
        if not self._serve_all(builder, space, control):
            return
        if self._datagrams_pending:
            # Nothing slows a sender of datagrams down: with streams waiting, they begin every second packet only.
            self._datagrams_turn = not self._datagrams_turn
            if self._datagrams_turn or not any(others):
                self._write_datagrams(builder)
        for queue in others:
            if not self._serve_all(builder, space, queue):
                return

    def _serve_all(self, builder: QuicPacketBuilder, space: QuicPacketSpace, queue: deque[QuicStream]) -> bool:
        """Serve streams of one priority until none is left, or the packet is full: False."""
        while queue:
            if not self._serve(builder, space, queue):
                return False
        return True

    def _write_connection_frames(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, network_path: QuicNetworkPath, now: float
    ) -> None:
        # RFC 9000 §9.3: the peer's new address is validated before much is sent there.
        if not (network_path.is_validated or network_path.local_challenge_sent):
            self._write_path_challenge_frame(builder=builder, network_path=network_path)
            if network_path.validation_deadline is None:
                longest = max(self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt)
                network_path.validation_deadline = now + 3 * longest  # RFC 9000 §8.2.4
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder=builder)
            self._handshake_done_pending = False
        while network_path.remote_challenges:
            self._write_path_response_frame(builder=builder, challenge=network_path.remote_challenges[0])
            network_path.remote_challenges.popleft()
        for connection_id in self._host_cids:
            if not connection_id.was_sent:
                self._write_new_connection_id_frame(builder=builder, connection_id=connection_id)
        while self._retire_connection_ids:
            self._write_retire_connection_id_frame(builder=builder, sequence_number=self._retire_connection_ids[0])
            self._retire_connection_ids.pop(0)
        if self._streams_blocked_pending:
            for waiting, frame_type, limit in (
                (self._streams_blocked_bidi, QuicFrameType.STREAMS_BLOCKED_BIDI, self._remote_max_streams_bidi),
                (self._streams_blocked_uni, QuicFrameType.STREAMS_BLOCKED_UNI, self._remote_max_streams_uni),
            ):
                if waiting:
                    self._write_streams_blocked_frame(builder=builder, frame_type=frame_type, limit=limit)
            self._streams_blocked_pending = False
        self._write_connection_limits(builder=builder, space=space)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        for limit in (self._local_max_data, self._local_max_streams_bidi, self._local_max_streams_uni):
            if limit.value == limit.sent:
                continue
            if limit is not self._local_max_data and limit.sent - limit.used >= limit.value - limit.sent:
                continue  # MAX_STREAMS waits until it gives the peer more streams than it has left to open.
            buf = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        # aioquic's own would double the limit here, whether or not anyone has consumed anything.
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buf.push_uint_var(stream_id_of(stream))
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_datagrams(self, builder: QuicPacketBuilder) -> None:
        while self._datagrams_pending:
            data = self._datagrams_pending[0]
            if len(data) > self.max_datagram_payload:
                self.drop_oldest_datagram()  # The path has become narrower since it was queued.
                continue
            try:
                self._write_datagram_frame(builder=builder, data=data, frame_type=QuicFrameType.DATAGRAM_WITH_LENGTH)
            except QuicPacketBuilderStop:
                return  # It is first in the next packet; a stream may use what room is left in this one.
            self._datagrams_pending.popleft()

    def _serve(self, builder: QuicPacketBuilder, space: QuicPacketSpace, queue: deque[QuicStream]) -> bool:
        """Let the first stream of queue send; False when the packet is full. Streams of one priority take turns."""
        stream = queue[0]
        sender = sender_of(stream)
        if stream.receiver.stop_pending:
            if not stream.receiver.is_finished:
                self._write_stop_sending_frame(builder=builder, stream=stream)
            stream.receiver.stop_pending = False
        if sender.reset_pending:
            self._write_reset_stream_frame(builder=builder, stream=stream)
        elif sender.has_work:
            stream_limit = stream.max_stream_data_remote
            session_limit = sender.highest_offset + self._remote_max_data - self._remote_max_data_used
            limit = min(session_limit, stream_limit)
            used = self._write_stream_frame(builder=builder, space=space, stream=stream, max_offset=limit)
            self._remote_max_data_used += used
            if sender.resume_below >= 0 and sender.unsent <= sender.resume_below:
                sender.resume_below = -1
                self._events.append(SendDrained(stream_id_of(stream)))
            pending = sender.first_pending()
            if pending is None:
                if sender.has_work:
                    return False  # A FIN alone did not fit.
            elif pending < limit:
                # More could go but for the packet's size: the others' turn.
                queue.rotate(-1)
                return False
            elif session_limit <= stream_limit:
                self._credit_blocked.add(stream)
        queue.popleft()
        sender.queued = False
        return True

    # Path MTU discovery (RFC 9000 §14.3, RFC 8899), as far as a confirmed connection needs it.

    def _set_datagram_size(self, size: int) -> None:
        self._max_datagram_size = size
        self._events.append(DatagramSizeChanged())

    def _probe_size(self, now: float) -> list[tuple[bytes, Any]]:
        path = self._network_paths[0]
        if not path.is_validated:
            return []
        size = self._probe_sizes[0]
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version,  # type: ignore[arg-type] # set since the handshake
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        builder.start_frame(QuicFrameType.PING, handler=self._on_probe_delivery, handler_args=(size,))
        builder.start_frame(QuicFrameType.PADDING).push_bytes(bytes(builder.remaining_buffer_space))
        # RFC 9000 §14.4: the loss of a probe is no sign of congestion.
        assert builder._packet is not None
        builder._packet.in_flight = False
        self._probe_in_flight = True
        return self._flush_builder(builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now)

    def _on_probe_delivery(self, delivery: QuicDeliveryState, size: int) -> None:
        self._probe_in_flight = False
        if not self._probe_sizes:
            return  # Given up meanwhile.
        if delivery is QuicDeliveryState.ACKED:
            self._probe_sizes = []
            self._set_datagram_size(size)
            return
        self._probe_tries += 1
        if self._probe_tries == PROBE_TRIES:
            self._probe_tries = 0
            self._probe_sizes.pop(0)
