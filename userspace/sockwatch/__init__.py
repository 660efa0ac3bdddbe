"""Notices a reset on a socket that nobody is reading.

``watcher(loop)`` gives the loop's one ``Watcher``. The kernel's epoll reports errors on a descriptor whether or not it
is being read; elsewhere the fallback reports nothing, and a reset is noticed at the next read or write. Platforms are
chosen by module, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import select
from weakref import WeakKeyDictionary

from ._default import Watcher as _DefaultWatcher

if hasattr(select, "epoll"):
    from ._epoll import Watcher
else:  # pragma: no cover - no such system in CI
    from ._default import Watcher  # type: ignore[assignment]

__all__ = ["Watcher", "watcher"]

_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, Watcher] = WeakKeyDictionary()


def watcher(loop: asyncio.AbstractEventLoop) -> Watcher | _DefaultWatcher:
    """The loop's watcher, made at the first call."""
    found = _watchers.get(loop)
    if found is None:
        found = _watchers[loop] = Watcher(loop)
    return found
