"""``quicsocks check``: is a configuration file right?"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..config import check_file
from ..config_file import default_path
from ..config_layers import CONFIG_VARIABLE
from .parser import Commands, UsageError, add_command


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "check",
        "check a configuration file",
        "Check a configuration file: unknown keys, wrong values, missing variables. Says nothing but 'ok' when it is right.",
        "quicsocks check /etc/quicsocks/config.toml",
        handler=_check,
    )
    parser.add_argument("_file", metavar="FILE", nargs="?", help="the file (default: the one that run would read)")
    parser.add_argument("-c", "--config", metavar="FILE", dest="_config", help="the same, as other commands take it")


def _check(arguments: argparse.Namespace) -> int:
    if arguments._file and arguments._config:
        raise UsageError("the file is named twice; name it once: quicsocks check FILE")
    named = arguments._file or arguments._config or os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else default_path(os.environ)
    if path is None:
        raise UsageError("there is no configuration file; name one: quicsocks check FILE")
    errors = check_file(path, os.environ)
    for error in errors:
        print(f"quicsocks: {error}", file=sys.stderr)
    if not errors:
        print(f"{path}: ok")
    return 1 if errors else 0
