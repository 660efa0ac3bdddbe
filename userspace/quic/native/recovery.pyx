"""Read RFC 9002, whose names are used, and ``recovery.pxd`` first."""

from libc.stdint cimport uint32_t, uint64_t

from ..errors import PeerError

from .ack_frequency cimport ask_for_acks
from .core cimport BIDI, LEFT_OUT, UNI
from .path cimport MARKING, NOT_MARKING, SMALLEST_ALLOWANCE, SMALLEST_DATAGRAM, TRIAL_MARKS, TRYING, Path
from .sent cimport ACKNOWLEDGED, LOST, NEVER_SENT, OUTSTANDING, SentFrame, SentPacket
from .stream cimport OPEN, Stream
from .wire cimport (
    ACK, ACK_FREQUENCY, CRYPTO, EXTRA, HANDSHAKE_DONE, MAX_DATA, MAX_STREAM_DATA, MAX_STREAMS_BIDI, MAX_STREAMS_UNI,
    NEW_CONNECTION_ID, PROTOCOL_VIOLATION, RESET_STREAM, RETIRE_CONNECTION_ID, STOP_SENDING, STREAM,
)

cdef double NEVER = float("inf")
cdef double GRANULARITY = 0.001
cdef double TIME_THRESHOLD = 9.0 / 8.0
cdef double PERSISTENT = 3.0
cdef double LONGEST_PTO = 60.0
cdef enum:
    MOST_REORDERED = 256
    # Packets by which a path may be seen to reorder; losses behind it are left to the time threshold.
    MOST_BACKOFF = 12


