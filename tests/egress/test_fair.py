"""One client's slow names delay only its own."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address

import pytest

from quicsocks.userspace.egress.fair import FairResolver, asker
from quicsocks.userspace.egress.special import IPAddress
from quicsocks.userspace.tunnel.types import Cause, FlowFailed
from tests.tcp import run, wait_until


class SlowResolver:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.go = asyncio.Event()
        self.closed = False

    async def resolve(self, name: str) -> list[IPAddress]:
        self.asked.append((asker.get(), name))
        await self.go.wait()
        if name == "missing.example":
            raise FlowFailed(Cause.NAME_NOT_FOUND)
        return [IPv4Address("192.0.2.1")]

    async def close(self) -> None:
        self.closed = True


async def ask(fair: FairResolver, who: str, name: str) -> list[IPAddress]:
    asker.set(who)
    return await fair.resolve(name)


def test_each_client_has_places_of_its_own() -> None:
    async def main() -> None:
        slow = SlowResolver()
        fair = FairResolver(slow, at_once=2)
        greedy = [asyncio.create_task(ask(fair, "greedy", f"{number}.example")) for number in range(10)]
        modest = asyncio.create_task(ask(fair, "modest", "one.example"))
        await wait_until(lambda: len(slow.asked) == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert slow.asked == [("greedy", "0.example"), ("greedy", "1.example"), ("modest", "one.example")]
        slow.go.set()
        assert await modest == [IPv4Address("192.0.2.1")]
        await asyncio.gather(*greedy)
        assert len(slow.asked) == 11
        assert not fair._shares, "nothing is kept of clients that ask nothing"
        await fair.close()
        assert slow.closed

    run(main())


def test_a_name_that_waits_too_long_fails_and_gives_its_place_back() -> None:
    async def main() -> None:
        slow = SlowResolver()
        fair = FairResolver(slow, at_once=1, patience=0.05)
        first = asyncio.create_task(ask(fair, "one", "slow.example"))
        await wait_until(lambda: bool(slow.asked))
        with pytest.raises(FlowFailed) as caught:
            await asyncio.create_task(ask(fair, "one", "next.example"))
        assert caught.value.cause is Cause.NAME_TIMEOUT
        slow.go.set()
        await first
        with pytest.raises(FlowFailed) as caught:
            await asyncio.create_task(ask(fair, "one", "missing.example"))
        assert caught.value.cause is Cause.NAME_NOT_FOUND
        cancelled = asyncio.create_task(ask(fair, "one", "x.example"))
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert not fair._shares

    run(main())
