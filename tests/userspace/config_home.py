"""A machine on which settings are put together: its home folder, variables, saved links and configuration file.

Given to tests by ``conftest``. It looks at nothing outside the folder that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace.config import ConfigError, Options, client_settings, concentrator_settings
from quicsocks.userspace.link import Link, base64url
from quicsocks.userspace.profiles import LinkStore
from quicsocks.userspace.settings import ClientSettings, ConcentratorSettings

from .support import PIN, TOKEN

OTHER = Link(host="other.example", pins=(PIN,), name="office")


class Home:
    """A machine: home folder, variables, saved links, a configuration file."""

    def __init__(self, path: Path) -> None:
        self.environ = {"HOME": str(path)}
        self.path = path
        self.store = LinkStore(path / ".local/state/quicsocks")

    def file(self, text: str, name: str = "config.toml") -> Path:
        path = self.path / ".config/quicsocks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("version = 1\n" + text)
        path.chmod(0o600)
        return path

    def private(self, name: str, text: str) -> Path:
        path = self.path / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def options(self, flags: dict[str, Any] | None = None, stdin: str = "", **environ: str) -> Options:
        return Options(flags or {}, {**self.environ, **environ}, lambda: stdin)

    def client(
        self, argument: str | None = None, flags: dict[str, Any] | None = None, stdin: str = "", **environ: str
    ) -> ClientSettings:
        return client_settings(self.options(flags, stdin, **environ), argument)[0]

    def concentrator(self, flags: dict[str, Any] | None = None, **environ: str) -> ConcentratorSettings:
        return concentrator_settings(self.options(flags, **environ))[0]

    def complaints(self, action: Callable[..., Any], *arguments: Any, **rest: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            action(*arguments, **rest)
        for error in caught.value.errors:
            assert "\n" not in error
            assert base64url(TOKEN) not in error
        return [
            error.replace(f"{self.path}/.config/quicsocks/", "").replace(str(self.path), "~")
            for error in caught.value.errors
        ]
