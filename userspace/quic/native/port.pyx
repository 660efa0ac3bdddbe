"""Read ``port.pxd`` first."""

from libc.stdint cimport uint8_t, uint32_t

cdef double NEVER = float("inf")


cdef class DatagramPort:
    """Use a subclass."""

    cdef bint ready(self) noexcept:
        return False

    cdef const uint8_t* next(self, uint32_t most, size_t* size, double now) except? NULL:
        return NULL

    cdef int sent(self) except -1:
        return 0

    cdef int take(self, const uint8_t* data, size_t size, int ecn, double now) except -1:
        return 0

    cdef double due(self) noexcept:
        return NEVER

    cdef int on_timer(self, double now) except -1:
        return 0

    cdef bint has_words(self) noexcept:
        return False

    cdef int tell(self) except -1:
        return 0


cdef class DatagramPortFace(DatagramPort):
    """For tests and tools: lists of what is to be sent and of what has come, and a timer."""

    cdef public list outgoing
    cdef public list incoming       # (data, ecn, now)
    cdef public list asked          # the largest sizes asked for
    cdef public double timer
    cdef public list timed
    cdef public int told

    def __init__(self):
        self.outgoing = []
        self.incoming = []
        self.asked = []
        self.timed = []
        self.timer = NEVER

    cdef bint ready(self) noexcept:
        return len(self.outgoing) != 0

    cdef const uint8_t* next(self, uint32_t most, size_t* size, double now) except? NULL:
        cdef bytes data
        self.asked.append(most)
        while self.outgoing:
            data = self.outgoing[0]
            if len(data) <= most:
                size[0] = <size_t>len(data)
                return <const uint8_t*><const char*>data
            del self.outgoing[0]
        return NULL

    cdef int sent(self) except -1:
        del self.outgoing[0]
        return 0

    cdef int take(self, const uint8_t* data, size_t size, int ecn, double now) except -1:
        self.incoming.append(((<const char*>data)[:size], ecn, now))
        return 0

    cdef double due(self) noexcept:
        return self.timer

    cdef int on_timer(self, double now) except -1:
        self.timer = NEVER
        self.timed.append(now)
        return 0

    cdef bint has_words(self) noexcept:
        return len(self.incoming) > self.told

    cdef int tell(self) except -1:
        self.told = <int>len(self.incoming)
        return 0
