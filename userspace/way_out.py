"""The concentrator's way out: policy, resolver and dialler, or a proxy behind them, put together from the settings."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from .chain.upstream import Upstream, UpstreamDialler
from .egress.dial import DialConfig, Dialler
from .egress.own_addresses import OwnAddresses
from .egress.policy import Policy
from .egress.resolve import DnsResolver, HostsFile, Resolver, SystemResolver, watch_nat64
from .egress.rules import Action
from .egress.rules import Rule as EgressRule
from .log import Events
from .settings import ConcentratorSettings, Rule


def egress_rules(rules: Sequence[Rule]) -> list[EgressRule]:
    """Parse the settings' rules. Raises RuleError."""
    return [EgressRule.parse(Action(rule.action), rule.pattern) for rule in rules]


class WayOut:
    """Reaches destinations under the policy. ``start`` begins what runs in the background; ``close`` ends it."""

    def __init__(self, dialler: Dialler, resolver: Resolver, upstream: UpstreamDialler | None) -> None:
        self._dialler = dialler
        self._resolver = resolver
        self._upstream = upstream
        self._nat64: asyncio.Task[None] | None = None

    async def reach(self, host: str, port: int) -> tuple[socket.socket, str, int]:
        """A connected, non-blocking socket and its local address. Raises FlowFailed."""
        # Behind a proxy too, names are resolved and checked here; it is given the checked address.
        result = await (self._upstream or self._dialler).dial(host, port)
        return result.sock, *result.local

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """New rules for dials to come. Raises RuleError; the old ones stay then."""
        old = self._dialler.policy
        self._dialler.policy = Policy(egress_rules(rules), old.own_addresses, old.nat64_prefixes)

    def start(self) -> None:
        """Discover NAT64 prefixes (RFC 7050) now and every hour."""
        self._nat64 = asyncio.create_task(
            watch_nat64(self._resolver, lambda prefixes: self._dialler.policy.set_nat64_prefixes(prefixes))
        )

    async def close(self) -> None:
        """Idempotent."""
        if self._nat64 is not None:
            self._nat64.cancel()
            await asyncio.wait([self._nat64])
            self._nat64 = None
        if self._upstream is not None:
            await self._upstream.close()
        await self._resolver.close()


def build_way_out(settings: ConcentratorSettings, events: Events) -> WayOut:
    """Raises LocalError for rules, addresses or URLs that cannot be used."""
    hosts = HostsFile()
    resolver: Resolver = DnsResolver(*settings.dns, hosts=hosts) if settings.dns else SystemResolver(hosts=hosts)
    config = DialConfig(
        connect_timeout=settings.limits.connect_timeout,
        source_addresses=(settings.source_address,) if settings.source_address else (),
    )
    dialler = Dialler(Policy(egress_rules(settings.rules)), resolver, config, OwnAddresses(), events.warn)
    upstream = None
    if settings.upstream is not None:
        upstream = UpstreamDialler(dialler, Upstream.parse(settings.upstream), events.warn)
    return WayOut(dialler, resolver, upstream)
