"""Messages between the supervisor and a worker, over a pair of connected unix sockets: four octets of length, and a pickle.

Both ends run this program's own code, one has started the other, and nobody else can reach the sockets: what arrives is
as trustworthy as the process itself. Nothing from the network may come this way but as bytes inside of a message.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")


class Channel:
    """One end, on an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, connection: socket.socket) -> Channel:
        """Takes the socket over."""
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return cls(reader, writer)

    def send(self, message: Any) -> None:
        """Does not wait: messages are few and small. What an end that is gone would have got is lost."""
        self._writer.write(encode(message))

    async def receive(self) -> Any:
        """The next message. Raises EOFError when the other end is gone."""
        try:
            size = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))[0]
            return pickle.loads(await self._reader.readexactly(size))  # noqa: S301 - from ourselves, see above
        except (asyncio.IncompleteReadError, OSError):
            raise EOFError from None

    def close(self) -> None:
        self._writer.close()


def encode(message: Any) -> bytes:
    """A message with its length."""
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


def receive_blocking(connection: socket.socket) -> Any:
    """The next message, before there is an event loop. Raises EOFError when the other end is gone."""
    size = _LENGTH.unpack(_exactly(connection, _LENGTH.size))[0]
    return pickle.loads(_exactly(connection, size))  # noqa: S301 - from ourselves, see above


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
