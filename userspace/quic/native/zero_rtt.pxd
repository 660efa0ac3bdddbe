"""0-RTT packets (RFC 9000 §17.2.3): a server reads them, a client may send some.

They share numbers, streams and limits with 1-RTT packets, and have keys of their own. A client sends them as it sends
others, ``sending`` sees to the header; what is here is when that begins and ends, and how they are read.
"""

from libc.stdint cimport uint8_t, uint64_t

from .sending cimport Sending


cdef class ZeroRtt(Sending):
    cdef int drop_early_key(self) except -1
    cdef int _read_early(self, uint8_t* data, size_t size, int ecn, double now) except -1
