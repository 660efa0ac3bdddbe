"""Read RFC 9000 §13.2 and §19 and ``control.pxd`` first. A frame is written down for ``recovery`` as it is put in."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from quicsocks.netstack.ranges cimport Range

from .path cimport Path
from .space cimport Space
from .stream cimport OPEN, Stream
from .wire cimport (
    ACK, ACK_ECN, ACK_FREQUENCY, CRYPTO, DATA_BLOCKED, EXTRA, HANDSHAKE_DONE, IMMEDIATE_ACK, MAX_DATA, MAX_STREAM_DATA,
    MAX_STREAMS_BIDI, NEW_CONNECTION_ID, PATH_CHALLENGE, PATH_RESPONSE, RETIRE_CONNECTION_ID, STOP_SENDING,
    STREAMS_BLOCKED_BIDI, put_varint,
)

cdef enum:
    MOST_ACK_RANGES = 64
    # Ranges reported: what is older has been reported 60 times and more.
cdef uint64_t UNKNOWN = <uint64_t>0xffffffffffffffff


cdef class Control(Receiving):
    cdef uint8_t* put_ack(self, Space space, uint8_t* at, uint8_t* end, double now) except NULL:
        cdef int index = space.received.count - 1
        cdef int last, count
        cdef Range* ranges = space.received.items
        cdef uint64_t delay, smallest
        cdef uint8_t* begin = at
        cdef bint marked = (space.marks[1] | space.marks[2] | space.marks[3]) != 0
        cdef Py_ssize_t room = end - at - 1 - 8 - 4 - 2 - 8 - (24 if marked else 0)
        if index < 0 or room < 0:
            return at
        # What the peer knows that we have received needs no more words.
        last = index
        count = 0
        while last > 0 and count < MOST_ACK_RANGES - 1 and ranges[last - 1].stop > space.report_floor and room >= 16:
            last -= 1
            count += 1
            room -= 16
        delay = <uint64_t>((now - space.largest_received_at) * 1e6) >> 3 if now > space.largest_received_at else 0
        at[0] = ACK_ECN if marked else ACK
        at = put_varint(at + 1, space.largest_received)
        at = put_varint(at, min(delay, <uint64_t>0x3fffffff))
        at = put_varint(at, <uint64_t>count)
        at = put_varint(at, ranges[index].stop - 1 - ranges[index].start)
        smallest = ranges[index].start
        while index > last:
            index -= 1
            at = put_varint(at, smallest - ranges[index].stop - 1)
            at = put_varint(at, ranges[index].stop - 1 - ranges[index].start)
            smallest = ranges[index].start
        if marked:
            at = put_varint(at, space.marks[2])
            at = put_varint(at, space.marks[1])
            at = put_varint(at, space.marks[3])
        if at > end:
            return begin
        space.sent.add_frame(ACK, space.largest_received, space.id, 0, False)
        space.largest_reported = space.largest_received
        return at

    cdef uint8_t* put_control(
        self, Space space, uint8_t* at, uint8_t* end, double now, bint* expand
    ) except NULL:
        cdef Path path = space.path
        cdef int kind
        cdef uint64_t sequence, room
        cdef bytes cid, token, frame
        cdef Stream stream
        cdef size_t size = 0
        cdef uint64_t offset = 0
        cdef bint fin = False
        if self.handshake_done_wanted and at < end:
            at[0] = HANDSHAKE_DONE
            at += 1
            self.handshake_done_wanted = False
            space.sent.add_frame(HANDSHAKE_DONE, 0, 0, 0, False)
        if space.probes_wanted and self.peer_min_ack_delay >= 0.0 and at < end:
            at[0] = IMMEDIATE_ACK
            at += 1
        if self.ack_frequency_pending and end - at >= 2 + 4 * 8:
            self.ack_frequency_pending = False
            at = put_varint(at, ACK_FREQUENCY)
            at = put_varint(at, self.ack_frequency_next)
            at = put_varint(at, self.threshold_asked)
            at = put_varint(at, <uint64_t>(self.peer_max_ack_delay * 1e6 + 0.5))
            at = put_varint(at, 1)
            space.sent.add_frame(ACK_FREQUENCY, self.ack_frequency_next, 0, 0, False)
            self.ack_frequency_next += 1
        while self.extra_pending:
            sequence = self.extra_pending[0]
            frame = self.extra_sent[sequence][0]
            if end - at < len(frame):
                break
            del self.extra_pending[0]
            memcpy(at, <const char*>frame, <size_t>len(frame))
            at += len(frame)
            space.sent.add_frame(EXTRA, sequence, 0, 0, False)
        while path.response_count and end - at >= 9:
            path.response_count -= 1
            at = put_path_frame(at, PATH_RESPONSE, path.responses[path.response_count])
            expand[0] = True
        if path.challenge_pending and end - at >= 9:
            path.challenge_pending = False
            at = put_path_frame(at, PATH_CHALLENGE, path.challenge)
            expand[0] = True
        while space.own_cids_pending and end - at >= 3 + 16 + 20 + 16:
            sequence = space.own_cids_pending.pop(0)
            cid = space.own_cids[sequence]
            token = self.reset_token(cid)
            at[0] = NEW_CONNECTION_ID
            at = put_varint(at + 1, sequence)
            at = put_varint(at, 0)
            at[0] = <uint8_t>len(cid)
            memcpy(at + 1, <const char*>cid, len(cid))
            at += 1 + len(cid)
            memcpy(at, <const char*>token, 16)
            at += 16
            space.sent.add_frame(NEW_CONNECTION_ID, sequence, space.id, 0, False)
        while space.retire_pending and end - at >= 9:
            sequence = space.retire_pending.pop(0)
            at[0] = RETIRE_CONNECTION_ID
            at = put_varint(at + 1, sequence)
            space.sent.add_frame(RETIRE_CONNECTION_ID, sequence, space.id, 0, False)
        if self.max_data_pending and end - at >= 9:
            self.max_data_pending = False
            self.max_data_sent = self.max_data
            at = _limit(space, at, MAX_DATA, self.max_data)
        for kind in range(2):
            if self.max_streams_pending[kind] and end - at >= 9:
                self.max_streams_pending[kind] = False
                self.max_streams_sent[kind] = self.max_streams[kind]
                at = _limit(space, at, MAX_STREAMS_BIDI + kind, self.max_streams[kind])
            if self.streams_blocked_pending[kind] and end - at >= 9:
                self.streams_blocked_pending[kind] = False
                at = _limit(space, at, STREAMS_BLOCKED_BIDI + kind, self.peer_max_streams[kind])
        if self.data_blocked_pending and end - at >= 9:
            self.data_blocked_pending = False
            at = _limit(space, at, DATA_BLOCKED, self.peer_max_data)
        while self.announcing and end - at >= 2 * 17:
            stream = self.announcing.pop()
            stream.announced = False
            if stream.over:
                continue
            if stream.limit_pending:
                stream.limit_pending = False
                if stream.final == OPEN:
                    # Of a stream that is stopped, too: the peer needs credit until it has seen our STOP_SENDING.
                    at[0] = MAX_STREAM_DATA
                    at = put_varint(at + 1, stream.number)
                    at = put_varint(at, stream.max_receive)
                    space.sent.add_frame(MAX_STREAM_DATA, stream.number, 0, 0, False)
            if stream.stop_pending:
                stream.stop_pending = False
                if stream.final == OPEN:
                    at[0] = STOP_SENDING
                    at = put_varint(at + 1, stream.number)
                    at = put_varint(at, stream.stop_code)
                    space.sent.add_frame(STOP_SENDING, stream.number, 0, 0, False)
        while end - at > 24 and self.crypto_out.next(UNKNOWN, <size_t>(end - at) - 24, &offset, &size, &fin) and size:
            at[0] = CRYPTO
            at = put_varint(at + 1, offset)
            at = put_varint(at, size)
            self.crypto_out.blocks.read(offset, at, size)
            at += size
            self.crypto_out.on_sent(offset, size, False)
            space.sent.add_frame(CRYPTO, 0, offset, <uint32_t>size, False)
        return at


cdef uint8_t* put_path_frame(uint8_t* at, uint8_t kind, uint64_t data) noexcept:
    cdef int i
    at[0] = kind
    for i in range(8):
        at[1 + i] = <uint8_t>(data >> (56 - 8 * i) & 0xff)
    return at + 9


cdef uint8_t* _limit(Space space, uint8_t* at, int kind, uint64_t value) except NULL:
    at[0] = <uint8_t>kind
    at = put_varint(at + 1, value)
    space.sent.add_frame(<uint8_t>kind, value, 0, 0, False)
    return at
