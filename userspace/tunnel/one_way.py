"""All unidirectional streams of a tunnel: the first octet of each names its type.

Read first: docs/protocol.md "Streams"; port_mapping.py, the one type there is. An unknown type, a second stream of
one type, or a stream that breaks its own protocol is refused with STOP_SENDING; the session lives on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..quic.errors import Ended, LocalError, PeerError
from ..quic.types import Priority, Session, Stream
from .port_mapping import STREAM_TYPE, MappingReader, MappingType, refusal


class StreamCode(enum.IntEnum):
    """Codes of STOP_SENDING and RESET_STREAM on streams that are not flows."""

    REFUSED = 0x01
    """A stream type that is not known, or not wanted here."""
    MALFORMED = 0x02
    """A stream that broke its own protocol."""


@dataclass(slots=True)
class OneWayCounters:
    refused: int = 0
    malformed: int = 0
    mappings_refused: int = 0


class OneWayStreams:
    """answers: whether Port Mapping Requests are answered, as a concentrator must."""

    def __init__(self, session: Session, *, answers: bool) -> None:
        self.counters = OneWayCounters()
        self._session = session
        self._answers = answers
        self._sender: _Sender | None = None
        self._receiving = False

    def open_port_mapping(self) -> None:
        """Open our 'P' stream, as ``qt`` demands of both ends at once."""
        if self._sender is None:
            self._sender = _Sender(self._session)

    def opened(self, stream: Stream) -> None:
        """The peer opened stream."""
        stream.set_handler(_Receiver(stream, self))

    def _take(self, kind: int) -> MappingReader | None:
        if kind != STREAM_TYPE or self._receiving:
            return None
        self._receiving = True
        return MappingReader()

    def _port_mapping_sender(self) -> _Sender:
        self.open_port_mapping()
        assert self._sender is not None
        return self._sender


class _Receiver:
    """A unidirectional stream of the peer; implements StreamHandler."""

    __slots__ = ("_owner", "_reader", "_refused", "_stream", "_unread")

    def __init__(self, stream: Stream, owner: OneWayStreams) -> None:
        self._stream = stream
        self._owner = owner
        self._reader: MappingReader | None = None
        self._refused = False
        self._unread = 0
        """Octets whose credit is kept back while the answers to them cannot be written."""

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._stream.consumed(len(data))
            return
        self._unread += len(data)
        if self._reader is None:
            self._reader = self._owner._take(data[0])
            data = data[1:]
            if self._reader is None:
                self._owner.counters.refused += 1
                self._refuse(StreamCode.REFUSED)
                return
        self._reader.receive_data(data)
        self.read_on()

    def read_on(self) -> None:
        """Handle what is there, as long as answers can be written."""
        assert self._reader is not None
        try:
            while not (blocked := self._blocked()) and (tlv := self._reader.next_tlv()) is not None:
                if tlv.kind is MappingType.REQUEST and self._owner._answers:
                    self._owner.counters.mappings_refused += 1
                    self._owner._port_mapping_sender().send(refusal(tlv))
        except PeerError:
            self._owner.counters.malformed += 1
            self._refuse(StreamCode.MALFORMED)
            return
        if not blocked:
            self._stream.consumed(self._unread)
            self._unread = 0

    def _blocked(self) -> bool:
        sender = self._owner._sender
        if sender is None or not sender.paused:
            return False
        sender.waiting = self
        return True

    def _refuse(self, code: StreamCode) -> None:
        self._refused = True
        self._stream.consumed(self._unread)
        self._unread = 0
        self._stream.stop_sending(code)

    def eof_received(self) -> None: ...

    def reset_received(self, code: int) -> None:
        self._refused = True

    def stop_received(self, code: int) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None:
        self._refused = True


class _Sender:
    """Our own 'P' stream; implements StreamHandler."""

    __slots__ = ("_stopped", "_stream", "paused", "waiting")

    def __init__(self, session: Session) -> None:
        self.paused = False
        self.waiting: _Receiver | None = None
        self._stopped = False
        try:
            self._stream = session.open_stream(bidirectional=False, priority=Priority.CONTROL)
        except LocalError:
            # The peer takes no such stream, or the session is over: then there is nobody to answer.
            self._stopped = True
            return
        self._stream.set_handler(self)
        self._stream.write(bytes((STREAM_TYPE,)))

    def send(self, data: bytes) -> None:
        if not self._stopped:
            self._stream.write(data)

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def reset_received(self, code: int) -> None: ...

    def stop_received(self, code: int) -> None:
        self._stopped = True
        self._stream.reset(code)
        self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        waiting, self.waiting = self.waiting, None
        if waiting is not None and not waiting._refused:
            waiting.read_on()

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None:
        self._stopped = True


class RefusedStream:
    """A bidirectional stream that the peer had no reason to open; implements StreamHandler."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        stream.set_handler(self)
        stream.stop_sending(StreamCode.REFUSED)
        stream.reset(StreamCode.REFUSED)

    def data_received(self, data: bytes) -> None:
        self._stream.consumed(len(data))

    def eof_received(self) -> None: ...

    def reset_received(self, code: int) -> None: ...

    def stop_received(self, code: int) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None: ...
