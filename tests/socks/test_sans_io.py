"""Which files of the front doors may touch the outside world, and that the room stays apart from the others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.syntax import parse

ROOM = Path(__file__).resolve().parents[2] / "socks"

WITH_IO = {
    "binding.py",
    "connecting.py",
    "connection.py",
    "direct.py",
    "fake.py",
    "http_session.py",
    "http_transfer.py",
    "listener.py",
    "sockets.py",
    "socks_session.py",
    "types.py",  # names socket.socket in a signature
    "waiting.py",
    "watch.py",
}
OUTSIDE = {"asyncio", "socket", "time", "random", "secrets", "os", "select", "threading", "uvloop"}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, ours with two parts, and the levels of relative imports beyond one."""
    found = set()
    for node in ast.walk(parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level > 1:
                found.add("..")
            elif node.level == 0 and node.module is not None:
                found.add(node.module.partition(".")[0])
    return found


FILES = sorted(ROOM.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports(path: Path) -> None:
    found = imported(path)
    assert ".." not in found
    assert not found & {"quicsocks", "userspace", "netstack", "aioquic"}
    if path.name not in WITH_IO:
        assert not found & OUTSIDE


def test_the_list_of_exceptions_has_no_dead_entries() -> None:
    assert {path.name for path in FILES} >= WITH_IO


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_says_what_it_is_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    assert path.name == "__init__.py" or (ast.get_docstring(parse(text)) or "").count(" ") > 15
    assert text.count("\n") <= 600
