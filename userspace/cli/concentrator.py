"""``quicsocks concentrator``: the far end."""

from __future__ import annotations

import argparse

from ..config import concentrator_settings
from ..config_schema import CONCENTRATOR_SETTINGS
from .parser import Commands, add_command, add_common, add_settings, options_of
from .program import run_program, say_remarks


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "concentrator",
        "be the far end: take clients' connections and dial for them",
        "Take clients' connections and dial for them. Needs no root. The first start makes a key and a first client's link.",
        "quicsocks concentrator --listen 4433 --public-name gw.example.com --deny '*:25'\n"
        "limits: --limit-...; all settings: docs/configuration.md",
        handler=_run,
    )
    parser.usage = "quicsocks concentrator [options]"
    add_settings(parser, CONCENTRATOR_SETTINGS)
    add_common(parser)


def _run(arguments: argparse.Namespace) -> int:
    settings, remarks = concentrator_settings(options_of(arguments))
    events = say_remarks(settings.output, remarks)
    from ..concentrator import run_concentrator

    return run_program(lambda: run_concentrator(settings), settings.transport.event_loop, events)
