"""What a stack gives to its flows, and what it asks of them: names, timers, turns to send, words to the application.

A *flow* is whatever has a name of its own on the stack: a TCP connection, a listener, a UDP socket. Packets leave by
being asked for: a flow that has something to send says so once (``want``), and is asked for one packet at a time
(``Flow.build``) as fast as the link takes them, in turns with the others. Nothing is built before it can leave.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .ip cimport Packet

cdef struct Name:
    # Of a flow; the remote half is all zeros where anybody may send.
    Address local
    Address remote
    uint16_t local_port
    uint16_t remote_port
    uint8_t protocol
    uint8_t unused[3]       # 0: names are compared as a whole, and compilers need not copy what has no name

cdef struct Report:
    # An ICMP error about a packet that this stack has sent, as far as it quotes it (RFC 792, RFC 4443).
    int version
    uint8_t kind            # ICMP or ICMPv6 type
    uint8_t code
    uint32_t mtu            # of "fragmentation needed" and "packet too big", 0: not said
    Address reporter
    Address source          # of the quoted packet: ours
    Address destination
    uint8_t protocol
    const uint8_t* payload  # what is quoted behind the IP header
    size_t payload_size     # at least 8


cdef class Flow:
    cdef Name name
    cdef Host host
    cdef bint wanting           # in the queue of those that want to send
    cdef Flow after_me          # in that queue
    cdef bint touched           # in the list of those that have something to tell
    cdef double due             # when on_timer is to be called; inf: not at all
    cdef double heap_due        # where it stands in the heap: never later than `due`
    cdef Py_ssize_t heap_at     # its place there, -1: none

    # The next packet, whole, of at most room octets, at out. Its size; 0: nothing now, and it is taken out of the queue.
    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1
    cdef int on_timer(self, double now) except -1
    # Make the callbacks that are due. Called from the loop only.
    cdef int tell(self) except -1


cdef class Host:
    cdef readonly double now            # s, of the last call
    cdef readonly uint32_t mtu          # octets of the largest packet that the link takes
    cdef public object waker            # called when there is something to send or to tell, once until it is seen to
    cdef bint awake
    cdef uint64_t _chance[2]
    cdef bytes secret                   # 16 octets that no peer knows: of sequence numbers, ports, hashes, cookies
    cdef uint64_t hash_seed
    # Queues.
    cdef Flow first_wanting
    cdef Flow last_wanting
    cdef list touched_flows
    # A heap of flows by heap_due.
    cdef list heap

    cdef int wake(self) except -1
    cdef uint64_t chance(self) noexcept                                 # for what need not be secret
    cdef int want(self, Flow flow) except -1
    cdef int touch(self, Flow flow) except -1
    cdef int arm(self, Flow flow, double due) except -1                 # instead of what was armed before
    cdef int disarm(self, Flow flow) except -1      # for good: the heap lets go of it
    cdef int run_timers(self, double now) except -1
    cdef double next_due(self) noexcept
    # Of the next flow in turn. 0: none has anything.
    cdef Py_ssize_t build_next(self, uint8_t* out, size_t room, double now) except -1
    # To be replaced by the stack:
    # Octets of the largest packet to remote that is believed to pass: of the link, or less as routers have said.
    cdef uint32_t path_mtu(self, const Address* remote) noexcept
    # Room for a packet of at most size octets that belongs to no flow, to be filled and then sent by `send_loose`; it may
    # be dropped when too many wait. The room is the host's own and lasts until the next call of either.
    cdef uint8_t* loose_room(self, size_t size) except NULL
    cdef int send_loose(self, size_t size) except -1
    # "Destination unreachable" or another error about a packet, to whoever sent it, unless that must not be answered
    # (RFC 1122 §3.2.2, RFC 4443 §2.4) or too much has been. kind, code: ICMP's or ICMPv6's, as the packet's version is.
    cdef int send_error(self, const Packet* packet, uint8_t kind, uint8_t code, uint32_t value) except -1
    # Whether the address may be the local one of a flow: one of the stack's, or any where it takes them all.
    cdef bint is_local(self, const Address* address) noexcept
    # The stack's address towards remote. False: it has none of that version.
    cdef bint choose_source(self, const Address* remote, Address* source) noexcept


cdef struct NameSlot:
    uint64_t hash
    void* flow          # NULL: free


cdef class FlowTable:
    # Flows by name. Open addressing with linear probing over at most half of the slots; a reference is held to each.
    cdef NameSlot* _slots
    cdef size_t _mask
    cdef uint64_t _seed
    cdef readonly size_t size

    cdef Flow find(self, const Name* name)                  # None: there is none
    cdef int add(self, Flow flow) except -1                 # its name must not be taken
    cdef bint remove(self, Flow flow) noexcept              # whether it was there
    cdef list flows(self)

cdef void set_name(
    Name* name, uint8_t protocol, const Address* local, uint16_t local_port, const Address* remote, uint16_t remote_port
) noexcept
cdef FlowTable make_table(uint64_t seed)


cdef class Transport:
    # What a stack hands the packets of one protocol to.
    cdef int receive(self, const Packet* packet, double now) except -1
    # True: the report is about a packet that may well be ours (RFC 5927), so that its MTU, too, is to be believed.
    cdef bint report(self, const Report* report, double now) except -1
    # The link's MTU, or what is known of the path to remote, has changed; NULL: to anybody.
    cdef int mtu_changed(self, const Address* remote, double now) except -1
