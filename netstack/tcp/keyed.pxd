"""What nobody outside may compute: initial sequence numbers, ephemeral ports and SYN cookies, by a keyed hash."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from ..host cimport Name

cdef enum:
    PORT_COUNTERS = 256

cdef enum Purpose:
    # Of a hash: so that those of one say nothing of those of another.
    FOR_SEQUENCE = 1
    FOR_PORT = 2
    FOR_PORT_COUNTER = 3
    FOR_TIMESTAMP = 4
    FOR_COOKIE = 5

# SipHash-2-4 (Aumasson and Bernstein, 2012). key: 16 octets.
cdef uint64_t siphash(const uint8_t* key, const uint8_t* data, size_t size) noexcept
cdef uint64_t hash_name(const uint8_t* key, const Name* name, Purpose purpose, uint64_t extra) noexcept

# RFC 6528 §3. now: s; the clock has ticks of 4 µs.
cdef uint32_t initial_sequence(const uint8_t* key, const Name* name, double now) noexcept

cdef struct Ports:
    # The state of RFC 6056 §3.3.4, double-hash port selection.
    uint16_t counters[256]

# Where to begin looking for a free local port among `count` ones, less the first: to be called again while taken.
cdef uint32_t next_port(Ports* ports, const uint8_t* key, const Name* name, uint32_t count) noexcept
