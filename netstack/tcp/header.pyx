"""TCP headers. Read RFC 9293 §3.1 and §3.2, RFC 7323 §2 and §3, RFC 2018 §2 and §3, and ``header.pxd`` first."""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..checksum cimport folded, pseudo_sum, sum_of
from ..ip cimport READ, TCP, Packet, get16, get32, put16, put32, read_packet

cdef enum Option:
    END = 0
    NOTHING = 1
    MSS = 2
    SCALE = 3
    SACK_PERMITTED = 4
    SACK = 5
    TIMESTAMPS = 8


cdef bint read_header(const Packet* packet, Header* header) noexcept:
    cdef const uint8_t* at = packet.payload
    cdef size_t length
    if packet.payload_size < PLAIN_HEADER:
        return False
    length = <size_t>(at[12] >> 4) * 4
    if length < PLAIN_HEADER or length > packet.payload_size:
        return False
    if folded(
        pseudo_sum(&packet.source, &packet.destination, TCP, packet.payload_size) + sum_of(at, packet.payload_size)
    ) != 0xffff:
        return False
    header.source_port = get16(at)
    header.destination_port = get16(at + 2)
    header.sequence = get32(at + 4)
    header.acknowledgement = get32(at + 8)
    header.flags = at[13]
    header.window = get16(at + 14)
    header.urgent = get16(at + 18)
    header.data = at + length
    header.size = packet.payload_size - length
    header.sack_count = 0
    header.scale = -1
    header.sack_permitted = header.stamped = False
    header.mss = 0
    if length == PLAIN_HEADER + TIMESTAMPS_SIZE and get32(at + 20) == 0x0101080a:
        # What nearly every segment has (RFC 7323 appendix A).
        header.stamped = True
        header.ts_value = get32(at + 24)
        header.ts_echo = get32(at + 28)
    elif length > PLAIN_HEADER:
        _read_options(at + PLAIN_HEADER, length - PLAIN_HEADER, header)
    return True


