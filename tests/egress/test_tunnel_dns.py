"""The resolver that asks over a stream: sharing, retrying, giving up, and hostile answers."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

import dns.message
import pytest

from quicsocks.userspace.egress.tunnel_dns import StreamResolver, StreamResolverConfig
from quicsocks.userspace.tunnel.types import Cause, FlowFailed

from .fake_dns import FakeServer, FakeStream, Reply, zone
from .loops import Run

BOTH = {("a.example", "A"): ["192.0.2.1"], ("a.example", "AAAA"): ["2001:db8::1"]}
FOUR = {("a.example", "A"): ["192.0.2.1"]}


async def resolved(
    server: FakeServer, name: str = "a.example", config: StreamResolverConfig | None = None
) -> list[str]:
    resolver = StreamResolver(server.open, config)
    try:
        return [str(address) for address in await resolver.resolve(name)]
    finally:
        await resolver.close()


async def failure(
    server: FakeServer, name: str = "a.example", config: StreamResolverConfig | None = None
) -> FlowFailed:
    with pytest.raises(FlowFailed) as caught:
        await resolved(server, name, config)
    return caught.value


@pytest.mark.parametrize("step", [0, 1])
def test_both_families_over_one_stream(run: Run[Any], step: int) -> None:
    server = FakeServer(zone(BOTH), step)
    assert run(resolved(server)) == ["2001:db8::1", "192.0.2.1"]
    assert sorted(server.asked) == [("a.example.", "A"), ("a.example.", "AAAA")]
    assert len(server.streams) == 1
    assert server.streams[0].aborted


def test_names_are_normalised_and_local_ones_are_never_asked_for(run: Run[Any]) -> None:
    server = FakeServer(zone(BOTH))
    assert run(resolved(server, "A.Example.")) == ["2001:db8::1", "192.0.2.1"]
    server = FakeServer(zone(BOTH))
    assert run(failure(server, "localhost")).cause is Cause.ADDRESS_PROHIBITED
    assert run(failure(server, "www.localhost.")).cause is Cause.ADDRESS_PROHIBITED
    assert run(failure(server, "a b")).cause is Cause.NAME_NOT_FOUND
    assert server.asked == []


def test_one_lookup_for_many_who_ask_and_a_cache(run: Run[Any]) -> None:
    server = FakeServer(zone(BOTH))

    async def main() -> None:
        resolver = StreamResolver(server.open)
        results = await asyncio.gather(*(resolver.resolve("a.example") for _ in range(10)))
        assert all(result == results[0] for result in results)
        await resolver.resolve("a.example")
        await resolver.close()

    run(main())
    assert len(server.asked) == 2


def test_the_cache_is_bounded_and_does_not_outlive_its_ttl(run: Run[Any]) -> None:
    server = FakeServer(zone({(f"{n}.example", "A"): ["192.0.2.1"] for n in "abc"}))

    async def main() -> None:
        resolver = StreamResolver(server.open, StreamResolverConfig(cache_size=2))
        for name in ("a.example", "b.example", "c.example", "a.example"):
            await resolver.resolve(name)
        await resolver.close()
        never = StreamResolver(FakeServer(zone(FOUR, ttl=0)).open)
        await never.resolve("a.example")
        assert never._cached("a.example") is None
        await never.close()

    run(main())
    assert [name for name, kind in server.asked if kind == "A"].count("a.example.") == 2


def test_no_such_name_is_remembered_too(run: Run[Any]) -> None:
    server = FakeServer(zone({}))

    async def main() -> None:
        resolver = StreamResolver(server.open)
        for _ in range(2):
            with pytest.raises(FlowFailed, match="NXDOMAIN") as caught:
                await resolver.resolve("a.example")
            assert caught.value.cause is Cause.NAME_NOT_FOUND
        await resolver.close()

    run(main())
    assert len(server.asked) == 2


def test_a_name_without_addresses(run: Run[Any]) -> None:
    error = run(failure(FakeServer(zone({("a.example", "TXT"): ["x"]}))))
    assert (error.cause, error.detail) == (Cause.NAME_NOT_FOUND, "the name has no address")


def test_a_server_failure_is_said(run: Run[Any]) -> None:
    error = run(failure(FakeServer(zone(FOUR, rcode=2))))
    assert (error.cause, error.detail) == (Cause.NAME_NOT_FOUND, "the resolver answered SERVFAIL")


def test_silence(run: Run[Any]) -> None:
    error = run(failure(FakeServer(lambda question: []), config=StreamResolverConfig(timeout=0.05)))
    assert error.cause is Cause.NAME_TIMEOUT


def test_one_family_does_not_wait_for_the_other_for_long(run: Run[Any]) -> None:
    def only_a(question: dns.message.Message) -> list[bytes] | None:
        return zone(FOUR)(question) if question.question[0].rdtype == 1 else []

    assert run(resolved(FakeServer(only_a), config=StreamResolverConfig(timeout=5.0))) == ["192.0.2.1"]


def test_an_empty_answer_and_silence_is_not_no_such_name(run: Run[Any]) -> None:
    def only_aaaa(question: dns.message.Message) -> list[bytes] | None:
        return zone(FOUR)(question) if question.question[0].rdtype == 28 else []

    error = run(failure(FakeServer(only_aaaa), config=StreamResolverConfig(timeout=0.1)))
    assert error.cause is Cause.NAME_TIMEOUT


def test_a_stream_that_was_dropped_is_replaced_once(run: Run[Any]) -> None:
    server = FakeServer(zone(BOTH))

    async def main() -> None:
        resolver = StreamResolver(server.open)
        await resolver.resolve("a.example")
        server.streams[0].close()
        with pytest.raises(FlowFailed, match="NXDOMAIN"):
            await resolver.resolve("b.example")
        await resolver.close()

    run(main())
    assert len(server.streams) == 2


def test_a_server_that_always_hangs_up(run: Run[Any]) -> None:
    server = FakeServer(lambda question: None)
    error = run(failure(server))
    assert error.cause is Cause.NAME_TIMEOUT
    assert "closed the connection" in error.detail
    assert len(server.streams) <= 3


def test_no_way_to_the_server(run: Run[Any]) -> None:
    class Down(FakeServer):
        async def open(self) -> FakeStream:
            raise FlowFailed(Cause.REFUSED, "nobody there")

    error = run(failure(Down(zone(BOTH))))
    assert error.cause is Cause.NAME_TIMEOUT
    assert "nobody there" in error.detail


def wrong_id(question: dns.message.Message) -> list[bytes]:
    question.id ^= 1
    return zone(BOTH)(question) or []


def wrong_question(question: dns.message.Message) -> list[bytes]:
    other = dns.message.make_query("evil.example", question.question[0].rdtype)
    other.id = question.id
    return zone({("evil.example", "A"): ["6.6.6.6"], ("evil.example", "AAAA"): ["2001:db8::666"]})(other) or []


@pytest.mark.parametrize(
    "reply",
    [wrong_id, wrong_question, lambda question: [b"\xff" * 40], lambda question: [b""], lambda question: [bytes(12)]],
    ids=["id", "question", "garbage", "empty", "zeros"],
)
def test_hostile_answers(run: Run[Any], reply: Reply) -> None:
    error = run(failure(FakeServer(reply), config=StreamResolverConfig(timeout=0.2)))
    assert error.cause is Cause.NAME_TIMEOUT


def test_an_answer_too_many_is_passed_over(run: Run[Any]) -> None:
    def twice(question: dns.message.Message) -> list[bytes]:
        answers = zone(BOTH)(question) or []
        return answers + answers

    assert run(resolved(FakeServer(twice))) == ["2001:db8::1", "192.0.2.1"]


def test_limits(run: Run[Any]) -> None:
    async def main() -> None:
        resolver = StreamResolver(FakeServer(lambda question: []).open, StreamResolverConfig(max_pending=4, timeout=5))
        waiting = [asyncio.ensure_future(resolver.resolve(f"{n}.example")) for n in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(FlowFailed) as caught:
            await resolver.resolve("c.example")
        assert caught.value.cause is Cause.LIMIT
        await resolver.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(result, FlowFailed) and result.cause for result in results] == [Cause.GOING_AWAY] * 2
        with pytest.raises(FlowFailed) as caught:
            await resolver.resolve("d.example")
        assert caught.value.cause is Cause.GOING_AWAY

    run(main())


def test_who_goes_away_does_not_take_the_lookup_from_others(run: Run[Any]) -> None:
    async def main() -> None:
        held: list[dns.message.Message] = []
        server = FakeServer(lambda question: [])

        def hold(question: dns.message.Message) -> list[bytes]:
            held.append(question)
            return []

        server.reply = hold
        resolver = StreamResolver(server.open)
        first = asyncio.ensure_future(resolver.resolve("a.example"))
        second = asyncio.ensure_future(resolver.resolve("a.example"))
        while len(held) < 2:
            await asyncio.sleep(0)
        first.cancel()
        for question in held:
            for message in zone(BOTH)(question) or ():
                server.streams[0].send(len(message).to_bytes(2, "big") + message)
        assert len(await second) == 2
        assert first.cancelled() or first.done()
        await resolver.close()

    run(main())


def test_an_idle_stream_is_let_go(run: Run[Any]) -> None:
    async def main() -> None:
        server = FakeServer(zone(BOTH, ttl=0))
        resolver = StreamResolver(server.open, StreamResolverConfig(idle_timeout=0.01))
        await resolver.resolve("a.example")
        while not server.streams[0].aborted:
            await asyncio.sleep(0.001)
        await resolver.resolve("a.example")
        assert len(server.streams) == 2
        await resolver.close()

    run(main())


def test_addresses_are_addresses(run: Run[Any]) -> None:
    async def main() -> None:
        resolver = StreamResolver(FakeServer(zone(FOUR)).open)
        assert await resolver.resolve("a.example") == [ip_address("192.0.2.1")]
        await resolver.close()
        await resolver.close()

    run(main())
