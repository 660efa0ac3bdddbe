"""The machine that takes an ordinary connection from its accept to its tunnel: every step, and every way out of it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from quicsocks.socks.connection import Phase
from quicsocks.socks.credentials import Credentials
from quicsocks.socks.deadlines import Deadlines
from quicsocks.socks.epolled import accept
from quicsocks.socks.opening import Opening
from quicsocks.socks.types import Bound, Failure, FlowError, Request

from .conftest import Run
from .support import HTTP_CONNECT, SOCKS5_CONNECT, SOCKS5_GREETING, SOCKS5_OK, Application, Door, door
from .test_deadlines import FakeClock

PASSWORD_GREETING = b"\x05\x02\x00\x02"
PASSWORD = b"\x01\x03ann\x06secret"
WAYS = {
    "open": (None, SOCKS5_GREETING + SOCKS5_CONNECT, SOCKS5_OK),
    "password": (
        Credentials({"ann": "secret"}),
        PASSWORD_GREETING + PASSWORD + SOCKS5_CONNECT,
        b"\x05\x02\x01\x00" + SOCKS5_OK[2:],
    ),
}
"""Credentials, what a client sends, what it is answered."""

STEPS = {
    "silent": b"",
    "in the greeting": SOCKS5_GREETING[:1],
    "greeted": SOCKS5_GREETING,
    "in the request": SOCKS5_GREETING + SOCKS5_CONNECT[:7],
    "asked": SOCKS5_GREETING + SOCKS5_CONNECT,
}
"""How far a client has come, by what it has sent."""


async def until(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0)


def unread(sock: socket.socket) -> int:
    """Bytes that the kernel holds for sock."""
    return _octets(sock, termios.FIONREAD)


def _octets(sock: socket.socket, request: int) -> int:
    """What tcp(7) answers: FIONREAD, or TIOCOUTQ for what the other end has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0])


def opening_of(d: Door) -> Opening:
    """The only connection there is."""
    (opening,) = d.listener._openings
    return opening


async def until_read(application: Application, opening: Opening) -> None:
    """Wait until all that was sent and is the opening's to read has arrived and been read."""
    await until(
        lambda: opening.asked or (_octets(application.sock, termios.TIOCOUTQ) == 0 and unread(opening.sock) == 0)
    )


@contextlib.asynccontextmanager
async def opened(d: Door, sent: bytes) -> AsyncIterator[tuple[Application, Opening]]:
    """A client that has sent so much, all of which has been read."""
    application = await d.connect()
    await until(lambda: d.listener._openings)
    opening = opening_of(d)
    await application.send(sent)
    await until_read(application, opening)
    if sent.startswith(SOCKS5_GREETING) and sent != STEPS["asked"]:
        await application.expect(b"\x05\x00")
    yield application, opening


