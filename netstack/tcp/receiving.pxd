"""Segments that arrive, in the order of RFC 9293 §3.10.7."""

from .acking cimport Acking


cdef class Receiving(Acking):
    # Octets of what has arrived in order have been consumed, or will never be.
    cdef int return_credit(self) except -1
    cdef int release(self) except -1        # nobody wants what has come and what comes
