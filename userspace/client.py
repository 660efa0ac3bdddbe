"""``quicsocks run``: front doors on this host, one connection to the concentrator, and what joins them.

``Client`` owns the parts: endpoint, uplink, flows, listeners. ``run_client`` adds what makes it a process: signals,
readiness, the control socket, and with ``-- CMD`` the command it was started for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quicsocks.socks.config import ListenerConfig
from quicsocks.socks.credentials import Credentials
from quicsocks.socks.errors import LocalError as SocksError
from quicsocks.socks.listener import Listener
from quicsocks.socks.listener import start as start_listener
from quicsocks.socks.types import Request

from .child import CommandFailed, run_command
from .client_exit import ClientExit, Routes, direct_exit
from .client_flow import ClientFlow
from .egress.special import IPAddress
from .environment import child_environment, proxy_variables
from .event_log import EventLog, shown
from .families import to_dial
from .flows import FlowTable
from .identity import load_or_create
from .log import Events
from .nofile import raise_limit
from .notify import Notifier
from .output import shown_address
from .quic.errors import LocalError
from .quic.factory import open_endpoint
from .quic.types import Address, DialConfig, Endpoint, Limits, Trust
from .settings import ClientSettings, Login
from .state import StateError, StateFolder
from .status import StatusServer, socket_path
from .tunnel.types import ALPN_QT, ALPN_QUICSOCKS
from .uplink import EXIT_FAILED, Uplink, UplinkConfig

if TYPE_CHECKING:
    from .chain.inbound import Inbound
    from .egress.tunnel_dns import StreamResolver

RESOLVE_TIMEOUT = 5.0
"""Seconds for the concentrator's own name; after that the attempt has failed and is repeated."""
KEEPALIVE = 4.0
"""Seconds of silence after which a PING goes out: NAT bindings live on, and an idle client learns of a concentrator's
restart within the 5 s in which it must be back."""
EXIT_COMMAND_FAILED = 125
"""Our own failure, for ``run -- CMD``: as env(1) and docker have it."""


