"""Read RFC 9001 §4.6, §4.9.3 and §5.6, RFC 9000 §12.5 and §17.2.3, and ``zero_rtt.pxd`` first.

What is in these packets may be a replay: to make sure that it is not, as far as that can be done, is up to who accepts
the session ticket, and who may see it before the handshake is complete, to the session.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..errors import PeerError

from .core cimport RUNNING
from .crypto cimport SAMPLE, header_key, packet_key
from .path cimport Path
from .space cimport Space
from .wire cimport AEAD_LIMIT_REACHED, PROTOCOL_VIOLATION, decode_number, get_varint

cdef double NEVER = float("inf")
cdef enum:
    LONGEST_CID = 20
    MOST_HELD = 64
    # Events that wait for the handshake's end, DATAGRAMs above all: packets are dropped while there are more.


cdef class ZeroRtt(Sending):
    def install_early_key(self, int suite, bytes secret, int version):
        """The client's 0-RTT secret. ``set_peer`` comes first, on a client with what it remembers of the server. Again after
        a Retry: what was sent before counts as lost, and numbers go on (RFC 9000 §17.2.5.3)."""
        self.version = version
        if not self.is_client:
            self.early_key = packet_key(suite, secret, version, False)
            self.early_header_key = header_key(suite, secret, version)
            return
        if self.sending_early:
            self.requeue_all(self.space)
        self.send_key = packet_key(suite, secret, version, True)
        self.send_header_key = header_key(suite, secret, version)
        self.sending_early = True
        self.wake()

    def set_peer_cid(self, bytes cid not None):
        """A client's, while it sends early: the server is addressed by what it has named last."""
        cdef Path path = self.space.path
        if path.cid_length != len(cid) or path.cid[:path.cid_length] != cid:
            path.cid_length = <uint8_t>len(cid)
            memcpy(path.cid, <const char*>cid, len(cid))
            self.space.peer_cids[0] = (cid, None)

    def early_rejected(self):
        """A client's, with its 1-RTT keys: what went out early goes out again."""
        self.space.refused_stop = self.space.sent.next
        self.requeue_all(self.space)

    def end_early(self, double now):
        """A server's, when the handshake is complete: only what is late still comes (RFC 9001 §4.9.3)."""
        if self.early_key is not None:
            self.early_until = now + 3.0 * self.pto()

    @property
    def reads_early(self):
        """Whether there is a key for 0-RTT packets that come."""
        return self.early_key is not None

    @property
    def sends_early(self):
        """Whether 0-RTT packets, and no others, can be made."""
        return self.sending_early

    def count_early_dropped(self, int packets):
        """So many 0-RTT packets came that nobody has asked for."""
        self.counters.zero_rtt_dropped += packets

    def receive_early_packet(self, bytes data not None, double now, int ecn=0):
        """A 0-RTT packet, whole. Raises PeerError when the peer has broken the protocol."""
        cdef bytearray packet
        if self.state != RUNNING:
            return
        self.now = now
        if now >= self.early_until:
            self.drop_early_key()
        if self.early_key is None or len(self.events) >= MOST_HELD:
            self.counters.zero_rtt_dropped += 1
            return
        packet = bytearray(data)
        self.reading_early = True
        try:
            if not self._read_early(<uint8_t*>packet, <size_t>len(packet), ecn, now):
                self.counters.zero_rtt_dropped += 1
        finally:
            self.reading_early = False

    cdef int drop_early_key(self) except -1:
        self.early_key = None
        self.early_header_key = None
        self.early_until = NEVER
        self.events.append(("early_over",))
        return 0

    cdef int _read_early(self, uint8_t* data, size_t size, int ecn, double now) except -1:
        # 1, or 0 when it is dropped: not authentic, malformed before that, or seen before.
        cdef uint8_t* number_at = _number_at(data, &size, self.version)
        cdef size_t header
        cdef uint8_t mask[5]
        cdef uint8_t first
        cdef int octets, i, opened
        cdef uint32_t truncated = 0
        cdef uint64_t number
        cdef bint newest
        cdef Space space = self.space
        if number_at == NULL or <size_t>(number_at - data) + 4 + SAMPLE > size or \
                self.early_header_key.mask(number_at + 4, mask) != 0:
            return 0
        first = data[0] = data[0] ^ (mask[0] & 0x0f)
        octets = (first & 3) + 1
        for i in range(octets):
            number_at[i] ^= mask[i + 1]
            truncated = truncated << 8 | number_at[i]
        number = decode_number(truncated, octets, space.largest_received + 1 if space.any_received else 0)
        header = <size_t>(number_at - data) + <size_t>octets
        opened = self.early_key.open(data, header, size - header, number, space.id)
        if opened < 0:
            self.forged += 1
            if self.forged >= self.early_key.integrity_limit:
                raise PeerError("too many packets that are not authentic", AEAD_LIMIT_REACHED)
            return 0
        if space.received.contains(number) or number < space.received_floor:
            return 0
        if first & 0x0c:
            raise PeerError("reserved bits of a 0-RTT packet are set", PROTOCOL_VIOLATION)
        if opened == 0:
            raise PeerError("a packet without frames", PROTOCOL_VIOLATION)
        if number > space.one_rtt_from:
            # RFC 9001 §5.6: with 1-RTT keys, a client sends no more of these.
            raise PeerError("a 0-RTT packet numbered above a 1-RTT packet", PROTOCOL_VIOLATION)
        if number >= space.early_stop:
            space.early_stop = number + 1
        self.counters.zero_rtt_received += 1
        newest = self.note_received(space, number, size, ecn, now)
        self.receive_frames(space, data + header, data + header + opened, number, newest, now)
        self.wake()
        return 1


cdef uint8_t* _number_at(uint8_t* data, size_t* size, int version) noexcept:
    # Where the packet number of a 0-RTT packet of that version begins; NULL when it is none. size: then up to its end.
    cdef const uint8_t* at = data + 5
    cdef const uint8_t* end = data + size[0]
    cdef uint64_t length = 0
    cdef int i
    if size[0] < 7 or data[0] & 0xf0 != 0xd0:
        return NULL
    if (<uint32_t>data[1] << 24 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 8 | data[4]) != <uint32_t>version:
        return NULL
    for i in range(2):
        if at >= end or at[0] > LONGEST_CID or <size_t>(end - at) <= at[0]:
            return NULL
        at += 1 + at[0]
    at = get_varint(at, end, &length)
    if at == NULL or length > <uint64_t>(end - at):
        return NULL
    size[0] = <size_t>(at - data) + <size_t>length
    return data + (at - data)
