"""Keyed hashes. Read RFC 6528 §3, RFC 6056 §3.3 and ``keyed.pxd`` first."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ..host cimport Name


cdef inline uint64_t _turned(uint64_t x, int bits) noexcept:
    return x << bits | x >> (64 - bits)


cdef inline void _round(uint64_t* v) noexcept:
    v[0] += v[1]
    v[1] = _turned(v[1], 13) ^ v[0]
    v[0] = _turned(v[0], 32)
    v[2] += v[3]
    v[3] = _turned(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _turned(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _turned(v[1], 17) ^ v[2]
    v[2] = _turned(v[2], 32)


cdef inline uint64_t _word(const uint8_t* at) noexcept:
    cdef uint64_t word = 0
    cdef int i
    for i in range(8):
        word |= <uint64_t>at[i] << 8 * i
    return word


cdef uint64_t siphash(const uint8_t* key, const uint8_t* data, size_t size) noexcept:
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef uint8_t rest[8]
    cdef size_t at = 0
    v[0] = _word(key) ^ <uint64_t>0x736f6d6570736575
    v[1] = _word(key + 8) ^ <uint64_t>0x646f72616e646f6d
    v[2] = _word(key) ^ <uint64_t>0x6c7967656e657261
    v[3] = _word(key + 8) ^ <uint64_t>0x7465646279746573
    while size - at >= 8:
        word = _word(data + at)
        v[3] ^= word
        _round(v)
        _round(v)
        v[0] ^= word
        at += 8
    memset(rest, 0, 8)
    memcpy(rest, data + at, size - at)
    rest[7] = <uint8_t>(size & 0xff)
    word = _word(rest)
    v[3] ^= word
    _round(v)
    _round(v)
    v[0] ^= word
    v[2] ^= 0xff
    _round(v)
    _round(v)
    _round(v)
    _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef uint64_t hash_name(const uint8_t* key, const Name* name, Purpose purpose, uint64_t extra) noexcept:
    cdef uint8_t text[64]
    memcpy(text, name, sizeof(Name))
    memset(text + sizeof(Name), 0, 8)
    text[sizeof(Name)] = <uint8_t>purpose
    memcpy(text + sizeof(Name) + 8, &extra, 8)
    return siphash(key, text, sizeof(Name) + 16)


cdef uint32_t initial_sequence(const uint8_t* key, const Name* name, double now) noexcept:
    return <uint32_t>((<uint64_t>(now * 250000.0) + hash_name(key, name, FOR_SEQUENCE, 0)) & 0xffffffff)


cdef uint32_t next_port(Ports* ports, const uint8_t* key, const Name* name, uint32_t count) noexcept:
    cdef uint64_t offset = hash_name(key, name, FOR_PORT, 0)
    cdef size_t index = <size_t>(hash_name(key, name, FOR_PORT_COUNTER, 0) % PORT_COUNTERS)
    cdef uint16_t step = ports.counters[index]
    ports.counters[index] = <uint16_t>((step + 1) & 0xffff)
    return <uint32_t>((offset + step) % count)


def sip(const uint8_t[::1] key not None, bytes data not None):
    """For tests and tools: SipHash-2-4. key: 16 octets."""
    if key.shape[0] != 16:
        raise ValueError("a key of 16 octets")
    return siphash(&key[0], <const uint8_t*><const char*>data, <size_t>len(data))
