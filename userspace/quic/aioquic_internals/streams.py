"""The halves of aioquic's streams, taught to tell their connection when they have something to send, and the events
that come up beside aioquic's own.

Read aioquic.quic.stream first. Part of the guarded room; see ``__init__``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from ..types import Priority


@dataclass
class StreamOpened(events.QuicEvent):
    """The peer opened a stream."""

    stream: QuicStream


@dataclass
class SendFinished(events.QuicEvent):
    """All of a stream's data and its FIN, or its RESET_STREAM, have been acknowledged."""

    stream_id: int


@dataclass
class SendDrained(events.QuicEvent):
    """A stream's unsent data has fallen to ``resume_below`` or less."""

    stream_id: int


@dataclass
class DatagramSizeChanged(events.QuicEvent):
    """Datagrams of another size fit now."""


class Owner(Protocol):
    """What the halves tell their connection."""

    def activate(self, stream: QuicStream) -> None: ...

    def append_event(self, event: events.QuicEvent) -> None: ...


class Sender(QuicStreamSender):
    """The sending part of a stream that tells its connection when it has something to send."""

    def __init__(self, connection: Owner, stream: QuicStream, writable: bool) -> None:
        super().__init__(stream_id=stream.stream_id, writable=writable)
        self.priority = Priority.NORMAL
        self.queued = False
        self.resume_below = -1
        """Report ``SendDrained`` once when no more octets than this are unsent; -1: do not."""
        self._connection = connection
        self._stream = stream
        self._reported = False

    @property
    def unsent(self) -> int:
        """Octets never put in a packet so far."""
        return self._buffer_stop - self.highest_offset if self._reset_error_code is None else 0

    @property
    def has_work(self) -> bool:
        return self.reset_pending or (self._reset_error_code is None and (len(self._pending) > 0 or self._pending_eof))

    def first_pending(self) -> int | None:
        """Offset of the first octet that waits to be sent or sent again; None when there is only a FIN or nothing."""
        return self._pending[0].start if len(self._pending) else None

    def write(self, data: bytes | bytearray | memoryview, end_stream: bool = False) -> None:
        super().write(data, end_stream)  # type: ignore[arg-type] # extends a bytearray: any buffer will do
        self._connection.activate(self._stream)

    def reset(self, error_code: int) -> None:
        """aioquic calls this to answer STOP_SENDING; our handlers answer with ``abort``."""

    def abort(self, code: int) -> None:
        """Send RESET_STREAM, and drop what is buffered."""
        super().reset(code)
        if self._reset_error_code is not None:
            self._buffer = bytearray()
            self._pending = RangeSet()
            self._connection.activate(self._stream)

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:
        super().on_data_delivery(delivery, start, stop, fin)
        if delivery is not QuicDeliveryState.ACKED:
            self._connection.activate(self._stream)
        elif self.is_finished:
            self._report()

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        super().on_reset_delivery(delivery)
        if self.is_finished:
            self._report()
        else:
            self._connection.activate(self._stream)

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            self._connection.append_event(SendFinished(stream_id_of(self._stream)))


class Receiver(QuicStreamReceiver):
    """The receiving part of a stream; like ``Sender``."""

    def __init__(self, connection: Owner, stream: QuicStream, readable: bool) -> None:
        super().__init__(stream_id=stream.stream_id, readable=readable)
        self._connection = connection
        self._stream = stream

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        super().stop(error_code)
        self._connection.activate(self._stream)

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        super().on_stop_sending_delivery(delivery)
        if self.stop_pending:
            self._connection.activate(self._stream)


class Streams(dict[int, QuicStream]):
    """aioquic's table of streams; has every stream that is created adopted."""

    def __init__(self, adopt: Callable[[QuicStream], None]) -> None:
        super().__init__()
        self._adopt = adopt

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        super().__setitem__(stream_id, stream)
        self._adopt(stream)


def sender_of(stream: QuicStream) -> Sender:
    sender = stream.sender
    assert type(sender) is Sender
    return sender


def receiver_of(stream: QuicStream) -> Receiver:
    receiver = stream.receiver
    assert type(receiver) is Receiver
    return receiver


def stream_id_of(stream: QuicStream) -> int:
    assert stream.stream_id is not None
    return stream.stream_id
