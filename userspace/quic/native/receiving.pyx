"""Read RFC 9000 §12, §13 and §19, RFC 9001 §5 and §6, and ``receiving.pxd`` first.

What the peer may not do raises PeerError with the code that the RFC names; the session closes with it. What anybody else
may have sent is dropped and counted.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from quicsocks.netstack.receive_buffer cimport FINAL_SIZE_CHANGED, TOO_MANY_GAPS

from ..errors import PeerError

from .ack_frequency cimport is_reordered, receive_ack_frequency
from .core cimport BIDI, RUNNING, UNI
from .crypto cimport SAMPLE, PacketKey, next_packet_key
from .path cimport Path
from .space cimport Space
from .stream cimport Stream
from .wire cimport (
    ACK, ACK_ECN, ACK_FREQUENCY, AEAD_LIMIT_REACHED, APPLICATION_CLOSE, CONNECTION_CLOSE, CONNECTION_ID_LIMIT_ERROR, CRYPTO,
    CRYPTO_BUFFER_EXCEEDED, DATAGRAM, DATAGRAM_LENGTH, FINAL_SIZE_ERROR, FLOW_CONTROL_ERROR, FRAME_ENCODING_ERROR, HANDSHAKE_DONE,
    IMMEDIATE_ACK, KEY_UPDATE_ERROR, MAX_DATA, MAX_STREAM_DATA, MAX_STREAMS_BIDI, MAX_STREAMS_UNI, NEW_CONNECTION_ID,
    NEW_TOKEN, PADDING, PATH_CHALLENGE, PATH_RESPONSE, PING, PROTOCOL_VIOLATION, RESET_STREAM, RETIRE_CONNECTION_ID,
    STOP_SENDING, STREAM, STREAM_DATA_BLOCKED, STREAM_FIN, STREAM_LENGTH, STREAM_OFFSET, STREAMS_BLOCKED_BIDI,
    STREAMS_BLOCKED_UNI, decode_number, get_varint, varint_size,
)

cdef double NEVER = float("inf")
cdef uint64_t UNKNOWN = <uint64_t>0xffffffffffffffff
cdef enum:
    MOST_RANGES = 256
    # Ranges of packets received that are kept: gaps older than these count as received, and their packets are dropped.
    CE = 3              # codepoint (RFC 3168)
    MOST_CRYPTO = 65536
    # Octets of CRYPTO data that may wait for those before them: tickets, several.
    PEER_CIDS = 8
    # The active_connection_id_limit that we announce: aioquic's.
    MOST_WAITING = 131072
    # Ranges of octets that wait for those before them, in all streams: 2 MiB, and twice as many as there are packets in
    # the largest window. Every second octet alone would otherwise cost eight times what the window allows for.
cdef uint64_t LARGEST_OFFSET = (<uint64_t>1 << 62) - 1
cdef uint64_t MOST_STREAMS = <uint64_t>1 << 60


cdef class Receiving(Recovery):
    cdef int receive_packet(self, uint8_t* data, size_t size, object route, int ecn, double now) except -1:
        cdef size_t at = 1 + <size_t>self.own_cid_length
        cdef uint8_t mask[5]
        cdef uint8_t first
        cdef int octets, i, opened
        cdef uint32_t truncated = 0
        cdef uint64_t number
        cdef bint phase, newest
        cdef Space space = self.space   # Another connection ID would name another path ID.
        cdef PacketKey key
        cdef Path path
        if self.receive_key is None:
            return TOO_EARLY
        if size < at + 4 + SAMPLE or self.receive_header_key.mask(data + at + 4, mask) != 0:
            return _drop(self, &self.counters.dropped_short, "invalid", size, now)
        first = data[0] = data[0] ^ (mask[0] & 0x1f)
        octets = (first & 3) + 1
        for i in range(octets):
            data[at + <size_t>i] ^= mask[i + 1]
            truncated = truncated << 8 | data[at + <size_t>i]
        number = decode_number(truncated, octets, space.largest_received + 1 if space.any_received else 0)
        phase = first & 4 != 0
        key = self.receive_key
        if phase != self.key_phase:
            if self.former_receive_key is not None and number < space.phase_received:
                key = self.former_receive_key
            else:
                key = self.next_receive_key
        opened = key.open(data, at + <size_t>octets, size - at - <size_t>octets, number, space.id)
        if opened < 0:
            self.forged += 1
            if self.forged >= self.receive_key.integrity_limit:
                raise PeerError("too many packets that are not authentic", AEAD_LIMIT_REACHED)
            return _drop(self, &self.counters.dropped_forged, "decryption_failure", size, now)
        if space.received.contains(number) or number < space.received_floor:
            return _drop(self, &self.counters.dropped_duplicate, "duplicate", size, now)
        if first & 0x18:
            raise PeerError("reserved bits of a short header are set", PROTOCOL_VIOLATION)
        if opened == 0:
            raise PeerError("a packet without frames", PROTOCOL_VIOLATION)
        path = space.path
        if path.route is not route and path.alias is not route:
            path = self.find_path(space, route)
            if path is None and self.is_client:
                # A server has no business at another address (RFC 9000 §9), nor at one that we have left long ago. What is
                # dropped must not be acknowledged.
                return _drop(self, &self.counters.dropped_elsewhere, "rejected", size, now)
        if number < space.one_rtt_from:
            space.one_rtt_from = number
            if number < space.early_stop:
                raise PeerError("a 1-RTT packet numbered below a 0-RTT packet", PROTOCOL_VIOLATION)
        if phase != self.key_phase:
            if key is self.next_receive_key:
                _keys_updated(self, space, number, now)
        elif self.former_receive_key is not None and number < space.phase_received:
            if space.phase_received == UNKNOWN:
                # The first answer to an update of ours: what the peer sent before it may be late.
                self.former_until = now + 3.0 * self.pto()
            space.phase_received = number
        if self.former_receive_key is not None and now >= self.former_until:
            self.former_receive_key = None

        newest = self.note_received(space, number, size, ecn, now)
        self.arriving_ecn = ecn & 3
        if path is None:
            path = self.add_path(space, route, now)
            _find_former(self, space, path, data + 1)
            self.validate(path, now)
        if newest:
            memcpy(path.heard_cid, data + 1, <size_t>self.own_cid_length)
        if not path.validated:
            path.received += size
            if not path.challenged:
                self.validate(path, now)    # It was given up, and lives after all.
        if path.spins and newest:
            path.spin = (first & 0x20 != 0) != self.is_client   # RFC 9000 §17.4: the client turns it, the server does not.
        if self.qlog is not None:
            self.qlog.packet(
                False, first, number, data + at + octets, <size_t>opened, size, self.peer_ack_exponent, path.id, False, now
            )
        at += <size_t>octets
        return _frames(self, space, data + at, data + at + opened, path, number, newest, now)

    cdef int receive_frames(
        self, Space space, const uint8_t* at, const uint8_t* end, uint64_t number, bint newest, double now
    ) except -1:
        return _frames(self, space, at, end, space.path, number, newest, now)

    cdef bint note_received(self, Space space, uint64_t number, size_t size, int ecn, double now) except -1:
        cdef bint newest = not space.any_received or number > space.largest_received
        self.counters.packets_received += 1
        self.counters.bytes_received += size
        if newest:
            space.largest_received = number
            space.largest_received_at = now
        space.received.add(number, number + 1)
        if space.received.count > MOST_RANGES:
            space.received_floor = space.received.items[0].stop
            space.received.drop_first()
        space.any_received = True
        space.marks[ecn & 3] += 1
        space.newly_marked = (ecn & 3) == CE and not space.marked_before
        space.marked_before = (ecn & 3) == CE
        self.heard_at = self.idle_from = now
        space.heard_since_pto = True
        self.eliciting_since_heard = False
        return newest


cdef int _find_former(Receiving self, Space space, Path path, const uint8_t* cid) except -1:
    cdef Path other
    for other in space.paths:
        if other is not path and memcmp(cid, other.heard_cid, <size_t>self.own_cid_length) == 0:
            path.former = other if other.cid_length else other.former
    memcpy(path.heard_cid, cid, <size_t>self.own_cid_length)
    return 0


cdef int _drop(Receiving self, uint64_t* reason, const char* trigger, size_t size, double now) except -1:
    # trigger: qlog's word for the reason.
    self.counters.packets_dropped += 1
    reason[0] += 1
    if self.qlog is not None:
        self.qlog.dropped(size, trigger, now)
    return DROPPED


cdef int _keys_updated(Receiving self, Space space, uint64_t number, double now) except -1:
    # The peer has begun the next key phase (RFC 9001 §6.2, §6.3): follow, in both directions.
    if space.any_received and number < space.phase_received:
        raise PeerError("an old packet under new keys", KEY_UPDATE_ERROR)
    if self.counters.key_updates and not self.phase_used():
        # It cannot have waited for an acknowledgement under the present keys, and each update takes time.
        raise PeerError("keys were updated again before we have used them", KEY_UPDATE_ERROR)
    self.former_receive_key = self.receive_key
    self.receive_key = self.next_receive_key
    self.next_receive_key = next_packet_key(self.receive_key, self.version)
    self.former_until = now + 3.0 * self.pto()
    self.send_key = next_packet_key(self.send_key, self.version)
    self.begin_phase()
    space.phase_received = number
    if self.qlog is not None:
        self.qlog.keys_updated(self.counters.key_updates, "remote_update", now)
    return 0


cdef int _frames(
    Receiving self, Space space, const uint8_t* at, const uint8_t* end, Path path, uint64_t number, bint newest, double now
) except -1:
    cdef uint64_t kind = 0, a
    cdef bint eliciting = False, probing = True
    cdef const uint8_t* begin
    cdef int i
    while at < end:
        begin = at
        at = get_varint(at, end, &kind)
        if at == NULL:
            raise _encoding("frame type")
        if kind == PADDING:
            while at < end and at[0] == 0:
                at += 1
            continue
        if <size_t>(at - begin) != varint_size(kind):
            raise PeerError("a frame type in more octets than it needs", PROTOCOL_VIOLATION)
        if self.reading_early and (
            kind == ACK or kind == ACK_ECN or kind == CRYPTO or kind == NEW_TOKEN or kind == PATH_RESPONSE
            or kind == RETIRE_CONNECTION_ID or kind == HANDSHAKE_DONE
        ):
            # RFC 9000 §12.5: nobody can have anything to say with these yet.
            raise PeerError(f"a frame of type {kind:#x} in a 0-RTT packet", PROTOCOL_VIOLATION)
        if kind == ACK or kind == ACK_ECN:
            at = _ack(self, self.space_of(0), at, end, kind == ACK_ECN, now)
            probing = False
            continue
        if kind == CONNECTION_CLOSE or kind == APPLICATION_CLOSE:
            return _close(self, at, end, kind == APPLICATION_CLOSE, now)
        eliciting = True
        if kind >= 0x40:
            probing = False
            at = receive_ack_frequency(self, at, end) if kind == ACK_FREQUENCY else _extra(self, kind, at, end)
        elif kind >= STREAM and kind < STREAM + 8:
            at = _stream_frame(self, at, end, <int>kind)
            probing = False
        elif kind == DATAGRAM or kind == DATAGRAM_LENGTH:
            at = _datagram(self, at, end, kind == DATAGRAM_LENGTH, now)
            probing = False
        elif kind == NEW_CONNECTION_ID:
            at = _new_connection_id(self, self.space_of(0), at, end)
        elif kind == PATH_CHALLENGE or kind == PATH_RESPONSE:
            if end - at < 8:
                raise _encoding("PATH_CHALLENGE or PATH_RESPONSE")
            a = 0
            for i in range(8):
                a = a << 8 | at[i]
            at += 8
            if kind == PATH_CHALLENGE:
                path.answer(a)
            else:
                _path_response(self, space, a, now)
        else:
            probing = False
            at = _control_frame(self, space, at, end, <int>kind, now)
        if at == NULL:
            raise _encoding(f"frame of type {kind:#x}")
        if self.state != RUNNING:
            return 0
    if eliciting:
        space.eliciting_unreported += 1
        # RFC 9000 §13.2.1 of CE: of a run of marks, the first says it all.
        if space.eliciting_unreported > self.ack_threshold or space.newly_marked or \
                is_reordered(self, space, number, newest):
            space.ack_now = True
        elif space.ack_at == NEVER:
            space.ack_at = now + self.max_ack_delay
    if path is not space.path and newest and not probing and not self.is_client:
        # RFC 9000 §9.3: the peer has moved. What the old path was like says nothing of the new one (§9.4).
        self.use_path(space, path, now)
    return 0


cdef object _encoding(what):
    return PeerError(f"malformed {what}", FRAME_ENCODING_ERROR)


cdef const uint8_t* _ack(
    Receiving self, Space space, const uint8_t* at, const uint8_t* end, bint marked, double now
) except NULL:
    cdef uint64_t largest = 0, delay = 0, count = 0, length = 0, gap = 0, low, high, marks = 0
    cdef uint64_t ect0 = 0, ect1 = 0
    cdef bint interesting
    at = get_varint(at, end, &largest)
    if at != NULL:
        at = get_varint(at, end, &delay)
    if at != NULL:
        at = get_varint(at, end, &count)
    if at != NULL:
        at = get_varint(at, end, &length)
    if at == NULL or length > largest:
        raise _encoding("ACK")
    self.begin_ack(space, largest, now)
    high, low = largest, largest - length
    interesting = self.ack_range(space, low, high, now)
    while count:
        count -= 1
        at = get_varint(at, end, &gap)
        if at != NULL:
            at = get_varint(at, end, &length)
        if at == NULL or low < gap + 2 or low - gap - 2 < length:
            raise _encoding("ACK")
        high = low - gap - 2
        low = high - length
        if interesting:
            interesting = self.ack_range(space, low, high, now)
    if marked:
        at = get_varint(at, end, &ect0)
        if at != NULL:
            at = get_varint(at, end, &ect1)
        if at != NULL:
            at = get_varint(at, end, &marks)
        if at == NULL:
            raise _encoding("ACK_ECN")
    if delay >= <uint64_t>1 << (40 - self.peer_ack_exponent):
        delay = 0
    self.end_ack(space, largest, <double>(delay << self.peer_ack_exponent) * 1e-6, marked, ect0, ect1, marks, now)
    return at


cdef const uint8_t* _stream_frame(Receiving self, const uint8_t* at, const uint8_t* end, int kind) except? NULL:
    cdef uint64_t number = 0, offset = 0, size, before, arrived
    cdef int waiting
    cdef Stream stream
    at = get_varint(at, end, &number)
    if at != NULL and kind & STREAM_OFFSET:
        at = get_varint(at, end, &offset)
    if at == NULL:
        return NULL
    size = <uint64_t>(end - at)
    if kind & STREAM_LENGTH:
        at = get_varint(at, end, &size)
        if at == NULL or size > <uint64_t>(end - at):
            return NULL
    if offset + size > LARGEST_OFFSET:
        raise PeerError("stream data beyond 2^62 - 1", FRAME_ENCODING_ERROR)
    stream = self.peer_stream(number, True)
    if stream is None:
        return at + size
    if offset + size > stream.max_receive:
        raise PeerError("more stream data than allowed", FLOW_CONTROL_ERROR)
    before = stream.into.highest
    if offset + size > before and self.data_received + (offset + size - before) > self.max_data:
        raise PeerError("more data than allowed", FLOW_CONTROL_ERROR)
    arrived = stream.into.ready
    waiting = stream.into.received.count
    _take_in(stream.into.receive(offset, at, size, kind & STREAM_FIN != 0))
    self.ranges_waiting += stream.into.received.count - waiting
    if self.ranges_waiting > MOST_WAITING:
        raise PeerError("too many gaps in the streams", PROTOCOL_VIOLATION)
    self.data_received += stream.into.highest - before
    assert stream.into.highest <= stream.max_receive and self.data_received <= self.max_data
    assert self.ranges_waiting >= 0
    if stream.released:
        self.stream_bytes_received += stream.into.highest - before
        stream.data_arrived()
    elif stream.into.ready != arrived or stream.into.final != UNKNOWN:
        self.stream_bytes_received += stream.into.ready - arrived
        stream.data_arrived()
    return at + size


cdef int _take_in(int arrival) except -1:
    # RFC 9000 §4.5, §21.7.
    if arrival == FINAL_SIZE_CHANGED:
        raise PeerError("a stream's final size has changed", FINAL_SIZE_ERROR)
    if arrival == TOO_MANY_GAPS:
        raise PeerError("too many gaps in a stream", PROTOCOL_VIOLATION)
    return 0


cdef const uint8_t* _datagram(
    Receiving self, const uint8_t* at, const uint8_t* end, bint has_length, double now
) except? NULL:
    cdef uint64_t size = <uint64_t>(end - at)
    if not self.limits.max_datagram_frame_size:
        raise PeerError("a DATAGRAM, which we do not take", PROTOCOL_VIOLATION)
    if has_length:
        at = get_varint(at, end, &size)
        if at == NULL or size > <uint64_t>(end - at):
            return NULL
    self.counters.datagrams_received += 1
    if self.port is not None and not self.reading_early:
        self.port.take(at, <size_t>size, self.arriving_ecn, now)
    else:
        self.events.append(("datagram", (<const char*>at)[:size]))
    return at + size


cdef const uint8_t* _new_connection_id(
    Receiving self, Space space, const uint8_t* at, const uint8_t* end
) except? NULL:
    cdef uint64_t sequence = 0, prior = 0, length, held
    cdef bytes cid, token
    cdef Path path
    at = get_varint(at, end, &sequence)
    if at != NULL:
        at = get_varint(at, end, &prior)
    if at == NULL or at >= end:
        return NULL
    length = at[0]
    at += 1
    if length < 1 or length > 20 or prior > sequence or <uint64_t>(end - at) < length + 16:
        return NULL
    if not space.path.cid_length:
        raise PeerError("NEW_CONNECTION_ID from a peer without connection IDs", PROTOCOL_VIOLATION)
    cid = (<const char*>at)[:length]
    token = (<const char*>at)[length:length + 16]
    at += length + 16
    known = space.peer_cids.get(sequence)
    if known is not None:
        if known[0] != cid or known[1] is not None and known[1] != token:
            raise PeerError("two connection IDs under one sequence number", PROTOCOL_VIOLATION)
    elif any(other[0] == cid for other in space.peer_cids.values()):
        raise PeerError("one connection ID under two sequence numbers", PROTOCOL_VIOLATION)
    elif sequence < space.peer_cids_retired:
        space.retire_peer_cid(sequence)
    elif sequence not in space.retired_early:
        space.peer_cids[sequence] = (cid, token)
        self.events.append(("peer_cids",))
    if prior > space.peer_cids_retired:
        for held in [held for held in space.peer_cids if held < prior]:
            space.retire_peer_cid(held)
        space.peer_cids_retired = prior
        space.retired_early = {held for held in space.retired_early if held >= prior}
        for path in space.paths:
            if path.cid_length and path.cid_sequence < prior and not space.take_peer_cid(path) and path is not space.path:
                path.cid_length = 0     # It has to wait for another.
        self.events.append(("peer_cids",))
    if len(space.peer_cids) > PEER_CIDS:
        raise PeerError("more connection IDs than we keep", CONNECTION_ID_LIMIT_ERROR)
    return at


cdef int _path_response(Receiving self, Space space, uint64_t challenge, double now) except -1:
    cdef Path path
    for path in space.paths:
        if path.challenged and path.challenge == challenge:
            return self.path_validated(space, path, now)
    return 0    # Late, or made up: of no consequence (RFC 9000 §8.2.3).


cdef const uint8_t* _control_frame(
    Receiving self, Space space, const uint8_t* at, const uint8_t* end, int kind, double now
) except? NULL:
    cdef uint64_t a = 0, b = 0, c = 0
    cdef Stream stream
    if kind > IMMEDIATE_ACK:
        return _extra(self, <uint64_t>kind, at, end)
    if kind == PING:
        return at
    if kind == IMMEDIATE_ACK:
        space.ack_now = True
        return at
    if kind == HANDSHAKE_DONE:
        if not self.is_client:
            raise PeerError("HANDSHAKE_DONE from a client", PROTOCOL_VIOLATION)
        self.events.append(("handshake_done",))
        return at
    at = get_varint(at, end, &a)
    if at == NULL:
        return NULL
    if kind == MAX_DATA:
        self.data_limit_raised(a)
    elif kind == MAX_STREAM_DATA:
        at = get_varint(at, end, &b)
        if at != NULL:
            stream = self.peer_stream(a, False)
            if stream is not None:
                stream.limit_raised(b)
    elif kind == MAX_STREAMS_BIDI or kind == MAX_STREAMS_UNI:
        if a > MOST_STREAMS:
            return NULL
        self.stream_limit_raised(BIDI if kind == MAX_STREAMS_BIDI else UNI, a)
    elif kind == RESET_STREAM:
        at = get_varint(at, end, &b)
        if at != NULL:
            at = get_varint(at, end, &c)
        if at != NULL:
            stream = self.peer_stream(a, True)
            if stream is not None:
                _reset_stream(self, stream, b, c)
    elif kind == STOP_SENDING:
        at = get_varint(at, end, &b)
        if at != NULL:
            stream = self.peer_stream(a, False)
            if stream is not None:
                stream.stop_arrived(b)
    elif kind == CRYPTO:
        at = get_varint(at, end, &b)
        if at == NULL or b > <uint64_t>(end - at) or a + b > LARGEST_OFFSET:
            return NULL
        if a + b > self.crypto_in.taken + MOST_CRYPTO:
            raise PeerError("too much CRYPTO data", CRYPTO_BUFFER_EXCEEDED)
        _take_in(self.crypto_in.receive(a, at, b, False))
        if self.crypto_in.available():
            self.events.append(("crypto", self.crypto_in.take(MOST_CRYPTO)))
        at += b
    elif kind == NEW_TOKEN:
        if not self.is_client:
            raise PeerError("NEW_TOKEN from a client", PROTOCOL_VIOLATION)
        if not a or a > <uint64_t>(end - at):
            return NULL
        self.events.append(("new_token", (<const char*>at)[:a]))
        at += a
    elif kind == RETIRE_CONNECTION_ID:
        _retire_own_cid(self, self.space_of(0), a)
    elif kind == STREAMS_BLOCKED_BIDI or kind == STREAMS_BLOCKED_UNI:
        if a > MOST_STREAMS:
            return NULL
    elif kind == STREAM_DATA_BLOCKED:
        at = get_varint(at, end, &b)
        if at != NULL:
            self.peer_stream(a, True)
    # What is left is DATA_BLOCKED: for whoever looks for the reason of a stall.
    return at


cdef int _retire_own_cid(Receiving self, Space space, uint64_t sequence) except -1:
    if sequence >= space.next_own_cid:
        raise PeerError("a connection ID was retired that was never issued", PROTOCOL_VIOLATION)
    if sequence in space.own_cids:
        if len(space.own_cids) == 1:
            raise PeerError("the last connection ID was retired", PROTOCOL_VIOLATION)
        self.events.append(("cid_retired", space.own_cids.pop(sequence)))
        if sequence in space.own_cids_pending:
            space.own_cids_pending.remove(sequence)
        self.issue_cids(space)
    return 0


cdef const uint8_t* _extra(Receiving self, uint64_t kind, const uint8_t* at, const uint8_t* end) except? NULL:
    cdef Py_ssize_t taken
    reader = self.extra_readers.get(kind)
    if reader is None:
        raise _encoding(f"frame of unknown type {kind:#x}")
    taken = reader((<const char*>at)[:end - at])
    if taken < 0 or taken > end - at:
        return NULL
    return at + taken


cdef int _reset_stream(Receiving self, Stream stream, uint64_t code, uint64_t size) except -1:
    cdef uint64_t before = stream.into.highest
    if size > stream.max_receive:
        raise PeerError("a final size beyond what was allowed", FLOW_CONTROL_ERROR)
    if size > before and self.data_received + (size - before) > self.max_data:
        raise PeerError("a final size beyond what was allowed", FLOW_CONTROL_ERROR)
    _take_in(stream.into.set_final(size))
    stream.into.highest = size
    self.data_received += size - before
    return stream.reset_arrived(code)


cdef int _close(Receiving self, const uint8_t* at, const uint8_t* end, bint application, double now) except -1:
    cdef uint64_t code = 0, kind = 0, length = 0
    at = get_varint(at, end, &code)
    if at != NULL and not application:
        at = get_varint(at, end, &kind)
    if at != NULL:
        at = get_varint(at, end, &length)
    if at == NULL or length > <uint64_t>(end - at):
        raise _encoding("CONNECTION_CLOSE")
    reason = (<const char*>at)[:min(length, <uint64_t>1024)].decode("utf-8", "replace")
    self.events.append(("closed", application, code, reason))
    return 0
