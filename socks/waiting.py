"""The callbacks of ``types.Flow`` for flows that are made of coroutines: a task waits in the caller's place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from .types import Bound, Failure, FlowError

_tasks: set[asyncio.Task[Any]] = set()
"""Those that wait: a loop holds its tasks but weakly."""


class Waiting(Protocol):
    """What such a flow has."""

    async def connected(self) -> Bound: ...

    async def relay(self, sock: socket.socket, early: bytes = b"") -> None: ...


def when_connected(flow: Waiting, told: Callable[[Bound | FlowError], None]) -> None:
    """See ``types.Flow``."""

    async def wait() -> None:
        try:
            outcome: Bound | FlowError = await flow.connected()
        except FlowError as error:
            outcome = error
        except Exception as error:
            outcome = FlowError(Failure.INTERNAL, repr(error))
        told(outcome)

    _start(wait())


def carry(flow: Waiting, sock: socket.socket, early: bytes, over: Callable[[Exception | None], None]) -> None:
    """See ``types.Flow``."""

    async def wait() -> None:
        failed: Exception | None = None
        try:
            await flow.relay(sock, early)
        except FlowError:
            pass  # relay has told the application already, with a reset
        except Exception as error:
            failed = error
        over(failed)

    _start(wait())


def _start(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
