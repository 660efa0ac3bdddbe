"""Read RFC 9002, whose names are used, and ``recovery.pxd`` first."""

from libc.stdint cimport uint32_t, uint64_t

from ..errors import PeerError

from .ack_frequency cimport ask_for_acks
from .core cimport BIDI, UNI
from .path cimport MARKING, NOT_MARKING, SMALLEST_ALLOWANCE, SMALLEST_DATAGRAM, TRIAL_MARKS, TRYING, Path
from .sent cimport ACKNOWLEDGED, LOST, NEVER_SENT, OUTSTANDING, SentFrame, SentPacket
from .space cimport LEFT_OUT, Space
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
    cdef int begin_ack(self, Space space, uint64_t largest, double now) except -1:
        if largest >= space.sent.next:
            raise PeerError("a packet was acknowledged that was never sent", PROTOCOL_VIOLATION)
        self.counters.acks_received += 1
        self._newly_acked = self._eliciting_acked = False
        self._marked_acked = 0
        self._newest_sent_at = 0.0
        space.path.controller.begin_update(space.path.in_flight, now)
        return 0

    cdef bint ack_range(self, Space space, uint64_t low, uint64_t high, double now) except -1:
        cdef uint64_t number
        cdef SentPacket* packet
        cdef Path path
        cdef int i
        # Those who acknowledge in order, and ahead, must not get past a number once it is forgotten here.
        for i in range(LEFT_OUT):
            if space.left_out[i] and low <= space.left_out[i] <= high:
                raise PeerError("a packet number was acknowledged that was left out", PROTOCOL_VIOLATION)
        if low < space.refused_stop:
            # RFC 9001 §4.6.2.
            raise PeerError("a 0-RTT packet was acknowledged and 0-RTT rejected", PROTOCOL_VIOLATION)
        if high < space.sent.first:
            return False
        if low < space.sent.first:
            low = space.sent.first
        number = high + 1
        while number > low:
            number -= 1
            packet = space.sent.get(number)
            if packet.state == ACKNOWLEDGED:
                continue
            if packet.state == NEVER_SENT:
                raise PeerError("a packet number was acknowledged that was left out", PROTOCOL_VIOLATION)
            if packet.state == LOST:
                _spurious(self, space, number, packet, now)
                continue
            self._newly_acked = True
            if packet.ack_eliciting:
                self._eliciting_acked = True
            if packet.marked and packet.path == space.path.id:
                self._marked_acked += 1
            if packet.sample.sent_at > self._newest_sent_at:
                self._newest_sent_at = packet.sample.sent_at
            if packet.in_flight:
                path = space.path_of(packet.path)
                if path is not None:
                    assert path.in_flight >= packet.sample.size
                    path.in_flight -= packet.sample.size
                    if path is space.path and number >= path.controlled:
                        path.controller.on_acked(&packet.sample, now)
            space.sent.settle(packet, ACKNOWLEDGED)
            if packet.probe:
                path = space.path_of(packet.path)
                if path is not None and path.probe_acked(packet.sample.size, now):
                    self.size_changed()
            elif packet.sample.size > SMALLEST_DATAGRAM and packet.path == space.path.id:
                space.path.large_packet_acked(packet.sample.size)
            if number >= space.phase_began:
                self.phase_acked = True
            _frames_acked(self, space, packet)
        return True

    cdef int end_ack(
        self, Space space, uint64_t largest, double delay, bint counted, uint64_t ect0, uint64_t ect1, uint64_t marks,
        double now
    ) except -1:
        cdef SentPacket* packet = space.sent.get(largest)
        cdef bint newest = not space.any_acked or largest > space.largest_acked
        cdef bint had_more = space.sent.outstanding_eliciting != 0
        if newest:
            space.largest_acked = largest
            space.any_acked = True
        # The largest's record outlives this call: nothing is trimmed before the end.
        if newest and self._eliciting_acked and packet != NULL and packet.path == space.path.id:
            if self.confirmed and delay > self.peer_max_ack_delay:
                delay = self.peer_max_ack_delay
            space.path.rtt.update(now - packet.sample.sent_at, delay)
        if newest:
            _judge_marks(self, space, counted, ect0, ect1, marks, now)
        _detect_lost(self, space, now)
        space.path.controller.end_update(space.path.in_flight, now)
        if self.peer_min_ack_delay >= 0.0:
            ask_for_acks(self)
        if self._newly_acked:
            space.pto_count = 0
            space.probes_wanted = 0
        space.sent.trim(now - self.pto_on(space.path))
        assert space.agrees()
        return 0

    cdef double recovery_timer(self, Space space) noexcept:
        cdef double timeout
        if space.loss_at != NEVER:
            return space.loss_at
        if not space.sent.outstanding_eliciting or not self.confirmed or space.path.allowance() < SMALLEST_ALLOWANCE:
            return NEVER
        # Probes that go unanswered go out less and less often (RFC 9002 §6.2.1). But when the peer is heard meanwhile, the
        # path is not as dead as that: after an outage it must not take as long again until we notice.
        timeout = self.pto_on(space.path)
        if space.pto_count and not space.heard_since_pto:
            timeout *= <double>(<uint64_t>1 << min(space.pto_count, <uint32_t>MOST_BACKOFF))
        return space.last_eliciting_at + (timeout if timeout < LONGEST_PTO else LONGEST_PTO)

    cdef int on_recovery_timer(self, Space space, double now) except -1:
        if space.loss_at != NEVER:
            space.path.controller.begin_update(space.path.in_flight, now)
            _detect_lost(self, space, now)
            space.path.controller.end_update(space.path.in_flight, now)
            space.sent.trim(now - self.pto_on(space.path))
            assert space.agrees()
            return 0
        self.counters.probe_timeouts += 1
        space.pto_count += 1
        space.heard_since_pto = False
        space.last_eliciting_at = now
        if space.pto_count >= 3 and space.path.black_hole(now):
            self.size_changed()
        return self.send_oldest_again(space)

    cdef int send_oldest_again(self, Space space) except -1:
        # RFC 9002 §6.2.4: what is oldest goes out once more, with no judgement passed on it.
        cdef uint64_t number
        cdef int wanted = 2
        cdef SentPacket* packet
        space.probes_wanted = 2
        for number in range(space.oldest, space.sent.next):
            packet = space.sent.get(number)
            if packet != NULL and packet.state == OUTSTANDING and packet.ack_eliciting:
                _frames_lost(self, space, packet)
                wanted -= 1
                if not wanted:
                    break
        space.ping_wanted = True
        return 0

    cdef int requeue_all(self, Space space) except -1:
        cdef uint64_t number
        cdef SentPacket* packet
        cdef Path path
        for number in range(space.sent.first, space.sent.next):
            packet = space.sent.get(number)
            if packet.state == OUTSTANDING:
                path = space.path_of(packet.path)
                if packet.in_flight and path is not None:
                    assert path.in_flight >= packet.sample.size
                    path.in_flight -= packet.sample.size
                space.sent.settle(packet, LOST)
                _frames_lost(self, space, packet)
        space.oldest = space.sent.next
        space.loss_at = NEVER
        assert space.agrees()
        return 0


