"""A host in itself: IP packets come and go, and there is no kernel and no interface (RFC 1122, RFC 8200)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .echo cimport Echo
from .fragments cimport Reassembler
from .host cimport Host, Report, Transport
from .ip cimport Packet
from .known_mtus cimport KnownMtus
from .queue cimport PacketQueue
from .udp cimport Udp

cdef struct Counters:
    uint64_t received               # packets
    uint64_t received_octets
    uint64_t sent
    uint64_t sent_octets
    uint64_t malformed              # no IP packets, or headers that contradict themselves
    uint64_t bad_source             # from an address that can be no sender's
    uint64_t forged                 # from an address that is not one of the peers'
    uint64_t foreign                # for an address that is not ours
    uint64_t unknown_protocol
    uint64_t errors_sent            # ICMP errors
    uint64_t errors_withheld        # too many, or about what must not be answered
    uint64_t reports_received       # ICMP errors
    uint64_t reports_ignored        # about nothing that we have sent
    uint64_t echoes_answered
    uint64_t too_big                # that the link has become too narrow for, and that must not be cut


cdef class Stack(Host):
    cdef readonly object options
    cdef readonly Udp udp
    cdef readonly Echo echo
    cdef readonly Transport tcp
    cdef Counters counters
    cdef Reassembler _reassembler
    cdef list _addresses            # ipaddress objects
    cdef Address* _local
    cdef int _local_count
    cdef Address* _peers
    cdef int _peer_count            # negative: packets may come from anybody
    cdef bint takes_all             # every unicast address is local: packets for all the world end here
    cdef PacketQueue _loose
    cdef size_t _loose_size
    cdef KnownMtus _mtus
    cdef double _error_tokens
    cdef double _error_at
    cdef public object on_foreign

    # A packet, valid during the call. Nothing that it may hold raises.
    cdef int take(self, const uint8_t* data, size_t size, double now) except -1
    # The next packet to be sent, of at most room octets (at least 1280). 0: none now.
    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1
    cdef int deliver(self, Packet* packet, double now) except -1
    cdef double due(self) noexcept                              # when `handle_timer` is
    cdef bint has_packets(self) noexcept                        # whether `build` may have one
    cdef bint owns(self, const Address* address) noexcept       # it is one of the stack's own
    cdef int _foreign(self, const Packet* packet) except -1
    cdef int _answer(self, const Packet* packet) except -1
    cdef int _control(self, const Packet* packet, double now) except -1
    cdef int _reported(self, const Packet* packet, double now) except -1
    cdef int _narrower(self, const Report* report, double now) except -1
    cdef bint _may_send_error(self, double now) noexcept
