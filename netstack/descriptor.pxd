"""Octets between a stream's buffers and a socket of the kernel, without Python objects."""

from libc.stdint cimport uint64_t

from .receive_buffer cimport ReceiveBuffer
from .send_buffer cimport SendBuffer

# What the socket has goes behind all that is written, at most 128 KiB; many: a whole block or more is expected. Octets; 0: its
# end; -1: error[0] says why (EAGAIN: there is nothing now). filled: whether all that was offered was used.
cdef ssize_t fill_from(SendBuffer out, int descriptor, bint many, bint* filled, int* error) except -2
# What has arrived in order goes into the socket, as much as it takes. Octets; error: 0, EAGAIN: it takes no more, or what else.
cdef uint64_t drain_into(ReceiveBuffer into, int descriptor, int* error) noexcept
