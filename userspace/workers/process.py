"""One worker: a ``Concentrator`` on its part of a shared port, that asks its supervisor about clients and does what it says.

It ends in order when it is told to or gets SIGTERM, and at once when the supervisor is gone: nobody could answer for
the clients then, and the port would stay taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence
from typing import Any

from ..cli.program import run_program
from ..concentrator import Concentrator
from ..log import Events
from ..nofile import raise_limit
from ..quic.errors import LocalError
from ..quic.factory import open_endpoint
from ..quic.workers import Share
from ..state import StateError
from ..way_out import build_way_out
from .assignment import Answer, Assignment, Report, Request
from .channel import Channel, encode, receive_blocking
from .clients import RemoteClients
from .ledger import Ledger


def main(arguments: Sequence[str]) -> int:
    """The whole process. arguments: the number of the channel's descriptor."""
    # Those are the supervisor's, though a terminal or a service manager may send them to all of us.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    try:
        assignment = receive_blocking(connection)
    except (EOFError, OSError):
        return 1
    raise_limit()
    settings = assignment.settings
    events = Events(settings.output)
    return run_program(lambda: run_worker(assignment, connection, events), settings.transport.event_loop, events)


async def run_worker(assignment: Assignment, connection: socket.socket, events: Events) -> int:
    """Work until the end; returns the exit code."""
    ledger = Ledger(assignment.workers, assignment.ledger)
    clients = RemoteClients(socket.socket(fileno=assignment.clients), ledger)
    try:
        concentrator = await _start(assignment, clients, ledger, events)
    except (StateError, LocalError, ValueError, OSError) as error:
        with contextlib.suppress(OSError):
            connection.sendall(encode(Report(str(error))))
        return 1
    channel = await Channel.open(connection)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    channel.send(Report())
    serving = asyncio.create_task(_serve(channel, concentrator, clients, stop))
    await stop.wait()
    # When it is over by itself, the supervisor is gone.
    await concentrator.drain(0.0 if serving.done() else None)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    channel.close()
    return 0


async def _start(assignment: Assignment, clients: RemoteClients, ledger: Ledger, events: Events) -> Concentrator:
    settings = assignment.settings
    share = Share(
        assignment.number,
        assignment.workers,
        tuple(socket.socket(fileno=descriptor) for descriptor in assignment.sockets),
        socket.socket(fileno=assignment.inbox),
        tuple(socket.socket(fileno=descriptor) for descriptor in assignment.outboxes),
        assignment.steered,
    )
    for opened in (*share.sockets, share.inbox, *share.outboxes):
        opened.setblocking(False)
    way_out = build_way_out(settings, events)
    concentrator = Concentrator(
        settings,
        registry=clients,
        credentials=assignment.credentials,
        secret=assignment.secret,
        endpoint=await open_endpoint((), engine=settings.transport.engine, share=share),
        way_out=way_out,
        events=events,
        accounts=lambda name: ledger.account(name, assignment.number),
    )
    concentrator.start()
    way_out.start()
    return concentrator


async def _serve(channel: Channel, concentrator: Concentrator, clients: RemoteClients, stop: asyncio.Event) -> None:
    """Answer the supervisor for as long as it is there."""
    try:
        while True:
            request: Request = await channel.receive()
            if request.command == "drain":
                stop.set()
            else:
                channel.send(Answer(request.number, _answer(request, concentrator, clients)))
    except EOFError:
        stop.set()


def _answer(request: Request, concentrator: Concentrator, clients: RemoteClients) -> Any:
    if request.command == "status":
        return concentrator.status()
    if request.command == "clients-changed":
        clients.changed()
        return concentrator.check_clients()
    try:
        if request.command == "qlog":
            concentrator.event_log.switch(request.folder, quiet=True)
        else:
            assert request.settings is not None
            concentrator.reload(request.settings)
    except (StateError, LocalError, ValueError) as error:
        return str(error)
    return ""
