"""The concentrator's end of a flow: a request is read, the program dials and answers, then flow.py takes over.

Read first: flow.py, preamble.py, docs/protocol.md "Errors". A request that breaks the protocol is answered here with the
Error TLV that the draft names, End and FIN; the connection lives on. What a client sends behind its request waits here,
without credit, until the program has set a handler.
"""

from __future__ import annotations

from typing import Protocol

from ..quic.errors import Ended, LocalError
from ..quic.types import Stream
from .causes import error_from_cause
from .flow import NO_HANDLER, TCP_CONNECTION_RESET, Flow, Stage, refuse_to_write
from .preamble import PLAIN_REQUEST, RequestReader, answer_accepted, answer_error, plain_request
from .tlv import TLVError, Wire
from .types import BoundAddress, Cause, Destination, FlowFailed, FlowHandler


class FlowOwner(Protocol):
    """What a flow asks of its tunnel."""

    def admit(self, size: int) -> bool:
        """Whether size more octets of a flow may be held or looked at: before authentication there is a limit."""

    def request_complete(self, flow: ConcentratorFlow) -> None:
        """The request is read: tell the program, refuse it, or wait for authentication."""

    def flow_left_pending(self, flow: ConcentratorFlow, *, accepted: bool) -> None:
        """The request is answered, or needs no answer any more."""

    def flow_over(self, flow: Flow) -> None:
        """The flow needs no more attention."""

    def request_broken(self, error: TLVError) -> None:
        """A request was answered with a protocol error: for the counters."""


class ConcentratorFlow(Flow):
    """A flow that a client opened; implements IncomingFlow."""

    __slots__ = ("_early", "_early_eof", "_early_pause", "_failure", "_owner", "_reader", "_wire", "destination")

    destination: Destination

    def __init__(self, stream: Stream, wire: Wire, owner: FlowOwner) -> None:
        super().__init__(stream, NO_HANDLER, owner.flow_over)
        self._owner = owner
        self._wire = wire
        self._reader: RequestReader | None = None
        self.destination = _NOWHERE
        self._early: list[bytes] = []
        self._early_eof = False
        self._early_pause = False
        self._failure: FlowFailed | None = None
        """Why the flow was over before it had a handler."""
        self.write = refuse_to_write
        self.data_received = self._receive_request
        self.pause_writing = self._pause_early
        self.resume_writing = self._resume_early
        stream.set_handler(self)

    # What the program calls.

    def set_handler(self, handler: FlowHandler) -> None:
        """What has arrived so far is delivered before this returns."""
        if self.stage is Stage.OVER or self.stage is Stage.REFUSED:
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

    def accept(self, bound: BoundAddress) -> None:
        """Nothing when the flow is over by now. Raises LocalError when it was accepted before."""
        if self.stage in (Stage.OVER, Stage.REFUSED):
            return
        if self.stage is not Stage.PENDING:
            raise LocalError(f"flow {self.id} cannot be accepted in stage {self.stage.name.lower()}")
        self._stream.write(answer_accepted(bound, self._wire))
        self.stage = Stage.OPEN
        self.write = self._stream.write
        self._owner.flow_left_pending(self, accepted=True)

    def refuse(self, cause: Cause, detail: str = "", icmp: bytes = b"") -> None:
        """Nothing when the flow is over by now; ``flow_ended`` is not called. Raises LocalError after ``accept``."""
        if self.stage in (Stage.OVER, Stage.REFUSED):
            return
        if self.stage is Stage.OPEN:
            raise LocalError(f"flow {self.id} is accepted and can only be reset")
        self._answer_error(*error_from_cause(cause, icmp, self._wire))

    def finish(self) -> None:
        if self.stage is Stage.PREAMBLE or self.stage is Stage.PENDING:
            raise LocalError("a concentrator finishes a flow after it has accepted it")
        super().finish()

    def reset(self) -> None:
        # A refused flow is over for the program, while its Error TLV is still on its way.
        if self.stage is not Stage.REFUSED:
            super().reset()

    # What the stream calls.

    def eof_received(self) -> None:
        if self.stage is Stage.PREAMBLE:
            self._received_eof = True
            try:
                (self._reader or RequestReader(self._wire)).receive_eof()
            except TLVError as error:
                self._answer_broken(error)
        elif self.stage is Stage.REFUSED:
            self._received_eof = True
        elif self.stage is not Stage.OVER and self._handler is NO_HANDLER:
            self._early_eof = True
        else:
            super().eof_received()

    def reset_received(self, code: int) -> None:
        if self.stage is Stage.REFUSED:
            # The client's answer to our Error TLV, or a reset that crossed it: the Error still has to arrive.
            self._received_eof = True
        else:
            super().reset_received(code)

    def send_completed(self) -> None:
        if self.stage is Stage.REFUSED:
            # Not earlier: a STOP_SENDING that overtook the Error TLV would be taken for a TCP RST. When the client has
            # ended its direction nothing is sent, but data that the program was given and kept is credited.
            self._stream.stop_sending(TCP_CONNECTION_RESET)
            self._become_over()
        else:
            super().send_completed()

    def stop_received(self, code: int) -> None:
        if self.stage is Stage.REFUSED:
            self._stream.reset(TCP_CONNECTION_RESET)
            self._become_over()
        else:
            super().stop_received(code)

    def connection_lost(self, ended: Ended) -> None:
        if self.stage is Stage.REFUSED:
            self._become_over()
        else:
            super().connection_lost(ended)

    # The request.

    def _receive_request(self, data: bytes) -> None:
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
        self.stage = Stage.PENDING
        self.data_received = self._hold
        self._stream.set_handler(self)
        if rest:
            self._early.append(rest)
        self._owner.request_complete(self)

    def _hold(self, data: bytes) -> None:
        """Data behind a request that has no handler yet; its credit is kept back."""
        if self._owner.admit(len(data)):
            self._early.append(data)
        else:
            self._stream.consumed(len(data))
            self.refuse(Cause.NOT_AUTHENTICATED)

    def _answer_broken(self, error: TLVError) -> None:
        self._owner.request_broken(error)
        self._answer_error(int(error.cause), error.payload)

    def _answer_error(self, code: int, payload: bytes) -> None:
        was_pending = self.stage is Stage.PENDING
        self._stream.write(answer_error(code, payload))
        self._stream.finish()
        self.stage = Stage.REFUSED
        self.was_refused = True
        self._handler = NO_HANDLER
        self.data_received = self._drop
        self._stream.set_handler(self)
        for data in self._early:
            self._stream.consumed(len(data))
        self._early.clear()
        if was_pending:
            self._owner.flow_left_pending(self, accepted=False)

    def _drop(self, data: bytes) -> None:
        self._stream.consumed(len(data))

    def _end(self, error: FlowFailed | None) -> None:
        if self._handler is NO_HANDLER:
            self._failure = error
        super()._end(error)

    def _become_over(self) -> None:
        was_pending = self.stage is Stage.PENDING
        for data in self._early:
            self._stream.consumed(len(data))
        self._early.clear()
        super()._become_over()
        if was_pending:
            self._owner.flow_left_pending(self, accepted=False)

    def _pause_early(self) -> None:
        self._early_pause = True

    def _resume_early(self) -> None:
        self._early_pause = False


_NOWHERE = Destination("::", 0)