class Client:
    """The parts of a running client, without the process around them."""

    def __init__(self, settings: ClientSettings, endpoint: Endpoint, folder: StateFolder, events: Events) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._endpoint = endpoint
        self._events = events
        self.flows = FlowTable(loop, settings.limits.flow_idle_timeout)
        self._resolver: StreamResolver | None = None
        if settings.dns is not None:
            # dnspython is 3.5 MB of memory, which others need not have.
            from .egress.tunnel_dns import StreamResolver

            self._resolver = StreamResolver(self._open_resolver)
        self.ready = asyncio.Event()
        """Set when the first connection stands."""
        link = settings.link
        bare = link.alpn == ALPN_QT
        key = load_or_create(folder, settings.key_file)
        identity = None if bare else key.tunnel_identity(link.token, socket.gethostname() if link.token else "")
        transport = settings.transport
        dial = DialConfig(
            alpn=(ALPN_QT,) if bare else (ALPN_QUICSOCKS,),
            trust=Trust(server_name=link.host, pins=link.pins, ca_file=settings.ca_file),
            limits=Limits(keepalive=KEEPALIVE, congestion=transport.controller),
            crypto_profile=transport.crypto_profile,
            keylog=transport.keylog,
            spin_bit=transport.spin_bit,
        )
        self.uplink = Uplink(
            UplinkConfig(link, dial, identity, settings.limits.wait_for_tunnel, settings.once),
            endpoint,
            resolve=resolve_concentrator,
            notify=self._say,
            resolve_through=self._resolve_through if self._resolver is not None else None,
            on_ready=self.ready.set,
        )
        self._direct = direct_exit()
        self.exit = ClientExit(self.uplink, self.flows, Routes(settings.rules), self._direct)
        self._listeners: list[Listener] = []
        self._inbounds: list[tuple[str, Inbound]] = []
        self.event_log = EventLog(endpoint, events)
        self.started = time.time()

    async def listen(
        self, tcp: Sequence[Address], unix: Sequence[str], urls: Sequence[str], login: Login | None
    ) -> None:
        """Open the front doors. Raises LocalError when one cannot be opened."""
        settings, limits = self._settings, self._settings.limits
        if tcp or unix:
            config = ListenerConfig(
                addresses=tuple(tcp),
                unix_paths=tuple(unix),
                credentials=Credentials({login.username: login.password}) if login is not None else None,
                allow_open=settings.allow_open,
                handshake_timeout=limits.handshake_timeout,
                idle_timeout=limits.http_idle_timeout,
                max_head=limits.header_size,
                max_connections=limits.connections,
                max_connections_per_address=limits.connections_per_address,
            )
            self._listeners.append(await start_listener(config, self.exit, self._events.warn))
        for url in urls:
            from .chain.inbound import (
                start_inbound,
            )  # Shadowsocks and TLS: in the memory of those who have asked for them.

            self._inbounds.append((url.partition(":")[0], await start_inbound(url, self.exit, self._events.warn)))

    @property
    def addresses(self) -> list[Address]:
        """TCP addresses of the SOCKS and HTTP listeners."""
        return [one for listener in self._listeners for one in listener.addresses if not isinstance(one, str)]

    @property
    def shown_listeners(self) -> list[str]:
        shown = [shown_address(host, port) for host, port in self.addresses]
        shown += [f"unix:{path}" for path in self._settings.listen_unix]
        return shown + [
            f"{protocol}://{shown_address(host, port)}"
            for protocol, inbound in self._inbounds
            for host, port in inbound.addresses
        ]

    async def close(self) -> None:
        """Close the front doors, then the connection. Idempotent."""
        for listener in self._listeners:
            await listener.close()
        for _, inbound in self._inbounds:
            await inbound.close()
        await self._direct.close()
        if self._resolver is not None:
            await self._resolver.close()
        self.flows.close()
        await self.uplink.close()
        await self._endpoint.close()

    def status(self) -> dict[str, Any]:
        """What ``quicsocks status`` shows."""
        uplink = self.uplink
        current = uplink.current
        told: dict[str, Any] = {
            "role": "client",
            "name": self._settings.name,
            "pid": os.getpid(),
            "started": self.started,
            "connected": current is not None,
            "listeners": self.shown_listeners,
            "engine": self._settings.transport.engine,
            "flows": len(self.flows),
            "pending": uplink.waiting,
            "flows_opened": self.flows.opened,
            "bytes_in": self.flows.bytes_received,
            "bytes_out": self.flows.bytes_sent,
            "reconnections": uplink.reconnections,
            "login_required": self._settings.login is not None,
            "qlog": shown(self.event_log.folder),
            "endpoint": self._endpoint.statistics(),
        }
        if current is None:
            told["reason"] = uplink.last_problem or "connecting"
            return told
        statistics = current.session.statistics()
        host, port = current.session.peer_address
        told |= {
            "connected_to": self._settings.link.authority,
            "address": shown_address(host, port),
            "since": uplink.connected_since,
            "alpn": current.session.alpn,
            "lane": "stream",
            "rtt": statistics.smoothed_rtt,
            "packets_lost": statistics.packets_lost,
            "packets_sent": statistics.packets_sent,
            "congestion": statistics.congestion,
            "congestion_window": statistics.congestion_window,
            "pacing_rate": statistics.pacing_rate,
            "path_mtu": statistics.path_mtu,
            "ecn": statistics.ecn,
            "ecn_state": statistics.ecn_state,
            "tunnel": dataclasses.asdict(current.tunnel.counters),
        }
        return told

    def _say(self, event: str, line: str) -> None:
        if event == "connected":
            # A command's own output comes next: it need not hear that all is well.
            (self._events.detail if self._settings.command is not None else self._events.info)(event, line)
        elif self.uplink.gave_up:
            self._events.error(event, line)
        else:
            self._events.notice(event, line)

    # Names on bare qt.

    async def _open_resolver(self) -> ClientFlow:
        assert self._settings.dns is not None
        host, port = self._settings.dns
        flow = ClientFlow(Request(host, port, "dns"), self.flows, asyncio.get_running_loop())
        self.uplink.submit(flow)
        return flow

    async def _resolve_through(self, name: str) -> list[str]:
        assert self._resolver is not None
        addresses: list[IPAddress] = await self._resolver.resolve(name)
        return [str(address) for address in addresses]