cdef class Recovery(Core):
    cdef Path path_of(self, SentPacket* packet):
        cdef Path path
        if packet.path == self.path.id:
            return self.path
        for path in self.paths:
            if path.id == packet.path:
                return path
        return None

    cdef int begin_ack(self, uint64_t largest, double now) except -1:
        if largest >= self.sent.next:
            raise PeerError("a packet was acknowledged that was never sent", PROTOCOL_VIOLATION)
        self.counters.acks_received += 1
        self._newly_acked = self._eliciting_acked = False
        self._marked_acked = 0
        self._newest_sent_at = 0.0
        self.path.controller.begin_update(self.path.in_flight, now)
        return 0

    cdef bint ack_range(self, uint64_t low, uint64_t high, double now) except -1:
        cdef uint64_t number
        cdef SentPacket* packet
        cdef Path path
        cdef int i
        # Those who acknowledge in order, and ahead, must not get past a number once it is forgotten here.
        for i in range(LEFT_OUT):
            if self.left_out[i] and low <= self.left_out[i] <= high:
                raise PeerError("a packet number was acknowledged that was left out", PROTOCOL_VIOLATION)
        if low < self.refused_stop:
            # RFC 9001 §4.6.2.
            raise PeerError("a 0-RTT packet was acknowledged and 0-RTT rejected", PROTOCOL_VIOLATION)
        if high < self.sent.first:
            return False
        if low < self.sent.first:
            low = self.sent.first
        number = high + 1
        while number > low:
            number -= 1
            packet = self.sent.get(number)
            if packet.state == ACKNOWLEDGED:
                continue
            if packet.state == NEVER_SENT:
                raise PeerError("a packet number was acknowledged that was left out", PROTOCOL_VIOLATION)
            if packet.state == LOST:
                _spurious(self, number, packet, now)
                continue
            self._newly_acked = True
            if packet.ack_eliciting:
                self._eliciting_acked = True
            if packet.marked and packet.path == self.path.id:
                self._marked_acked += 1
            if packet.sample.sent_at > self._newest_sent_at:
                self._newest_sent_at = packet.sample.sent_at
            if packet.in_flight:
                path = self.path_of(packet)
                if path is not None:
                    assert path.in_flight >= packet.sample.size
                    path.in_flight -= packet.sample.size
                    if path is self.path and number >= path.controlled:
                        path.controller.on_acked(&packet.sample, now)
            self.sent.settle(packet, ACKNOWLEDGED)
            if packet.probe:
                path = self.path_of(packet)
                if path is not None and path.probe_acked(packet.sample.size, now):
                    self.size_changed()
            elif packet.sample.size > SMALLEST_DATAGRAM and packet.path == self.path.id:
                self.path.large_packet_acked(packet.sample.size)
            if number >= self.phase_began:
                self.phase_acked = True
            _frames_acked(self, packet)
        return True

    cdef int end_ack(
        self, uint64_t largest, double delay, bint counted, uint64_t ect0, uint64_t ect1, uint64_t marks, double now
    ) except -1:
        cdef SentPacket* packet = self.sent.get(largest)
        cdef bint newest = not self.any_acked or largest > self.largest_acked
        cdef bint had_more = self.sent.outstanding_eliciting != 0
        if newest:
            self.largest_acked = largest
            self.any_acked = True
        # The largest's record outlives this call: nothing is trimmed before the end.
        if newest and self._eliciting_acked and packet != NULL and packet.path == self.path.id:
            if self.confirmed and delay > self.peer_max_ack_delay:
                delay = self.peer_max_ack_delay
            self.path.rtt.update(now - packet.sample.sent_at, delay)
        if newest:
            _judge_marks(self, counted, ect0, ect1, marks, now)
        _detect_lost(self, now)
        self.path.controller.end_update(self.path.in_flight, now)
        if self.peer_min_ack_delay >= 0.0:
            ask_for_acks(self)
        if self._newly_acked:
            self.pto_count = 0
            self.probes_wanted = 0
        self.sent.trim(now - self.pto())
        assert _agrees(self)
        return 0

    cdef double recovery_timer(self) noexcept:
        cdef double timeout
        if self.loss_at != NEVER:
            return self.loss_at
        if not self.sent.outstanding_eliciting or not self.confirmed or self.path.allowance() < SMALLEST_ALLOWANCE:
            return NEVER
        # Probes that go unanswered go out less and less often (RFC 9002 §6.2.1). But when the peer is heard meanwhile, the
        # path is not as dead as that: after an outage it must not take as long again until we notice.
        timeout = self.pto()
        if self.pto_count and not self.heard_since_pto:
            timeout *= <double>(<uint64_t>1 << min(self.pto_count, <uint32_t>MOST_BACKOFF))
        return self.last_eliciting_at + (timeout if timeout < LONGEST_PTO else LONGEST_PTO)

    cdef int on_recovery_timer(self, double now) except -1:
        if self.loss_at != NEVER:
            self.path.controller.begin_update(self.path.in_flight, now)
            _detect_lost(self, now)
            self.path.controller.end_update(self.path.in_flight, now)
            self.sent.trim(now - self.pto())
            assert _agrees(self)
            return 0
        self.counters.probe_timeouts += 1
        self.pto_count += 1
        self.heard_since_pto = False
        self.last_eliciting_at = now
        if self.pto_count >= 3 and self.path.black_hole(now):
            self.size_changed()
        return self.send_oldest_again()

    cdef int send_oldest_again(self) except -1:
        # RFC 9002 §6.2.4: what is oldest goes out once more, with no judgement passed on it.
        cdef uint64_t number
        cdef int wanted = 2
        cdef SentPacket* packet
        self.probes_wanted = 2
        for number in range(self.oldest, self.sent.next):
            packet = self.sent.get(number)
            if packet != NULL and packet.state == OUTSTANDING and packet.ack_eliciting:
                _frames_lost(self, packet)
                wanted -= 1
                if not wanted:
                    break
        self.ping_wanted = True
        return 0

    cdef int requeue_all(self) except -1:
        cdef uint64_t number
        cdef SentPacket* packet
        cdef Path path
        for number in range(self.sent.first, self.sent.next):
            packet = self.sent.get(number)
            if packet.state == OUTSTANDING:
                path = self.path_of(packet)
                if packet.in_flight and path is not None:
                    assert path.in_flight >= packet.sample.size
                    path.in_flight -= packet.sample.size
                self.sent.settle(packet, LOST)
                _frames_lost(self, packet)
        self.oldest = self.sent.next
        self.loss_at = NEVER
        assert _agrees(self)
        return 0


cdef inline bint _agrees(Recovery self) noexcept:
    # What is counted is what the packets say, and none is outstanding below `oldest`.
    cdef uint64_t number, in_flight, eliciting = 0
    cdef SentPacket* packet
    cdef Path path
    for path in self.paths:
        in_flight = 0
        for number in range(self.sent.first, self.sent.next):
            packet = self.sent.get(number)
            if packet.state == OUTSTANDING and packet.in_flight and packet.path == path.id:
                in_flight += packet.sample.size
        if in_flight != path.in_flight:
            return False
    for number in range(self.sent.first, self.sent.next):
        packet = self.sent.get(number)
        if packet.state == OUTSTANDING:
            eliciting += packet.ack_eliciting
            if number < self.oldest:
                return False
    return eliciting == self.sent.outstanding_eliciting


