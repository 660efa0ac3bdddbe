"""``quicsocks status``: how the running processes are."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from ..config import common_settings
from ..status import StatusError, ask, instances, render, socket_path
from .parser import FOLDERS, Commands, add_command, add_common, options_of


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "status",
        "how the running processes are",
        "Ask the running client and concentrator how they are. Exits with 1 when none is running.",
        "quicsocks status --json",
        handler=_status,
    )
    parser.add_argument("_name", metavar="NAME", nargs="?", help="one process (default: all of this user)")
    parser.add_argument("--json", action="store_true", dest="_json", help="for machines; a list when there are several")
    parser.add_argument(
        "--check", action="store_true", dest="_check", help="say nothing; exit with 0 only if all are connected"
    )
    add_common(parser, FOLDERS)


def _status(arguments: argparse.Namespace) -> int:
    common = common_settings(options_of(arguments))
    answers, failures = running(common.runtime_dir, arguments._name)
    if arguments._check:
        return 0 if answers and not failures and all(answer.get("connected", True) for answer in answers) else 1
    for failure in failures:
        print(f"quicsocks: {failure}", file=sys.stderr)
    if not answers:
        if not failures:
            print(f"quicsocks: nothing is running here (looked in {common.runtime_dir})", file=sys.stderr)
        return 1
    if arguments._json:
        print(json.dumps(answers[0] if len(answers) == 1 else answers, indent=1))
    else:
        now = time.time()
        print("\n".join(render(answer, now) for answer in answers))
    return 1 if failures else 0


def running(runtime_dir: Any, name: str | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """The answers of one process, or of all, and what went wrong. Sockets of dead processes are passed over."""
    answers, failures = [], []
    for one in [name] if name is not None else instances(runtime_dir):
        try:
            answer = ask(socket_path(runtime_dir, one), {"command": "status"})
        except StatusError as error:
            if not str(error).startswith("nothing is running"):
                failures.append(str(error))
            elif name is not None:
                known = ", ".join(instances(runtime_dir)) or "none"
                failures.append(f"no process {name} is running here (sockets in {runtime_dir}: {known})")
            continue
        answers.append({"instance": one, **answer})
    return answers, failures
