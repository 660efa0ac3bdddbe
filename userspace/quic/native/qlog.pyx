"""Read draft-ietf-quic-qlog-main-schema (JSON-SEQ), draft-ietf-quic-qlog-quic-events and ``qlog.pxd`` first.

Events are put into a buffer as text, without Python objects for those that come with every packet; the buffer goes to
whoever keeps the file. What streams, DATAGRAMs and TLS carry is never written, nor are reset tokens, path challenges,
reasons of a close, or keys: sizes, numbers and connection IDs are. The log ends at its limit, with an event that says so.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, strcmp, strlen

import json

from quicsocks.netstack.bbr cimport Bbr
from quicsocks.netstack.loss_based cimport LossBased

from .path cimport Path
from .wire cimport (
    ACK, ACK_ECN, APPLICATION_CLOSE, CONNECTION_CLOSE, CRYPTO, DATA_BLOCKED, DATAGRAM, DATAGRAM_LENGTH, HANDSHAKE_DONE,
    MAX_DATA, MAX_STREAM_DATA, MAX_STREAMS_BIDI, MAX_STREAMS_UNI, NEW_CONNECTION_ID, NEW_TOKEN, PADDING, PATH_CHALLENGE,
    PATH_RESPONSE, PING, RESET_STREAM, RETIRE_CONNECTION_ID, STOP_SENDING, STREAM, STREAM_DATA_BLOCKED, STREAM_FIN,
    STREAM_LENGTH, STREAM_OFFSET, STREAMS_BLOCKED_BIDI, STREAMS_BLOCKED_UNI, get_varint,
)

cdef enum:
    FLUSH_AT = 32 << 10
    # Octets: one call for a hundred packets.
    MOST_FRAMES = 256
    # Frames of a packet, and ranges of its ACKs, that are written: a peer can put a thousand into one packet, each of
    # which takes twenty times as much here.
    LAST_WORDS = 512
    # Octets kept back for the event that says that the limit is reached.
    SPIN = 0x20
    KEY_PHASE = 0x04
    IMMEDIATE_ACK = 0x1f
    ACK_FREQUENCY = 0xaf
    # Extensions' frames whose form is known (draft-ietf-quic-ack-frequency §5).
cdef double FLUSH_AFTER = 1.0
# Seconds that events wait for others: whoever follows the file sees it live.
cdef uint64_t UNKNOWN = <uint64_t>0xffffffffffffffff
cdef uint64_t LARGEST = <uint64_t>1 << 62

cdef const char* _BBR_STATES[7]
_BBR_STATES[:] = [
    b"startup", b"drain", b"probe_bw_down", b"probe_bw_cruise", b"probe_bw_refill", b"probe_bw_up", b"probe_rtt",
]
cdef const char* _ECN_STATES[3]
_ECN_STATES[:] = [b"testing", b"capable", b"failed"]


cdef class Qlog:
    """write(octets): takes a piece of the log, and says whether it takes more. limit: octets of the log in all.
    began: time 0 of the log, s, on the clock of all calls."""

    def __cinit__(self):
        self._room = FLUSH_AT + 4096
        self._buffer = <char*>malloc(self._room)
        if self._buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._buffer)

    def __init__(self, write, uint64_t limit, double began):
        self._write = write
        self._limit = limit
        self._began = self._flushed_at = began
        self._ecn = -1
        self._path = <uint32_t>0xffffffff
        self._cid = self._window = self._in_flight = self._packets = self._threshold = self._rate = UNKNOWN

    def record(self, str name not None, dict data not None, double now):
        """An event that is rare enough for Python. name: with its namespace. data: as the schema has it."""
        cdef bytes text
        if self.over:
            return
        _begin(self, NULL, now)
        text = f'"name":{json.dumps(name)},"data":{json.dumps(data)}}}'.encode()
        _put(self, text, len(text))
        _end(self, now)

    def flush(self):
        """Give away what has been written."""
        _flush(self)

    cdef int packet(
        self, bint sent, uint8_t first, uint64_t number, const uint8_t* payload, size_t payload_size, size_t size,
        int exponent, uint32_t path, bint probe, double now
    ) except -1:
        if self.over:
            return 0
        _begin(self, "quic:packet_sent" if sent else "quic:packet_received", now)
        _open(self, "header")
        _word(self, "packet_type", "1RTT")
        _number(self, "packet_number", number)
        _number(self, "packet_number_length", (first & 3) + 1)
        _truth(self, "spin_bit", first & SPIN != 0)
        _truth(self, "key_phase_bit", first & KEY_PHASE != 0)
        _shut(self)
        _open(self, "raw")
        _number(self, "length", size)
        _number(self, "payload_length", payload_size)
        _shut(self)
        if probe:
            _truth(self, "is_mtu_probe_packet", True)
        _frames(self, payload, payload + payload_size, exponent)
        return _end_data(self, path, now)

    cdef int dropped(self, size_t size, const char* trigger, double now) except -1:
        if self.over:
            return 0
        _begin(self, "quic:packet_dropped", now)
        _open(self, "header")
        _word(self, "packet_type", "1RTT")
        _shut(self)
        _open(self, "raw")
        _number(self, "length", size)
        _shut(self)
        _word(self, "trigger", trigger)
        return _end_data(self, 0, now)

    cdef int lost(self, uint64_t number, uint32_t path, bint probe, bint reordered, double now) except -1:
        if self.over:
            return 0
        _begin(self, "quic:packet_lost", now)
        _open(self, "header")
        _word(self, "packet_type", "1RTT")
        _number(self, "packet_number", number)
        _shut(self)
        if probe:
            _truth(self, "is_mtu_probe_packet", True)
        _word(self, "trigger", "reordering_threshold" if reordered else "time_threshold")
        return _end_data(self, path, now)

    cdef int keys_updated(self, uint64_t phase, const char* trigger, double now) except -1:
        cdef int side
        for side in range(2):
            if self.over:
                return 0
            _begin(self, "quic:key_updated", now)
            _word(self, "key_type", "server_1rtt_secret" if side else "client_1rtt_secret")
            _number(self, "key_phase", phase)
            _word(self, "trigger", trigger)
            _end_data(self, 0, now)
        return 0

    cdef int observe(
        self, Path path, uint64_t packets, uint32_t pto_count, const char* state, double now
    ) except -1:
        if self.over:
            return 0
        if self._state == NULL or strcmp(state, self._state) != 0:
            _begin(self, "quic:connection_state_updated", now)
            if self._state != NULL:
                _word(self, "old", self._state)
            _word(self, "new", state)
            self._state = state
            _end_data(self, 0, now)
        if path.id != self._path:
            self._path = path.id
            self._cid = UNKNOWN
            self.record("quic:tuple_assigned", _tuple(path), now)
        if path.cid_length and path.cid_sequence != self._cid:
            self._cid = path.cid_sequence
            _begin(self, "quic:connection_id_updated", now)
            _word(self, "initiator", "remote")
            _octets(self, "new", path.cid, path.cid_length)
            _end_data(self, path.id, now)
        if path.mtu != self._mtu:
            _begin(self, "quic:mtu_updated", now)
            if self._mtu:
                _number(self, "old", self._mtu)
            _number(self, "new", path.mtu)
            self._mtu = path.mtu
            _end_data(self, path.id, now)
        _observe_ecn(self, path, now)
        _observe_congestion(self, path, now)
        return _observe_metrics(self, path, packets, pto_count, now)


cdef dict _tuple(Path path):
    return {
        "tuple_id": str(path.id) if path.id else "",
        "tuple_remote": endpoint(path.route.remote),
        "tuple_local": endpoint(path.route.local),
    }


def endpoint(address):
    """An address and port as the schema has them (TupleEndpointInfo)."""
    host, port = address
    return {"ip_v6": host, "port_v6": port} if ":" in host else {"ip_v4": host, "port_v4": port}


cdef int _observe_ecn(Qlog self, Path path, double now) except -1:
    if path.marking == self._ecn or not path.marks_sent:
        return 0
    _begin(self, "quic:ecn_state_updated", now)
    if self._ecn >= 0:
        _word(self, "old", _ECN_STATES[self._ecn])
    _word(self, "new", _ECN_STATES[path.marking])
    self._ecn = path.marking
    return _end_data(self, path.id, now)


cdef int _observe_congestion(Qlog self, Path path, double now) except -1:
    cdef const char* state
    if isinstance(path.controller, Bbr):
        state = _BBR_STATES[<int>(<Bbr>path.controller)._state]
    else:
        state = "slow_start" if path.controller.in_slow_start() else "congestion_avoidance"
    if self._congestion != NULL and strcmp(state, self._congestion) == 0:
        return 0
    _begin(self, "quic:congestion_state_updated", now)
    if self._congestion != NULL:
        _word(self, "old", self._congestion)
    _word(self, "new", state)
    self._congestion = state
    return _end_data(self, path.id, now)


cdef int _observe_metrics(Qlog self, Path path, uint64_t packets, uint32_t pto_count, double now) except -1:
    cdef uint64_t threshold = UNKNOWN, rate = <uint64_t>(8.0 * path.pacer.rate)
    cdef size_t empty
    if isinstance(path.controller, LossBased):
        threshold = (<LossBased>path.controller)._threshold
    _begin(self, "quic:recovery_metrics_updated", now)
    empty = self._size
    if path.rtt.sampled:
        _time(self, "min_rtt", path.rtt.minimum, &self._rtt[0])
        _time(self, "smoothed_rtt", path.rtt.smoothed, &self._rtt[1])
        _time(self, "latest_rtt", path.rtt.latest, &self._rtt[2])
        _time(self, "rtt_variance", path.rtt.variation, &self._rtt[3])
    if path.controller.window != self._window:
        self._window = path.controller.window
        _number(self, "congestion_window", self._window)
    if path.in_flight != self._in_flight:
        self._in_flight = path.in_flight
        _number(self, "bytes_in_flight", self._in_flight)
    if packets != self._packets:
        self._packets = packets
        _number(self, "packets_in_flight", packets)
    if threshold != self._threshold and threshold < LARGEST:
        self._threshold = threshold
        _number(self, "ssthresh", threshold)
    if rate != self._rate and rate:
        self._rate = rate
        _number(self, "pacing_rate", rate)
    if pto_count != self._pto_count:
        self._pto_count = pto_count
        _number(self, "pto_count", pto_count)
    if self._size == empty:
        self._size = self._event    # Nothing has changed.
        return 0
    return _end_data(self, path.id, now)


cdef int _time(Qlog self, const char* key, double value, double* told) except -1:
    if value == told[0]:
        return 0
    told[0] = value
    return _real(self, key, 1e3 * value)


# Text.

cdef int _begin(Qlog self, const char* name, double now) except -1:
    self._event = self._size
    _put(self, b"\x1e{", 2)
    _real(self, "time", 1e3 * (now - self._began))
    if name != NULL:
        _word(self, "name", name)
        _open(self, "data")
    else:
        _put(self, b",", 1)
    return 0


cdef int _end_data(Qlog self, uint32_t path, double now) except -1:
    cdef char text[16]
    _shut(self)
    if path:
        snprintf(text, sizeof(text), "%lu", <unsigned long>path)
        _word(self, "tuple", text)
    _shut(self)
    return _end(self, now)


cdef int _end(Qlog self, double now) except -1:
    cdef double begun
    _put(self, b"\n", 1)
    if self._written + self._size + LAST_WORDS > self._limit:
        self._size = self._event
        _begin(self, "loglevel:warning", now)
        _word(self, "message", "the log has reached its limit; nothing more is written")
        _shut(self)
        _shut(self)
        _put(self, b"\n", 1)
        _flush(self)
        self.over = True
    elif self._size >= FLUSH_AT or now >= self._flushed_at + FLUSH_AFTER:
        self._flushed_at = now
        _flush(self)
    return 0


cdef int _flush(Qlog self) except -1:
    cdef size_t size = self._size
    self._size = 0
    self._written += size
    if size and not self.over and not self._write((<const char*>self._buffer)[:size]):
        self.over = True
    return 0


cdef int _put(Qlog self, const char* text, size_t size) except -1:
    cdef char* grown
    cdef size_t room = self._room
    if self._size + size > room:
        while self._size + size > room:
            room *= 2
        grown = <char*>realloc(self._buffer, room)
        if grown == NULL:
            raise MemoryError
        self._buffer = grown
        self._room = room
    memcpy(self._buffer + self._size, text, size)
    self._size += size
    return 0


cdef int _key(Qlog self, const char* key) except -1:
    # Keys are the schema's, and so are words: there is nothing to escape.
    cdef char last = self._buffer[self._size - 1]
    if last != b"{"[0] and last != b"["[0]:
        _put(self, b",", 1)
    if key != NULL:
        _put(self, b'"', 1)
        _put(self, key, strlen(key))
        _put(self, b'":', 2)
    return 0


cdef int _open(Qlog self, const char* key) except -1:
    _key(self, key)
    return _put(self, b"{", 1)


cdef int _shut(Qlog self) except -1:
    return _put(self, b"}", 1)


cdef int _list(Qlog self, const char* key) except -1:
    _key(self, key)
    return _put(self, b"[", 1)


cdef int _unlist(Qlog self) except -1:
    return _put(self, b"]", 1)


cdef int _number(Qlog self, const char* key, uint64_t value) except -1:
    cdef char text[24]
    _key(self, key)
    return _put(self, text, <size_t>snprintf(text, sizeof(text), "%llu", <unsigned long long>value))


cdef int _real(Qlog self, const char* key, double value) except -1:
    # Milliseconds, to the microsecond. What is not finite has no form in JSON, and is nothing that is measured.
    cdef char text[40]
    if not -1e18 < value < 1e18:
        value = 0.0
    _key(self, key)
    return _put(self, text, <size_t>snprintf(text, sizeof(text), "%.3f", value))


cdef int _word(Qlog self, const char* key, const char* value) except -1:
    _key(self, key)
    _put(self, b'"', 1)
    _put(self, value, strlen(value))
    return _put(self, b'"', 1)


cdef int _truth(Qlog self, const char* key, bint value) except -1:
    _key(self, key)
    return _put(self, b"true", 4) if value else _put(self, b"false", 5)


cdef int _octets(Qlog self, const char* key, const uint8_t* data, uint64_t size) except -1:
    cdef char text[3]
    cdef uint64_t i
    _key(self, key)
    _put(self, b'"', 1)
    for i in range(size):
        snprintf(text, sizeof(text), "%02x", <unsigned int>data[i])
        _put(self, text, 2)
    return _put(self, b'"', 1)


include "qlog_frames.pxi"