cdef void _judge_marks(
    Recovery self, bint counted, uint64_t ect0, uint64_t ect1, uint64_t marks, double now
) noexcept:
    # RFC 9000 §13.4.2: what arrives with marks is believed only while it can be what we have sent.
    cdef Path path = self.path
    if path.marking == NOT_MARKING:
        return
    if not counted:
        if self._marked_acked:
            path.marking = NOT_MARKING
        return
    if ect1 or ect0 < self.peer_ect0 or marks < self.peer_marks or ect0 + marks > self.marks_sent or \
            ect0 + marks - self.peer_ect0 - self.peer_marks < self._marked_acked:
        path.marking = NOT_MARKING
        return
    if self._marked_acked:
        path.marking = MARKING
    if marks > self.peer_marks:
        self.counters.congestion_marks += marks - self.peer_marks
        path.controller.on_congestion_marks(marks - self.peer_marks, self._newest_sent_at, now)
    self.peer_ect0 = ect0
    self.peer_marks = marks


cdef int _detect_lost(Recovery self, double now) except -1:
    cdef uint64_t number
    cdef SentPacket* packet
    cdef Path path
    cdef double rtt = max(self.path.rtt.latest, self.path.rtt.smoothed)
    cdef double delay = max(TIME_THRESHOLD * rtt, GRANULARITY)
    cdef double first_lost = -1.0, last_lost = -1.0
    cdef bint persistent = False
    cdef double duration = PERSISTENT * self.pto()
    self.loss_at = NEVER
    if self.oldest < self.sent.first:
        self.oldest = self.sent.first
    while self.oldest < self.sent.next and self.sent.get(self.oldest).state != OUTSTANDING:
        self.oldest += 1
    if not self.any_acked:
        return 0
    for number in range(self.oldest, self.largest_acked + 1):
        packet = self.sent.get(number)
        if packet == NULL:
            continue
        if packet.state != OUTSTANDING:
            if packet.state == ACKNOWLEDGED and packet.ack_eliciting:
                first_lost = -1.0   # Something came through: no persistent congestion (RFC 9002 §7.6.2).
            continue
        # The same sum as the timer's, so that it cannot fire a moment too early.
        if packet.sample.sent_at + delay > now and self.largest_acked - number < self.packet_threshold:
            if packet.sample.sent_at + delay < self.loss_at:
                self.loss_at = packet.sample.sent_at + delay
            continue
        self.counters.packets_lost += 1
        if self.qlog is not None:
            self.qlog.lost(
                number, packet.path, packet.probe, self.largest_acked - number >= self.packet_threshold, now
            )
        path = self.path_of(packet)
        if packet.in_flight and path is not None:
            assert path.in_flight >= packet.sample.size
            path.in_flight -= packet.sample.size
        if packet.marked and path is not None:
            path.marks_lost += 1
            if path.marking == TRYING and path.marks_lost >= TRIAL_MARKS:
                path.marking = NOT_MARKING      # As if something on the way dropped what is marked.
        if packet.probe:
            self.counters.mtu_probes_lost += 1
            if path is not None:
                path.probe_lost(packet.sample.size, now)
        elif packet.in_flight and path is self.path and number >= path.controlled:
            path.controller.on_lost(&packet.sample, now)
            if packet.sample.size > SMALLEST_DATAGRAM and path.large_packet_lost(packet.sample.size, now, duration):
                self.size_changed()
            if packet.ack_eliciting and path.rtt.sampled:
                last_lost = packet.sample.sent_at
                if first_lost < 0.0:
                    first_lost = last_lost
                elif last_lost - first_lost > duration:
                    persistent = True
        self.sent.settle(packet, LOST)
        _frames_lost(self, packet)
    if persistent:
        self.path.controller.on_persistent_congestion(now)
        self.path.rtt.renew_minimum()
    while self.oldest < self.sent.next and self.sent.get(self.oldest).state != OUTSTANDING:
        self.oldest += 1
    return 0


