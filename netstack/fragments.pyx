"""Read ``fragments.pxd`` first."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .checksum cimport folded, sum_of
from .ip cimport HEADER4, HEADER6, ICMP, ICMPV6, TCP, UDP, Packet, put16, put32
from .ranges cimport RangeSet

cdef double NEVER = float("inf")
cdef double PATIENCE4 = 30.0
# Seconds: RFC 791 has 15, RFC 1122 60 to 120; Linux has 30, because identifications of 16 bits come again.
cdef double PATIENCE6 = 60.0        # RFC 8200 §4.5
cdef enum:
    FRAGMENT = 44
    LARGEST = 65535         # octets of a datagram
    MOST_PARTIALS = 256     # datagrams that wait
    MOST_FRAGMENTS = 128    # of one: a datagram of the largest size in packets of 576 octets has 119
    MOST_HELD = 4 << 20     # octets of all
    QUOTED = 9216           # octets of a first fragment that are kept for Time Exceeded to quote


cdef class _Partial:
    cdef object key
    cdef int version
    cdef double until
    cdef bytearray data         # from the datagram's first octet behind the IP header on
    cdef RangeSet arrived
    cdef int fragments
    cdef size_t total           # octets behind the IP header, 0: not known
    cdef bytes header           # of the first fragment, and as much as is quoted
    cdef uint8_t protocol
    cdef uint8_t marks          # ECN codepoints of the fragments, a bit each
    cdef bint dead              # its fragments overlap: the others are dropped as they come


cdef class Reassembler:
    def __cinit__(self):
        self._partials = {}
        self._due = NEVER

    cdef Piece add(self, Packet* packet, double now) except *:
        cdef bytes key = _key(packet)
        cdef _Partial partial = self._partials.get(key)
        cdef size_t start = packet.offset, stop = start + packet.payload_size
        if partial is None:
            _make_room(self)
            partial = _Partial()
            partial.key = key
            partial.version = packet.version
            partial.until = now + (PATIENCE4 if packet.version == 4 else PATIENCE6)
            partial.data = bytearray()
            partial.arrived = RangeSet()
            self._partials[key] = partial
            self._due = min(self._due, partial.until)
        if partial.dead:
            return _refuse(self, partial)
        partial.fragments += 1
        if not _fits(partial, packet, start, stop):
            return _refuse(self, partial)
        partial.marks |= <uint8_t>(1 << (packet.traffic & 3))
        if not packet.more:
            partial.total = stop
        if start == 0:
            partial.header = (<const char*>packet.data)[:min(packet.size, <size_t>QUOTED)]
            partial.protocol = packet.protocol
        if stop > <size_t>len(partial.data):
            self._held += stop - <size_t>len(partial.data)
            partial.data.extend(bytes(stop - <size_t>len(partial.data)))
        memcpy(<uint8_t*><char*>partial.data + start, packet.payload, packet.payload_size)
        partial.arrived.add(start, stop)
        while self._held > MOST_HELD:
            _drop_oldest(self)
        if not partial.total or not partial.arrived.covers(0, partial.total):
            return WAITING
        del self._partials[partial.key]
        self._held -= <size_t>len(partial.data)
        return _give_out(self, partial, packet)

    cdef double next_due(self) noexcept:
        return self._due

    cdef list expire(self, double now):
        cdef list gone = []
        cdef _Partial partial
        self._due = NEVER
        for partial in list(self._partials.values()):
            if partial.until > now:
                self._due = min(self._due, partial.until)
            else:
                del self._partials[partial.key]
                self._held -= <size_t>len(partial.data)
                self.timed_out += 1
                if partial.header is not None:
                    gone.append(partial.header)
        return gone


cdef Piece _refuse(Reassembler self, _Partial partial) except *:
    # RFC 5722 §4, and as Linux does for IPv4: an overlap drops the datagram, with the fragments that are still to come.
    self.refused += 1
    self._held -= <size_t>len(partial.data)
    partial.data = bytearray()
    partial.arrived.clear()
    partial.header = None
    partial.dead = True
    return REFUSED


cdef Piece _give_out(Reassembler self, _Partial partial, Packet* packet) except *:
    # The header of the first fragment, and all that stood behind.
    cdef size_t length = partial.total
    cdef bytes header = partial.header
    cdef bint congested = partial.marks & 8 != 0
    if partial.marks & 1 and congested:
        self.refused += 1       # RFC 3168 §5.3: a mark on what cannot be marked.
        return REFUSED
    self._whole = partial.data
    packet.payload = <const uint8_t*><char*>partial.data
    packet.payload_size = length
    packet.protocol = partial.protocol
    packet.traffic = <uint8_t>header[1] if packet.version == 4 else <uint8_t>((header[0] << 4 | header[1] >> 4) & 0xff)
    if congested:
        packet.traffic |= 3
    packet.fragment = packet.more = False
    packet.offset = 0
    # For quoting it.
    if packet.version == 4:
        data = bytearray(header[:HEADER4])
        data[0] = 0x45
        put16(<uint8_t*><char*>data + 2, <uint32_t>(HEADER4 + length))
        put16(<uint8_t*><char*>data + 6, 0)
        put16(<uint8_t*><char*>data + 10, 0)
        _set_checksum(<uint8_t*><char*>data)
    else:
        data = bytearray(header[:HEADER6])
        data[6] = partial.protocol
        put16(<uint8_t*><char*>data + 4, <uint32_t>length)
    packet.size = <size_t>len(data) + length
    data += partial.data
    self._whole = data
    packet.data = <const uint8_t*><char*>data
    packet.payload = packet.data + (packet.size - length)
    self.reassembled += 1
    return WHOLE


cdef int _make_room(Reassembler self) except -1:
    while len(self._partials) >= MOST_PARTIALS:
        _drop_oldest(self)
    return 0


cdef int _drop_oldest(Reassembler self) except -1:
    cdef _Partial partial = self._partials.pop(next(iter(self._partials)))
    self._held -= <size_t>len(partial.data)
    self.timed_out += 1
    return 0


cdef bytes _key(const Packet* packet):
    # RFC 791 §3.2 has the protocol in it, RFC 8200 §4.5 has not: its first fragment alone says what it is.
    cdef uint8_t octets[16 + 16 + 4 + 2]
    memcpy(octets, &packet.source, 16)
    memcpy(octets + 16, &packet.destination, 16)
    put32(octets + 32, packet.id)
    octets[36] = packet.protocol if packet.version == 4 else 0
    octets[37] = <uint8_t>packet.version
    return (<const char*>octets)[:38]


cdef bint _fits(_Partial partial, const Packet* packet, size_t start, size_t stop) noexcept:
    cdef size_t header = HEADER4 if packet.version == 4 else HEADER6
    if stop == start or stop + (header if packet.version == 4 else 0) > LARGEST or partial.fragments > MOST_FRAGMENTS:
        return False
    if packet.more and packet.payload_size % 8:
        return False        # Only the last may end anywhere (RFC 8200 §4.5).
    if partial.total and (stop > partial.total or not packet.more and stop != partial.total):
        return False
    if not packet.more and partial.arrived.count and partial.arrived.items[partial.arrived.count - 1].stop > stop:
        return False
    if start == 0 and packet.payload_size < _least(packet.protocol):
        return False        # A transport header cut in two serves to get past filters (RFC 1858, RFC 7112).
    if start and start < _least(packet.protocol) and packet.version == 4:
        return False        # The same from behind (RFC 3128).
    return _apart(partial.arrived, start, stop)


cdef size_t _least(uint8_t protocol) noexcept:
    return 20 if protocol == TCP else 8 if protocol == UDP or protocol == ICMP or protocol == ICMPV6 else 1


cdef bint _apart(RangeSet arrived, uint64_t start, uint64_t stop) noexcept:
    # Whether nothing of it has come before.
    cdef int index = arrived.first_reaching(start + 1)
    return index >= arrived.count or arrived.items[index].start >= stop


cdef void _set_checksum(uint8_t* header) noexcept:
    cdef uint16_t checksum = ~folded(sum_of(header, HEADER4))
    memcpy(header + 10, &checksum, 2)


cdef size_t fragment_size(size_t header, size_t rest, size_t mtu) noexcept:
    cdef size_t most = mtu - header - (8 if header == HEADER6 else 0)
    return rest if rest <= most else most & ~<size_t>7


cdef size_t write_fragment(
    uint8_t* out, const uint8_t* packet, size_t offset, size_t size, bint more, uint32_t id
) noexcept:
    cdef size_t header = HEADER4 if packet[0] >> 4 == 4 else HEADER6
    memcpy(out, packet, header)
    if header == HEADER4:
        put16(out + 2, <uint32_t>(HEADER4 + size))
        put16(out + 4, id & 0xffff)
        put16(out + 6, <uint32_t>((offset >> 3) | (0x2000 if more else 0)))
        put16(out + 10, 0)
        _set_checksum(out)
    else:
        put16(out + 4, <uint32_t>(size + 8))
        out[6] = FRAGMENT
        out[HEADER6] = packet[6]
        out[HEADER6 + 1] = 0
        put16(out + HEADER6 + 2, <uint32_t>(offset | (1 if more else 0)))
        put32(out + HEADER6 + 4, id)
        memcpy(out + HEADER6 + 8, packet + header + offset, size)
        return header + 8 + size
    memcpy(out + header, packet + header + offset, size)
    return header + size


def cut(const uint8_t[::1] packet not None, size_t mtu, uint32_t id):
    """For tests and tools: the fragments of a packet without extension headers or options, none larger than mtu."""
    cdef size_t header = HEADER4 if packet[0] >> 4 == 4 else HEADER6
    cdef size_t rest = <size_t>packet.shape[0] - header, offset = 0, size
    cdef bytearray out = bytearray(mtu + 8)
    cdef list fragments = []
    while offset < rest:
        size = fragment_size(header, rest - offset, mtu)
        size = write_fragment(<uint8_t*><char*>out, &packet[0], offset, size, offset + size < rest, id)
        fragments.append(bytes(out[:size]))
        offset += size - header - (8 if header == HEADER6 else 0)
    return fragments
