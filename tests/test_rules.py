"""The rules of the house that a program can check: who imports whom, what sans-IO code may not touch, file sizes, words.

CONTRIBUTING.md explains the rules. Everything is read as text or syntax tree: nothing of ours is imported, so a rule is
reported even when the code does not run. Each check is a function of a tree of files, and is shown below to find what
it is there to find.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.syntax import parse

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("netstack", "socks", "userspace")
CODE = (*ROOMS, "tests", "bench")
TEXTS = (*CODE, "docs", "contrib", ".ci", ".typing")
MAX_LINES = 600


@dataclass(frozen=True, slots=True)
class Source:
    """One file of Python. path: below the tree's root, with slashes."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return parse(self.text, self.path)

    @property
    def module(self) -> str:
        """As ``socks.http`` or, for a package, ``userspace.tunnel``."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.module if self.path.endswith("/__init__.py") else self.module.rpartition(".")[0]


def sources(*folders: str) -> list[Source]:
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text())
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def report(problems: Sequence[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


# Who imports whom.


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported, ours without the root ``quicsocks``."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.removeprefix("quicsocks.")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = source.package.split(".")
                parents = parents[: len(parents) - (node.level - 1)]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            elif base == "quicsocks":
                base = ""
            else:
                base = base.removeprefix("quicsocks.")
            for alias in node.names:
                # ``from . import x`` may name a module or a member: both are reported below the package.
                yield node.lineno, f"{base}.{alias.name}" if base else alias.name


ALLOWED: dict[str, tuple[str, ...]] = {
    "netstack": ("netstack",),
    "socks": ("socks",),
    "userspace.quic": ("userspace.quic", "netstack"),
    "userspace.tunnel": ("userspace.tunnel", "userspace.quic.types", "userspace.quic.errors"),
    "userspace.egress": ("userspace.egress", "userspace.tunnel.types", "userspace.quic.errors", "netstack"),
}
"""What each room may import of ours. What is not listed (the top of userspace, its cli and chain) knows them all."""


def room_problems(source: Source) -> list[str]:
    room = next((name for name in ALLOWED if _below(source.module, name)), None)
    if room is None:
        return []
    return [
        f"{source.path}:{line}: {room} may not import {name}; of ours it knows {', '.join(ALLOWED[room])}"
        for line, name in imported(source)
        if name.split(".")[0] in (*ROOMS, "tests", "bench")
        and not any(_below(name, allowed) for allowed in ALLOWED[room])
    ]


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_rooms_import_only_what_they_may() -> None:
    report([problem for source in sources(*ROOMS) for problem in room_problems(source)])


def test_the_program_imports_no_tests() -> None:
    report([
        f"{source.path}:{line}: {name}"
        for source in sources(*ROOMS)
        for line, name in imported(source)
        if name.split(".")[0] in ("tests", "bench")
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "wrong"),
    [
        ("netstack/icmp.py", "from .checksum import checksum", False),
        ("netstack/icmp.py", "from quicsocks.socks.types import Exit", True),
        ("socks/http.py", "from quicsocks.userspace.quic import types", True),
        ("socks/http.py", "import quicsocks.netstack.icmp", True),
        ("socks/http.py", "from ..userspace import relay", True),
        ("userspace/quic/endpoint.py", "from quicsocks.netstack.aio import Clock", False),
        ("userspace/quic/endpoint.py", "from ..tunnel.types import Cause", True),
        ("userspace/quic/inner/connection.py", "from ..types import Limits", False),
        ("userspace/quic/inner/connection.py", "from ... import relay", True),
        ("userspace/tunnel/flow.py", "from ..quic.types import Stream", False),
        ("userspace/tunnel/flow.py", "from ..quic.endpoint import open_endpoint", True),
        ("userspace/tunnel/flow.py", "from ..quic import types", False),
        ("userspace/tunnel/__init__.py", "from .flow import Flow", False),
        ("userspace/tunnel/__init__.py", "from ..egress import dial", True),
        ("userspace/egress/dial.py", "from ..tunnel.types import Cause", False),
        ("userspace/egress/dial.py", "from ..tunnel.flow import Flow", True),
        ("userspace/relay.py", "from quicsocks.socks.watch import Watch", False),
        ("userspace/cli/run.py", "from ..egress.policy import Policy", False),
    ],
)
def test_the_import_rule_finds_what_it_should(path: str, text: str, wrong: bool) -> None:
    assert bool(room_problems(Source(path, text))) is wrong


def test_nobody_of_ours_uses_the_top_level_name_socks() -> None:
    """``import socks`` is PySocks, in tests of it as a client; our own room is always quicsocks.socks."""
    report([
        f"{source.path}:{node.lineno}: our room is quicsocks.socks; a top-level socks is PySocks'"
        for source in sources(*ROOMS, "bench")
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] in ROOMS for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in ROOMS)
    ])  # fmt: skip


# aioquic's private names.

INTERNALS = "userspace.quic.aioquic_internals"


def aioquic_problems(source: Source) -> list[str]:
    """Uses of aioquic where it has no business, and of what it does not offer outside of the guarded place.

    Private names are found where they are imported, where they are read from anything but ``self`` or a class's own
    ``cls``, and through inheritance: a subclass of an aioquic class sees its private names as its own, so that such
    classes belong into the guarded place too.
    """
    if _below(source.module, INTERNALS):
        return []
    names = [(line, name) for line, name in imported(source) if name.split(".")[0] == "aioquic"]
    if not names:
        return []
    in_room = _below(source.module, "userspace.quic") or source.path.split("/")[0] in ("tests", "bench")
    if not in_room:
        return [f"{source.path}:{line}: only userspace/quic may import aioquic" for line, _ in names]
    problems = [
        f"{source.path}:{line}: {name} is private; lean on it in {INTERNALS} only"
        for line, name in names
        if any(part.startswith("_") for part in name.split("."))
    ]
    local = {name.rpartition(".")[2] for _, name in names}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                problems.append(f"{source.path}:{node.lineno}: {ast.unparse(node)} may be aioquic's own: {INTERNALS}")
        elif isinstance(node, ast.ClassDef):
            problems.extend(
                f"{source.path}:{node.lineno}: class {node.name} inherits aioquic's {base.id}: {INTERNALS}"
                for base in node.bases
                if isinstance(base, ast.Name) and base.id in local and base.id.startswith("Quic")
            )
    return problems


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def test_only_one_place_leans_on_the_insides_of_aioquic() -> None:
    report([problem for source in sources(*ROOMS) for problem in aioquic_problems(source)])


@pytest.mark.parametrize(
    ("path", "text", "wrong"),
    [
        ("userspace/quic/endings.py", "from aioquic.quic.events import ConnectionTerminated", False),
        ("userspace/uplink.py", "from aioquic.quic.events import ConnectionTerminated", True),
        ("userspace/quic/endings.py", "from aioquic.quic.connection import _private", True),
        ("userspace/quic/session.py", "import aioquic\nconnection._cryptos", True),
        ("userspace/quic/session.py", "import aioquic\nself._connection._cryptos", True),
        ("userspace/quic/session.py", "import aioquic\nself._connection.close()", False),
        ("userspace/quic/session.py", "import aioquic\nvalue.__class__", False),
        (
            "userspace/quic/session.py",
            "from aioquic.quic.connection import QuicConnection\nclass Mine(QuicConnection): ...",
            True,
        ),
        ("userspace/quic/aioquic_internals/connection.py", "import aioquic\nconnection._cryptos", False),
        ("userspace/quic/aioquic_internals.py", "import aioquic\nconnection._cryptos", False),
    ],
)
def test_the_aioquic_rule_finds_what_it_should(path: str, text: str, wrong: bool) -> None:
    assert bool(aioquic_problems(Source(path, text))) is wrong


# Sans-IO: the clock, the sockets and the dice are somebody else's.

FORBIDDEN_MODULES = frozenset(
    ["asyncio", "random", "secrets", "select", "selectors", "socket", "subprocess", "threading", "time", "uuid"]
)
FORBIDDEN_CALLS = frozenset(
    ["os.urandom", "os.getrandom", "datetime.now", "datetime.utcnow", "date.today", "datetime.datetime.now"]
)

SANS_IO_ROOMS: dict[str, frozenset[str]] = {
    "netstack": frozenset(["netstack/aio.py"]),
    "socks": frozenset([
        "socks/binding.py",
        "socks/connecting.py",
        "socks/connection.py",
        "socks/direct.py",
        "socks/fake.py",
        "socks/http_session.py",
        "socks/http_transfer.py",
        "socks/listener.py",
        "socks/sockets.py",
        "socks/socks_session.py",
        "socks/types.py",
        "socks/waiting.py",
        "socks/watch.py",
    ]),
    "userspace/tunnel": frozenset(),
    "userspace/egress": frozenset([
        "userspace/egress/dial.py",
        "userspace/egress/fair.py",
        "userspace/egress/own_addresses.py",
        "userspace/egress/resolve.py",
        "userspace/egress/tunnel_dns.py",
    ]),
    "userspace/quic": frozenset([
        "userspace/quic/batched_endpoint.py",
        "userspace/quic/endpoint.py",
        "userspace/quic/udp.py",
        "userspace/quic/udp_default.py",
        "userspace/quic/udp_linux.py",
        "userspace/quic/workers.py",
    ]),
}  # fmt: skip
"""In these rooms every file is sans-IO but those listed: the adapters, and interfaces that name a socket's type."""

