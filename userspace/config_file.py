"""A configuration file: read, checked for unknown and misplaced keys, variables in it replaced, every value with its line.

TOML, or JSON when the name ends in .json. ``version = 1`` is required, so that a later format can be told apart. An
unknown key is an error that names file, line and the nearest right key: a misspelt limit or rule must not be dropped in
silence. All errors of a file are collected, so that ``quicsocks check`` can list them together. What the values mean is
``config``'s business.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config_positions import Positions, json_positions, toml_positions
from .config_schema import (
    CLIENT_SETTINGS,
    COMMON_SETTINGS,
    CONCENTRATOR_SETTINGS,
    EXIT_SETTING,
    LINK_SETTING,
    Kind,
    Setting,
)
from .link import is_name
from .spelling import nearest
from .state import StateError, is_handed_in, reason

FORMAT_VERSION = 1
MAX_FILE = 1 << 20
"""Bytes of a configuration file: ten thousand rules."""
MAX_ERRORS = 20
"""Errors that are listed at once."""

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))?")


class ConfigError(StateError):
    """The configuration cannot be used. errors: one line each; ``str`` joins them."""

    def __init__(self, *errors: str) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as it was written, and where: a file and line, a variable, or a flag."""

    value: Any = field(repr=False)
    source: str
    base: Path | None = None


Layer = dict[str, Entry]
"""Entries by setting key; ``link_file`` and the like under their own keys."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's content by section. All empty when there is no file."""

    path: Path | None = None
    common: Layer = field(default_factory=dict)
    client: Layer = field(default_factory=dict)
    concentrator: Layer = field(default_factory=dict)
    exits: dict[str, Layer] = field(default_factory=dict)


def load(path: Path, environ: Mapping[str, str]) -> ConfigFile:
    """Read and check a file. environ: for ``$NAME`` in its texts. Raises ConfigError."""
    text, mode = _read(path)
    document, positions = _parse(path, text)
    return _Reader(path, positions, environ, mode).read(document)


