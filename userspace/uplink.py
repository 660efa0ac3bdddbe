"""The client's connection to its concentrator, made, watched, and made again for as long as the program runs.

Front doors hand it flows at any time. A flow goes out at once while there is a tunnel, and otherwise waits for one, up
to a limit. A session that stays silent although something was sent is not given up (that would turn every short outage
into broken flows): it is probed, and a second one is dialled beside it. When that one stands and the silent one still
does not answer, its concentrator has lost its state, e.g. by a restart, and flows that were not answered yet move to the
new one. When it does answer, it was an outage, and the second one is let go.

What can be forged before a handshake completes never ends a client that has been connected: it goes on trying, slowly.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quicsocks.socks.deadlines import Deadlines
from quicsocks.socks.types import Failure, FlowError

from .backoff import SLOW, Backoff
from .causes import to_flow_error
from .client_flow import ClientFlow
from .dialling import DialFailed, Uplinked, dial, interleave
from .link import Link
from .output import shown_address
from .quic.errors import LocalError
from .quic.types import DialConfig, Endpoint
from .refusal import Refusal, explain
from .tunnel.types import ALPN_QT, Cause, Destination, FlowFailed, Identity

TICK = 1.0
"""Seconds between two looks at whether the concentrator is still heard."""
SILENCE = 2.0
"""Seconds without a packet although one was sent, after which a second session is dialled beside the first: more than
a bad mobile link's round trip with a loss, and within the 5 s in which a restart must be overcome."""
MAX_WAITING = 4096
"""Flows that wait for a tunnel; the listeners' own limits are usually lower."""
MAX_MOVES = 3
"""Times that one flow is opened again elsewhere, so that a concentrator that dies of it is not hunted down."""
LAST_CHANCE = 1.0
"""Seconds in which a silent session must answer once a second one stands: the network carries packets then, and a
concentrator that still knows the session answers within a round trip."""
STEADY = 10.0
"""Seconds for which a connection must stand, or the next attempt is delayed as after a failure: a concentrator that
accepts and drops us at once is not to be asked again and again without a pause."""
MAX_DRAINING = 4
"""Sessions kept for their open flows after a goodbye: more than a concentrator that is restarted has at once."""
MAX_ADDRESSES = 4
"""Addresses of a name that are tried on bare ``qt``: two of each family."""
OPEN_TIMEOUT = 45.0
"""Seconds until a silent concentrator's answer to a connect is given up: more than its own timeouts together."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_REFUSED = 3

Resolve = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]
ResolveThrough = Callable[[str], Awaitable[Sequence[str]]]
Notify = Callable[[str, str], None]
"""Called with an event's name and a line for people; only when something has changed."""


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """wait_for_tunnel: seconds that a flow waits for a tunnel. once: give up at the first failure or loss."""

    link: Link
    dial: DialConfig
    identity: Identity | None
    wait_for_tunnel: float = 10.0
    once: bool = False


@dataclass(slots=True)
class _Waiting:
    flow: ClientFlow
    timer: asyncio.TimerHandle
    moves: int = 0


