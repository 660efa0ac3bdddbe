"""The watch over raw sockets: on both kinds of loop, with epoll and without."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from quicsocks.socks.sockets import connect
from quicsocks.socks.watch import Watch

from ..tcp import close_with_reset, tcp_pair
from .conftest import Run


@pytest.fixture(params=[True, False], ids=["epoll", "no-epoll"])
def epoll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.delattr(select, "epoll")
        monkeypatch.setattr("quicsocks.socks.watch.LOOK_INTERVAL", 0.01)
    return bool(request.param)


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = tcp_pair()
    try:
        yield near, far
    finally:
        near.close()
        far.close()


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0)


def test_reading_and_writing(on_loop: Run, epoll: bool) -> None:
    async def main() -> None:
        watch = Watch()
        with pair() as (near, far):
            got = bytearray()
            watch.add(near, lambda failed: None, reading=True)
            watch.on_readable(near, lambda: got.extend(near.recv(100)))
            far.send(b"one")
            await until(lambda: got == b"one")
            watch.on_readable(near, None)
            far.send(b"two")
            for _ in range(20):
                await asyncio.sleep(0)
            assert got == b"one"
            watch.on_readable(near, lambda: got.extend(near.recv(1)))
            await until(lambda: got == b"onetwo")  # An octet a turn: it is told again as long as something is there.
            wrote = []
            watch.on_writable(near, lambda: wrote.append(1))
            await until(lambda: len(wrote) >= 3)
            watch.on_writable(near, None)
            before = len(wrote)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(wrote) == before
            watch.discard(near)
        watch.close()

    on_loop(main())


def test_data_that_nobody_reads_costs_one_turn(on_loop: Run) -> None:
    async def main() -> None:
        watch = Watch()
        with pair() as (near, far):
            watch.add(near, lambda failed: None, reading=True)
            far.send(b"early")
            for _ in range(200):
                await asyncio.sleep(0)
            assert watch.turns == 1
            far.shutdown(socket.SHUT_WR)
            near.shutdown(socket.SHUT_WR)
            far.recv(1)
            await asyncio.sleep(0.01)
            for _ in range(200):
                await asyncio.sleep(0)
            assert watch.turns <= 3, "an end that has been told is told again and again"
            assert near.recv(100) == b"early"
            watch.discard(near)
        watch.close()

    on_loop(main())


def test_a_reset_is_heard_by_who_neither_reads_nor_writes(on_loop: Run, epoll: bool) -> None:
    async def main() -> None:
        watch = Watch()
        near, far = tcp_pair()
        heard: list[bool] = []
        watch.add(near, heard.append)
        close_with_reset(far)
        await until(lambda: heard)
        assert heard[0] is True
        watch.discard(near, closing=True)
        near.close()
        watch.close()

    on_loop(main())


def test_who_takes_a_socket_over_hears_of_an_end_that_the_former_has_heard_of(on_loop: Run) -> None:
    async def main() -> None:
        watch = Watch()
        near, far = tcp_pair()
        first: list[bool] = []
        second: list[bool] = []
        reads: list[int] = []
        watch.add(near, first.append, reading=True)
        watch.on_readable(near, lambda: reads.append(1))
        close_with_reset(far)
        await until(lambda: first)
        watch.on_readable(near, None)
        watch.add(near, second.append)
        reads.clear()
        await until(lambda: second)
        assert second[0] is True
        assert not reads, "the former owner's reader is called"
        watch.discard(near)
        near.close()
        watch.close()

    on_loop(main())


def test_who_takes_over_hears_of_an_end_although_nobody_reads(on_loop: Run) -> None:
    async def main() -> None:
        watch = Watch()
        near, far = tcp_pair()
        heard: list[str] = []
        watch.add(near, lambda failed: heard.append("first"))
        close_with_reset(far)
        await until(lambda: heard == ["first"])
        watch.add(near, lambda failed: heard.append("second"))
        await until(lambda: heard == ["first", "second"])
        watch.discard(near, closing=True)
        near.close()
        watch.close()

    on_loop(main())


def test_a_number_that_is_used_again_in_one_turn_is_not_mistaken(on_loop: Run) -> None:
    """Of two sockets that are ready, the first closes the second, whose number another takes."""

    async def main() -> None:
        watch = Watch()
        ends = [tcp_pair(), tcp_pair()]
        spare: list[tuple[socket.socket, socket.socket]] = []
        wrong: list[bool] = []

        def closes(other: int) -> Callable[[], None]:
            def readable() -> None:
                if spare:
                    wrong.append(True)
                    return
                watch.on_readable(ends[1 - other][0], None)
                number = ends[other][0].fileno()
                watch.discard(ends[other][0], closing=True)
                ends[other][0].close()
                spare.append(tcp_pair())
                # The pair's numbers: the one that was freed is among them.
                for sock in spare[0]:
                    if sock.fileno() == number:
                        watch.add(sock, wrong.append, reading=True)
                        watch.on_readable(sock, lambda: wrong.append(True))

            return readable

        for index, (near, far) in enumerate(ends):
            watch.add(near, lambda failed: None, reading=True)
            watch.on_readable(near, closes(1 - index))
            far.send(b"x")
        await until(lambda: spare)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not wrong
        for sock in (*ends[0], *ends[1], *spare[0]):
            watch.discard(sock)
            sock.close()
        watch.close()

    on_loop(main())


def test_a_failure_in_one_callback_does_not_keep_the_others_waiting(on_loop: Run) -> None:
    async def main() -> None:
        watch = Watch()
        told: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        with pair() as (one, far), pair() as (two, farther):
            good: list[bytes] = []

            def bad() -> None:
                watch.on_readable(one, None)
                raise ValueError("bad")

            watch.add(one, lambda failed: None, reading=True)
            watch.add(two, lambda failed: None, reading=True)
            watch.on_readable(one, bad)
            watch.on_readable(two, lambda: good.append(two.recv(10)))
            far.send(b"x")
            farther.send(b"y")
            await until(lambda: good and told)
            assert isinstance(told[0], ValueError)
            watch.discard(one)
            watch.discard(two)
        watch.close()

    on_loop(main())


def test_a_loops_watch_is_one_and_lives_until_its_last_user_has_closed_it(on_loop: Run, epoll: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert Watch.current(loop) is None
        one, two = Watch.shared(), Watch.shared()
        assert one is two is Watch.current(loop)
        one.close()
        with pair() as (near, far):
            far.send(b"x")
            await two.wait_readable(near)
            assert near not in two
        two.close()
        assert Watch.current(loop) is None
        assert Watch.shared() is not one
        Watch.shared().close()
        watch = Watch.current(loop)
        assert watch is not None
        watch.close()

    on_loop(main())


def test_waiting_can_be_cancelled_and_takes_nothing(on_loop: Run, epoll: bool) -> None:
    async def main() -> None:
        watch = Watch()
        with pair() as (near, far):
            for watched in (False, True):
                if watched:
                    watch.add(near, lambda failed: None)
                waiting = asyncio.ensure_future(watch.wait_readable(near))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert (near in watch) == watched
            far.send(b"still there")
            await watch.wait_readable(near)
            assert near.recv(100) == b"still there"
            await watch.wait_writable(near)
            watch.discard(near)
        watch.close()

    on_loop(main())


@pytest.mark.parametrize("shared", [True, False])
def test_connect(on_loop: Run, shared: bool) -> None:
    async def main() -> None:
        watch = Watch.shared() if shared else None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            with socket.socket() as sock:
                sock.setblocking(False)
                await connect(sock, address)
                assert sock.getpeername() == address
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as caught:
                await connect(sock, address)
            assert caught.value.errno == errno.ECONNREFUSED
        if watch is not None:
            watch.close()

    on_loop(main())
