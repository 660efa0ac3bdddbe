"""``quicsocks qlog``: log what happens in the connections of processes that run."""

from __future__ import annotations

import argparse
import os
import sys

from ..config import common_settings
from ..status import StatusError, ask, instances, socket_path
from .parser import FOLDERS, Commands, Parser, UsageError, add_command, add_common, options_of


def register(commands: Commands) -> None:
    """Add the command and its own commands."""
    parser = add_command(
        commands,
        "qlog",
        "log what happens in QUIC connections, or stop it",
        "Let the running client and concentrator log what happens in their QUIC connections, those that are open too, into\n"
        "a folder that only you can see: a file (.sqlog) each, which qlog viewers show. Nothing that is carried is logged.",
        "quicsocks qlog on /tmp/my-qlog        quicsocks qlog off",
        handler=_no_action,
    )
    actions = parser.add_subparsers(metavar="ACTION", parser_class=Parser)
    on = add_command(
        actions, "on", "log from now on", "Log from now on.", "quicsocks qlog on /tmp/my-qlog", handler=_on
    )
    on.add_argument("_folder", metavar="DIR", help="made if it does not exist")
    off = add_command(actions, "off", "stop logging", "Stop logging.", "quicsocks qlog off", handler=_off)
    for one in (on, off):
        one.add_argument("_name", metavar="NAME", nargs="?", help="one process (default: all of this user)")
        add_common(one, FOLDERS)


def _no_action(arguments: argparse.Namespace) -> int:
    raise UsageError("say whether to log: on DIR, or off; see: quicsocks qlog --help")


def _on(arguments: argparse.Namespace) -> int:
    # The process may run in another folder.
    return _switch(arguments, os.path.abspath(os.path.expanduser(arguments._folder)))


def _off(arguments: argparse.Namespace) -> int:
    return _switch(arguments, "")


def _switch(arguments: argparse.Namespace, folder: str) -> int:
    common = common_settings(options_of(arguments))
    names = [arguments._name] if arguments._name is not None else instances(common.runtime_dir)
    switched, failed = 0, 0
    for name in names:
        try:
            answer = ask(socket_path(common.runtime_dir, name), {"command": "qlog", "folder": folder})
        except StatusError as error:
            if arguments._name is None and str(error).startswith("nothing is running"):
                continue  # A dead process's socket.
            print(f"quicsocks: {name}: {error}", file=sys.stderr)
            failed += 1
            continue
        switched += 1
        print(f"{name}: logging to {answer['qlog']}" if answer.get("qlog") else f"{name}: not logging")
    if not switched and not failed:
        print(f"quicsocks: nothing is running here (looked in {common.runtime_dir})", file=sys.stderr)
    return 0 if switched and not failed else 1
