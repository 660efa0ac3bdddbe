"""TCP of a stack: demultiplexing, listeners, limits."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..address cimport Address
from ..host cimport Flow, FlowTable, Host, Name, Report
from ..ip cimport Packet
from .connection cimport Connection
from .endpoint cimport Endpoint, Owner
from .header cimport Header
from .keyed cimport Ports


cdef class Listener(Endpoint):
    cdef Tcp _tcp
    cdef object on_accept
    cdef readonly int backlog
    cdef readonly int64_t half_open     # connections whose handshake is under way
    cdef readonly bint closed


cdef class Tcp(Owner):
    cdef FlowTable listeners
    cdef public object on_attempt
    cdef Ports _ports
    cdef dict _resting                  # TIME-WAIT records, oldest first
    cdef int64_t _attempts
    cdef double _cookies_until          # s: until then ACKs may be answers to cookies

    cdef int newcomer(self, const Packet* packet, Header* header, const Name* name, uint32_t least, double now) except -1
    cdef Listener listener_for(self, const Name* name)
    cdef size_t _resting_count(self) noexcept
    cdef Connection make(self, const Name* name)


cdef Tcp make_tcp(Host host, object options)
