"""``quicsocks demo``: the main job on this machine."""

from __future__ import annotations

import argparse

from .parser import Commands, add_command


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "demo",
        "show the main job on this machine",
        "Start an origin, a concentrator and a client on this machine, fetch through them with curl, and stay up.",
        "quicsocks demo --once",
        handler=_demo,
    )
    parser.add_argument("--once", action="store_true", dest="_once", help="exit when it has been shown")


def _demo(arguments: argparse.Namespace) -> int:
    from ..demo import run

    return run(once=arguments._once)
