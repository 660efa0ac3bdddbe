"""The concentrator's way out: policy, resolver and dialler, or a proxy behind them, put together from the settings."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING

from quicsocks.socks.connecting import Connector
from quicsocks.socks.sockets import connect

from .egress.dial import Cancellable, DialConfig, Dialler, DialResult
from .egress.fair import FairResolver
from .egress.own_addresses import OwnAddresses, read_own_networks
from .egress.policy import Policy
from .egress.resolve import DnsResolver, HostsFile, Resolver, SystemResolver, watch_nat64
from .egress.rules import Action
from .egress.rules import Rule as EgressRule
from .egress.special import IPNetwork
from .log import Events
from .output import link_host
from .settings import ConcentratorSettings, Rule
from .tunnel.types import FlowFailed

if TYPE_CHECKING:
    from .chain.upstream import UpstreamDialler


def egress_rules(rules: Sequence[Rule]) -> list[EgressRule]:
    """Parse the settings' rules. Raises RuleError."""
    return [EgressRule.parse(Action(rule.action), rule.pattern) for rule in rules]


class WayOut:
    """Reaches destinations under the policy. ``start`` begins what runs in the background; ``close`` ends it."""

    def __init__(
        self,
        dialler: Dialler,
        connector: Connector,
        resolver: Resolver,
        upstream: UpstreamDialler | None,
        public: PublicAddresses,
    ) -> None:
        self._dialler = dialler
        self._connector = connector
        self._resolver = resolver
        self._upstream = upstream
        self._public = public
        self._background: list[asyncio.Task[None]] = []

    def begin(self, host: str, port: int, told: Callable[[DialResult | FlowFailed], None]) -> Cancellable | None:
        """Begin to reach an address without a task; None when that takes more, and ``reach`` is to be called. Raises
        FlowFailed. told: called once from the loop, unless it is cancelled; the socket is watched already."""
        return self._dialler.begin(host, port, told) if self._upstream is None else None

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
        """Discover NAT64 prefixes (RFC 7050) and the public name's addresses, now and every hour."""
        self._background = [
            asyncio.create_task(
                watch_nat64(self._resolver, lambda prefixes: self._dialler.policy.set_nat64_prefixes(prefixes))
            ),
            asyncio.create_task(self._public.watch(self._resolver)),
        ]

    async def close(self) -> None:
        """Idempotent."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._background = []
        if self._upstream is not None:
            await self._upstream.close()
        self._connector.close()
        await self._resolver.close()


class PublicAddresses:
    """Addresses that the world knows this host by and that no interface of it has, as behind a 1:1 NAT: they are the
    host's own all the same. host: a name or an IP literal, None when it is not known."""

    INTERVAL = 3600.0
    """Seconds between two lookups of a name: as long as for NAT64 prefixes."""

    def __init__(self, host: str | None) -> None:
        self._name: str | None = None
        self._networks: tuple[IPNetwork, ...] = ()
        if host is not None:
            try:
                self._networks = (ip_network(host),)
            except ValueError:
                self._name = host

    def own_networks(self) -> tuple[IPNetwork, ...]:
        """The interfaces' networks, and the public addresses known so far."""
        return (*read_own_networks(), *self._networks)

    async def watch(self, resolver: Resolver) -> None:
        """Keep a name's addresses known; returns at once when there is no name."""
        while self._name is not None:
            try:
                self._networks = tuple(ip_network(address) for address in await resolver.resolve(self._name))
            except FlowFailed:
                pass  # those known stay; a name that does not resolve protects nothing
            await asyncio.sleep(self.INTERVAL)


def build_way_out(settings: ConcentratorSettings, events: Events) -> WayOut:
    """Raises LocalError for rules, addresses or URLs that cannot be used."""
    hosts = HostsFile()
    system: Resolver = DnsResolver(*settings.dns, hosts=hosts) if settings.dns else SystemResolver(hosts=hosts)
    resolver = FairResolver(system)
    config = DialConfig(
        connect_timeout=settings.limits.connect_timeout,
        source_addresses=(settings.source_address,) if settings.source_address else (),
    )
    public = PublicAddresses(_public_host(settings))
    own = OwnAddresses(public.own_networks)
    connector = Connector(config.connect_timeout)
    dialler = Dialler(
        Policy(egress_rules(settings.rules)),
        resolver,
        config,
        own,
        events.warn,
        connect=connect,
        connector=connector,
    )
    upstream = None
    if settings.upstream is not None:
        from .chain.upstream import Upstream, UpstreamDialler  # In the memory of those who have one.

        upstream = UpstreamDialler(dialler, Upstream.parse(settings.upstream), events.warn)
    return WayOut(dialler, connector, resolver, upstream, public)


def _public_host(settings: ConcentratorSettings) -> str | None:
    if settings.public_name is None:
        return None
    host, _, _ = link_host(settings.public_name, settings.public_port, settings.listen)
    return host
