"""A stack in asyncio: ``Driver`` moves its packets and keeps its time, ``Sockets`` gives transports, streams and servers.

Where something else drives the stack, as a tunnel's session does, ``Sockets`` is enough. Names, arguments and behaviour are
asyncio's: ``open_connection``, ``start_server``, ``create_connection``, ``create_server``, ``create_datagram_endpoint``. A
reset is told as ConnectionResetError, a refusal as ConnectionRefusedError; half-closes are carried both ways.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Any

from .stack import Stack
from .tcp.connection import Connection
from .tcp.tcp import Listener, Tcp
from .tcp.types import End, Ended, IPAddress, TcpError
from .udp import UdpSocket

CLOSE_TIMEOUT = 60.0
"""Seconds that a closed transport may take to get rid of what was written; then it is reset."""
_ERRNOS = {
    End.RESET: errno.ECONNRESET,
    End.REFUSED: errno.ECONNREFUSED,
    End.UNREACHABLE: errno.EHOSTUNREACH,
    End.TIMED_OUT: errno.ETIMEDOUT,
    End.LOCALLY_RESET: errno.ECONNABORTED,
    End.STACK_CLOSED: errno.ENETDOWN,
}


def error_of(ended: Ended) -> OSError:
    """As the kernel's TCP would have it; OSError chooses the subclass by the number."""
    number = _ERRNOS[ended.end]
    return OSError(number, f"{os.strerror(number)}: {ended}")


class Driver:
    """Runs a stack on the event loop. send(packets): to the link, which may drop what it cannot take."""

    def __init__(
        self, stack: Stack, send: Callable[[list[bytes]], None], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.stack = stack
        self._send = send
        self._loop = loop or asyncio.get_running_loop()
        self._scheduled: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        stack.waker = self._wake
        stack.rest()

    def receive(self, packets: Iterable[bytes | bytearray | memoryview]) -> None:
        """Packets have come from the link."""
        if not self._closed:
            now = self._loop.time()
            for packet in packets:
                self.stack.receive(packet, now)
            self._wake()

    def close(self) -> None:
        """Reset what is open, and drive no more."""
        if self._closed:
            return
        tcp = self.stack.tcp
        assert isinstance(tcp, Tcp)
        tcp.close()
        self._turn()
        self._closed = True
        self.stack.waker = None
        for handle in (self._scheduled, self._timer):
            if handle is not None:
                handle.cancel()

    def _wake(self) -> None:
        if self._scheduled is None and not self._closed:
            self._scheduled = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = None
        if self._closed:
            return
        now = self._loop.time()
        if self.stack.next_timer() <= now:
            self.stack.handle_timer(now)
        self.stack.tell()
        packets = self.stack.packets_to_send(now)
        self.stack.rest()
        if packets:
            self._send(packets)
            self._wake()  # There may be more, after the others' turn.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.stack.next_timer()
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._wake)


class Sockets:
    """Connections and sockets of a stack that something drives."""

    def __init__(self, stack: Stack, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._stack = stack
        self._loop = loop or asyncio.get_running_loop()

    @property
    def tcp(self) -> Tcp:
        assert isinstance(self._stack.tcp, Tcp)
        return self._stack.tcp

    async def create_connection(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: IPAddress | str, port: int
    ) -> tuple[TcpTransport, asyncio.BaseProtocol]:
        """host: an IP address. Raises OSError when there is no connection; cancelled, it gives up at once."""
        protocol = protocol_factory()
        transport = TcpTransport(self._loop, protocol)
        try:
            connection = self.tcp.connect(ip_address(host) if isinstance(host, str) else host, port, transport)
        except TcpError as error:
            raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
        try:
            await transport.join(connection)
        except asyncio.CancelledError:
            connection.reset()
            raise
        return transport, protocol

    async def open_connection(
        self, host: IPAddress | str, port: int, *, limit: int = 1 << 16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As ``asyncio.open_connection``; host is an IP address."""
        reader = asyncio.StreamReader(limit=limit, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self.create_connection(lambda: protocol, host, port)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        port: int,
        *,
        host: IPAddress | str | None = None,
        backlog: int = 1024,
    ) -> Server:
        """host: one of the stack's addresses, any when None. Raises OSError when the port is taken."""
        server = Server(self._loop, protocol_factory)
        try:
            server.listener = self.tcp.listen(
                port, server.accepted, address=ip_address(host) if isinstance(host, str) else host, backlog=backlog
            )
        except TcpError as error:
            raise OSError(errno.EADDRINUSE, str(error)) from error
        return server

    def start_server(
        self,
        client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
        port: int,
        *,
        host: IPAddress | str | None = None,
        limit: int = 1 << 16,
    ) -> Server:
        """As ``asyncio.start_server``."""

        def protocol() -> asyncio.BaseProtocol:
            reader = asyncio.StreamReader(limit=limit, loop=self._loop)
            return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=self._loop)

        return self.create_server(protocol, port, host=host)

    def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        *,
        local_addr: tuple[IPAddress | str | None, int] = (None, 0),
        remote_addr: tuple[IPAddress | str, int] | None = None,
    ) -> tuple[UdpTransport, asyncio.DatagramProtocol]:
        """Raises OSError. What cannot be sent at once waits in the stack, where the oldest goes first."""
        protocol = protocol_factory()
        transport = UdpTransport(self._loop, protocol)
        transport.socket = self._stack.udp.open(transport, address=local_addr[0], port=local_addr[1], peer=remote_addr)
        protocol.connection_made(transport)
        return transport, protocol


