"""Read ``messages.pxd`` first."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .address cimport Address, address4, address6, is_broadcast, is_multicast, is_unicast, is_v4
from .checksum cimport folded, pseudo_sum, sum_of
from .host cimport Report
from .ip cimport HEADER4, HEADER6, ICMP, ICMPV6, Packet, get16, get32, put32, write_header

cdef enum:
    REDIRECT = 5
    SOURCE_QUENCH = 4
    REDIRECT6 = 137
    FIRST_INFORMATIONAL = 128
    HOP_BY_HOP = 0
    ROUTING = 43
    FRAGMENT = 44
    DESTINATION = 60


cdef size_t write_message(
    uint8_t* out, const Address* source, const Address* destination, uint8_t kind, uint8_t code, uint32_t value,
    const uint8_t* data, size_t size, uint8_t hops
) noexcept:
    cdef bint v4 = is_v4(source)
    cdef uint8_t* at = write_header(
        out, source, destination, ICMP if v4 else ICMPV6, MESSAGE + size, 0, hops, 0, v4
    )
    cdef uint64_t sum = 0
    cdef uint16_t checksum
    at[0] = kind
    at[1] = code
    at[2] = at[3] = 0
    put32(at + 4, value)
    if size:
        memcpy(at + MESSAGE, data, size)
    if not v4:
        sum = pseudo_sum(source, destination, ICMPV6, MESSAGE + size)
    checksum = ~folded(sum + sum_of(at, MESSAGE + size))
    memcpy(at + 2, &checksum, 2)
    return <size_t>(at - out) + MESSAGE + size


cdef bint is_intact(const Packet* packet) noexcept:
    cdef uint64_t sum = 0
    if packet.payload_size < MESSAGE:
        return False
    if packet.version == 6:
        sum = pseudo_sum(&packet.source, &packet.destination, ICMPV6, packet.payload_size)
    return folded(sum + sum_of(packet.payload, packet.payload_size)) == 0xffff


cdef bint read_report(const Packet* packet, Report* report) noexcept:
    cdef const uint8_t* at = packet.payload
    cdef Packet quoted
    cdef uint8_t kind = at[0]
    report.version = packet.version
    report.kind = kind
    report.code = at[1]
    report.mtu = 0
    report.reporter = packet.source
    if packet.version == 4:
        if kind != UNREACHABLE and kind != TIME_EXCEEDED and kind != PARAMETER_PROBLEM:
            return False
        if kind == UNREACHABLE and report.code == NEEDS_FRAGMENTATION:
            report.mtu = get16(at + 6)
    else:
        if kind < UNREACHABLE6 or kind > PARAMETER_PROBLEM6:
            return False
        if kind == PACKET_TOO_BIG6:
            report.mtu = get32(at + 4)
    if not _read_quoted(at + MESSAGE, packet.payload_size - MESSAGE, packet.version, &quoted):
        return False
    report.source = quoted.source
    report.destination = quoted.destination
    report.protocol = quoted.protocol
    report.payload = quoted.payload
    report.payload_size = quoted.payload_size
    return True


cdef bint _read_quoted(const uint8_t* data, size_t size, int version, Packet* quoted) noexcept:
    # As ``read_packet`` does, but for a packet that is cut short, and whose IPv4 checksum routers may have changed.
    cdef size_t at = HEADER6, length
    cdef uint8_t kind
    if version == 4:
        if size < HEADER4 or data[0] >> 4 != 4:
            return False
        at = <size_t>(data[0] & 15) * 4
        if at < HEADER4 or size < at + 8 or get16(data + 6) & 0x1fff:
            return False
        quoted.protocol = data[9]
        quoted.source = address4(data + 12)
        quoted.destination = address4(data + 16)
    else:
        if size < HEADER6 or data[0] >> 4 != 6:
            return False
        quoted.source = address6(data + 8)
        quoted.destination = address6(data + 24)
        kind = data[6]
        while kind == HOP_BY_HOP or kind == ROUTING or kind == FRAGMENT or kind == DESTINATION:
            if size - at < 8 or kind == FRAGMENT and get16(data + at + 2) & 0xfff8:
                return False
            length = 8 if kind == FRAGMENT else (<size_t>data[at + 1] + 1) * 8
            kind = data[at]
            if length > size - at:
                return False
            at += length
        if size - at < 8:
            return False
        quoted.protocol = kind
    quoted.payload = data + at
    quoted.payload_size = size - at
    return True


cdef bint may_answer(const Packet* packet, bint too_big) noexcept:
    cdef uint8_t kind
    if packet.offset:
        return False
    if not is_unicast(&packet.source) or is_broadcast(&packet.destination):
        return False
    if is_multicast(&packet.destination) and not (too_big and packet.version == 6):
        return False
    if packet.protocol == (ICMP if packet.version == 4 else ICMPV6):
        if not packet.payload_size:
            return False
        kind = packet.payload[0]
        if packet.version == 4:
            return kind != UNREACHABLE and kind != SOURCE_QUENCH and kind != REDIRECT and kind != TIME_EXCEEDED \
                and kind != PARAMETER_PROBLEM
        return kind >= FIRST_INFORMATIONAL and kind != REDIRECT6
    return True
