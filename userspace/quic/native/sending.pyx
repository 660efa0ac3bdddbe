"""Read RFC 9000 §12.5, §13 and §14, RFC 9001 §5 and §6.6, and ``sending.pxd`` first.

A packet is made in place: header, frames by urgency, protection. What is in it is written down for ``recovery`` as it is
put in. Order: acknowledgements, what the connection needs, streams of priority CONTROL, DATAGRAMs, the other streams;
streams of one priority take turns.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from quicsocks.netstack.mixing cimport mixed

from .control cimport put_path_frame
from .core cimport BIDI, CLOSING, RUNNING, UNI
from .crypto cimport TAG, next_packet_key
from .path cimport MARKING, SMALLEST_ALLOWANCE, SMALLEST_DATAGRAM, TRIAL_MARKS, TRYING, Path
from .sent cimport SentPacket
from .space cimport LEFT_OUT, Space
from .stream cimport ReadyQueue, Stream
from .wire cimport (
    ACK, DATAGRAM, DATAGRAM_LENGTH, PADDING, PATH_CHALLENGE, PATH_RESPONSE, PING, RESET_STREAM, STREAM,
    STREAM_DATA_BLOCKED, STREAM_FIN, STREAM_LENGTH, STREAM_OFFSET, number_octets, put_uint16, put_varint,
    varint_size,
)

cdef double NEVER = float("inf")
cdef enum:
    SILENT_PACKETS = 24
    # Packets without anything that elicits an ACK, after which a PING does: so that old ranges can be forgotten.
    SKIP_SPREAD = 1024
    ECT0 = 2            # codepoint (RFC 3168)
    ACK_ALLOWANCE = 1 + 20 + 4 + 47 + 16
    # Octets in which an ACK fits whatever it says (``put_ack``): with less, its time has not come, however often we ask.
    ACK_EXPONENT = 3    # of ACK delays that we report: the default (RFC 9000 §18.2)
    STALE_DATAGRAM_MS = 1000
    # A DATAGRAM that has waited longer is of no use to whoever sent it.
cdef uint64_t UNKNOWN = <uint64_t>0xffffffffffffffff


cdef class Sending(Control):
    cdef Py_ssize_t build(self, uint8_t* out, double now) except -1:
        cdef Py_ssize_t size
        cdef uint64_t allowance, budget
        cdef bint ack_due, may_send
        cdef Space space = self.space
        cdef Path active = space.path
        self.departing = active
        self.pacing_at = NEVER
        if self.send_key is None:
            return 0
        if self.state != RUNNING:
            if self.state == CLOSING and self.close_pending:
                self.close_pending = False
                return _close(self, space, out, now)
            return 0
        size = _off_path(self, space, out, now)
        if size:
            return size
        if self.update_wanted or self.send_key.sealed >= self.send_key.confidentiality_limit - (1 << 20):
            _update_keys(self)
        allowance = active.allowance()
        if allowance < SMALLEST_ALLOWANCE:
            return 0    # RFC 9000 §8.1
        ack_due = space.ack_now or space.ack_at <= now
        if not ack_due and not space.probes_wanted:
            size = _mtu_probe(self, space, out, now)
            if size:
                return size
        if space.lone_ping_wanted:
            return _packet(self, space, out, min(allowance, <uint64_t>active.mtu), False, now)
        if space.probes_wanted:
            may_send = True
        elif not self.has_work():
            if not ack_due:
                if active.in_flight < active.controller.window:
                    active.controller.on_app_limited(active.in_flight)
                return 0
            may_send = False
        else:
            may_send = active.in_flight + active.mtu <= active.controller.window or not active.in_flight
            if may_send:
                budget = active.pacer.budget(active.controller, now)
                if budget < active.mtu:
                    self.pacing_at = active.pacer.release_at(now)
                    may_send = False
        if not may_send and not ack_due:
            return 0
        return _packet(self, space, out, min(allowance, <uint64_t>active.mtu), may_send, now)

    cdef bint has_work(self) noexcept:
        return (
            self.any_ready()
            or len(self.announcing) != 0
            or self.max_data_pending or self.max_streams_pending[BIDI] or self.max_streams_pending[UNI]
            or self.datagrams_waiting != 0 or self.port is not None and self.port.ready()
            or self.space.has_work() or self.handshake_done_wanted
            or self.streams_blocked_pending[BIDI] or self.streams_blocked_pending[UNI] or self.data_blocked_pending
            or self.ack_frequency_pending or len(self.extra_pending) != 0
            or self.crypto_out.has_work(UNKNOWN)
        )

    cdef double sending_timer(self) noexcept:
        cdef double at = NEVER
        cdef Space space
        cdef Path path
        for space in self.spaces:
            if space.path.allowance() >= ACK_ALLOWANCE:
                at = min(at, self.pacing_at, space.ack_at)
            for path in space.paths:
                if path.challenge_again_at < at:
                    at = path.challenge_again_at
                if path.give_up_at < at:
                    at = path.give_up_at
        return at


cdef uint8_t* _header(Sending self, Space space, uint8_t* out, Path path, int* octets) noexcept:
    # Everything but the packet number, which stands behind what is returned.
    cdef int count = number_octets(space.sent.next, space.largest_acked, space.any_acked)
    if self.sending_early:
        octets[0] = count
        return _long_header(self, out, path, count)
    if path.spin_cid != path.cid_sequence:
        _set_spin(self, path)
    out[0] = <uint8_t>(0x40 | (0x20 if path.spin else 0) | (4 if self.key_phase else 0) | (count - 1))
    memcpy(out + 1, path.cid, path.cid_length)
    octets[0] = count
    return out + 1 + path.cid_length


cdef uint8_t* _long_header(Sending self, uint8_t* out, Path path, int octets) noexcept:
    # Of a 0-RTT packet (RFC 9000 §17.2.3). Its Length takes two octets, which wait for ``_seal``.
    cdef bytes own = <bytes>self.space.own_cids[0]
    cdef int i
    out[0] = <uint8_t>(0xd0 | (octets - 1))
    for i in range(4):
        out[1 + i] = <uint8_t>(self.version >> (24 - 8 * i) & 0xff)
    out[5] = path.cid_length
    memcpy(out + 6, path.cid, path.cid_length)
    out += 6 + path.cid_length
    out[0] = <uint8_t>len(own)
    memcpy(out + 1, <const char*>own, len(own))
    return out + 1 + len(own) + 2


cdef void _set_spin(Sending self, Path path) noexcept:
    # RFC 9000 §17.4: it begins at 0 with each connection ID. One path in 16 never shows anything, so that those who have
    # it off are not alone; a bit that shows nothing is random, and another for each ID.
    path.spin_cid = path.cid_sequence
    path.spins = self.spin_bit and mixed(self.spin_seed + path.id) & 15 != 0
    path.spin = not path.spins and mixed(~self.spin_seed + path.cid_sequence) & 1


cdef Py_ssize_t _seal(
    Sending self, Space space, SentPacket* packet, Path path, uint8_t* out, uint8_t* number_at, int octets, uint8_t* end
) except -1:
    # The packet from out to end, with its number and its protection; end has room for the tag. Its size.
    cdef uint64_t number = space.sent.next
    cdef uint8_t mask[5]
    cdef int i
    cdef size_t header = <size_t>(number_at - out) + <size_t>octets
    for i in range(octets):
        number_at[i] = <uint8_t>(number >> (8 * (octets - 1 - i)) & 0xff)
    assert number_at + octets <= end <= out + ROOM - TAG
    while end - number_at < 4:
        end[0] = PADDING    # For header protection's sample (RFC 9001 §5.4.2).
        end += 1
    if self.sending_early:
        put_uint16(number_at - 2, <uint16_t>(0x4000 | (end - number_at + TAG)))
    if self.qlog is not None:
        self.qlog.packet(
            True, out[0], number, out + header, <size_t>(end - out) - header, <size_t>(end - out) + TAG, ACK_EXPONENT,
            path.id, packet.probe, self.now
        )
    if self.send_key.seal(out, header, <size_t>(end - out) - header, number, space.id) != 0 or \
            self.send_header_key.mask(number_at + 4, mask) != 0:
        raise RuntimeError("OpenSSL refuses to protect a packet")
    out[0] ^= mask[0] & (0x0f if self.sending_early else 0x1f)
    for i in range(octets):
        number_at[i] ^= mask[i + 1]
    return end - out + TAG


cdef int _sent(
    Sending self, Space space, SentPacket* packet, Path path, Py_ssize_t size, bint eliciting, bint in_flight, double now
) except -1:
    packet.path = path.id
    packet.ack_eliciting = eliciting
    packet.in_flight = in_flight
    packet.sample.sent_at = now
    packet.sample.size = <uint32_t>size
    packet.marked = self.can_mark and (
        path.marking == MARKING or (path.marking == TRYING and path.marks_sent < TRIAL_MARKS)
    )
    path.marks_sent += packet.marked
    space.marks_sent += packet.marked
    self.departing_ecn = ECT0 if packet.marked else 0
    if in_flight:
        if not packet.probe:
            path.controller.on_sent(&packet.sample, path.in_flight, now)
        path.in_flight += <uint64_t>size
        path.pacer.on_sent(<uint64_t>size)
    if eliciting:
        space.last_eliciting_at = now
        space.silent_packets = 0
        if not self.eliciting_since_heard:
            self.eliciting_since_heard = True
            self.idle_from = now    # RFC 9000 §10.1
    else:
        space.silent_packets += 1
    space.sent.commit()
    path.sent += <uint64_t>size
    self.counters.packets_sent += 1
    self.counters.bytes_sent += <uint64_t>size
    if space.sent.next >= space.skip_at:
        space.left_out[space.left_out_count % LEFT_OUT] = space.sent.next
        space.left_out_count += 1
        space.sent.skip()
        space.skip_at = space.sent.next + 64 + self.chance() % SKIP_SPREAD
    return 0


cdef int _update_keys(Sending self) except -1:
    # RFC 9001 §6.1: not before the handshake is confirmed and a packet of the present phase is acknowledged.
    if not self.confirmed or not self.phase_acked:
        return 0
    self.update_wanted = False
    self.former_receive_key = self.receive_key
    self.receive_key = self.next_receive_key
    self.next_receive_key = next_packet_key(self.receive_key, self.version)
    self.former_until = NEVER
    self.send_key = next_packet_key(self.send_key, self.version)
    self.begin_phase()
    if self.qlog is not None:
        self.qlog.keys_updated(self.counters.key_updates, "local_update", self.now)
    return 0


cdef Py_ssize_t _packet(Sending self, Space space, uint8_t* out, size_t limit, bint may_send, double now) except -1:
    cdef int octets
    cdef Path path = space.path
    cdef uint8_t* number_at = _header(self, space, out, path, &octets)
    cdef uint8_t* begin = number_at + octets
    cdef uint8_t* at = begin
    cdef uint8_t* end = out + limit - TAG
    cdef SentPacket* packet = space.sent.begin()
    cdef bint eliciting = False, acks = False, expand = False, asks
    cdef uint8_t* before
    cdef Py_ssize_t size
    if space.eliciting_unreported or space.ack_now:
        at = self.put_ack(space, at, end, now)
        acks = at != begin
    if may_send:
        before = at
        asks = path.challenge_pending
        at = self.put_control(space, at, end, now, &expand)
        if asks and not path.challenge_pending and limit < SMALLEST_DATAGRAM:
            path.narrow = True
        at = _streams(self, space, at, end, 0)
        if self.datagrams_waiting or self.port is not None and self.port.ready():
            # Nothing slows a sender of datagrams down: with streams waiting, they begin every second packet only.
            self.datagrams_turn = not self.datagrams_turn
            if self.datagrams_turn or not self.any_ready():
                at = _datagrams(self, space, at, end, now)
        at = _streams(self, space, at, end, 1)
        at = _streams(self, space, at, end, 2)
        at = _streams(self, space, at, end, 3)
        eliciting = at != before
        if space.ping_wanted or (not eliciting and space.probes_wanted):
            space.ping_wanted = False
            if not eliciting and at < end:
                at[0] = PING
                at += 1
                eliciting = True
        if eliciting and space.probes_wanted:
            space.probes_wanted -= 1
    elif space.lone_ping_wanted:
        space.lone_ping_wanted = False
        at[0] = PING
        at += 1
        eliciting = True
    elif acks and space.silent_packets >= SILENT_PACKETS and at < end and path.in_flight < path.controller.window:
        at[0] = PING
        at += 1
        eliciting = True
    assert begin <= at <= end + 1, "frames beyond the packet's end"
    if at == begin:
        space.sent.abandon()
        return 0
    if acks:
        space.eliciting_unreported = 0
        space.ack_now = False
        space.ack_at = NEVER
    if expand and at < out + SMALLEST_DATAGRAM - TAG and end >= out + SMALLEST_DATAGRAM - TAG:
        memset(at, 0, <size_t>(out + SMALLEST_DATAGRAM - TAG - at))
        at = out + SMALLEST_DATAGRAM - TAG
    size = _seal(self, space, packet, path, out, number_at, octets, at)
    _sent(self, space, packet, path, size, eliciting, eliciting, now)
    return size


cdef uint8_t* _datagrams(Sending self, Space space, uint8_t* at, uint8_t* end, double now) except NULL:
    cdef bytes data
    cdef Py_ssize_t size
    cdef uint32_t most = self.max_datagram()
    while self.datagrams_waiting:
        data, queued_at = self.datagrams[0]
        size = len(data)
        if size > most or now - <double>queued_at > STALE_DATAGRAM_MS * 1e-3:
            self.datagrams.popleft()    # The path has become narrower, or has been shut for long.
            self.datagrams_waiting -= 1
            self.counters.datagrams_dropped += 1
            continue
        if end - at < size + 1 + 2:
            break                       # It is first in the next packet.
        self.datagrams.popleft()
        self.datagrams_waiting -= 1
        at[0] = DATAGRAM_LENGTH
        at = put_varint(at + 1, <uint64_t>size)
        memcpy(at, <const char*>data, <size_t>size)
        at += size
        space.sent.add_frame(DATAGRAM, 0, 0, <uint32_t>size, False)
        self.counters.datagrams_sent += 1
    return _from_port(self, space, at, end, most, now) if self.port is not None else at


cdef uint8_t* _from_port(
    Sending self, Space space, uint8_t* at, uint8_t* end, uint32_t most, double now
) except NULL:
    cdef const uint8_t* data
    cdef size_t size = 0
    while most and self.port.ready():
        data = self.port.next(most, &size, now)
        if data == NULL or <size_t>(end - at) < size + 1 + 2:
            break
        at[0] = DATAGRAM_LENGTH
        at = put_varint(at + 1, <uint64_t>size)
        memcpy(at, data, size)
        at += size
        space.sent.add_frame(DATAGRAM, 0, 0, <uint32_t>size, False)
        self.counters.datagrams_sent += 1
        self.port.sent()
    return at


cdef uint8_t* _streams(Sending self, Space space, uint8_t* at, uint8_t* end, int priority) except NULL:
    # Streams of one priority until none is left, or the packet is full.
    cdef ReadyQueue queue = <ReadyQueue>self.ready[priority]
    cdef Stream stream
    cdef uint8_t* before
    cdef uint64_t credit
    while end - at > 24:
        stream = queue.first
        if stream is None:
            break
        if stream.over:
            queue.drop()
            continue
        if stream.reset_wanted:
            if stream.reset_pending:
                stream.reset_pending = False
                at[0] = RESET_STREAM
                at = put_varint(at + 1, stream.number)
                at = put_varint(at, stream.reset_code)
                at = put_varint(at, stream.out.sent)
                space.sent.add_frame(RESET_STREAM, stream.number, 0, 0, False)
            queue.drop()
            continue
        before = at
        at = _stream_frame(self, space, stream, at, end)
        credit = self.peer_max_data - self.data_sent
        if stream.has_work(credit):
            # More could go but for the packet's size.
            queue.take_turn(<uint64_t>(at - before), space.path.pacer.burst)
            break
        queue.drop()
        if stream.has_work(UNKNOWN >> 2):
            # The connection's limit holds it back.
            if not stream.waits_for_credit:
                stream.waits_for_credit = True
                self.credit_blocked.append(stream)
            if not self.data_blocked_told:
                self.data_blocked_told = self.data_blocked_pending = True
        elif stream.out.end > stream.out.sent and not stream.blocked_told and end - at > 24:
            stream.blocked_told = True
            at[0] = STREAM_DATA_BLOCKED
            at = put_varint(at + 1, stream.number)
            at = put_varint(at, stream.max_send)
            space.sent.add_frame(STREAM_DATA_BLOCKED, stream.number, 0, 0, False)
    return at


cdef uint8_t* _stream_frame(Sending self, Space space, Stream stream, uint8_t* at, uint8_t* end) except NULL:
    cdef uint64_t credit = self.peer_max_data - self.data_sent
    cdef uint64_t limit = stream.out.sent + credit
    cdef uint64_t offset = 0, sent
    cdef size_t size = 0, room, header
    cdef bint fin = False, to_end
    cdef uint8_t* kind
    if limit > stream.max_send:
        limit = stream.max_send
    while True:
        header = 1 + varint_size(stream.number) + varint_size(stream.out.sent)
        if <size_t>(end - at) < header + 2:
            return at
        if not stream.out.next(limit, <size_t>(end - at) - header, &offset, &size, &fin):
            return at
        # A frame that reaches the packet's end needs no length.
        room = <size_t>(end - at) - 1 - varint_size(stream.number) - (varint_size(offset) if offset else 0)
        to_end = size == room
        if not to_end and size + 2 > room:
            size = room - 2
            fin = False
            if not size:
                return at
        kind = at
        at = put_varint(at + 1, stream.number)
        if offset:
            at = put_varint(at, offset)
        if not to_end:
            at = put_uint16(at, <uint16_t>(0x4000 | size))
        kind[0] = <uint8_t>(
            STREAM | (STREAM_OFFSET if offset else 0) | (0 if to_end else STREAM_LENGTH) | (STREAM_FIN if fin else 0)
        )
        if size:
            stream.out.blocks.read(offset, at, size)
        at += size
        sent = stream.out.sent
        stream.out.on_sent(offset, size, fin)
        if stream.out.sent > sent:
            self.data_sent += stream.out.sent - sent
            assert stream.out.sent <= stream.max_send and self.data_sent <= self.peer_max_data
            stream.sending_progressed()
        space.sent.add_frame(STREAM, stream.number, offset, <uint32_t>size, fin)
        if to_end:
            return at


cdef Py_ssize_t _off_path(Sending self, Space space, uint8_t* out, double now) except -1:
    # Challenges and answers on paths that are not in use (RFC 9000 §8.2, §9.3.3).
    cdef Path path
    cdef int octets
    cdef uint8_t* number_at
    cdef uint8_t* at
    cdef uint8_t* end
    cdef SentPacket* packet
    cdef Py_ssize_t size
    for path in space.paths:
        if path is space.path or not (path.challenge_pending or path.response_count) or \
                path.allowance() < SMALLEST_ALLOWANCE:
            continue
        if not space.address_peer(path):
            path.challenge_pending = False
            path.response_count = 0
            continue
        packet = space.sent.begin()
        number_at = _header(self, space, out, path, &octets)
        at = number_at + octets
        # RFC 9000 §8.2.1: as large as every path must carry, unless that were too much for an address not yet validated.
        end = out + min(<uint64_t>SMALLEST_DATAGRAM, path.allowance()) - TAG
        while path.response_count and end - at >= 9:
            path.response_count -= 1
            at = put_path_frame(at, PATH_RESPONSE, path.responses[path.response_count])
        if path.challenge_pending and end - at >= 9:
            path.challenge_pending = False
            at = put_path_frame(at, PATH_CHALLENGE, path.challenge)
            if end < out + SMALLEST_DATAGRAM - TAG:
                path.narrow = True
            if path.unasked:
                path.unasked = False
                self.start_patience(path, now)
        if end > at:
            memset(at, PADDING, <size_t>(end - at))
            at = end
        size = _seal(self, space, packet, path, out, number_at, octets, at)
        _sent(self, space, packet, path, size, True, False, now)
        self.departing = path
        return size
    return 0


cdef Py_ssize_t _mtu_probe(Sending self, Space space, uint8_t* out, double now) except -1:
    # RFC 9000 §14.3, RFC 8899: a PING in a packet as large as might pass.
    cdef Path path = space.path
    cdef uint32_t size
    cdef int octets
    cdef uint8_t* number_at
    cdef SentPacket* packet
    cdef Py_ssize_t made
    if not self.confirmed:
        return 0
    size = path.next_probe(now)
    if not size or path.in_flight + size > path.controller.window:
        return 0
    packet = space.sent.begin()
    packet.probe = True
    number_at = _header(self, space, out, path, &octets)
    number_at[octets] = PING
    memset(number_at + octets + 1, PADDING, size - <size_t>(number_at + octets + 1 - out) - TAG)
    made = _seal(self, space, packet, path, out, number_at, octets, out + size - TAG)
    _sent(self, space, packet, path, made, True, True, now)
    self.counters.mtu_probes_sent += 1
    path.probe_sent(<uint32_t>made)
    return made


cdef Py_ssize_t _close(Sending self, Space space, uint8_t* out, double now) except -1:
    cdef int octets
    cdef Path path = space.path
    cdef uint8_t* number_at
    cdef uint8_t* at
    cdef SentPacket* packet
    cdef Py_ssize_t size
    if path.allowance() < <uint64_t>len(self.close_frame) + 64:
        return 0
    packet = space.sent.begin()
    number_at = _header(self, space, out, path, &octets)
    at = number_at + octets
    memcpy(at, <const char*>self.close_frame, len(self.close_frame))
    size = _seal(self, space, packet, path, out, number_at, octets, at + len(self.close_frame))
    _sent(self, space, packet, path, size, False, False, now)
    return size
