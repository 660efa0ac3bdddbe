"""Where packets go to and come from."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from .socket_api cimport sockaddr_storage, socklen_t


cdef struct Addresses:
    sockaddr_storage remote
    socklen_t remote_size
    uint8_t local[16]           # in network order
    int local_size              # 4 or 16; 0: the socket's own
    int number                  # the socket's place in the endpoint's list


cdef class Destination:
    """The remote address and our own. Equal when all of it is; hashable."""
    cdef Addresses addresses
    cdef readonly tuple remote          # (host, port)
    cdef readonly str local             # host; None: the socket's own address, or whichever the kernel chooses

    cdef bint same_remote(self, Destination other) noexcept


cdef inline bint same(const Addresses* a, const Addresses* b) noexcept:
    return (
        a.remote_size == b.remote_size
        and a.local_size == b.local_size
        and a.number == b.number
        and memcmp(&a.remote, &b.remote, a.remote_size) == 0
        and memcmp(a.local, b.local, <size_t>a.local_size) == 0
    )


cdef bytes octets_of(const Addresses* addresses)      # a key
cdef Destination destination_of(const Addresses* addresses)      # of IPv4 or IPv6
