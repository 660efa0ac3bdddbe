"""Run a coroutine on plain asyncio and on uvloop, with a bound in time and no task left over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
BOUND = 20.0


def run_on(factory: Callable[[], asyncio.AbstractEventLoop], coroutine: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(BOUND):
            result = await coroutine
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"
        return result

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bounded())


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
    # uvloop keeps two descriptors from the first loop on: tests that count descriptors begin after that.
    run_on(factory, asyncio.sleep(0))
    return lambda coroutine: run_on(factory, coroutine)
