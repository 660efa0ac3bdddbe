"""asyncio over two stacks that are joined in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from quicsocks.netstack.aio import Driver, Sockets
from quicsocks.netstack.stack import Stack, StackOptions

from .packets import A4, A6, B4, B6

TIMEOUT = 20.0
"""Seconds; nothing here takes a tenth of it."""


@dataclass
class Joined:
    """near and far, each with a driver that hands its packets to the other's. lost: whether to drop a packet."""

    lost: Callable[[bytes], bool] = lambda packet: False
    seen: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        near, far = (
            Stack(StackOptions(addresses=addresses, mtu=1400), now=self.now) for addresses in ((A4, A6), (B4, B6))
        )
        self.drivers = [
            Driver(near, lambda packets: self._pass(1, packets)),
            Driver(far, lambda packets: self._pass(0, packets)),
        ]
        self.near, self.far = Sockets(near), Sockets(far)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def _pass(self, to: int, packets: list[bytes]) -> None:
        kept = [packet for packet in packets if not self.lost(packet)]
        self.seen += kept
        self.drivers[to].receive(kept)

    def close(self) -> None:
        for driver in self.drivers:
            driver.close()
            driver.close()


def run(test: Callable[[Joined], Any], **options: Any) -> None:
    async def play() -> None:
        joined = Joined(**options)
        try:
            async with asyncio.timeout(TIMEOUT):
                await test(joined)
        finally:
            joined.close()

    asyncio.run(play())


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("to", [B4, B6])
@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_streams(to: str, loss: float) -> None:
    chance = random.Random(5)
    payload = chance.randbytes(2_000_000)

    async def test(joined: Joined) -> None:
        server = joined.far.start_server(echo, 7)
        assert server.port == 7
        reader, writer = await joined.near.open_connection(to, 7)
        assert writer.get_extra_info("peername") == (to, 7)

        async def send() -> None:
            for at in range(0, len(payload), 50_000):
                writer.write(payload[at : at + 50_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        got = await reader.read(-1)
        await sending
        assert got == payload
        writer.close()
        await writer.wait_closed()

    run(test, lost=lambda packet: chance.random() < loss)


def test_refused() -> None:
    async def test(joined: Joined) -> None:
        with pytest.raises(ConnectionRefusedError, match="refused"):
            await joined.near.open_connection(B4, 9)
        with pytest.raises(OSError, match="address"):
            await joined.near.open_connection("224.0.0.1", 9)

    run(test)


def test_a_reset_is_a_reset() -> None:
    async def test(joined: Joined) -> None:
        def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        joined.far.start_server(reset, 7)
        reader, writer = await joined.near.open_connection(B4, 7)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    run(test)


def test_giving_up_a_connect() -> None:
    async def test(joined: Joined) -> None:
        connecting = asyncio.ensure_future(joined.near.open_connection(B4, 7))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert joined.near.tcp.connections() == []

    run(test, lost=lambda packet: True)


def test_half_closes() -> None:
    """The far end says all it has to say after our end."""

    async def test(joined: Joined) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.read()
            writer.write(asked[::-1] * 1000)
            writer.write_eof()
            await writer.drain()

        joined.far.start_server(answer, 7)
        reader, writer = await joined.near.open_connection(B4, 7)
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read() == b"noitseuq" * 1000
        writer.close()
        await writer.wait_closed()

    run(test)


def test_a_reader_that_stops_closes_the_window() -> None:
    async def test(joined: Joined) -> None:
        began = asyncio.Event()
        transports: list[asyncio.Transport] = []
        got = bytearray()

        class Stopping(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                transport.pause_reading()
                transports.append(transport)
                began.set()

            def data_received(self, data: bytes) -> None:
                got.extend(data)

        joined.far.create_server(Stopping, 7)
        _, writer = await joined.near.open_connection(B4, 7)
        await began.wait()
        sent = 0

        async def fill() -> None:
            nonlocal sent
            while True:
                writer.write(bytes(100_000))
                sent += 100_000
                await writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fill(), 0.3)
        assert got == b""
        assert 200_000 < sent < 3_000_000
        transports[0].resume_reading()
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert len(got) == sent

    run(test)


def test_what_cannot_be() -> None:
    async def test(joined: Joined) -> None:
        server = joined.far.start_server(echo, 7)
        with pytest.raises(OSError, match="listen"):
            joined.far.start_server(echo, 7)
        server.close()
        again = joined.far.start_server(echo, 7)
        again.close()
        with pytest.raises(ConnectionRefusedError):
            await joined.near.open_connection(B4, 7)

    run(test)


def test_the_end_of_the_stack() -> None:
    async def test(joined: Joined) -> None:
        joined.far.start_server(echo, 7)
        reader, writer = await joined.near.open_connection(B4, 7)
        joined.drivers[0].close()
        with pytest.raises(OSError, match="closed"):
            await reader.read()
        writer.close()

    run(test)


@dataclass
class Datagrams(asyncio.DatagramProtocol):
    got: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.got.put_nowait(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.got.put_nowait("lost")


def test_datagrams() -> None:
    async def test(joined: Joined) -> None:
        transport, server = joined.far.create_datagram_endpoint(Datagrams, local_addr=(None, 53))
        client_transport, client = joined.near.create_datagram_endpoint(Datagrams, remote_addr=(B4, 53))
        assert isinstance(server, Datagrams)
        assert isinstance(client, Datagrams)
        client_transport.sendto(b"question")
        data, address = await server.got.get()
        assert data == b"question"
        assert address == client_transport.get_extra_info("sockname")
        transport.sendto(b"answer" * 1000, address)
        assert await client.got.get() == (b"answer" * 1000, (B4, 53))
        assert client_transport.get_extra_info("peername") == (B4, 53)
        transport.close()
        assert await server.got.get() == "lost"
        client_transport.sendto(b"again")
        error = await client.got.get()
        assert isinstance(error, ConnectionRefusedError)
        with pytest.raises(OSError, match="in use"):
            joined.near.create_datagram_endpoint(
                Datagrams, local_addr=(None, client_transport.socket.port), remote_addr=(B4, 53)
            )

    run(test)
