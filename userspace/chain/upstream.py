"""Egress through another proxy: ``--upstream socks5://...``, ``http://...`` or ``ss://...``.

Read first: ``handshakes``, ``shadowsocks``, and ``egress.dial``, whose interface this has. Names are resolved and
every address is checked here, by the same policy as without an upstream; the upstream is given the checked address,
never a name. It is itself exempt from the policy: the operator chose it.

Success is what the upstream says. Shadowsocks says nothing: there, a flow counts as connected once the upstream is, and
a destination that refuses shows as a connection that ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

from quicsocks.socks.sockets import reset

from ..egress.dial import Dialler, DialResult
from ..egress.special import IPAddress
from ..quic.errors import LocalError, PeerError
from ..tunnel.types import Cause, FlowFailed
from .handshakes import UPSTREAM_FAILED, HttpConnectHandshake, Socks5Handshake
from .pipe import pump, tcp_pair
from .shadowsocks import AeadStream, Cipher
from .urls import parse_proxy_url, reject_options


@dataclass(frozen=True, slots=True)
class Upstream:
    """scheme: "socks5", "http" or "ss". shown: for messages, without secrets. cipher: for ss."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    cipher: Cipher | None
    shown: str

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """Raises LocalError with one line for the user."""
        url = parse_proxy_url(text)
        scheme = {"socks5h": "socks5"}.get(url.scheme, url.scheme)
        if scheme not in _DEFAULT_PORTS:
            raise LocalError(f"--upstream takes socks5://, http:// and ss:// URLs, not {url.scheme}://")
        reject_options(url)
        if not url.host:
            raise LocalError(f"--upstream {scheme}://: the host is missing; write {scheme}://HOST:PORT")
        if len(url.user.encode()) > 255 or len(url.password.encode()) > 255:
            raise LocalError(f"--upstream {url.shown}: user name and password have at most 255 bytes each")
        port = url.port or _DEFAULT_PORTS[scheme]
        if not port:
            raise LocalError(f"--upstream {url.shown}: the port is missing; write ss://CIPHER:PASSWORD@HOST:PORT")
        cipher = Cipher.from_password(url.user, url.password) if scheme == "ss" else None
        return cls(scheme, url.host, port, url.user, url.password, cipher, url.shown)

    def __repr__(self) -> str:
        return f"Upstream({self.shown!r})"


