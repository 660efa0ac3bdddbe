"""Carries one flow between a kernel TCP socket and a tunnel flow, at either end of the tunnel.

Read first: the mapping table of docs/protocol.md (FIN is FIN, RST is STOP_SENDING with RESET_STREAM, both ways). The
relay works on the raw descriptor, not on an asyncio transport: transports do not report a reset that comes after EOF
or while reading is paused, and cannot send one. It must not interpret a byte.

Bytes are read only while the flow takes them, and their credit is returned only when the kernel has taken them; so a
flow that stalls holds at most one send buffer here and one stream window at the other end.

Where the engine can move bytes between stream and socket by itself, it does (``Pump``), and what is left here is when to
read and to write, and how it ends. A flow whose rate is limited is carried by hand.
"""

from libc.stdint cimport int64_t

import socket
from collections import deque
from collections.abc import Callable

from quicsocks.socks.sockets import reset as reset_socket

from .tunnel.types import Cause, FlowFailed

READ_SIZE = 64 << 10
"""Bytes read at once: what a TCP window of a fast path holds, and small enough to be fair to others."""

_IOV = 64
"""Buffers given to one sendmsg; Linux takes 1,024, more than that gains nothing."""

Charge = Callable[[int, float], float]


cdef class Relay:
    """The handler of a tunnel flow that is joined to a socket. Owns the socket from construction on.

    charge: called with a number of bytes and the time, in either direction; answers for how many seconds to rest.
    done: called once, from the loop or from a callback of the flow, with None when both directions ended in order,
    else with what broke the flow. sent and received count bytes towards and from the flow.
    """

    cdef object _flow
    cdef object _sock
    cdef int _descriptor
    cdef object _done
    cdef object _loop
    cdef object _watch
    cdef object _backlog            # a deque of what the socket has not taken; None: nothing has come by hand
    cdef object _charge
    cdef object _rest               # the timer of a rest
    cdef object _pump
    cdef int64_t _sent              # octets, without the pump's
    cdef int64_t _received
    cdef double _active_at
    cdef bint _reading
    cdef bint _read_eof
    cdef bint _paused
    cdef bint _writing
    cdef bint _flush_scheduled
    cdef bint _write_eof
    cdef bint _shut
    cdef bint _flow_over
    cdef bint _closed

    def __init__(self, flow, sock, done, *, loop, watch, charge=None):
        self._flow = flow
        self._sock = sock
        self._descriptor = sock.fileno()
        self._done = done
        self._loop = loop
        self._watch = watch
        self._charge = charge
        self._active_at = loop.time()

    @property
    def sent(self):
        return self._sent + (self._pump.sent if self._pump is not None else 0)

    @property
    def received(self):
        return self._received + (self._pump.received if self._pump is not None else 0)

    @property
    def active_at(self):
        return max(self._active_at, self._pump.active_at) if self._pump is not None else self._active_at

    def start(self, bytes early=b"", *, bint waiting=True):
        """Send early, then carry bytes both ways. Call after ``flow.set_handler(relay)``.

        waiting: bytes that the flow's former handler was given are going to come by ``data_received``, before the loop's
        next turn.
        """
        if early:
            self._sent += len(early)
            self._flow.write(early)
        if self._charge is not None:
            # A debt is the client's, not a flow's: one flow after the other would otherwise each begin without it.
            self._take_rest(self._charge(0, self._active_at))
        reading = not (self._paused or self._rest is not None)
        try:
            self._watch.add(self._sock, self._hung_up, reading=True, readable=self._readable if reading else None)
        except OSError as error:
            # No room in the kernel for another watch (epoll(7), max_user_watches).
            self._broken(error)
            return
        self._reading = reading
        if waiting:
            self._loop.call_soon(self._join)
        else:
            self._join()

    def abort(self, cause, detail=""):
        """Reset both sides, e.g. when the flow has been idle for too long."""
        if not self._closed:
            self._break(FlowFailed(cause, detail))

    # What the flow calls.

    def connected(self, bound):
        """Connected before the relay began."""

    def data_received(self, data):
        if self._closed:
            self._flow.consumed(len(data))
            return
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(data)
        if not self._flush_scheduled and not self._writing:
            # Frames of one burst come one by one: gather them into one system call.
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def eof_received(self):
        self._write_eof = True
        if not self._backlog:
            self._shutdown()

    def pause_writing(self):
        self._paused = True
        self._update_reading()

    def resume_writing(self):
        self._paused = False
        self._update_reading()

    def flow_ended(self, error):
        if self._closed:
            return
        self._flow_over = True
        if error is not None:
            self._close(error, True)
            return
        self._write_eof = True
        if not self._backlog:
            self._shutdown()

    # What the socket does.

    cdef int _update_reading(self) except -1:
        cdef bint wanted = not (self._paused or self._read_eof or self._closed or self._rest is not None)
        if wanted != self._reading and not self._closed:
            self._watch.on_readable(self._sock, self._readable if wanted else None)
        self._reading = wanted
        return 0

    def _join(self):
        """Let the engine move the bytes, if it can and nothing that came before is left."""
        if self._pump is None and not (self._closed or self._backlog or self._flow_over or self._charge is not None):
            self._pump = self._flow.pump(self._descriptor, self._socket_full, self._broken)

    def _readable(self):
        if not self._reading:
            return
        if self._pump is not None:
            try:
                size = self._pump.read()
            except OSError as error:
                self._broken(error)
                return
            if not size:
                self._end_reading()
            return
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error)
            return
        self._active_at = self._loop.time()
        if data:
            self._sent += len(data)
            self._flow.write(data)
            if self._charge is not None:
                self._take_rest(self._charge(len(data), self._active_at))
            return
        self._end_reading()

    cdef int _end_reading(self) except -1:
        self._read_eof = True
        self._update_reading()
        self._flow.finish()
        if self._shut:
            self._close(None, False)
        return 0

    def _socket_full(self):
        if not self._writing and not self._closed:
            self._writing = True
            self._watch.on_writable(self._sock, self._writable)

    def _writable(self):
        """With a pump: the socket takes bytes again."""
        if self._closed or self._pump is None:
            return
        if self._pump.write() and self._writing:
            self._writing = False
            self._watch.on_writable(self._sock, None)

    def _flush(self):
        self._flush_scheduled = False
        if self._closed or self._rest is not None:
            return
        backlog = self._backlog
        taken = 0
        try:
            while backlog:
                if len(backlog) == 1:
                    size = self._sock.send(backlog[0])
                else:
                    size = self._sock.sendmsg([backlog[i] for i in range(min(len(backlog), _IOV))])
                taken += size
                while size and size >= len(backlog[0]):
                    size -= len(backlog.popleft())
                if size:
                    backlog[0] = memoryview(backlog[0])[size:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._broken(error)
            return
        if taken:
            self._received += taken
            self._active_at = self._loop.time()
            self._flow.consumed(taken)
            if self._charge is not None:
                self._take_rest(self._charge(taken, self._active_at))
        if backlog:
            if not self._writing and self._rest is None:
                self._writing = True
                self._watch.on_writable(self._sock, self._flush)
            return
        if self._writing:
            self._writing = False
            self._watch.on_writable(self._sock, None)
        if self._write_eof:
            self._shutdown()
        else:
            self._join()

    cdef int _take_rest(self, double delay) except -1:
        """The client's rate is used up: neither read nor write for a while."""
        if delay <= 0 or self._rest is not None or self._closed:
            return 0
        self._rest = self._loop.call_later(delay, self._rested)
        self._update_reading()
        if self._writing:
            self._writing = False
            self._watch.on_writable(self._sock, None)
        return 0

    def _rested(self):
        self._rest = None
        self._update_reading()
        self._flush()

    cdef int _shutdown(self) except -1:
        if self._shut or self._closed:
            return 0
        self._shut = True
        if self._read_eof:
            self._close(None, False)  # Which sends the FIN as well.
            return 0
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._broken(error)
        return 0

    def _hung_up(self, bint failed):
        """Nothing may be reading or writing now. A hang-up without an error is only both FINs having passed."""
        if failed and not self._closed:
            self._broken(OSError(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "connection reset"))

    def _broken(self, error):
        self._break(FlowFailed(Cause.RESET, error.strerror or type(error).__name__))

    cdef int _break(self, error) except -1:
        if not self._flow_over:
            self._flow_over = True
            self._flow.reset()
        self._close(error, True)
        return 0

    cdef int _close(self, error, bint reset) except -1:
        if self._closed:
            return 0
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        if self._backlog:
            # The session's window is shared: what is thrown away here is credit for other flows.
            self._flow.consumed(sum(len(chunk) for chunk in self._backlog))
            self._backlog.clear()
        self._reading = self._writing = False
        if self._pump is not None:
            self._sent, self._received, self._active_at = self.sent, self.received, self.active_at
            pump, self._pump = self._pump, None
            pump.close()
        self._watch.discard(self._sock, closing=True)
        if reset:
            reset_socket(self._sock)
        else:
            self._sock.close()
        # Whoever is told has us, in most cases: neither should have to wait for the collector.
        done, self._done = self._done, _nothing
        done(error)
        return 0


def _nothing(_error):
    pass
