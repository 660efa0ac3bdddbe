"""The documents are true where a program can tell: links lead somewhere, files and names exist, commands parse."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from quicsocks.userspace.cli.parser import build_parser, parse, split_command
from quicsocks.userspace.config_schema import CLIENT_SETTINGS, COMMON_SETTINGS, CONCENTRATOR_SETTINGS, LINK_SETTING
from tests import syntax

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()}
MADE = ("bench/results", "artifacts/")
"""Folders that commands make, which a checkout does not have."""
each = pytest.mark.parametrize("path", DOCUMENTS, ids=[path.name for path in DOCUMENTS])


def test_the_documents_are_there() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS}
    assert {
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/protocol.md",
        "docs/security.md",
        "docs/configuration.md",
        "docs/performance.md",
    } <= names


@each
def test_relative_links_lead_somewhere(path: Path) -> None:
    broken = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text())
        if not re.match(r"[a-z]+:", target) and not (path.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []


def names_in(source: Path) -> set[str]:
    """Functions, classes, their members and constants of a file, as ``Class.member`` or ``name``."""
    if source.suffix in (".pyx", ".pxd"):
        return names_in_cython(source.read_text())
    found: set[str] = set()
    for node in syntax.parse(source.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
        found |= {target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)}
    return found


def names_in_cython(text: str) -> set[str]:
    """The same of compiled code, by the look of its lines."""
    found, owner = set(), ""
    for line in text.splitlines():
        if kind := re.match(r"(?:cdef )?class (\w+)", line):
            owner = kind[1]
            found.add(owner)
        elif member := re.match(r"    (?:cdef|cpdef|def)\b.*?\b(\w+)\(", line):
            found.add(f"{owner}.{member[1]}")
        elif function := re.match(r"(?:cdef|cpdef|def)\b.*?\b(\w+)\(", line):
            found.add(function[1])
    return found


def mentioned(text: str) -> list[tuple[str, str]]:
    """Paths in backquotes whose first part is a folder of ours, with the name behind the colon, if any."""
    quoted = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)(?::([\w.]+))?`", text)
    return [(file, name) for file, name in quoted if "/" in file and file.split("/")[0] in TOP]


@each
def test_files_and_names_that_are_mentioned_exist(path: Path) -> None:
    problems = []
    for file, name in mentioned(path.read_text()):
        place = ROOT / file
        if file.startswith(MADE):
            continue
        if not place.exists():
            problems.append(f"{file} does not exist")
        elif name and name not in names_in(place):
            problems.append(f"{file} has no {name}")
    assert problems == []


def test_the_way_of_a_byte_names_enough_of_the_code() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text[text.index("## Following a byte") :]
    section = section[: section.index("## Where to look")]
    assert len({file for file, name in mentioned(section) if name}) >= 15


def test_a_name_that_is_gone_is_found() -> None:
    assert mentioned("see `userspace/flows.py:FlowTable.no_such_thing`") == [
        ("userspace/flows.py", "FlowTable.no_such_thing")
    ]
    names = names_in(ROOT / "userspace/flows.py")
    assert "FlowTable.add" in names
    assert "FlowTable.no_such_thing" not in names
    compiled = names_in(ROOT / "userspace/quic/native/stream.pyx")
    assert {"Stream", "Stream.write", "Pump.read", "make_stream"} <= compiled
    assert "Stream.no_such_thing" not in compiled


def commands_in(text: str) -> list[str]:
    """Our command lines: of indented and fenced blocks, and in backquotes, comments and redirections cut off."""
    block = re.sub(r"\\\n", " ", text)
    lines = [line.strip() for line in block.splitlines() if re.match(r"(    |\t)", line)]
    for fenced in re.findall(r"```\w*\n(.*?)```", block, re.DOTALL):
        lines += [line.strip() for line in fenced.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", block)
    commands = []
    for line in lines:
        # Behind a container's options, our command begins at the image's name.
        found = None if "══" in line else COMMAND.search(line)
        if found:
            commands.append(found[1].strip().strip('"'))
    return commands


COMMANDS = ("concentrator", "run", "link", "client", "check", "env", "status", "demo", "version", "completion")
COMMAND = re.compile(rf"(?:^|\s|\()quicsocks ((?:{'|'.join(COMMANDS)})\b[^#|<>)]*)")


@each
def test_our_commands_in_it_are_ones_that_we_take(path: Path) -> None:
    parser = build_parser()
    for command in commands_in(path.read_text()):
        if command in COMMANDS or "..." in command or "|" in command:
            continue  # the name of a command, or a pattern for several
        words, _ = split_command(shlex.split(command))
        assert parse(parser, words).handler is not None, command


def test_the_readme_has_commands_to_check() -> None:
    assert len(commands_in((ROOT / "README.md").read_text())) >= 10


@each
def test_our_variables_in_it_exist(path: Path) -> None:
    settings = (*COMMON_SETTINGS, *CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS, LINK_SETTING)
    known = {setting.variable for setting in settings}
    known |= {f"{setting.variable}_FILE" for setting in settings if setting.is_secret}
    known |= {"QUICSOCKS_CONFIG", "QUICSOCKS_DEFAULT_EXIT"}
    named = set(re.findall(r"\bQUICSOCKS_[A-Z_]*[A-Z]\b", path.read_text()))
    named -= {name for name in named if name.startswith(("QUICSOCKS_TEST_", "QUICSOCKS_BENCH_"))}
    assert named <= known


@each
def test_lines_are_not_too_long(path: Path) -> None:
    """Prose is wrapped; tables, addresses and blocks are as long as they are."""
    if path.name == "performance.md":
        return  # partly written by the benchmark
    inside = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside and not line.startswith(("|", "    ")) and "](http" not in line:
            assert len(line) <= 128, f"line {number}"


@each
def test_no_pictures_of_feelings(path: Path) -> None:
    assert not re.search("[\U0001f300-\U0001faff\u2600-\u27bf]", path.read_text())
