"""Flows that always have something to send, and flows that send now and then, over simulated native sessions: how much of
each arrives, and how late."""

from __future__ import annotations

from dataclasses import replace

from quicsocks.userspace.quic.errors import Ended
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import (
    DialConfig,
    Limits,
    ListenConfig,
    PathEvent,
    Priority,
    Session,
    SessionHandler,
    Stream,
    Trust,
)

from ..quic.keys import self_signed
from .link import Conditions
from .pair import Pair

PIECE = memoryview(bytes(1 << 16))
ALPN = "sim/1"


class Handler:
    """A stream that is of no interest but for what it does. Implements ``StreamHandler``."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        stream.set_handler(self)

    def data_received(self, data: bytes) -> None:
        raise AssertionError("data the wrong way")

    def eof_received(self) -> None:
        raise AssertionError("an end of what has none")

    def reset_received(self, code: int) -> None:
        raise AssertionError(f"reset with {code}")

    def stop_received(self, code: int) -> None:
        raise AssertionError(f"stopped with {code}")

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None: ...


class Bulk(Handler):
    """Sends as much as there is room for."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._paused = False
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        while not self._paused:
            self.stream.write(PIECE)


class Messages(Handler):
    """Sends size octets whenever it is told to. sent: when, of each."""

    def __init__(self, pair: Pair, stream: Stream, size: int) -> None:
        super().__init__(stream)
        self.size = size
        self.sent: list[float] = []
        self._pair = pair

    def send(self) -> None:
        self.sent.append(self._pair.now)
        self.stream.write(bytes(self.size))


class Sink(Handler):
    """Takes what comes. arrivals: (when, octets so far), of each piece, when ``keep`` is set."""

    def __init__(self, pair: Pair, stream: Stream, keep: bool) -> None:
        super().__init__(stream)
        self.received = 0
        self.arrivals: list[tuple[float, int]] = []
        self._pair, self._keep = pair, keep

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.stream.consumed(len(data))
        if self._keep:
            self.arrivals.append((self._pair.now, self.received))


class End:
    """One end of a session; sinks: for the streams that the peer opens, by ID. Implements ``SessionHandler``."""

    def __init__(self, pair: Pair, keep: bool) -> None:
        self.sinks: dict[int, Sink] = {}
        self.completed = False
        self._pair, self._keep = pair, keep

    def handshake_completed(self) -> None:
        self.completed = True

    def stream_opened(self, stream: Stream) -> None:
        self.sinks[stream.id] = Sink(self._pair, stream, self._keep)

    def datagram_received(self, data: bytes, ecn: int) -> None: ...

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None: ...

    def session_ended(self, ended: Ended) -> None:
        raise AssertionError(str(ended))


class Streaming:
    """One session whose client sends; complete when it has been made. keep: every arrival at the server."""

    def __init__(
        self,
        up: Conditions,
        down: Conditions | None = None,
        *,
        congestion: str = "bbr",
        limits: Limits | None = None,
        seed: int = 0,
        keep: bool = False,
    ) -> None:
        limits = replace(limits if limits is not None else Limits(), congestion=congestion)
        identity = self_signed("ed25519")
        self.pair = Pair(seed, up, down, ("native", "native"))
        self.client = End(self.pair, keep)
        self.server = End(self.pair, keep)
        self.pair.listen(
            ListenConfig((ALPN,), identity.certificate, identity.private_key, bytes(32), limits), self._accept
        )
        self.session = self.pair.dial(
            DialConfig((ALPN,), Trust("server.example", (identity.pin,)), limits), self.client
        )
        assert isinstance(self.session, NativeSession)
        self.pair.drive(lambda: self.client.completed)

    def bulk(self, priority: Priority = Priority.NORMAL) -> int:
        """Begin to send; the stream's ID."""
        return self.bulk_stream(priority).id

    def bulk_stream(self, priority: Priority = Priority.NORMAL) -> Stream:
        """The same; the stream itself."""
        return Bulk(self.session.open_stream(bidirectional=False, priority=priority)).stream

    def messages(self, size: int, priority: Priority = Priority.NORMAL) -> Messages:
        return Messages(self.pair, self.session.open_stream(bidirectional=False, priority=priority), size)

    def received(self) -> int:
        """Octets that streams have brought to the server."""
        return sum(sink.received for sink in self.server.sinks.values())

    def _accept(self, session: Session) -> SessionHandler:
        return self.server
