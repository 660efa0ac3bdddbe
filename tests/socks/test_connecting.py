"""Connecting by callbacks, on both kinds of loop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from quicsocks.socks.connecting import Connecting, Connector
from quicsocks.socks.deadlines import Deadlines
from quicsocks.socks.watch import Watch

from .conftest import Run
from .test_deadlines import FakeClock


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def new_socket() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    return sock


def test_a_connected_socket_is_told_of_and_stays_watched(on_loop: Run, listening: socket.socket) -> None:
    async def main() -> None:
        connector = Connector(10.0)
        told: list[OSError | None] = []
        with new_socket() as sock:
            connector.begin(sock, listening.getsockname(), told.append)
            assert told == []
            await until(lambda: told)
            assert told == [None]
            watch = Watch.current(asyncio.get_running_loop())
            assert watch is not None
            assert sock in watch
            heard: list[bool] = []
            watch.add(sock, heard.append, readable=lambda: heard.append(bool(sock.recv(1))))
            far, _ = listening.accept()
            with far:
                far.send(b"x")
                await until(lambda: heard)
            watch.discard(sock, closing=True)
        connector.close()
        connector.close()
        assert told == [None]

    on_loop(main())


def test_a_refusal_is_told_once_and_the_socket_is_let_go(on_loop: Run) -> None:
    async def main() -> None:
        connector = Connector(10.0)
        with socket.create_server(("127.0.0.1", 0)) as gone:
            address = gone.getsockname()
        told: list[OSError | None] = []
        with new_socket() as sock:
            connector.begin(sock, address, told.append)
            await until(lambda: told)
            assert told[0] is not None
            assert told[0].errno == errno.ECONNREFUSED
            watch = Watch.current(asyncio.get_running_loop())
            assert watch is not None
            assert sock not in watch
            for _ in range(5):
                await asyncio.sleep(0)
        assert len(told) == 1
        connector.close()

    on_loop(main())


def test_an_immediate_failure_is_raised(on_loop: Run) -> None:
    async def main() -> None:
        connector = Connector(10.0)
        with new_socket() as sock, pytest.raises(OSError):  # which one is the kernel's choice
            connector.begin(sock, ("255.255.255.255", 9), lambda error: None)
        connector.close()

    on_loop(main())


def test_what_is_cancelled_is_not_told(on_loop: Run, listening: socket.socket) -> None:
    async def main() -> None:
        connector = Connector(10.0)
        told: list[OSError | None] = []
        watch = Watch.shared()
        with new_socket() as sock:
            connecting = connector.begin(sock, listening.getsockname(), told.append)
            connecting.cancel()
            connecting.cancel()
            assert sock not in watch
            assert connector._deadlines is not None
            assert len(connector._deadlines) == 0
        for _ in range(10):
            await asyncio.sleep(0)
        assert told == []
        watch.close()
        connector.close()

    on_loop(main())


def test_time_is_limited(on_loop: Run, listening: socket.socket) -> None:
    async def main() -> None:
        clock = FakeClock()
        connector = Connector(10.0)
        watch = Watch.shared()
        deadlines: Deadlines[Connecting] = Deadlines(10.0, Connecting.expire, clock)
        connector._watch, connector._deadlines = watch, deadlines
        told: list[OSError | None] = []
        with new_socket() as sock:
            connector.begin(sock, listening.getsockname(), told.append)
            clock.advance(9.9)
            assert told == []
            clock.advance(0.1)
            assert isinstance(told[0], TimeoutError)
            assert sock not in watch
        with new_socket() as sock:
            connector.begin(sock, listening.getsockname(), told.append)
            await until(lambda: len(told) == 2)
            clock.advance(100.0)
            assert told[1:] == [None], "expired although it was connected"
            watch.discard(sock, closing=True)
        connector.close()

    on_loop(main())
