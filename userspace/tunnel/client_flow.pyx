"""The client's end of a flow: the request goes out with the first data, the answer is read, then flow.py takes over.

Read first: flow.py, preamble.py, docs/protocol.md "Order". Before the concentrator has authenticated us, it holds little:
``EarlyBudget`` is what it promises to hold, for all flows together. Beyond that a flow keeps its bytes here, and its
program paused, until ``release``.
"""

from ..quic.errors import LocalError

from .flow cimport OPEN, OVER, PREAMBLE, Flow

from .flow import TCP_CONNECTION_RESET
from .preamble import PLAIN_ANSWER, AnswerReader, plain_answer
from .tlv import TLVError, Wire
from .types import FlowFailed

EARLY_FLOWS = 16
"""Flows that a concentrator holds for a client that it has not authenticated."""
EARLY_OCTETS = 64 << 10
"""Octets of all their streams together that it holds: what a sender's first two round trips can carry (RFC 9002 §7.2)."""
MAX_HELD = 1 << 20
"""Octets that one flow keeps here for a program that writes on although it was paused; as ``Stream.write`` has it."""


class EarlyBudget:
    """What may still be sent before the concentrator has authenticated us."""

    __slots__ = ("_flows", "_octets")

    def __init__(self, flows=EARLY_FLOWS, octets=EARLY_OCTETS):
        self._flows = flows
        self._octets = octets

    def take_flow(self):
        self._flows -= 1
        return self._flows >= 0

    def take(self, size):
        if size > self._octets:
            return False
        self._octets -= size
        return True


cdef class ClientFlow(Flow):
    """A flow that this client opened; implements TunnelFlow."""

    cdef object _wire
    cdef object _destination
    cdef object _reader
    cdef object _budget
    cdef object _held               # Bytes that wait for ``release``; None when none do.
    cdef bint _finish_held
    cdef bint _stream_paused
    cdef bint _paused_here

    def __init__(self, stream, destination, wire, handler, forget, budget):
        Flow.__init__(self, stream, handler, forget)
        self._wire = wire
        self._destination = destination
        self._reader = None
        self._budget = budget
        self._held = None
        self._finish_held = False
        self._stream_paused = False
        self._paused_here = False
        self.data_received = self._receive_answer
        if budget is not None:
            self.write = self._write_early
            self.pause_writing = self._pause_early
            self.resume_writing = self._resume_early
            if not budget.take_flow():
                self._held = bytearray()
        stream.set_handler(self)

    def send_request(self, octets):
        """The request's TLVs, and the first data behind them, in one write."""
        if self._held is None and (self._budget is None or self._budget.take(len(octets))):
            self._stream.write(octets)
        else:
            self._hold(octets)

    def release(self):
        """The concentrator has authenticated us: all may go."""
        if self._budget is None or self._stage == OVER:
            return
        held, self._held = self._held, None
        self._budget = None
        self.write = self._stream.write
        if held:
            self._stream.write(held)
        if self._finish_held:
            self._stream.finish()
        self.pause_writing = self._handler.pause_writing
        self.resume_writing = self._handler.resume_writing
        self._stream.set_handler(self)
        if self._paused_here and not self._stream_paused:
            self._handler.resume_writing()

    def set_handler(self, handler):
        self._handler = handler
        if self._stage == OPEN:
            self._connect_handler()
        elif self._stage == PREAMBLE and self._budget is None:
            self.pause_writing = handler.pause_writing
            self.resume_writing = handler.resume_writing

    def finish(self):
        if self._held is not None:
            self._finish_held = True
        else:
            Flow.finish(self)

    def eof_received(self):
        if self._stage != PREAMBLE:
            Flow.eof_received(self)
            return
        reader = self._reader or AnswerReader(self._wire, self._destination)
        try:
            reader.receive_eof()
        except TLVError as error:
            self._fail(error)
        else:
            assert reader.failure is not None
            self._refused(reader.failure)

    def _receive_answer(self, data):
        bound = plain_answer(data) if self._reader is None and self._wire is Wire.QUICSOCKS else None
        if bound is not None:
            rest = data[PLAIN_ANSWER:]
            self._stream.consumed(PLAIN_ANSWER)
        else:
            reader = self._reader = self._reader or AnswerReader(self._wire, self._destination)
            try:
                complete = reader.receive_data(data)
            except TLVError as error:
                self._stream.consumed(len(data))
                self._fail(error)
                return
            rest = reader.rest
            self._stream.consumed(len(data) - len(rest))
            if not complete:
                return
            if reader.failure is not None:
                self._stream.consumed(len(rest))
                self._refused(reader.failure)
                return
            bound = reader.bound
        self._stage = OPEN
        self._connect_handler()
        self._handler.connected(bound)
        if rest:
            # What stands there now: the program may have reset the flow, or handed it on.
            self.data_received(rest)

    cdef int _connect_handler(self) except -1:
        Flow._connect_handler(self)
        if self._budget is not None:
            # An answer before we are told that we are authenticated: the control stream is behind.
            self.pause_writing = self._pause_early
            self.resume_writing = self._resume_early
        return 0

    cdef int _refused(self, failure) except -1:
        """The concentrator's Error, End, FIN: our direction has no use any more."""
        self.was_refused = True
        self._stream.reset(TCP_CONNECTION_RESET)
        self._end(failure)
        return 0

    cdef int _fail(self, error) except -1:
        """An answer that breaks the protocol. Our direction is past its TLVs and can carry no Error: reset both."""
        handler = self._handler
        self._abandon()
        handler.flow_ended(FlowFailed(error.cause, f"in the concentrator's answer: {error}"))
        return 0

    # Before we are authenticated.

    def _write_early(self, data):
        if self._finish_held:
            raise LocalError(f"flow {self.id}: write after finish")
        if self._held is None and self._budget is not None and self._budget.take(len(data)):
            self._stream.write(data)
        else:
            self._hold(data)
            if not self._paused_here:
                self._paused_here = True
                if not self._stream_paused:
                    self._handler.pause_writing()

    cdef int _hold(self, data) except -1:
        if self._held is None:
            self._held = bytearray()
        if len(self._held) + len(data) > MAX_HELD:
            raise LocalError(f"flow {self.id}: {MAX_HELD} bytes written past pause_writing")
        self._held += data
        return 0

    def _pause_early(self):
        self._stream_paused = True
        if not self._paused_here:
            self._handler.pause_writing()

    def _resume_early(self):
        self._stream_paused = False
        if not self._paused_here:
            self._handler.resume_writing()

    cdef int _become_over(self) except -1:
        self._held = None
        Flow._become_over(self)
