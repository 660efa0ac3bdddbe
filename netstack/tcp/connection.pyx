"""What applications see. Read ``types`` and ``sending`` first; ``Pump`` and credit are as those of the transport's streams.

Callbacks are made by ``tell``, which the stack calls from the loop for every flow that is ``touched``.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import os

from ..address cimport from_address
from ..descriptor cimport drain_into, fill_from
from ..host cimport Report
from ..messages cimport NEEDS_FRAGMENTATION, NO_PORT, NO_PORT6, PACKET_TOO_BIG6, UNREACHABLE, UNREACHABLE6
from .core cimport (
    CLOSED, ESTABLISHED, FIN_WAIT_2, LAST_ACK, SYN_RECEIVED, SYN_SENT, reason_of,
)
from .header cimport CWR, ECE, Header, distance
from .sending cimport Sending

from .types import TcpError

cdef double NEVER = float("inf")
cdef enum:
    WRITE_PAST_PAUSE = 1 << 20
    # Octets a caller may still write after pause_writing before write refuses: one large read already under way.
    LARGEST_PIECE = 1 << 18
    # Octets given to a handler at once.
    QUENCH = 4              # ICMP type (RFC 6633)

_STATES = (
    "CLOSED", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK",
    "TIME-WAIT",
)
_REPAIRS = ("open", "recovery", "loss")


cdef class Connection(Sending):
    # What the room above calls.

    @property
    def local_address(self):
        return from_address(&self.name.local), self.name.local_port

    @property
    def remote_address(self):
        return from_address(&self.name.remote), self.name.remote_port

    @property
    def state(self):
        """RFC 9293's name of it."""
        return _STATES[<int>self.stage]

    @property
    def ended(self):
        return self._ended

    @property
    def send_buffered(self):
        if self.over or self.silent:
            return 0
        return self.out.end - self.out.sent

    def set_handler(self, handler):
        if not self.silent:
            self._handler = handler
            self.host.touch(self)

    def set_nodelay(self, bint on):
        """Whether small segments leave at once, without Nagle's algorithm (RFC 9293 MUST-17)."""
        self.nagle = not on
        if on and not self.over:
            self.host.want(self)

    def set_user_timeout(self, double seconds):
        """How long data may go unacknowledged (RFC 9293 MUST-21)."""
        self.user_timeout = seconds

    def set_keepalive(self, double seconds):
        """Send a keep-alive after so many seconds of silence; 0: never (RFC 9293 MUST-24)."""
        self.keepalive = seconds
        if not self.over and self.stage >= ESTABLISHED:
            self.alive_at = max(self.heard_at, self.sent_at) + seconds if seconds > 0.0 else NEVER
            self.alive_probes = 0
            self.rearm()

    def write(self, const uint8_t[::1] data not None):
        cdef size_t size = <size_t>data.shape[0]
        if self.out.finished:
            raise TcpError("write after finish")
        if self.over:
            return
        if self.paused:
            self.past_pause += size
            if self.past_pause > WRITE_PAST_PAUSE:
                raise TcpError(f"{WRITE_PAST_PAUSE} octets written past pause_writing")
        if not size:
            return
        self.out.write(&data[0], size)
        _written(self, size)

    def pump(self, int descriptor, on_full, on_error):
        """Join a connected, non-blocking socket of the kernel: from now on its octets do not pass the handler.

        on_full(): the socket takes no more; call ``Pump.write`` when it is writable. on_error(OSError): writing failed.
        Both are called from ``tell``, where the handler would be. The socket stays the caller's.
        """
        cdef Pump pump
        if self._pump is not None:
            raise TcpError("joined to a socket already")
        pump = Pump.__new__(Pump)
        pump._connection = self
        pump._descriptor = descriptor
        pump._on_full = on_full
        pump._on_error = on_error
        pump.active_at = self.host.now
        self._pump = pump
        self.host.touch(self)
        return pump

    def finish(self):
        """Send a FIN behind what is buffered. A second call does nothing."""
        if self.out.finished or self.over:
            return
        self.out.finish()
        _maybe_discard(self)
        if not self.over and self.stage >= ESTABLISHED:
            self.host.want(self)

    def reset(self, code=0):
        """Send a RST and forget everything (RFC 9293 §3.10.5). ``connection_lost`` follows. code: TCP has none."""
        if not self.over:
            self.abort(reason_of("LOCALLY_RESET", None), self.host.now)

    def stop_sending(self, code=0):
        """What the peer sends is of no use any more: it is dropped. Once we have finished as well, any more of it is answered
        with a RST (RFC 2525 §2.16), and so is what has come and was not delivered (RFC 9293 SHLD-3). code: TCP has none."""
        if self.over or self.receive_over:
            self.receive_over = True
            self.host.touch(self)
            return
        self.receive_over = True
        if self.out.finished and self.into.available():
            self.released = True
            self.abort(reason_of("LOCALLY_RESET", None), self.host.now)
            return
        self.release()
        if self.stage == FIN_WAIT_2 and self.life_at == NEVER:
            self.life_at = self.host.now + self.owner.limits.fin_wait_2
            self.rearm()
        self.host.touch(self)

    def consumed(self, Py_ssize_t size):
        """Open the window for octets that ``data_received`` delivered and that have been passed on. Raises TcpError for more
        than were delivered; after ``stop_sending`` and the end it does nothing."""
        if self.released or self._ended is not None or self.silent and self.over:
            return
        if size < 0 or <uint64_t>size > self.delivered - self.consumed_to:
            raise TcpError(f"{size} octets consumed of {self.delivered - self.consumed_to} delivered")
        _consume(self, <uint64_t>size)

    def statistics(self):
        """Counters and the state of things, as a dict. Times in s, sizes in octets."""
        found = dict(self.traffic)
        found.update(
            state=_STATES[<int>self.stage], repair=_REPAIRS[<int>self.repair],
            smoothed_rtt=self.rtt.smoothed, rtt_variation=self.rtt.variation, minimum_rtt=self.rtt.minimum, rto=self.rto(),
            in_flight=self.segments.in_flight, unsent=self.out.end - self.out.sent,
            unacknowledged=self.out.end - self.out.floor, send_window=self.snd_wnd, receive_window=self.window,
            unconsumed=self.into.highest - self.consumed_to, mss=self.mss, mtu=self.mtu, backoff=self.backoff,
            sacked=self.segments.sacked_count, lost=self.segments.lost_count, waiting_ranges=self.into.received.count,
            timestamps=bool(self.stamping), sack=bool(self.sacking), ecn=bool(self.ecn),
            send_scale=self.snd_scale, receive_scale=self.rcv_scale, reordering_seen=bool(self.reordering_seen),
            window_probes_unanswered=self.persists, keepalives_unanswered=self.alive_probes,
            congestion_window=0, pacing_rate=0.0, congestion=self.owner.congestion,
        )
        if self.controller is not None:
            found.update(congestion_window=self.congestion_window(), pacing_rate=self.controller.pacing_rate)
        return found

    # What the Tcp calls.

    cdef int open_to(self, uint32_t iss, double now) except -1:
        self.begin(now)
        self.iss = iss
        self.stage = SYN_SENT
        self.ecn = self.owner.limits.ecn
        self.syn_wanted = True
        self.life_at = now + self.owner.limits.connect_timeout
        self.rearm()
        return self.host.want(self)

    cdef int answer(self, const Header* syn, uint32_t iss, double now) except -1:
        self.begin(now)
        self.passive = True
        self.iss = iss
        self.irs = syn.sequence
        self.rcv_nxt = 0
        self.stage = SYN_RECEIVED
        self.ecn = self.owner.limits.ecn and syn.flags & (ECE | CWR) == (ECE | CWR)
        self.agree(syn, now)
        self.syn_wanted = True
        self.life_at = now + self.owner.limits.accept_timeout
        self.rearm()
        return self.host.want(self)

    cdef bint reported(self, const Report* report, uint32_t sequence, double now) except -1:
        # RFC 5927 §4.1: about something that is in flight, or it is forged, or late.
        cdef int64_t offset = self.snd_una + distance(self.snd_wire(self.snd_una), sequence)
        cdef bint hard = report.kind == (UNREACHABLE if report.version == 4 else UNREACHABLE6)
        if self.over or not self.snd_una <= offset < self.snd_nxt:
            return False
        if report.version == 4 and report.kind == QUENCH:
            return True     # MUST-55
        if report.version == 4 and hard and report.code == NEEDS_FRAGMENTATION or \
                report.version == 6 and report.kind == PACKET_TOO_BIG6:
            return True     # The stack has more to say: `path_changed`.
        self.soft_error = (report.kind, report.code)
        if self.stage == SYN_SENT and hard:
            # Linux does so, too: whoever waits for a connection had better try another address now (RFC 5461 §4.1).
            refused = report.code == (NO_PORT if report.version == 4 else NO_PORT6)
            self.end(reason_of("REFUSED" if refused else "UNREACHABLE", self.soft_error))
        # MUST-56, SHLD-25: told when it comes to an end. Hard errors are no better (RFC 5927 §5.2): anybody could send them.
        return True

    cdef int ended_with(self, object ended) except -1:
        self._ended = ended
        self.lost = ended is not None
        self.paused = False
        if ended is None:
            self.silent = True
            self._handler = None
            return 0
        return self.host.touch(self)

    cdef int finish_off(self, double now) except -1:
        # Both FINs have been acknowledged, or are now. What has arrived may not have been told yet.
        cdef bint rests = self.stage != LAST_ACK
        self.over = True
        self.stage = CLOSED
        if rests:
            self.owner.rest(self)
        else:
            self.owner.forget(self)
        self.host.disarm(self)
        self.owner.written -= <int64_t>(self.out.end - self.out.floor)
        return self.host.touch(self)

    cdef int arrivals_changed(self) except -1:
        if self.stage >= ESTABLISHED:
            self.established = True
        return self.host.touch(self)

    cdef int sendings_changed(self) except -1:
        if self.paused and self.out.end - self.out.sent <= self.resume_below:
            return self.host.touch(self)
        return 0

    cdef int tell(self) except -1:
        cdef int64_t size
        self.touched = False
        if self.silent:
            return 0
        if self.established and self._on_accept is not None:
            on_accept, self._on_accept = self._on_accept, None
            on_accept(self)
        if self._handler is None:
            return 0        # It waits for one, the end too.
        if self.lost:
            return _tell_lost(self)
        if self.established and not self.connected_told:
            self.connected_told = True
            self._handler.connected()
        if self._pump is not None and not self._pump._full and not self.released:
            _pump_out(self._pump)
        while self._pump is None and not self.receive_over and self._handler is not None and self.into.available():
            data = self.into.take(LARGEST_PIECE)
            self.delivered += <uint64_t>len(data)
            self._handler.data_received(data)
        if self.lost or self._handler is None:
            return self.host.touch(self) if self.lost else 0
        if self.paused and self.out.end - self.out.sent <= self.resume_below:
            self.paused = False
            self._handler.resume_writing()
        if not self.receive_over and self.fin_received and not self.into.available() and self._handler is not None:
            self.receive_over = True
            self._handler.eof_received()
        if self.fin_acked and not self.send_told and self._handler is not None and not self.lost:
            self.send_told = True
            self._handler.send_completed()
        if self.lost:
            return self.host.touch(self)
        if self.receive_over and self.send_told:
            self.silent = True
            self._handler = None    # It has us, which only the collector would find out.
            self.owner.received -= <int64_t>(self.into.highest - self.consumed_to)
            self.consumed_to = self.into.highest
            if self._pump is not None:
                self._pump.close()
        return 0


