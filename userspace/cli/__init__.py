"""The command line. One module a command, each with ``register(commands)``; this one finds it and maps errors to codes.

Exit codes: 0; 1 what was asked for failed; 2 wrong usage or configuration; 3 the concentrator refused us and we were never
connected. For ``run -- COMMAND``: the command's own, 125 for our failures, 126 and 127 when it cannot be started.
Modules are imported when their command is used, so that short commands stay quick.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from ..child import OUR_FAILURE
from ..config_file import ConfigError
from ..link import LinkError
from ..log import redact
from ..state import StateError
from .parser import UsageError, build_parser, parse, split_command

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words, command = split_command(list(sys.argv[1:] if argv is None else argv))
    if command is not None and words[:1] != ["run"]:
        return _failed("only 'quicsocks run' takes a command after --", WRONG_USAGE, None)
    try:
        return _run(words, command)
    except (UsageError, ConfigError) as error:
        return _failed(str(error), WRONG_USAGE, command)
    except (StateError, LinkError) as error:
        return _failed(str(error), FAILED, command)
    except BrokenPipeError:
        # Whoever read our output has gone, as in `quicsocks client list | head`; nothing can be said to them.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if "-vv" in words or words.count("-v") + words.count("--verbose") > 1:
            raise
        return _failed(f"internal error ({type(error).__name__}: {error}); run with -vv for more", FAILED, command)


def _run(words: list[str], command: list[str] | None) -> int:
    # The parser is kept by nobody: it is large, and some commands run for months.
    arguments = parse(build_parser(words), words)
    if command is not None:
        if not command:
            raise UsageError("there is no command after --; e.g.: quicsocks run -- curl http://example.com/")
        arguments.command = command
    code: int = arguments.handler(arguments)
    return code


def _failed(message: str, code: int, command: list[str] | None) -> int:
    """Say it, one line each; with a command, the code must not be mistaken for the command's."""
    for line in redact(message).splitlines():
        print(f"quicsocks: {line}", file=sys.stderr)
    return code if command is None else OUR_FAILURE
