"""``quicsocks completion``: completion for shells."""

from __future__ import annotations

import argparse

from ..completion import SHELLS, script
from .parser import Commands, add_command, build_parser


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "completion",
        "print completion for a shell",
        "Print a completion script for a shell.",
        "quicsocks completion bash > ~/.local/share/bash-completion/completions/quicsocks",
        handler=_completion,
    )
    parser.add_argument("_shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def _completion(arguments: argparse.Namespace) -> int:
    print(script(build_parser(), arguments._shell))
    return 0
