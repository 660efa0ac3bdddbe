"""What people are told: one line an event, levels, formats, repeats held back, and never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.link import base64url
from quicsocks.userspace.log import MAX_LINE, REPEAT_INTERVAL, Events, redact, route_library_logs
from quicsocks.userspace.settings import OutputSettings

from .support import LINK, TOKEN


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def events(verbosity: int = 0, log_format: str = "text", clock: Clock | None = None) -> tuple[Events, io.StringIO]:
    stream = io.StringIO()
    return Events(OutputSettings(verbosity, log_format), stream, clock or Clock()), stream


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_one_line_an_event() -> None:
    out, stream = events()
    out.info("connected", "connected to gw.example.com:4433")
    out.error("listen", "cannot listen")
    assert stream.getvalue() == "quicsocks: connected to gw.example.com:4433\nquicsocks: error: cannot listen\n"


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [(-1, "e"), (0, "ewni"), (1, "ewnid"), (2, "ewnidx")],
)
def test_levels(verbosity: int, expected: str) -> None:
    out, stream = events(verbosity)
    out.error("1", "e")
    out.warn("2", "w")
    out.notice("3", "n")
    out.info("4", "i")
    out.detail("5", "d")
    out.debug("6", "x")
    assert "".join(line[-1] for line in stream.getvalue().splitlines()) == expected


def test_json() -> None:
    out, stream = events(log_format="json")
    out.info("connected", "connected", address="192.0.2.1:1", flows=3, nothing=None, odd=object, token=b"abc")
    record = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert record["time"] == "2027-01-15T08:00:00.000Z"
    assert (record["level"], record["event"], record["text"]) == ("info", "connected", "connected")
    assert (record["address"], record["flows"], record["nothing"], record["token"]) == ("192.0.2.1:1", 3, None, "***")


@given(st.text(), st.text())
def test_any_text_is_one_line(text: str, value: str) -> None:
    for log_format in ("text", "json"):
        out, stream = events(log_format=log_format)
        out.info("event", text, field=value)
        assert len(stream.getvalue().splitlines()) == 1
        assert stream.getvalue().removesuffix("\n").isprintable()
        if log_format == "json":
            json.loads(stream.getvalue())


def test_long_lines_are_cut() -> None:
    out, stream = events()
    out.info("event", "x" * (10 * MAX_LINE))
    assert len(stream.getvalue()) < MAX_LINE + 50


# Repeats.


def test_a_repeated_warning_is_counted_and_written_once_a_minute() -> None:
    clock = Clock()
    out, stream = events(clock=clock)
    for _ in range(5):
        out.warn("descriptors", "out of file descriptors")
    out.warn("descriptors", "something else")
    assert stream.getvalue().count("\n") == 2
    clock.now += REPEAT_INTERVAL
    out.warn("descriptors", "out of file descriptors")
    assert stream.getvalue().splitlines()[-1] == "quicsocks: warning: out of file descriptors (4 more times since)"


def test_changes_are_never_held_back() -> None:
    out, stream = events()
    for _ in range(3):
        out.notice("lost", "connection lost")
        out.info("connected", "connected")
    assert stream.getvalue().count("lost") == 3
    assert stream.getvalue().count("connected") == 3


def test_counts_are_not_lost_at_the_end() -> None:
    out, stream = events()
    for _ in range(4):
        out.warn("x", "again")
    out.flush()
    out.flush()
    assert stream.getvalue().splitlines() == ["quicsocks: warning: again", "quicsocks: again (3 more times)"]


def test_what_is_remembered_is_bounded() -> None:
    out, _ = events()
    for number in range(10_000):
        out.warn("x", f"text {number}")
    assert len(out._recent) <= 256


# Secrets.

SECRET = "s3cr3t-Passw0rd"
LEAKS = [
    LINK.uri,
    f"bad upstream socks5://user:{SECRET}@proxy.example:1080",
    f"ss://aes-256-gcm:{SECRET}@127.0.0.1:8388 and http://:{SECRET}@h/",
    f"Proxy-Authorization: Basic {SECRET}",
    f"authorization=Bearer {SECRET}",
    f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
]


@pytest.mark.parametrize("text", LEAKS)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_do_not_pass(text: str, log_format: str) -> None:
    out, stream = events(2, log_format)
    out.info("event", text, detail=text)
    out.warn("event", text)
    out.failure("event", ValueError(text))
    said = stream.getvalue()
    assert SECRET not in said
    assert base64url(TOKEN) not in said
    assert "***" in said


def test_secret_fields_are_masked_whatever_they_hold() -> None:
    out, stream = events(0, "json")
    for name in ("token", "password", "secret", "key", "private_key", "credentials", "authorization"):
        out.info("event", "text", **{name: SECRET})
    assert SECRET not in stream.getvalue()


def test_redaction_keeps_the_rest() -> None:
    assert (
        redact("via socks5://u:p@proxy.example:1080 and user@host")
        == "via socks5://***@proxy.example:1080 and user@host"
    )


# Failures and libraries.


def failing() -> ValueError:
    try:
        raise ValueError("boom")
    except ValueError as error:
        return error


def test_no_traceback_but_at_vv() -> None:
    out, stream = events(1)
    out.failure("x", failing(), "while serving")
    line = "quicsocks: error: while serving: internal error (ValueError: boom); run with -vv for more"
    assert stream.getvalue().splitlines() == [line]
    out, stream = events(2)
    out.failure("x", failing())
    assert "Traceback" in stream.getvalue()
    assert all(line.startswith("quicsocks: ") for line in stream.getvalue().splitlines())


@pytest.mark.parametrize(("verbosity", "heard"), [(0, False), (1, False), (2, True)])
def test_libraries_are_heard_at_vv_only(verbosity: int, heard: bool, root_logger: logging.Logger) -> None:
    out, stream = events(verbosity)
    route_library_logs(out)
    logging.getLogger("quic").warning("[abc] something %s", LINK.uri)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("asyncio").exception("unhandled")
    assert bool(stream.getvalue()) == heard
    assert ("something" in stream.getvalue()) == heard
    assert base64url(TOKEN) not in stream.getvalue()


def test_a_stream_that_is_gone_ends_nothing() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Events(OutputSettings(), Broken()).info("x", "y")
    closed = io.StringIO()
    closed.close()
    Events(OutputSettings(), closed).info("x", "y")
    assert closed.closed
