"""One flow, as both ends have it."""

cdef enum:
    PREAMBLE = 0
    PENDING = 1
    OPEN = 2
    REFUSED = 3
    OVER = 4
    # The values of ``Stage``.


cdef class Flow:
    # The hot path: these are replaced as the flow goes from stage to stage.
    cdef public object data_received
    cdef public object pause_writing
    cdef public object resume_writing
    cdef public object write
    cdef public object consumed

    cdef readonly bint was_refused      # An Error TLV was its end.
    cdef object _stream
    cdef object _handler
    cdef object _forget
    cdef int _stage
    cdef bint _received_eof
    cdef bint _sending_complete

    cdef int _connect_handler(self) except -1
    cdef int _end_when_both_finished(self) except -1
    cdef int _abandon(self) except -1
    cdef int _end(self, error) except -1
    cdef int _become_over(self) except -1
    cdef object _reset_failure(self)
