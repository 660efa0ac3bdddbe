"""What several tests of the program share."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from quicsocks.userspace.link import Link

PIN = bytes(range(32))
TOKEN = bytes(range(100, 132))
LINK = Link(host="gw.example.com", port=4433, token=TOKEN, pins=(PIN,), name="home")

LOOPS: list[tuple[str, Callable[[], asyncio.AbstractEventLoop]]] = [
    ("asyncio", asyncio.new_event_loop),
    ("uvloop", uvloop.new_event_loop),
]
both_loops = pytest.mark.parametrize("loop_factory", [factory for _, factory in LOOPS], ids=[name for name, _ in LOOPS])


def run_on(loop_factory: Callable[[], asyncio.AbstractEventLoop], program: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, bounded."""

    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await program

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


def mode(path: Path) -> int:
    return os.stat(path).st_mode & 0o777


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True
