"""The whole program over a transport in memory: flows, failures, reconnection, revocation, goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quicsocks.socks.types import Failure, FlowError
from quicsocks.userspace.quic.errors import End, Ended
from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.types import Limits
from quicsocks.userspace.settings import Rule
from quicsocks.userspace.tunnel.types import ALPN_QT
from tests.tcp import close_with_reset, run, tcp_pair, wait_until
from tests.userspace.memory_world import Origin, World

ENGINES = pytest.mark.parametrize("engine", ["memory", "aioquic", "native"])


@contextlib.asynccontextmanager
async def world(folder: Path, *, engine: str = "memory", **options: Any) -> AsyncIterator[tuple[World, Origin]]:
    if engine != "memory":
        near = await open_endpoint((("127.0.0.1", 0),), engine=engine)
        far = await open_endpoint((("127.0.0.1", 0),), engine=engine)
        options["engines"] = (near, far)
    made, origin = World(folder, **options), Origin()
    made.start()
    try:
        yield made, origin
    finally:
        await made.close()
        origin.close()


def in_world(folder: Path, script: Callable[[World, Origin], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with world(folder, **options) as (made, origin):
            await script(made, origin)

    run(main())


async def joined(
    made: World, origin: Origin, buffer: int = 0
) -> tuple[socket.socket, socket.socket, asyncio.Task[None]]:
    """A flow from a kernel socket to a kernel socket: the application's end, the destination's end, the relay."""
    flow = made.open("127.0.0.1", origin.port)
    accepting = asyncio.create_task(origin.accept())
    bound = await flow.connected()
    far = await accepting
    assert (bound.host, bound.port) == far.getpeername()[:2]
    app, inner = tcp_pair(buffer)
    relay = asyncio.create_task(flow.relay(inner))
    return app, far, relay


def has_error(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


async def read_all(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while chunk := await loop.sock_recv(sock, 1 << 16):
        data += chunk
    return bytes(data)


@ENGINES
def test_bytes_and_half_closes_pass_in_both_directions(tmp_path: Path, engine: str) -> None:
    async def script(made: World, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        app, far, relay = await joined(made, origin)
        await loop.sock_sendall(app, b"request")
        app.shutdown(socket.SHUT_WR)
        assert await read_all(far) == b"request"
        await loop.sock_sendall(far, b"answer" * 10_000)
        far.close()
        assert await read_all(app) == b"answer" * 10_000
        await relay
        assert len(made.flows) == 0
        await made.concentrator.flows.wait_empty()
        assert made.flows.bytes_sent == made.concentrator.flows.bytes_received == len(b"request")
        (told,) = made.concentrator.status()["clients"]
        assert (told["flows"], told["bytes_in"], told["bytes_out"]) == (0, 7, 60_000)
        assert (told["packets_sent"] > 0) is (engine != "memory")
        assert made.concentrator.status()["tunnel"]["flows"] == 1
        app.close()

    in_world(tmp_path, script, engine=engine)


@ENGINES
@pytest.mark.parametrize("at_destination", [False, True])
@pytest.mark.parametrize("half_closed", [False, True])
def test_a_reset_passes_to_the_other_end(tmp_path: Path, engine: str, at_destination: bool, half_closed: bool) -> None:
    async def script(made: World, origin: Origin) -> None:
        app, far, relay = await joined(made, origin)
        dying, other = (far, app) if at_destination else (app, far)
        if half_closed:
            dying.shutdown(socket.SHUT_WR)
            assert await read_all(other) == b""
        close_with_reset(dying)
        await wait_until(functools.partial(has_error, other))
        await relay
        await made.concentrator.flows.wait_empty()
        app.close()

    in_world(tmp_path, script, engine=engine)


@ENGINES
def test_a_reset_while_the_reader_is_stalled_passes(tmp_path: Path, engine: str) -> None:
    async def script(made: World, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        app, far, relay = await joined(made, origin)
        stuffing = asyncio.create_task(loop.sock_sendall(far, bytes(64 << 20)))
        moved = -1
        while moved != made.flows.bytes_received:
            moved = made.flows.bytes_received
            await asyncio.sleep(0.05)
        assert not stuffing.done()
        close_with_reset(app)
        with pytest.raises(OSError):
            await stuffing
        await relay
        await made.concentrator.flows.wait_empty()

    in_world(tmp_path, script, engine=engine)


@ENGINES
def test_a_stalled_flow_costs_a_window_and_others_run_on(tmp_path: Path, engine: str) -> None:
    limits = Limits(stream_window=256 << 10, session_window=1 << 20)

    async def script(made: World, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        stalled = [await joined(made, origin, buffer=4096) for _ in range(3)]
        stuffing = [asyncio.create_task(loop.sock_sendall(far, bytes(32 << 20))) for _, far, _ in stalled]
        moved = -1
        while moved != made.concentrator.flows.bytes_sent:
            moved = made.concentrator.flows.bytes_sent
            await asyncio.sleep(0.05)
        app, far, relay = await joined(made, origin)
        sending = asyncio.create_task(loop.sock_sendall(far, bytes(8 << 20)))
        sending.add_done_callback(lambda _: far.close())
        assert len(await read_all(app)) == 8 << 20
        app.close()
        await relay
        for (near, other, task), stuff in zip(stalled, stuffing, strict=True):
            close_with_reset(near)
            with pytest.raises(OSError):
                await stuff
            await task
            other.close()
        # The windows of what was thrown away are back: a new flow moves more than all of them.
        app, far, relay = await joined(made, origin)
        sending = asyncio.create_task(loop.sock_sendall(far, bytes(4 << 20)))
        sending.add_done_callback(lambda _: far.close())
        assert len(await read_all(app)) == 4 << 20
        app.close()
        await relay

    in_world(tmp_path, script, engine=engine, limits=limits)


def test_many_stalled_flows_do_not_stop_those_that_move(tmp_path: Path) -> None:
    """A browser full of paused downloads: each may hold a little, together they must not hold everything."""
    limits = Limits(initial_stream_window=8 << 10, stream_window=256 << 10, session_window=1 << 20)

    async def script(made: World, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        stalled = [await joined(made, origin, buffer=4096) for _ in range(24)]
        stuffing = [asyncio.create_task(loop.sock_sendall(far, bytes(32 << 20))) for _, far, _ in stalled]
        moved = -1
        while moved != made.flows.bytes_received:
            moved = made.flows.bytes_received
            await asyncio.sleep(0.1)
        app, far, relay = await joined(made, origin)
        sending = asyncio.create_task(loop.sock_sendall(far, bytes(4 << 20)))
        sending.add_done_callback(lambda _: far.close())
        assert len(await read_all(app)) == 4 << 20
        app.close()
        await relay
        for (near, other, task), stuff in zip(stalled, stuffing, strict=True):
            close_with_reset(near)
            with pytest.raises(OSError):
                await stuff
            await task
            other.close()

    in_world(tmp_path, script, limits=limits, engine="aioquic")


@ENGINES
def test_the_far_ends_failures_come_back_as_they_are(tmp_path: Path, engine: str) -> None:
    async def script(made: World, origin: Origin) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            closed_port = probe.getsockname()[1]
        cases = [
            ("127.0.0.1", closed_port, Failure.REFUSED),
            ("10.0.0.1", 80, Failure.ADDRESS_PROHIBITED),
            ("blocked.example", 80, Failure.DENIED),
            ("::1", 80, Failure.ADDRESS_PROHIBITED),
        ]
        for host, port, failure in cases:
            with pytest.raises(FlowError) as caught:
                await made.open(host, port).connected()
            assert caught.value.failure is failure, host

    rules = (Rule("deny", "blocked.example"), Rule("allow", "127.0.0.0/8"))
    in_world(tmp_path, script, engine=engine, rules=rules)


def test_a_request_waits_for_the_tunnel_and_then_fails_in_time(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        made.endpoint.answer = Ended(End.HANDSHAKE_TIMED_OUT)
        await wait_until(lambda: bool(made.notes))
        assert made.notes[0][0] == "unreachable"
        waiting = made.open("127.0.0.1", origin.port)
        with pytest.raises(FlowError) as caught:
            await waiting.connected()
        assert caught.value.failure is Failure.TUNNEL_TIMEOUT
        patient = made.open("127.0.0.1", origin.port)
        made.endpoint.answer = None
        made.uplink.retry_now()
        await patient.connected()
        patient.abort()

    async def main() -> None:
        made, origin = World(tmp_path, wait_for_tunnel=0.3), Origin()
        made.endpoint.answer = Ended(End.HANDSHAKE_TIMED_OUT)
        made.start()
        try:
            await script(made, origin)
        finally:
            await made.close()
            origin.close()

    run(main())


def test_a_lost_connection_breaks_flows_and_is_made_again(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        app, far, relay = await joined(made, origin)
        made.endpoint.links[-1].sever(Ended(End.TIMED_OUT))
        for sock in (app, far):
            await wait_until(functools.partial(has_error, sock))
        await relay
        again = await joined(made, origin)
        assert [event for event, _ in made.notes] == ["connected", "disconnected", "connected"]
        assert made.uplink.reconnections == 1
        again[0].close()
        again[1].close()
        await again[2]
        app.close()

    in_world(tmp_path, script)


def test_a_request_without_an_answer_moves_to_the_next_connection(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        (await made.open("127.0.0.1", origin.port).connected())
        flow = made.open("127.0.0.1", origin.port)
        made.endpoint.links[-1].sever(Ended(End.PEER_RESET))
        await flow.connected()
        assert len(made.endpoint.links) == 2
        flow.abort()

    in_world(tmp_path, script)


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (Ended(End.UNTRUSTED), 3),
        (Ended(End.ALPN_MISMATCH), 3),
        (Ended(End.PEER_CLOSED, 0x201), 3),
        (Ended(End.PEER_CLOSED, 0x205), 3),
    ],
)
def test_a_refusal_at_the_first_attempt_gives_up(tmp_path: Path, ended: Ended, code: int) -> None:
    async def main() -> None:
        made = World(tmp_path)
        made.endpoint.answer = ended
        made.start()
        assert made.running is not None
        assert await made.running == code
        assert len(made.notes) == 1
        assert made.notes[0][0] == "refused"
        await made.close()

    run(main())


def test_a_refusal_after_a_connection_is_tried_again(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await made.open("127.0.0.1", origin.port).connected()
        made.endpoint.answer = Ended(End.UNTRUSTED)
        made.endpoint.links[-1].sever(Ended(End.TIMED_OUT))
        await wait_until(lambda: made.notes[-1][0] == "refused")
        assert made.notes[-1][1].endswith("; trying again, but only every 30 s")
        made.endpoint.answer = None
        made.uplink.retry_now()
        await made.open("127.0.0.1", origin.port).connected()

    in_world(tmp_path, script)


def test_once_gives_up_with_1(tmp_path: Path) -> None:
    async def main() -> None:
        made = World(tmp_path, once=True)
        made.endpoint.answer = Ended(End.UNREACHABLE)
        made.start()
        assert made.running is not None
        assert await made.running == 1
        await made.close()

    run(main())


@ENGINES
def test_a_revoked_client_is_gone_within_a_second_and_stays_out(tmp_path: Path, engine: str) -> None:
    async def script(made: World, origin: Origin) -> None:
        app, _far, relay = await joined(made, origin)
        made.registry.revoke("home", 1.0)
        # What another process has changed is noticed by the watch; here the list itself was told.
        made.registry.reload()
        from quicsocks.userspace.enrolment import Registry
        from quicsocks.userspace.state import StateFolder

        other = Registry(StateFolder(made.settings.state_dir))
        other.add("other", 2.0)
        assert made.concentrator.check_clients() == 1
        await relay
        await wait_until(lambda: made.notes[-1][0] == "refused")
        assert "revoked" in made.notes[-1][1]
        app.close()

    in_world(tmp_path, script, engine=engine)


@ENGINES
def test_drain_says_goodbye_and_lets_flows_end(tmp_path: Path, engine: str) -> None:
    async def script(made: World, origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        app, far, relay = await joined(made, origin)
        draining = asyncio.create_task(made.concentrator.drain())
        await wait_until(lambda: any(event == "disconnected" for event, _ in made.notes))
        assert made.uplink.current is None
        await loop.sock_sendall(app, b"last words")
        app.shutdown(socket.SHUT_WR)
        assert await read_all(far) == b"last words"
        far.close()
        assert await read_all(app) == b""
        await relay
        await draining
        app.close()

    in_world(tmp_path, script, engine=engine)


@ENGINES
def test_bare_qt_takes_addresses_and_refuses_names_without_a_resolver(tmp_path: Path, engine: str) -> None:
    async def script(made: World, origin: Origin) -> None:
        # The draft forbids loopback destinations whatever the rules say.
        with pytest.raises(FlowError) as caught:
            await made.open("127.0.0.1", origin.port).connected()
        assert caught.value.failure is Failure.ADDRESS_PROHIBITED
        with pytest.raises(FlowError) as caught:
            await made.open("example.com", 80).connected()
        assert caught.value.failure is Failure.NAME_NOT_FOUND
        assert "resolver" in caught.value.detail

    in_world(tmp_path, script, engine=engine, alpn=ALPN_QT)
