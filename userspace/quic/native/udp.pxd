"""UDP in batches, as Linux can do it: no Python object a datagram, few system calls a burst.

An endpoint has one ReceiveBatch and one SendBatch for each of its sockets. When the socket is readable:

    while incoming.receive() > 0:                   # for a while: the event loop has others to serve
        while incoming.next(&datagram):
            if datagram.origin != index:            # segments of one message have the same
                index = datagram.origin
                origin = incoming.origin(index)
            ...

and when there is something to say:

    at = outgoing.room(size)                        # NULL: flush() first
    ...                                             # build a packet of at most size octets there
    outgoing.commit(built, ecn, destination)
    ...
    if not outgoing.flush():                        # the socket is full: again when it is writable
"""

from libc.stdint cimport uint8_t, uint64_t

from .destination cimport Addresses, Destination

cdef enum:
    LARGEST_PACKET = 65527      # octets of UDP payload


cdef struct Datagram:
    uint8_t* data               # may be changed; valid until the next receive()
    size_t size                 # 0 to LARGEST_PACKET
    int ecn                     # codepoint: 0 not-ECT, 1 ECT(1), 2 ECT(0), 3 CE
    int origin                  # which of the batch's addresses; datagrams of one message have the same


cdef class ReceiveBatch:
    cdef void* _incoming
    cdef uint8_t* _slab
    cdef int _descriptor
    cdef int _number
    cdef int _count             # messages received
    cdef int _at                # the message after that which is being taken apart
    cdef uint8_t* _next
    cdef size_t _left
    cdef size_t _segment
    cdef int _ecn
    cdef bint _any_left
    cdef dict _known            # octets of addresses -> Destination
    cdef Destination _last
    cdef public bint suspicious         # an error was reported: read the error queue, watch the descriptor anew
    cdef readonly uint64_t calls        # system calls
    cdef readonly uint64_t messages
    cdef readonly uint64_t datagrams

    # How many messages have arrived, each of one or many datagrams. 0: none, or an error. Fewer than IN_MESSAGES: there
    # were no more. What was received before and not taken is forgotten.
    cpdef int receive(self) noexcept
    # Become suspicious if the kernel has an error to report that no call has returned, or only its record is left: a
    # call for many messages keeps it to itself when it has done some of them.
    cdef void look_for_errors(self) noexcept
    # The next datagram; False when there is no other.
    cdef bint next(self, Datagram* datagram) noexcept
    # Raw, valid until the next receive().
    cdef const Addresses* addresses(self, int origin) noexcept
    # The same as an object to answer to: the same object for the same addresses, most of the time. Raises MemoryError.
    cdef Destination origin(self, int origin)


cdef class SendBatch:
    cdef void* _outgoing
    cdef uint8_t* _slab
    cdef size_t _used           # octets of the slab
    cdef int _descriptor
    cdef int _first             # run that is sent next
    cdef int _runs              # one past the last run
    cdef list _failed
    cdef list _pretended
    cdef public bint suspicious
    cdef readonly bint segmentation     # the kernel and the device cut messages into packets (UDP_SEGMENT)
    cdef readonly uint64_t calls
    cdef readonly uint64_t messages
    cdef readonly uint64_t datagrams    # that the kernel took
    cdef readonly uint64_t refused      # that it did not, for another reason than a full socket

    # Room for a packet of at most size octets. NULL: flush() first, or size is more than LARGEST_PACKET.
    cdef uint8_t* room(self, size_t size) noexcept
    # What stands in the room is a packet of size octets, which is not more than was asked for. Packets for the same
    # destination object with the same mark that follow each other are sent together if they have one size; the last of
    # them may be smaller.
    cdef void commit(self, size_t size, int ecn, Destination destination) noexcept
    # Whether nothing waits. 1: all was taken; 0: the socket is full, the rest is kept.
    cpdef bint flush(self) except -1
