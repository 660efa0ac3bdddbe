"""Dialling against real sockets on loopback, and against routes of a namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from quicsocks.netstack.icmp import Unreachable, parse_error
from quicsocks.socks.sockets import connect
from quicsocks.userspace.egress.dial import ERRNO_CAUSES, MOST_TELLING, DialConfig, Dialler, DialResult, icmp_for
from quicsocks.userspace.egress.own_addresses import OwnAddresses
from quicsocks.userspace.egress.policy import Policy
from quicsocks.userspace.egress.rules import parse_rules
from quicsocks.userspace.egress.special import IPAddress
from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.tunnel.types import Cause, FlowFailed
from tests.tcp import tcp_pair

from .loops import Run

LOOPBACK_RULES = ("allow 127.0.0.0/8", "allow ::1")
QUICK = DialConfig(connect_timeout=0.3, attempt_delay=0.02)


class Names:
    """A resolver with a table."""

    def __init__(self, **names: str) -> None:
        self.names = {name.replace("_", "."): texts.split() for name, texts in names.items()}
        self.asked: list[str] = []

    async def resolve(self, name: str) -> list[IPAddress]:
        self.asked.append(name)
        if name not in self.names:
            raise FlowFailed(Cause.NAME_NOT_FOUND, "no such name")
        return [ip_address(text) for text in self.names[name]]

    async def close(self) -> None:
        pass


def dialler(
    *rules: str, config: DialConfig = QUICK, names: Names | None = None, events: list[str] | None = None
) -> Dialler:
    told = events if events is not None else []
    return Dialler(
        Policy(parse_rules(rules or LOOPBACK_RULES)),
        names or Names(a_example="127.0.0.1"),
        config,
        on_event=lambda kind, text: told.append(f"{kind}: {text}"),
        connect=connect,
    )


def cause(run: Run[Any], subject: Dialler, host: str, port: int) -> Cause:
    with pytest.raises(FlowFailed) as caught:
        run(subject.dial(host, port))
    return caught.value.cause


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def free_port() -> Iterator[int]:
    """Bound and not listening: nobody else gets it, and connecting is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def black_hole(family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> Iterator[int]:
    """A listener whose queue is full: Linux drops further SYNs."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]


# Success


@pytest.mark.parametrize("host", ["127.0.0.1", "a.example", "A.EXAMPLE."])
def test_success(run: Run[Any], listener: socket.socket, host: str) -> None:
    before = descriptors()
    result = run(dialler().dial(host, listener.getsockname()[1]))
    with result.sock as sock:
        assert not sock.getblocking()
        assert result.remote == sock.getpeername() == listener.getsockname()
        assert result.local == sock.getsockname()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 120
    assert descriptors() == before


def test_source_address(run: Run[Any], listener: socket.socket) -> None:
    subject = dialler(config=DialConfig(source_addresses=("127.0.0.9",)))
    result = run(subject.dial("127.0.0.1", listener.getsockname()[1]))
    result.sock.close()
    assert result.local[0] == "127.0.0.9"


def test_a_family_without_source_address_is_not_dialled(run: Run[Any]) -> None:
    subject = dialler(config=DialConfig(source_addresses=("127.0.0.9",)))
    assert cause(run, subject, "::1", 80) is Cause.FAMILY_UNSUPPORTED


def test_a_source_address_that_this_host_lacks(run: Run[Any], listener: socket.socket) -> None:
    events: list[str] = []
    subject = dialler(config=DialConfig(source_addresses=("203.0.113.77",)), events=events)
    for _ in range(2):
        assert cause(run, subject, "127.0.0.1", listener.getsockname()[1]) is Cause.NETWORK_UNREACHABLE
    assert len(events) == 1
    assert events[0].startswith("source: cannot dial from 203.0.113.77")


@pytest.mark.parametrize("addresses", [("eth0",), ("192.0.2.1", "192.0.2.2")])
def test_bad_source_addresses(addresses: tuple[str, ...]) -> None:
    with pytest.raises(LocalError, match="source address"):
        dialler(config=DialConfig(source_addresses=addresses))


# Policy


def test_policy_comes_before_the_resolver(run: Run[Any]) -> None:
    names = Names(a_example="127.0.0.1")
    assert cause(run, dialler("deny a.example", names=names), "a.example", 80) is Cause.DENIED
    assert names.asked == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", Cause.ADDRESS_PROHIBITED),
        ("a.example", Cause.ADDRESS_PROHIBITED),
        ("::ffff:127.0.0.1", Cause.ADDRESS_PROHIBITED),
        ("fe80::1%lo", Cause.ADDRESS_PROHIBITED),
        ("127.1", Cause.NAME_NOT_FOUND),
        ("0x7f000001", Cause.NAME_NOT_FOUND),
        ("[::1]", Cause.NAME_NOT_FOUND),
        ("", Cause.NAME_NOT_FOUND),
        ("b.example", Cause.NAME_NOT_FOUND),
        ("8.8.8.8", Cause.DENIED),
    ],
)
def test_refusals(run: Run[Any], listener: socket.socket, host: str, expected: Cause) -> None:
    subject = dialler("allow a.example", "deny 8.8.8.8")
    assert cause(run, subject, host, listener.getsockname()[1]) is expected


def test_port_zero(run: Run[Any]) -> None:
    assert cause(run, dialler(), "127.0.0.1", 0) is Cause.DENIED


def test_only_the_allowed_addresses_of_a_name_are_dialled(run: Run[Any], listener: socket.socket) -> None:
    subject = dialler("allow 127.0.0.1", names=Names(a_example="10.0.0.1 fd00::1 127.0.0.2 127.0.0.1"))
    assert run(subject.addresses("a.example", 80)) == [ip_address("127.0.0.1")]
    result = run(subject.dial("a.example", listener.getsockname()[1]))
    result.sock.close()
    assert result.remote[0] == "127.0.0.1"


def test_a_rule_that_denies_is_reported_before_a_built_in_refusal(run: Run[Any]) -> None:
    subject = dialler("deny 8.8.8.0/24", names=Names(a_example="10.0.0.1 8.8.8.8"))
    assert cause(run, subject, "a.example", 80) is Cause.DENIED


def test_own_addresses_are_looked_up_for_each_dial(run: Run[Any], listener: socket.socket) -> None:
    own = OwnAddresses(lambda: (ip_network("8.8.8.8/32"),))
    subject = Dialler(Policy(), Names(), QUICK, own, connect=connect)
    assert cause(run, subject, "8.8.8.8", 80) is Cause.ADDRESS_PROHIBITED


# Failures


def test_refused(run: Run[Any], free_port: int) -> None:
    before = descriptors()
    with pytest.raises(FlowFailed) as caught:
        run(dialler().dial("127.0.0.1", free_port))
    assert caught.value.cause is Cause.REFUSED
    message = parse_error(caught.value.icmp)
    assert message.meaning is Unreachable.PORT
    assert (message.quoted.destination, message.quoted.destination_port) == (ip_address("127.0.0.1"), free_port)
    assert descriptors() == before


def test_timeout(run: Run[Any]) -> None:
    with black_hole() as port:
        before = descriptors()
        assert cause(run, dialler(), "127.0.0.1", port) is Cause.TIMED_OUT
        assert descriptors() == before


def test_the_first_address_is_a_black_hole(run: Run[Any], listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with black_hole(socket.AF_INET6, port):
        before = descriptors()
        subject = dialler(config=DialConfig(attempt_delay=0.01), names=Names(a_example="::1 127.0.0.1"))
        result = run(subject.dial("a.example", port))
        result.sock.close()
        assert result.remote[0] == "127.0.0.1"
        assert descriptors() == before


def test_the_first_address_refuses(run: Run[Any], listener: socket.socket) -> None:
    """The second is tried at once: with an hour between attempts this test would not end."""
    subject = dialler(config=DialConfig(attempt_delay=3600.0), names=Names(a_example="::1 127.0.0.1"))
    result = run(subject.dial("a.example", listener.getsockname()[1]))
    result.sock.close()
    assert result.remote[0] == "127.0.0.1"


def test_both_connect(run: Run[Any], listener: socket.socket) -> None:
    """Only one socket is left, whichever was first."""
    port = listener.getsockname()[1]
    with socket.create_server(("127.0.0.2", port)):
        before = descriptors()
        subject = dialler(config=DialConfig(attempt_delay=0.0), names=Names(a_example="127.0.0.1 127.0.0.2"))
        result = run(subject.dial("a.example", port))
        result.sock.close()
        assert descriptors() == before


def test_refused_says_more_than_silence(run: Run[Any]) -> None:
    with black_hole() as port:
        subject = dialler(names=Names(a_example="127.0.0.1 ::1"))
        assert cause(run, subject, "a.example", port) is Cause.REFUSED


def test_a_connection_to_itself_is_refused(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux may pick the destination's port as the source; here it is made to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def bind(self: Dialler, sock: socket.socket, address: IPAddress) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))

    monkeypatch.setattr(Dialler, "_bind", bind)
    with pytest.raises(FlowFailed, match="itself") as caught:
        run(dialler().dial("127.0.0.1", port))
    assert caught.value.cause is Cause.REFUSED


def test_cancellation_while_the_losers_are_cleared_away_closes_the_winner(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        ours, theirs = tcp_pair()
        result = DialResult(ours, ("127.0.0.1", 1), ("127.0.0.2", 80))
        lost, leave = asyncio.Event(), asyncio.Event()

        async def attempt(self: Dialler, address: IPAddress, port: int) -> DialResult:
            if str(address) == "127.0.0.2":
                return result
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.set()
                await leave.wait()
            raise FlowFailed(Cause.TIMED_OUT)

        monkeypatch.setattr(Dialler, "_attempt", attempt)
        dialling = asyncio.create_task(dialler().connect([ip_address("127.0.0.1"), ip_address("127.0.0.2")], 80))
        await lost.wait()
        dialling.cancel()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        assert ours.fileno() == -1
        theirs.close()

    run(main())


def test_cancellation_closes_everything(run: Run[Any]) -> None:
    async def main(port: int) -> None:
        subject = dialler(config=DialConfig(attempt_delay=0.0), names=Names(a_example="127.0.0.1 ::1"))
        before = descriptors()
        task = asyncio.ensure_future(subject.dial("a.example", port))
        while descriptors() < before + 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert descriptors() == before

    with black_hole() as port, black_hole(socket.AF_INET6, port):
        run(main(port))


def test_out_of_descriptors(run: Run[Any], listener: socket.socket) -> None:
    events: list[str] = []
    port = listener.getsockname()[1]
    subject = dialler(events=events, names=Names(a_example="127.0.0.1 ::1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        held = [os.dup(0)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.dup(0))
            for _ in range(2):
                with pytest.raises(FlowFailed) as caught:
                    await subject.dial("a.example", port)
                assert caught.value.cause is Cause.LIMIT
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in held:
                os.close(descriptor)
        result = await subject.dial("127.0.0.1", port)
        result.sock.close()

    run(main())
    assert len(events) == 1, "once a minute"
    assert "out of file descriptors" in events[0]


def test_every_cause_has_its_place() -> None:
    assert set(ERRNO_CAUSES.values()) <= set(MOST_TELLING)
    assert {Cause.TIMED_OUT, Cause.NETWORK_FAILURE} <= set(MOST_TELLING)


@pytest.mark.parametrize(
    ("given", "meaning"),
    [
        (Cause.REFUSED, Unreachable.PORT),
        (Cause.NETWORK_UNREACHABLE, Unreachable.NETWORK),
        (Cause.HOST_UNREACHABLE, Unreachable.HOST),
        (Cause.TIMED_OUT, Unreachable.HOST),
        (Cause.DENIED, Unreachable.PROHIBITED),
        (Cause.ADDRESS_PROHIBITED, Unreachable.PROHIBITED),
    ],
)
@pytest.mark.parametrize("host", ["203.0.113.9", "2001:db8::9"])
def test_icmp(given: Cause, meaning: Unreachable, host: str) -> None:
    message = parse_error(icmp_for(given, ip_address(host), 443))
    assert message.meaning is meaning
    assert (message.quoted.destination, message.quoted.destination_port) == (ip_address(host), 443)


def test_causes_without_icmp() -> None:
    assert icmp_for(Cause.LIMIT, ip_address("203.0.113.9"), 443) == b""
    assert icmp_for(Cause.NAME_NOT_FOUND, ip_address("203.0.113.9"), 443) == b""


NETNS = """
import asyncio
from quicsocks.socks.sockets import connect
from quicsocks.userspace.egress.dial import *
from quicsocks.userspace.egress.policy import Policy
async def main():
    dialler = Dialler(Policy(), None, DialConfig(connect_timeout=0.3), connect=connect)
    for host in ("8.1.0.1", "8.2.0.1", "8.3.0.1", "8.4.0.1", "2a01::1"):
        try:
            await dialler.dial(host, 80)
        except FlowFailed as error:
            print(error.cause.name)
asyncio.run(main())
"""


@pytest.mark.netns
def test_routes_of_the_kernel() -> None:
    """In a namespace without a way out: nothing can leave it."""
    routes = (
        "ip link set lo up && ip route add unreachable 8.1.0.0/16 && ip route add prohibit 8.2.0.0/16"
        " && ip route add blackhole 8.3.0.0/16"
    )
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("needs root and network namespaces")
    made = subprocess.run(
        ["unshare", "-n", "sh", "-c", f'{routes} && exec "$0" -c "$1"', sys.executable, NETNS],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == [
        "HOST_UNREACHABLE",
        "DENIED",
        "NETWORK_UNREACHABLE",
        "NETWORK_UNREACHABLE",
        "NETWORK_UNREACHABLE",
    ]
