"""UDP (RFC 768): sockets of a stack."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .host cimport Flow, FlowTable, Host, Name, Report, Transport
from .ip cimport Packet
from .queue cimport PacketQueue

cdef enum:
    HEADER = 8
    MOST_DATA = 65507       # octets of a datagram over IPv4 (65,527 over IPv6, without its header)

cdef struct Envelope:
    # Stands before each datagram in a socket's queue of those received.
    Address source
    Address destination
    uint16_t source_port
    uint8_t traffic
    uint8_t hops


cdef class UdpSocket(Flow):
    cdef Udp _udp
    cdef object _handler
    cdef PacketQueue _received      # Envelopes with their data
    cdef PacketQueue _waiting       # packets to be sent
    cdef size_t _cut                # octets of the first of them that have been sent in fragments
    cdef uint32_t _cut_id
    cdef bint closed
    cdef list _errors
    cdef readonly uint64_t sent
    cdef uint64_t _too_large        # of those received: for the queue
    cdef readonly double active_at

    cdef int _counted(self, double now) except -1
    # A datagram has come. To be replaced by sockets that take it at once.
    cdef int arrived(
        self, const Packet* packet, const uint8_t* data, size_t size, uint16_t source_port, double now
    ) except -1
    cdef int failed(self, const Report* report, double now) except -1
    # Put a datagram into the queue; the oldest goes when it is full. False: larger than a datagram may be, or than what
    # passes and must not be cut. source: NULL for the socket's own.
    cdef bint put(
        self, const Address* source, const Address* destination, uint16_t port, const uint8_t* data, size_t size,
        uint8_t traffic, uint8_t hops, bint keep
    ) except -1


cdef class Udp(Transport):
    cdef Host host
    cdef readonly object limits
    cdef FlowTable sockets
    cdef public object on_unknown   # for forwarding; see udp.pyi
    cdef uint16_t _next_port

    cdef UdpSocket _find(self, const Address* local, uint16_t port, const Address* remote, uint16_t remote_port)
    cdef bint _choose_port(self, Name* name, const Address* local, const Address* remote, uint16_t remote_port) except -1
    cdef int attach(self, UdpSocket socket) except -1
    cdef int detach(self, UdpSocket socket) except -1
    # A datagram to a name that no socket has. False: it is answered with Port Unreachable.
    cdef bint unknown(self, const Packet* packet, uint16_t source_port, uint16_t port, double now) except -1

# Header and data behind an IP header at out, checksum included. Octets written.
cdef size_t write_datagram(
    uint8_t* out, const Address* source, uint16_t source_port, const Address* destination, uint16_t port,
    const uint8_t* data, size_t size
) noexcept
