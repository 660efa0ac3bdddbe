from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from ..sim.pair import Pair

PAIRINGS = [("aioquic", "aioquic"), ("native", "native"), ("native", "aioquic"), ("aioquic", "native")]


@pytest.fixture(params=PAIRINGS[:2], ids=lambda pairing: pairing[0])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of hubs that the test makes has this engine at both ends."""
    monkeypatch.setattr(Pair, "engines", request.param)


Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine for 20 s at most, on each kind of loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(main, 20)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run
