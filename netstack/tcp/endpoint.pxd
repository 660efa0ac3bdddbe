"""What stands in a stack's tables of TCP names, and what it asks of the ``Tcp`` that owns them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..address cimport Address
from ..host cimport Flow, FlowTable, Host, Report, Transport
from ..ip cimport Packet
from .header cimport Header

cdef struct Limits:
    # types.Options as numbers.
    bint nagle
    bint timestamps
    bint window_scaling
    bint sack
    bint ecn
    bint mtu_probing
    bint slow_start_after_idle
    int scale                   # that we offer
    uint64_t first_window
    uint64_t receive_window
    uint64_t receive_memory
    uint64_t send_window
    uint64_t send_high_water
    uint64_t send_memory
    double time_wait
    double fin_wait_2
    double connect_timeout
    double user_timeout
    double accept_timeout
    double initial_rto
    double minimum_rto
    double maximum_rto
    double delayed_ack
    double keepalive
    double keepalive_interval
    uint32_t keepalive_probes

cdef struct Counters:
    # Of a stack's TCP, since it began.
    uint64_t segments_received
    uint64_t segments_bad       # wrong checksums, contradicting lengths
    uint64_t segments_unwanted  # for nobody, answered with RST or not at all
    uint64_t segments_sent
    uint64_t resets_sent
    uint64_t connections_opened
    uint64_t connections_accepted
    uint64_t connections_refused    # limits
    uint64_t cookies_sent
    uint64_t cookies_accepted
    uint64_t cookies_refused
    uint64_t attempts_dropped
    uint64_t time_waits_recycled    # RFC 6191
    uint64_t time_waits_evicted


cdef class Owner(Transport):
    cdef Host host
    cdef Limits limits
    cdef Counters counters
    cdef FlowTable table            # exact names
    cdef readonly object options
    cdef readonly str congestion
    cdef int64_t received           # octets in all receive buffers, or given to handlers, and not consumed
    cdef int64_t written            # octets in all send buffers
    cdef readonly int64_t half_open

    # The endpoint is over: it has no name any more.
    cdef int forget(self, Endpoint endpoint) except -1
    # It goes into TIME-WAIT: its name stays taken for a while.
    cdef int rest(self, Endpoint endpoint) except -1
    # A handshake that a peer has begun is over, with a connection or without.
    cdef int settled(self, Endpoint endpoint, bint established) except -1
    cdef uint64_t window_for(self, uint64_t wanted) noexcept
    cdef uint64_t high_water(self) noexcept
    # A SYN reuses a name in TIME-WAIT. least: our sequence numbers are to be above it.
    cdef int recycle(self, Endpoint rest, const Packet* packet, Header* header, uint32_t least, double now) except -1
    cdef object accept_attempt(self, Endpoint attempt, Header* syn)
    cdef int tell_attempt(self, Endpoint attempt) except -1
    cdef int reset_stranger(self, const Packet* packet, const Header* header) except -1


cdef class Endpoint(Flow):
    cdef Owner owner
    # A segment with this endpoint's name. The packet is good until it returns.
    cdef int arrived(self, const Packet* packet, Header* header, double now) except -1
    # An ICMP error about a segment of this name. sequence: of the quoted segment. False: it cannot be about one of ours.
    cdef bint reported(self, const Report* report, uint32_t sequence, double now) except -1
