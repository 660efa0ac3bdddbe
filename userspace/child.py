"""The command of ``quicsocks run -- CMD``: started in the foreground, told of our signals, its status passed on.

The command keeps our standard streams, terminal and process group, so that it behaves as if it had been started alone.
Signals that a terminal sends to the whole group (Ctrl-C) reach it directly; those sent to us alone are forwarded. Exit
codes are those of env(1) and docker: 126 cannot be executed, 127 not found, 128+n ended by signal n; 125 is for our own
failures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from . import nofile

OUR_FAILURE = 125
CANNOT_EXECUTE = 126
NOT_FOUND = 127
KILL_AFTER = 10.0
"""Seconds between asking the command to end, when we are cancelled, and killing it; as long as a service's drain."""

FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Sent on to the command. SIGINT and SIGQUIT too, unless the terminal sends them to the command itself."""


class CommandFailed(Exception):
    """The command could not be started. code: 126 or 127. The message is one line for a person."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


async def run_command(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run argv with environ and return the exit code to pass on. Raises CommandFailed when it cannot be started.

    While it runs, the loop's handlers for FORWARDED, SIGINT and SIGQUIT are ours; afterwards they are at their defaults.
    When cancelled it sends SIGTERM, waits KILL_AFTER seconds, kills, and lets the cancellation go on.
    """
    # Before the start: a signal in between would end us and leave the command behind.
    with _Forwarder() as forwarder:
        try:
            process = await asyncio.create_subprocess_exec(*argv, env=dict(environ))
        except FileNotFoundError:
            raise CommandFailed(f"cannot run {argv[0]}: no such command", NOT_FOUND) from None
        except (OSError, ValueError) as error:
            raise CommandFailed(f"cannot run {argv[0]}: {_reason(error)}", CANNOT_EXECUTE) from None
        nofile.restore_limit(process.pid)
        forwarder.attach(process)
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
    return exit_code(status)


def exit_code(status: int) -> int:
    """subprocess's return code (negative: a signal) as a shell reports it."""
    return 128 - status if status < 0 else status


class _Forwarder:
    """Hands signals on to the command while it is entered; those that come before ``attach`` are kept for it."""

    def __init__(self) -> None:
        self._early: list[int] = []
        self._installed: list[int] = []
        self._process: asyncio.subprocess.Process | None = None

    def __enter__(self) -> _Forwarder:
        loop = asyncio.get_running_loop()
        for number in (*FORWARDED, signal.SIGINT, signal.SIGQUIT):
            # Only the main thread can; elsewhere (tests, embedding) signals are not ours.
            with contextlib.suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, self._received, number)
                self._installed.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._installed:
            loop.remove_signal_handler(number)

    def attach(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        for number in self._early:
            self._received(number)

    def _received(self, number: int) -> None:
        if self._process is None:
            if len(self._early) < 8:
                self._early.append(number)
            return
        if number in (signal.SIGINT, signal.SIGQUIT) and _in_foreground():
            return  # the terminal has sent it to the command as well; twice would be one Ctrl-C too many
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


def _in_foreground() -> bool:
    """Whether our process group, which is the command's too, is the one that a terminal's keys signal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        ended = asyncio.ensure_future(process.wait())
        # Not asyncio.timeout: before Python 3.11.3 it does not work in a task that has been cancelled, as this one has.
        await asyncio.wait([ended], timeout=KILL_AFTER)
        if not ended.done():
            process.kill()
        await ended


def _reason(error: OSError | ValueError) -> str:
    # ValueError: a NUL in an argument.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]
