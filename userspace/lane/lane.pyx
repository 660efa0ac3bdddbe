"""Read RFC 9484 §6 and §7, RFC 6040 §4.2, and ``lane.pxd`` first.

The native engine asks for packets when it can send them (``DatagramPort``), so that none waits behind another in a queue.
With the other engine, ``datagrams`` and ``receive`` do the same with Python objects.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from quicsocks.netstack.checksum cimport adjusted
from quicsocks.netstack.stack cimport Stack

cdef enum:
    ROOM = 65536
    SMALLEST = 577          # octets of a DATAGRAM: a Context ID and the smallest packet that every host takes
    CE = 3                  # codepoint (RFC 3168)
    MOST_DATAGRAMS = 64


cdef class Lane(DatagramPort):
    """stack: its clock is the session's, its waker becomes the lane's. has_context: of ``quicsocks/1``, not of ``qt``.
    size: octets of the largest DATAGRAM. on_wake(): there is something to send or to tell."""

    def __cinit__(self):
        self._staged = <uint8_t*>malloc(ROOM)
        if self._staged == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._staged)

    def __init__(self, Stack stack not None, *, bint has_context, uint32_t size, on_wake):
        self.stack = stack
        self.has_context = has_context
        self._staged[0] = 0
        self._on_wake = on_wake
        self.set_size(size)
        stack.waker = on_wake

    def set_size(self, uint32_t size):
        """The largest DATAGRAM has so many octets from now on. False: too few for any IP packet, so that nothing is sent until
        there are more."""
        self.size = size
        if size < SMALLEST:
            self._staged_size = 0
            return False
        self.stack.set_mtu(min(size - self.has_context, <uint32_t>65535))
        if self._staged_size > size:
            self._staged_size = 0   # TCP sends it again, in smaller pieces; what else it was, is lost.
        return True

    cdef bint ready(self) noexcept:
        return self._staged_size != 0 or self.size >= SMALLEST and self.stack.has_packets()

    cdef const uint8_t* next(self, uint32_t most, size_t* size, double now) except? NULL:
        if most != self.size:
            self.set_size(most)
        if not self._staged_size:
            self._stage(now)
        if not self._staged_size:
            return NULL
        size[0] = self._staged_size
        return self._staged

    cdef int _stage(self, double now) except -1:
        cdef Py_ssize_t size
        if self.size < SMALLEST:
            return 0
        self.stack.awake = True     # Whoever asks will ask again.
        size = self.stack.build(self._staged + self.has_context, self.size - self.has_context, now)
        self.stack.awake = False
        self._staged_size = <size_t>size + self.has_context if size else 0
        return 0

    cdef int sent(self) except -1:
        self._staged_size = 0
        return 0

    cdef int take(self, const uint8_t* data, size_t size, int ecn, double now) except -1:
        if self.has_context:
            if not size or data[0]:
                self.other_contexts += 1
                return 0
            data += 1
            size -= 1
        if ecn == CE:
            _mark(<uint8_t*>data, size)
        self.stack.awake = True     # A connection looks for what there is to send and to tell when it has read a packet.
        self.stack.take(data, size, now)
        self.stack.awake = False
        return 0

    cdef double due(self) noexcept:
        return self.stack.due()

    cdef int on_timer(self, double now) except -1:
        self.stack.awake = False
        self.stack.handle_timer(now)
        return 0

    cdef bint has_words(self) noexcept:
        return len(self.stack.touched_flows) != 0

    cdef int tell(self) except -1:
        self.stack.awake = False
        self.stack.tell()
        return 0

    # From Python: for sessions that take no port.

    def datagrams(self, double now):
        """What is to be sent now: at most 64, and then there may be more."""
        cdef list found = []
        while len(found) < MOST_DATAGRAMS:
            self._stage(now)
            if not self._staged_size:
                break
            found.append((<const char*>self._staged)[:self._staged_size])
            self._staged_size = 0
        return found

    def receive(self, const uint8_t[::1] data not None, double now, int ecn=0):
        """A DATAGRAM that has come, and the ECN codepoint of what brought it."""
        cdef bytearray copy = bytearray(data)
        if copy:
            self.take(<uint8_t*><char*>copy, <size_t>len(copy), ecn, now)

    def next_timer(self):
        return self.stack.next_timer()

    def handle_timer(self, double now):
        self.on_timer(now)

    def make_calls(self):
        """The callbacks that are due."""
        self.tell()


cdef void _mark(uint8_t* packet, size_t size) noexcept:
    # RFC 6040 §4.2: congestion that the outer packet met is told to the inner one's ends, if they listen. Where they do not,
    # it is not dropped: the connection itself slows down, and it is the connection that had the outer packet marked.
    cdef uint16_t before, after, checksum
    if size >= 20 and packet[0] >> 4 == 4:
        if packet[1] & 3 == 0 or packet[1] & 3 == CE:
            return
        memcpy(&before, packet, 2)
        packet[1] |= CE
        memcpy(&after, packet, 2)
        memcpy(&checksum, packet + 10, 2)
        checksum = adjusted(checksum, before, after)
        memcpy(packet + 10, &checksum, 2)
    elif size >= 40 and packet[0] >> 4 == 6 and packet[1] & 0x30:
        packet[1] |= CE << 4
