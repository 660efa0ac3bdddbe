"""Implements ``types.Stream``. Read ``types`` and RFC 9000 §2 to §4 first.

Credit follows consumption: the peer's limits are raised only for octets that the handler has ``consumed``, or that will
never be. Callbacks are made by ``tell``, which the session calls from the loop for every stream that is ``touched``.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint64_t

import os

from quicsocks.netstack.descriptor cimport drain_into, fill_from
from quicsocks.netstack.receive_buffer cimport ReceiveBuffer
from quicsocks.netstack.send_buffer cimport SendBuffer

from ..errors import LocalError


cdef enum:
    GROWTH_RTTS = 4
    # Round trips in which a window must have been consumed to grow: one for the data, one for the credit, and as many
    # for readers that work in bursts.
    WRITE_PAST_PAUSE = 1 << 20
    # Octets a caller may still write after pause_writing before write refuses: one large read already under way.
    LARGEST_PIECE = 1 << 18
    # Octets given to a handler at once.


cdef class Owner:
    cdef int activate(self, Stream stream) except -1:
        return 0

    cdef int touch(self, Stream stream) except -1:
        return 0

    cdef int announce(self, Stream stream) except -1:
        return 0

    cdef int credit(self, uint64_t size) except -1:
        return 0

    cdef uint64_t window_for(self, uint64_t wanted) noexcept:
        return wanted

    cdef uint64_t high_water(self) noexcept:
        return 0

    cdef double round_trip(self) noexcept:
        return 0.0

    cdef int forget(self, Stream stream) except -1:
        return 0


cdef class ReadyQueue:
    cdef void push(self, Stream stream) noexcept:
        assert not stream.queued
        stream.queued = True
        stream.next_ready = None
        if self.last is None:
            self.first = stream
        else:
            self.last.next_ready = stream
        self.last = stream
        self.count += 1

    cdef void drop(self) noexcept:
        cdef Stream stream = self.first
        assert stream is not None and stream.queued
        self.first = stream.next_ready
        if self.first is None:
            self.last = None
        stream.next_ready = None
        stream.queued = False
        self.count -= 1
        self.turn = 0

    cdef void take_turn(self, uint64_t size, uint64_t burst) noexcept:
        # The first has sent size octets and has more. All that wait share a burst of the pacer, which leaves at once: so
        # none waits longer for it than a burst takes, or a packet of each, and what is sent of one stream in a row is
        # received in a row, and takes one call to pass on instead of one for each packet.
        cdef Stream stream = self.first
        self.turn += size
        if stream.next_ready is not None and self.turn * self.count >= burst:
            self.drop()
            self.push(stream)


cdef Stream make_stream(Owner owner, uint64_t number, bint local, uint8_t priority, uint64_t max_send, uint64_t window):
    cdef Stream stream = Stream.__new__(Stream)
    stream._owner = owner
    stream.number = number
    stream.local = local
    stream.can_send = local or not number & 2
    stream.can_receive = not local or not number & 2
    stream.priority = priority
    stream.max_send = max_send
    stream.send_over = stream.send_told = not stream.can_send
    stream.receive_over = not stream.can_receive
    stream.window = stream.max_receive = window
    stream.window_began = owner.now
    stream.fresh = not local
    stream.out = SendBuffer() if stream.can_send else None
    stream.into = ReceiveBuffer() if stream.can_receive else None
    return stream


cdef class Stream:
    # What the room above calls.

    @property
    def id(self):
        return self.number

    @property
    def is_local(self):
        return self.local

    @property
    def is_bidirectional(self):
        return self.number & 2 == 0

    @property
    def send_buffered(self):
        if self.over or not self.can_send or self.reset_wanted:
            return 0
        return self.out.end - self.out.sent

    def set_handler(self, handler):
        if not self.over:
            self._handler = handler
            self._owner.touch(self)

    def write(self, const uint8_t[::1] data not None):
        cdef size_t size = <size_t>data.shape[0]
        if not self.can_send:
            raise LocalError(f"stream {self.number} is receive-only")
        if self._owner.ended is not None:
            return
        if self.out.finished or self.reset_wanted:
            raise LocalError(f"write on stream {self.number} after finish or reset")
        if self.paused:
            self.past_pause += size
            if self.past_pause > WRITE_PAST_PAUSE:
                raise LocalError(f"stream {self.number}: {WRITE_PAST_PAUSE} bytes written past pause_writing")
        if not size:
            return
        self.out.write(&data[0], size)
        _written(self)

    def pump(self, int descriptor, on_full, on_error):
        """Join a connected, non-blocking TCP socket: from now on its octets do not pass the handler.

        on_full(): the socket takes no more; call ``Pump.write`` when it is writable. on_error(OSError): writing failed.
        Both are called from the loop, where the handler would be. The socket stays the caller's.
        """
        cdef Pump pump
        if self._pump is not None or not (self.can_send and self.can_receive):
            raise LocalError(f"stream {self.number} cannot be joined to a socket")
        pump = Pump.__new__(Pump)
        pump._stream = self
        pump._descriptor = descriptor
        pump._on_full = on_full
        pump._on_error = on_error
        pump.active_at = self._owner.now
        self._pump = pump
        self._owner.touch(self)
        return pump

    def finish(self):
        if not self.can_send:
            raise LocalError(f"stream {self.number} is receive-only")
        if self.out.finished or self.reset_wanted or self._owner.ended is not None:
            return
        self.out.finish()
        self._owner.activate(self)

    def reset(self, uint64_t code):
        if not self.can_send:
            raise LocalError(f"stream {self.number} is receive-only")
        if self.reset_wanted or self.send_over or self._owner.ended is not None:
            return
        self.reset_wanted = self.reset_pending = True
        self.reset_code = code
        self.paused = False
        self.out.clear()
        self._owner.activate(self)

    def stop_sending(self, uint64_t code):
        cdef bint first
        if not self.can_receive:
            raise LocalError(f"stream {self.number} is send-only")
        if self._owner.ended is not None or self.over:
            return
        first = not self.stopped
        self.stopped = True
        _release(self)
        if self.final != OPEN:
            _end_receiving(self)
        elif first:
            self.stop_pending = True
            self.stop_code = code
            self._owner.announce(self)

    def consumed(self, Py_ssize_t size):
        if not self.can_receive:
            raise LocalError(f"stream {self.number} is send-only")
        if self.released or self._owner.ended is not None:
            return
        if size < 0 or <uint64_t>size > self.delivered - self.credited:
            raise LocalError(
                f"stream {self.number}: {size} bytes consumed of {self.delivered - self.credited} delivered"
            )
        self.credited += <uint64_t>size
        _return_credit(self, <uint64_t>size)

    def end(self, ended):
        """The session is over; called once."""
        self.lose(ended)

    # What the connection calls.

    cdef int data_arrived(self) except -1:
        if self.final == OPEN and self.into.final == self.into.ready and not self.released:
            self.final = FIN
        elif self.released and self.final == OPEN and self.into.final == self.into.highest:
            # Nobody wants the octets, so those that are still missing are not waited for.
            self.final = FIN
        if self.released:
            _release(self)
            if self.final == FIN:
                _end_receiving(self)
            return 0
        return self._owner.touch(self)

    cdef int reset_arrived(self, uint64_t code) except -1:
        if self.final != OPEN:
            return 0    # Sent again by the peer, or a reset behind a FIN that has arrived with all before it.
        self.final = RESET
        self.final_code = code
        _release(self)
        return self._owner.touch(self)

    cdef int stop_arrived(self, uint64_t code) except -1:
        if self.stop_seen:
            return 0
        self.stop_seen = self.stop_held = True
        self.stop_seen_code = code
        return self._owner.touch(self)

    cdef int limit_raised(self, uint64_t limit) except -1:
        if limit > self.max_send:
            self.max_send = limit
            self.blocked_told = False
            return self._owner.activate(self)
        return 0

    cdef int sending_progressed(self) except -1:
        if self.paused and self.out.end - self.out.sent <= self.resume_below:
            return self._owner.touch(self)
        return 0

    cdef int sending_acknowledged(self) except -1:
        if not self.send_over and (self.reset_wanted or self.out.complete()):
            self.send_over = True
            return self._owner.touch(self)
        return 0

    cdef bint has_work(self, uint64_t credit) noexcept:
        cdef uint64_t limit
        if self.reset_wanted:
            return self.reset_pending
        if not self.can_send or self.send_over:
            return False
        limit = self.out.sent + credit
        return self.out.has_work(limit if limit < self.max_send else self.max_send)

    cdef int tell(self) except -1:
        cdef bytes data
        self.touched = False
        if self.over:
            return 0
        if self._handler is None:
            # Whoever takes the stream later is told of what came for it, but not of what it did not do itself.
            self.send_told = self.send_over
            if self.stopped and self.final == FIN:
                self.receive_over = True
            return _forget_if_over(self)
        if self._pump is not None:
            if not self._pump._full and not self.released and self.into.available():
                _pump_out(self._pump)
                if self.over or self._handler is None:
                    return 0
        while self._pump is None and not self.released and not self.receive_over and self.into.available():
            data = self.into.take(LARGEST_PIECE)
            self.delivered += <uint64_t>len(data)
            self._handler.data_received(data)
            if self.over or self._handler is None:
                return 0
        if self.paused and self.out.end - self.out.sent <= self.resume_below:
            self.paused = False
            self._handler.resume_writing()
            if self.over:
                return 0
        if self.stop_held:
            self.stop_held = False
            if not self.reset_wanted and not self.send_over:
                self._handler.stop_received(self.stop_seen_code)
                if self.over:
                    return 0
        if not self.receive_over and self.final != OPEN:
            if self.stopped and self.final == FIN:
                self.receive_over = True
            elif self.final == RESET:
                self.receive_over = True
                self._handler.reset_received(self.final_code)
            elif self.into.at_end() or self.released:
                self.receive_over = True
                self._handler.eof_received()
            if self.over:
                return 0
        if self.send_over and not self.send_told:
            self.send_told = True
            self._handler.send_completed()
        return _forget_if_over(self)

    cdef int lose(self, object ended) except -1:
        if self.over:
            return 0
        self.over = True
        if self._pump is not None:
            self._pump.close()
        if self.into is not None:
            self.into.clear()
        if self.out is not None:
            self.out.clear()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.connection_lost(ended)
        return 0


cdef class Pump:
    def read(self):
        """Take what the socket has into the stream, at most 128 KiB. Octets; 0 at the end, -1 when there is nothing now.
        Raises OSError. Calls ``pause_writing`` of the stream's handler as ``write`` of the stream does."""
        cdef Stream stream = self._stream
        cdef ssize_t size
        cdef int error = 0
        cdef bint filled = False
        if stream is None or stream._owner.ended is not None or stream.out.finished or stream.reset_wanted:
            return -1
        size = fill_from(stream.out, self._descriptor, self._many, &filled, &error)
        if size < 0:
            if error == EAGAIN:
                return -1
            raise OSError(error, os.strerror(error))
        self._many = filled
        if size:
            self.sent += <uint64_t>size
            self.active_at = stream._owner.now
            _written(stream)
        return size

    def write(self):
        """The socket is writable again. False: it takes no more, and ``on_full`` is not called again until it was."""
        cdef Stream stream = self._stream
        self._full = False
        if stream is None or stream.released or stream._owner.ended is not None:
            return True
        _pump_out(self)
        # What comes behind the octets, their end, is told from the loop.
        stream._owner.touch(stream)
        return not self._full

    def close(self):
        """The socket is not the stream's any more."""
        cdef Stream stream = self._stream
        if stream is not None:
            stream._pump = None
            self._stream = None
            self._on_full = self._on_error = None
            # What the socket has not taken is the handler's: nothing else may come that would remind us of it.
            stream._owner.touch(stream)


