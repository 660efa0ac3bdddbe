"""TIME-WAIT. Read RFC 9293 §3.10.7.4, RFC 6191 and RFC 1337 first.

It keeps the name from being used again while segments of the old connection may still be on their way, and answers a peer
whose FIN was acknowledged by a segment that was lost.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ..checksum cimport pseudo_sum
from ..ip cimport TCP, Packet, write_header
from .core cimport Core
from .endpoint cimport Endpoint
from .header cimport ACK, FIN, PLAIN_HEADER, RST, SYN, TIMESTAMPS_SIZE, Header, distance, put_timestamps, seal, write_plain

cdef double NEVER = float("inf")
cdef double ANSWER_INTERVAL = 0.5
# Seconds between answers to what is not a FIN: two that take each other's for strangers must not keep on talking.
cdef enum:
    HOPS = 64


cdef TimeWait make_time_wait(Core core, bint ack_wanted):
    cdef TimeWait rest = TimeWait.__new__(TimeWait)
    rest.name = core.name
    rest.host = core.host
    rest.owner = core.owner
    rest.snd_nxt = core.snd_wire(core.snd_nxt)
    rest.rcv_nxt = core.rcv_wire(core.rcv_nxt)
    rest.window = core.window_to_tell(False)
    rest.stamping = core.stamping
    rest.ts_offset = core.ts_offset
    rest.ts_recent = core.ts_recent
    rest.ack_wanted = ack_wanted
    rest.answered_at = -NEVER
    return rest


cdef class TimeWait(Endpoint):
    cdef int arrived(self, const Packet* packet, Header* header, double now) except -1:
        cdef bint newer_stamp = self.stamping and header.stamped and distance(self.ts_recent, header.ts_value) > 0
        cdef bint beyond = distance(self.rcv_nxt, header.sequence) > 0
        if header.flags & RST:
            return 0        # RFC 1337 §3 (F1)
        if header.flags & (SYN | ACK) == SYN:
            # RFC 6191 §2, RFC 9293 MAY-2: another connection, if nothing of the old one can be taken for a part of it.
            if newer_stamp or (beyond and not (self.stamping and header.stamped and header.ts_value != self.ts_recent)):
                return self.owner.recycle(self, packet, header, self.snd_nxt, now)
            return _answer(self, now, False)
        if header.flags & FIN:
            self.host.arm(self, now + self.owner.limits.time_wait)
            return _answer(self, now, True)
        if header.size or header.sequence != self.rcv_nxt:
            return _answer(self, now, False)
        return 0

    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1:
        cdef uint8_t* tcp
        cdef uint8_t* at
        if not self.ack_wanted:
            return 0
        self.ack_wanted = False
        tcp = write_header(
            out, &self.name.local, &self.name.remote, TCP, PLAIN_HEADER + (TIMESTAMPS_SIZE if self.stamping else 0), 0, HOPS,
            0, True
        )
        write_plain(
            tcp, self.name.local_port, self.name.remote_port, self.snd_nxt, self.rcv_nxt, ACK, self.window
        )
        at = tcp + PLAIN_HEADER
        if self.stamping:
            at = put_timestamps(
                at, <uint32_t>((<uint64_t>(now * 1000.0) + self.ts_offset) & 0xffffffff), self.ts_recent
            )
        seal(tcp, at, 0, pseudo_sum(&self.name.local, &self.name.remote, TCP, 0))
        self.owner.counters.segments_sent += 1
        return at - out

    cdef int on_timer(self, double now) except -1:
        return self.owner.forget(self)


cdef int _answer(TimeWait self, double now, bint always) except -1:
    if not always and now - self.answered_at < ANSWER_INTERVAL:
        return 0
    self.answered_at = now
    self.ack_wanted = True
    return self.host.want(self)