class Uplink:
    """Owns at most one tunnel in use, one being dialled, and those that drain after a goodbye."""

    def __init__(
        self,
        config: UplinkConfig,
        endpoint: Endpoint,
        *,
        resolve: Resolve,
        notify: Notify,
        resolve_through: ResolveThrough | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._resolve = resolve
        self._resolve_through = resolve_through
        self._notify = notify
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff()
        self._current: Uplinked | None = None
        self._waiting: dict[ClientFlow, _Waiting] = {}
        self._unanswered: Deadlines[ClientFlow] = Deadlines(OPEN_TIMEOUT, ClientFlow.expire, self._loop)
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining: list[Uplinked] = []
        self._said: str = ""
        self._closing = False
        self._hurry = asyncio.Event()
        self.was_connected = False
        self.connected_since: float | None = None
        self.reconnections = 0
        self.last_problem = ""
        self.gave_up = False
        """Whether what was said last is why the program ends."""

    @property
    def current(self) -> Uplinked | None:
        """The tunnel that new flows take, None while there is none."""
        return self._current

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def run(self) -> int:
        """Keep connected until cancelled or ``close``; returns an exit code when there is no point in going on. Raises
        LocalError when not even the first attempt can be made, e.g. without a file that was asked for."""
        while not self._closing:
            try:
                uplinked = await self._connect(self._begin_early)
            except (DialFailed, LocalError) as failed:
                self._current = None
                if isinstance(failed, DialFailed):
                    refusal = explain(failed.ended)
                elif self.was_connected:
                    refusal = Refusal(str(failed), final=False)
                else:
                    raise
                code = self._explain_failure(refusal)
                if code is not None:
                    return code
                await self._pause(self._backoff.next_delay(slow=refusal.final))
                continue
            began = self._loop.time()
            successor: Uplinked | None = uplinked
            while successor is not None:
                successor = await self._hold(successor)
            if self._config.once and not self._closing:
                return EXIT_FAILED
            if self._loop.time() - began >= STEADY:
                self._backoff.reset()
            else:
                await self._pause(self._backoff.next_delay())
        return EXIT_OK

    async def close(self, code: int = 0, reason: str = "") -> None:
        """Close every session and fail what waits."""
        self._closing = True
        for uplinked in [self._current, *self._draining]:
            if uplinked is not None:
                uplinked.tunnel.close(code, reason)
        self._current = None
        for waiting in list(self._waiting.values()):
            self._give_up(waiting.flow, Failure.TUNNEL_DOWN, "the client is shutting down")
        self._unanswered.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def retry_now(self) -> None:
        """Do not wait for the next attempt (SIGHUP)."""
        self._hurry.set()

    def submit(self, flow: ClientFlow) -> None:
        """Open flow through the tunnel, now or as soon as there is one."""
        self._place(flow, 0)

    # Connecting and holding.

    async def _pause(self, delay: float) -> None:
        if self._closing:
            return
        self._hurry.clear()
        try:
            async with asyncio.timeout(delay):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _connect(self, usable: Callable[[Uplinked], None] | None = None) -> Uplinked:
        link = self._config.link
        return await dial(
            self._endpoint,
            (link.host, link.port),
            self._config.dial,
            identity=self._config.identity,
            resolve=self._resolve,
            usable=usable,
        )

    async def _hold(self, uplinked: Uplinked) -> Uplinked | None:
        """Use uplinked until it ends; returns its successor when one was dialled beside it in time."""
        self._begin(uplinked)
        watch: asyncio.Task[Uplinked] | None = None
        heard = _Hearing(self._loop.time())
        patience, dial_after = Backoff(), 0.0
        try:
            while True:
                news: list[asyncio.Future[Any]] = [uplinked.over, uplinked.goodbye]
                if watch is not None:
                    news.append(watch)
                await asyncio.wait(news, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                if uplinked.over.done():
                    self._lost(uplinked, explain(uplinked.over.result()).text)
                    if watch is None or not watch.done():
                        return None
                    successor, watch = self._taken(watch), None
                    return successor
                if uplinked.goodbye.done():
                    reason = uplinked.goodbye.result() or "no reason given"
                    self._lost(uplinked, f"the concentrator says goodbye: {reason}")
                    self._drain(uplinked)
                    return None
                now = self._loop.time()
                silent = heard.silent_for(uplinked, now)
                if not silent:
                    patience.reset()
                    if watch is not None:
                        # It was an outage, and the session has survived it.
                        ended, watch = watch, None
                        await self._discard(ended)
                    continue
                uplinked.session.probe()
                if watch is None:
                    if silent >= SILENCE and now >= dial_after:
                        watch = asyncio.create_task(self._connect())
                elif watch.done():
                    successor = self._taken(watch)
                    if successor is None:
                        watch, dial_after = None, now + patience.next_delay()
                    elif await self._answers(uplinked, heard):
                        ended, watch = watch, None
                        await self._discard(ended)
                    elif not uplinked.over.done():
                        watch = None
                        self._lost(uplinked, "the concentrator no longer answers on the old connection")
                        uplinked.tunnel.close(0, "replaced")
                        return successor
        finally:
            if watch is not None:
                await self._discard(watch)

    async def _answers(self, uplinked: Uplinked, heard: _Hearing) -> bool:
        """Whether a silent session is heard after all, now that another one shows that the network works."""
        deadline = self._loop.time() + LAST_CHANCE
        while (now := self._loop.time()) < deadline and not uplinked.over.done():
            if not heard.silent_for(uplinked, now):
                return True
            await asyncio.wait([uplinked.over], timeout=LAST_CHANCE / 20)
        return False

    async def _discard(self, watch: asyncio.Task[Uplinked]) -> None:
        """End an attempt that is of no use any more, whatever has come of it."""
        watch.cancel()
        await asyncio.wait([watch])
        successor = self._taken(watch)
        if successor is not None:
            successor.tunnel.close(0, "not needed")

    @staticmethod
    def _taken(watch: asyncio.Task[Uplinked]) -> Uplinked | None:
        if watch.cancelled() or watch.exception() is not None:
            return None
        return watch.result()

    def _begin_early(self, uplinked: Uplinked) -> None:
        """Flows that wait travel right behind the authentication; refused, they wait for the next tunnel."""
        self._current = uplinked
        self._place_waiting()

    def _begin(self, uplinked: Uplinked) -> None:
        self._current = uplinked
        self.connected_since = time.time()
        host, port = uplinked.session.peer_address
        shown = shown_address(host, port)
        if self.was_connected:
            self.reconnections += 1
        self._say("connected", f"connected to {self._config.link.authority} ({shown}, {uplinked.session.alpn})")
        self.last_problem = ""
        if not self.was_connected:
            self.was_connected = True
            self._on_ready()
        self._place_waiting()

    def _place_waiting(self) -> None:
        for waiting in list(self._waiting.values()):
            self._stop_waiting(waiting.flow)
            self._place(waiting.flow, waiting.moves)

    def _lost(self, uplinked: Uplinked, why: str) -> None:
        if self._current is uplinked:
            self._current = None
        self.connected_since = None
        self.last_problem = why
        if not self._closing:
            self.gave_up = self._config.once
            action = "" if self._config.once else "; reconnecting"
            self._say("disconnected", f"connection lost: {why}{action}")

    def _drain(self, uplinked: Uplinked) -> None:
        while len(self._draining) >= MAX_DRAINING:
            self._draining.pop(0).tunnel.close(0, "too many connections that were said goodbye to")
        self._draining.append(uplinked)
        uplinked.over.add_done_callback(lambda _: self._drained(uplinked))

    def _drained(self, uplinked: Uplinked) -> None:
        if uplinked in self._draining:
            self._draining.remove(uplinked)

    def _explain_failure(self, refusal: Refusal) -> int | None:
        """Say what is wrong, once; returns the exit code when giving up is right."""
        self.last_problem = refusal.text
        line = f"cannot connect to {self._config.link.authority}: {refusal.text}"
        if refusal.final and not self.was_connected:
            self.gave_up = True
            self._say("refused", line)
            return EXIT_REFUSED
        if self._config.once:
            self.gave_up = True
            self._say("unreachable", line)
            return EXIT_FAILED
        if refusal.final:
            self._say("refused", f"{line}; trying again, but only every {SLOW:.0f} s")
        else:
            self._say("unreachable", f"{line}; trying again")
        return None

    def _say(self, event: str, line: str) -> None:
        if line != self._said:
            self._said = line
            self._notify(event, line)

    # Flows.

    def _place(self, flow: ClientFlow, moves: int) -> None:
        if not flow.is_waiting:
            return
        if self._closing:
            flow.fail(FlowError(Failure.TUNNEL_DOWN, "the client is shutting down"))
            return
        uplinked = self._current
        if uplinked is None or not uplinked.tunnel.usable:
            self._wait(flow, moves)
            return
        if uplinked.session.alpn == ALPN_QT and not _is_address(flow.request.host):
            self._spawn(self._open_by_name(flow, uplinked, moves))
            return
        self._open(flow, uplinked, [flow.request.host], moves)

    def _open(self, flow: ClientFlow, uplinked: Uplinked, hosts: Sequence[str], moves: int) -> None:
        """hosts: a name or an address, or several addresses, to be tried one after the other."""

        def unanswered(failed: FlowFailed) -> bool:
            gone = (
                failed.cause in (Cause.NOT_AUTHENTICATED, Cause.GOING_AWAY)
                or uplinked.over.done()
                or uplinked.session.ended is not None
            )
            if not gone:
                if not hosts[1:] or not flow.can_move:
                    return False
                flow.detach()
                self._open(flow, uplinked, hosts[1:], moves)
                return True
            if moves >= MAX_MOVES or not flow.can_move or self._config.once:
                flow.fail(FlowError(Failure.TUNNEL_DOWN, failed.detail))
                return True
            if failed.cause is Cause.GOING_AWAY:
                # Its goodbye is late, or lost in a program that says none.
                uplinked.tunnel_goodbye(failed.detail, 0.0)
            if self._current is uplinked and not (uplinked.ready.done() and failed.cause is Cause.NOT_AUTHENTICATED):
                self._current = None
            flow.detach()
            self._place(flow, moves + 1)
            return True

        flow.on_unanswered(unanswered)
        try:
            tunnel_flow = uplinked.tunnel.open_flow(Destination(hosts[0], flow.request.port), flow.events)
        except FlowFailed as failed:
            if not unanswered(failed):
                flow.fail(to_flow_error(failed))
            return
        except LocalError as error:
            flow.fail(FlowError(Failure.INTERNAL, str(error)))
            return
        flow.attach(tunnel_flow)
        flow.expire_in(self._unanswered)

    async def _open_by_name(self, flow: ClientFlow, uplinked: Uplinked, moves: int) -> None:
        """On bare qt the concentrator takes addresses only: resolve through the tunnel, never here."""
        if self._resolve_through is None:
            text = "this link speaks bare qt, where names need a resolver: set dns, or use addresses"
            flow.fail(FlowError(Failure.NAME_NOT_FOUND, text))
            return
        try:
            addresses = await self._resolve_through(flow.request.host)
        except FlowFailed as failed:
            flow.fail(to_flow_error(failed))
            return
        if not flow.is_waiting or not addresses:
            return
        if uplinked.tunnel.usable:
            hosts = [host for host, _ in interleave([(address, flow.request.port) for address in addresses])]
            self._open(flow, uplinked, hosts[:MAX_ADDRESSES], moves)
        else:
            self._place(flow, moves)

    def _wait(self, flow: ClientFlow, moves: int) -> None:
        if len(self._waiting) >= MAX_WAITING:
            flow.fail(FlowError(Failure.TUNNEL_DOWN, "too many requests wait for the concentrator"))
            return
        timer = self._loop.call_later(self._config.wait_for_tunnel, self._give_up, flow, Failure.TUNNEL_TIMEOUT, "")
        self._waiting[flow] = _Waiting(flow, timer, moves)
        # One whose application has gone leaves its place to others.
        flow.on_over(lambda: self._stop_waiting(flow))

    def _stop_waiting(self, flow: ClientFlow) -> None:
        waiting = self._waiting.pop(flow, None)
        if waiting is not None:
            waiting.timer.cancel()

    def _give_up(self, flow: ClientFlow, failure: Failure, detail: str) -> None:
        flow.fail(FlowError(failure, detail or self.last_problem))

    def _spawn(self, coroutine: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Hearing:
    """Whether a session is still heard: it was sent to, and nothing has come since."""

    def __init__(self, now: float) -> None:
        self._received = -1
        self._sent = -1
        self._unanswered_since: float | None = None
        self._now = now

    def silent_for(self, uplinked: Uplinked, now: float) -> float:
        """Seconds since the first packet that nothing has answered."""
        statistics = uplinked.session.statistics()
        if statistics.packets_received != self._received:
            self._received = statistics.packets_received
            self._sent = statistics.packets_sent
            self._unanswered_since = None
        elif statistics.packets_sent != self._sent and self._unanswered_since is None:
            self._unanswered_since = self._now
        self._now = now
        return 0.0 if self._unanswered_since is None else now - self._unanswered_since


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
