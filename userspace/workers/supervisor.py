"""``quicsocks concentrator --workers N``: the process that owns what there is one of, and starts the others.

It has the claim on the state folder, the list of clients, the secrets, the sockets, the control socket, and the ledger of
what clients use; it takes the signals, and says when all is ready. No packet and no flow goes through it. Read
``handle`` for how a worker lives, ``process`` for what it does, and ``quic.workers`` for how packets find theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..concentrator import (
    DRAIN_CLOSE,
    WATCH_INTERVAL,
    hand_out_first_link,
    keep_alive,
    shown_public,
    until_stopped,
    warn_of_keylog,
)
from ..enrolment import Registry
from ..event_log import requested_folder, say_switched, shown
from ..families import to_listen
from ..identity import RotatingSecret, ServerCredentials, load_secret, server_credentials
from ..log import Events
from ..notify import Notifier
from ..output import shown_address
from ..quic.errors import LocalError
from ..quic.workers import Group
from ..reloading import waiting_for_restart
from ..settings import ConcentratorSettings
from ..state import StateError, StateFolder
from ..status import StatusServer, socket_path
from .assignment import Assignment, part_of
from .clients import answer
from .combined import combined
from .handle import WorkerGone, WorkerHandle
from .ledger import Ledger

GRACE = 3.0
"""Seconds beyond the drain for a worker to end; then it is killed."""


class Supervisor:
    """The workers together, without the process around them."""

    def __init__(
        self,
        settings: ConcentratorSettings,
        *,
        registry: Registry,
        credentials: ServerCredentials,
        secret: RotatingSecret,
        group: Group,
        ledger: Ledger,
        events: Events,
    ) -> None:
        self._settings = settings
        self._part = part_of(settings)
        self._renewed: ConcentratorSettings | None = None
        self._registry = registry
        self._told = registry.generation
        """The state of the list of clients that the workers were last told of."""
        self._credentials = credentials
        self._secret = secret
        self._group = group
        self._ledger = ledger
        self._events = events
        self._reloading = asyncio.Lock()
        self._draining = False
        self._qlog_dir = settings.transport.qlog_dir
        self._started = time.time()
        self._workers = [
            WorkerHandle(
                number,
                events,
                assign=self._assign,
                renewed=lambda: part_of(self._renewed) if self._renewed is not None else None,
                respond=lambda data: answer(data, registry, ledger),
                ended=ledger.clear,
            )
            for number in range(settings.workers)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, stop: asyncio.Event) -> None:
        """Return when all workers work, or stop is set. Raises LocalError when one does not."""
        self._tasks = [asyncio.create_task(worker.run()) for worker in self._workers]
        stopped = asyncio.create_task(stop.wait())
        ready = asyncio.gather(*(worker.ready for worker in self._workers))
        either: list[asyncio.Future[Any]] = [ready, stopped]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if ready.done():
            ready.result()
        else:
            ready.cancel()

    def _assign(self, number: int, questions: int) -> Assignment:
        share = self._group.share(number)
        transport = dataclasses.replace(self._part.transport, qlog_dir=self._qlog_dir)
        return Assignment(
            number=number,
            workers=share.workers,
            settings=dataclasses.replace(self._part, transport=transport),
            credentials=self._credentials,
            secret=self._secret,
            steered=share.steered,
            sockets=tuple(opened.fileno() for opened in share.sockets),
            inbox=share.inbox.fileno(),
            outboxes=tuple(opened.fileno() for opened in share.outboxes),
            clients=questions,
            ledger=self._ledger.descriptor,
        )

    async def watch_registry(self) -> None:
        """Tell the workers when the list of clients has changed; forever."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            await self.check_clients()

    async def check_clients(self) -> int:
        """Read the list of clients again if it changed; returns how many sessions were ended."""
        try:
            self._registry.poll()
        except StateError as error:
            self._events.warn("state", str(error))
        if self._told == self._registry.generation:
            return 0
        self._told = self._registry.generation
        answers = await self._ask_all("clients-changed")
        return sum(ended for _, ended in answers)

    async def reload(self, notifier: Notifier) -> None:
        """Take new rules and limits (SIGHUP); what is wrong with them is said in a line."""
        async with self._reloading:
            notifier.reloading()
            try:
                renewed = self._settings.reload() if self._settings.reload is not None else self._settings
                self._registry.reload()
                answers = await self._ask_all("reload", part_of(renewed))
                failures = {failure for _, failure in answers if failure}
                if failures:
                    raise LocalError("; ".join(sorted(failures)))
            except (StateError, LocalError, ValueError) as error:
                self._events.warn("reload", f"not reloaded, the old settings stay: {error}")
            else:
                self._renewed = renewed
                waiting = ", ".join(waiting_for_restart(self._settings, renewed))
                rest = f"; changed, but only for the next start: {waiting}" if waiting else ""
                self._events.info("reload", f"rules, clients and their limits reloaded{rest}")
            notifier.ready()

    async def drain(self) -> None:
        """End all workers, in order as far as they let us."""
        self._draining = True
        for worker in self._workers:
            worker.stop()
        settings = self._renewed or self._settings
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=settings.drain + DRAIN_CLOSE + GRACE)
            for worker in self._workers:
                worker.kill()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def status(self) -> dict[str, Any]:
        """What ``quicsocks status`` shows: a single concentrator's, and a line for each worker."""
        settings = self._settings
        listening = self._group.local_addresses
        answers: dict[int, Mapping[str, Any]] = dict(await self._ask_all("status"))
        return {
            "role": "concentrator",
            "name": settings.name,
            "since": self._started,
            "public": shown_public(settings, listening),
            "listeners": [shown_address(host, port) for host, port in listening],
            "engine": settings.transport.engine,
            "draining": self._draining,
            "steered": self._group.steered,
            "qlog": shown(self._qlog_dir),
            **combined(sorted(answers.items())),
            "workers": [_worker_status(worker, answers.get(worker.number)) for worker in self._workers],
        }

    async def switch_log(self, folder: Path | None) -> None:
        """Let all workers log their connections' events there, also those that start later; None: no more. Raises
        StateError when they cannot."""
        failures = {failure for _, failure in await self._ask_all("qlog", folder=folder) if failure}
        if failures:
            raise StateError("; ".join(sorted(failures)))
        if folder != self._qlog_dir:
            say_switched(folder, self._events)
        self._qlog_dir = folder

    async def _ask_all(
        self, command: str, settings: ConcentratorSettings | None = None, folder: Path | None = None
    ) -> list[tuple[int, Any]]:
        """The answers of those that answer, with their numbers."""
        answers = await asyncio.gather(
            *(worker.ask(command, settings, folder) for worker in self._workers), return_exceptions=True
        )
        for given in answers:
            if isinstance(given, BaseException) and not isinstance(given, WorkerGone):
                raise given
        return [
            (worker.number, given)
            for worker, given in zip(self._workers, answers, strict=True)
            if not isinstance(given, WorkerGone)
        ]


