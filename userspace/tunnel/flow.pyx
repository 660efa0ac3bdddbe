"""One flow: what is the same at both ends once TLVs are out of the way, the draft's mapping of TCP events to streams.

Read first: types.py (FlowHandler, TunnelFlow), docs/protocol.md "Flows". client_flow.py and concentrator_flow.py add the
TLVs of their ends. Data and backpressure pass straight from the stream to the flow's handler and back: when a flow opens,
the handler's methods are put in this object's place, so that a chunk of data costs no call of ours.

    TCP FIN  <-> stream FIN
    TCP RST   -> STOP_SENDING and RESET_STREAM, code 0
    TCP RST  <-  whichever of the two comes first; the other direction is then reset in answer

No call of the peer's raises here.
"""

import enum
from functools import partial

from ..quic.errors import LocalError

from .types import Cause, FlowFailed

TCP_CONNECTION_RESET = 0x00
"""The code of STOP_SENDING and RESET_STREAM on a flow (draft-piraux-quic-tunnel-tcp-00 and later)."""


class Stage(enum.IntEnum):
    PREAMBLE = 0
    """TLVs are being read."""
    PENDING = 1
    """Concentrator: the request is read and not answered."""
    OPEN = 2
    REFUSED = 3
    """Concentrator: the Error TLV is on its way."""
    OVER = 4
    """Nothing more is called; what the stream still brings is dropped."""


cdef tuple _STAGES = tuple(Stage)


cdef class Flow:
    """The common part of both ends; implements StreamHandler, and TunnelFlow for the program.

    forget: called once, when the flow needs no more attention.
    """

    def __init__(self, stream, handler, forget):
        self._stream = stream
        self._handler = handler
        self._forget = forget
        self._stage = PREAMBLE
        self.was_refused = False
        self._received_eof = False
        self._sending_complete = False
        self.consumed = stream.consumed
        self.write = stream.write
        self.data_received = partial(_discard, stream)
        self.pause_writing = handler.pause_writing
        self.resume_writing = handler.resume_writing

    # What the program calls.

    @property
    def stage(self):
        return _STAGES[self._stage]

    @property
    def id(self):
        """The stream ID."""
        return self._stream.id

    @property
    def send_buffered(self):
        return self._stream.send_buffered

    def set_handler(self, handler):
        self._handler = handler
        if self._stage != OVER:
            self._connect_handler()

    def pump(self, descriptor, on_full, on_error):
        return self._stream.pump(descriptor, on_full, on_error) if self._stage == OPEN else None

    def finish(self):
        if self._stage != OVER:
            self._stream.finish()

    def reset(self):
        if self._stage != OVER:
            self._abandon()

    # What the stream calls; data_received, pause_writing and resume_writing are above.

    def eof_received(self):
        if self._stage == OVER:
            return
        self._received_eof = True
        self._handler.eof_received()
        self._end_when_both_finished()

    def reset_received(self, code):
        if self._stage != OVER:
            self._stream.reset(TCP_CONNECTION_RESET)
            self._end(self._reset_failure())

    def stop_received(self, code):
        # RFC 9000 §3.5: STOP_SENDING is answered with RESET_STREAM, whatever has become of the flow.
        self._stream.reset(TCP_CONNECTION_RESET)
        if self._stage != OVER:
            self._stream.stop_sending(TCP_CONNECTION_RESET)
            self._end(self._reset_failure())

    def send_completed(self):
        self._sending_complete = True
        self._end_when_both_finished()

    def connection_lost(self, ended):
        if self._stage != OVER:
            self._end(FlowFailed(Cause.NETWORK_FAILURE, f"the tunnel's connection has ended: {ended}"))

    # What both ends share.

    cdef int _connect_handler(self) except -1:
        """Let data and backpressure go to the handler without a call in between."""
        self.data_received = self._handler.data_received
        self.pause_writing = self._handler.pause_writing
        self.resume_writing = self._handler.resume_writing
        # An engine may have kept the methods that stood here before.
        self._stream.set_handler(self)
        return 0

    cdef int _end_when_both_finished(self) except -1:
        # The acknowledgement of our FIN is waited for: until then the peer can still answer it with a reset.
        if self._stage == OPEN and self._received_eof and self._sending_complete:
            self._end(None)
        return 0

    cdef int _abandon(self) except -1:
        self._stream.stop_sending(TCP_CONNECTION_RESET)
        self._stream.reset(TCP_CONNECTION_RESET)
        self._become_over()
        return 0

    cdef int _end(self, error) except -1:
        handler = self._handler
        self._become_over()
        handler.flow_ended(error)
        return 0

    cdef int _become_over(self) except -1:
        self._stage = OVER
        self._handler = NO_HANDLER
        self.write = _write_nothing
        # Nothing here may lead back to the flow: thousands that only the collector finds cost more than their opening.
        self.data_received = partial(_discard, self._stream)
        self.pause_writing = self.resume_writing = _nothing
        # The program may still return credit for what it was given.
        self._stream.set_handler(self)
        self._forget(self)
        return 0

    cdef object _reset_failure(self):
        when = "" if self._stage == OPEN else "before it was open"
        return FlowFailed(Cause.RESET, when)


class NoHandler:
    """The handler of a flow that has none (any more)."""

    def connected(self, bound):
        pass

    def data_received(self, data):
        pass

    def eof_received(self):
        pass

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    def flow_ended(self, error):
        pass


NO_HANDLER = NoHandler()


def refuse_to_write(data):
    raise LocalError("a concentrator writes to a flow after it has accepted it")


def _write_nothing(data):
    """A flow that is over takes bytes and drops them, as a stream does after its session's end."""


def _nothing():
    pass


def _discard(stream, data):
    """Data that nobody wants, and STOP_SENDING so that no more of it comes."""
    stream.consumed(len(data))
    stream.stop_sending(TCP_CONNECTION_RESET)