cdef int _pump_out(Pump self) except -1:
    # What has arrived in order, into the socket, as much as it takes; credit for it.
    cdef Stream stream = self._stream
    cdef int error = 0
    cdef uint64_t taken = drain_into(stream.into, self._descriptor, &error)
    if taken:
        self.received += taken
        self.active_at = stream._owner.now
        stream.delivered += taken
        stream.credited += taken
        _return_credit(stream, taken)
    if error == EAGAIN:
        self._full = True
        self._on_full()
    elif error:
        self._full = True   # Nothing more is tried: it is for the owner to end the stream.
        self._on_error(OSError(error, os.strerror(error)))
    return 0


cdef int _written(Stream self) except -1:
    # There is more to send; the writer is held back when it is far ahead.
    self._owner.activate(self)
    if not self.paused and self.out.end - self.out.sent > self._owner.high_water():
        self.paused = True
        self.past_pause = 0
        self.resume_below = self._owner.high_water() // 4
        if self._handler is not None:
            self._handler.pause_writing()
    return 0


cdef int _release(Stream self) except -1:
    # The handler will consume no more: credit all that has arrived, now and whenever more arrives. The final size counts
    # in full, since the peer has taken credit for it (RFC 9000 §4.5).
    cdef uint64_t owed
    self.released = True
    self._owner.ranges_waiting -= self.into.received.count
    self.into.clear()
    owed = self.into.highest - self.credited
    self.delivered = self.credited = self.into.highest
    if owed:
        return _return_credit(self, owed)
    return 0


