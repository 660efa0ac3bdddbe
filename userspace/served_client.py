"""One client's session at the concentrator: who it is, and its flows from request to the joined socket.

The tunnel (userspace/tunnel) has checked form and authentication; this file dials, with the policy's consent, and joins
the socket to the flow. What a client sends behind its request is held, within the stream's window, until the
destination has accepted. It must not look into what it carries.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from quicsocks.socks.sockets import reset

from .egress.fair import asker
from .egress.limits import ClientQuota, FlowTicket
from .flows import FlowTable
from .quic.errors import Ended
from .quic.types import Session
from .relay import Relay
from .tunnel.types import BoundAddress, Cause, ClientAuthorised, Destination, FlowFailed, IncomingFlow


@dataclass(frozen=True, slots=True)
class Reached:
    """A connected, non-blocking socket, and the local address as the client is told it."""

    sock: socket.socket
    bound: BoundAddress


BARE_QT = "(qt)"
"""Stands for all clients of the bare draft, which nobody can tell apart. No client's name has brackets."""

Reach = Callable[[Destination], Awaitable[Reached]]
"""Resolve, check and dial; raises FlowFailed."""


class Owner(Protocol):
    """The concentrator, as a session sees it."""

    def authorise(self, client: ServedClient, public_key: bytes, token: bytes, label: str) -> ClientAuthorised: ...

    def quota_of(self, name: str) -> ClientQuota: ...

    def client_ready(self, client: ServedClient) -> None: ...

    def client_gone(self, client: ServedClient, ended: Ended) -> None: ...


class ServedClient:
    """Implements the tunnel's ConcentratorEvents for one session. name is empty until it has authenticated, and BARE_QT
    on the draft, which has no authentication."""

    def __init__(self, session: Session, owner: Owner, reach: Reach, flows: FlowTable) -> None:
        self.session = session
        self.name = ""
        self.public_key = b""
        self.since = time.time()
        self._owner = owner
        self._reach = reach
        self._flows = flows
        self._dials: set[_Dial] = set()
        self._relays: set[Relay] = set()
        self._sent = 0
        self._received = 0

    @property
    def open_flows(self) -> int:
        return len(self._relays)

    @property
    def bytes_sent(self) -> int:
        """What destinations have sent to this client, ended flows included."""
        return self._sent + sum(relay.sent for relay in self._relays)

    @property
    def bytes_received(self) -> int:
        """What this client has sent to destinations, ended flows included."""
        return self._received + sum(relay.received for relay in self._relays)

    @property
    def dialling(self) -> int:
        return len(self._dials)

    def authorise(self, public_key: bytes, token: bytes, label: str) -> ClientAuthorised:
        authorised = self._owner.authorise(self, public_key, token, label)
        self.name = authorised.name
        self.public_key = public_key
        return authorised

    def tunnel_ready(self) -> None:
        self.name = self.name or BARE_QT
        self._owner.client_ready(self)

    def flow_requested(self, flow: IncomingFlow) -> None:
        quota = self._owner.quota_of(self.name)
        try:
            ticket = quota.open()
        except FlowFailed as failed:
            flow.refuse(failed.cause, failed.detail)
            return
        dial = _Dial(self, flow, ticket, quota)
        self._dials.add(dial)
        dial.start()

    def tunnel_ended(self, ended: Ended) -> None:
        for dial in list(self._dials):
            dial.cancel()
        self._owner.client_gone(self, ended)

    # What a dial reports.

    async def reach(self, destination: Destination) -> Reached:
        return await self._reach(destination)

    def dial_over(self, dial: _Dial) -> None:
        self._dials.discard(dial)

    def join(self, flow: IncomingFlow, reached: Reached, ticket: FlowTicket, quota: ClientQuota) -> Relay:
        """Make the relay of an accepted flow."""

        def ended(_error: FlowFailed | None) -> None:
            self._flows.remove(relay)
            self._relays.discard(relay)
            self._sent += relay.sent
            self._received += relay.received
            ticket.close()

        charge = quota.transferred if quota.limits.bytes_per_second else None
        relay = Relay(
            flow, reached.sock, ended, loop=asyncio.get_running_loop(), watch=self._flows.watch, charge=charge
        )
        self._flows.add(relay)
        self._relays.add(relay)
        return relay


class _Dial:
    """A flow between its request and its answer; the flow's handler meanwhile."""

    def __init__(self, client: ServedClient, flow: IncomingFlow, ticket: FlowTicket, quota: ClientQuota) -> None:
        self._client = client
        self._flow = flow
        self._ticket = ticket
        self._quota = quota
        self._held: deque[bytes] = deque()
        self._eof = False
        self._paused = False
        self._over = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._flow.set_handler(self)
        if not self._over:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """The session is gone."""
        self._over = True
        if self._task is not None:
            self._task.cancel()
        self._end()

    # What the flow calls.

    def connected(self, bound: BoundAddress) -> None:
        """Only clients are told."""

    def data_received(self, data: bytes) -> None:
        self._held.append(data)

    def eof_received(self) -> None:
        self._eof = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def flow_ended(self, error: FlowFailed | None) -> None:
        """The client has given up before the destination answered."""
        self._flow.consumed(sum(len(chunk) for chunk in self._held))
        self._held.clear()
        self.cancel()

    async def _run(self) -> None:
        asker.set(self._client.name)
        flow = self._flow
        try:
            reached = await self._client.reach(flow.destination)
        except FlowFailed as failed:
            if not self._over:
                self._refuse(failed)
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A bug must not leave the application hanging, nor end the session.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "dialling a destination failed unexpectedly", "exception": error}
            )
            if not self._over:
                self._refuse(FlowFailed(Cause.INTERNAL))
            return
        if self._over:
            reset(reached.sock)
            return
        self._over = True
        self._ticket.connected()
        self._client.dial_over(self)
        relay = self._client.join(flow, reached, self._ticket, self._quota)
        flow.accept(reached.bound)
        flow.set_handler(relay)
        if self._paused:
            relay.pause_writing()
        relay.start()
        for chunk in self._held:
            relay.data_received(chunk)
        self._held.clear()
        if self._eof:
            relay.eof_received()

    def _refuse(self, failed: FlowFailed) -> None:
        self._over = True
        self._flow.consumed(sum(len(chunk) for chunk in self._held))
        self._held.clear()
        self._flow.refuse(failed.cause, failed.detail, failed.icmp)
        self._end()

    def _end(self) -> None:
        self._client.dial_over(self)
        self._ticket.close()
