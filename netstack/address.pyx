"""Read ``address.pxd`` first."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from libc.stdint cimport uint8_t, uint64_t


cdef bint is_unspecified(const Address* address) noexcept:
    cdef uint8_t* octets
    if is_v4(address):
        octets = <uint8_t*>octets4(address)
        return octets[0] == 0       # RFC 1122 §3.2.1.3: all of 0/8 is "this network".
    return address.high == 0 and address.low == 0


cdef bint is_multicast(const Address* address) noexcept:
    if is_v4(address):
        return octets4(address)[0] >> 4 == 0xe
    return (<const uint8_t*>&address.high)[0] == 0xff


cdef bint is_broadcast(const Address* address) noexcept:
    cdef const uint8_t* octets = octets4(address)
    return is_v4(address) and octets[0] & octets[1] & octets[2] & octets[3] == 0xff


cdef bint is_loopback(const Address* address) noexcept:
    cdef const uint8_t* low = <const uint8_t*>&address.low
    cdef int i
    if is_v4(address):
        return octets4(address)[0] == 127
    for i in range(7):
        if low[i]:
            return False
    return address.high == 0 and low[7] == 1


cdef bint is_unicast(const Address* address) noexcept:
    if is_unspecified(address) or is_multicast(address) or is_loopback(address):
        return False
    return not is_v4(address) or octets4(address)[0] < 240


cdef Address to_address(object address) except *:
    cdef bytes packed
    if isinstance(address, str):
        address = ip_address(address)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{address} has a zone, which packets do not carry")
        packed = address.packed
        return address6(<const uint8_t*><const char*>packed)
    if isinstance(address, IPv4Address):
        packed = address.packed
        return address4(<const uint8_t*><const char*>packed)
    raise ValueError(f"{address!r} is no IP address")


cdef object from_address(const Address* address):
    cdef uint8_t octets[16]
    if is_v4(address):
        return IPv4Address((<const char*>octets4(address))[:4])
    copy6(octets, address)
    return IPv6Address((<const char*>octets)[:16])


def classify(address):
    """For tests and tools: the names of what an address is, of unspecified, multicast, broadcast, loopback, unicast."""
    cdef Address value = to_address(address)
    return {
        name
        for name, holds in (
            ("unspecified", is_unspecified(&value)), ("multicast", is_multicast(&value)),
            ("broadcast", is_broadcast(&value)), ("loopback", is_loopback(&value)), ("unicast", is_unicast(&value)),
        )
        if holds
    }


def through(address):
    """For tests and tools: an address as it comes out again."""
    cdef Address value = to_address(address)
    return from_address(&value)
