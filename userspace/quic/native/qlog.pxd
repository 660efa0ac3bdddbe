"""A connection's events in qlog's JSON text sequences: written only while somebody has asked for it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .path cimport Path


cdef class Qlog:
    cdef object _write              # (octets) -> whether it takes more
    cdef char* _buffer              # events that `_write` has not had yet
    cdef size_t _size               # octets of them
    cdef size_t _room
    cdef size_t _event              # where the event begins that is being written
    cdef uint64_t _written          # octets given to `_write`
    cdef uint64_t _limit
    cdef double _began              # s: time 0 of the log
    cdef double _flushed_at
    cdef readonly bint over         # nothing more is written: the limit is reached, or the file takes no more

    # What was told last, so that only changes are.
    cdef const char* _state
    cdef const char* _congestion
    cdef int _ecn
    cdef uint32_t _path
    cdef uint64_t _cid
    cdef uint32_t _mtu
    cdef double _rtt[4]             # minimum, smoothed, latest, variation; s
    cdef uint64_t _window
    cdef uint64_t _in_flight
    cdef uint64_t _packets
    cdef uint64_t _threshold
    cdef uint64_t _rate
    cdef uint32_t _pto_count

    # A 1-RTT packet. first: its first octet, unprotected. payload: frames, of which no contents are written.
    # size: octets of the whole packet. exponent: of ACK delays in it.
    cdef int packet(
        self, bint sent, uint8_t first, uint64_t number, const uint8_t* payload, size_t payload_size, size_t size,
        int exponent, uint32_t path, bint probe, double now
    ) except -1
    cdef int dropped(self, size_t size, const char* trigger, double now) except -1
    cdef int lost(self, uint64_t number, uint32_t path, bint probe, bint reordered, double now) except -1
    cdef int keys_updated(self, uint64_t phase, const char* trigger, double now) except -1
    # Write what has changed since the last call. state: of the connection, a word of the schema's.
    cdef int observe(
        self, Path path, uint64_t packets, uint32_t pto_count, const char* state, double now
    ) except -1