SANS_IO_FILES = (
    "userspace/causes.py",
    "userspace/config_positions.py",
    "userspace/config_schema.py",
    "userspace/link.py",
    "userspace/refusal.py",
    "userspace/settings.py",
)
"""Files at the top of userspace that are sans-IO as well."""


def sans_io_problems(source: Source) -> list[str]:
    problems = [
        f"{source.path}:{line}: sans-IO code may not import {name}; take the value as an argument"
        for line, name in imported(source)
        if name.split(".")[0] in FORBIDDEN_MODULES or name in ("os.urandom", "os.getrandom")
    ]
    problems += [
        f"{source.path}:{node.lineno}: sans-IO code may not call {ast.unparse(node.func)}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS
    ]
    return problems


def test_sans_io_code_touches_no_loop_no_socket_no_clock_and_no_dice() -> None:
    checked = [source for room in SANS_IO_ROOMS for source in sources(room) if source.path not in SANS_IO_ROOMS[room]]
    checked += [Source(path, (ROOT / path).read_text()) for path in SANS_IO_FILES]
    assert len(checked) > 40
    report([problem for source in checked for problem in sans_io_problems(source)])


def test_the_exceptions_from_sans_io_are_needed() -> None:
    """So that the lists above only ever shrink without a reason beside them."""
    planned = {"netstack/aio.py"}
    problems = []
    for excepted in SANS_IO_ROOMS.values():
        for path in sorted(excepted - planned):
            if not (ROOT / path).exists():
                problems.append(f"{path} does not exist any more")
            elif not sans_io_problems(Source(path, (ROOT / path).read_text())):
                problems.append(f"{path} has become sans-IO: take it off the list of exceptions")
    report(problems)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("import asyncio", True),
        ("import socket as s", True),
        ("from time import monotonic", True),
        ("import random", True),
        ("from secrets import token_bytes", True),
        ("import os\nkey = os.urandom(16)", True),
        ("from os import urandom", True),
        ("import datetime\nnow = datetime.datetime.now()", True),
        ("import os\npath = os.fsencode('x')", False),
        ("import ipaddress, struct, heapq", False),
        ("def receive(data: bytes, now: float) -> None: ...", False),
    ],
)
def test_the_sans_io_rule_finds_what_it_should(text: str, wrong: bool) -> None:
    assert bool(sans_io_problems(Source("netstack/x.py", text))) is wrong


