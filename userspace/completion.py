"""Completion scripts for bash, zsh and fish, made from the parser, so that they know every command and flag.

The names of saved links are asked for when they are needed (``quicsocks link list --names``). Nothing here is run by us;
everything that goes into a script is a flag or a word of ours, checked to be harmless in a shell.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field

SHELLS = ("bash", "zsh", "fish")
_SAFE = re.compile(r"[A-Za-z0-9_.-]+\Z")
_TAKES_LINK_NAME = ("run", "link remove")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. values: what it takes, when that is a choice. takes: whether it takes something. path: a file name."""

    names: tuple[str, ...]
    help: str
    takes: bool = False
    values: tuple[str, ...] = ()
    path: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its words, e.g. "link add"."""

    words: str
    help: str
    flags: tuple[Flag, ...]
    children: tuple[Command, ...] = field(default=())
    choices: tuple[str, ...] = ()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS."""
    root = _command(parser, "", "")
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](root)


def _command(parser: argparse.ArgumentParser, words: str, help: str) -> Command:
    flags: list[Flag] = []
    children: list[Command] = []
    choices: tuple[str, ...] = ()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                children.append(_command(sub, f"{words} {name}".strip(), helps.get(name, "")))
        elif action.option_strings:
            if not action.option_strings[0].startswith("--no-"):
                flags.append(_flag(action))
        elif action.choices:
            choices = tuple(str(choice) for choice in action.choices)
    return Command(words, _plain(help), tuple(flags), tuple(children), choices)


def _flag(action: argparse.Action) -> Flag:
    assert all(_SAFE.match(name) for name in action.option_strings)
    return Flag(
        names=tuple(action.option_strings),
        help="" if action.help in (None, argparse.SUPPRESS) else _plain(str(action.help)),
        takes=action.nargs != 0,
        values=tuple(str(choice) for choice in action.choices or ()),
        path=action.metavar in ("FILE", "DIR"),
    )


def _plain(text: str) -> str:
    """A help text without anything that a shell, or a completion language, reads as more than text."""
    return re.sub(r"[^A-Za-z0-9 ,.:;/()=+-]", "", text.replace("%%", "%"))


def _described(word: str, help: str) -> str:
    """An item of zsh's ``_describe``, where a colon ends the word unless it is escaped."""
    escaped = help.replace(":", "\\:")
    return f"'{word}:{escaped}'"


def _all(command: Command) -> list[Command]:
    return [command, *(deeper for child in command.children for deeper in _all(child))]


def _words(command: Command) -> str:
    names = [name for flag in command.flags for name in flag.names]
    return " ".join([*(child.words.split()[-1] for child in command.children), *command.choices, *names])


def _bash(root: Command) -> str:
    cases, values = [], []
    for command in _all(root):
        links = "; links=1" if command.words in _TAKES_LINK_NAME else ""
        cases.append(f"    '{command.words}') words='{_words(command)}'{links} ;;")
        for flag in command.flags:
            for name in flag.names:
                key = f"{command.words}|{name}"
                if flag.values:
                    values.append(
                        f"    '{key}') COMPREPLY=($(compgen -W '{' '.join(flag.values)}' -- \"$cur\")); return ;;"
                    )
                elif flag.path:
                    values.append(f"    '{key}') COMPREPLY=($(compgen -f -- \"$cur\")); return ;;")
                elif flag.takes:
                    values.append(f"    '{key}') return ;;")
    parents = " ".join(command.words for command in root.children if command.children)
    return "\n".join([
        "# bash completion for quicsocks",
        "_quicsocks() {",
        "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= words= links= word i",
        "  for ((i = 1; i < COMP_CWORD; i++)); do",
        "    word=${COMP_WORDS[i]}",
        "    [[ $word == -- ]] && { COMPREPLY=($(compgen -c -- \"$cur\")); return; }",
        "    [[ $word == -* ]] && continue",
        "    if [[ -z $path ]]; then path=$word",
        f"    elif [[ ' {parents} ' == *\" $path \"* ]]; then path=\"$path $word\"; break",
        "    else break; fi",
        "  done",
        "  case \"$path|$prev\" in",
        *values,
        "  esac",
        "  case $path in",
        *cases,
        "  esac",
        "  [[ -n $links ]] && words=\"$words $(quicsocks link list --names 2>/dev/null)\"",
        "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))",
        "}",
        "complete -F _quicsocks quicsocks",
    ])  # fmt: skip


def _zsh(root: Command) -> str:
    lines = ["#compdef quicsocks", "# zsh completion for quicsocks", "_quicsocks() {", "  local place=$words[2]"]
    parents = "|".join(command.words for command in root.children if command.children)
    lines += [
        f'  case $place in ({parents}) (( CURRENT > 3 )) && place="$place $words[3]" ;; esac',
        "  if (( CURRENT == 2 )); then place=; fi",
        "  local -a found",
        "  case $place in",
    ]
    for command in _all(root):
        lines.append(f"    ('{command.words}')")
        items = [_described(child.words.split()[-1], child.help) for child in command.children]
        items += [f"'{choice}'" for choice in command.choices]
        items += [_described(name, flag.help) for flag in command.flags for name in flag.names]
        lines.append(f"      found=({' '.join(items)})")
        if command.words in _TAKES_LINK_NAME:
            lines.append('      found+=(${(f)"$(quicsocks link list --names 2>/dev/null)"})')
        lines.append("      ;;")
    lines += [
        "  esac",
        "  local previous=$words[CURRENT-1]",
        '  case "$place|$previous" in',
    ]
    for command in _all(root):
        for flag in command.flags:
            for name in flag.names:
                if flag.values:
                    lines.append(f"    ('{command.words}|{name}') compadd -- {' '.join(flag.values)}; return ;;")
                elif flag.path:
                    lines.append(f"    ('{command.words}|{name}') _files; return ;;")
                elif flag.takes:
                    lines.append(f"    ('{command.words}|{name}') return ;;")
    lines += [
        "  esac",
        "  _describe -t words quicsocks found",
        "}",
        'if [[ $funcstack[1] == _quicsocks ]]; then _quicsocks "$@"; else compdef _quicsocks quicsocks; fi',
    ]
    return "\n".join(lines)


def _fish(root: Command) -> str:
    lines = ["# fish completion for quicsocks", "complete -c quicsocks -f"]
    lines.extend(
        f"complete -c quicsocks -n __fish_use_subcommand -a {child.words} -d '{child.help}'" for child in root.children
    )
    for command in _all(root)[1:]:
        parts = command.words.split()
        condition = "; and ".join(f"__fish_seen_subcommand_from {part}" for part in parts)
        if command.children:
            children = " ".join(child.words.split()[-1] for child in command.children)
            for child in command.children:
                last = child.words.split()[-1]
                only = f"{condition}; and not __fish_seen_subcommand_from {children}"
                lines.append(f"complete -c quicsocks -n '{only}' -a {last} -d '{child.help}'")
        if command.words in _TAKES_LINK_NAME:
            lines.append(f"complete -c quicsocks -n '{condition}' -a '(quicsocks link list --names 2>/dev/null)'")
        if command.choices:
            lines.append(f"complete -c quicsocks -n '{condition}' -a '{' '.join(command.choices)}'")
        for flag in command.flags:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            extra = (
                f" -x -a '{' '.join(flag.values)}'"
                if flag.values
                else " -r -F"
                if flag.path
                else " -x"
                if flag.takes
                else ""
            )
            lines.append(f"complete -c quicsocks -n '{condition}' {names}{extra} -d '{flag.help}'")
    return "\n".join(lines)
