"""The supervisor's side of one worker: started, asked, started again when it ends, told to end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backoff import Backoff
from ..log import Events
from ..quic.errors import LocalError
from ..settings import ConcentratorSettings
from .assignment import Answer, Assignment, Report, Request
from .channel import Channel

ANSWER_TIMEOUT = 3.0
"""Seconds for an answer, less than those of whoever asks us (``status.EXCHANGE_TIMEOUT``)."""
LIVED = 60.0
"""Seconds after which the end of a worker is a new misfortune, and not the same one again."""
LARGEST_QUESTION = 1 << 17

Assign = Callable[[int, int], Assignment]
"""Makes the assignment for a worker, from its number and the descriptor for its questions."""


class WorkerGone(Exception):
    """There is no such worker at the moment, or it does not answer."""


class WorkerHandle:
    """number: the worker's. assign: what it is told. renewed: the settings of the last reload, None before it.
    respond: answers its questions about clients. ended: called whenever it has."""

    def __init__(
        self,
        number: int,
        events: Events,
        *,
        assign: Assign,
        renewed: Callable[[], ConcentratorSettings | None],
        respond: Callable[[bytes], bytes],
        ended: Callable[[int], None],
    ) -> None:
        self.number = number
        self.since = 0.0
        self.restarts = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it works for the first time; LocalError when it ends before that."""
        self._events = events
        self._assign = assign
        self._renewed = renewed
        self._respond = respond
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._failure = ""
        self._stopping = asyncio.Event()

    @property
    def process_id(self) -> int | None:
        """None while there is none."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Keep it working until ``stop``."""
        backoff = Backoff()
        while not self._stopping.is_set():
            begun = self._loop.time()
            try:
                process_id, status = await self._live()
                how = f"process {process_id} {_described(status)}"
            except OSError as error:
                how = f"it cannot be started: {error}"
            self._ended(self.number)
            if self._failure:
                how = self._failure
            if self._stopping.is_set():
                break
            if not self.ready.done():
                self.ready.set_exception(LocalError(self._failure or f"worker {self.number} does not start: {how}"))
                return
            if self._loop.time() - begun > LIVED:
                backoff.reset()
            delay = backoff.next_delay()
            self._events.warn("worker", f"worker {self.number}: {how}; starting it again in {delay:.1f} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            self.restarts += 1
        if not self.ready.done():
            self.ready.cancel()

    async def ask(self, command: str, settings: ConcentratorSettings | None = None, folder: Path | None = None) -> Any:
        """What it answers. Raises WorkerGone."""
        if self._channel is None:
            raise WorkerGone
        request = Request(next(self._numbers), command, settings, folder)
        future = self._asked[request.number] = self._loop.create_future()
        self._channel.send(request)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await future
        except TimeoutError:
            raise WorkerGone from None
        finally:
            self._asked.pop(request.number, None)

    def stop(self) -> None:
        """Let it end in order; ``run`` returns then."""
        self._stopping.set()
        if self._channel is not None:
            self._channel.send(Request(0, "drain"))

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _live(self) -> tuple[int, int]:
        """One process from its start to its end; its number and exit status. Raises OSError when it cannot start."""
        self._failure = ""
        near, far = socket.socketpair()
        questions, asker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as opened:
            opened.callback(questions.close)
            try:
                assignment = self._assign(self.number, asker.fileno())
                # -P: what lies in the present folder is not ours to import.
                self._process = process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "quicsocks.userspace.workers", str(far.fileno()),
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=(far.fileno(), *assignment.descriptors),
                )  # fmt: skip
            except BaseException:
                near.close()
                raise
            finally:
                far.close()
                asker.close()
            questions.setblocking(False)
            self._loop.add_reader(questions, self._on_question, questions)
            opened.callback(self._loop.remove_reader, questions)
            self.since = time.time()
            self._channel = await Channel.open(near)
            self._channel.send(assignment)
            if (renewed := self._renewed()) is not None:
                self._channel.send(Request(0, "reload", renewed))
            if self._stopping.is_set():
                self._channel.send(Request(0, "drain"))
            listening = asyncio.create_task(self._listen(self._channel))
            try:
                status = await process.wait()
                # What it has said before it ended.
                await listening
            finally:
                listening.cancel()
                self._channel.close()
                self._channel = self._process = None
                for future in self._asked.values():
                    if not future.done():
                        future.set_exception(WorkerGone())
        return process.pid, status

    async def _listen(self, channel: Channel) -> None:
        try:
            while True:
                message: Report | Answer = await channel.receive()
                if isinstance(message, Report):
                    self._failure = message.failure
                    if not self._failure and not self.ready.done():
                        self.ready.set_result(None)
                elif (future := self._asked.get(message.number)) is not None and not future.done():
                    future.set_result(message.value)
        except EOFError:
            pass

    def _on_question(self, questions: socket.socket) -> None:
        try:
            data = questions.recv(LARGEST_QUESTION)
            if data:
                questions.send(self._respond(data))
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._loop.remove_reader(questions)  # It has ended.


def _described(status: int) -> str:
    if status >= 0:
        return f"has ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