class ScriptedFlow:
    """A flow that calls back when the test says so, with a bug in the step that is named."""

    def __init__(self, step: str = "") -> None:
        self._step = step
        self.told: Callable[[Bound | FlowError], None] | None = None
        self.sock: socket.socket | None = None
        self.over: Callable[[Exception | None], None] | None = None
        self.aborted = 0

    def accept(self) -> None:
        assert self.told is not None
        self.told(Bound("192.0.2.1", 4321))

    def end(self) -> None:
        assert self.over is not None
        assert self.sock is not None
        self.sock.close()
        self.over(None)

    def when_connected(self, told: Callable[[Bound | FlowError], None]) -> None:
        if self._step == "when_connected":
            raise RuntimeError("a bug")
        self.told = told

    def carry(self, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
        if self._step == "carry":
            raise RuntimeError("a bug")
        self.sock, self.over = sock, over
        if self._step == "over":
            over(RuntimeError("a bug"))

    def abort(self) -> None:
        self.aborted += 1


def set_clock(d: Door) -> FakeClock:
    """Let the listener's deadlines run on a clock of the test's own."""
    clock = FakeClock()
    listener, config = d.listener, d.listener.config
    listener.handshakes = Deadlines(config.handshake_timeout, Opening.handshake_expired, clock)
    listener.connects = Deadlines(config.connect_timeout, Opening.connect_expired, clock)
    return clock


@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_split_in_two_and_one_byte_at_a_time(way: str, on_loop: Run) -> None:
    credentials, sent, answer = WAYS[way]

    async def main() -> None:
        async with door(credentials=credentials) as d:
            for cut in range(1, len(sent) + 1):
                pieces = [sent[:cut], sent[cut:]] if cut < len(sent) else [sent[i : i + 1] for i in range(len(sent))]
                application = await d.connect()
                await until(lambda: d.listener._openings)
                opening = opening_of(d)
                for piece in pieces:
                    await application.send(piece)
                    await until_read(application, opening)
                assert opening.task is None, "an ordinary connection has a task"
                flow = await d.next_flow()
                assert flow.request == Request(
                    "example.com", 80, "socks5", application.sock.getsockname(), "ann" if credentials else None
                )
                flow.accept()
                await application.expect(answer)
                assert opening.phase is Phase.OPEN
                application.reset()
                await flow.until_over()
                await until(lambda: not d.listener._openings)
        assert d.listener.statistics().failed == 0

    on_loop(main())


def test_no_task_is_made(on_loop: Run) -> None:
    async def main() -> None:
        flow = ScriptedFlow()

        class Exit:
            def open(self, request: Request) -> Any:
                return flow

        async with door(Exit()) as d:
            before = asyncio.all_tasks()
            for name, sent in STEPS.items():
                async with opened(d, sent) as (application, _):
                    assert asyncio.all_tasks() == before
                    if name == "asked":
                        flow.accept()
                        await application.expect(SOCKS5_OK)
                        assert asyncio.all_tasks() == before
                        flow.end()
                    else:
                        application.reset()
                    await until(lambda: not d.listener._openings)

    on_loop(main())


@pytest.mark.parametrize("early", [b"x", bytes(20_000)])
def test_early_data_behind_the_request_goes_into_the_flow(early: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT + early)
            flow = await d.next_flow()
            assert flow.written == b""
            flow.accept()
            await application.expect(SOCKS5_OK)
            await application.send(b"end")
            await flow.until_written(b"end")
            assert flow.written == early + b"end"

    on_loop(main())


# Time.


@pytest.mark.parametrize("step", [step for step in STEPS if step != "asked"])
def test_a_request_must_come_in_time(step: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door(handshake_timeout=30.0) as d:
            clock = set_clock(d)
            async with opened(d, STEPS[step]) as (application, opening):
                clock.advance(29.9)
                assert not opening.task
                clock.advance(0.1)
                await application.expect_eof()
                application.close()
                await until(lambda: not d.listener._openings)
            assert d.listener.statistics().failed == 1
            clock.advance(1000.0)

    on_loop(main())


def test_a_destination_must_answer_in_time(on_loop: Run) -> None:
    async def main() -> None:
        async with door(connect_timeout=180.0) as d:
            clock = set_clock(d)
            async with opened(d, STEPS["asked"]) as (application, _):
                flow = await d.next_flow()
                states = []
                for seconds in (179.9, 0.1):
                    clock.advance(seconds)
                    states.append(flow.aborted)
                assert states == [False, True]
                await application.expect(b"\x05\x00\x05\x06\x00\x01" + bytes(6))
                await application.expect_eof()

    on_loop(main())


def test_an_answer_in_time_ends_the_clock(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            clock = set_clock(d)
            async with opened(d, STEPS["asked"]) as (application, _):
                flow = await d.next_flow()
                flow.accept()
                await application.expect(SOCKS5_OK)
                clock.advance(100_000.0)
                flow.feed(b"still there")
                await application.expect(b"still there")
            assert len(d.listener.handshakes) == len(d.listener.connects) == 0

    on_loop(main())


# Clients that go.


@pytest.mark.parametrize("step", sorted(STEPS))
def test_a_reset_at_any_step_ends_it(step: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            async with opened(d, STEPS[step]) as (application, _):
                flow = await d.next_flow() if step == "asked" else None
                application.reset()
                await until(lambda: not d.listener._openings)
                assert flow is None or flow.aborted
            assert d.listener.statistics().open == 0
            assert len(d.listener.handshakes) == len(d.listener.connects) == 0

    on_loop(main())


@pytest.mark.parametrize(
    ("step", "failed"), [("silent", 0), ("in the greeting", 1), ("greeted", 1), ("in the request", 1)]
)
def test_a_fin_before_the_request_ends_it(step: str, failed: int, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            async with opened(d, STEPS[step]) as (application, _):
                application.half_close()
                await application.expect_eof()
                await until(lambda: not d.listener._openings)
            assert d.listener.statistics().failed == failed

    on_loop(main())


def test_a_fin_behind_the_request_is_the_flows(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d, opened(d, STEPS["asked"]) as (application, _):
            application.half_close()
            flow = await d.next_flow()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not flow.aborted
            flow.accept()
            await application.expect(SOCKS5_OK)
            await flow.until_write_ended()

    on_loop(main())


# Refusals, and what is handed over.


@pytest.mark.parametrize("failure", list(Failure))
def test_a_flow_that_fails_is_answered(failure: Failure, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d, opened(d, STEPS["asked"]) as (application, opening):
            (await d.next_flow()).refuse(failure)
            answer = await application.read_all()
            assert answer[:3] == b"\x05\x00\x05"
            assert answer[3] != 0
            assert opening.asked

    on_loop(main())


@pytest.mark.parametrize(
    ("sent", "answer", "denied"),
    [
        (b"\x05\x01\x02", b"\x05\xff", 1),
        (PASSWORD_GREETING + b"\x01\x03ann\x05wrong", b"\x05\x02\x01\x01", 1),
        (PASSWORD_GREETING + PASSWORD + b"\x06", b"\x05\x02\x01\x00\x05\x01\x00\x01" + bytes(6), 0),
        (
            PASSWORD_GREETING + PASSWORD + b"\x05\x02\x00\x01" + bytes(6),
            b"\x05\x02\x01\x00\x05\x07\x00\x01" + bytes(6),
            0,
        ),
    ],
    ids=["no method", "wrong password", "bad request", "BIND"],
)
def test_what_is_wrong_is_answered_and_closed(sent: bytes, answer: bytes, denied: int, on_loop: Run) -> None:
    credentials = Credentials({"ann": "secret"}) if sent[2:] != b"\x02" else None

    async def main() -> None:
        async with door(credentials=credentials if credentials else Credentials({"bob": "b"})) as d:
            if credentials is None:
                application = await d.connect(b"\x05\x01\x00")
            else:
                application = await d.connect(sent)
            assert await application.read_all() == answer
            assert d.listener.statistics().denied == denied

    on_loop(main())


def test_another_protocol_gets_what_has_been_read(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(HTTP_CONNECT[:1])
            await until(lambda: d.listener._openings)
            opening = opening_of(d)
            await until(lambda: opening.task is not None)
            await application.send(HTTP_CONNECT[1:])
            (await d.next_flow()).accept()
            assert (await application.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    on_loop(main())


class Sticky(socket.socket):
    """A socket whose kernel takes no more than room bytes."""

    room = 1 << 30

    def send(self, data: Any, flags: int = 0) -> int:
        if self.room <= 0:
            raise BlockingIOError
        sent = super().send(data[: self.room], flags)
        self.room -= sent
        return sent


@pytest.fixture
def sticky(monkeypatch: pytest.MonkeyPatch) -> list[Sticky]:
    """The listener's connections, which are such sockets."""
    made: list[Sticky] = []

    def accept_sticky(listening: socket.socket) -> tuple[socket.socket, tuple[str, int] | None] | None:
        accepted = accept(listening)
        if accepted is None:
            return None
        sock, peer = accepted
        made.append(Sticky(sock.family, sock.type, 0, sock.detach()))
        made[-1].setblocking(False)
        return made[-1], peer

    monkeypatch.setattr("quicsocks.socks.listener.accept", accept_sticky)
    return made


@pytest.mark.parametrize("room", [0, 1])
def test_a_greeting_that_the_kernel_does_not_take(room: int, on_loop: Run, sticky: list[Sticky]) -> None:
    async def main() -> None:
        async with door() as d, opened(d, b"") as (application, opening):
            sticky[-1].room = room
            await application.send(SOCKS5_GREETING)
            await until(lambda: opening.task is not None)
            sticky[-1].room = 1 << 30
            await application.expect(b"\x05\x00")
            await application.send(SOCKS5_CONNECT)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(SOCKS5_OK[2:])
            flow.feed(b"and on it goes")
            await application.expect(b"and on it goes")

    on_loop(main())


@pytest.mark.parametrize("room", [0, 1])
def test_a_greeting_that_the_kernel_does_not_take_with_the_request_behind(
    room: int, on_loop: Run, sticky: list[Sticky]
) -> None:
    async def main() -> None:
        async with door() as d, opened(d, b"") as (application, opening):
            sticky[-1].room = room
            await application.send(SOCKS5_GREETING + SOCKS5_CONNECT + b"early")
            await until(lambda: opening.task is not None)
            assert d.memory.flows == []
            sticky[-1].room = 1 << 30
            flow = await d.next_flow()
            flow.accept()
            await application.expect(SOCKS5_OK)
            await flow.until_written(b"early")

    on_loop(main())


@pytest.mark.parametrize("room", [0, 9])
def test_a_reply_that_the_kernel_does_not_take(room: int, on_loop: Run, sticky: list[Sticky]) -> None:
    async def main() -> None:
        async with door() as d, opened(d, STEPS["asked"]) as (application, opening):
            flow = await d.next_flow()
            sticky[-1].room = room
            flow.accept()
            await until(lambda: opening.task is not None)
            sticky[-1].room = 1 << 30
            await application.expect(SOCKS5_OK)
            flow.feed(b"and on it goes")
            await application.expect(b"and on it goes")

    on_loop(main())


def test_a_client_that_never_takes_its_greeting_runs_out_of_time(on_loop: Run, sticky: list[Sticky]) -> None:
    async def main() -> None:
        async with door(handshake_timeout=0.1, linger_timeout=0.1) as d, opened(d, b"") as (application, _):
            sticky[-1].room = 0
            await application.send(SOCKS5_GREETING)
            await until(lambda: not d.listener._openings)
            assert d.listener.statistics().failed == 1

    on_loop(main())


# Our own mistakes.


@pytest.mark.parametrize("step", ["open", "when_connected", "carry", "over"])
def test_an_internal_error_ends_one_connection_and_is_reported(step: str, on_loop: Run) -> None:
    async def main() -> None:
        flow = ScriptedFlow(step)

        class BrokenExit:
            def open(self, request: Request) -> Any:
                if step == "open":
                    raise RuntimeError("a bug")
                return flow

        async with door(BrokenExit()) as d:
            application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
            if step in ("carry", "over"):
                await until(lambda: flow.told is not None)
                flow.accept()
            await application.expect_reset()
            assert flow.aborted == (1 if step in ("when_connected", "carry") else 0)
            assert d.listener.statistics().open == 0
            assert [kind for kind, _ in d.events] == ["internal"]
            d.events.clear()

    on_loop(main())


# Closing, and making room.


@pytest.mark.parametrize("step", sorted(STEPS))
def test_closing_the_listener_at_any_step(step: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d, opened(d, STEPS[step]) as (application, _):
            flow = await d.next_flow() if step == "asked" else None
            await d.listener.close()
            assert d.listener.statistics().open == 0
            assert flow is None or flow.aborted
            with contextlib.suppress(ConnectionResetError):
                await application.read_all()

    on_loop(main())


def test_closing_lets_a_handshake_finish(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d, opened(d, STEPS["greeted"]) as (application, _):
            closing = asyncio.ensure_future(d.listener.close(drain=10.0))
            await application.send(SOCKS5_CONNECT)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(SOCKS5_OK[2:])
            flow.feed(b"answer")
            flow.feed_eof()
            assert await application.read_all() == b"answer"
            application.half_close()
            await closing
            assert not flow.aborted

    on_loop(main())


@pytest.mark.parametrize("step", sorted(STEPS))
def test_only_what_has_not_asked_makes_room(step: str, on_loop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicsocks.socks.listener.HANDSHAKE_PATIENCE", 0.0)

    async def main() -> None:
        async with door(max_connections=1) as d, opened(d, STEPS[step]) as (application, opening):
            other = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
            if step == "asked":
                assert (await other.read_all())[:4] == b"\x05\x00\x05\x01"
                assert not opening.evicted
            else:
                with pytest.raises(ConnectionResetError):
                    await application.expect(b"anything")
                (await d.next_flow()).accept()
                await other.expect(SOCKS5_OK)
                assert opening.evicted

    on_loop(main())
