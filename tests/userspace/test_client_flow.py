"""What a front door sees of a flow by callbacks: told once, whatever happens and in whatever order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from quicsocks.socks.deadlines import Deadlines
from quicsocks.socks.types import Bound, Failure, FlowError, Request
from quicsocks.userspace.client_flow import ClientFlow
from quicsocks.userspace.flows import FlowTable
from quicsocks.userspace.tunnel.types import BoundAddress, Cause, FlowFailed
from tests.socks.test_deadlines import FakeClock
from tests.tcp import LOOPS, run, tcp_pair, wait_until

from .test_relay import FakeFlow

Loop = Callable[[], asyncio.AbstractEventLoop]
Told = Bound | FlowError


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Loop:
    factory: Loop = request.param
    return factory


class Scene:
    """A flow that is being opened over a fake tunnel flow."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.table = FlowTable(loop)
        self.flow = ClientFlow(Request("192.0.2.7", 80, "socks5"), self.table, loop)
        self.tunnel = FakeFlow()
        self.tunnel.set_handler(self.flow.events)
        self.flow.attach(self.tunnel)
        self.told: list[Told] = []
        self.over: list[Exception | None] = []

    def answer(self) -> None:
        assert self.tunnel.handler is not None
        self.tunnel.handler.connected(BoundAddress("192.0.2.1", 4321))


def test_told_when_it_is_answered(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.flow.when_connected(scene.told.append)
        assert scene.told == []
        scene.answer()
        assert scene.told == [Bound("192.0.2.1", 4321)]
        assert await scene.flow.connected() == scene.told[0]
        scene.flow.abort()
        assert len(scene.told) == 1
        assert len(scene.table) == 0
        scene.table.close()

    run(main(), loop_factory)


def test_told_at_once_when_it_is_known(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.answer()
        scene.flow.when_connected(scene.told.append)
        assert scene.told == [Bound("192.0.2.1", 4321)]
        broken = Scene()
        broken.flow.fail(FlowError(Failure.DENIED))
        broken.flow.when_connected(broken.told.append)
        assert isinstance(broken.told[0], FlowError)
        assert broken.told[0].failure is Failure.DENIED
        scene.flow.abort()
        for each in (scene, broken):
            each.table.close()

    run(main(), loop_factory)


@pytest.mark.parametrize("how", ["refused", "aborted", "expired"])
def test_told_once_when_it_fails(loop_factory: Loop, how: str) -> None:
    async def main() -> None:
        scene = Scene()
        clock = FakeClock()
        deadlines: Deadlines[ClientFlow] = Deadlines(45.0, ClientFlow.expire, clock)
        scene.flow.expire_in(deadlines)
        scene.flow.when_connected(scene.told.append)
        expected = Failure.RESET
        if how == "refused":
            assert scene.tunnel.handler is not None
            scene.tunnel.handler.flow_ended(FlowFailed(Cause.REFUSED))
            expected = Failure.REFUSED
        elif how == "aborted":
            scene.flow.abort()
        else:
            clock.advance(44.9)
            assert scene.told == []
            clock.advance(0.1)
            expected = Failure.TIMED_OUT
        assert isinstance(scene.told[0], FlowError)
        assert scene.told[0].failure is expected
        scene.flow.abort()
        clock.advance(100.0)
        assert len(scene.told) == 1
        assert len(deadlines) == 0
        with pytest.raises(FlowError):
            await scene.flow.connected()
        scene.table.close()

    run(main(), loop_factory)


def test_an_answer_in_time_ends_the_deadline(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        clock = FakeClock()
        scene.flow.expire_in(Deadlines(45.0, ClientFlow.expire, clock))
        scene.answer()
        clock.advance(100.0)
        assert not scene.tunnel.was_reset
        scene.flow.abort()
        scene.table.close()

    run(main(), loop_factory)


def carried(scene: Scene) -> tuple[socket.socket, socket.socket]:
    """Carry one end of a pair of sockets as soon as the flow stands."""
    application, inner = tcp_pair()
    scene.flow.when_connected(lambda outcome: scene.flow.carry(inner, b"early ", scene.over.append))
    return application, inner


def test_a_flow_is_carried_from_the_callback_and_counted_once(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        application, _ = carried(scene)
        scene.answer()
        assert (scene.table.opened, len(scene.table)) == (1, 1)
        application.send(b"bytes")
        await wait_until(lambda: scene.tunnel.written == b"early bytes")
        assert scene.over == []
        application.shutdown(socket.SHUT_WR)
        await wait_until(lambda: scene.tunnel.finished)
        assert scene.tunnel.handler is not None
        scene.tunnel.handler.eof_received()
        assert scene.over == [None]
        assert len(scene.table) == 0
        assert scene.table.bytes_sent == len(b"early bytes")
        scene.flow.abort()
        assert scene.over == [None]
        application.close()
        scene.table.close()

    run(main(), loop_factory)


def test_aborting_a_carried_flow_resets_both_sides_and_tells_once(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        application, inner = carried(scene)
        scene.answer()
        scene.flow.abort()
        assert scene.over == [None]
        assert scene.tunnel.was_reset
        assert inner.fileno() == -1
        await wait_until(lambda: _is_reset(application))
        application.close()
        scene.table.close()

    run(main(), loop_factory)


def test_what_comes_between_the_answer_and_the_relay_is_not_lost(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        application, inner = tcp_pair()
        scene.answer()
        handler = scene.tunnel.handler
        assert handler is not None
        handler.data_received(b"first ")
        handler.data_received(b"second")
        handler.eof_received()
        assert (scene.table.opened, len(scene.table)) == (1, 1)
        scene.flow.carry(inner, b"", scene.over.append)
        assert (scene.table.opened, len(scene.table)) == (1, 1)
        received = bytearray()
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(application, 100):
            received += data
        assert received == b"first second"
        assert scene.tunnel.credit == len(received)
        application.close()
        await wait_until(lambda: scene.over == [None])
        scene.table.close()

    run(main(), loop_factory)


def test_a_flow_that_broke_meanwhile_resets_the_socket_it_is_given(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        application, inner = tcp_pair()
        scene.answer()
        scene.table.watch.add(inner, lambda failed: None, reading=True)
        scene.flow.fail(FlowError(Failure.RESET))
        scene.flow.carry(inner, b"", scene.over.append)
        assert scene.over == [None]
        assert inner.fileno() == -1
        await wait_until(lambda: _is_reset(application))
        application.close()
        scene.table.close()

    run(main(), loop_factory)


def _is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) is None
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