cdef int _return_credit(Stream self, uint64_t size) except -1:
    cdef uint64_t window
    assert self.credited <= self.delivered <= self.into.highest
    self._owner.credit(size)
    if self.final != OPEN:
        return 0
    _grow(self, size)
    # A quarter of the window at a time: few frames, and the peer never waits for one while we keep up.
    window = self._owner.window_for(self.window)
    if self.credited + window >= self.max_receive + (window >> 2):
        self.max_receive = self.credited + window
        self.limit_pending = True
        return self._owner.announce(self)
    return 0


cdef void _grow(Stream self, uint64_t size) noexcept:
    # A window that would be used up in a few round trips is about to hold the peer back: double it, as others do. It is
    # measured twice a round trip: a peer in slow start doubles what it sends in each, and credit takes half of one to arrive.
    cdef double measured = self._owner.now - self.window_began
    cdef double round_trip = self._owner.round_trip()
    cdef uint64_t used
    self.window_used += size
    if measured < 0.5 * round_trip:
        return
    # A reader that has all that is in order is not what holds back what waits for lost octets: the path has carried it.
    used = self.window_used
    if self.credited == self.delivered and not self.into.available():
        used = self.into.highest - self.window_top
    if <double>used * GROWTH_RTTS * round_trip > <double>self.window * measured:
        self.window = min(self.window * 2, max(self.window, <uint64_t>self._owner.limits.stream_window))
    self.window_used = 0
    self.window_top = self.into.highest
    self.window_began = self._owner.now


cdef int _end_receiving(Stream self) except -1:
    self.receive_over = True
    return self._owner.touch(self)


cdef int _forget_if_over(Stream self) except -1:
    if self.receive_over and self.send_over and self.send_told and not self.over:
        self.over = True
        self._handler = None    # Its last word has been said; and it has us, which only the collector would find out.
        return self._owner.forget(self)
    return 0
