"""``quicsocks run``: the client."""

from __future__ import annotations

import argparse

from ..config import client_settings
from ..config_schema import CLIENT_SETTINGS, LINK_SETTING
from .parser import Commands, add_command, add_common, add_settings, options_of
from .program import run_program, say_remarks


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "run",
        "connect to an exit and serve SOCKS5, SOCKS4a and HTTP",
        "Connect to an exit and serve SOCKS5, SOCKS4a and HTTP on 127.0.0.1:1080. With a command behind --, serve only\n"
        "that command, on a private port, with proxy variables set, and exit with its status.",
        "quicsocks run home --listen 127.0.0.1:1080        quicsocks run -- git clone http://example.com/r.git\n"
        "limits: --limit-...; all settings: docs/configuration.md",
        handler=_run,
    )
    parser.usage = "quicsocks run [options] [NAME | LINK | -] [-- COMMAND ...]"
    parser.add_argument(
        "_exit", metavar="NAME", nargs="?", help="a saved link's or configured exit's name, a link, or - to read one"
    )
    add_settings(parser, (LINK_SETTING, *CLIENT_SETTINGS))
    add_common(parser)


def _run(arguments: argparse.Namespace) -> int:
    settings, remarks = client_settings(options_of(arguments), arguments._exit, getattr(arguments, "command", None))
    events = say_remarks(settings.output, remarks)
    from ..client import run_client

    return run_program(lambda: run_client(settings), settings.transport.event_loop, events)
