"""IP addresses without Python objects: 16 octets, IPv4 ones as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2)."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef struct Address:
    # The octets in network order as they stand in memory: for comparing and copying, not for arithmetic.
    uint64_t high
    uint64_t low


cdef inline Address address4(const uint8_t* octets) noexcept:
    cdef Address address
    cdef uint8_t* low = <uint8_t*>&address.low
    address.high = 0
    low[0] = low[1] = 0
    low[2] = low[3] = 0xff
    memcpy(low + 4, octets, 4)
    return address


cdef inline Address address6(const uint8_t* octets) noexcept:
    cdef Address address
    memcpy(&address.high, octets, 8)
    memcpy(&address.low, octets + 8, 8)
    return address


cdef inline bint is_v4(const Address* address) noexcept:
    cdef const uint8_t* low = <const uint8_t*>&address.low
    return address.high == 0 and low[0] == 0 and low[1] == 0 and low[2] == 0xff and low[3] == 0xff


cdef inline const uint8_t* octets4(const Address* address) noexcept:
    return <const uint8_t*>&address.low + 4


cdef inline void copy6(uint8_t* out, const Address* address) noexcept:
    memcpy(out, &address.high, 8)
    memcpy(out + 8, &address.low, 8)


cdef inline bint same(const Address* one, const Address* other) noexcept:
    return one.high == other.high and one.low == other.low


cdef bint is_unspecified(const Address* address) noexcept
cdef bint is_multicast(const Address* address) noexcept
cdef bint is_broadcast(const Address* address) noexcept     # 255.255.255.255
cdef bint is_loopback(const Address* address) noexcept
cdef bint is_unicast(const Address* address) noexcept       # none of these, and not of class E: may be a sender's

# From and to ipaddress objects. Raises ValueError.
cdef Address to_address(object address) except *
cdef object from_address(const Address* address)
