"""As much of HTTP/3 (RFC 9114) as other people's clients and servers need of us: GET and POST, no push, no trailers.

Field sections are pylsqpack's, which aioquic brings along; our SETTINGS give the peer no dynamic table (RFC 9204 §3.2.3),
and we use none of its. Frames and streams of unknown type are skipped (RFC 9114 §9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aioquic.buffer import (  # type: ignore[attr-defined] # re-exported silently
    Buffer,
    BufferReadError,
    encode_uint_var,
)
from pylsqpack import Decoder, Encoder

from quicsocks.userspace.quic.types import Session, SessionHandler, Stream

from .exchange import Exchange, Peer

ALPN = "h3"
DATA, HEADERS, SETTINGS = 0x00, 0x01, 0x04
CONTROL_STREAM = 0x00


Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response."""

    fields: Fields
    body: bytes

    def field(self, name: bytes) -> bytes:
        return dict(self.fields).get(name, b"")


def frame(kind: int, payload: bytes) -> bytes:
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The whole frames at the beginning of data."""
    buffer, found = Buffer(data=data), []
    try:
        while not buffer.eof():
            kind, size = buffer.pull_uint_var(), buffer.pull_uint_var()
            found.append((kind, buffer.pull_bytes(size)))
    except BufferReadError:
        pass
    return found


class Http3(Peer):
    """One end of a connection. respond: a server's answer to a request. settings: the peer's, when they have come."""

    def __init__(self, respond: Callable[[Message], Message] | None = None) -> None:
        super().__init__(self._open)
        self._respond = respond
        self._encoder = Encoder()
        self._decoder = Decoder(0, 0)
        self.settings: dict[int, int] | None = None

    def handshake_completed(self) -> None:
        self.joined.open_stream(bidirectional=False).write(encode_uint_var(CONTROL_STREAM) + frame(SETTINGS, b""))
        super().handshake_completed()

    async def request(self, method: str, authority: str, path: str, body: bytes = b"") -> Message:
        """Raises ConnectionError."""
        exchange = Exchange(self.joined.open_stream())
        fields = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        encoded = [(name.encode(), value.encode()) for name, value in fields]
        exchange.send(self._encode(exchange.stream, Message(encoded, body)))
        return self._decode(exchange.stream, await exchange.everything())

    def _open(self, stream: Stream) -> None:
        if stream.is_bidirectional:
            Exchange(stream, on_end=self._answer)
        else:
            Exchange(stream, on_data=self._follow)

    def _answer(self, exchange: Exchange) -> None:
        assert self._respond is not None
        request = self._decode(exchange.stream, bytes(exchange.data))
        exchange.send(self._encode(exchange.stream, self._respond(request)))

    def _follow(self, exchange: Exchange) -> None:
        """A one-way stream: of those, only the control stream's SETTINGS are of interest."""
        if self.settings is None and exchange.data[0] == CONTROL_STREAM:
            whole = frames(bytes(exchange.data[1:]))
            if whole:
                assert whole[0][0] == SETTINGS
                buffer = Buffer(data=whole[0][1])
                self.settings = {}
                while not buffer.eof():
                    self.settings[buffer.pull_uint_var()] = buffer.pull_uint_var()

    def _encode(self, stream: Stream, message: Message) -> bytes:
        instructions, section = self._encoder.encode(stream.id, message.fields)
        assert not instructions
        return frame(HEADERS, section) + (frame(DATA, message.body) if message.body else b"")

    def _decode(self, stream: Stream, data: bytes) -> Message:
        fields: Fields = []
        body = bytearray()
        for kind, payload in frames(data):
            if kind == HEADERS:
                fields = self._decoder.feed_header(stream.id, payload)[1]
            elif kind == DATA:
                body += payload
        return Message(fields, bytes(body))


class Server:
    """Answers with respond. peers: every session that came."""

    def __init__(self, respond: Callable[[Message], Message]) -> None:
        self._respond = respond
        self.peers: list[Http3] = []

    def accept(self, session: Session) -> SessionHandler:
        peer = Http3(self._respond)
        peer.session = session
        self.peers.append(peer)
        return peer


def response(body: bytes, status: int = 200, kind: str = "application/octet-stream") -> Message:
    return Message(
        [
            (b":status", str(status).encode()),
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
        ],
        body,
    )