class UpstreamDialler:
    """dialler: resolves, checks, and connects to the upstream. timeout: seconds for a flow from the connect to the
    upstream to its answer; it does the connecting to the destination, so it has the connect timeout twice."""

    def __init__(
        self,
        dialler: Dialler,
        upstream: Upstream,
        on_event: Callable[[str, str], None] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.dialler = dialler
        self.upstream = upstream
        self._on_event = on_event
        self._timeout = timeout if timeout is not None else 2 * dialler.config.connect_timeout
        self._pumps: set[asyncio.Task[None]] = set()
        self._told = float("-inf")

    async def dial(self, host: str, port: int) -> DialResult:
        """Connect to host through the upstream. remote is the destination. Raises FlowFailed."""
        candidates = (await self.dialler.addresses(host, port))[:MAX_CANDIDATES]
        failure: FlowFailed | None = None
        try:
            async with asyncio.timeout(self._timeout):
                # One after the other: a race would make the upstream dial them all for each flow.
                for address in candidates:
                    try:
                        return await self._dial_address(address, port)
                    except FlowFailed as error:
                        failure = error
                        if error.cause not in _TRY_NEXT:
                            break
        except TimeoutError:
            raise FlowFailed(Cause.TIMED_OUT, "the upstream did not answer in time") from None
        assert failure is not None
        raise failure

    async def close(self) -> None:
        """Reset the flows that run through our own pumps (Shadowsocks). Idempotent."""
        pumps = list(self._pumps)
        for task in pumps:
            task.cancel()
        if pumps:
            await asyncio.wait(pumps)

    async def _dial_address(self, address: IPAddress, port: int) -> DialResult:
        result = await self._connect_upstream()
        sock = result.sock
        try:
            try:
                if self.upstream.cipher is not None:
                    inner = await self._start_shadowsocks(sock, self.upstream.cipher, address, port)
                else:
                    await self._handshake(sock, address, port)
                    inner = sock
            except PeerError as error:
                self._tell(str(error))
                raise FlowFailed(UPSTREAM_FAILED, str(error)) from None
            except OSError as error:
                raise FlowFailed(
                    UPSTREAM_FAILED, f"the upstream broke the connection: {error.strerror or error}"
                ) from None
            return DialResult(inner, result.local, (str(address), port))
        except BaseException:
            sock.close()
            raise

    async def _connect_upstream(self) -> DialResult:
        try:
            candidates = await self.dialler.resolve(self.upstream.host)
            return await self.dialler.connect(candidates, self.upstream.port)
        except FlowFailed as error:
            if error.cause is Cause.LIMIT:
                raise
            # Not the destination's failure: its cause must not be taken for one.
            why = error.cause.name.lower().replace("_", " ")
            self._tell(f"cannot be reached ({why}); check that it runs, and --upstream")
            raise FlowFailed(UPSTREAM_FAILED, f"the upstream cannot be reached: {error}") from None

    async def _handshake(self, sock: socket.socket, address: IPAddress, port: int) -> None:
        if self.upstream.scheme == "socks5":
            await _run_socks5(sock, Socks5Handshake(address, port, self.upstream.user, self.upstream.password))
        else:
            await _run_http(sock, HttpConnectHandshake(address, port, self.upstream.user, self.upstream.password))

    async def _start_shadowsocks(
        self, sock: socket.socket, cipher: Cipher, address: IPAddress, port: int
    ) -> socket.socket:
        """Send the request, and join the far side to a socket that speaks plain bytes."""
        layer = AeadStream(cipher)
        kind = b"\x01" if address.version == 4 else b"\x04"
        request = layer.encode(kind + address.packed + port.to_bytes(2, "big"))
        await asyncio.get_running_loop().sock_sendall(sock, request)
        inner, ours = tcp_pair()
        task = asyncio.create_task(pump(ours, sock, layer))
        self._pumps.add(task)

        def over(done: asyncio.Task[None]) -> None:
            self._pumps.discard(done)
            # A task that is cancelled before its first step never got as far as closing anything.
            reset(ours)
            reset(sock)

        task.add_done_callback(over)
        return inner

    def _tell(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._on_event is not None and now - self._told >= 60.0:
            self._told = now
            self._on_event("upstream", f"upstream {self.upstream.shown}: {text}")


async def _run_socks5(sock: socket.socket, handshake: Socks5Handshake) -> None:
    loop = asyncio.get_running_loop()
    while not handshake.done:
        if data := handshake.data_to_send():
            await loop.sock_sendall(sock, data)
        data = await loop.sock_recv(sock, handshake.wants)
        if not data:
            raise PeerError("the upstream closed the connection instead of answering")
        handshake.receive_data(data)


async def _run_http(sock: socket.socket, handshake: HttpConnectHandshake) -> None:
    """Read up to the end of the header block and not a byte further: what follows is the destination's."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, handshake.data_to_send())
    while not handshake.done:
        try:
            peeked = sock.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(sock)
            continue
        if not peeked:
            raise PeerError("the upstream closed the connection instead of answering")
        handshake.receive_data(sock.recv(handshake.consume(peeked)))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(sock.fileno(), ready)
    try:
        await future
    finally:
        with contextlib.suppress(OSError, ValueError):
            loop.remove_reader(sock.fileno())


MAX_CANDIDATES = 4
"""Addresses of one name that are tried through the upstream, one after the other."""

_TRY_NEXT = frozenset(
    [
        Cause.REFUSED,
        Cause.NETWORK_UNREACHABLE,
        Cause.HOST_UNREACHABLE,
        Cause.TIMED_OUT,
        Cause.TTL_EXPIRED,
        Cause.FAMILY_UNSUPPORTED,
    ]
)

_DEFAULT_PORTS = {"socks5": 1080, "http": 8080, "ss": 0}
