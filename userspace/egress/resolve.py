"""Resolves names at the exit: by the system's resolver, or by a DNS server that the operator names (``--dns``).

Read first: ``names``, RFC 6761 §6.3 (localhost), RFC 7050 (finding NAT64 prefixes), getaddrinfo(3). Threads and
sockets live here; what a name may lead to is judged by ``policy``, for each address, afterwards.

Names are looked up as they stand, without the host's search list: otherwise "db" would be one name to the rules and
another ("db.corp.example") to the resolver. /etc/hosts is read here, since getaddrinfo does not look into it for a name
with a closing dot, which is the only way to make it leave the search list out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..tunnel.types import Cause, FlowFailed
from .names import HostError, is_localhost, normalise_name
from .special import IPAddress, nat64_prefixes_from

if TYPE_CHECKING:
    from .tunnel_dns import Duplex, StreamResolverConfig


class Resolver(Protocol):
    async def resolve(self, name: str) -> list[IPAddress]:
        """The addresses of a normalised name, best first, at least one. Raises FlowFailed."""

    async def close(self) -> None: ...


class SystemResolver:
    """getaddrinfo on a few threads.

    timeout: seconds for one name. threads: lookups at once; a thread whose lookup hangs is given up by those who wait
    and comes back when the C library does. max_waiting: names that wait for a thread. hosts: None leaves it out.
    getaddrinfo: replaced in tests; called on the threads.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        threads: int = 16,
        max_waiting: int = 512,
        hosts: HostsFile | None = None,
        getaddrinfo: Callable[[str], list[IPAddress]] | None = None,
    ) -> None:
        self._timeout = timeout
        self._threads = _Threads(threads, max_waiting)
        self._hosts = hosts
        self._getaddrinfo = getaddrinfo or _getaddrinfo
        self._lookups: dict[str, asyncio.Future[list[IPAddress]]] = {}

    async def resolve(self, name: str) -> list[IPAddress]:
        """Raises FlowFailed: NAME_NOT_FOUND, NAME_TIMEOUT, LIMIT."""
        if is_localhost(name):
            # RFC 6761 §6.3: without asking anyone. The policy refuses both unless a rule lifts loopback.
            return list(LOOPBACK)
        if self._hosts is not None:
            listed = self._hosts.addresses(name)
            if listed:
                return listed
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = self._threads.submit(lambda: self._getaddrinfo(name))
            self._lookups[name] = lookup
            lookup.add_done_callback(lambda done: self._done(name, done))
        try:
            async with asyncio.timeout(self._timeout):
                return list(await asyncio.shield(lookup))
        except TimeoutError:
            raise FlowFailed(Cause.NAME_TIMEOUT, "the system's resolver did not answer in time") from None

    async def close(self) -> None:
        """Let the threads go; one that hangs does not hold up the process's end. Idempotent."""
        self._threads.close()

    def _done(self, name: str, lookup: asyncio.Future[list[IPAddress]]) -> None:
        self._lookups.pop(name, None)
        if not lookup.cancelled():
            lookup.exception()  # marked as seen: all who asked may have given up


class DnsResolver:
    """A DNS server of the operator's choice, asked over TCP (RFC 7766: every server offers it). /etc/hosts comes first.

    address: an IP literal. The server itself is exempt from the policy: the operator has named it.
    """

    def __init__(
        self, address: str, port: int = 53, config: StreamResolverConfig | None = None, hosts: HostsFile | None = None
    ) -> None:
        # dnspython is 3.5 MB of memory, which those who name no server need not have.
        from .tunnel_dns import StreamResolver

        self._address = (address, port)
        self._hosts = hosts
        self._stream_resolver = StreamResolver(self._open, config)

    async def resolve(self, name: str) -> list[IPAddress]:
        if is_localhost(name):
            return list(LOOPBACK)
        if self._hosts is not None:
            listed = self._hosts.addresses(name)
            if listed:
                return listed
        return await self._stream_resolver.resolve(name)

    async def close(self) -> None:
        await self._stream_resolver.close()

    async def _open(self) -> Duplex:
        reader, writer = await asyncio.open_connection(*self._address)
        return _TcpDuplex(reader, writer)


class HostsFile:
    """/etc/hosts, read again when it changes (hosts(5)). Raises nothing: an unreadable file is an empty one."""

    def __init__(self, path: Path = Path("/etc/hosts")) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[str, list[IPAddress]] = {}

    def addresses(self, name: str) -> list[IPAddress]:
        """Those of a normalised name, in the file's order; empty when it is not listed."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                with self._path.open("rb") as file:
                    # 1 MiB: the block lists that some people keep there may be cut, the few lines at the top never.
                    text = file.read(1 << 20).decode("utf-8", "replace")
                self._names, self._stamp = _parse_hosts(text), stamp
        except OSError:
            return []
        return list(self._names.get(name, ()))


async def discover_nat64(resolver: Resolver) -> tuple[IPv6Network, ...]:
    """Ask for the prefixes of the network's NAT64 translators (RFC 7050 §3); none when there is no DNS64.

    Raises nothing: who does not get an answer goes on without. Ask again when the network changes, or hourly.
    """
    try:
        return nat64_prefixes_from(await resolver.resolve("ipv4only.arpa"))
    except FlowFailed:
        return ()


async def watch_nat64(
    resolver: Resolver,
    found: Callable[[Iterable[IPv6Network]], None],
    interval: float = 3600.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Discover again and again until cancelled, and hand each answer that is not empty to found."""
    while True:
        prefixes = await discover_nat64(resolver)
        if prefixes:
            found(prefixes)
        await sleep(interval)


