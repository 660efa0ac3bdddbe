"""The relay against real kernel sockets: every row of the mapping table, backpressure and credit, on both loops."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from quicsocks.socks.watch import Watch
from quicsocks.userspace.flows import FlowTable
from quicsocks.userspace.quic.types import Pump
from quicsocks.userspace.relay import READ_SIZE, Charge, Relay
from quicsocks.userspace.tunnel.types import Cause, FlowFailed, FlowHandler
from tests.tcp import LOOPS, close_with_reset, run, tcp_pair, wait_until

Loop = Callable[[], asyncio.AbstractEventLoop]


class FakeFlow:
    """Notes what the relay asks of it."""

    id = 4

    def __init__(self) -> None:
        self.written = bytearray()
        self.credit = 0
        self.finished = False
        self.was_reset = False
        self.handler: FlowHandler | None = None

    @property
    def send_buffered(self) -> int:
        return 0

    def set_handler(self, handler: FlowHandler) -> None:
        self.handler = handler

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.finished
        assert not self.was_reset
        self.written += data

    def finish(self) -> None:
        self.finished = True

    def reset(self) -> None:
        self.was_reset = True

    def consumed(self, size: int) -> None:
        self.credit += size

    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> Pump | None:
        return None


class Scene:
    """A relay between a fake flow and one end of a TCP pair; ``app`` is the other end."""

    def __init__(self, early: bytes = b"", charge: Charge | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.app, inner = tcp_pair()
        self.flow = FakeFlow()
        self.outcomes: list[FlowFailed | None] = []
        self.watch = Watch()
        self.relay = Relay(self.flow, inner, self.outcomes.append, loop=loop, watch=self.watch, charge=charge)
        self.inner = inner
        self.flow.set_handler(self.relay)
        self.relay.start(early)

    async def receive(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < size:
            chunk = await loop.sock_recv(self.app, size - len(data))
            if not chunk:
                break
            data += chunk
        return bytes(data)

    def close(self) -> None:
        self.app.close()
        if not self.outcomes:
            self.relay.abort(Cause.RESET)
        self.watch.close()


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Loop:
    factory: Loop = request.param
    return factory


def test_bytes_pass_both_ways_and_fins_end_the_flow_in_order(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene(early=b"early ")
        await asyncio.get_running_loop().sock_sendall(scene.app, b"upstream")
        scene.relay.data_received(b"down")
        scene.relay.data_received(b"stream")
        assert await scene.receive(10) == b"downstream"
        await wait_until(lambda: scene.flow.written == b"early upstream")
        assert scene.flow.credit == 10
        scene.app.shutdown(socket.SHUT_WR)
        await wait_until(lambda: scene.flow.finished)
        assert scene.outcomes == []
        scene.relay.data_received(b"after the half-close")
        scene.relay.eof_received()
        assert await scene.receive(100) == b"after the half-close"
        assert scene.outcomes == [None]
        assert not scene.flow.was_reset
        scene.close()

    run(main(), loop_factory)


def test_fin_from_the_flow_first_then_from_the_socket(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.relay.data_received(b"bye")
        scene.relay.eof_received()
        assert await scene.receive(10) == b"bye"
        assert scene.outcomes == []
        await asyncio.get_running_loop().sock_sendall(scene.app, b"still here")
        scene.app.close()
        await wait_until(lambda: bool(scene.outcomes))
        assert scene.flow.written == b"still here"
        assert scene.flow.finished
        assert scene.outcomes == [None]

    run(main(), loop_factory)


def test_reset_from_the_socket_resets_the_flow(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        close_with_reset(scene.app)
        await wait_until(lambda: bool(scene.outcomes))
        assert scene.flow.was_reset
        assert not scene.flow.finished
        assert scene.outcomes[0] is not None
        assert scene.outcomes[0].cause is Cause.RESET

    run(main(), loop_factory)


def test_half_closed_then_reset_is_noticed_without_anything_to_write(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.app.shutdown(socket.SHUT_WR)
        await wait_until(lambda: scene.flow.finished)
        assert not scene.flow.was_reset
        close_with_reset(scene.app)
        await wait_until(lambda: bool(scene.outcomes))
        assert scene.flow.was_reset

    run(main(), loop_factory)


def test_reset_while_reading_is_paused_is_noticed(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.relay.pause_writing()
        await asyncio.get_running_loop().sock_sendall(scene.app, b"unread")
        close_with_reset(scene.app)
        await wait_until(lambda: bool(scene.outcomes))
        assert scene.flow.was_reset
        assert scene.flow.written == b""

    run(main(), loop_factory)


def test_reset_from_the_flow_resets_the_socket(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.relay.flow_ended(FlowFailed(Cause.RESET))
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(scene.app, 1)
        assert [outcome and outcome.cause for outcome in scene.outcomes] == [Cause.RESET]
        assert not scene.flow.was_reset
        scene.close()

    run(main(), loop_factory)


def test_reset_from_the_flow_after_its_fin_resets_the_socket(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.relay.eof_received()
        assert await scene.receive(1) == b""
        scene.relay.flow_ended(FlowFailed(Cause.RESET))
        assert scene.outcomes
        await wait_until(lambda: scene.app.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)
        scene.close()

    run(main(), loop_factory)


def test_a_paused_flow_reads_nothing_and_goes_on_when_resumed(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.relay.pause_writing()
        await asyncio.get_running_loop().sock_sendall(scene.app, b"later")
        for _ in range(20):
            await asyncio.sleep(0)
        assert scene.flow.written == b""
        scene.relay.resume_writing()
        await wait_until(lambda: scene.flow.written == b"later")
        scene.close()

    run(main(), loop_factory)


def test_credit_is_returned_only_for_what_the_kernel_took(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        chunk = bytes(READ_SIZE)
        total = 256
        for _ in range(total):
            scene.relay.data_received(chunk)
        credit = -1
        while credit != scene.flow.credit:
            credit = scene.flow.credit
            await asyncio.sleep(0.01)
        assert 0 < credit < total * READ_SIZE
        received = await scene.receive(total * READ_SIZE)
        assert len(received) == total * READ_SIZE
        await wait_until(lambda: scene.flow.credit == total * READ_SIZE)
        scene.close()

    run(main(), loop_factory)


def test_credit_of_what_is_thrown_away_is_returned(loop_factory: Loop) -> None:
    async def main() -> None:
        scene = Scene()
        scene.relay.data_received(b"12345")
        scene.relay.flow_ended(FlowFailed(Cause.RESET))
        scene.relay.data_received(b"678")
        assert scene.flow.credit == 8
        scene.close()

    run(main(), loop_factory)


def test_no_descriptor_is_left_open(loop_factory: Loop) -> None:
    async def main() -> None:
        scenes = [Scene() for _ in range(5)]
        for scene in scenes:
            scene.close()
        assert all(scene.inner.fileno() == -1 for scene in scenes)
        assert all(scene.outcomes for scene in scenes)

    run(main(), loop_factory)


def test_a_new_flow_of_a_client_in_debt_waits_before_its_first_byte(loop_factory: Loop) -> None:
    async def main() -> None:
        debts = [0.05]
        scene = Scene(charge=lambda size, now: debts.pop() if debts else 0.0)
        await asyncio.get_running_loop().sock_sendall(scene.app, b"up")
        scene.relay.data_received(b"down")
        for _ in range(20):
            await asyncio.sleep(0)
        assert scene.flow.written == b""
        assert scene.flow.credit == 0
        assert await scene.receive(4) == b"down"
        await wait_until(lambda: scene.flow.written == b"up")
        scene.close()

    run(main(), loop_factory)


def test_a_socket_that_cannot_be_watched_is_reset_with_its_flow(
    loop_factory: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        def refuse(watch: Watch, sock: socket.socket, callback: Callable[[bool], None], **options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Watch, "add", refuse)
        scene = Scene()
        assert scene.outcomes
        assert scene.flow.was_reset
        assert scene.inner.fileno() == -1
        scene.close()

    run(main(), loop_factory)


def test_an_idle_flow_is_ended_and_a_busy_one_is_not() -> None:
    async def main() -> None:
        table = FlowTable(asyncio.get_running_loop(), idle_timeout=0.2)
        idle, busy = Scene(), Scene()
        for scene in (idle, busy):
            table.add(scene.relay)
        while not idle.outcomes:
            busy.relay.data_received(b".")
            await asyncio.sleep(0.01)
        assert idle.outcomes[0] is not None
        assert idle.outcomes[0].cause is Cause.TIMED_OUT
        assert idle.flow.was_reset
        assert busy.outcomes == []
        table.remove(idle.relay)
        assert len(table) == 1
        assert table.bytes_received == busy.relay.received
        idle.close()
        busy.close()
        table.remove(busy.relay)
        await table.wait_empty()
        table.close()

    run(main())
