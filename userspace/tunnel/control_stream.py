"""The control stream as either end holds it: messages out, messages in, and what its end means.

Read first: control.py, docs/protocol.md "Control stream". The stream lives as long as the session; losing it is a
protocol violation, except that a concentrator finishes it behind AUTH_FAILED.
"""

from __future__ import annotations

from typing import Protocol

from ..quic.errors import Ended, PeerError
from ..quic.types import Stream
from .control import ControlReader, Message, encode_message


class ControlOwner(Protocol):
    """What the control stream calls."""

    def control_message(self, message: Message) -> None:
        """A known message. May raise PeerError, which becomes a ``violation``."""

    def control_closed(self, how: str) -> None:
        """The peer has ended its direction, or will not read ours."""

    def control_sent(self) -> None:
        """All that was sent before ``finish`` has been acknowledged."""

    def control_ignored(self, count: int) -> None:
        """So many messages of unknown type have been skipped."""

    def violation(self, error: PeerError) -> None:
        """The peer broke the protocol: the session is to be closed."""


class ControlStream:
    """Implements StreamHandler."""

    __slots__ = ("_open", "_owner", "_reader", "_stream")

    def __init__(self, stream: Stream, owner: ControlOwner, largest: int) -> None:
        self._stream = stream
        self._owner = owner
        self._reader = ControlReader(largest)
        self._open = True
        stream.set_handler(self)

    def send(self, *messages: Message) -> None:
        """In one write. The few messages that exist cannot fill a buffer, so backpressure is left aside."""
        if self._open:
            self._stream.write(b"".join(map(encode_message, messages)))

    def finish(self) -> None:
        self._stream.finish()

    def allow_messages_of(self, largest: int) -> None:
        self._reader.largest = largest

    # StreamHandler.

    def data_received(self, data: bytes) -> None:
        self._stream.consumed(len(data))
        self._reader.receive_data(data)
        ignored = self._reader.ignored
        try:
            while self._open and (message := self._reader.next_message()) is not None:
                self._owner.control_message(message)
        except PeerError as error:
            self._open = False
            self._owner.violation(error)
        if self._reader.ignored != ignored:
            self._owner.control_ignored(self._reader.ignored - ignored)

    def eof_received(self) -> None:
        self._close("finished")

    def reset_received(self, code: int) -> None:
        self._close("reset")

    def stop_received(self, code: int) -> None:
        self._stream.reset(code)
        self._close("refused")

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def send_completed(self) -> None:
        self._owner.control_sent()

    def connection_lost(self, ended: Ended) -> None:
        self._open = False

    def _close(self, how: str) -> None:
        if self._open:
            self._open = False
            self._owner.control_closed(how)
