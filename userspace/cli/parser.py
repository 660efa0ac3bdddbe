"""The parser of the command line: its commands, and flags made from the table of settings.

Flags that are not given leave no trace in the result, so that environment and file come through. Wrong usage is a
UsageError with one line, not argparse's page.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any, NoReturn

from ..config import Options
from ..config_schema import COMMON_SETTINGS, Kind, Scope, Setting
from ..spelling import nearest

COMMANDS = (
    "concentrator", "run", "link", "client", "check", "env", "status", "qlog", "demo", "version", "completion",
)  # fmt: skip
_MODULES = {"link": "links", "client": "clients"}
FOLDERS = ("state", "runtime")
"""Every command that looks into a folder takes both, so that the same flags fit them all."""


class UsageError(Exception):
    """The command line cannot be understood; the message is one line."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Say of an unknown command which one may be meant; argparse would list them all."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            near = nearest(str(value), action.choices)
            hint = f"did you mean {near}?" if near else f"there are: {', '.join(action.choices)}"
            raise UsageError(f"{self.prog} has no command {value}; {hint}")
        super()._check_value(action, value)


Commands = Any
"""argparse's holder of sub-commands, a private class."""


def build_parser(words: Sequence[str] = ()) -> Parser:
    """The whole parser; or, when words begin with a command, one that knows this command alone.

    What the other commands import, ``run`` and ``concentrator`` would keep for as long as they run.
    """
    parser = Parser(
        prog="quicsocks",
        description="Another place's network through one QUIC connection, without root at either end.",
        epilog="example: quicsocks run home        then: curl -x socks5h://127.0.0.1:1080 http://example.com/",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="the same as: quicsocks version")
    parser.set_defaults(command_name="", handler=_no_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        module = importlib.import_module(f".{_MODULES.get(name, name)}", __package__)
        module.register(commands)
    return parser


def _no_command(arguments: argparse.Namespace) -> int:
    if arguments.version:
        from .version import show

        return show(arguments)
    raise UsageError(
        "no command is given; the first ones to know are run, concentrator and link add; see: quicsocks --help"
    )


def parse(parser: Parser, words: list[str]) -> argparse.Namespace:
    """Parse our words. Raises UsageError, which for an unknown flag names the nearest right one."""
    arguments, unknown = parser.parse_known_args(words)
    if not unknown:
        return arguments
    command = _find(parser, words)
    flag = unknown[0].partition("=")[0]
    if not flag.startswith("-"):
        raise UsageError(f"there is one word too many: {flag}; see: {command.prog} --help")
    known = [option for action in command._actions for option in action.option_strings]
    near = nearest(flag, known)
    hint = f"did you mean {near}?" if near else f"see: {command.prog} --help"
    raise UsageError(f"{command.prog} has no flag {flag}; {hint}")


def _find(parser: argparse.ArgumentParser, words: list[str]) -> argparse.ArgumentParser:
    """The parser of the command that words begin with."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for index, word in enumerate(words):
                if word in action.choices:
                    return _find(action.choices[word], words[index + 1 :])
    return parser


def split_command(words: list[str]) -> tuple[list[str], list[str] | None]:
    """Our words and, behind the first ``--``, the command's; None without one."""
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def add_command(commands: Commands, name: str, help: str, description: str, example: str, **defaults: Any) -> Parser:
    """Add a command. Its epilog is an example."""
    parser: Parser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"example: {example}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command_name=name, **defaults)
    return parser


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """-c/--config."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="configuration file (default: ~/.config/quicsocks/config.toml, when there is one)",
    )


def add_settings(parser: argparse.ArgumentParser, settings: Sequence[Setting], only: Sequence[str] = ()) -> None:
    """A flag for every setting, or for those whose key is in only."""
    for setting in settings:
        if not only or setting.key in only:
            _add_setting(parser, setting)


def add_common(parser: argparse.ArgumentParser, only: Sequence[str] = ()) -> None:
    """-c, -v, -q and the common settings, or those in only."""
    add_config_flag(parser)
    add_settings(parser, COMMON_SETTINGS, only)
    if not only or "verbosity" in only:
        parser.add_argument(
            "-v", "--verbose", action="count", default=0, dest="_more", help="say more; -vv: everything"
        )
        parser.add_argument("-q", "--quiet", action="count", default=0, dest="_less", help="say nothing but errors")


def options_of(arguments: argparse.Namespace, **overrides: Any) -> Options:
    """What ``config`` wants to know of the command line."""
    given = vars(arguments)
    flags = {key: value for key, value in given.items() if not key.startswith("_") and key not in _NOT_SETTINGS}
    more, less = given.get("_more", 0), given.get("_less", 0)
    if more or less:
        flags["verbosity"] = max(-1, min(2, more - less))
    return Options(flags=flags, **overrides)


_NOT_SETTINGS = frozenset({"command", "command_name", "handler", "version"})


class _AppendRule(argparse.Action):
    """``--allow X --deny Y``: one list in the order given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        rules = list(getattr(namespace, "rules", []))
        rules.append((str(self.const), str(values)))
        namespace.rules = rules


def _add_setting(parser: argparse.ArgumentParser, setting: Setting) -> None:
    shown = argparse.SUPPRESS if setting.hidden else setting.help.replace("%", "%%").replace("`", "")
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": shown}
    if setting.kind is Kind.RULES:
        _add_rules(parser, setting)
    elif not setting.option:
        return
    elif setting.kind is Kind.FLAG:
        parser.add_argument(setting.option, action="store_true", dest=setting.key, **common)
        parser.add_argument(
            f"--no-{setting.option[2:]}", action="store_false", dest=setting.key, default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )  # fmt: skip
    elif setting.kind in (Kind.LISTEN, Kind.LIST):
        common["help"] = f"{shown}; repeatable" if shown != argparse.SUPPRESS else shown
        parser.add_argument(setting.option, action="append", dest=setting.key, metavar=setting.metavar, **common)
    elif setting.is_secret:
        if setting.key == "upstream":
            parser.add_argument(setting.option, dest=setting.key, metavar=setting.metavar, **common)
            common["help"] = "file that holds it, for a URL with a password"
        else:
            common["help"] = (
                f"file that holds the {setting.help}"
                if setting.key != "link"
                else "file with the link; - for standard input"
            )
        parser.add_argument(f"{setting.option}-file", dest=f"{setting.key}_file", metavar="FILE", **common)
    elif setting.kind is Kind.CHOICE:
        parser.add_argument(setting.option, dest=setting.key, choices=setting.choices, **common)
    else:
        metavar = setting.metavar or {Kind.SECONDS: "TIME", Kind.SIZE: "SIZE", Kind.COUNT: "N"}.get(
            setting.kind, "TEXT"
        )
        parser.add_argument(setting.option, dest=setting.key, metavar=metavar, **common)


def _add_rules(parser: argparse.ArgumentParser, setting: Setting) -> None:
    meanings = {
        "allow": "let clients go there, also to addresses that are refused by default",
        "deny": "keep clients from going there",
        "tunnel": "send it through the tunnel (the default)",
        "direct": "connect from this machine instead",
        "block": "refuse it",
    }
    names = ("allow", "deny") if setting.scope is Scope.CONCENTRATOR else ("tunnel", "direct", "block")
    for name in names:
        parser.add_argument(
            f"--{name}", action=_AppendRule, const=name, dest="rules", metavar="PATTERN", default=argparse.SUPPRESS,
            help=f"{meanings[name]}; repeatable, first match wins",
        )  # fmt: skip