cdef void _judge_marks(
    Recovery self, Space space, bint counted, uint64_t ect0, uint64_t ect1, uint64_t marks, double now
) noexcept:
    # RFC 9000 §13.4.2: what arrives with marks is believed only while it can be what we have sent.
    cdef Path path = space.path
    if path.marking == NOT_MARKING:
        return
    if not counted:
        if self._marked_acked:
            path.marking = NOT_MARKING
        return
    if ect1 or ect0 < space.peer_ect0 or marks < space.peer_marks or ect0 + marks > space.marks_sent or \
            ect0 + marks - space.peer_ect0 - space.peer_marks < self._marked_acked:
        path.marking = NOT_MARKING
        return
    if self._marked_acked:
        path.marking = MARKING
    if marks > space.peer_marks:
        self.counters.congestion_marks += marks - space.peer_marks
        path.controller.on_congestion_marks(marks - space.peer_marks, self._newest_sent_at, now)
    space.peer_ect0 = ect0
    space.peer_marks = marks


cdef int _detect_lost(Recovery self, Space space, double now) except -1:
    cdef uint64_t number
    cdef SentPacket* packet
    cdef Path path
    cdef double rtt = max(space.path.rtt.latest, space.path.rtt.smoothed)
    cdef double delay = max(TIME_THRESHOLD * rtt, GRANULARITY)
    cdef double first_lost = -1.0, last_lost = -1.0
    cdef bint persistent = False
    cdef double duration = PERSISTENT * self.pto_on(space.path)
    space.loss_at = NEVER
    if space.oldest < space.sent.first:
        space.oldest = space.sent.first
    while space.oldest < space.sent.next and space.sent.get(space.oldest).state != OUTSTANDING:
        space.oldest += 1
    if not space.any_acked:
        return 0
    for number in range(space.oldest, space.largest_acked + 1):
        packet = space.sent.get(number)
        if packet == NULL:
            continue
        if packet.state != OUTSTANDING:
            if packet.state == ACKNOWLEDGED and packet.ack_eliciting:
                first_lost = -1.0   # Something came through: no persistent congestion (RFC 9002 §7.6.2).
            continue
        # The same sum as the timer's, so that it cannot fire a moment too early.
        if packet.sample.sent_at + delay > now and space.largest_acked - number < space.packet_threshold:
            if packet.sample.sent_at + delay < space.loss_at:
                space.loss_at = packet.sample.sent_at + delay
            continue
        self.counters.packets_lost += 1
        if self.qlog is not None:
            self.qlog.lost(
                number, packet.path, packet.probe, space.largest_acked - number >= space.packet_threshold, now
            )
        path = space.path_of(packet.path)
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
        elif packet.in_flight and path is space.path and number >= path.controlled:
            path.controller.on_lost(&packet.sample, now)
            if packet.sample.size > SMALLEST_DATAGRAM and path.large_packet_lost(packet.sample.size, now, duration):
                self.size_changed()
            if packet.ack_eliciting and path.rtt.sampled:
                last_lost = packet.sample.sent_at
                if first_lost < 0.0:
                    first_lost = last_lost
                elif last_lost - first_lost > duration:
                    persistent = True
        space.sent.settle(packet, LOST)
        _frames_lost(self, space, packet)
    if persistent:
        space.path.controller.on_persistent_congestion(now)
        space.path.rtt.renew_minimum()
    while space.oldest < space.sent.next and space.sent.get(space.oldest).state != OUTSTANDING:
        space.oldest += 1
    return 0


