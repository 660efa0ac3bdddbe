"""Resolving at the exit: /etc/hosts, threads that hang, a DNS server on loopback, and NAT64 discovery."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterable
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from typing import Any

import dns.message
import pytest

from quicsocks.userspace.egress import resolve as module
from quicsocks.userspace.egress.resolve import (
    LOOPBACK,
    DnsResolver,
    HostsFile,
    SystemResolver,
    discover_nat64,
    watch_nat64,
)
from quicsocks.userspace.egress.special import IPAddress
from quicsocks.userspace.egress.tunnel_dns import StreamResolverConfig
from quicsocks.userspace.tunnel.types import Cause, FlowFailed

from .fake_dns import Reply, zone
from .loops import Run

ONE = ip_address("192.0.2.1")


def test_hosts_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(path)
    assert hosts.addresses("a.example") == []
    path.write_text(
        "# nothing\n192.0.2.1\tA.Example b.example # c.example\n2001:db8::1 a.example\n192.0.2.1 a.example\n"
        "nonsense d.example\n192.0.2.9\n10.0.0.1 bad$name e.example\n"
    )
    assert hosts.addresses("a.example") == [ONE, ip_address("2001:db8::1")]
    assert hosts.addresses("b.example") == [ONE]
    assert hosts.addresses("e.example") == [ip_address("10.0.0.1")]
    for name in ("c.example", "d.example", "bad$name"):
        assert hosts.addresses(name) == []
    path.write_text("192.0.2.2 a.example\n")
    os.utime(path, ns=(1, 1))
    assert hosts.addresses("a.example") == [ip_address("192.0.2.2")]


def test_localhost_is_never_asked_for(run: Run[Any]) -> None:
    def forbidden(name: str) -> list[IPAddress]:
        raise AssertionError(name)

    async def main() -> None:
        resolver = SystemResolver(getaddrinfo=forbidden)
        for name in ("localhost", "a.localhost"):
            assert await resolver.resolve(name) == list(LOOPBACK)
        await resolver.close()

    run(main())


def test_hosts_come_first_and_lookups_are_shared(run: Run[Any], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("192.0.2.7 listed.example\n")
    asked: list[str] = []

    def lookup(name: str) -> list[IPAddress]:
        asked.append(name)
        return [ONE]

    async def main() -> None:
        resolver = SystemResolver(hosts=HostsFile(tmp_path / "hosts"), getaddrinfo=lookup)
        assert await resolver.resolve("listed.example") == [ip_address("192.0.2.7")]
        assert await asyncio.gather(*(resolver.resolve("a.example") for _ in range(5))) == [[ONE]] * 5
        await resolver.close()

    run(main())
    assert asked == ["a.example"]


def test_a_lookup_that_hangs(run: Run[Any]) -> None:
    """The caller gets its timeout, the queue has its limit, and everything works again once the thread is back."""
    release = threading.Event()

    def hangs(name: str) -> list[IPAddress]:
        release.wait(10)
        return [ONE]

    async def main() -> None:
        resolver = SystemResolver(timeout=0.05, threads=1, max_waiting=1, getaddrinfo=hangs)
        try:
            results = await asyncio.gather(*(resolver.resolve(f"{n}.example") for n in "abc"), return_exceptions=True)
            causes = [result.cause for result in results if isinstance(result, FlowFailed)]
            assert causes == [Cause.NAME_TIMEOUT, Cause.NAME_TIMEOUT, Cause.LIMIT]
        finally:
            release.set()
        patient = SystemResolver(timeout=5.0, threads=1, max_waiting=1, getaddrinfo=hangs)
        assert await patient.resolve("d.example") == [ONE]
        await patient.close()
        await resolver.close()
        with pytest.raises(FlowFailed) as caught:
            await resolver.resolve("e.example")
        assert caught.value.cause is Cause.GOING_AWAY

    run(main())


def test_a_broken_lookup_is_an_internal_error(run: Run[Any]) -> None:
    def broken(name: str) -> list[IPAddress]:
        raise KeyError(name)

    async def main() -> None:
        resolver = SystemResolver(getaddrinfo=broken)
        with pytest.raises(FlowFailed) as caught:
            await resolver.resolve("a.example")
        assert caught.value.cause is Cause.INTERNAL
        await resolver.close()

    run(main())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Cause.NAME_NOT_FOUND),
        (socket.gaierror(socket.EAI_FAIL, "failed"), Cause.NAME_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), Cause.NAME_TIMEOUT),
        (socket.gaierror(socket.EAI_MEMORY, "memory"), Cause.LIMIT),
        (OSError(24, "Too many open files"), Cause.LIMIT),
        (OSError(5, "I/O error"), Cause.NAME_TIMEOUT),
    ],
)
def test_getaddrinfo_errors(monkeypatch: pytest.MonkeyPatch, error: OSError, cause: Cause) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(FlowFailed) as caught:
        module._getaddrinfo("a.example")
    assert caught.value.cause is cause


def test_getaddrinfo_is_asked_for_the_absolute_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def answers(host: object, *args: object, **kwargs: object) -> list[object]:
        asked.append(host)
        return [
            (socket.AF_INET6, 1, 6, "", ("fe80::1%1", 0, 0, 1)),
            (socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)),
            (socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert module._getaddrinfo("a.example") == [ONE]
    assert asked == [b"a.example."]


# A DNS server on loopback


@contextlib.asynccontextmanager
async def dns_server(reply: Reply) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                for message in reply(dns.message.from_wire(await reader.readexactly(size))) or ():
                    writer.write(len(message).to_bytes(2, "big") + message)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_dns_server(run: Run[Any], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("192.0.2.7 listed.example\n")

    async def main() -> None:
        records = {("a.example", "A"): ["192.0.2.1"], ("a.example", "AAAA"): ["2001:db8::1"]}
        async with dns_server(zone(records)) as port:
            resolver = DnsResolver("127.0.0.1", port, hosts=HostsFile(tmp_path / "hosts"))
            assert await resolver.resolve("a.example") == [ip_address("2001:db8::1"), ONE]
            assert await resolver.resolve("listed.example") == [ip_address("192.0.2.7")]
            assert await resolver.resolve("localhost") == list(LOOPBACK)
            with pytest.raises(FlowFailed) as caught:
                await resolver.resolve("b.example")
            assert caught.value.cause is Cause.NAME_NOT_FOUND
            await resolver.close()

    run(main())


def test_no_dns_server(run: Run[Any]) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            resolver = DnsResolver("127.0.0.1", closed.getsockname()[1], StreamResolverConfig(timeout=2.0))
            with pytest.raises(FlowFailed) as caught:
                await resolver.resolve("a.example")
            assert caught.value.cause is Cause.NAME_TIMEOUT
            await resolver.close()

    run(main())


# NAT64


class FakeResolver:
    def __init__(self, answers: list[list[IPAddress] | FlowFailed]) -> None:
        self.answers = answers

    async def resolve(self, name: str) -> list[IPAddress]:
        assert name == "ipv4only.arpa"
        answer = self.answers.pop(0)
        if isinstance(answer, FlowFailed):
            raise answer
        return answer

    async def close(self) -> None:
        pass


def test_nat64_discovery(run: Run[Any]) -> None:
    found = [ip_address("192.0.0.170"), ip_address("2001:db8:64::c000:aa")]
    assert run(discover_nat64(FakeResolver([found]))) == (IPv6Network("2001:db8:64::/96"),)
    assert run(discover_nat64(FakeResolver([found[:1]]))) == ()
    assert run(discover_nat64(FakeResolver([FlowFailed(Cause.NAME_TIMEOUT)]))) == ()


def test_nat64_is_looked_for_again(run: Run[Any]) -> None:
    seen: list[tuple[IPv6Network, ...]] = []
    first, second = ip_address("2001:db8:64::c000:aa"), ip_address("2001:db8:65::c000:ab")
    resolver = FakeResolver([[first], FlowFailed(Cause.NAME_TIMEOUT), [second]])

    async def sleep(seconds: float) -> None:
        assert seconds == 60.0
        if not resolver.answers:
            raise asyncio.CancelledError

    def found(prefixes: Iterable[IPv6Network]) -> None:
        seen.append(tuple(prefixes))

    async def main() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await watch_nat64(resolver, found, 60.0, sleep)

    run(main())
    assert seen == [(IPv6Network("2001:db8:64::/96"),), (IPv6Network("2001:db8:65::/96"),)]
