"""The concentrator's end of a flow: a request is read, the program dials and answers, then flow.py takes over.

Read first: flow.py, preamble.py, docs/protocol.md "Errors". A request that breaks the protocol is answered here with the
Error TLV that the draft names, End and FIN; the connection lives on. What a client sends behind its request waits here,
without credit, until the program has set a handler.
"""

from ..quic.errors import LocalError

from .flow cimport OPEN, OVER, PENDING, PREAMBLE, REFUSED, Flow

from .causes import error_from_cause
from .flow import NO_HANDLER, TCP_CONNECTION_RESET, refuse_to_write
from .preamble import PLAIN_REQUEST, RequestReader, answer_accepted, answer_error, plain_request
from .tlv import TLVError
from .types import Cause, Destination


cdef class ConcentratorFlow(Flow):
    """A flow that a client opened; implements IncomingFlow."""

    cdef readonly object destination
    cdef object _owner
    cdef object _wire
    cdef object _reader
    cdef list _early
    cdef bint _early_eof
    cdef bint _early_pause
    cdef object _failure            # Why the flow was over before it had a handler.

    def __init__(self, stream, wire, owner):
        Flow.__init__(self, stream, NO_HANDLER, owner.flow_over)
        self._owner = owner
        self._wire = wire
        self._reader = None
        self.destination = _NOWHERE
        self._early = []
        self._early_eof = False
        self._early_pause = False
        self._failure = None
        self.write = refuse_to_write
        self.data_received = self._receive_request
        self.pause_writing = self._pause_early
        self.resume_writing = self._resume_early
        stream.set_handler(self)

    # What the program calls.

    def set_handler(self, handler):
        """What has arrived so far is delivered before this returns."""
        if self._stage == OVER or self._stage == REFUSED:
            failure, self._failure = self._failure, None
            if failure is not None:
                handler.flow_ended(failure)
            return
        self._handler = handler
        self._connect_handler()
        early, self._early = self._early, []
        early_eof, self._early_eof = self._early_eof, False
        if self._early_pause:
            self._early_pause = False
            handler.pause_writing()
        for data in early:
            self.data_received(data)
        if early_eof:
            self.eof_received()

    def accept(self, bound):
        """Nothing when the flow is over by now. Raises LocalError when it was accepted before."""
        if self._stage == OVER or self._stage == REFUSED:
            return
        if self._stage != PENDING:
            raise LocalError(f"flow {self.id} cannot be accepted in stage {self.stage.name.lower()}")
        self._stream.write(answer_accepted(bound, self._wire))
        self._stage = OPEN
        self.write = self._stream.write
        self._owner.flow_left_pending(self, accepted=True)

    def refuse(self, cause, detail="", icmp=b""):
        """Nothing when the flow is over by now; ``flow_ended`` is not called. Raises LocalError after ``accept``."""
        if self._stage == OVER or self._stage == REFUSED:
            return
        if self._stage == OPEN:
            raise LocalError(f"flow {self.id} is accepted and can only be reset")
        code, payload = error_from_cause(cause, icmp, self._wire)
        self._answer_error(code, payload)

    def finish(self):
        if self._stage == PREAMBLE or self._stage == PENDING:
            raise LocalError("a concentrator finishes a flow after it has accepted it")
        Flow.finish(self)

    def reset(self):
        # A refused flow is over for the program, while its Error TLV is still on its way.
        if self._stage != REFUSED:
            Flow.reset(self)

    # What the stream calls.

    def eof_received(self):
        if self._stage == PREAMBLE:
            self._received_eof = True
            try:
                (self._reader or RequestReader(self._wire)).receive_eof()
            except TLVError as error:
                self._answer_broken(error)
        elif self._stage == REFUSED:
            self._received_eof = True
        elif self._stage != OVER and self._handler is NO_HANDLER:
            self._early_eof = True
        else:
            Flow.eof_received(self)

    def reset_received(self, code):
        if self._stage == REFUSED:
            # The client's answer to our Error TLV, or a reset that crossed it: the Error still has to arrive.
            self._received_eof = True
        else:
            Flow.reset_received(self, code)

    def send_completed(self):
        if self._stage == REFUSED:
            # Not earlier: a STOP_SENDING that overtook the Error TLV would be taken for a TCP RST. When the client has
            # ended its direction nothing is sent, but data that the program was given and kept is credited.
            self._stream.stop_sending(TCP_CONNECTION_RESET)
            self._become_over()
        else:
            Flow.send_completed(self)

    def stop_received(self, code):
        if self._stage == REFUSED:
            self._stream.reset(TCP_CONNECTION_RESET)
            self._become_over()
        else:
            Flow.stop_received(self, code)

    def connection_lost(self, ended):
        if self._stage == REFUSED:
            self._become_over()
        else:
            Flow.connection_lost(self, ended)

    # The request.

    def _receive_request(self, data):
        if not self._owner.admit(len(data)):
            self._stream.consumed(len(data))
            self.refuse(Cause.NOT_AUTHENTICATED)
            return
        reader = self._reader
        destination = plain_request(data, self._wire) if reader is None else None
        if destination is not None:
            self.destination = destination
            rest = data[PLAIN_REQUEST:]
            self._stream.consumed(PLAIN_REQUEST)
        else:
            if reader is None:
                reader = self._reader = RequestReader(self._wire)
            try:
                complete = reader.receive_data(data)
            except TLVError as error:
                self._stream.consumed(len(data))
                self._answer_broken(error)
                return
            rest = reader.rest
            self._stream.consumed(len(data) - len(rest))
            if not complete:
                return
            assert reader.destination is not None
            self.destination = reader.destination
        self._stage = PENDING
        self.data_received = self._hold
        self._stream.set_handler(self)
        if rest:
            self._early.append(rest)
        self._owner.request_complete(self)

    def _hold(self, data):
        """Data behind a request that has no handler yet; its credit is kept back."""
        if self._owner.admit(len(data)):
            self._early.append(data)
        else:
            self._stream.consumed(len(data))
            self.refuse(Cause.NOT_AUTHENTICATED)

    cdef int _answer_broken(self, error) except -1:
        self._owner.request_broken(error)
        self._answer_error(int(error.cause), error.payload)
        return 0

    cdef int _answer_error(self, code, payload) except -1:
        was_pending = self._stage == PENDING
        self._stream.write(answer_error(code, payload))
        self._stream.finish()
        self._stage = REFUSED
        self.was_refused = True
        self._handler = NO_HANDLER
        self.data_received = self._drop
        self._stream.set_handler(self)
        for data in self._early:
            self._stream.consumed(len(data))
        self._early.clear()
        if was_pending:
            self._owner.flow_left_pending(self, accepted=False)
        return 0

    def _drop(self, data):
        self._stream.consumed(len(data))

    cdef int _end(self, error) except -1:
        if self._handler is NO_HANDLER:
            self._failure = error
        Flow._end(self, error)
        return 0

    cdef int _become_over(self) except -1:
        was_pending = self._stage == PENDING
        for data in self._early:
            self._stream.consumed(len(data))
        self._early.clear()
        Flow._become_over(self)
        if was_pending:
            self._owner.flow_left_pending(self, accepted=False)
        return 0

    def _pause_early(self):
        self._early_pause = True

    def _resume_early(self):
        self._early_pause = False


_NOWHERE = Destination("::", 0)
