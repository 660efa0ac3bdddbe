"""Running the long-lived commands on an event loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ..log import Events, route_library_logs
from ..settings import OutputSettings

COLLECT_AFTER = 20_000
"""Objects made beyond those freed, some hundred flows, until the youngest are searched for cycles."""


def say_remarks(output: OutputSettings, remarks: Sequence[str]) -> Events:
    """Write what the user should know of their settings; returns where further events go."""
    events = Events(output)
    for remark in dict.fromkeys(remarks):
        events.warn("remark", remark)
    return events


def run_program(program: Callable[[], Coroutine[Any, Any, int]], event_loop: str, events: Events) -> int:
    """Run the program to its end on uvloop or asyncio's loop, and return its exit code."""
    route_library_logs(events)
    # What has been imported stays, what was needed to read settings need not: frozen garbage is kept for ever. And flows
    # come and go by the hundred: looking for cycles among them after every 700 objects, Python's default, took a tenth of
    # the time of opening connections.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    with asyncio.Runner(loop_factory=_loop_factory(event_loop, events)) as runner:
        try:
            return runner.run(program())
        finally:
            events.flush()


def _loop_factory(event_loop: str, events: Events) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if event_loop == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        events.detail("event-loop", "uvloop is not installed; asyncio's own loop is used, which is slower")
        return None
    return uvloop.new_event_loop