cdef int _tell_lost(Connection self) except -1:
    self.silent = True
    self.lost = False
    handler, self._handler = self._handler, None
    if self._pump is not None:
        self._pump.close()
    if self.connected_told and self._ended.end.name == "RESET" and not self.receive_over:
        handler.reset_received(0)
    handler.connection_lost(self._ended)
    return 0


cdef int _written(Connection self, size_t size) except -1:
    # There is more to send; the writer is held back when it is far ahead.
    cdef uint64_t most = self.owner.high_water()
    self.owner.written += <int64_t>size
    if self.stage >= ESTABLISHED:
        self.host.want(self)
    if not self.paused and self.out.end - self.out.sent > most:
        self.paused = True
        self.past_pause = 0
        self.resume_below = most // 4
        if self._handler is not None:
            self._handler.pause_writing()
    return 0


cdef int _consume(Connection self, uint64_t size) except -1:
    self.consumed_to += size
    self.owner.received -= <int64_t>size
    # A window that is consumed in a few round trips is what holds the peer back: double it.
    self.window_used += size
    if self.window_used >= self.window:
        if self.host.now - self.window_began < 4.0 * self.rtt.smoothed:
            self.window = min(self.window * 2, max(self.window, self.owner.limits.receive_window))
        self.window_used = 0
        self.window_began = self.host.now
    return self.return_credit()


