"""Connections and sockets joined without a Python object a packet."""

from libc.stdint cimport uint8_t, uint64_t

from .destination cimport Destination
from .outlet cimport Outlet
from .path cimport Path
from .table cimport Table
from .udp cimport ReceiveBatch, SendBatch


cdef class Batched(Outlet):
    cdef list _receivers        # ReceiveBatch by the socket's number
    cdef list _senders          # SendBatch by the socket's number
    cdef list _locals           # (host, port) by the socket's number
    cdef dict _destinations     # Route -> Destination
    cdef dict _routes           # Destination -> Route
    cdef Table _connections     # by connection ID
    cdef SendBatch _lent        # whose room was given out last
    cdef object _route_type
    cdef Destination _last_origin
    cdef object _last_route

    cdef object _route_of(self, Destination origin, int number)
    cdef Destination _destination_of(self, object route)
    cdef Destination _of_path(self, Path path)
