"""Front doors that pproxy's parsers know and ours do not: Shadowsocks, Trojan, fixed and redirected destinations.

Read first: ``urls``, ``parsing``, ``pipe``, and quicsocks.socks.types for what is behind the door. Raw sockets here;
the destination comes from pproxy's parser, the bytes go through a ``Layer`` to a ``Flow``. SOCKS and HTTP are not
among them: pproxy answers SOCKS requests with a success before anything was dialled, and the main listener speaks them
properly.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quicsocks.socks.sockets import reset
from quicsocks.socks.types import Exit, Flow, FlowError, Request

from ..quic.errors import LocalError, PeerError
from .parsing import ParserReader, Parsers
from .pipe import Layer, Plain, both
from .shadowsocks import AeadStream, Cipher, SaltFilter
from .tls import TlsServer, server_context
from .urls import ProxyUrl, parse_proxy_url, reject_options


@dataclass(frozen=True, slots=True)
class InboundLimits:
    handshake_timeout: float = 10.0
    """Seconds until the destination must be known: as long as a slow mobile client needs, and no more."""
    max_connections: int = 1024
    """In total: two descriptors' worth each."""
    max_per_address: int = 256
    """From one address: a busy household behind one NAT."""
    idle_timeout: float = 7440.0
    """Seconds without a byte either way: 2 h 4 min, what a NAT gives established TCP (RFC 5382 REQ-5)."""


@dataclass(frozen=True, slots=True)
class InboundConfig:
    """What a --listen URL asks for. protocol: "ss", "ssr", "trojan", "tunnel", "redir" or "pf"."""

    protocol: str
    host: str
    port: int
    shown: str
    cipher: Cipher | None = None
    users: tuple[bytes, ...] = ()
    target: str = ""
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, text: str) -> InboundConfig:
        """Raises LocalError with one line for the user. Reads the certificate files that the URL names."""
        url = parse_proxy_url(text)
        protocol = url.scheme.removesuffix("+ssl")
        if protocol not in PROTOCOLS:
            raise LocalError(_not_offered(protocol))
        if not url.port:
            raise LocalError(f"--listen {url.shown}: the port is missing; write {protocol}://...HOST:PORT")
        # Without a host, loopback: listening for others has to be asked for by its address.
        host = url.host or "127.0.0.1"
        if protocol in ("ss", "ssr"):
            reject_options(url)
            cipher = Cipher.from_password(url.user, url.password)
            return cls(protocol, host, url.port, url.shown, cipher=cipher)
        if protocol == "trojan":
            return _trojan(url, host)
        if url.user or url.password:
            raise LocalError(f"--listen {url.shown}: {protocol} has no passwords; leave what stands before the @ out")
        if protocol == "tunnel":
            reject_options(url, "to")
            target = url.options.get("to", "")
            goal = parse_proxy_url(f"tunnel://{target}")
            if not (goal.host and goal.port):
                raise LocalError(f"--listen {url.shown}: say where it leads: tunnel://HOST:PORT?to=HOST:PORT")
            return cls(protocol, host, url.port, url.shown, target=target)
        reject_options(url)
        return cls(protocol, host, url.port, url.shown)


async def start_inbound(
    url: str, exit: Exit, on_event: Callable[[str, str], None], limits: InboundLimits | None = None
) -> Inbound:
    """Listen as a ``--listen`` URL says. Raises LocalError with one line when the URL or the address will not do.

    on_event(kind, text): for the operator; never contains a destination.
    """
    config = InboundConfig.parse(url)
    inbound = Inbound(config, exit, on_event, limits or InboundLimits())
    await inbound.start()
    return inbound


