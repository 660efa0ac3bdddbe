"""ICMP and ICMPv6 messages, read and written in place (RFC 792, RFC 4443)."""

from libc.stdint cimport uint8_t, uint32_t

from .address cimport Address
from .host cimport Report
from .ip cimport Packet

cdef enum Kind:
    # ICMP's types
    ECHO_REPLY = 0
    UNREACHABLE = 3
    ECHO = 8
    TIME_EXCEEDED = 11
    PARAMETER_PROBLEM = 12
    # and ICMPv6's
    UNREACHABLE6 = 1
    PACKET_TOO_BIG6 = 2
    TIME_EXCEEDED6 = 3
    PARAMETER_PROBLEM6 = 4
    ECHO6 = 128
    ECHO_REPLY6 = 129

cdef enum Code:
    # of UNREACHABLE
    NO_NETWORK = 0
    NO_HOST = 1
    NO_PROTOCOL = 2
    NO_PORT = 3
    NEEDS_FRAGMENTATION = 4
    PROHIBITED = 13
    # of UNREACHABLE6
    NO_ROUTE6 = 0
    PROHIBITED6 = 1
    NO_ADDRESS6 = 3
    NO_PORT6 = 4
    # of TIME_EXCEEDED, either version
    IN_TRANSIT = 0
    REASSEMBLY = 1

cdef enum:
    MESSAGE = 8             # octets of a message's header
    LARGEST_ERROR4 = 576    # octets of an error's packet (RFC 1812 §4.3.2.3)
    LARGEST_ERROR6 = 1280   # RFC 4443 §3

# An IP packet with a message: value is what stands in octets 4 to 8, data behind it. Octets written. out has room.
cdef size_t write_message(
    uint8_t* out, const Address* source, const Address* destination, uint8_t kind, uint8_t code, uint32_t value,
    const uint8_t* data, size_t size, uint8_t hops
) noexcept
# Whether the message that is the packet's payload has the right checksum.
cdef bint is_intact(const Packet* packet) noexcept
# Whether it is an error about a packet, and what it says. Only the form is judged.
cdef bint read_report(const Packet* packet, Report* report) noexcept
# Whether an error may be sent about a packet that came (RFC 1122 §3.2.2, RFC 4443 §2.4 e). too_big: PACKET_TOO_BIG6, and
# the one Parameter Problem, may go to a multicast's sender.
cdef bint may_answer(const Packet* packet, bint too_big) noexcept
