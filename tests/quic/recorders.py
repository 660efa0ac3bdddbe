"""Handlers that write down what is called, and consume what they are told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from quicsocks.userspace.quic.errors import Ended
from quicsocks.userspace.quic.types import PathEvent, Stream

Call = tuple[object, ...]


@dataclass
class StreamLog:
    """consume: return credit at once. calls: everything but data; data: all octets in order."""

    stream: Stream
    consume: bool = True
    calls: list[Call] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    paused: bool = False
    on_call: Callable[[Call], None] | None = None

    def __post_init__(self) -> None:
        self.stream.set_handler(self)

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data
        if self.consume:
            self.stream.consumed(len(data))

    def eof_received(self) -> None:
        self._note(("eof",))

    def reset_received(self, code: int) -> None:
        self._note(("reset", code))

    def stop_received(self, code: int) -> None:
        self._note(("stop", code))

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False
        if self.on_call is not None:
            self.on_call(("resume",))

    def send_completed(self) -> None:
        self._note(("sent",))

    def connection_lost(self, ended: Ended) -> None:
        self._note(("lost", ended.end))

    def _note(self, call: Call) -> None:
        assert not any(earlier[0] == "lost" for earlier in self.calls), f"{call} after connection_lost"
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)


@dataclass
class SessionLog:
    """take: set a StreamLog on each stream that the peer opens; consume: let those return credit at once."""

    take: bool = True
    consume: bool = True
    calls: list[Call] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    logs: dict[int, StreamLog] = field(default_factory=dict)
    datagrams: list[bytes] = field(default_factory=list)
    completed: bool = False
    ended: Ended | None = None
    max_datagram_size: int = 0
    paths: list[PathEvent] = field(default_factory=list)

    def handshake_completed(self) -> None:
        assert not self.completed
        self.completed = True
        self.calls.append(("complete",))

    def stream_opened(self, stream: Stream) -> None:
        assert self.completed
        assert self.ended is None
        self.streams.append(stream)
        self.calls.append(("opened", stream.id))
        if self.take:
            self.logs[stream.id] = StreamLog(stream, self.consume)

    def datagram_received(self, data: bytes, ecn: int) -> None:
        assert self.completed
        self.datagrams.append(data)

    def max_datagram_size_changed(self, size: int) -> None:
        self.max_datagram_size = size

    def path_changed(self, event: PathEvent) -> None:
        self.paths.append(event)

    def session_ended(self, ended: Ended) -> None:
        assert self.ended is None
        self.ended = ended
        self.calls.append(("ended", ended.end))
