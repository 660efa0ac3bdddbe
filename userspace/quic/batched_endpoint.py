"""The adapter of the native engine on Linux: what ``endpoint`` does, but with packets that never become Python objects.

Packets whose connection ID is known go from the socket's batch to their connection, and connections build theirs in the
batch that is sent. Python handles handshakes, strangers, and once a turn of the loop each session that has something to
do. Read ``endpoint`` and ``native/batched.pxd`` first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from .endpoint import UdpEndpoint
from .native.batched import Batched
from .native.udp import configure
from .session import Route
from .types import Address
from .udp import BUFFER
from .udp_default import UdpSocket
from .workers import Share


class BatchedEndpoint(UdpEndpoint):
    """Implements ``types.Endpoint``. Raises LocalError when a local address cannot be had."""

    def __init__(
        self,
        local: Sequence[Address],
        *,
        engine: str = "native",
        server_id: int = 0,
        workers: int = 0,
        share: Share | None = None,
    ) -> None:
        super().__init__(local, engine=engine, server_id=server_id, workers=workers, share=share)
        self.batched = Batched(Route, int.from_bytes(os.urandom(8), "big"))
        self._full: set[int] = set()
        for opened in self._sockets:
            self._added(opened)
        self._hub.outlet = self.batched

    def statistics(self) -> dict[str, int]:
        return {**super().statistics(), **self.batched.statistics()}

    async def close(self) -> None:
        await super().close()
        self.batched.close()

    def _added(self, opened: UdpSocket) -> None:
        configure(opened.socket, BUFFER, BUFFER)
        self.batched.add_socket(opened.socket.fileno(), opened.local)

    def _on_readable(self, opened: UdpSocket) -> None:
        # One time for the batch: nearer to the arrival of its datagrams than one taken after the work on the others.
        now = time.monotonic()
        arrived = self.batched.receive(opened.number, now, self._receive)
        if self.batched.take_suspicious(opened.number) or not arrived:
            self._handle_errors(opened, now)
        self._flush()

    def _handle_errors(self, opened: UdpSocket, now: float) -> None:
        for remote, reason in self.batched.take_failed(opened.number):
            self._hub.network_error(remote, reason, now)
        super()._handle_errors(opened, now)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._closed or self._full:
            return  # A full socket: sessions wait too, so that what they have to say stays with them.
        now = time.monotonic()
        for data, route in self._hub.datagrams_to_send(now):
            # Of a handshake, or to strangers. What does not fit is lost, as it might be on the way.
            self.batched.put(data, route)
        self._send_batches()
        self._set_timer(now)

    def _send_batches(self) -> None:
        for number in self.batched.flush():
            if number not in self._full:
                self._full.add(number)
                opened = self._sockets[number]
                self._loop.add_writer(opened.socket, self._on_writable, opened)
        for opened in self._sockets:
            if self.batched.take_suspicious(opened.number):
                opened.suspicious = True
                self._loop.call_soon(self._handle_send_errors, opened)

    def _on_writable(self, opened: UdpSocket) -> None:
        self._loop.remove_writer(opened.socket)
        self._full.discard(opened.number)
        self._send_batches()
        if not self._full:
            self._hub.resume()
            self._flush()
