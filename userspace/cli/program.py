"""Running the long-lived commands on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ..log import Events, route_library_logs
from ..settings import OutputSettings


def say_remarks(output: OutputSettings, remarks: Sequence[str]) -> Events:
    """Write what the user should know of their settings; returns where further events go."""
    events = Events(output)
    for remark in dict.fromkeys(remarks):
        events.warn("remark", remark)
    return events


def run_program(program: Callable[[], Coroutine[Any, Any, int]], event_loop: str, events: Events) -> int:
    """Run the program to its end on uvloop or asyncio's loop, and return its exit code."""
    route_library_logs(events)
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