def default_path(environ: Mapping[str, str]) -> Path | None:
    """The file that is read when none is named, if it exists."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = f"{home}/.config"
    for name in ("config.toml", "config.json"):
        path = Path(base) / "quicsocks" / name
        if path.is_file():
            return path
    return None


class _Reader:
    def __init__(self, path: Path, positions: Positions, environ: Mapping[str, str], mode: int) -> None:
        self._environ = environ
        self._errors: list[str] = []
        self._mode = mode
        self._path = path
        self._positions = positions

    def read(self, document: dict[str, Any]) -> ConfigFile:
        self._version(document)
        sections = {"version", "client", "concentrator", "exit"}
        common = {key: value for key, value in document.items() if key not in sections}
        file = ConfigFile(
            path=self._path,
            common=self._section(common, (), (*COMMON_SETTINGS, EXIT_SETTING), sections),
            client=self._table(document, "client", CLIENT_SETTINGS),
            concentrator=self._table(document, "concentrator", CONCENTRATOR_SETTINGS),
            exits=self._exits(document),
        )
        if self._errors:
            shown = self._errors[:MAX_ERRORS]
            if len(self._errors) > MAX_ERRORS:
                shown.append(f"{self._path}: and {len(self._errors) - MAX_ERRORS} more errors")
            raise ConfigError(*shown)
        return file

    def _version(self, document: dict[str, Any]) -> None:
        version = document.get("version")
        if "version" not in document:
            self._error((), "the key version is missing; write: version = 1", line=1)
        elif version != FORMAT_VERSION or isinstance(version, (bool, float)):
            self._error(("version",), f"this program reads version = {FORMAT_VERSION} only")

    def _exits(self, document: dict[str, Any]) -> dict[str, Layer]:
        exits = document.get("exit", {})
        if not isinstance(exits, dict):
            self._error(("exit",), "exits are tables such as [exit.home]; the key that names one is default_exit")
            return {}
        found = {}
        for name, table in exits.items():
            if not is_name(name):
                self._error(("exit", name), f"{name!r} cannot be an exit's name; use letters, digits, '.', '_' and '-'")
            elif not isinstance(table, dict):
                self._error(("exit", name), f"an exit is a table: [exit.{name}]")
            else:
                found[name] = self._section(table, ("exit", name), (LINK_SETTING, *CLIENT_SETTINGS), ())
        return found

    def _table(self, document: dict[str, Any], name: str, settings: tuple[Setting, ...]) -> Layer:
        table = document.get(name, {})
        if not isinstance(table, dict):
            self._error((name,), f"{name} must be a table: [{name}]")
            return {}
        return self._section(table, (name,), settings, ())

    def _section(
        self, table: dict[str, Any], place: tuple[str, ...], settings: tuple[Setting, ...], also: Iterable[str]
    ) -> Layer:
        """Entries of one section. Sub-tables (``limits``) are flattened to dotted keys."""
        known = {setting.key: setting for setting in settings}
        names = {setting.key for setting in settings}
        names |= {f"{setting.key}_file" for setting in settings if setting.is_secret}
        groups = {key.partition(".")[0] for key in names if "." in key}
        layer: Layer = {}
        for key, value in _flatten(table, groups):
            where = (*place, *key.split(".")) if key in names else (*place, *_longest(key, groups))
            if key not in names:
                self._unknown(where, key, names | groups | set(also), place)
                continue
            value = self._expand(value, where)
            layer[key] = Entry(value, f"{self._path}:{self._line(where)}: {key}", self._path.parent)
            setting = known.get(key)
            if setting is not None and self._holds_secret(setting, value):
                self._require_private(where, key, setting)
        return layer

    def _unknown(self, where: tuple[str, ...], key: str, names: set[str], place: tuple[str, ...]) -> None:
        if key in {name.partition(".")[0] for name in names if "." in name}:
            self._error(where, f"{key} must be a table: [{'.'.join((*place, key))}]")
            return
        near = nearest(key, sorted(names))
        home = _home_of(key)
        if home is not None:
            hint = f"; it belongs into {_shown_place(home)}"
        elif near:
            hint = f"; did you mean {near}?"
        else:
            hint = f"; the keys here are: {', '.join(sorted(names))}"
        self._error(where, f"unknown key {key}{f' in [{chr(46).join(place)}]' if place else ''}{hint}")

    def _expand(self, value: Any, where: tuple[str | int, ...]) -> Any:
        """``$NAME`` and ``${NAME}`` in texts, also in lists; ``$$`` is a dollar sign."""
        if isinstance(value, list):
            return [self._expand(item, (*where, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value

        def replace(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if match[0] == "$$":
                return "$"
            if name is None:
                self._error(where, "a dollar sign that is no variable is written $$")
                return ""
            if name not in self._environ:
                self._error(where, f"the variable ${name} is not set (a dollar sign itself is written $$)")
                return ""
            return self._environ[name]

        return _VARIABLE.sub(replace, value)

    def _holds_secret(self, setting: Setting, value: Any) -> bool:
        if setting.is_secret:
            # A proxy without a password is no secret.
            return setting.key != "upstream" or (isinstance(value, str) and "@" in value)
        if setting.kind is Kind.LISTEN:
            return any(
                isinstance(item, str) and "://" in item for item in (value if isinstance(value, list) else [value])
            )
        return False

    def _require_private(self, where: tuple[str, ...], key: str, setting: Setting) -> None:
        if self._mode & 0o077:
            other = f", or give it with {key}_file" if setting.is_secret else ""
            self._error(
                where, f"{key} is a secret, but other users can read this file; run: chmod 600 {self._path}{other}"
            )

    def _line(self, where: tuple[str | int, ...]) -> int:
        for length in range(len(where), 0, -1):
            if where[:length] in self._positions:
                return self._positions[where[:length]]
        return 1

    def _error(self, where: tuple[str | int, ...], message: str, line: int | None = None) -> None:
        self._errors.append(f"{self._path}:{line if line is not None else self._line(where)}: {message}")


def _read(path: Path) -> tuple[str, int]:
    """Text and mode. The mode counts as private where a service or container manager keeps others out."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {reason(error)}") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"the configuration {path} is larger than {MAX_FILE >> 20} MiB")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file is not UTF-8") from None
    private = not stat.S_ISREG(info.st_mode) or is_handed_in(path)
    return text, 0o600 if private else info.st_mode & 0o777


def _load_toml(path: Path, text: str) -> dict[str, Any]:
    import tomllib  # Most start without such a file, and would keep its parser.

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _toml_error(str(error), text)
        raise ConfigError(f"{path}:{line}: not valid TOML: {message}") from None


def _parse(path: Path, text: str) -> tuple[dict[str, Any], Positions]:
    try:
        if path.suffix == ".json":
            document = json.loads(text, object_pairs_hook=_no_duplicates)
            positions = json_positions(text)
        else:
            document = _load_toml(path, text)
            positions = toml_positions(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg.lower()}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}:1: the file must hold one object")
    return document, positions


def _toml_error(message: str, text: str) -> tuple[str, int]:
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if match is None:
        return message, 1
    line = int(match[1]) if match[1] else text.rstrip("\n").count("\n") + 1
    message = message[: match.start()]
    return message[:1].lower() + message[1:], line


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key} stands there twice")
        found[key] = value
    return found


def _flatten(table: dict[str, Any], groups: set[str]) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if key in groups and isinstance(value, dict):
            for inner, inner_value in value.items():
                yield f"{key}.{inner}", inner_value
        else:
            yield key, value


def _longest(key: str, groups: set[str]) -> tuple[str, ...]:
    group, dot, rest = key.partition(".")
    return (group, rest) if dot and group in groups else (key,)


def _home_of(key: str) -> tuple[str, ...] | None:
    """The section in which a key would be right."""
    for place, settings in (
        ((), COMMON_SETTINGS),
        (("client",), CLIENT_SETTINGS),
        (("concentrator",), CONCENTRATOR_SETTINGS),
        (("exit", "NAME"), (LINK_SETTING,)),
    ):
        if any(key in (setting.key, f"{setting.key}_file") for setting in settings):
            return place
    return None


def _shown_place(place: tuple[str, ...]) -> str:
    return f"[{'.'.join(place)}]" if place else "the top of the file, before the first [table]"
