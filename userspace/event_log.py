"""Logging of what happens in QUIC connections (qlog), switched at the start and while a process runs.

``quicsocks qlog on DIR`` and ``off`` ask over the control socket. The transport writes the files; here is what is the
process's: how it stands, and a line for the person when it changes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from .log import Events
from .quic.errors import LocalError
from .state import StateError


class Logs(Protocol):
    """What can log; an ``Endpoint`` does."""

    def log_to(self, folder: Path | None) -> None: ...


class EventLog:
    """folder: where files are written; None: nothing is."""

    def __init__(self, logs: Logs, events: Events) -> None:
        self._logs = logs
        self._events = events
        self.folder: Path | None = None

    def switch(self, folder: Path | None, *, quiet: bool = False) -> None:
        """quiet: another process says so. Raises LocalError, and all is as it was."""
        if folder is None and self.folder is None:
            return
        self._logs.log_to(folder)
        self.folder = folder
        if not quiet:
            say_switched(folder, self._events)

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """To the request ``qlog``. Raises StateError with one line."""
        try:
            self.switch(requested_folder(request))
        except LocalError as error:
            raise StateError(str(error)) from None
        return {"qlog": shown(self.folder)}


def requested_folder(request: Mapping[str, Any]) -> Path | None:
    """Raises StateError for what is no folder. An empty name switches off."""
    folder = request.get("folder")
    if not isinstance(folder, str) or "\0" in folder or (folder and not os.path.isabs(folder)):
        raise StateError("qlog needs the full path of a folder, or an empty one to stop")
    return Path(folder) if folder else None


def shown(folder: Path | None) -> str:
    """For status: the folder, empty for none."""
    return str(folder) if folder is not None else ""


def say_switched(folder: Path | None, events: Events) -> None:
    if folder is None:
        events.info("qlog", "connections are not logged any more")
    else:
        events.warn("qlog", f"what happens in connections is logged to {folder} (qlog): who, when, how much, not what")
