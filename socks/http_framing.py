"""Strict guards in front of h11: where a message's head ends, what frames its body, where that body ends.

Read RFC 9112 §2.2, §5, §6.3, §7.1 and §11.2. h11 is right about well-formed messages, and forgiving where
forgiving is dangerous for an intermediary: it joins folded lines, ends lines at a bare LF, and lets Transfer-Encoding
win over Content-Length. Two programs that frame the same bytes differently can be made to see different messages
("request smuggling"); so whatever could be read in two ways is refused here before h11 sees it. Sans-IO.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .errors import PeerError

MAX_FIELDS: Final = 256
"""Header fields of a message: Apache takes 100, nginx as many as fit; each costs us some microseconds."""

MAX_CHUNK_LINE: Final = 1024
"""Bytes of a chunk's size and extensions. Nobody uses extensions; long ones have served to exhaust servers."""

_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class BodyKind(enum.Enum):
    """RFC 9112 §6.3: how a receiver finds the end of a body."""

    NONE = enum.auto()
    LENGTH = enum.auto()
    CHUNKED = enum.auto()
    UNTIL_CLOSE = enum.auto()


@dataclass(frozen=True, slots=True)
class Framing:
    """length: bytes of the body, for LENGTH only; under 10**18."""

    kind: BodyKind
    length: int = 0


class HeadGuard:
    """Finds the end of a head, line by line, and refuses lines that could be read in two ways. One per head.

    what: "request" or "response", for messages. status: what PeerError carries for bad syntax. limit: bytes.
    """

    def __init__(self, what: str, status: int, limit: int) -> None:
        self._what = what
        self._status = status
        self._limit = limit
        self._position = 0
        self._lines = 0

    def scan(self, buffer: bytearray) -> int:
        """How many bytes at the start of buffer are the head, with its empty line; 0 while it is incomplete.

        buffer must be the same from call to call, with bytes only added. Raises PeerError.
        """
        while (newline := buffer.find(b"\n", self._position, self._limit)) >= 0:
            line = bytes(buffer[self._position : newline])
            if not line.endswith(b"\r"):
                raise self._bad("a line that ends in a bare LF")
            line = line[:-1]
            if b"\r" in line or b"\0" in line:
                raise self._bad("a bare CR or a NUL")
            self._position = newline + 1
            if not line:
                if self._lines == 0:
                    raise self._bad("an empty line where its first line should be")
                return self._position
            if self._lines > 0:
                self._check_field(line)
            self._lines += 1
        if len(buffer) >= self._limit:
            raise self._too_large(f"longer than {self._limit} bytes")
        return 0

    def _check_field(self, line: bytes) -> None:
        if line[0] in b" \t":
            raise self._bad("a folded header line")
        if _FIELD.fullmatch(line) is None:
            raise self._bad("a malformed header line")
        if self._lines > MAX_FIELDS:
            raise self._too_large(f"of more than {MAX_FIELDS} fields")

    def _bad(self, what: str) -> PeerError:
        return PeerError(f"the {self._what} has {what}", status=self._status)

    def _too_large(self, what: str) -> PeerError:
        return PeerError(f"the {self._what} has a head {what}", status=431 if self._status == 400 else self._status)


class ChunkGuard:
    """Follows chunked framing strictly (RFC 9112 §7.1) and finds its end. One per body.

    padded: allow blanks after a chunk's size, which some servers write. limit: bytes of the trailer section.
    """

    def __init__(self, status: int, limit: int, *, padded: bool) -> None:
        self._status = status
        self._limit = limit
        self._padded = padded
        self._line = bytearray()
        self._data_left = 0
        self._after_data = b""
        self._trailer_size = 0
        self._in_trailer = False
        self.complete = False

    def follow(self, data: bytes | bytearray) -> int:
        """How many bytes at the start of data, the next of the body, belong to it. Raises PeerError."""
        position = 0
        while position < len(data) and not self.complete:
            if self._data_left:
                step = min(self._data_left, len(data) - position)
                self._data_left -= step
                position += step
                if self._data_left == 0:
                    self._after_data = b"\r\n"
            elif self._after_data:
                if data[position] != self._after_data[0]:
                    raise self._bad("a chunk without CRLF after its data")
                self._after_data = self._after_data[1:]
                position += 1
            else:
                position = self._follow_line(data, position)
        return position

    def _follow_line(self, data: bytes | bytearray, position: int) -> int:
        newline = data.find(b"\n", position)
        end = len(data) if newline < 0 else newline + 1
        self._line += data[position:end]
        limit = self._limit if self._in_trailer else MAX_CHUNK_LINE
        if len(self._line) + self._trailer_size > limit:
            raise self._bad("an overlong trailer section" if self._in_trailer else "an overlong chunk header")
        if newline >= 0:
            line = bytes(self._line)
            self._line.clear()
            if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
                raise self._bad("a bare CR or LF in its chunked framing")
            self._take_line(line[:-2])
        return end

    def _take_line(self, line: bytes) -> None:
        if not self._in_trailer:
            match = _CHUNK.fullmatch(line.rstrip(b" \t") if self._padded else line)
            if match is None:
                raise self._bad("a malformed chunk size")
            self._data_left = int(match[1], 16)
            self._in_trailer = self._data_left == 0
        elif not line:
            self.complete = True
        else:
            self._trailer_size += len(line) + 2
            if _FIELD.fullmatch(line) is None:
                raise self._bad("a malformed trailer line")

    def _bad(self, what: str) -> PeerError:
        return PeerError(f"the body has {what}", status=self._status)


def framing_of(headers: Iterable[tuple[bytes, bytes]], version: bytes, status: int) -> Framing | None:
    """What the framing fields of a message say, None when there are none. headers: names in any case.

    Raises PeerError with status for all that RFC 9112 §6.1 and §6.3 call faulty or leave to the reader: both fields,
    values that differ, any coding but exactly chunked, Transfer-Encoding in HTTP/1.0, signs and lists in a length.
    """
    lengths = {value for name, value in headers if name.lower() == b"content-length"}
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings:
        if lengths:
            raise PeerError("the message has both Content-Length and Transfer-Encoding", status=status)
        if version != b"1.1":
            raise PeerError("the message has Transfer-Encoding in HTTP/1.0", status=status)
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise PeerError("the message has a Transfer-Encoding other than exactly chunked", status=status)
        return Framing(BodyKind.CHUNKED)
    if not lengths:
        return None
    if len(lengths) != 1:
        raise PeerError("the message has several different Content-Length fields", status=status)
    (length,) = lengths
    if _LENGTH.fullmatch(length) is None:
        raise PeerError("the message has a malformed Content-Length", status=status)
    return Framing(BodyKind.LENGTH, int(length))
