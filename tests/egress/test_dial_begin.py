"""Dialling a literal by callbacks: the same outcomes as by coroutine, on both kinds of loop."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from quicsocks.socks.connecting import Connector
from quicsocks.socks.sockets import connect
from quicsocks.socks.watch import Watch
from quicsocks.userspace.egress.dial import DialConfig, Dialler, DialResult
from quicsocks.userspace.egress.policy import Policy
from quicsocks.userspace.egress.rules import parse_rules
from quicsocks.userspace.egress.special import IPAddress
from quicsocks.userspace.tunnel.types import Cause, FlowFailed

from .loops import Run
from .test_dial import LOOPBACK_RULES, Names, black_hole, descriptors, free_port, listener

__all__ = ["free_port", "listener"]  # fixtures

Told = DialResult | FlowFailed


class Begun:
    """A dialler with a connector, and what came of one dial by each of its two ways."""

    def __init__(self, *rules: str, seconds: float = 0.3, config: DialConfig | None = None) -> None:
        self.connector = Connector(seconds)
        self.dialler = Dialler(
            Policy(parse_rules(rules or LOOPBACK_RULES)),
            Names(),
            config or DialConfig(connect_timeout=seconds),
            connect=connect,
            connector=self.connector,
        )

    async def by_callback(self, host: str, port: int) -> Told | None:
        """None: only the coroutine can."""
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        try:
            if self.dialler.begin(host, port, told.set_result) is None:
                return None
        except FlowFailed as failed:
            return failed
        outcome = await told
        if isinstance(outcome, DialResult):
            watch = Watch.current(asyncio.get_running_loop())
            assert watch is not None
            assert outcome.sock in watch
            watch.discard(outcome.sock, closing=True)
        return outcome

    async def by_coroutine(self, host: str, port: int) -> Told:
        try:
            return await self.dialler.dial(host, port)
        except FlowFailed as failed:
            return failed

    async def agree(self, host: str, port: int) -> Told | None:
        """What begin told, which is what dial says."""
        quick = await self.by_callback(host, port)
        slow = await self.by_coroutine(host, port)
        if isinstance(slow, DialResult):
            assert isinstance(quick, DialResult)
            assert quick.remote == slow.remote
            assert quick.local == quick.sock.getsockname()[:2]
            for option in (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
                one, other = (each.sock.getsockopt(socket.IPPROTO_TCP, option) for each in (quick, slow))
                assert one == other
            assert quick.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not quick.sock.getblocking()
            quick.sock.close()
            slow.sock.close()
        elif quick is not None:
            assert isinstance(quick, FlowFailed)
            assert (quick.cause, quick.detail, quick.icmp) == (slow.cause, slow.detail, slow.icmp)
        self.connector.close()
        return quick


def test_success(run: Run[Any], listener: socket.socket) -> None:
    before = descriptors()
    assert isinstance(run(Begun().agree("127.0.0.1", listener.getsockname()[1])), DialResult)
    assert descriptors() == before


def test_a_mapped_literal_is_dialled_as_what_it_is(run: Run[Any], listener: socket.socket) -> None:
    result = run(Begun("allow 127.0.0.0/8").agree("::ffff:127.0.0.1", listener.getsockname()[1]))
    assert result is not None


def test_refused(run: Run[Any], free_port: int) -> None:
    before = descriptors()
    outcome = run(Begun().agree("127.0.0.1", free_port))
    assert isinstance(outcome, FlowFailed)
    assert outcome.cause is Cause.REFUSED
    assert outcome.icmp
    assert descriptors() == before


def test_silence_times_out(run: Run[Any]) -> None:
    with black_hole() as port:
        before = descriptors()
        outcome = run(Begun().agree("127.0.0.1", port))
        assert isinstance(outcome, FlowFailed)
        assert outcome.cause is Cause.TIMED_OUT
        assert descriptors() == before


@pytest.mark.parametrize(
    ("host", "port", "cause"),
    [
        ("127.0.0.1", 9, Cause.ADDRESS_PROHIBITED),
        ("198.51.100.1", 25, Cause.DENIED),
        ("169.254.169.254", 80, Cause.ADDRESS_PROHIBITED),
        ("::1", 80, Cause.ADDRESS_PROHIBITED),
    ],
)
def test_the_policy_is_asked(run: Run[Any], host: str, port: int, cause: Cause) -> None:
    outcome = run(Begun("deny 198.51.100.0/24").agree(host, port))
    assert isinstance(outcome, FlowFailed)
    assert outcome.cause is cause


def test_a_new_policy_is_asked_although_the_old_one_allowed(run: Run[Any], listener: socket.socket) -> None:
    async def main() -> None:
        begun = Begun()
        first = await begun.by_callback("127.0.0.1", listener.getsockname()[1])
        assert isinstance(first, DialResult)
        first.sock.close()
        begun.dialler.policy = Policy(())
        second = await begun.by_callback("127.0.0.1", listener.getsockname()[1])
        assert isinstance(second, FlowFailed)
        begun.connector.close()

    run(main())


@pytest.mark.parametrize("host", ["a.example", "localhost", "127.1", "fe80::1%lo", "", "[::1]"])
def test_what_is_no_literal_is_left_to_the_coroutine(run: Run[Any], host: str) -> None:
    assert run(Begun().agree(host, 80)) is None


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_left_to_the_coroutine(run: Run[Any], port: int) -> None:
    assert run(Begun().agree("127.0.0.1", port)) is None


def test_without_a_connector_all_is_left_to_the_coroutine(run: Run[Any]) -> None:
    async def main() -> object:
        dialler = Dialler(Policy(parse_rules(LOOPBACK_RULES)), Names(), connect=connect)
        return dialler.begin("127.0.0.1", 9, lambda outcome: None)

    assert run(main()) is None


def test_source_addresses(run: Run[Any], listener: socket.socket) -> None:
    config = DialConfig(connect_timeout=0.3, source_addresses=("127.0.0.9",))
    result = run(Begun(config=config).agree("127.0.0.1", listener.getsockname()[1]))
    assert isinstance(result, DialResult)
    assert result.local[0] == "127.0.0.9"
    outcome = run(Begun(config=config).agree("::1", 80))
    assert isinstance(outcome, FlowFailed)
    assert outcome.cause is Cause.FAMILY_UNSUPPORTED


def test_a_connection_to_itself_is_refused(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def bind(self: Dialler, sock: socket.socket, address: IPAddress) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))

    monkeypatch.setattr(Dialler, "_bind", bind)
    before = descriptors()
    outcome = run(Begun().agree("127.0.0.1", port))
    assert isinstance(outcome, FlowFailed)
    assert outcome.cause is Cause.REFUSED
    assert "itself" in outcome.detail
    assert descriptors() == before


def test_without_descriptors_it_fails_at_once(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*arguments: object, **options: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        begun = Begun()
        with monkeypatch.context() as patched:
            patched.setattr("quicsocks.userspace.egress.dial.socket.socket", no_socket)
            outcome = await begun.by_callback("127.0.0.1", 9)
        assert isinstance(outcome, FlowFailed)
        assert outcome.cause is Cause.LIMIT
        begun.connector.close()

    run(main())


@pytest.mark.parametrize("turns", [0, 1])
def test_cancelling_closes_and_tells_nobody(run: Run[Any], listener: socket.socket, turns: int) -> None:
    async def main() -> None:
        begun = Begun()
        told: list[Told] = []
        # The first takes descriptors of its own.
        first = begun.dialler.begin("127.0.0.1", listener.getsockname()[1], told.append)
        assert first is not None
        first.cancel()
        before = descriptors()
        with black_hole() as port:
            inside = descriptors()
            dialling = begun.dialler.begin("127.0.0.1", port, told.append)
            assert dialling is not None
            for _ in range(turns):
                await asyncio.sleep(0)
            assert descriptors() == inside + 1
            dialling.cancel()
            dialling.cancel()
            assert descriptors() == inside
            for _ in range(5):
                await asyncio.sleep(0)
        assert told == []
        assert descriptors() == before
        begun.connector.close()

    run(main())