class Inbound:
    """One listener. ``addresses`` after ``start``; ``close`` ends it and its connections."""

    def __init__(
        self, config: InboundConfig, exit: Exit, on_event: Callable[[str, str], None], limits: InboundLimits
    ) -> None:
        self._config = config
        self._exit = exit
        self._on_event = on_event
        self._limits = limits
        self._parsers = Parsers(config.protocol, config.target)
        self._salts = SaltFilter()
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._per_address: Counter[str] = Counter()
        self._told: dict[str, float] = {}
        self.addresses: list[tuple[str, int]] = []
        self.accepted = 0
        self.refused = 0

    async def start(self) -> None:
        """Raises LocalError."""
        hosts = ["127.0.0.1", "::1"] if self._config.host == "localhost" else [self._config.host]
        try:
            for host in hosts:
                self._sockets.append(_listen(host, self._config.port, self._config.shown))
        except LocalError:
            if not (self._sockets and hosts[1:]):
                raise  # localhost without IPv6 still has IPv4
        for sock in self._sockets:
            self.addresses.append(sock.getsockname()[:2])
            self._acceptors.append(asyncio.create_task(self._accept(sock)))

    async def close(self) -> None:
        """Stop listening and reset what is open. Idempotent."""
        tasks = [*self._acceptors, *self._connections]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        self._acceptors.clear()

    def statistics(self) -> dict[str, int]:
        return {"open": len(self._connections), "accepted": self.accepted, "refused": self.refused}

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # Those that wait stay in the kernel's queue until a descriptor is free.
                    self._tell("descriptors", "out of file descriptors: connections wait; raise the limit (ulimit -n)")
                    await asyncio.sleep(0.1)
                continue  # others are the fault of the one connection that was waiting (accept(2))
            address = peer[0]
            if (
                len(self._connections) >= self._limits.max_connections
                or self._per_address[address] >= self._limits.max_per_address
            ):
                self.refused += 1
                self._tell("limit", "a connection limit is reached: new connections are refused")
                reset(sock)
                continue
            self.accepted += 1
            self._per_address[address] += 1
            task = asyncio.create_task(self._connection(sock, (address, peer[1])))
            self._connections.add(task)
            task.add_done_callback(functools.partial(self._gone, sock, address))

    def _gone(self, sock: socket.socket, address: str, task: asyncio.Task[None]) -> None:
        reset(sock)  # closed already, unless the task was cancelled before its first step
        self._connections.discard(task)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell("internal", f"a connection ended by an error of ours: {type(error).__name__}: {error}")

    async def _connection(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        flow: Flow | None = None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            layer = self._layer()
            reader = ParserReader(sock, layer)
            async with asyncio.timeout(self._limits.handshake_timeout):
                host, port = await self._parsers.destination(reader, sock, self._config.users)
            flow = self._exit.open(Request(host, port, self._config.protocol, peer))
            if early := reader.take():
                flow.write(early)
            await flow.connected()
            await self._carry(sock, layer, reader, flow)
            flow.close()
            sock.close()
        except (PeerError, FlowError, OSError, TimeoutError):
            # None of these protocols can say no: a reset is the one answer, and tells a prober nothing.
            self._break(sock, flow)
        except BaseException:
            self._break(sock, flow)
            raise

    def _break(self, sock: socket.socket, flow: Flow | None) -> None:
        if flow is not None:
            flow.abort()
        reset(sock)

    async def _carry(self, sock: socket.socket, layer: Layer, reader: ParserReader, flow: Flow) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._limits.idle_timeout) as idle:

            def moved() -> None:
                idle.reschedule(loop.time() + self._limits.idle_timeout)

            async def up() -> None:
                while data := await reader.read():
                    moved()
                    flow.write(data)
                    await flow.drain()
                flow.write_eof()

            async def down() -> None:
                while data := await flow.read():
                    moved()
                    await loop.sock_sendall(sock, layer.encode(data))
                if last := layer.encode_eof():
                    await loop.sock_sendall(sock, last)
                sock.shutdown(socket.SHUT_WR)

            await both(up(), down(), sock)

    def _layer(self) -> Layer:
        if self._config.cipher is not None:
            return AeadStream(self._config.cipher, self._salts)
        if self._config.tls is not None:
            return TlsServer(self._config.tls)
        return Plain()

    def _tell(self, kind: str, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told.get(kind, float("-inf")) >= 60.0:
            self._told[kind] = now
            self._on_event(kind, f"{self._config.shown}: {text}")


def _trojan(url: ProxyUrl, host: str) -> InboundConfig:
    reject_options(url, "cert", "key")
    # trojan://PASSWORD@...: what stands before the @ is all password.
    password = f"{url.user}:{url.password}" if url.password else url.user
    if not password:
        raise LocalError(f"--listen {url.shown}: the password is missing; write trojan://PASSWORD@HOST:PORT?cert=...")
    certificate, key = url.options.get("cert", ""), url.options.get("key", "")
    if not (certificate and key):
        raise LocalError(
            f"--listen {url.shown}: trojan is TLS and needs a certificate: ?cert=FILE&key=FILE behind the port"
        )
    context = server_context(Path(certificate), Path(key))
    return InboundConfig("trojan", host, url.port, url.shown, users=(password.encode(),), tls=context)


def _listen(host: str, port: int, shown: str) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise LocalError(f"--listen {shown}: listen on an IP address of this host, not on a name") from None
    sock = None
    try:
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(256)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        hint = {
            errno.EADDRINUSE: "choose another port, or stop the program that holds it",
            errno.EACCES: "ports below 1024 need a privilege; choose one above",
            errno.EADDRNOTAVAIL: "this host does not have the address; choose one that it has",
        }.get(error.errno or 0, "choose another address")
        raise LocalError(f"cannot listen on {shown}: {(error.strerror or str(error)).lower()}; {hint}") from None
    return sock


def _not_offered(protocol: str) -> str:
    if protocol in ("socks", "socks4", "socks4a", "socks5", "socks5h", "http", "https", "httponly"):
        return f"--listen {protocol}://: SOCKS and HTTP share one listener; write --listen HOST:PORT without a scheme"
    if protocol == "ws":
        return "--listen ws://: pproxy's WebSocket server never recognises a client, so it is not offered"
    return f"--listen {protocol[:40]}://: not one of {', '.join(PROTOCOLS)}"


PROTOCOLS = ("ss", "ssr", "trojan", "tunnel", "redir", "pf")
"""pproxy's inbound protocols that are offered. Of the others, ws is broken in pproxy, echo is a test, and quic, h2, h3,
ssh and in are transports of its own."""