class Server:
    """What ``create_server`` gives."""

    listener: Listener

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory

    @property
    def port(self) -> int:
        return self.listener.port

    def accepted(self, connection: Connection) -> None:
        transport = TcpTransport(self._loop, self._protocol_factory())
        connection.set_handler(transport)
        transport.begin(connection)

    def close(self) -> None:
        """Take no more connections; those that are open stay."""
        self.listener.close()


class TcpTransport(asyncio.Transport):
    """A connection of the stack as asyncio's transports are."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol: Any = protocol
        self._connection: Connection | None = None
        self._joined: asyncio.Future[None] | None = None
        self._held: deque[bytes] = deque()
        self._eof_held = False
        self._reading = True
        self._eof_sent = False
        self._eof_seen = False
        self._sent_all = False
        self._closing = False
        self._lost = False
        self._patience: asyncio.TimerHandle | None = None

    async def join(self, connection: Connection) -> None:
        """Until the handshake is complete. Raises OSError when it fails."""
        self._connection = connection
        self._joined = self._loop.create_future()
        await self._joined

    def begin(self, connection: Connection) -> None:
        self._connection = connection
        connection.set_nodelay(True)
        self._extra = {
            "peername": _name(connection.remote_address),
            "sockname": _name(connection.local_address),
            "connection": connection,
        }
        self._protocol.connection_made(self)

    # What the connection calls.

    def connected(self) -> None:
        if self._joined is not None and not self._joined.done():
            assert self._connection is not None
            self.begin(self._connection)
            self._joined.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._reading and not self._held:
            self._deliver(data)
        else:
            self._held.append(data)

    def eof_received(self) -> None:
        self._eof_seen = True
        if self._reading and not self._held:
            self._end()
        else:
            self._eof_held = True

    def reset_received(self, code: int) -> None:
        """``connection_lost`` follows."""

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def send_completed(self) -> None:
        self._sent_all = True
        self._finish_if_over()

    def connection_lost(self, ended: Ended) -> None:
        if self._joined is not None and not self._joined.done():
            self._joined.set_exception(error_of(ended))
            return
        self._lose(None if ended.end is End.LOCALLY_RESET and self._closing else error_of(ended))

    # What applications call.

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """What was written is sent, what still comes is dropped."""
        if self._closing or self._lost:
            return
        self._closing = True
        self._held.clear()
        connection = self._live
        connection.stop_sending()
        self._eof_seen = True
        if not self._eof_sent:
            self._eof_sent = True
            connection.finish()
        self._patience = self._loop.call_later(CLOSE_TIMEOUT, self.abort)
        self._finish_if_over()

    def abort(self) -> None:
        if not self._lost:
            self._closing = True
            self._live.reset()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof_sent:
            raise RuntimeError("write after write_eof or close")
        if not self._lost and len(data):
            self._live.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._eof_sent and not self._lost:
            self._eof_sent = True
            self._live.finish()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0 if self._lost else self._live.send_buffered

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """The window closes behind what has arrived."""
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        while self._held and self._reading:
            self._deliver(self._held.popleft())
        if self._eof_held and self._reading and not self._held:
            self._eof_held = False
            self._end()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    @property
    def _live(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _deliver(self, data: bytes) -> None:
        self._protocol.data_received(data)
        if not self._lost:
            self._live.consumed(len(data))

    def _end(self) -> None:
        if not self._protocol.eof_received() and not self._closing:
            self.close()
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._sent_all and self._eof_seen and not self._eof_held:
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._held.clear()
        if self._patience is not None:
            self._patience.cancel()
        self._loop.call_soon(self._protocol.connection_lost, error)


class UdpTransport(asyncio.DatagramTransport):
    """A UDP socket of the stack as asyncio's transports are."""

    socket: UdpSocket

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._closing = False

    def datagram_received(self, data: bytes, address: IPAddress, port: int) -> None:
        self._protocol.datagram_received(data, (str(address), port))

    def error_received(self, error: OSError) -> None:
        self._protocol.error_received(error)

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """addr: (IP address, port). Raises OSError for what cannot be a destination."""
        if not self._closing:
            self.socket.send_to(data, *(addr or ()))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return str(self.socket.address), self.socket.port
        if name == "peername" and self.socket.peer is not None:
            return _name(self.socket.peer)
        return default

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """What was sent before still leaves."""
        if not self._closing:
            self._closing = True
            self.socket.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


def _name(address: tuple[IPAddress, int]) -> tuple[str, int]:
    return str(address[0]), address[1]
