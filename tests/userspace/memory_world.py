"""Client and concentrator in one process: everything but the transport is the real thing, with kernel sockets at both
ends of the flows. The transport is memory, which tests can sever at will, or the real engine over loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from quicsocks.socks.types import Request
from quicsocks.userspace.client_flow import ClientFlow
from quicsocks.userspace.concentrator import Concentrator
from quicsocks.userspace.enrolment import Registry
from quicsocks.userspace.flows import FlowTable
from quicsocks.userspace.identity import RotatingSecret, load_or_create, server_credentials
from quicsocks.userspace.link import Link
from quicsocks.userspace.log import Events
from quicsocks.userspace.quic.errors import End, Ended
from quicsocks.userspace.quic.memory import MemoryLink
from quicsocks.userspace.quic.types import (
    Address,
    DialConfig,
    Endpoint,
    Limits,
    ListenConfig,
    Session,
    SessionHandler,
    Trust,
)
from quicsocks.userspace.settings import ConcentratorSettings, Rule, TransportSettings
from quicsocks.userspace.state import StateFolder
from quicsocks.userspace.tunnel.types import ALPN_QT, ALPN_QUICSOCKS
from quicsocks.userspace.uplink import Uplink, UplinkConfig
from quicsocks.userspace.way_out import build_way_out


class MemoryEndpoint:
    """Both ends' Endpoint: what one dials, the other accepts, unless the road is closed."""

    def __init__(self, alpn: str = ALPN_QUICSOCKS, limits: Limits | None = None) -> None:
        self.links: list[MemoryLink] = []
        self.answer: Ended | None = None
        """How every dial ends, when not None."""
        self.dialled: list[Address] = []
        self.logging_to: Path | None = None
        self._alpn = alpn
        self._limits = limits
        self._accept: Callable[[Session], SessionHandler] | None = None

    @property
    def local_addresses(self) -> tuple[Address, ...]:
        return (("127.0.0.1", 4433),)

    def add_address(self, local: Address) -> Address:
        return local

    def log_to(self, folder: Path | None) -> None:
        self.logging_to = folder

    def dial(self, remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
        loop = asyncio.get_running_loop()
        self.dialled.append(remote)
        link = MemoryLink(alpn=self._alpn, schedule=loop.call_soon, limits=self._limits)
        self.links.append(link)
        link.client.set_handler(handler)
        if self.answer is not None or self._accept is None:
            ended = self.answer or Ended(End.HANDSHAKE_TIMED_OUT)
            loop.call_soon(lambda: None if link.client.ended else link.sever(ended))
            link.server.set_handler(_Nobody())
            return link.client
        link.server.set_handler(self._accept(link.server))
        link.complete_handshake()
        return link.client

    def listen(self, config: ListenConfig, accept: Callable[[Session], SessionHandler]) -> None:
        self._accept = accept

    def stop_listening(self) -> None:
        self._accept = None

    def set_first_byte_hook(self, hook: Callable[[bytes, Address], bool] | None) -> None: ...

    def send_raw(self, data: bytes, remote: Address) -> None: ...

    def inject(self, data: bytes, remote: Address) -> None: ...

    def statistics(self) -> dict[str, int]:
        return {}

    async def close(self) -> None: ...


class _Nobody:
    def handshake_completed(self) -> None: ...

    def stream_opened(self, stream: object) -> None: ...

    def datagram_received(self, data: bytes, ecn: int) -> None: ...

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: object) -> None: ...

    def session_ended(self, ended: Ended) -> None: ...


class WindowedEndpoint:
    """A real endpoint whose sessions have other limits than the program would choose."""

    def __init__(self, endpoint: Endpoint, limits: Limits | None) -> None:
        self._endpoint = endpoint
        self._limits = limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._endpoint, name)

    def dial(self, remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
        if self._limits is not None:
            config = dataclasses.replace(config, limits=self._limits)
        return self._endpoint.dial(remote, config, handler)

    def listen(self, config: ListenConfig, accept: Callable[[Session], SessionHandler]) -> None:
        if self._limits is not None:
            config = dataclasses.replace(config, limits=self._limits)
        self._endpoint.listen(config, accept)


class World:
    """A concentrator that may dial loopback, and a client of it. ``start`` connects them.

    engines: the client's and the concentrator's endpoint; without them both are one in memory.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rules: tuple[Rule, ...] = (Rule("allow", "127.0.0.0/8"),),
        alpn: str = "",
        once: bool = False,
        wait_for_tunnel: float = 10.0,
        limits: Limits | None = None,
        engines: tuple[Endpoint, Endpoint] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        server_state, client_state = StateFolder(folder / "server"), StateFolder(folder / "client")
        self.settings = ConcentratorSettings(
            state_dir=folder / "server",
            runtime_dir=folder / "run",
            rules=rules,
            allow_qt=alpn == ALPN_QT,
            drain=5.0,
            transport=TransportSettings(congestion="cubic"),  # Every engine has it.
        )
        self.said = io.StringIO()
        self.events = Events(self.settings.output, self.said)
        self.registry = Registry(server_state)
        token = self.registry.add("home", 0.0, lifetime=1e12)
        credentials = server_credentials(server_state)
        self.endpoint = MemoryEndpoint(alpn or ALPN_QUICSOCKS, limits)
        near: Endpoint = self.endpoint
        far: Endpoint = self.endpoint
        if engines is not None:
            near, far = (cast(Endpoint, WindowedEndpoint(engine, limits)) for engine in engines)
        port = far.local_addresses[0][1]
        self.link = Link("127.0.0.1", port, b"" if alpn else token, (credentials.pin,), "home", alpn)
        self.concentrator = Concentrator(
            self.settings,
            registry=self.registry,
            credentials=credentials,
            secret=RotatingSecret(bytes(32)),
            endpoint=far,
            way_out=build_way_out(self.settings, self.events),
            events=self.events,
        )
        self.flows = FlowTable(loop)
        identity = None if alpn else load_or_create(client_state).tunnel_identity(token, "test")
        self.notes: list[tuple[str, str]] = []
        self.uplink = Uplink(
            UplinkConfig(
                self.link,
                DialConfig((alpn or ALPN_QUICSOCKS,), Trust("127.0.0.1", self.link.pins)),
                identity,
                wait_for_tunnel,
                once,
            ),
            near,
            resolve=self._resolve,
            notify=lambda event, line: self.notes.append((event, line)),
        )
        self._near = near
        self.running: asyncio.Task[int] | None = None

    async def _resolve(self, host: str, port: int) -> list[Address]:
        return [(host, port)]

    def start(self) -> None:
        self.concentrator.start()
        self.running = asyncio.create_task(self.uplink.run())

    def open(self, host: str, port: int) -> ClientFlow:
        flow = ClientFlow(Request(host, port, "socks5"), self.flows, asyncio.get_running_loop())
        self.uplink.submit(flow)
        return flow

    async def close(self) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        self.flows.close()
        await self.uplink.close()
        await self.concentrator.drain()
        await self._near.close()


class Origin:
    """A listening kernel socket that the test plays the server of."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._accepted: list[socket.socket] = []

    async def accept(self) -> socket.socket:
        sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        self._accepted.append(sock)
        return sock

    def close(self) -> None:
        self._listener.close()
        for sock in self._accepted:
            sock.close()