# Tests that silently replace each other.


def duplicate_problems(source: Source) -> list[str]:
    """Functions and classes that a later one of the same name, in the same body, hides from pytest."""
    problems = []
    for node in ast.walk(source.tree):
        if not isinstance(node, (ast.Module, ast.ClassDef)):
            continue
        seen: dict[str, int] = {}
        for child in node.body:
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in child.decorator_list}
            if decorators & {"overload", "setter", "deleter", "getter"}:
                continue
            if child.name in seen:
                problems.append(f"{source.path}:{child.lineno}: {child.name} hides the one in line {seen[child.name]}")
            seen[child.name] = child.lineno
    return problems


def test_no_test_hides_another() -> None:
    report([problem for source in sources(*CODE) for problem in duplicate_problems(source)])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("def test_a(): ...\ndef test_a(): ...", True),
        ("class TestX:\n def test_a(self): ...\n def test_a(self): ...", True),
        ("class TestX:\n def test_a(self): ...\nclass TestY:\n def test_a(self): ...", False),
        ("class A:\n @property\n def x(self): ...\n @x.setter\n def x(self, value): ...", False),
        ("async def test_a(): ...\ndef test_a(): ...", True),
    ],
)
def test_the_duplicate_rule_finds_what_it_should(text: str, wrong: bool) -> None:
    assert bool(duplicate_problems(Source("tests/test_x.py", text))) is wrong