cdef int _maybe_discard(Connection self) except -1:
    # SHLD-3: nobody reads what has come, and nothing is sent any more.
    if self.released and self.into.available():
        return self.abort(reason_of("LOCALLY_RESET", None), self.host.now)
    return 0


# The pump.


cdef class Pump:
    def read(self):
        """Take what the socket has into the connection, at most 128 KiB. Octets; 0 at the end, -1 when there is nothing now.
        Raises OSError. Calls ``pause_writing`` of the connection's handler as its ``write`` does."""
        cdef Connection connection = self._connection
        cdef ssize_t size
        cdef int error = 0
        cdef bint filled = False
        if connection is None or connection.over or connection.out.finished:
            return -1
        size = fill_from(connection.out, self._descriptor, self._many, &filled, &error)
        if size < 0:
            if error == EAGAIN:
                return -1
            raise OSError(error, os.strerror(error))
        self._many = filled
        if size:
            self.sent += <uint64_t>size
            self.active_at = connection.host.now
            _written(connection, <size_t>size)
        return size

    def write(self):
        """The socket is writable again. False: it takes no more, and ``on_full`` is not called again until it was."""
        cdef Connection connection = self._connection
        self._full = False
        if connection is None or connection.released or connection._ended is not None:
            return True
        _pump_out(self)
        # What comes behind the octets, their end, is told from the loop.
        connection.host.touch(connection)
        return not self._full

    def close(self):
        """The socket is not the connection's any more."""
        cdef Connection connection = self._connection
        if connection is not None:
            connection._pump = None
            self._connection = None
            self._on_full = self._on_error = None
            if not connection.silent:
                connection.host.touch(connection)


cdef int _pump_out(Pump self) except -1:
    cdef Connection connection = self._connection
    cdef int error = 0
    cdef uint64_t taken = drain_into(connection.into, self._descriptor, &error)
    if taken:
        self.received += taken
        self.active_at = connection.host.now
        connection.delivered += taken
        _consume(connection, taken)
    if error == EAGAIN:
        self._full = True
        self._on_full()
    elif error:
        self._full = True       # Nothing more is tried: it is for the owner to end the connection.
        self._on_error(OSError(error, os.strerror(error)))
    return 0