cdef void _read_options(const uint8_t* at, size_t size, Header* header) noexcept:
    cdef size_t length
    cdef uint8_t kind
    cdef int index
    while size:
        kind = at[0]
        if kind == END:
            return
        if kind == NOTHING:
            at += 1
            size -= 1
            continue
        if size < 2:
            return
        length = at[1]
        if length < 2 or length > size:
            return
        if kind == MSS and length == 4:
            header.mss = get16(at + 2)
        elif kind == SCALE and length == 3:
            # RFC 7323 §2.3: a larger shift counts as the largest.
            header.scale = <int8_t>(at[2] if at[2] < MOST_SCALE else MOST_SCALE)
        elif kind == SACK_PERMITTED and length == 2:
            header.sack_permitted = True
        elif kind == TIMESTAMPS and length == 10:
            header.stamped = True
            header.ts_value = get32(at + 2)
            header.ts_echo = get32(at + 6)
        elif kind == SACK and length >= 10 and (length - 2) % 8 == 0:
            header.sack_count = <uint8_t>((length - 2) // 8)
            for index in range(header.sack_count):
                header.sacks[index].start = get32(at + 2 + 8 * index)
                header.sacks[index].stop = get32(at + 6 + 8 * index)
        at += length
        size -= length


cdef void write_plain(
    uint8_t* out, uint16_t source_port, uint16_t destination_port, uint32_t sequence, uint32_t acknowledgement, uint8_t flags,
    uint32_t window
) noexcept:
    put16(out, source_port)
    put16(out + 2, destination_port)
    put32(out + 4, sequence)
    put32(out + 8, acknowledgement)
    out[12] = 0
    out[13] = flags
    put16(out + 14, window)
    put32(out + 16, 0)


cdef uint8_t* put_mss(uint8_t* at, uint32_t mss) noexcept:
    at[0] = MSS
    at[1] = 4
    put16(at + 2, mss)
    return at + 4


cdef uint8_t* put_scale(uint8_t* at, int scale) noexcept:
    at[0] = NOTHING
    at[1] = SCALE
    at[2] = 3
    at[3] = <uint8_t>scale
    return at + 4


cdef uint8_t* put_sack_permitted(uint8_t* at) noexcept:
    at[0] = at[1] = NOTHING
    at[2] = SACK_PERMITTED
    at[3] = 2
    return at + 4


cdef uint8_t* put_timestamps(uint8_t* at, uint32_t value, uint32_t echo) noexcept:
    put32(at, 0x0101080a)
    put32(at + 4, value)
    put32(at + 8, echo)
    return at + TIMESTAMPS_SIZE


cdef uint8_t* put_sacks(uint8_t* at, const Sack* sacks, int count) noexcept:
    cdef int index
    at[0] = at[1] = NOTHING
    at[2] = SACK
    at[3] = <uint8_t>(2 + 8 * count)
    at += 4
    for index in range(count):
        put32(at, sacks[index].start)
        put32(at + 4, sacks[index].stop)
        at += 8
    return at


cdef void seal(uint8_t* out, uint8_t* end, size_t size, uint64_t pseudo) noexcept:
    cdef size_t total = <size_t>(end - out) + size
    cdef uint8_t octets[2]
    cdef uint16_t word
    out[12] = <uint8_t>((end - out) << 2)
    put16(octets, <uint32_t>total)
    memcpy(&word, octets, 2)
    word = ~folded(pseudo + word + sum_of(out, total))
    memcpy(out + 16, &word, 2)


def look(const uint8_t[::1] data not None):
    """For tests and tools: what is read of an IP packet with a TCP segment in it, as a dict; None: it is not taken."""
    cdef Packet packet
    cdef Header header
    if not data.shape[0] or read_packet(&data[0], <size_t>data.shape[0], &packet) != READ:
        return None
    if packet.protocol != TCP or not read_header(&packet, &header):
        return None
    return {
        "source_port": header.source_port,
        "destination_port": header.destination_port,
        "sequence": header.sequence,
        "acknowledgement": header.acknowledgement,
        "flags": header.flags,
        "window": header.window,
        "urgent": header.urgent,
        "mss": header.mss or None,
        "scale": header.scale if header.scale >= 0 else None,
        "sack_permitted": bool(header.sack_permitted),
        "timestamps": (header.ts_value, header.ts_echo) if header.stamped else None,
        "sacks": [(header.sacks[index].start, header.sacks[index].stop) for index in range(header.sack_count)],
        "data": (<const char*>header.data)[:header.size],
    }


def write(
    int source_port, int destination_port, uint32_t sequence, uint32_t acknowledgement, int flags, int window, bytes data,
    *, mss=None, scale=None, bint sack_permitted=False, timestamps=None, sacks=(), uint64_t pseudo=0,
):
    """For tests and tools: a segment, its checksum without a pseudo-header unless its sum is given."""
    cdef uint8_t out[60]
    cdef uint8_t* end = out + PLAIN_HEADER
    cdef Sack blocks[4]
    cdef int index
    write_plain(out, <uint16_t>source_port, <uint16_t>destination_port, sequence, acknowledgement, <uint8_t>flags, <uint32_t>window)
    if mss is not None:
        end = put_mss(end, mss)
    if scale is not None:
        end = put_scale(end, scale)
    if sack_permitted:
        end = put_sack_permitted(end)
    if timestamps is not None:
        end = put_timestamps(end, timestamps[0], timestamps[1])
    if sacks:
        for index in range(len(sacks)):
            blocks[index].start, blocks[index].stop = sacks[index]
        end = put_sacks(end, blocks, <int>len(sacks))
    whole = bytearray((<const char*>out)[:end - out] + data)
    cdef uint8_t* at = whole
    seal(at, at + (end - out), <size_t>len(data), pseudo)
    return bytes(whole)