class _TcpDuplex:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(1 << 16)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def abort(self) -> None:
        self._writer.transport.abort()


class _Threads:
    """Daemon threads with a bounded queue. Not concurrent.futures': its threads are joined when the process ends, and a
    resolver that hangs would then hold up the exit for half a minute."""

    def __init__(self, size: int, max_waiting: int) -> None:
        self._size = size
        self._max_waiting = max_waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._started = 0
        self._unfinished = 0
        self._closed = False

    def submit(self, work: Callable[[], list[IPAddress]]) -> asyncio.Future[list[IPAddress]]:
        """Raises FlowFailed with Cause.LIMIT, or GOING_AWAY after ``close``."""
        if self._closed:
            raise FlowFailed(Cause.GOING_AWAY, "the resolver is closed")
        if self._unfinished >= self._size + self._max_waiting:
            raise FlowFailed(Cause.LIMIT, "too many names are being looked up")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[IPAddress]] = loop.create_future()
        self._unfinished += 1
        self._jobs.put((work, loop, future))
        if self._started < min(self._size, self._unfinished):
            self._started += 1
            threading.Thread(target=self._run, name=f"resolver-{self._started}", daemon=True).start()
        return future

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for _ in range(self._started):
                self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, loop, future = job
            result: list[IPAddress] | FlowFailed
            try:
                result = work()
            except FlowFailed as error:
                result = error
            except Exception as error:
                result = FlowFailed(Cause.INTERNAL, f"the lookup failed: {error}")
            try:
                loop.call_soon_threadsafe(self._finished, future, result)
            except RuntimeError:
                return  # the loop is closed, nobody waits

    def _finished(self, future: asyncio.Future[list[IPAddress]], result: list[IPAddress] | FlowFailed) -> None:
        self._unfinished -= 1
        if future.done():
            return
        if isinstance(result, FlowFailed):
            future.set_exception(result)
        else:
            future.set_result(result)


_Job = tuple[Callable[[], list[IPAddress]], asyncio.AbstractEventLoop, "asyncio.Future[list[IPAddress]]"]


def _getaddrinfo(name: str) -> list[IPAddress]:
    """Blocking. The closing dot keeps the search list out; the order is RFC 6724's."""
    try:
        found = socket.getaddrinfo(f"{name}.".encode("ascii"), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _failure(error) from None
    except OSError as error:
        cause = Cause.LIMIT if error.errno in (errno.EMFILE, errno.ENFILE) else Cause.NAME_TIMEOUT
        raise FlowFailed(cause, f"the system's resolver failed: {error.strerror}") from None
    addresses: list[IPAddress] = []
    for family, _, _, _, sockaddr in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            address = ip_address(str(sockaddr[0]))
            if not (isinstance(address, IPv6Address) and address.scope_id is not None):
                addresses.append(address)
    if not addresses:
        raise FlowFailed(Cause.NAME_NOT_FOUND, "the name has no address")
    return list(dict.fromkeys(addresses))


def _failure(error: socket.gaierror) -> FlowFailed:
    # EAI_AGAIN is both a timeout and a SERVFAIL to glibc: either may work later. EAI_SYSTEM hides an errno.
    if error.errno == socket.EAI_AGAIN:
        return FlowFailed(Cause.NAME_TIMEOUT, "the system's resolver got no answer")
    if error.errno in (socket.EAI_MEMORY, getattr(socket, "EAI_SYSTEM", None)):
        return FlowFailed(Cause.LIMIT, f"the system's resolver failed: {error.strerror}")
    return FlowFailed(Cause.NAME_NOT_FOUND, error.strerror or "no such host name")


def _parse_hosts(text: str) -> dict[str, list[IPAddress]]:
    names: dict[str, list[IPAddress]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = ip_address(words[0])
        except ValueError:
            continue
        for word in words[1:]:
            try:
                name = normalise_name(word)
            except HostError:
                continue
            listed = names.setdefault(name, [])
            if address not in listed:
                listed.append(address)
    return names


LOOPBACK: tuple[IPAddress, ...] = (ip_address("127.0.0.1"), ip_address("::1"))
"""What localhost means, IPv4 first: that is where most local servers listen, and the order in which they are tried."""
