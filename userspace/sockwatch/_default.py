"""The fallback: no watching. See ``_epoll``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watcher:
    """Has the same methods and reports nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.watched = 0

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Take note of nothing."""

    def remove(self, fd: int) -> None:
        """Forget nothing."""

    def close(self) -> None:
        """Nothing to close."""
