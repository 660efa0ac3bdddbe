"""The exit over plain sockets: both ways of using a flow, and every order of ends and resets, on real TCP."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
from collections.abc import Callable

import pytest

from quicsocks.socks.direct import WRITE_HIGH, SocketExit, SocketFlow
from quicsocks.socks.sockets import failure_of
from quicsocks.socks.types import Bound, Failure, FlowError, Request

from .conftest import Run
from .support import Application

REQUEST = Request("destination.test", 80, "socks5")


class World:
    """An exit that dials one listening socket, and pairs of TCP sockets to relay."""

    def __init__(self, *, accepting: bool = True) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.may_dial = asyncio.Event()
        if accepting:
            self.may_dial.set()
        self.exit = SocketExit(self._dial)
        self._applications: list[Application] = []

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for application in self._applications:
            application.close()
        await self.exit.close()
        await self.exit.close()
        self.server.close()
        assert self.exit.open_flows == 0

    async def _dial(self, _request: Request) -> socket.socket:
        await self.may_dial.wait()
        return await self._connect(self.server)

    async def _connect(self, server: socket.socket) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, server.getsockname())
        except BaseException:
            sock.close()
            raise
        return sock

    async def accept(self) -> Application:
        """The destination's end of the flow opened last."""
        sock, _address = await asyncio.get_running_loop().sock_accept(self.server)
        self._applications.append(Application(sock))
        return self._applications[-1]

    async def relayed(self, early: bytes = b"") -> tuple[Application, Application, asyncio.Task[None], SocketFlow]:
        """An application and a destination joined by a flow."""
        flow = self.exit.open(REQUEST)
        with socket.create_server(("127.0.0.1", 0)) as front:
            front.setblocking(False)
            outer = Application(await self._connect(front))
            inner, _address = await asyncio.get_running_loop().sock_accept(front)
        inner.setblocking(False)
        self._applications.append(outer)
        relaying = asyncio.get_running_loop().create_task(flow.relay(inner, early))
        destination = await self.accept()
        await flow.connected()
        return outer, destination, relaying, flow


