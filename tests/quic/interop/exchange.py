"""Octets one way and back on a stream of ours, with backpressure, and sessions that one can wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from quicsocks.userspace.quic.errors import Ended
from quicsocks.userspace.quic.types import PathEvent, Session, Stream

PIECE = 1 << 16
"""Octets written at once; far below what a stream takes after ``pause_writing``."""


class Exchange:
    """Sends what it is given and keeps what comes. on_data: told of each arrival, on_end: of the peer's FIN."""

    def __init__(
        self,
        stream: Stream,
        *,
        on_data: Callable[[Exchange], None] | None = None,
        on_end: Callable[[Exchange], None] | None = None,
    ) -> None:
        self.stream = stream
        self.data = bytearray()
        self.reset: int | None = None
        self._on_data, self._on_end = on_data, on_end
        self._unsent = memoryview(b"")
        self._finishing = False
        self._paused = False
        self._ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        stream.set_handler(self)

    def send(self, data: bytes) -> None:
        """All of data, then FIN."""
        self._unsent = memoryview(data)
        self._finishing = True
        self._write()

    async def everything(self) -> bytes:
        """What came, when the peer has finished. Raises ConnectionError when it broke off instead."""
        return await self._ended

    def _write(self) -> None:
        while self._unsent and not self._paused:
            piece, self._unsent = self._unsent[:PIECE], self._unsent[PIECE:]
            self.stream.write(piece)
        if not self._unsent and self._finishing:
            self._finishing = False
            self.stream.finish()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.stream.consumed(len(data))
        if self._on_data is not None:
            self._on_data(self)

    def eof_received(self) -> None:
        if not self._ended.done():
            self._ended.set_result(bytes(self.data))
        if self._on_end is not None:
            self._on_end(self)

    def reset_received(self, code: int) -> None:
        self.reset = code
        self._fail(f"the peer reset the stream with {code:#x}")

    def stop_received(self, code: int) -> None:
        self._unsent = memoryview(b"")
        self._finishing = False
        self.stream.reset(code)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write()

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None:
        self._unsent = memoryview(b"")
        self._finishing = False
        self._fail(f"the session has ended: {ended}")

    def _fail(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_exception(ConnectionError(why))
            self._ended.exception()  # Nobody need be waiting.


class Peer:
    """A session's handler. opened: told of every stream that the peer opens."""

    def __init__(self, opened: Callable[[Stream], None] | None = None) -> None:
        self._opened = opened
        loop = asyncio.get_running_loop()
        self.completed: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self.session: Session | None = None
        self.paths: list[PathEvent] = []

    @property
    def joined(self) -> Session:
        assert self.session is not None
        return self.session

    async def complete(self) -> Session:
        """The session, when its handshake is done. Raises ConnectionError when it fails."""
        either: list[asyncio.Future[Any]] = [self.completed, self.ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self.completed.done():
            raise ConnectionError(f"no handshake: {self.ended.result()}")
        return self.joined

    def handshake_completed(self) -> None:
        self.completed.set_result(None)

    def stream_opened(self, stream: Stream) -> None:
        assert self._opened is not None, "the peer opened a stream"
        self._opened(stream)

    def datagram_received(self, data: bytes, ecn: int) -> None: ...

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: PathEvent) -> None:
        self.paths.append(event)

    def session_ended(self, ended: Ended) -> None:
        self.ended.set_result(ended)
