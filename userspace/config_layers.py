"""Settings in layers: flags, environment, sections of a file. The first layer that has a setting wins.

``Resolver`` finds each setting of ``config_schema``, converts it by ``config_values``, remembers where it was written, and
collects everything that is wrong, so that a user sees all of it at once. Rules are the one exception: they add up, flags'
first, because a deny rule in a file must not vanish behind a flag.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import config_values
from .config_file import ConfigError, ConfigFile, Entry, Layer, default_path, load
from .config_schema import (
    CLIENT_SETTINGS,
    COMMON_SETTINGS,
    CONCENTRATOR_SETTINGS,
    EXIT_SETTING,
    LINK_SETTING,
    Kind,
    Scope,
    Setting,
)
from .link import MAX_LINK
from .settings import Rule
from .spelling import nearest
from .state import StateError, read_private

PREFIX = "QUICSOCKS_"
CONFIG_VARIABLE = "QUICSOCKS_CONFIG"
_USUAL_VARIABLES = {"keylog": "SSLKEYLOGFILE", "qlog_dir": "QLOGDIR"}
"""What other programs with TLS and QUIC read, by our key: browsers, and those that follow qlog's draft (§11)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a command was started with. flags: by setting key, only those given. environ: the process's variables.

    read_stdin: reads a link from standard input, for ``-``.
    """

    flags: Mapping[str, Any] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    read_stdin: Callable[[], str] = lambda: sys.stdin.read(MAX_LINK + 1)


class Resolver:
    """Finds each setting in the first layer that has it, converts it, and collects what is wrong."""

    def __init__(self, options: Options, file: ConfigFile | None = None) -> None:
        self._environ = options.environ
        self._found: dict[str, tuple[str, str]] = {}
        self.errors: list[str] = []
        self.options = options
        self.read_secrets = True
        self.remarks: list[str] = []
        self.file = file if file is not None else self._load()
        if file is None:
            self._remark_unknown_variables()

    def values(self, settings: Sequence[Setting], file_layers: Sequence[Layer]) -> dict[str, Any]:
        """Converted values by the attribute that they set; only those that are set somewhere."""
        found: dict[str, Any] = {}
        for setting in settings:
            layers = [("user", self.flag_layer(setting)), ("user", self.variable_layer(setting))]
            layers += [("file", layer) for layer in file_layers]
            if setting.kind is Kind.RULES:
                rules = self._rules(setting, [layer for _, layer in layers])
                if rules:
                    found[setting.attribute] = rules
                continue
            for kind, layer in layers:
                entry = self._pick(setting, layer)
                if entry is None:
                    continue
                self._found[setting.key] = (kind, entry.source)
                value = self._convert(setting, entry)
                if value is not None:
                    found[setting.attribute] = value
                break
        return found

    def secret(self, setting: Setting, layer: Layer) -> Entry | None:
        """A secret of one layer, given itself or as a file to read."""
        inline, named = layer.get(setting.key), layer.get(f"{setting.key}_file")
        if inline is not None and named is not None:
            self.errors.append(f"{inline.source}: {setting.key} and {setting.key}_file are both given; keep one")
            return None
        if named is None:
            return inline
        if not self.read_secrets:
            return None
        try:
            path = config_values.path(checked_text(named.value), named.base)
            data = read_private(path, what=f"{setting.key} file").decode("utf-8")
        except FileNotFoundError:
            self.errors.append(f"{named.source}: there is no file {named.value}")
            return None
        except UnicodeDecodeError:
            self.errors.append(f"{named.source}: the file {named.value} is not text")
            return None
        except (StateError, ValueError) as error:
            self.errors.append(f"{named.source}: {error}")
            return None
        # One line end is the editor's, not the secret's.
        return Entry(data.removesuffix("\n").removesuffix("\r"), named.source)

    def source_of(self, key: str) -> str | None:
        """ "user" for flags and environment, "file", or None for a default."""
        return self._found[key][0] if key in self._found else None

    def where(self, key: str) -> str:
        """Where a setting was written."""
        return self._found[key][1] if key in self._found else key

    def attempt(self, action: Callable[[], Any]) -> Any:
        """The result of action, or None with its StateError among the errors."""
        try:
            return action()
        except StateError as error:
            self.errors.append(str(error))
            return None

    def finish(self) -> None:
        """Raise ConfigError when something was wrong."""
        if self.errors:
            raise ConfigError(*dict.fromkeys(self.errors))

    def _load(self) -> ConfigFile:
        named = self.options.flags.get("config", self._environ.get(CONFIG_VARIABLE))
        if named is None:
            path = default_path(self._environ)
            return load(path, self._environ) if path is not None else ConfigFile()
        return load(config_values.path(str(named)), self._environ) if named else ConfigFile()

    def flag_layer(self, setting: Setting) -> Layer:
        """What flags say of a setting."""
        layer: Layer = {}
        flags = self.options.flags
        for key in (setting.key, f"{setting.key}_file"):
            if key in flags and (key == setting.key or setting.is_secret):
                option = setting.option + ("-file" if key != setting.key else "")
                layer[key] = Entry(flags[key], option or setting.key)
        if setting.key in layer and _shows_password(setting, layer[setting.key].value):
            remark = f"{setting.option}: a password on the command line can be seen by other users; "
            remark += f"use {setting.variable} or the configuration file"
            if remark not in self.remarks:
                self.remarks.append(remark)
        return layer

    def variable_layer(self, setting: Setting) -> Layer:
        layer: Layer = {}
        if setting.variable in self._environ:
            layer[setting.key] = Entry(self._environ[setting.variable], f"${setting.variable}")
        elif (usual := _USUAL_VARIABLES.get(setting.key)) is not None and self._environ.get(usual):
            layer[setting.key] = Entry(self._environ[usual], f"${usual}")
        if setting.is_secret and f"{setting.variable}_FILE" in self._environ:
            name = f"{setting.variable}_FILE"
            layer[f"{setting.key}_file"] = Entry(self._environ[name], f"${name}")
        return layer

    def _pick(self, setting: Setting, layer: Layer) -> Entry | None:
        return self.secret(setting, layer) if setting.is_secret else layer.get(setting.key)

    def _convert(self, setting: Setting, entry: Entry) -> Any:
        try:
            return config_values.convert(setting, entry.value, entry.base)
        except ValueError as error:
            self.errors.append(f"{entry.source}: {error}")
            return None

    def _rules(self, setting: Setting, layers: Sequence[Layer]) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for layer in layers:
            entry = layer.get(setting.key)
            if entry is None:
                continue
            # Flags come as pairs; each was written as its own flag.
            pairs = entry.value if entry.source == setting.option else ()
            entries = [Entry([pair], f"--{pair[0]}") for pair in pairs] or [entry]
            for one in entries:
                rules.extend(Rule(rule.action, rule.pattern, one.source) for rule in self._convert(setting, one) or ())
        return tuple(rules)

    def _remark_unknown_variables(self) -> None:
        known = {CONFIG_VARIABLE}
        for setting in (*COMMON_SETTINGS, *CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS, EXIT_SETTING, LINK_SETTING):
            known.add(setting.variable)
            if setting.is_secret:
                known.add(f"{setting.variable}_FILE")
        for name in sorted(self._environ):
            if name.startswith(PREFIX) and name not in known:
                near = nearest(name, sorted(known), cutoff=0.85)
                if near:
                    self.remarks.append(f"the variable {name} is not known and ignored; did you mean {near}?")


def _shows_password(setting: Setting, value: object) -> bool:
    if setting.kind is Kind.LISTEN and setting.scope is Scope.CLIENT and isinstance(value, (list, tuple)):
        return any("://" in str(item) and ("@" in str(item) or "#" in str(item)) for item in value)
    return setting.key == "upstream" and "@" in str(value)


def checked_text(value: object) -> str:
    """value if it is text. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value
