"""The connection to the concentrator under strain: outages, refusals and goodbyes in every rhythm, and never a busy
loop, a lost flow that could have lived, or a place that a dead request keeps."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from quicsocks.socks.types import Failure, FlowError
from quicsocks.userspace import uplink
from quicsocks.userspace.dialling import _Attempt, _changed, dial
from quicsocks.userspace.quic.errors import End, Ended, LocalError
from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.types import Address, DialConfig, Session, SessionHandler, Trust
from quicsocks.userspace.tunnel.types import Cause, FlowFailed
from tests.tcp import run, wait_until
from tests.userspace.memory_world import MemoryEndpoint, Origin, World
from tests.userspace.test_world import in_world, joined


class Wire:
    """Cuts a real endpoint off the network and joins it again."""

    def __init__(self, endpoint: Any) -> None:
        self.is_cut = False
        send, receive = endpoint._send, endpoint._hub.receive_datagram
        endpoint._send = lambda datagrams: None if self.is_cut else send(datagrams)
        endpoint._hub.receive_datagram = lambda *arguments: None if self.is_cut else receive(*arguments)


def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "TICK", 0.05)
    monkeypatch.setattr(uplink, "SILENCE", 0.1)
    monkeypatch.setattr(uplink, "LAST_CHANCE", 1.5)  # not less: a busy machine may not run us for a while


def test_an_outage_that_the_session_survives_breaks_no_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried(monkeypatch)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near = await open_endpoint((("127.0.0.1", 0),), engine="aioquic")
        far = await open_endpoint((("127.0.0.1", 0),), engine="aioquic")
        wire = Wire(near)
        made, origin = World(tmp_path, engines=(near, far)), Origin()
        made.start()
        try:
            app, destination, relay = await joined(made, origin)
            for outage in (0.4, 0.9, 1.6):
                wire.is_cut = True
                await loop.sock_sendall(app, b"x")
                await asyncio.sleep(outage)
                wire.is_cut = False
                assert await loop.sock_recv(destination, 1) == b"x"
            # Time for a second connection, had one been made, to take over.
            await asyncio.sleep(2.0)
            assert [event for event, _ in made.notes] == ["connected"]
            assert not relay.done()
            assert made.uplink.reconnections == 0
            app.close()
            destination.close()
            await relay
        finally:
            await made.close()
            origin.close()

    run(main())


def test_a_silent_concentrator_that_cannot_be_dialled_is_not_dialled_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried(monkeypatch)
    monkeypatch.setattr(uplink._Hearing, "silent_for", lambda *_: 60.0)

    async def script(made: World, origin: Origin) -> None:
        await wait_until(lambda: bool(made.notes))
        made.endpoint.answer = Ended(End.UNREACHABLE)
        await asyncio.sleep(0.6)
        assert 2 <= len(made.endpoint.dialled) <= 5

    in_world(tmp_path, script)


def test_a_concentrator_that_drops_us_again_and_again_is_not_dialled_without_a_pause(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        async def drop() -> None:
            while True:
                for link in made.endpoint.links:
                    if made.uplink.connected_since is not None and link.client.ended is None:
                        link.sever(Ended(End.PEER_CLOSED, 0x102))
                await asyncio.sleep(0)

        dropping = asyncio.create_task(drop())
        await asyncio.sleep(0.6)
        dropping.cancel()
        assert 2 <= len(made.endpoint.dialled) <= 4

    in_world(tmp_path, script)


def test_goodbyes_without_an_end_leave_few_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "STEADY", 0.0)

    async def script(made: World, origin: Origin) -> None:
        for count in range(1, 12):
            while len(made.endpoint.links) < count or made.uplink.current is None:
                await asyncio.sleep(0)
            made.uplink.current.tunnel_goodbye("go away", 3600.0)
        await wait_until(lambda: len(made.endpoint.links) == 12)
        alive = [link for link in made.endpoint.links if link.client.ended is None]
        assert len(alive) <= uplink.MAX_DRAINING + 1

    in_world(tmp_path, script)


def test_a_flow_refused_for_going_away_is_as_good_as_a_goodbye(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await wait_until(lambda: bool(made.notes))
        begin = made.concentrator._way_out.begin

        def refuse_once(host: str, port: int, told: object) -> Any:
            made.concentrator._way_out.begin = begin  # type: ignore[method-assign] # back to what it was
            raise FlowFailed(Cause.GOING_AWAY)

        made.concentrator._way_out.begin = refuse_once  # type: ignore[method-assign] # for one flow
        (await made.open("127.0.0.1", origin.port).connected())
        assert len(made.endpoint.links) == 2
        (await made.open("127.0.0.1", origin.port).connected())

    in_world(tmp_path, script)


def test_requests_whose_applications_have_gone_leave_their_place(tmp_path: Path) -> None:
    async def main() -> None:
        made = World(tmp_path)
        flows = [made.open("192.0.2.1", 80) for _ in range(10)]
        assert made.uplink.waiting == 10
        for flow in flows:
            flow.abort()
        assert made.uplink.waiting == 0
        await made.close()

    run(main())


def test_a_flow_is_counted_once(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        app, far, relay = await joined(made, origin)
        assert len(made.flows) == 1
        app.close()
        far.close()
        await relay
        assert len(made.flows) == 0
        assert made.flows.opened == 1

    in_world(tmp_path, script)


def test_names_on_bare_qt_wait_for_the_next_tunnel_when_theirs_ends_meanwhile(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await wait_until(lambda: made.uplink.current is not None)
        asked, answer = asyncio.Event(), asyncio.Event()

        async def resolve(name: str) -> list[str]:
            asked.set()
            await answer.wait()
            return ["192.0.2.1"]

        made.uplink._resolve_through = resolve
        flow = made.open("www.example", 80)
        await asked.wait()
        made.endpoint.links[-1].sever(Ended(End.PEER_RESET))
        await wait_until(lambda: made.uplink.current is None)
        answer.set()
        with pytest.raises(FlowError) as caught:
            await flow.connected()
        assert caught.value.failure is not Failure.INTERNAL

    in_world(tmp_path, script, alpn="qt")


class FourOnly(MemoryEndpoint):
    """A host without IPv6."""

    def dial(self, remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
        if ":" in remote[0]:
            raise LocalError("no socket for IPv6")
        return super().dial(remote, config, handler)


def dialling(endpoint: MemoryEndpoint, addresses: list[Address]) -> Any:
    async def resolve(host: str, port: int) -> list[Address]:
        return addresses

    config = DialConfig(("quicsocks/1",), Trust("gw.example"))
    return dial(endpoint, ("gw.example", 4433), config, identity=None, resolve=resolve)


def test_an_address_of_a_family_that_the_host_lacks_is_passed_over(tmp_path: Path) -> None:
    six, four = ("2001:db8::1", 4433), ("192.0.2.1", 4433)

    async def script(made: World, origin: Origin) -> None:
        endpoint = FourOnly()
        made.uplink._endpoint = endpoint
        made.endpoint = endpoint
        made.concentrator._endpoint = endpoint
        made.concentrator.start()

        async def resolve(host: str, port: int) -> list[Address]:
            return [six, four, six]

        made.uplink._resolve = resolve
        assert made.running is not None
        await wait_until(lambda: bool(endpoint.dialled))
        assert set(endpoint.dialled) == {four}
        (await made.open("127.0.0.1", origin.port).connected())

    async def main() -> None:
        made, origin = World(tmp_path), Origin()
        made.endpoint.answer = Ended(End.HANDSHAKE_TIMED_OUT)
        made.start()
        try:
            await script(made, origin)
            with pytest.raises(LocalError, match="IPv6"):
                await dialling(FourOnly(), [six])
        finally:
            await made.close()
            origin.close()

    run(main())


def test_a_cancellation_that_comes_with_the_news_is_not_lost() -> None:
    """Otherwise SIGTERM in that moment would leave a client that never ends."""

    async def main() -> None:
        for turns in range(4):
            changed = asyncio.Event()
            task = asyncio.create_task(_changed(changed, 5.0, [_Attempt(changed)]))
            await asyncio.sleep(0)
            changed.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                return
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        raise AssertionError("the news did not arrive")

    run(main())


def test_once_a_client_was_connected_a_local_obstacle_is_tried_again(tmp_path: Path) -> None:
    async def script(made: World, origin: Origin) -> None:
        await wait_until(lambda: made.uplink.was_connected)
        dial = made.endpoint.dial

        def refuse(remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
            raise LocalError("cannot read the roots")

        made.endpoint.dial = refuse  # type: ignore[method-assign] # for a while
        made.endpoint.links[-1].sever(Ended(End.TIMED_OUT))
        await wait_until(lambda: "cannot read the roots" in made.notes[-1][1])
        made.endpoint.dial = dial  # type: ignore[method-assign] # back to what it was
        made.uplink.retry_now()
        (await made.open("127.0.0.1", origin.port).connected())

    in_world(tmp_path, script)


def test_a_name_that_cannot_be_resolved_is_named_as_such(tmp_path: Path) -> None:
    async def main() -> None:
        made = World(tmp_path)

        async def resolve(host: str, port: int) -> list[Address]:
            raise OSError(-2, "Name or service not known")

        made.uplink._resolve = resolve
        made.start()
        await wait_until(lambda: bool(made.notes))
        assert "cannot resolve 127.0.0.1: Name or service not known" in made.notes[0][1]
        await made.close()

    run(main())


def test_on_bare_qt_all_addresses_of_a_name_are_tried(tmp_path: Path) -> None:
    """The concentrator may lack the family of the first."""

    async def script(made: World, origin: Origin) -> None:
        tried: list[str] = []

        async def resolve(name: str) -> list[str]:
            return ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"]

        async def reach(host: str, port: int) -> tuple[socket.socket, str, int]:
            tried.append(host)
            if ":" in host:
                raise FlowFailed(Cause.NETWORK_UNREACHABLE)
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", origin.port))
            return sock, "192.0.2.99", 1

        made.uplink._resolve_through = resolve
        made.concentrator._way_out.begin = lambda *_: None  # type: ignore[method-assign] # all by reach
        made.concentrator._way_out.reach = reach  # type: ignore[method-assign] # a network of the test's own
        flow = made.open("www.example", 80)
        await flow.connected()
        assert tried == ["2001:db8::1", "192.0.2.1"]
        flow.abort()

    in_world(tmp_path, script, alpn="qt")
