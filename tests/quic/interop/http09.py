"""HTTP/0.9 over QUIC (ALPN ``hq-interop``), as the interoperation of QUIC stacks is tested with: ``GET /path``, CR LF
and FIN on a bidirectional stream of the client's, the file's octets and FIN back. Nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from quicsocks.userspace.quic.types import Session, SessionHandler, Stream

from .exchange import Exchange, Peer

ALPN = "hq-interop"
NOT_FOUND = 0x0194
"""A code of ours for RESET_STREAM: the protocol has no word for a file that is not there."""


def request(path: str) -> bytes:
    return f"GET {path}\r\n".encode()


def target(line: bytes) -> str:
    """The path of a whole request. Raises ValueError for anything else."""
    words = line.decode("ascii").removesuffix("\r\n").split(" ")
    if len(words) != 2 or words[0] != "GET" or not line.endswith(b"\r\n"):
        raise ValueError(f"not a request: {line!r}")
    return words[1]


async def fetch(session: Session, path: str) -> bytes:
    """The file at path. Raises ConnectionError."""
    exchange = Exchange(session.open_stream())
    exchange.send(request(path))
    return await exchange.everything()


class Server:
    """Serves files, by path. peers: every session that came."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self.peers: list[Peer] = []

    def accept(self, session: Session) -> SessionHandler:
        peer = Peer(self._open)
        peer.session = session
        self.peers.append(peer)
        return peer

    def _open(self, stream: Stream) -> None:
        Exchange(stream, on_end=self._answer)

    def _answer(self, exchange: Exchange) -> None:
        body = self._files.get(target(bytes(exchange.data)))
        if body is None:
            exchange.stream.reset(NOT_FOUND)
        else:
            exchange.send(body)
