"""Dials destinations for the exit: name to addresses, addresses past the policy, and a race for the first to connect.

Read first: ``policy``, ``race``, RFC 8305, and docs/security.md for what the exit promises. The one place that
connects to destinations. Every failure is a ``FlowFailed`` with the cause that the client is told; every socket that
does not win is closed, also when the caller is cancelled. It keeps nothing of a flow once it is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Protocol

from quicsocks.netstack.icmp import Unreachable, icmp_error

from ..quic.errors import LocalError
from ..tunnel.types import Cause, FlowFailed
from .names import HostError, parse_host
from .own_addresses import OwnAddresses
from .policy import Policy
from .race import ATTEMPT_DELAY, Race, interleave
from .resolve import Resolver
from .special import IPAddress, IPNetwork

MOST_LITERALS = 1024
"""IP literals whose verdict is remembered."""


SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Connect = Callable[[socket.socket, SocketAddress], Awaitable[None]]


class Cancellable(Protocol):
    """What has been begun."""

    def cancel(self) -> None:
        """Tell nobody any more. Idempotent."""


class Connector(Protocol):
    """Connects non-blocking sockets without a task each, within a time that it knows."""

    def begin(self, sock: socket.socket, address: SocketAddress, told: Callable[[OSError | None], None]) -> Cancellable:
        """told: called once from the loop unless it is cancelled, with why it failed. Raises OSError."""

    def close(self) -> None:
        """Idempotent."""


@dataclass(frozen=True, slots=True)
class DialConfig:
    """How destinations are dialled."""

    connect_timeout: float = 10.0
    """Seconds for all addresses of a destination together, after its name is resolved. A SYN is lost twice and repeated
    after 1 and 3 s (RFC 6298 §5.5); who waits for longer than this has usually gone away."""
    attempt_delay: float = ATTEMPT_DELAY
    source_addresses: tuple[str, ...] = ()
    """Local addresses to dial from, at most one of each family; a family without one is then not dialled at all, so
    that nothing leaves by another address than the one asked for."""
    keepalive_idle: int = 120
    """Seconds of silence before TCP keepalive asks: below the 350 s after which common cloud NATs forget a flow."""
    keepalive_interval: int = 30
    keepalive_count: int = 4
    """A dead destination is noticed within idle + interval * count, four minutes."""


class DialResult(NamedTuple):
    """sock: connected and non-blocking; the caller's to close. local, remote: (IP literal, port)."""

    sock: socket.socket
    local: tuple[str, int]
    remote: tuple[str, int]


