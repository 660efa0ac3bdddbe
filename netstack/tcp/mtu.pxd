"""The path's MTU, as routers have told the stack (RFC 1191, RFC 8201), and without their help (RFC 4821, RFC 8899)."""

from libc.stdint cimport uint32_t

from .repair cimport Repairing


cdef class PathMtu(Repairing):
    # The stack knows another MTU of the path, from a router or of the link.
    cdef int path_changed(self, double now) except -1
    # Octets of data of a probe to be sent now, 0: none.
    cdef uint32_t probe_size(self, double now) noexcept
    cdef int mtu_probe_passed(self, uint32_t size, double now) except -1
