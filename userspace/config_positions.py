"""Where in a configuration file each key stands, so that an error can name its line.

tomllib and json give values without positions. These scanners run over text that one of them has already accepted, so
they recognise structure only and check nothing; on text that was not accepted they may raise any ValueError or
IndexError. A position is found under the key's path: names, and indices inside arrays, e.g. ("exit", "home", "listen", 0).
Read first: TOML 1.0.0 (toml.io), RFC 8259.
"""

from __future__ import annotations

import json
import re

Path = tuple[str | int, ...]
Positions = dict[Path, int]
"""Lines, counted from 1. A table that is opened several times has its first line."""


def toml_positions(text: str) -> Positions:
    """The line of every key, table and array element of a valid TOML document."""
    return _TomlScanner(text).scan()


def json_positions(text: str) -> Positions:
    """The line of every key and array element of a valid JSON document."""
    return _JsonScanner(text).scan()


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TOML_BLANK = re.compile(r"[ \t]*")
_TOML_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_TOML_SCALAR = re.compile(r"[^\s,\]}#]+(?:[ ][0-9][^\s,\]}#]*)?")  # a date and a time may have one space between
_JSON_SPACE = re.compile(r"[ \t\r\n]*")
_JSON_SCALAR = re.compile(r"[^\s,\]}]+")


class _Scanner:
    def __init__(self, text: str) -> None:
        self._counted_to = 0
        self._line = 1
        self._position = 0
        self._positions: Positions = {}
        self._text = text

    def _note(self, path: Path) -> None:
        """Remember that path begins here. Positions come in rising order, so that lines are counted once."""
        self._line += self._text.count("\n", self._counted_to, self._position)
        self._counted_to = self._position
        self._positions.setdefault(path, self._line)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._position)
        assert match is not None
        self._position = match.end()

    def _at(self, prefix: str) -> bool:
        return self._text.startswith(prefix, self._position)


class _TomlScanner(_Scanner):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._arrays: dict[Path, int] = {}

    def scan(self) -> Positions:
        table: Path = ()
        while True:
            self._skip(_TOML_SPACE)
            if self._position >= len(self._text):
                return self._positions
            if self._at("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        """``[a.b]`` or ``[[a.b]]``: the path of the table that it opens."""
        start = self._position
        array = self._at("[[")
        self._position += 2 if array else 1
        names = self._key()
        self._skip(_TOML_BLANK)
        end = self._position + (2 if array else 1)
        path: Path = ()
        self._position = start
        for index, name in enumerate(names):
            path = (*path, name)
            self._note(path)
            last = index == len(names) - 1
            if array and last:
                count = self._arrays.get(path, 0)
                self._arrays[path] = count + 1
                path = (*path, count)
                self._note(path)
            elif path in self._arrays:
                # A table below an array of tables belongs to its newest element.
                path = (*path, self._arrays[path] - 1)
        self._position = end
        return path

    def _pair(self, table: Path) -> None:
        """``a.b = value``."""
        start = self._position
        names = self._key()
        after_key = self._position
        self._position = start
        path = table
        for name in names:
            path = (*path, name)
            self._note(path)
        self._position = after_key
        self._skip(_TOML_BLANK)
        assert self._at("=")
        self._position += 1
        self._skip(_TOML_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip(_TOML_BLANK)
            if self._at('"') or self._at("'"):
                names.append(self._string())
            else:
                match = _BARE_KEY.match(self._text, self._position)
                if match is None:
                    raise ValueError(f"no key at offset {self._position}")
                names.append(match[0])
                self._position = match.end()
            self._skip(_TOML_BLANK)
            if not self._at("."):
                return names
            self._position += 1

    def _value(self, path: Path) -> None:
        if self._at('"') or self._at("'"):
            self._string()
        elif self._at("["):
            self._array(path)
        elif self._at("{"):
            self._inline_table(path)
        else:
            self._skip(_TOML_SCALAR)

    def _array(self, path: Path) -> None:
        self._position += 1
        index = 0
        while True:
            self._skip(_TOML_SPACE)
            if self._at("]"):
                self._position += 1
                return
            self._note((*path, index))
            self._value((*path, index))
            index += 1
            self._skip(_TOML_SPACE)
            if self._at(","):
                self._position += 1

    def _inline_table(self, path: Path) -> None:
        self._position += 1
        while True:
            # TOML 1.1 allows line breaks here; tomllib decides, we only follow.
            self._skip(_TOML_SPACE)
            if self._at("}"):
                self._position += 1
                return
            self._pair(path)
            self._skip(_TOML_SPACE)
            if self._at(","):
                self._position += 1

    def _string(self) -> str:
        """Skip a string of any of the four kinds; its text is exact for one-line strings, which keys are."""
        quote = self._text[self._position]
        if self._at(quote * 3):
            return self._long_string(quote)
        start = self._position
        self._position += 1
        while not self._at(quote):
            self._position += 2 if quote == '"' and self._at("\\") else 1
            if self._position >= len(self._text):
                raise ValueError("unterminated string")
        self._position += 1
        inside = self._text[start + 1 : self._position - 1]
        if quote == "'" or "\\" not in inside:
            return inside
        return _unescape(inside)

    def _long_string(self, quote: str) -> str:
        self._position += 3
        while not self._at(quote * 3):
            self._position += 2 if quote == '"' and self._at("\\") else 1
            if self._position >= len(self._text):
                raise ValueError("unterminated string")
        self._position += 3
        # Up to two quotes may stand right before the closing three.
        while self._at(quote):
            self._position += 1
        return ""


class _JsonScanner(_Scanner):
    def scan(self) -> Positions:
        self._skip(_JSON_SPACE)
        self._value(())
        return self._positions

    def _value(self, path: Path) -> None:
        if self._at("{"):
            self._members(path, "}")
        elif self._at("["):
            self._members(path, "]")
        elif self._at('"'):
            _, self._position = self._json_string()
        else:
            self._skip(_JSON_SCALAR)

    def _json_string(self) -> tuple[str, int]:
        """The string here, and where it ends."""
        text, end = json.JSONDecoder(strict=False).raw_decode(self._text, self._position)
        return str(text), end

    def _members(self, path: Path, closing: str) -> None:
        self._position += 1
        index = 0
        while True:
            self._skip(_JSON_SPACE)
            if self._at(closing):
                self._position += 1
                return
            name: str | int = index
            start = self._position
            if closing == "}":
                name, after = self._json_string()
                self._position = start
                self._note((*path, name))
                self._position = after
                self._skip(_JSON_SPACE)
                assert self._at(":")
                self._position += 1
                self._skip(_JSON_SPACE)
            else:
                self._note((*path, name))
            self._value((*path, name))
            index += 1
            self._skip(_JSON_SPACE)
            if self._at(","):
                self._position += 1


def _unescape(text: str) -> str:
    # TOML's escapes are JSON's and \UXXXXXXXX (and \e, \xHH from 1.1 on).
    text = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda m: json.dumps(chr(int(m[1], 16)))[1:-1], text)
    return str(json.loads(f'"{text}"', strict=False))