cdef int _spurious(Recovery self, Space space, uint64_t number, SentPacket* packet, double now) except -1:
    cdef Path path = space.path_of(packet.path)
    cdef uint64_t distance
    self.counters.packets_spurious += 1
    space.sent.settle(packet, ACKNOWLEDGED)
    self._newly_acked = True
    if path is space.path and packet.in_flight and not packet.probe and number >= path.controlled:
        path.controller.on_spurious_loss(packet.sample.sent_at, now)
        distance = space.sent.next - number
        if space.any_acked and space.largest_acked > number:
            distance = space.largest_acked - number + 1
        if distance > space.packet_threshold:
            space.packet_threshold = <uint32_t>min(distance, <uint64_t>MOST_REORDERED)
    return _frames_acked(self, space, packet)


cdef int _frames_acked(Recovery self, Space space, SentPacket* packet) except -1:
    cdef uint64_t index
    cdef SentFrame* frame
    cdef Stream stream
    cdef Space reported
    for index in range(packet.frames, packet.frames + packet.frame_count):
        frame = space.sent.frame(index)
        if frame.kind == STREAM:
            stream = _stream(self, frame.id)
            if stream is not None and not stream.reset_wanted and not stream.send_over:
                stream.out.on_acked(frame.offset, frame.size, frame.fin)
                stream.sending_acknowledged()
        elif frame.kind == ACK:
            reported = self.space_of(frame.offset)
            if reported is not None and frame.id >= reported.report_floor:
                reported.report_floor = frame.id + 1
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


cdef int _frames_lost(Recovery self, Space space, SentPacket* packet) except -1:
    cdef uint64_t index
    cdef SentFrame* frame
    cdef Stream stream
    cdef Space other
    for index in range(packet.frames, packet.frames + packet.frame_count):
        frame = space.sent.frame(index)
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
            other = self.space_of(frame.offset)
            if other is not None and frame.id in other.own_cids and frame.id not in other.own_cids_pending:
                other.own_cids_pending.append(frame.id)
        elif frame.kind == RETIRE_CONNECTION_ID:
            other = self.space_of(frame.offset)
            if other is not None and frame.id not in other.retire_pending:
                other.retire_pending.append(frame.id)
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
