"""Echo requests and their replies, ICMP's and ICMPv6's: ping."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address
from .host cimport Flow, FlowTable, Host, Report, Transport
from .ip cimport Packet
from .queue cimport PacketQueue


cdef class EchoSocket(Flow):
    cdef Echo _echo
    cdef object _handler
    cdef PacketQueue _waiting
    cdef list _told
    cdef bint closed


cdef class Echo(Transport):
    cdef Host host
    cdef FlowTable sockets
    cdef public object on_request

    # A reply, whose checksum is right. False: nobody has asked.
    cdef bint replied(self, const Packet* packet, double now) except -1
    cdef EchoSocket _find(self, uint16_t id)