class Dialler:
    """policy may be replaced at any time (``dialler.policy = ...``); dials under way finish under the one they began
    with. connect: connects a non-blocking socket to an IP literal; raises OSError. connector: the same without a task, for
    as long as config says; None leaves everything to connect. own_addresses: asked before each dial; None leaves the
    policy's own as they are. on_event(kind, text): told what the operator should know, once a minute for each kind."""

    def __init__(
        self,
        policy: Policy,
        resolver: Resolver,
        config: DialConfig | None = None,
        own_addresses: OwnAddresses | None = None,
        on_event: Callable[[str, str], None] | None = None,
        *,
        connect: Connect,
        connector: Connector | None = None,
    ) -> None:
        self.policy = policy
        self._connect = connect
        self._connector = connector
        self._resolver = resolver
        self._config = config or DialConfig()
        self._own_addresses = own_addresses
        self._on_event = on_event
        self._told: dict[str, float] = {}
        self._sources = _source_addresses(self._config.source_addresses)
        self._options = _options(self._config)
        self._told_own: tuple[Policy, tuple[IPNetwork, ...]] | None = None
        self._literals: dict[tuple[str, int], _Literal] = {}
        """Those that may be dialled."""

    async def addresses(self, host: str, port: int) -> list[IPAddress]:
        """Resolve host where needed and return the addresses that may be dialled, in the order to try. Raises
        FlowFailed.

        host: a name or an IP literal. port: 1 to 65535.
        """
        policy = self.policy
        known = self._known(host, port)
        if known is not None:
            return [known.address]
        try:
            parsed = parse_host(host)
        except HostError as error:
            cause = Cause.ADDRESS_PROHIBITED if "%" in host else Cause.NAME_NOT_FOUND
            raise FlowFailed(cause, str(error)) from None
        if not 1 <= port <= 65535:
            raise FlowFailed(Cause.DENIED, f"port {port} cannot be dialled")
        if isinstance(parsed, str):
            name: str | None = parsed
            verdict = policy.check_name(parsed, port)
            if not verdict.allowed:
                raise FlowFailed(verdict.cause or Cause.DENIED, verdict.reason)
            found = await self._resolver.resolve(parsed)
            self._look_around(policy)
        else:
            name, found = None, [parsed]
        return self._permitted(policy, host, name, found, port)

    def _permitted(
        self, policy: Policy, host: str, name: str | None, found: list[IPAddress], port: int
    ) -> list[IPAddress]:
        """Of found those that policy permits, in the order to try. Raises FlowFailed when that is none."""
        allowed = []
        refused: FlowFailed | None = None
        for address in found:
            verdict = policy.check(name, address, port)
            if verdict.allowed:
                allowed.append(address)
            else:
                failure = self._failed(verdict.cause or Cause.DENIED, verdict.reason, address, port)
                # When some address is refused by its nature and another by a rule, the rule is what can be changed.
                if refused is None or failure.cause is Cause.DENIED:
                    refused = failure
        if not allowed:
            raise refused or FlowFailed(Cause.NAME_NOT_FOUND, "the name has no address")
        if name is None:
            if len(self._literals) >= MOST_LITERALS:
                self._literals.clear()
            self._literals[host, port] = _Literal(policy.state, allowed[0], *_target_of(allowed[0], port))
        return interleave(allowed)

    def _known(self, host: str, port: int) -> _Literal | None:
        """A literal that was found to be permitted, if nothing has changed since."""
        self._look_around(self.policy)
        known = self._literals.get((host, port))
        return known if known is not None and known.state is self.policy.state else None

    def _look_around(self, policy: Policy) -> None:
        """Tell policy of the host's own addresses."""
        if self._own_addresses is not None:
            own = self._own_addresses.current(asyncio.get_running_loop().time())
            if self._told_own != (policy, own):
                self._told_own = policy, own
                policy.set_own_addresses(own)

    async def dial(self, host: str, port: int) -> DialResult:
        """Connect to host, a name or an IP literal, at port. Raises FlowFailed.

        When several addresses fail, the cause is that of the failure which tells most: see ``MOST_TELLING``.
        """
        return await self.connect(await self.addresses(host, port), port)

    def begin(self, host: str, port: int, told: Callable[[DialResult | FlowFailed], None]) -> Cancellable | None:
        """Begin what ``dial`` does, if that is to connect to an IP literal; None when it is more, and ``dial`` is to be
        called. Raises FlowFailed when it has failed already.

        told: called once from the loop, unless it is cancelled.
        """
        if self._connector is None:
            return None
        literal = self._known(host, port)
        if literal is None:
            try:
                address = parse_host(host)
            except HostError:
                return None
            if isinstance(address, str) or not 1 <= port <= 65535:
                return None
            self._permitted(self.policy, host, None, [address], port)
            literal = self._literals[host, port]
        self._usable((literal.address,))
        return _Dialling(self, self._connector, literal, told)

    async def resolve(self, host: str) -> list[IPAddress]:
        """Resolve without asking the policy, for hosts of the operator's own choice. Raises FlowFailed."""
        try:
            parsed = parse_host(host)
        except HostError as error:
            raise FlowFailed(Cause.NAME_NOT_FOUND, str(error)) from None
        return interleave(await self._resolver.resolve(parsed)) if isinstance(parsed, str) else [parsed]

    @property
    def config(self) -> DialConfig:
        return self._config

    async def connect(self, candidates: list[IPAddress], port: int) -> DialResult:
        """Race candidates that ``addresses`` has returned. Raises FlowFailed."""
        loop = asyncio.get_running_loop()
        usable = self._usable(candidates)
        if len(usable) == 1:
            try:
                async with asyncio.timeout(self._config.connect_timeout):
                    return await self._attempt(usable[0], port)
            except TimeoutError:
                raise self._failed(Cause.TIMED_OUT, "no answer in time", usable[0], port) from None
        race = Race(usable, loop.time(), self._config.connect_timeout, self._config.attempt_delay)
        running: dict[asyncio.Task[DialResult], IPAddress] = {}
        failures: list[FlowFailed] = []
        winner: DialResult | None = None
        try:
            while winner is None and not race.lost:
                while (address := race.next_attempt(loop.time())) is not None:
                    running[asyncio.create_task(self._attempt(address, port))] = address
                timeout = max(0.0, race.get_timer() - loop.time())
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    address = running.pop(task)
                    error = task.exception()
                    if error is None:
                        if winner is None:
                            winner = task.result()
                        else:
                            task.result().sock.close()
                    elif isinstance(error, FlowFailed):
                        failures.append(error)
                        race.attempt_failed(address, loop.time())
                        if error.cause is Cause.LIMIT and winner is None:
                            # Our own shortage: the next attempt would meet it as well, and says nothing of the host.
                            raise error
                    else:
                        raise error
                race.handle_timer(loop.time())
            if winner is not None:
                # Before the winner is let go of: a cancellation in this moment closes it, too.
                await _discard(running)
                running = {}
                result, winner = winner, None
                return result
            if race.expired:
                failures.append(self._failed(Cause.TIMED_OUT, "no answer in time", usable[0], port))
            raise min(failures, key=lambda failure: MOST_TELLING.index(failure.cause))
        finally:
            if winner is not None:
                winner.sock.close()
            await _discard(running)

    def _usable(self, candidates: Sequence[IPAddress]) -> Sequence[IPAddress]:
        """Those of a family that may be dialled from here. Raises FlowFailed."""
        if not self._sources:
            return candidates
        usable = [address for address in candidates if address.version in self._sources]
        if not usable:
            raise FlowFailed(Cause.FAMILY_UNSUPPORTED, "no source address of the destination's family is configured")
        return usable

    async def _attempt(self, address: IPAddress, port: int) -> DialResult:
        """One connect. Raises FlowFailed."""
        sock = None
        try:
            family, target = _target_of(address, port)
            sock = self.open_socket(family, address)
            await self._connect(sock, target)
            result = connected(sock, target)
            sock = None
            return result
        except OSError as error:
            raise self.failure_of(error, address, port) from None
        finally:
            if sock is not None:
                sock.close()

    # Parts of one attempt.

    def open_socket(self, family: int, address: IPAddress) -> socket.socket:
        """One to connect to address with, which is of family. Raises OSError."""
        sock = socket.socket(family, _STREAM)
        try:
            if sock.gettimeout() != 0.0:
                sock.setblocking(False)
            self._set_options(sock)
            self._bind(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _set_options(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            for option, value in self._options:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            pass  # a tuning that a sandbox may lack; the flow works without

    def _bind(self, sock: socket.socket, address: IPAddress) -> None:
        source = self._sources.get(address.version)
        if source is None:
            return
        with contextlib.suppress(OSError):  # Linux: leave the port to connect(), which may share one between targets
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        try:
            sock.bind((source, 0) if address.version == 4 else (source, 0, 0, 0))
        except OSError as error:
            self._tell("source", f"cannot dial from {source}: {error.strerror}; check the configured source address")
            raise OSError(errno.ENETUNREACH, f"no route from the source address {source}") from None

    def failure_of(self, error: OSError, address: IPAddress, port: int) -> FlowFailed:
        """What a connect has failed with, as the client is told it."""
        number = error.errno or 0
        cause = ERRNO_CAUSES.get(number, Cause.NETWORK_FAILURE)
        if number in (errno.EMFILE, errno.ENFILE):
            self._tell("descriptors", "out of file descriptors: new flows are refused; raise the limit (ulimit -n)")
        elif number == errno.EADDRNOTAVAIL:
            self._tell("ports", "out of local ports: new flows are refused; widen net.ipv4.ip_local_port_range")
        return self._failed(cause, error.strerror or str(error), address, port)

    def _failed(self, cause: Cause, detail: str, address: IPAddress, port: int) -> FlowFailed:
        return FlowFailed(cause, detail, icmp_for(cause, address, port))

    def _tell(self, kind: str, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._on_event is not None and now - self._told.get(kind, float("-inf")) >= 60.0:
            self._told[kind] = now
            self._on_event(kind, text)


class _Literal(NamedTuple):
    """An address that may be dialled. state: under which rules and surroundings that was found."""

    state: object
    address: IPAddress
    family: int
    target: SocketAddress


class _Dialling:
    """One literal's connect, by callbacks. Raises FlowFailed."""

    __slots__ = ("_connecting", "_dialler", "_literal", "_sock", "_told")

    def __init__(
        self,
        dialler: Dialler,
        connector: Connector,
        literal: _Literal,
        told: Callable[[DialResult | FlowFailed], None],
    ) -> None:
        self._dialler = dialler
        self._literal = literal
        self._told = told
        sock = None
        try:
            sock = dialler.open_socket(literal.family, literal.address)
            self._connecting = connector.begin(sock, literal.target, self._over)
        except OSError as error:
            if sock is not None:
                sock.close()
            raise dialler.failure_of(error, literal.address, literal.target[1]) from None
        self._sock = sock

    def cancel(self) -> None:
        self._connecting.cancel()
        self._sock.close()

    def _over(self, error: OSError | None) -> None:
        outcome: DialResult | FlowFailed
        try:
            if error is not None:
                raise error
            outcome = connected(self._sock, self._literal.target)
        except OSError as failed:
            self._connecting.cancel()
            self._sock.close()
            outcome = self._dialler.failure_of(failed, self._literal.address, self._literal.target[1])
        self._told(outcome)


def _target_of(address: IPAddress, port: int) -> tuple[int, SocketAddress]:
    if address.version == 4:
        return _INET4, (str(address), port)
    return _INET6, (str(address), port, 0, 0)


def connected(sock: socket.socket, target: SocketAddress) -> DialResult:
    """Of a socket that has been connected to target. Raises OSError when the connection is none."""
    local = sock.getsockname()
    if local[1] == target[1] and local[:2] == sock.getpeername()[:2]:
        # TCP's simultaneous open lets a socket connect to itself when the destination is a free port of the
        # ephemeral range on this host: nobody listens there.
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the connection came back to itself")
    return DialResult(sock, (local[0], local[1]), (target[0], target[1]))


def icmp_for(cause: Cause, destination: IPAddress, port: int, source: IPAddress | None = None) -> bytes:
    """The ICMP message that stands for cause, for an Error TLV; b"" for a cause that no ICMP message causes.

    It quotes a SYN from source, by default the unspecified address: the client's own address never left the client.
    """
    meaning = _ICMP_CAUSES.get(cause)
    if meaning is None:
        return b""
    if source is None or source.version != destination.version:
        source = IPv4Address(0) if destination.version == 4 else IPv6Address(0)
    return icmp_error(meaning, source, destination, 0, port)


def _source_addresses(addresses: tuple[str, ...]) -> dict[int, str]:
    sources: dict[int, str] = {}
    for text in addresses:
        try:
            address = ip_address(text)
        except ValueError:
            raise LocalError(
                f"source address {text!r} is no IP address; write one that this host has, e.g. 192.0.2.1"
            ) from None
        if address.version in sources:
            raise LocalError(f"two source addresses for IPv{address.version}: {sources[address.version]} and {text}")
        sources[address.version] = str(address)
    return sources


def _options(config: DialConfig) -> list[tuple[int, int]]:
    """Options of TCP's level that this system has, and their values."""
    wanted = (
        ("TCP_KEEPIDLE", config.keepalive_idle),
        ("TCP_KEEPALIVE", config.keepalive_idle),  # the same on macOS
        ("TCP_KEEPINTVL", config.keepalive_interval),
        ("TCP_KEEPCNT", config.keepalive_count),
    )
    return [(getattr(socket, name), value) for name, value in wanted if hasattr(socket, name)]


async def _discard(running: dict[asyncio.Task[DialResult], IPAddress]) -> None:
    """Cancel what lost, and close what connected all the same. Finishes also when the caller is cancelled again."""
    for task in running:
        task.cancel()
        task.add_done_callback(_close_late)
    if running:
        await asyncio.wait(running)


def _close_late(task: asyncio.Task[DialResult]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().sock.close()


ERRNO_CAUSES = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ENETUNREACH: Cause.NETWORK_UNREACHABLE,
    errno.ENETDOWN: Cause.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Cause.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Cause.HOST_UNREACHABLE,
    errno.ETIMEDOUT: Cause.TIMED_OUT,
    errno.EACCES: Cause.DENIED,
    errno.EPERM: Cause.DENIED,
    errno.EADDRNOTAVAIL: Cause.LIMIT,
    errno.EMFILE: Cause.LIMIT,
    errno.ENFILE: Cause.LIMIT,
    errno.ENOBUFS: Cause.LIMIT,
    errno.ENOMEM: Cause.LIMIT,
    errno.EAFNOSUPPORT: Cause.FAMILY_UNSUPPORTED,
    errno.EPROTONOSUPPORT: Cause.FAMILY_UNSUPPORTED,
    errno.ECONNRESET: Cause.RESET,
    errno.ECONNABORTED: Cause.RESET,
    errno.ENOTCONN: Cause.RESET,  # connected, and reset before anyone looked
    errno.ENOPROTOOPT: Cause.REFUSED,  # Linux: ICMP protocol unreachable
    errno.EINVAL: Cause.NETWORK_UNREACHABLE,  # Linux: a destination that no route can have
}
"""errno of a connect to what the client is told. EADDRNOTAVAIL: no free local port is left (connect(2))."""

MOST_TELLING = (
    Cause.LIMIT,  # ours, and so nothing is known of the destination
    Cause.REFUSED,  # the host is there and said no
    Cause.RESET,
    Cause.DENIED,  # a firewall on the way or here said no
    Cause.TIMED_OUT,  # packets went out and nothing came back
    Cause.TTL_EXPIRED,
    Cause.HOST_UNREACHABLE,
    Cause.NETWORK_UNREACHABLE,
    Cause.NETWORK_FAILURE,
    Cause.FAMILY_UNSUPPORTED,  # says something of this host only, as an IPv6 address on an IPv4-only exit does
)
"""Which failure is reported when every address of a name failed, each in its way: the first of these that occurred."""

_ICMP_CAUSES = {
    Cause.REFUSED: Unreachable.PORT,
    Cause.NETWORK_UNREACHABLE: Unreachable.NETWORK,
    Cause.FAMILY_UNSUPPORTED: Unreachable.NETWORK,
    Cause.HOST_UNREACHABLE: Unreachable.HOST,
    Cause.TIMED_OUT: Unreachable.HOST,
    Cause.TTL_EXPIRED: Unreachable.HOP_LIMIT,
    Cause.DENIED: Unreachable.PROHIBITED,
    Cause.ADDRESS_PROHIBITED: Unreachable.PROHIBITED,
}

_INET4, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_STREAM = int(socket.SOCK_STREAM) | int(getattr(socket, "SOCK_NONBLOCK", 0))  # Linux: saves a system call
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; not in Python's socket module
