"""The listener's tests run on both kinds of loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from .support import LOOPS, run

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=sorted(LOOPS))
def on_loop(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on asyncio's loop, and again on uvloop's."""

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        run(coroutine, request.param)

    return runner