# Tests that wait for the clock, or test nothing.


def sleep_problems(source: Source) -> list[str]:
    return [
        f"{source.path}:{node.lineno}: wait for an event with a bound, not for the clock"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep")
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and any(alias.name == "sleep" for alias in node.names)
        )
    ]


def test_no_test_sleeps() -> None:
    report([problem for source in sources("tests") for problem in sleep_problems(source)])


# Sizes and words.


def text_files() -> Iterator[Path]:
    for folder in TEXTS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
                yield path
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and (path.suffix in (".md", ".toml", ".py", ".cfg") or path.name in ("Makefile", "LICENSE")):
            yield path


def test_no_file_is_too_long() -> None:
    report([
        f"{path.relative_to(ROOT)} has {count} lines: split it by topic"
        for path in text_files()
        if path.suffix in (".py", ".pyx", ".pxd", ".pxi", ".pyi", ".c", ".h")
        and (count := len(path.read_text().splitlines())) > MAX_LINES
    ])  # fmt: skip


FORBIDDEN_WORDS: tuple[tuple[str, str], ...] = (
    # Written in two halves, so that this file may contain them.
    (r"\bTO" r"DO\b", "do it, or write down as a known gap what is missing"),
    (r"\bFIX" r"ME\b", "fix it"),
    (r"\bX" r"XX\b", "say what is meant"),
    (r"(?<![\w.-])/wo" r"rk/", "a path of one machine"),
    (r"\bpy" r"pi\.org\b", "the package index is whatever pip is configured for"),
    (r"\bpython" r"hosted\.org\b", "the package index is whatever pip is configured for"),
)  # fmt: skip


def word_problems(path: str, text: str) -> list[str]:
    return [
        f"{path}:{number}: {found.group()!r}: {why}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, why in FORBIDDEN_WORDS
        if (found := re.search(pattern, line))
    ]


def test_no_unfinished_business_and_no_path_of_a_machine() -> None:
    problems = []
    for path in text_files():
        data = path.read_bytes()
        if b"\0" not in data:
            problems += word_problems(path.relative_to(ROOT).as_posix(), data.decode(errors="replace"))
    report(problems)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("# TO" + "DO: later", True),
        ("x = 1  # FIX" + "ME", True),
        ("see /wo" + "rk/main/README.md", True),
        ("http://host/framework/page", False),
        ("nothing of the kind", False),
    ],
)
def test_the_word_rule_finds_what_it_should(text: str, wrong: bool) -> None:
    assert bool(word_problems("docs/x.md", text)) is wrong


def test_markers_of_the_type_checker_and_linter_have_a_reason() -> None:
    """``type: ignore`` and ``noqa`` name what they silence; why stands behind it, or in a comment just above."""
    marker = re.compile(r"#\s*(type: ignore|noqa)(?P<what>\[[^]]*\]|: [A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*)?(?P<why>.*)")
    problems = []
    for source in sources(*ROOMS):
        lines = source.text.splitlines()
        for number, line in enumerate(lines):
            found = marker.search(line)
            if found is None:
                continue
            explained = re.search(r"\w{3}", found["why"]) or any("# " in above for above in lines[number - 2 : number])
            if not (found["what"] and explained):
                problems.append(f"{source.path}:{number + 1}: name what is silenced, and why: {found.group()}")
    report(problems)


# The commands that everything else promises.


def test_the_two_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    promised = set(re.findall(r"(?:^ +|`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= promised
    assert promised <= targets


def test_continuous_integration_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert re.search(r"^exec make test$", script.read_text(), re.MULTILINE)


def _recipe(makefile: str, target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert found is not None, target
    return found[1]


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_test_command_lints_and_checks_types(tool: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "lint" in _recipe(makefile, "test")
    assert "unit" in _recipe(makefile, "test")
    assert tool in _recipe(makefile, "lint")


Check = Callable[[Source], list[str]]


@pytest.mark.parametrize("check", [room_problems, aioquic_problems, sans_io_problems, duplicate_problems])
def test_a_clean_file_has_no_problem(check: Check) -> None:
    assert check(Source("socks/x.py", "def f(now: float) -> float:\n    return now\n")) == []
