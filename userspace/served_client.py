"""One client's session at the concentrator: who it is, and its flows from request to the joined socket.

The tunnel (userspace/tunnel) has checked form and authentication; this file dials, with the policy's consent, and joins
the socket to the flow. An address is dialled by callbacks; a task is made only for what has to wait for more than one
answer, such as a name. What a client sends behind its request is held, within the stream's window, until the destination
has accepted. It must not look into what it carries.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Protocol

from quicsocks.socks.sockets import reset

from .egress.dial import Cancellable, DialResult
from .egress.fair import asker
from .egress.limits import ClientQuota, FlowTicket
from .flows import FlowTable
from .quic.errors import Ended
from .quic.types import Session
from .relay import Relay
from .tunnel.types import BoundAddress, Cause, ClientAuthorised, FlowFailed, IncomingFlow

BARE_QT = "(qt)"
"""Stands for all clients of the bare draft, which nobody can tell apart. No client's name has brackets."""


class WayOut(Protocol):
    """Resolves, checks and dials; ``way_out.WayOut`` says what its methods do."""

    def begin(self, host: str, port: int, told: Callable[[DialResult | FlowFailed], None]) -> Cancellable | None: ...

    async def reach(self, host: str, port: int) -> tuple[socket.socket, str, int]: ...


class Owner(Protocol):
    """The concentrator, as a session sees it."""

    def authorise(self, client: ServedClient, public_key: bytes, token: bytes, label: str) -> ClientAuthorised: ...

    def quota_of(self, name: str) -> ClientQuota: ...

    def client_ready(self, client: ServedClient) -> None: ...

    def client_gone(self, client: ServedClient, ended: Ended) -> None: ...


class ServedClient:
    """Implements the tunnel's ConcentratorEvents for one session. name is empty until it has authenticated, and BARE_QT
    on the draft, which has no authentication."""

    def __init__(self, session: Session, owner: Owner, way_out: WayOut, flows: FlowTable) -> None:
        self.session = session
        self.name = ""
        self.public_key = b""
        self.since = time.time()
        self._owner = owner
        self.way_out = way_out
        self.loop = asyncio.get_running_loop()
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

    def dial_over(self, dial: _Dial) -> None:
        self._dials.discard(dial)

    def join(self, dial: _Dial, flow: IncomingFlow, sock: socket.socket, quota: ClientQuota) -> Relay:
        """Make the relay of an accepted flow."""
        charge = quota.transferred if quota.limits.bytes_per_second else None
        relay = Relay(flow, sock, dial.carried, loop=self.loop, watch=self._flows.watch, charge=charge)
        self._flows.add(relay)
        self._relays.add(relay)
        return relay

    def carried(self, relay: Relay) -> None:
        """A relay's flow is over."""
        self._flows.remove(relay)
        self._relays.discard(relay)
        self._sent += relay.sent
        self._received += relay.received


class _Dial:
    """A flow from its request on: its handler until it is answered, and what keeps its place in the counters."""

    __slots__ = ("_begun", "_client", "_eof", "_flow", "_held", "_over", "_paused", "_quota", "_relay", "_ticket")

    def __init__(self, client: ServedClient, flow: IncomingFlow, ticket: FlowTicket, quota: ClientQuota) -> None:
        self._client = client
        self._flow = flow
        self._ticket = ticket
        self._quota = quota
        self._held: list[bytes] = []
        self._eof = False
        self._paused = False
        self._over = False
        self._begun: Cancellable | asyncio.Task[None] | None = None
        """What is under way."""
        self._relay: Relay | None = None

    def start(self) -> None:
        flow = self._flow
        flow.set_handler(self)
        if self._over:
            return
        destination = flow.destination
        try:
            self._begun = self._client.way_out.begin(destination.host, destination.port, self._reached)
        except FlowFailed as failed:
            self._refuse(failed)
            return
        except Exception as error:
            self._break(error)
            return
        if self._begun is None:
            self._begun = self._client.loop.create_task(self._run())

    def cancel(self) -> None:
        """The session is gone."""
        self._over = True
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.cancel()
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

    # What the way out and the relay call.

    async def _run(self) -> None:
        asker.set(self._client.name)
        destination = self._flow.destination
        try:
            sock, host, port = await self._client.way_out.reach(destination.host, destination.port)
        except FlowFailed as failed:
            if not self._over:
                self._refuse(failed)
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._break(error)
            return
        if self._over:
            reset(sock)
            return
        self._join(sock, BoundAddress(host, port))

    def _reached(self, outcome: DialResult | FlowFailed) -> None:
        try:
            if isinstance(outcome, FlowFailed):
                self._refuse(outcome)
            else:
                self._join(outcome.sock, BoundAddress(*outcome.local))
        except Exception as error:
            self._break(error)

    def carried(self, error: FlowFailed | None) -> None:
        """The relay is over."""
        relay, self._relay = self._relay, None
        if relay is not None:
            self._client.carried(relay)
        self._ticket.close()

    def _join(self, sock: socket.socket, bound: BoundAddress) -> None:
        flow = self._flow
        self._over = True
        self._begun = None
        self._ticket.connected()
        self._client.dial_over(self)
        relay = self._relay = self._client.join(self, flow, sock, self._quota)
        flow.accept(bound)
        flow.set_handler(relay)
        if self._paused:
            relay.pause_writing()
        relay.start(waiting=bool(self._held))
        for chunk in self._held:
            relay.data_received(chunk)
        self._held.clear()
        if self._eof:
            relay.eof_received()

    def _break(self, error: Exception) -> None:
        """A bug must not leave the application hanging, nor end the session."""
        self._client.loop.call_exception_handler(
            {"message": "dialling a destination failed unexpectedly", "exception": error}
        )
        if not self._over:
            self._refuse(FlowFailed(Cause.INTERNAL))
        elif self._relay is not None:
            self._relay.abort(Cause.INTERNAL)

    def _refuse(self, failed: FlowFailed) -> None:
        self._over = True
        self._begun = None
        self._flow.consumed(sum(len(chunk) for chunk in self._held))
        self._held.clear()
        self._flow.refuse(failed.cause, failed.detail, failed.icmp)
        self._end()

    def _end(self) -> None:
        self._client.dial_over(self)
        self._ticket.close()
