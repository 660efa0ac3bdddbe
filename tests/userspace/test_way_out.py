"""The concentrator's way out: what is its own, and rules that change while it runs."""

from __future__ import annotations

import asyncio
import io
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from quicsocks.userspace.egress.rules import RuleError
from quicsocks.userspace.egress.special import IPAddress
from quicsocks.userspace.log import Events
from quicsocks.userspace.settings import ConcentratorSettings, Rule
from quicsocks.userspace.tunnel.types import Cause, FlowFailed
from quicsocks.userspace.way_out import PublicAddresses, WayOut, build_way_out
from tests.tcp import run


class FakeResolver:
    def __init__(self, answers: dict[str, list[IPAddress]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def resolve(self, name: str) -> list[IPAddress]:
        self.asked.append(name)
        if name not in self._answers:
            raise FlowFailed(Cause.NAME_NOT_FOUND)
        return self._answers[name]

    async def close(self) -> None: ...


def build(folder: Path, *rules: Rule, public_name: str | None = None) -> WayOut:
    settings = ConcentratorSettings(state_dir=folder, runtime_dir=folder, rules=rules, public_name=public_name)
    return build_way_out(settings, Events(stream=io.StringIO()))


async def refusal(way_out: WayOut, host: str) -> Cause | None:
    """Why host is not dialled; None when the policy lets it through (port 9 of it is then refused or silent)."""
    try:
        sock, _, _ = await asyncio.wait_for(way_out.reach(host, 9), 1.0)
    except FlowFailed as failed:
        return failed.cause
    except TimeoutError:
        return None
    sock.close()
    return None


def test_the_public_address_is_the_hosts_own(tmp_path: Path) -> None:
    async def main() -> None:
        way_out = build(tmp_path, public_name="198.41.0.77:4433")
        assert await refusal(way_out, "198.41.0.77") is Cause.ADDRESS_PROHIBITED
        await way_out.close()

    run(main())


def test_a_public_names_addresses_become_known(tmp_path: Path) -> None:
    async def main() -> None:
        public = PublicAddresses("gw.example.com")
        assert ip_network("198.41.0.77") not in public.own_networks()
        resolver = FakeResolver({"gw.example.com": [IPv4Address("198.41.0.77")]})
        watch = asyncio.create_task(public.watch(resolver))
        while ip_network("198.41.0.77") not in public.own_networks():
            await asyncio.sleep(0)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert resolver.asked == ["gw.example.com"]
        assert ip_network(ip_address("127.0.0.0").exploded + "/8") in public.own_networks()

    run(main())


def test_without_a_public_name_nothing_is_looked_up() -> None:
    async def main() -> None:
        resolver = FakeResolver({})
        await PublicAddresses(None).watch(resolver)
        assert resolver.asked == []

    run(main())


def test_new_rules_count_for_the_next_dial_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        way_out = build(tmp_path)
        assert await refusal(way_out, "127.0.0.1") is Cause.ADDRESS_PROHIBITED
        way_out.set_rules([Rule("allow", "127.0.0.0/8")])
        assert await refusal(way_out, "127.0.0.1") is Cause.REFUSED
        with pytest.raises(RuleError):
            way_out.set_rules([Rule("allow", "300.0.0.1/8:nonsense")])
        assert await refusal(way_out, "127.0.0.1") is Cause.REFUSED
        way_out.set_rules([Rule("deny", "*")])
        assert await refusal(way_out, "127.0.0.1") in (Cause.DENIED, Cause.ADDRESS_PROHIBITED)
        await way_out.close()

    run(main())
