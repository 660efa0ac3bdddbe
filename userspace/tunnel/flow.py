"""One flow: what is the same at both ends once TLVs are out of the way, the draft's mapping of TCP events to streams.

Read first: types.py (FlowHandler, TunnelFlow), docs/protocol.md "Flows". client_flow.py and concentrator_flow.py add the
TLVs of their ends. Data and backpressure pass straight from the stream to the flow's handler and back: when a flow opens,
the handler's methods are put in this object's place, so that a chunk of data costs no call of ours.

    TCP FIN  <-> stream FIN
    TCP RST   -> STOP_SENDING and RESET_STREAM, code 0
    TCP RST  <-  whichever of the two comes first; the other direction is then reset in answer

No call of the peer's raises here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..quic.errors import Ended, LocalError
from ..quic.types import Pump, Stream
from .types import BoundAddress, Cause, FlowFailed, FlowHandler

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


class Receive(Protocol):
    def __call__(self, data: bytes) -> None: ...


class Write(Protocol):
    def __call__(self, data: bytes | bytearray | memoryview) -> None: ...


class Consume(Protocol):
    def __call__(self, size: int) -> None: ...


class Flow:
    """The common part of both ends; implements StreamHandler, and TunnelFlow for the program.

    forget: called once, when the flow needs no more attention.
    """

    __slots__ = (
        "_forget",
        "_handler",
        "_received_eof",
        "_sending_complete",
        "_stream",
        "consumed",
        "data_received",
        "pause_writing",
        "resume_writing",
        "stage",
        "was_refused",
        "write",
    )

    # These are the hot path: they are replaced as the flow goes from stage to stage.
    data_received: Receive
    pause_writing: Callable[[], None]
    resume_writing: Callable[[], None]
    write: Write
    consumed: Consume

    def __init__(self, stream: Stream, handler: FlowHandler, forget: Callable[[Flow], None]) -> None:
        self._stream = stream
        self._handler = handler
        self._forget = forget
        self.stage = Stage.PREAMBLE
        self.was_refused = False
        """Whether an Error TLV was its end."""
        self._received_eof = False
        self._sending_complete = False
        self.consumed = stream.consumed
        self.write = stream.write
        self.data_received = partial(_discard, stream)
        self.pause_writing = handler.pause_writing
        self.resume_writing = handler.resume_writing

    # What the program calls.

    @property
    def id(self) -> int:
        """The stream ID."""
        return self._stream.id

    @property
    def send_buffered(self) -> int:
        return self._stream.send_buffered

    def set_handler(self, handler: FlowHandler) -> None:
        self._handler = handler
        if self.stage is not Stage.OVER:
            self._connect_handler()

    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> Pump | None:
        return self._stream.pump(descriptor, on_full, on_error) if self.stage is Stage.OPEN else None

    def finish(self) -> None:
        if self.stage is not Stage.OVER:
            self._stream.finish()

    def reset(self) -> None:
        if self.stage is not Stage.OVER:
            self._abandon()

    # What the stream calls; data_received, pause_writing and resume_writing are above.

    def eof_received(self) -> None:
        if self.stage is Stage.OVER:
            return
        self._received_eof = True
        self._handler.eof_received()
        self._end_when_both_finished()

    def reset_received(self, code: int) -> None:
        if self.stage is not Stage.OVER:
            self._stream.reset(TCP_CONNECTION_RESET)
            self._end(self._reset_failure())

    def stop_received(self, code: int) -> None:
        # RFC 9000 §3.5: STOP_SENDING is answered with RESET_STREAM, whatever has become of the flow.
        self._stream.reset(TCP_CONNECTION_RESET)
        if self.stage is not Stage.OVER:
            self._stream.stop_sending(TCP_CONNECTION_RESET)
            self._end(self._reset_failure())

    def send_completed(self) -> None:
        self._sending_complete = True
        self._end_when_both_finished()

    def connection_lost(self, ended: Ended) -> None:
        if self.stage is not Stage.OVER:
            self._end(FlowFailed(Cause.NETWORK_FAILURE, f"the tunnel's connection has ended: {ended}"))

    # What both ends share.

    def _connect_handler(self) -> None:
        """Let data and backpressure go to the handler without a call in between."""
        self.data_received = self._handler.data_received
        self.pause_writing = self._handler.pause_writing
        self.resume_writing = self._handler.resume_writing
        # An engine may have kept the methods that stood here before.
        self._stream.set_handler(self)

    def _end_when_both_finished(self) -> None:
        # The acknowledgement of our FIN is waited for: until then the peer can still answer it with a reset.
        if self.stage is Stage.OPEN and self._received_eof and self._sending_complete:
            self._end(None)

    def _abandon(self) -> None:
        self._stream.stop_sending(TCP_CONNECTION_RESET)
        self._stream.reset(TCP_CONNECTION_RESET)
        self._become_over()

    def _end(self, error: FlowFailed | None) -> None:
        handler = self._handler
        self._become_over()
        handler.flow_ended(error)

    def _become_over(self) -> None:
        self.stage = Stage.OVER
        self._handler = NO_HANDLER
        self.write = _write_nothing
        # Nothing here may lead back to the flow: thousands that only the collector finds cost more than their opening.
        self.data_received = partial(_discard, self._stream)
        self.pause_writing = self.resume_writing = _nothing
        # The program may still return credit for what it was given.
        self._stream.set_handler(self)
        self._forget(self)

    def _reset_failure(self) -> FlowFailed:
        when = "" if self.stage is Stage.OPEN else "before it was open"
        return FlowFailed(Cause.RESET, when)


class NoHandler:
    """The handler of a flow that has none (any more)."""

    __slots__ = ()

    def connected(self, bound: BoundAddress) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def flow_ended(self, error: FlowFailed | None) -> None: ...


NO_HANDLER = NoHandler()


def refuse_to_write(data: bytes | bytearray | memoryview) -> None:
    raise LocalError("a concentrator writes to a flow after it has accepted it")


def _write_nothing(data: bytes | bytearray | memoryview) -> None:
    """A flow that is over takes bytes and drops them, as a stream does after its session's end."""


def _nothing() -> None: ...


def _discard(stream: Stream, data: bytes) -> None:
    """Data that nobody wants, and STOP_SENDING so that no more of it comes."""
    stream.consumed(len(data))
    stream.stop_sending(TCP_CONNECTION_RESET)