def _worker_status(worker: WorkerHandle, status: Mapping[str, Any] | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "number": worker.number,
        "process": worker.process_id,
        "since": worker.since,
        "restarts": worker.restarts,
        "answers": status is not None,
    }
    if status is not None:
        counters = status["endpoint"]
        described["clients"] = len(status["clients"])
        described["flows"] = status["flows"]
        described |= {name: counters[name] for name in ("sessions", "forwarded", "forwarded_here", "forward_lost")}
    return described


async def supervise(settings: ConcentratorSettings, folder: StateFolder, events: Events) -> int:
    """The whole process, once it has its state folder; returns its exit code. Raises StateError, LocalError or
    ValueError when it cannot start."""
    now = time.time()
    credentials = server_credentials(folder, settings.certificate_file, settings.key_file)
    registry = Registry(folder)
    warn_of_keylog(settings, events)
    if settings.transport.qlog_dir is not None:
        say_switched(settings.transport.qlog_dir, events)
    group = Group(to_listen(settings.listen), settings.workers)
    ledger = Ledger(settings.workers)
    if not group.steered:
        events.info(
            "steering", "this kernel does not steer packets by connection ID; clients that move cost a little more"
        )
    supervisor = Supervisor(
        settings,
        registry=registry,
        credentials=credentials,
        secret=load_secret(folder, now),
        group=group,
        ledger=ledger,
        events=events,
    )
    status = StatusServer(socket_path(settings.runtime_dir, settings.name), _handlers(supervisor))
    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    with Notifier() as notifier, contextlib.closing(group), contextlib.closing(ledger):
        try:
            await status.start()
            _on_stop(stop)
            await supervisor.start(stop)
            hand_out_first_link(settings, folder, registry, credentials, group.local_addresses, events, now)
            tasks.append(asyncio.create_task(supervisor.watch_registry()))
            if notifier.watchdog_interval:
                tasks.append(asyncio.create_task(keep_alive(notifier)))
            _on_reload(supervisor, notifier, tasks)
            await until_stopped(stop, notifier, events, group.local_addresses, f", with {settings.workers} workers")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await supervisor.drain()
            await status.close()
    return 0


def _handlers(supervisor: Supervisor) -> Mapping[str, Any]:
    async def clients_changed(_request: dict[str, Any]) -> dict[str, Any]:
        return {"ended": await supervisor.check_clients()}

    async def status(_request: dict[str, Any]) -> dict[str, Any]:
        return await supervisor.status()

    async def qlog(request: dict[str, Any]) -> dict[str, Any]:
        folder = requested_folder(request)
        await supervisor.switch_log(folder)
        return {"qlog": shown(folder)}

    return {"status": status, "clients-changed": clients_changed, "qlog": qlog}


def _on_stop(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _on_reload(supervisor: Supervisor, notifier: Notifier, tasks: list[asyncio.Task[None]]) -> None:
    loop = asyncio.get_running_loop()

    def reload() -> None:
        task = loop.create_task(supervisor.reload(notifier))
        tasks.append(task)
        task.add_done_callback(tasks.remove)

    loop.add_signal_handler(signal.SIGHUP, reload)