cdef int _spurious(Recovery self, uint64_t number, SentPacket* packet, double now) except -1:
    cdef Path path = self.path_of(packet)
    cdef uint64_t distance
    self.counters.packets_spurious += 1
    self.sent.settle(packet, ACKNOWLEDGED)
    self._newly_acked = True
    if path is self.path and packet.in_flight and not packet.probe and number >= path.controlled:
        path.controller.on_spurious_loss(packet.sample.sent_at, now)
        distance = self.sent.next - number
        if self.any_acked and self.largest_acked > number:
            distance = self.largest_acked - number + 1
        if distance > self.packet_threshold:
            self.packet_threshold = <uint32_t>min(distance, <uint64_t>MOST_REORDERED)
    return _frames_acked(self, packet)


cdef int _frames_acked(Recovery self, SentPacket* packet) except -1:
    cdef uint64_t index
    cdef SentFrame* frame
    cdef Stream stream
    for index in range(packet.frames, packet.frames + packet.frame_count):
        frame = self.sent.frame(index)
        if frame.kind == STREAM:
            stream = _stream(self, frame.id)
            if stream is not None and not stream.reset_wanted and not stream.send_over:
                stream.out.on_acked(frame.offset, frame.size, frame.fin)
                stream.sending_acknowledged()
        elif frame.kind == ACK:
            if frame.id >= self.report_floor:
                self.report_floor = frame.id + 1
        elif frame.kind == CRYPTO:
            self.crypto_out.on_acked(frame.offset, frame.size, False)
        elif frame.kind == RESET_STREAM:
            stream = _stream(self, frame.id)
            if stream is not None:
                stream.reset_pending = False
                stream.sending_acknowledged()
        elif frame.kind == EXTRA:
            sent = self.extra_sent.pop(frame.id, None)
            if sent is not None and sent[1] is not None:
                self.events.append(("extra_acked", sent[1]))
    return 0


cdef int _frames_lost(Recovery self, SentPacket* packet) except -1:
    cdef uint64_t index
    cdef SentFrame* frame
    cdef Stream stream
    for index in range(packet.frames, packet.frames + packet.frame_count):
        frame = self.sent.frame(index)
        if frame.kind == STREAM:
            stream = _stream(self, frame.id)
            if stream is not None and not stream.reset_wanted and not stream.send_over:
                stream.out.on_lost(frame.offset, frame.size, frame.fin)
                self.activate(stream)
        elif frame.kind == CRYPTO:
            self.crypto_out.on_lost(frame.offset, frame.size, False)
        elif frame.kind == RESET_STREAM:
            stream = _stream(self, frame.id)
            if stream is not None and not stream.send_over:
                stream.reset_pending = True
                self.activate(stream)
        elif frame.kind == STOP_SENDING:
            stream = _stream(self, frame.id)
            if stream is not None and stream.final == OPEN:
                stream.stop_pending = True
                self.announce(stream)
        elif frame.kind == MAX_STREAM_DATA:
            stream = _stream(self, frame.id)
            if stream is not None and stream.final == OPEN:
                stream.limit_pending = True
                self.announce(stream)
        elif frame.kind == MAX_DATA:
            self.max_data_pending = True
        elif frame.kind == MAX_STREAMS_BIDI:
            self.max_streams_pending[BIDI] = True
        elif frame.kind == MAX_STREAMS_UNI:
            self.max_streams_pending[UNI] = True
        elif frame.kind == NEW_CONNECTION_ID:
            if frame.id in self.own_cids and frame.id not in self.own_cids_pending:
                self.own_cids_pending.append(frame.id)
        elif frame.kind == RETIRE_CONNECTION_ID:
            if frame.id not in self.retire_pending:
                self.retire_pending.append(frame.id)
        elif frame.kind == HANDSHAKE_DONE:
            self.handshake_done_wanted = True
        elif frame.kind == ACK_FREQUENCY:
            if frame.id + 1 == self.ack_frequency_next:
                self.ack_frequency_pending = True
        elif frame.kind == EXTRA:
            if frame.id in self.extra_sent and frame.id not in self.extra_pending:
                self.extra_pending.append(frame.id)
    return 0


cdef Stream _stream(Recovery self, uint64_t number):
    cdef Stream stream = self.last_stream
    if stream is not None and stream.number == number:
        return stream
    stream = self.streams.get(number)
    if stream is not None:
        self.last_stream = stream
    return stream
