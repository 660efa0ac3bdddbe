"""The Internet checksum. Read RFC 1071, RFC 8200 §8.1 for the pseudo-header of IPv6, and ``checksum.pxd`` first."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .address cimport Address, is_v4, octets4


cdef uint64_t sum_of(const uint8_t* data, size_t size) noexcept:
    # Of 32-bit halves, in 64 bits: no carry is lost before 2^32 of them. Four at a time, for the processor's sake.
    cdef uint64_t a = 0, b = 0
    cdef uint64_t words[4]
    cdef uint16_t word
    while size >= 32:
        memcpy(words, data, 32)
        a += (words[0] & 0xffffffff) + (words[1] & 0xffffffff) + (words[2] & 0xffffffff) + (words[3] & 0xffffffff)
        b += (words[0] >> 32) + (words[1] >> 32) + (words[2] >> 32) + (words[3] >> 32)
        data += 32
        size -= 32
    while size >= 8:
        memcpy(words, data, 8)
        a += words[0] & 0xffffffff
        b += words[0] >> 32
        data += 8
        size -= 8
    while size >= 2:
        memcpy(&word, data, 2)
        a += word
        data += 2
        size -= 2
    if size:
        word = 0
        memcpy(&word, data, 1)      # Padded with zero.
        a += word
    return a + b


cdef uint16_t folded(uint64_t sum) noexcept:
    sum = (sum & 0xffffffff) + (sum >> 32)
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32)
    sum = (sum & 0xffff) + (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16)
    return <uint16_t>sum


cdef uint64_t shifted(uint64_t sum) noexcept:
    cdef uint16_t value = folded(sum)
    return <uint16_t>(value << 8 | value >> 8)


cdef uint64_t pseudo_sum(const Address* source, const Address* destination, uint8_t protocol, size_t size) noexcept:
    cdef uint64_t sum
    cdef uint8_t rest[8]
    rest[0] = <uint8_t>(size >> 24 & 0xff)
    rest[1] = <uint8_t>(size >> 16 & 0xff)
    rest[2] = <uint8_t>(size >> 8 & 0xff)
    rest[3] = <uint8_t>(size & 0xff)
    rest[4] = rest[5] = rest[6] = 0
    rest[7] = protocol
    sum = sum_of(rest, 8)
    if is_v4(source):
        return sum + sum_of(octets4(source), 4) + sum_of(octets4(destination), 4)
    return sum + sum_of(<const uint8_t*>source, 16) + sum_of(<const uint8_t*>destination, 16)


cdef uint16_t adjusted(uint16_t checksum, uint16_t before, uint16_t after) noexcept:
    cdef uint32_t sum = <uint32_t>(<uint16_t>~checksum) + <uint16_t>~before + after
    sum = (sum & 0xffff) + (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16)
    return <uint16_t>~sum


# From Python. What precedes is a number in network order.


cdef uint16_t _swapped(uint16_t value) noexcept:
    cdef uint8_t octets[2]
    octets[0] = <uint8_t>(value >> 8)
    octets[1] = <uint8_t>(value & 0xff)
    memcpy(&value, octets, 2)
    return value


def ones_complement_sum(const uint8_t[::1] data not None, uint32_t start=0):
    """Add data's 16-bit big-endian words, a last odd byte padded with zero, to start; 16 bits, carries folded in.

    Sums of parts combine when every part but the last has an even length (RFC 1071 §2).
    """
    cdef uint64_t sum = _swapped(folded(start))
    if data.shape[0]:
        sum += sum_of(&data[0], <size_t>data.shape[0])
    return _swapped(folded(sum))


def internet_checksum(const uint8_t[::1] data not None, uint32_t start=0):
    """The checksum over data whose own checksum field is zero. start: ``ones_complement_sum`` of what precedes it."""
    return ones_complement_sum(data, start) ^ 0xffff


def sum_in_parts(const uint8_t[::1] data not None, cuts):
    """For tests: the sum of data cut at these ascending offsets, odd ones too."""
    cdef uint64_t sum = 0, part
    cdef Py_ssize_t begin = 0, end
    for end in [*cuts, data.shape[0]]:
        if end > begin:
            part = sum_of(&data[begin], <size_t>(end - begin))
            sum += shifted(part) if begin % 2 else part
        begin = end
    return _swapped(folded(sum))


def adjust(int checksum, int before, int after):
    """For tests: ``adjusted``, in network order."""
    return _swapped(adjusted(_swapped(<uint16_t>checksum), _swapped(<uint16_t>before), _swapped(<uint16_t>after)))


def pseudo_header_sum(source, destination, int protocol, int length):
    """The sum over the pseudo-header of IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1); both sum the same fields.

    source, destination: 4 or 16 bytes each. protocol: 0 to 255. length: of the upper layer's header and data.
    """
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError("addresses of 4 or of 16 bytes")
    return ones_complement_sum(source + destination + length.to_bytes(4, "big") + protocol.to_bytes(4, "big"))
