"""What the program tells people on standard error: one line an event, only when something changes.

``Events`` is the only way to say anything there. Text for people, or one JSON object a line for machines. The same
warning repeated is written once a minute with a count. Secrets do not pass: values that look like a link's token, a
URL's password or an authorization header are masked whatever the caller does. Destinations of a person's traffic are
not events: whoever writes at level ``detail`` (shown from -v on) leaves them out unless the user asked for them.

The libraries' own loggers (aioquic, asyncio) are silent unless -vv; tracebacks appear only then.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from .settings import OutputSettings

REPEAT_INTERVAL = 60.0
"""Seconds in which the same event with the same text is written once."""
MAX_REMEMBERED = 256
"""Different lines whose repetition is watched; when there are more, the oldest is forgotten."""
MAX_LINE = 2000
"""Characters of a line: what comes from the network must not fill a journal."""

_LEVELS = {"error": -1, "warning": 0, "info": 0, "detail": 1, "debug": 2}
"""The verbosity from which a level is written."""

_SECRETS = (
    # A link's or URL's user information: keep who it is for, not what it is.
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@?#]+@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"\b(proxy-)?(authorization\s*[:=]\s*)\S+(\s+[A-Za-z0-9+/=_~.-]+)?", re.IGNORECASE), r"\1\2***"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "***"),
)
_SECRET_FIELDS = frozenset({"token", "password", "secret", "key", "private_key", "credentials", "authorization"})


class Events:
    """Writes events. Usable from any thread. clock: Unix time; repeated lines are counted on it too.

    A stream that is gone (closed terminal, full disk) is ignored: saying something must not end the program.
    """

    def __init__(
        self,
        output: OutputSettings | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._output = output if output is not None else OutputSettings()
        self._recent: dict[tuple[str, str], list[float]] = {}
        self._stream = stream

    @property
    def verbosity(self) -> int:
        """-1 to 2."""
        return self._output.verbosity

    def error(self, event: str, text: str, **fields: object) -> None:
        """Something failed and the program, or what the user asked for, ends. Written even with -q."""
        self._write("error", event, text, fields)

    def warn(self, event: str, text: str, **fields: object) -> None:
        """Something is wrong and the program goes on. The same text again within a minute is counted, not written."""
        self._write("warning", event, text, fields, limited=True)

    def notice(self, event: str, text: str, **fields: object) -> None:
        """Something changed for the worse, e.g. the connection was lost. Never held back: the change is the news."""
        self._write("warning", event, text, fields)

    def info(self, event: str, text: str, **fields: object) -> None:
        """Something changed that the user wants to know without asking. Never held back."""
        self._write("info", event, text, fields)

    def detail(self, event: str, text: str, **fields: object) -> None:
        """Something for -v. No destinations of a person's traffic unless they asked for them."""
        self._write("detail", event, text, fields, limited=True)

    def debug(self, event: str, text: str, **fields: object) -> None:
        """Something for -vv."""
        self._write("debug", event, text, fields)

    def failure(self, event: str, error: BaseException, text: str = "") -> None:
        """An error that should not have happened: one line, and the traceback at -vv only."""
        line = f"{text}: " if text else ""
        self._write(
            "error", event, f"{line}internal error ({type(error).__name__}: {error}); run with -vv for more", {}
        )
        if self.verbosity >= 2:
            # Masked before it is cut into lines: a key has several.
            for part in redact("".join(traceback.format_exception(error))).rstrip().splitlines():
                self._write("debug", event, part, {})

    def flush(self) -> None:
        """Write the counts of lines that are still being held back. Call it before the program ends."""
        with self._lock:
            for (event, text), state in list(self._recent.items()):
                if state[1] and state[2] <= self.verbosity:
                    self._emit("info", event, f"{text} ({state[1]:.0f} more times)", {})
            self._recent.clear()

    def _write(self, level: str, event: str, text: str, fields: dict[str, object], *, limited: bool = False) -> None:
        threshold = _LEVELS[level]
        if self.verbosity < threshold:
            return
        text = _clean(text)
        with self._lock:
            if limited:
                suffix = self._count(event, text, threshold)
                if suffix is None:
                    return
                text += suffix
            self._emit(level, event, text, fields)

    def _count(self, event: str, text: str, threshold: int) -> str | None:
        """None when the line is a repetition to hold back, otherwise what to add to it."""
        now = self._clock()
        key = (event, text)
        # [when last written, how often held back since, threshold]
        state = self._recent.pop(key, None)
        if state is not None and 0 <= now - state[0] < REPEAT_INTERVAL:
            state[1] += 1
            self._recent[key] = state
            return None
        if len(self._recent) >= MAX_REMEMBERED:
            del self._recent[next(iter(self._recent))]
        self._recent[key] = [now, 0, threshold]
        return f" ({state[1]:.0f} more times since)" if state is not None and state[1] else ""

    def _emit(self, level: str, event: str, text: str, fields: dict[str, object]) -> None:
        if self._output.log_format == "json":
            line = self._json(level, event, text, fields)
        else:
            line = f"quicsocks: {'' if level in ('info', 'detail', 'debug') else level + ': '}{text}"
        stream = self._stream if self._stream is not None else sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody is listening, and there is nowhere else to say so

    def _json(self, level: str, event: str, text: str, fields: dict[str, object]) -> str:
        when = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        record: dict[str, object] = {"time": when.replace("+00:00", "Z"), "level": level, "event": event, "text": text}
        for name, value in fields.items():
            if name in _SECRET_FIELDS:
                record[name] = "***"
            elif value is None or isinstance(value, (bool, int, float)):
                record[name] = value
            else:
                record[name] = _clean(str(value))
        return json.dumps(record, ensure_ascii=True, allow_nan=False, default=str)


def redact(text: str) -> str:
    """Text with everything masked that looks like a secret of ours."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def route_library_logs(events: Events) -> None:
    """Send what the libraries log to events at -vv, and nowhere otherwise. Call once, before they are used."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if events.verbosity >= 2:
        root.addHandler(_LibraryHandler(events))
        root.setLevel(logging.INFO)
    else:
        root.addHandler(logging.NullHandler())
        # Above CRITICAL: records are not even made.
        root.setLevel(logging.CRITICAL + 1)


class _LibraryHandler(logging.Handler):
    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.debug(record.name, f"{record.name}: {record.getMessage()}")
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._events.failure(record.name, record.exc_info[1])


def _clean(text: str) -> str:
    """One printable line without secrets."""
    text = redact(text)
    if len(text) > MAX_LINE:
        text = text[:MAX_LINE] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
