"""``quicsocks concentrator``: accepts clients, dials for them, and ends in order.

This file puts the rooms together: the transport accepts sessions, a ``ConcentratorTunnel`` speaks each one's protocol, a
``ServedClient`` serves it, the registry says who may come, the egress rooms dial. One object, ``Concentrator``, owns
them all; ``run_concentrator`` adds what makes it a process: signals, readiness, the control socket.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from .egress.limits import Account, ClientLimits, ClientQuota, Use
from .enrolment import Registry
from .event_log import EventLog, shown
from .families import to_listen
from .flows import FlowTable
from .identity import RotatingSecret, ServerCredentials, load_secret, needs_pin, server_credentials
from .link import Link
from .log import Events
from .nofile import raise_limit
from .notify import Notifier
from .output import hand_out_link, link_host, shown_address
from .quic.errors import Ended, LocalError
from .quic.factory import open_endpoint
from .quic.types import Address, Endpoint, Limits, ListenConfig, Session, SessionHandler
from .reloading import waiting_for_restart
from .served_client import ServedClient
from .settings import ConcentratorSettings
from .state import StateError, StateFolder
from .status import StatusServer, socket_path
from .tunnel.concentrator import ConcentratorTunnel
from .tunnel.types import (
    ALPN_QT,
    ALPN_QUICSOCKS,
    AuthFailure,
    AuthRefused,
    Cause,
    ClientAuthorised,
    CloseCode,
    TunnelLimits,
)
from .tunnel_timer import TunnelTimer
from .way_out import WayOut, build_way_out

WATCH_INTERVAL = 0.5
"""Seconds between two looks at the list of clients: a revoked one's connection ends within a second."""
SESSIONS_PER_CLIENT = 32
"""Sessions of one client: as many commands as a person runs at once, each with its own. What stalled flows may hold is
counted for a session, and the sessions of all clients together are limited: neither is one client's to use up."""
SPARE_STREAMS = 64
"""Streams of a session beyond its flows: a refusal is a stream, too, until the client has heard it."""
DRAIN_CLOSE = 1.0
"""Seconds for the sessions' closing packets to leave after the drain."""


class Clients(Protocol):
    """What a concentrator asks of the list of clients; ``Registry`` says what each does."""

    @property
    def generation(self) -> int: ...

    def authorise(self, public_key: bytes, token: bytes, label: str, now: float) -> ClientAuthorised: ...

    def refused(self, public_keys: Iterable[bytes]) -> set[bytes]: ...

    def limits_of(self, name: str) -> TunnelLimits | None: ...

    def poll(self) -> bool: ...

    def reload(self) -> None: ...