async def resolve_concentrator(host: str, port: int) -> list[Address]:
    """The concentrator's own addresses, asked anew for every attempt. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except TimeoutError:
        raise OSError(f"no answer for {host} from this host's resolver") from None
    return [(str(address[0]), int(address[1])) for _, _, _, _, address in found]


async def run_client(settings: ClientSettings) -> int:
    """The whole process; returns its exit code."""
    events = Events(settings.output)
    raise_limit()
    own_failure = EXIT_COMMAND_FAILED if settings.command is not None else EXIT_FAILED
    try:
        folder = StateFolder(settings.state_dir)
        if settings.transport.keylog is not None:
            path = settings.transport.keylog
            events.warn("keylog", f"TLS secrets are written to {path}: its readers can read the traffic")
        endpoint = await open_endpoint(to_dial(), engine=settings.transport.engine)
        client = Client(settings, endpoint, folder, events)
        try:
            client.event_log.switch(settings.transport.qlog_dir)
            if settings.command is not None:
                return await _run_command(client, settings, settings.command)
            return await _serve(client, settings, events)
        finally:
            await client.close()
    except (StateError, LocalError, SocksError, ValueError) as error:
        events.error("client", str(error))
        return own_failure
    except CommandFailed as error:
        events.error("command", str(error))
        return error.code


async def _serve(client: Client, settings: ClientSettings, events: Events) -> int:
    """Serve until stopped or refused."""
    await _listen(client, settings)
    status = StatusServer(
        socket_path(settings.runtime_dir, settings.instance),
        {"status": lambda request: client.status(), "qlog": client.event_log.answer},
    )
    await status.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, client.uplink.retry_now)
    tasks: list[asyncio.Task[Any]] = []
    with Notifier() as notifier:
        try:
            events.info("listening", f"SOCKS5, SOCKS4a and HTTP on {', '.join(client.shown_listeners)}")
            connecting = asyncio.create_task(client.uplink.run())
            stopping = asyncio.create_task(stop.wait())
            tasks = [connecting, stopping, asyncio.create_task(_tell_readiness(client, notifier))]
            await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
            notifier.stopping("shutting down")
            if stopping.done():
                events.info("stopping", "shutting down")
                return 0
            return connecting.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await status.close()


async def _listen(client: Client, settings: ClientSettings) -> None:
    unix = [str(path) for path in settings.listen_unix]
    await client.listen(settings.listen_tcp, unix, settings.listen_urls, settings.login)


async def _tell_readiness(client: Client, notifier: Notifier) -> None:
    """Ready means connected; the listeners are up before. Then keep a watchdog happy."""
    await client.ready.wait()
    notifier.ready("connected")
    while notifier.watchdog_interval:
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_interval)


async def _run_command(client: Client, settings: ClientSettings, command: Sequence[str]) -> int:
    """Serve one command, by default on a port and with credentials of its own; its exit code."""
    await _listen(client, settings)
    variables = proxy_variables(client.addresses[0], settings.login, settings.no_proxy)
    environ = child_environment(os.environ, variables)
    connecting = asyncio.create_task(client.uplink.run())
    running: asyncio.Task[int] | None = None
    try:
        # The command starts when its network is there; a refusal ends it before it began.
        ready = asyncio.create_task(client.ready.wait())
        await asyncio.wait([connecting, ready], return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            ready.cancel()
            return EXIT_COMMAND_FAILED
        running = asyncio.create_task(run_command(command, environ))
        return await running
    finally:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
