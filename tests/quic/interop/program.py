"""Other people's programs, run from the test's own loop, always ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

SBIN = ("/usr/sbin", "/sbin")


def find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(SBIN))


def required(package: str, *names: str) -> pytest.MarkDecorator:
    """Skips with the package's name unless the programs are there."""
    missing = [name for name in names if find(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} missing (Debian: {package})")


class Program:
    """output: the lines printed so far, on either channel."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.output: list[str] = []
        self._process = process
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.output.append(line.decode(errors="replace").rstrip("\n"))
            self._news.set()
        self.output.append("")
        self._news.set()

    async def line(self, pattern: str) -> re.Match[str]:
        """The first line that matches. AssertionError when the program ends without."""
        at = 0
        while True:
            while at < len(self.output):
                if found := re.search(pattern, self.output[at]):
                    return found
                at += 1
            assert not self._reading.done(), f"{self.name} ended:\n{self.text}"
            self._news.clear()
            await self._news.wait()

    async def succeed(self) -> None:
        """Wait for its end. AssertionError with what it printed unless it is a good one."""
        status = await self._process.wait()
        await self._reading
        assert status == 0, f"{self.name} ended with {status}:\n{self.text}"

    @property
    def text(self) -> str:
        return "\n".join(self.output[-60:])

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def program(argv: Sequence[str], env: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """Run argv; it and its children end with the block."""
    found = find(argv[0])
    assert found is not None, argv[0]
    process = await asyncio.create_subprocess_exec(
        found,
        *argv[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        start_new_session=True,
        limit=1 << 24,
    )
    running = Program(argv[0].rpartition("/")[2], process)
    try:
        yield running
    finally:
        await running.stop()
