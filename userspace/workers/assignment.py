"""What a worker is told at its start, in one message, and what it is asked and answers afterwards.

The supervisor asks with ``Request``s; a worker sends one ``Report`` when it has started, or has failed to, and then an
``Answer`` for each. Descriptors are inherited, under the numbers that are named here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..identity import RotatingSecret, ServerCredentials
from ..settings import ConcentratorSettings


@dataclass(frozen=True, slots=True)
class Assignment:
    """number: below workers. sockets, inbox, outboxes, steered: of ``quic.workers.Share``. clients: the connection for
    questions about clients. ledger: the memory of ``Ledger``. settings: with this worker's part of the limits."""

    number: int
    workers: int
    settings: ConcentratorSettings
    credentials: ServerCredentials
    secret: RotatingSecret = field(repr=False)
    steered: bool
    sockets: tuple[int, ...]
    inbox: int
    outboxes: tuple[int, ...]
    clients: int
    ledger: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that the worker inherits, but for its channel."""
        return (*self.sockets, self.inbox, *self.outboxes, self.clients, self.ledger)


@dataclass(frozen=True, slots=True)
class Report:
    """failure: why the worker cannot work, one line; empty when it does."""

    failure: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """command: ``status``, ``clients-changed``, ``reload`` with the new settings, ``qlog`` with a folder or none, or
    ``drain``, which has no answer."""

    number: int
    command: str
    settings: ConcentratorSettings | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    number: int
    value: Any


def part_of(settings: ConcentratorSettings) -> ConcentratorSettings:
    """The settings for one worker: its part, rounded up, of those limits that are the concentrator's as a whole. Those
    of a client are not divided; see ``ledger``."""
    workers, limits = settings.workers, settings.limits

    def part(total: int) -> int:
        return -(-total // workers)

    return dataclasses.replace(
        settings,
        reload=None,
        limits=dataclasses.replace(
            limits,
            sessions=part(limits.sessions),
            half_open=part(limits.half_open),
            half_open_per_prefix=part(limits.half_open_per_prefix),
            retry_above=part(limits.retry_above),
        ),
    )
