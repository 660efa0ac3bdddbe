"""IP headers. Read RFC 791 §3.1, RFC 8200 §3 and §4, and ``ip.pxd`` first."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .address cimport Address, address4, address6, copy6, from_address, is_v4, octets4
from .checksum cimport folded, sum_of

cdef enum:
    HOP_BY_HOP = 0
    ROUTING = 43
    FRAGMENT = 44
    DESTINATION = 60
    PAD1 = 0
    MOST_EXTENSIONS = 8
    # Headers looked through: more have no use but to keep us busy.
    MORE4 = 0x2000
    KEEP4 = 0x4000


cdef Reading read_packet(const uint8_t* data, size_t size, Packet* packet) noexcept:
    if size < HEADER4:
        return SHORT
    packet.data = data
    packet.version = data[0] >> 4
    packet.fragment = packet.more = packet.keep = packet.mute = False
    packet.id = 0
    packet.offset = packet.pointer = 0
    if packet.version == 4:
        return _read4(data, size, packet)
    if packet.version == 6:
        return _read6(data, size, packet)
    return BAD_VERSION


cdef Reading _read4(const uint8_t* data, size_t size, Packet* packet) noexcept:
    cdef size_t header = <size_t>(data[0] & 15) * 4
    cdef size_t total = get16(data + 2)
    cdef uint16_t flags = get16(data + 6)
    if header < HEADER4 or total < header:
        return BAD_HEADER
    if total > size:
        return SHORT
    if folded(sum_of(data, header)) != 0xffff:
        return BAD_HEADER
    packet.size = total
    packet.traffic = data[1]
    packet.hops = data[8]
    packet.protocol = data[9]
    packet.source = address4(data + 12)
    packet.destination = address4(data + 16)
    # Options are skipped: those that mean something to a host, source routes, are not to be followed (RFC 7126).
    packet.payload = data + header
    packet.payload_size = total - header
    packet.id = get16(data + 4)
    packet.keep = flags & KEEP4 != 0
    packet.more = flags & MORE4 != 0
    packet.offset = <size_t>(flags & 0x1fff) * 8
    packet.fragment = packet.more or packet.offset != 0
    return READ


cdef Reading _read6(const uint8_t* data, size_t size, Packet* packet) noexcept:
    cdef size_t at = HEADER6, end, length, next_at = 6
    cdef uint8_t kind
    cdef int count = 0
    cdef Reading outcome
    if size < HEADER6:
        return SHORT
    end = HEADER6 + <size_t>get16(data + 4)
    if end > size:
        return SHORT
    packet.size = end
    packet.traffic = <uint8_t>((data[0] << 4 | data[1] >> 4) & 0xff)
    packet.hops = data[7]
    packet.source = address6(data + 8)
    packet.destination = address6(data + 24)
    packet.keep = True
    if is_v4(&packet.source) or is_v4(&packet.destination):
        return BAD_HEADER       # IPv4-mapped addresses are never on the wire, and would pass for IPv4 ones here.
    kind = data[6]
    while kind == HOP_BY_HOP or kind == ROUTING or kind == FRAGMENT or kind == DESTINATION:
        if packet.fragment and packet.offset:
            break               # What follows is not the beginning of a header.
        if kind == HOP_BY_HOP and at != HEADER6:
            packet.pointer = next_at
            return UNKNOWN_NEXT     # RFC 8200 §4: only behind the IPv6 header.
        count += 1
        if count > MOST_EXTENSIONS:
            return BAD_HEADER
        if end - at < 8:
            packet.pointer = at
            return INCOMPLETE_CHAIN if packet.fragment else BAD_HEADER
        if kind == FRAGMENT:
            length = 8
            packet.offset = get16(data + at + 2) & 0xfff8
            packet.more = data[at + 3] & 1
            packet.id = get32(data + at + 4)
            if packet.fragment:
                return BAD_HEADER       # A fragment of a fragment.
            packet.fragment = packet.more or packet.offset != 0
        else:
            length = (<size_t>data[at + 1] + 1) * 8
            if length > end - at:
                packet.pointer = at
                return INCOMPLETE_CHAIN if packet.fragment else BAD_HEADER
            if kind == ROUTING and data[at + 3]:
                packet.pointer = at + 2
                return BAD_FIELD        # RFC 8200 §4.4: an unknown type with segments left. RH0 is one (RFC 5095).
            if kind == HOP_BY_HOP or kind == DESTINATION:
                outcome = _options(packet, data, at + 2, at + length)
                if outcome != READ:
                    return outcome
        next_at = at
        kind = data[at]
        at += length
    packet.protocol = kind
    packet.pointer = next_at            # Of the field that names the protocol.
    packet.payload = data + at
    packet.payload_size = end - at
    return READ


cdef Reading _options(Packet* packet, const uint8_t* data, size_t at, size_t end) noexcept:
    # RFC 8200 §4.2. The two highest bits of an unknown one say what to do.
    cdef size_t length
    cdef uint8_t kind
    while at < end:
        kind = data[at]
        if kind == PAD1:
            at += 1
            continue
        if end - at < 2 or <size_t>data[at + 1] + 2 > end - at:
            return BAD_HEADER
        length = <size_t>data[at + 1] + 2
        if kind >> 6 == 1:
            return BAD_HEADER
        if kind >> 6 >= 2:
            packet.mute = kind >> 6 == 3
            packet.pointer = at
            return UNKNOWN_OPTION
        at += length
    return READ


cdef uint8_t* write_header(
    uint8_t* out, const Address* source, const Address* destination, uint8_t protocol, size_t size, uint8_t traffic,
    uint8_t hops, uint16_t id, bint keep
) noexcept:
    cdef uint16_t checksum
    if is_v4(source):
        out[0] = 0x45
        out[1] = traffic
        put16(out + 2, <uint32_t>(HEADER4 + size))
        put16(out + 4, id)
        put16(out + 6, KEEP4 if keep else 0)
        out[8] = hops
        out[9] = protocol
        put16(out + 10, 0)
        memcpy(out + 12, octets4(source), 4)
        memcpy(out + 16, octets4(destination), 4)
        checksum = ~folded(sum_of(out, HEADER4))
        memcpy(out + 10, &checksum, 2)
        return out + HEADER4
    out[0] = <uint8_t>(0x60 | traffic >> 4)
    out[1] = <uint8_t>(traffic << 4 & 0xf0)
    out[2] = out[3] = 0
    put16(out + 4, <uint32_t>size)
    out[6] = protocol
    out[7] = hops
    copy6(out + 8, source)
    copy6(out + 24, destination)
    return out + HEADER6


def look(const uint8_t[::1] data not None):
    """For tests and tools: what is read of a packet, as a dict with ``reading``, a Reading; only that when it is not 0."""
    cdef Packet packet
    cdef Reading reading = read_packet(&data[0], <size_t>data.shape[0], &packet) if data.shape[0] else SHORT
    if reading != READ:
        found = {"reading": <int>reading}
        if reading >= BAD_FIELD:
            found["pointer"] = packet.pointer
        return found
    return {
        "reading": 0,
        "version": packet.version,
        "size": packet.size,
        "traffic": packet.traffic,
        "hops": packet.hops,
        "protocol": packet.protocol,
        "source": from_address(&packet.source),
        "destination": from_address(&packet.destination),
        "payload": (<const char*>packet.payload)[:packet.payload_size],
        "fragment": bool(packet.fragment),
        "more": bool(packet.more),
        "keep": bool(packet.keep),
        "offset": packet.offset,
        "id": packet.id,
    }
