"""Where DATAGRAM payloads (RFC 9221) come from and go to without becoming Python objects."""

from libc.stdint cimport uint8_t, uint32_t


cdef class DatagramPort:
    # What is to be sent is asked for when it can leave, so that nothing waits behind what is old. All on the event loop's
    # thread; `now` is the connection's clock.

    # Whether there may be something to send. Whoever has something new wakes the connection: ``Connection.wake``.
    cdef bint ready(self) noexcept
    # The next payload, of at most `most` octets; NULL: there is none after all. It stays the next one until `sent`.
    cdef const uint8_t* next(self, uint32_t most, size_t* size, double now) except? NULL
    cdef int sent(self) except -1
    # One has come, valid during the call. ecn: the codepoint of the packet that brought it. Nothing in it may raise.
    cdef int take(self, const uint8_t* data, size_t size, int ecn, double now) except -1
    # When `on_timer` is due, s; inf: not at all.
    cdef double due(self) noexcept
    cdef int on_timer(self, double now) except -1
    # Whether `tell`, which is called from the loop, has callbacks to make.
    cdef bint has_words(self) noexcept
    cdef int tell(self) except -1