class Concentrator:
    """The parts of a running concentrator, without the process around them.

    The caller opens the endpoint; ``start`` begins to listen, ``drain`` ends in order. accounts: by a client's name, what
    other processes that serve it count; None when there are none.
    """

    def __init__(
        self,
        settings: ConcentratorSettings,
        *,
        registry: Clients,
        credentials: ServerCredentials,
        secret: RotatingSecret,
        endpoint: Endpoint,
        way_out: WayOut,
        events: Events,
        accounts: Callable[[str], Account] | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._credentials = credentials
        self._secret = secret
        self._endpoint = endpoint
        self._way_out = way_out
        self._events = events
        self._accounts = accounts
        self._loop = asyncio.get_running_loop()
        self.flows = FlowTable(self._loop, settings.limits.flow_idle_timeout)
        self._tunnels: dict[ServedClient, ConcentratorTunnel] = {}
        self._timers: dict[ServedClient, TunnelTimer] = {}
        self._quotas: dict[str, ClientQuota] = {}
        self._draining = False
        self._counted: Counter[str] = Counter()
        """By tunnels that are over."""
        self._checked = registry.generation
        """The state of the list of clients that the sessions were last compared with."""
        self.event_log = EventLog(endpoint, events)
        self.started = time.time()

    @property
    def clients(self) -> tuple[ServedClient, ...]:
        """Those that have authenticated."""
        return tuple(client for client in self._tunnels if client.name)

    def start(self) -> None:
        """Accept from now on. Raises LocalError when the certificate cannot be used, or the folder for qlog."""
        limits = self._settings.limits
        transport = self._settings.transport
        self.event_log.switch(transport.qlog_dir, quiet=self._accounts is not None)
        # Our own protocol first: ALPN is the server's choice (RFC 7301 §3.2).
        alpn = (ALPN_QUICSOCKS, ALPN_QT) if self._settings.allow_qt else (ALPN_QUICSOCKS,)
        config = ListenConfig(
            alpn=alpn,
            certificate=self._credentials.certificate,
            private_key=self._credentials.private_key,
            secret=self._secret.current,
            previous_secret=self._secret.previous,
            limits=Limits(
                handshake_timeout=limits.handshake_timeout,
                congestion=transport.controller,
                max_streams_bidi=max(Limits().max_streams_bidi, limits.flows_per_client + SPARE_STREAMS),
            ),
            crypto_profile=transport.crypto_profile,
            keylog=transport.keylog,
            spin_bit=transport.spin_bit,
            max_half_open=limits.half_open,
            max_half_open_per_prefix=limits.half_open_per_prefix,
            retry_above=limits.retry_above,
            max_sessions=limits.sessions,
        )
        self._endpoint.listen(config, self._accept)

    def _accept(self, session: Session) -> SessionHandler:
        client = ServedClient(session, self, self._way_out, self.flows)
        timer = TunnelTimer(self._loop)
        tunnel = ConcentratorTunnel(
            session,
            events=client,
            clock=self._loop.time,
            limits=TunnelLimits(self._settings.limits.flows_per_client, self._settings.limits.pending_per_client),
            allow_qt=self._settings.allow_qt,
            auth_timeout=self._settings.limits.auth_timeout,
            timer_changed=timer.changed,
        )
        timer.drive(tunnel)
        self._timers[client] = timer
        self._tunnels[client] = tunnel
        return tunnel

    # What sessions ask of their owner.

    def authorise(self, client: ServedClient, public_key: bytes, token: bytes, label: str) -> ClientAuthorised:
        try:
            authorised = self._registry.authorise(public_key, token, label, time.time())
        except AuthRefused as refused:
            # Anybody can cause this: one line a minute, whoever it is.
            reason = refused.failure.name.lower().replace("_", " ")
            self._events.warn("client-refused", f"refused a client: {reason}", address=client.session.peer_address[0])
            raise
        except StateError as error:
            self._events.warn("state", str(error))
            # Of the answers that there are, the one after which a client tries again: its link is as good as before.
            raise AuthRefused(AuthFailure.TIMED_OUT) from None
        return ClientAuthorised(authorised.name, self._set_limits(authorised.name, authorised.limits))

    def _set_limits(self, name: str, own: TunnelLimits | None) -> TunnelLimits:
        """Give a client its limits, from now on; returns what it is told of them."""
        limits = self._client_limits(own)
        self.quota_of(name).set_limits(limits, self._loop.time())
        return TunnelLimits(limits.max_flows, limits.max_pending, limits.bytes_per_second)

    def _client_limits(self, own: TunnelLimits | None) -> ClientLimits:
        general = self._settings.limits
        own = own or TunnelLimits()
        return ClientLimits(
            max_flows=own.max_flows or general.flows_per_client,
            max_pending=own.max_pending or general.pending_per_client,
            bytes_per_second=own.bytes_per_second or general.bytes_per_second,
        )

    def quota_of(self, name: str) -> ClientQuota:
        quota = self._quotas.get(name)
        if quota is None:
            account = self._accounts(name) if self._accounts is not None else None
            quota = self._quotas[name] = ClientQuota(self._client_limits(None), self._loop.time(), account)
        return quota

    def client_ready(self, client: ServedClient) -> None:
        text = f"client {client.name} connected from {shown_address(*client.session.peer_address)}"
        self._event_of(client)("client-connected", text)
        if client.public_key:
            own = [tunnel for other, tunnel in self._tunnels.items() if other.public_key == client.public_key]
            elsewhere = self._count_sessions(client.name)
            # Of those that are here, but never the newest one; other processes do the same when they get one.
            for tunnel in own[: min(max(0, len(own) + elsewhere - SESSIONS_PER_CLIENT), len(own) - 1)]:
                tunnel.close(CloseCode.LIMIT_EXCEEDED, "too many connections of this client; this was the oldest")

    def client_gone(self, client: ServedClient, ended: Ended) -> None:
        tunnel = self._tunnels.pop(client, None)
        if tunnel is not None:
            self._counted.update(dataclasses.asdict(tunnel.counters))
        timer = self._timers.pop(client, None)
        if timer is not None:
            timer.stop()
        if client.name:
            self._event_of(client)("client-gone", f"client {client.name} is gone: {ended}")
            self._count_sessions(client.name)
            # A quota that is in debt is kept, or coming back would pay it; it goes when another client leaves.
            present, now = {other.name for other in self._tunnels}, self._loop.time()
            for name in [name for name, quota in self._quotas.items() if name not in present and quota.is_unused(now)]:
                del self._quotas[name]

    def _count_sessions(self, name: str) -> int:
        """Tell other processes how many sessions of a client are here; returns how many it has there."""
        if self._accounts is None:
            return 0
        account = self._accounts(name)
        account.publish(Use.SESSIONS, sum(1 for other in self._tunnels if other.name == name))
        return account.others(Use.SESSIONS)

    def _event_of(self, client: ServedClient) -> Callable[[str, str], None]:
        """Clients that nobody has authenticated must not fill a journal."""
        return self._events.info if client.public_key else self._events.detail

    # Clients coming and going while it runs.

    async def watch_registry(self) -> None:
        """End the sessions of clients that are no longer welcome; forever."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            self.check_clients()

    def check_clients(self) -> int:
        """Read the list of clients again if it changed; returns how many sessions were ended."""
        try:
            self._registry.poll()
        except StateError as error:
            self._events.warn("state", str(error))
        # Not what poll says: an enrolment, or an attempt at one, may have read the change before us.
        if self._checked == self._registry.generation:
            return 0
        self._checked = self._registry.generation
        ended = 0
        refused = self._registry.refused({client.public_key for client in self._tunnels if client.public_key})
        for client, tunnel in list(self._tunnels.items()):
            if client.public_key in refused:
                self._events.info("client-revoked", f"client {client.name} has been revoked; ending its connection")
                tunnel.revoke()
                ended += 1
        return ended

    def reload(self, settings: ConcentratorSettings) -> None:
        """Take new rules and limits (SIGHUP). Raises LocalError for bad rules and StateError for a list of clients that
        cannot be read; the old settings stay then."""
        self._registry.reload()
        self._way_out.set_rules(settings.rules)
        self._settings = settings
        self.check_clients()
        for client, tunnel in self._tunnels.items():
            if client.name:
                own = self._registry.limits_of(client.name) if client.public_key else None
                tunnel.set_limits(self._set_limits(client.name, own))

    # The end.

    async def drain(self, seconds: float | None = None) -> None:
        """Take nothing new, tell the clients, let flows end for a while, close. seconds: instead of the settings'."""
        seconds = self._settings.drain if seconds is None else seconds
        self._draining = True
        self._endpoint.stop_listening()
        for tunnel in list(self._tunnels.values()):
            tunnel.goodbye("shutting down", seconds)
        try:
            async with asyncio.timeout(seconds):
                await self.flows.wait_empty()
        except TimeoutError:
            pass
        self.flows.abort_all(Cause.GOING_AWAY, "the concentrator is shutting down")
        for tunnel in list(self._tunnels.values()):
            tunnel.close(CloseCode.GOING_AWAY, "shutting down")
        try:
            async with asyncio.timeout(DRAIN_CLOSE):
                await self._endpoint.close()
        except TimeoutError:
            pass
        self.flows.close()
        await self._way_out.close()

    def status(self) -> dict[str, Any]:
        """What ``quicsocks status`` shows."""
        return {
            "role": "concentrator",
            "name": self._settings.name,
            "since": self.started,
            "public": shown_public(self._settings, self._endpoint.local_addresses),
            "listeners": [shown_address(host, port) for host, port in self._endpoint.local_addresses],
            "engine": self._settings.transport.engine,
            "draining": self._draining,
            "flows": len(self.flows),
            "pending": sum(client.dialling for client in self._tunnels),
            "bytes_in": self.flows.bytes_received,
            "bytes_out": self.flows.bytes_sent,
            "flows_opened": self.flows.opened,
            "clients": [self._client_status(client) for client in self.clients],
            "endpoint": self._endpoint.statistics(),
            "tunnel": dict(self._tunnel_counters()),
            "qlog": shown(self.event_log.folder),
        }

    def _tunnel_counters(self) -> Counter[str]:
        """Of all sessions, those that are over too."""
        counted = Counter(self._counted)
        for tunnel in self._tunnels.values():
            counted.update(dataclasses.asdict(tunnel.counters))
        return counted

    @staticmethod
    def _client_status(client: ServedClient) -> dict[str, Any]:
        host, port = client.session.peer_address
        statistics = client.session.statistics()
        return {
            "name": client.name,
            "address": shown_address(host, port),
            "since": client.since,
            "flows": client.open_flows,
            "rtt": statistics.smoothed_rtt,
            "packets_sent": statistics.packets_sent,
            "packets_lost": statistics.packets_lost,
            "congestion": statistics.congestion,
            "congestion_window": statistics.congestion_window,
            "pacing_rate": statistics.pacing_rate,
            "path_mtu": statistics.path_mtu,
            "alpn": client.session.alpn,
            "bytes_in": client.bytes_received,
            "bytes_out": client.bytes_sent,
        }


async def run_concentrator(settings: ConcentratorSettings) -> int:
    """The whole process; returns its exit code."""
    events = Events(settings.output)
    raise_limit()
    try:
        folder = StateFolder(settings.state_dir)
        claim = folder.claim("concentrator")
    except StateError as error:
        events.error("state", str(error))
        return 1
    try:
        if settings.workers > 1:
            from .workers.supervisor import supervise

            return await supervise(settings, folder, events)
        return await _run(settings, folder, events)
    except (StateError, LocalError, ValueError) as error:
        events.error("concentrator", str(error))
        return 1
    finally:
        claim.close()


async def _run(settings: ConcentratorSettings, folder: StateFolder, events: Events) -> int:
    now = time.time()
    credentials = server_credentials(folder, settings.certificate_file, settings.key_file)
    registry = Registry(folder)
    way_out = build_way_out(settings, events)
    warn_of_keylog(settings, events)
    try:
        endpoint = await open_endpoint(to_listen(settings.listen), engine=settings.transport.engine, workers=1)
    except BaseException:
        await way_out.close()
        raise
    concentrator = Concentrator(
        settings,
        registry=registry,
        credentials=credentials,
        secret=load_secret(folder, now),
        endpoint=endpoint,
        way_out=way_out,
        events=events,
    )
    concentrator.start()
    status = StatusServer(socket_path(settings.runtime_dir, settings.name), _handlers(concentrator))
    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    with Notifier() as notifier:
        try:
            await status.start()
            hand_out_first_link(settings, folder, registry, credentials, endpoint.local_addresses, events, now)
            way_out.start()
            tasks.append(asyncio.create_task(concentrator.watch_registry()))
            if notifier.watchdog_interval:
                tasks.append(asyncio.create_task(keep_alive(notifier)))
            _on_signals(concentrator, settings, notifier, events, stop)
            await until_stopped(stop, notifier, events, endpoint.local_addresses)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await concentrator.drain()
            await status.close()
    return 0


async def until_stopped(
    stop: asyncio.Event, notifier: Notifier, events: Events, addresses: Sequence[Address], remark: str = ""
) -> None:
    """Say that all is ready, wait, and say that it ends."""
    if not stop.is_set():
        shown = ", ".join(shown_address(host, port) for host, port in addresses)
        events.info("listening", f"concentrator listening on {shown} (UDP){remark}")
        notifier.ready(f"listening on {shown}")
    await stop.wait()
    notifier.stopping("shutting down")
    events.info("stopping", "shutting down")


def _handlers(concentrator: Concentrator) -> Mapping[str, Any]:
    return {
        "status": lambda request: concentrator.status(),
        "clients-changed": lambda request: {"ended": concentrator.check_clients()},
        "qlog": concentrator.event_log.answer,
    }


def shown_public(settings: ConcentratorSettings, listening: Sequence[Address]) -> str:
    """HOST:PORT that links name, as ``client add`` in another process needs to know; empty when nobody said."""
    if settings.public_name is None:
        return ""
    host, port, _ = link_host(settings.public_name, settings.public_port, tuple(listening))
    return shown_address(host, port)


def warn_of_keylog(settings: ConcentratorSettings, events: Events) -> None:
    """A line when the user has asked for TLS's secrets."""
    if settings.transport.keylog is not None:
        events.warn(
            "keylog", f"TLS secrets are written to {settings.transport.keylog}: its readers can read the traffic"
        )


def hand_out_first_link(
    settings: ConcentratorSettings,
    folder: StateFolder,
    registry: Registry,
    credentials: ServerCredentials,
    listening: Sequence[Address],
    events: Events,
    now: float,
) -> None:
    """At the first start there is no client yet: make one and its link."""
    if registry.clients():
        return
    token = registry.add(settings.first_client, now)
    host, port, remark = link_host(settings.public_name, settings.public_port, tuple(listening))
    pins = (credentials.pin,) if needs_pin(credentials, host, now) else ()
    link = Link(host=host, port=port, token=token, pins=pins, name=settings.first_client)
    events.info("link", hand_out_link(link, folder, sys.stdout, print_link=settings.print_link))
    if remark:
        events.info("link-host", remark)


async def keep_alive(notifier: Notifier) -> None:
    """Feed the service manager's watchdog; forever."""
    while True:
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_interval)


def _on_signals(
    concentrator: Concentrator,
    settings: ConcentratorSettings,
    notifier: Notifier,
    events: Events,
    stop: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()

    def reload() -> None:
        notifier.reloading()
        try:
            renewed = settings.reload() if settings.reload is not None else settings
            concentrator.reload(renewed)
        except (StateError, LocalError, ValueError) as error:
            events.warn("reload", f"not reloaded, the old settings stay: {error}")
        else:
            waiting = ", ".join(waiting_for_restart(settings, renewed))
            rest = f"; changed, but only for the next start: {waiting}" if waiting else ""
            events.info("reload", f"rules, clients and their limits reloaded{rest}")
        notifier.ready()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
