"""The one adapter between the transport and asyncio: sockets and timers around a ``Hub``.

Datagrams are taken in batches, and what the sessions then have to say goes out once per turn of the loop, so that
many small writes share packets and many packets share system calls. Works on asyncio's own loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import LocalError
from .hub import Hub
from .session import Route
from .types import Address, DialConfig, ListenConfig, Session, SessionHandler
from .udp import BUFFER, adopt, open_socket
from .udp_default import UdpSocket
from .workers import Forwarder, Share

logger = logging.getLogger(__name__)

SHORTEST_TIMER = 0.001
"""Seconds: what event loops can tell apart. uvloop would make less than half of it a busy loop."""


class UdpEndpoint:
    """Implements ``types.Endpoint``. Raises LocalError when a local address cannot be had.

    share: sockets that are bound already, and the other workers on their addresses; then local is of no matter.
    """

    def __init__(
        self,
        local: Sequence[Address],
        *,
        engine: str = "aioquic",
        server_id: int = 0,
        workers: int = 0,
        share: Share | None = None,
    ) -> None:
        if not local and share is None:
            raise LocalError("an endpoint needs at least one local address")
        self._loop = asyncio.get_running_loop()
        self._hub = Hub(
            random_bytes=os.urandom,
            wall_clock=time.time,
            wake=self._wake,
            engine=engine,
            server_id=server_id,
            workers=workers,
        )
        self._share = share
        self._forwarder = Forwarder(share) if share is not None else None
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._unsent: list[tuple[bytes, Route]] = []
        self._closed = False
        self._sockets: list[UdpSocket] = []
        try:
            if share is not None:
                for bound in share.sockets:
                    self._sockets.append(adopt(bound, len(self._sockets)))
            else:
                for address in local:
                    self._sockets.append(open_socket(address, len(self._sockets)))
        except LocalError:
            for opened in self._sockets:
                opened.socket.close()
            raise
        self._hub.find_route = self._route_from
        for opened in self._sockets:
            self._loop.add_reader(opened.socket, self._on_readable, opened)
        if share is not None:
            self._loop.add_reader(share.inbox, self._on_forwarded)
        smallest = min(opened.receive_buffer for opened in self._sockets)
        if smallest < BUFFER:
            logger.info(
                "the kernel grants %d KiB of UDP receive buffer; raise net.core.rmem_max to %d for fast links",
                smallest >> 10,
                BUFFER,
            )

    # types.Endpoint

    @property
    def local_addresses(self) -> tuple[Address, ...]:
        return tuple(opened.local for opened in self._sockets)

    def add_address(self, local: Address) -> Address:
        if self._closed:
            raise LocalError("the endpoint is closed")
        opened = open_socket(local, len(self._sockets))
        self._sockets.append(opened)
        self._added(opened)
        self._loop.add_reader(opened.socket, self._on_readable, opened)
        return opened.local

    def dial(self, remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
        return self._hub.dial(self._route_to(remote), config, handler, time.monotonic())

    def listen(self, config: ListenConfig, accept: Callable[[Session], SessionHandler]) -> None:
        self._hub.listen(config, accept)

    def stop_listening(self) -> None:
        self._hub.stop_listening()

    def set_first_byte_hook(self, hook: Callable[[bytes, Address], bool] | None) -> None:
        self._hub.set_first_byte_hook(hook)

    def send_raw(self, data: bytes, remote: Address) -> None:
        self._hub.send_raw(data, self._route_to(remote))

    def inject(self, data: bytes, remote: Address) -> None:
        route = self._route_to(remote)
        # From the loop, as everything that arrives.
        self._loop.call_soon(self._receive_injected, data, route)

    def log_to(self, folder: Path | None) -> None:
        if self._closed:
            raise LocalError("the endpoint is closed")
        self._hub.log_to(folder, time.monotonic())

    def statistics(self) -> dict[str, int]:
        forwarded = self._forwarder.statistics() if self._forwarder is not None else {}
        return {**self._hub.statistics(), **forwarded}

    async def close(self) -> None:
        if self._closed:
            return
        self._hub.close()
        self._flush()
        self._closed = True
        for handle in (self._flush_handle, self._timer):
            if handle is not None:
                handle.cancel()
        for opened in self._sockets:
            self._loop.remove_reader(opened.socket)
            self._loop.remove_writer(opened.socket)
            opened.socket.close()
        if self._share is not None:
            self._loop.remove_reader(self._share.inbox)
        self._hub.forget()

    # Below.

    def _added(self, opened: UdpSocket) -> None:
        """A socket that is not watched yet."""

    def _route_from(self, local: Address, remote: Address) -> Route:
        for opened in self._sockets:
            if opened.local == local and (":" in local[0]) == (":" in remote[0]):
                return opened.route_to(remote)
        raise LocalError(
            f"the endpoint has no local address {local[0]} port {local[1]} from which to reach {remote[0]}"
        )

    def _route_to(self, remote: Address) -> Route:
        if self._closed:
            raise LocalError("the endpoint is closed")
        ipv6 = ":" in remote[0]
        for opened in self._sockets:
            if (":" in opened.local[0]) == ipv6:
                return opened.route_to(remote)
        raise LocalError(f"no socket for {'IPv6' if ipv6 else 'IPv4'}: cannot reach {remote[0]}")

    def _receive_injected(self, data: bytes, route: Route) -> None:
        if not self._closed:
            self._hub.receive_datagram(data, route, time.monotonic())
            self._flush()

    def _on_readable(self, opened: UdpSocket) -> None:
        # One time for the batch: nearer to the arrival of its datagrams than one taken after the work on the others.
        now = time.monotonic()
        arrived = opened.receive()
        for data, route in arrived:
            self._receive(data, route, now, 0)
        if opened.suspicious or not arrived:
            self._handle_errors(opened, now)
        self._flush()

    def _receive(self, data: bytes, route: Route, now: float, ecn: int) -> None:
        if self._forwarder is None or not self._forwarder.pass_on(data, route, ecn):
            self._hand_over(data, route, now, ecn)

    def _hand_over(self, data: bytes, route: Route, now: float, ecn: int) -> None:
        try:
            self._hub.receive_datagram(data, route, now, ecn)
        except Exception:
            # Sessions answer for themselves; this is a mistake of the hub's, and must not cost the others theirs.
            logger.exception("internal error while handling a datagram from %s", route.remote)

    def _on_forwarded(self) -> None:
        assert self._forwarder is not None
        now = time.monotonic()
        for data, route, ecn in self._forwarder.receive():
            self._hand_over(data, route, now, ecn)
        self._flush()

    def _handle_errors(self, opened: UdpSocket, now: float) -> None:
        opened.suspicious = False
        for remote, reason in opened.errors():
            self._hub.network_error(remote, reason, now)
        # libuv stops watching a descriptor that has an error waiting, after one last call of the reader.
        self._loop.call_soon(self._watch_again, opened)

    def _watch_again(self, opened: UdpSocket) -> None:
        if not self._closed:
            self._loop.remove_reader(opened.socket)
            self._loop.add_reader(opened.socket, self._on_readable, opened)

    def _wake(self) -> None:
        if self._flush_handle is None and not self._closed:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._closed or self._unsent:
            return  # A full socket: sessions wait too, so that what they have to say stays with them.
        now = time.monotonic()
        datagrams = self._hub.datagrams_to_send(now)
        if datagrams:
            self._send(datagrams)
        self._set_timer(now)

    def _send(self, datagrams: list[tuple[bytes, Route]]) -> None:
        at = 0
        while at < len(datagrams):
            number = datagrams[at][1].socket
            end = at + 1
            while end < len(datagrams) and datagrams[end][1].socket == number:
                end += 1
            opened = self._sockets[number]
            batch = datagrams if end - at == len(datagrams) else datagrams[at:end]
            taken = opened.send(batch)
            if opened.suspicious:
                self._loop.call_soon(self._handle_send_errors, opened)
            at += taken
            if at < end:
                self._unsent = datagrams[at:]
                self._loop.add_writer(opened.socket, self._on_writable, opened)
                return

    def _handle_send_errors(self, opened: UdpSocket) -> None:
        if not self._closed and opened.suspicious:
            self._handle_errors(opened, time.monotonic())

    def _on_writable(self, opened: UdpSocket) -> None:
        self._loop.remove_writer(opened.socket)
        datagrams, self._unsent = self._unsent, []
        self._send(datagrams)
        self._flush()

    def _set_timer(self, now: float) -> None:
        due = self._hub.get_timer()
        if due is None or due >= self._timer_at:
            return  # One that fires too early finds nothing to do and sets itself again.
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(due - now, SHORTEST_TIMER), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        if self._closed:
            return
        self._hub.handle_timer(time.monotonic())
        self._flush()
