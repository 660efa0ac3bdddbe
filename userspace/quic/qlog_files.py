"""The folder in which connections log their events (qlog), a file each.

Whoever reads such a file sees who talked to whom, when, and how much, though not what: hence 0700 and 0600. What a folder
may take is bounded, since a server's peers decide how many connections there are. Read draft-ietf-quic-qlog-main-schema
§11 and ``native/qlog.pyx``, which writes the events.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from .errors import LocalError

logger = logging.getLogger(__name__)

MOST_OCTETS = 64 << 20
"""Of one file: some hundred thousand packets, half a minute at 100 Mbit/s, and more than the usual viewers can show."""
MOST_TOGETHER = 1 << 30
"""Octets that all files of a process may take from one switch to the next: a log that is forgotten fills no disk."""
MOST_FILES = 4096
"""Files from one switch to the next: as many as there are sessions at once."""
MOST_NAMESAKES = 100
"""Files of one name: a peer may choose the same connection ID again and again, and logs may be switched on again."""

FILE_SCHEMA = "urn:ietf:params:qlog:file:sequential"
EVENT_SCHEMAS = ("urn:ietf:params:qlog:events:quic-12", "urn:ietf:params:qlog:events:loglevel-13")
RECORD = b"\x1e"
"""Stands before each record (RFC 7464)."""


class QlogFile:
    """One connection's. limit: octets that it still takes."""

    def __init__(self, folder: QlogFolder, path: Path, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self.path = path
        self.limit = MOST_OCTETS

    def write(self, data: bytes) -> bool:
        """Whether it takes more."""
        if self._descriptor < 0 or not self._folder.take(len(data)):
            return False
        self.limit -= len(data)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            logger.warning("cannot write %s: %s; this connection is logged no more", self.path, error.strerror)
            self.close()
            return False
        return True

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class QlogFolder:
    """path: made, 0700, when it does not exist. wall_clock: Unix time.

    Raises LocalError when the folder cannot be had, or others can look into it."""

    def __init__(
        self,
        path: Path,
        wall_clock: Callable[[], float],
    ) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
        except OSError as error:
            raise LocalError(f"cannot make or open the folder {path} for qlog: {error.strerror}") from None
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise LocalError(
                f"others can look into the folder {path} for qlog; choose another or run: chmod 700 {path}"
            )
        if not os.access(path, os.W_OK | os.X_OK):
            raise LocalError(f"cannot write in the folder {path} for qlog")
        self.path = path
        self._wall_clock = wall_clock
        self._left = MOST_TOGETHER
        self._files = 0

    def open(self, group: bytes, *, is_client: bool) -> QlogFile | None:
        """A file with its first record. group: the Destination Connection ID of the client's first Initial. None when
        there are too many, or the system gives none, which is logged."""
        vantage = "client" if is_client else "server"
        name = f"{group.hex() or 'none'}_{vantage}"
        if self._files >= MOST_FILES:
            return None
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for number in range(1, MOST_NAMESAKES + 1):
            path = self.path / (f"{name}.sqlog" if number == 1 else f"{name}-{number}.sqlog")
            try:
                descriptor = os.open(path, flags, 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                logger.warning("cannot make %s: %s; a connection is not logged", path, error.strerror)
                return None
            self._files += 1
            file = QlogFile(self, path, descriptor)
            file.write(self._first_record(group, vantage))
            return file
        return None

    def take(self, octets: int) -> bool:
        """Whether the files may grow by so much."""
        if octets > self._left:
            if self._left >= 0:
                logger.warning("the files in %s have reached %d MiB; no more is logged", self.path, MOST_TOGETHER >> 20)
            self._left = -1
            return False
        self._left -= octets
        return True

    def _first_record(self, group: bytes, vantage: str) -> bytes:
        began = datetime.fromtimestamp(self._wall_clock(), UTC).isoformat(timespec="milliseconds")
        header = {
            "file_schema": FILE_SCHEMA,
            "serialization_format": "application/qlog+json-seq",
            "title": "quicsocks",
            "trace": {
                "common_fields": {
                    "group_id": group.hex(),
                    "time_format": "relative_to_epoch",
                    "reference_time": {
                        "clock_type": "monotonic",
                        "epoch": "unknown",
                        "wall_clock_time": began.replace("+00:00", "Z"),
                    },
                },
                "vantage_point": {"type": vantage},
                "event_schemas": EVENT_SCHEMAS,
            },
        }
        return RECORD + json.dumps(header).encode() + b"\n"
