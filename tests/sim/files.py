"""Files over simulated connections, as HTTP/0.9 has it: a name and FIN on a stream, the file's octets and FIN back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quicsocks.userspace.quic.errors import Ended
from quicsocks.userspace.quic.types import (
    DialConfig,
    Limits,
    ListenConfig,
    PathEvent,
    Session,
    SessionHandler,
    Stream,
    Trust,
)

from ..quic.keys import self_signed
from .pair import Pair

PIECE = 1 << 16
ALPN = "hq-interop"


def make_files(*sizes: int) -> dict[str, bytes]:
    octets = random.Random(1)
    return {f"file-{number}": octets.randbytes(size) for number, size in enumerate(sizes)}


class Exchange:
    """One end of a stream: sends data and FIN, keeps what comes. Implements ``StreamHandler``."""

    def __init__(self, stream: Stream, data: bytes | None = None, files: Mapping[str, bytes] | None = None) -> None:
        self.stream = stream
        self.data = bytearray()
        self.complete = False
        self.failure = ""
        self._files = files
        self._unsent = memoryview(b"")
        self._finishing = False
        self._paused = False
        stream.set_handler(self)
        if data is not None:
            self._send(data)

    def _send(self, data: bytes) -> None:
        self._unsent, self._finishing = memoryview(data), True
        self._feed()

    def _feed(self) -> None:
        while self._unsent and not self._paused:
            piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
            self.stream.write(piece)
        if self._finishing and not self._unsent:
            self._finishing = False
            self.stream.finish()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.stream.consumed(len(data))

    def eof_received(self) -> None:
        self.complete = True
        if self._files is not None:
            self._send(self._files[self.data.decode()])

    def reset_received(self, code: int) -> None:
        self.failure = f"reset {code}"

    def stop_received(self, code: int) -> None:
        self.failure = f"stopped {code}"

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._feed()

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None:
        self.failure = str(ended)


@dataclass
class End:
    """One end of a session. Implements ``SessionHandler``; files: what a server has."""

    session: Session | None = None
    files: Mapping[str, bytes] | None = None
    completed: bool = False
    ended: Ended | None = None

    @property
    def joined(self) -> Session:
        assert self.session is not None
        return self.session

    def handshake_completed(self) -> None:
        self.completed = True

    def stream_opened(self, stream: Stream) -> None:
        Exchange(stream, files=self.files)

    def datagram_received(self, data: bytes, ecn: int) -> None: ...

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None: ...

    def session_ended(self, ended: Ended) -> None:
        self.ended = ended


@dataclass
class Site:
    """A server with files on a pair, and clients that fetch them. servers: every session that came and is no echo of one."""

    pair: Pair
    files: Mapping[str, bytes]
    listening: ListenConfig = field(default_factory=lambda: listen_config())
    dialling: DialConfig = field(default_factory=lambda: dial_config())
    sessions: list[End] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.serve()

    def serve(self) -> None:
        """By ``listening``, from now on."""
        self.pair.listen(self.listening, self._accept)

    @property
    def servers(self) -> list[End]:
        return [end for end in self.sessions if end.completed]

    def fetch(self, seconds: float = 60.0, end: End | None = None) -> End:
        """All files at once over a session of its own, checked, and closed with 0. AssertionError when that takes longer.
        end: of the client, which gets the session."""
        end = end if end is not None else End()
        end.session = self.pair.dial(self.dialling, end)
        self.pair.drive(lambda: end.completed or end.ended is not None, seconds)
        assert end.ended is None, end.ended
        fetched = {name: Exchange(end.session.open_stream(), name.encode()) for name in self.files}

        def over() -> bool:
            return end.ended is not None or all(exchange.complete for exchange in fetched.values())

        self.pair.drive(over, seconds, steps=2_000_000)
        assert end.ended is None, end.ended
        for name, exchange in fetched.items():
            assert not exchange.failure, exchange.failure
            assert exchange.data == self.files[name], name
        end.session.close()
        self.pair.pass_time(1.0)
        return end

    def _accept(self, session: Session) -> SessionHandler:
        self.sessions.append(End(session, self.files))
        return self.sessions[-1]


LIMITS = Limits(congestion="bbr")
"""As the product has them."""


def limits_for(engines: tuple[str, str], limits: Limits = LIMITS) -> Limits:
    return replace(limits, congestion="cubic") if "aioquic" in engines else limits


def listen_config(limits: Limits = LIMITS) -> ListenConfig:
    identity = self_signed()
    return ListenConfig((ALPN,), identity.certificate, identity.private_key, bytes(32), limits)


def dial_config(limits: Limits = LIMITS) -> DialConfig:
    return DialConfig((ALPN,), Trust("server.example", (self_signed().pin,)), limits)