def test_relay_carries_early_bytes_and_half_closes(on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            application, destination, relaying, _flow = await world.relayed(b"early ")
            await application.send(b"then")
            application.half_close()
            assert await destination.read_all() == b"early then"
            await destination.send(b"answer")
            destination.half_close()
            assert await application.read_all() == b"answer"
            await relaying

    on_loop(main())


def test_relay_is_right_about_a_large_transfer(on_loop: Run) -> None:
    async def main() -> None:
        data = hashlib.shake_128(b"large").digest(5_000_000)
        async with World() as world:
            application, destination, relaying, _flow = await world.relayed()

            async def send(side: Application) -> None:
                await side.send(data)
                side.half_close()

            sending = [asyncio.ensure_future(send(side)) for side in (application, destination)]
            for side in (destination, application):
                assert hashlib.sha256(await side.read_all()).digest() == hashlib.sha256(data).digest()
            await asyncio.gather(relaying, *sending)

    on_loop(main())


Sides = Callable[[Application, Application], tuple[Application, Application]]
both_directions = pytest.mark.parametrize(
    "sides", [lambda a, d: (a, d), lambda a, d: (d, a)], ids=["application resets", "destination resets"]
)


@both_directions
def test_relay_passes_a_reset_on(sides: Sides, on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            application, destination, relaying, _flow = await world.relayed()
            breaker, other = sides(application, destination)
            breaker.reset()
            await other.expect_reset()
            await relaying

    on_loop(main())


@both_directions
def test_relay_passes_a_reset_on_that_comes_after_a_half_close(sides: Sides, on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            application, destination, relaying, _flow = await world.relayed()
            breaker, other = sides(application, destination)
            breaker.half_close()
            assert await other.read_all() == b""
            breaker.reset()
            # After EOF, Linux tells a reader nothing but EOF; the error stands in the socket all the same.
            while other.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                await asyncio.sleep(0)
            await relaying

    on_loop(main())


@both_directions
def test_relay_passes_a_reset_on_that_comes_while_reading_is_paused(sides: Sides, on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            application, destination, relaying, _flow = await world.relayed()
            breaker, other = sides(application, destination)
            # The other side does not read until nothing more can be sent; then the relay no longer reads the breaker.
            full = 0
            while full < 200:
                try:
                    breaker.sock.send(bytes(1 << 16))
                    full = 0
                except BlockingIOError:
                    full += 1
                    await asyncio.sleep(0)
            breaker.reset()
            await relaying
            await other.expect_reset()

    on_loop(main())


def test_abort_resets_both_sides_of_a_relay(on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            application, destination, relaying, flow = await world.relayed()
            flow.abort()
            flow.abort()
            await application.expect_reset()
            await destination.expect_reset()
            await relaying

    on_loop(main())


def test_a_cancelled_relay_resets_both_sides(on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            application, destination, relaying, _flow = await world.relayed()
            relaying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await relaying
            await application.expect_reset()
            await destination.expect_reset()

    on_loop(main())


def test_read_and_write(on_loop: Run) -> None:
    async def main() -> None:
        async with World(accepting=False) as world:
            flow = world.exit.open(REQUEST)
            flow.write(b"before ")
            world.may_dial.set()
            destination = await world.accept()
            assert await flow.connected() == Bound(*destination.sock.getpeername())
            flow.write(b"after")
            flow.write_eof()
            flow.write(b"never")
            await flow.drain()
            assert await destination.read_all() == b"before after"
            await destination.send(b"answer")
            assert await flow.read() == b"answer"
            destination.half_close()
            assert await flow.read() == b""
            flow.close()
            await flow.wait_ended()

    on_loop(main())


def test_drain_waits_for_a_destination_that_does_not_read(on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            flow = world.exit.open(REQUEST)
            destination = await world.accept()
            await flow.connected()
            written = 0
            draining = asyncio.ensure_future(asyncio.sleep(0))
            while draining.done():
                flow.write(bytes(WRITE_HIGH))
                written += WRITE_HIGH
                draining = asyncio.ensure_future(flow.drain())
                for _ in range(5):
                    await asyncio.sleep(0)
            flow.write_eof()
            assert len(await destination.read_all()) == written
            await draining

    on_loop(main())


def test_close_delivers_what_was_written(on_loop: Run) -> None:
    async def main() -> None:
        data = bytes(range(256)) * 20_000
        async with World(accepting=False) as world:
            flow = world.exit.open(REQUEST)
            flow.write(data)
            flow.close()
            flow.close()
            world.may_dial.set()
            destination = await world.accept()
            await destination.send(b"unread")
            assert await destination.read_all() == data
            destination.close()
            await flow.wait_ended()

    on_loop(main())


def test_a_reset_by_the_destination_is_told_to_reader_and_writer(on_loop: Run) -> None:
    async def main() -> None:
        async with World() as world:
            flow = world.exit.open(REQUEST)
            destination = await world.accept()
            await flow.connected()
            reading = asyncio.ensure_future(flow.read())
            await asyncio.sleep(0)
            destination.reset()
            with pytest.raises(FlowError) as caught:
                await reading
            assert caught.value.failure is Failure.RESET
            flow.write(b"into the void")
            with pytest.raises(FlowError):
                await flow.drain()

    on_loop(main())


@pytest.mark.parametrize("when", ["at once", "while dialling", "while reading"])
def test_abort_wakes_who_waits(when: str, on_loop: Run) -> None:
    async def main() -> None:
        async with World(accepting=when == "while reading") as world:
            flow = world.exit.open(REQUEST)
            reading = asyncio.ensure_future(flow.read())
            if when == "while reading":
                await flow.connected()
            if when != "at once":
                for _ in range(5):
                    await asyncio.sleep(0)
            flow.abort()
            with pytest.raises(FlowError) as caught:
                await reading
            assert caught.value.failure is Failure.RESET
            with pytest.raises(FlowError):
                await flow.drain()

    on_loop(main())


def test_cancelling_connected_does_not_end_the_flow(on_loop: Run) -> None:
    async def main() -> None:
        async with World(accepting=False) as world:
            flow = world.exit.open(REQUEST)
            waiting = asyncio.ensure_future(flow.connected())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            world.may_dial.set()
            await flow.connected()

    on_loop(main())


def test_a_failed_dial_is_told_and_a_relay_resets_the_application(on_loop: Run) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = closed.getsockname()

        async def dial(_request: Request) -> socket.socket:
            sock = socket.socket()
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, address)
            except OSError:
                sock.close()
                raise
            return sock

        exit = SocketExit(dial)
        flow = exit.open(REQUEST)
        with pytest.raises(FlowError) as caught:
            await flow.connected()
        assert caught.value.failure is Failure.REFUSED
        with pytest.raises(FlowError):
            await flow.read()
        with socket.create_server(("127.0.0.1", 0)) as front:
            front.setblocking(False)
            application = await Application.connect(front.getsockname())
            inner, _address = await asyncio.get_running_loop().sock_accept(front)
        await exit.open(REQUEST).relay(inner)
        await application.expect_reset()
        application.close()
        await exit.close()

    on_loop(main())


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), Failure.REFUSED),
        (OSError(errno.ENETUNREACH, ""), Failure.NETWORK_UNREACHABLE),
        (OSError(errno.EHOSTUNREACH, ""), Failure.HOST_UNREACHABLE),
        (TimeoutError(), Failure.TIMED_OUT),
        (OSError(errno.ETIMEDOUT, ""), Failure.TIMED_OUT),
        (PermissionError(errno.EACCES, ""), Failure.DENIED),
        (OSError(errno.EAFNOSUPPORT, ""), Failure.FAMILY_UNSUPPORTED),
        (OSError(errno.EMFILE, ""), Failure.LIMIT),
        (socket.gaierror(socket.EAI_NONAME, ""), Failure.NAME_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, ""), Failure.NAME_TIMEOUT),
        (OSError(errno.EIO, ""), Failure.INTERNAL),
        (RuntimeError(), Failure.INTERNAL),
    ],
)
def test_why_a_connect_failed(error: BaseException, failure: Failure) -> None:
    assert failure_of(error) is failure
