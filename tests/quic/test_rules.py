"""The rules of the room: cores do no I/O, the adapter is small, and nothing here knows of tunnels."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import quicsocks.userspace.quic.types
from tests.syntax import parse

ROOM = Path(quicsocks.userspace.quic.types.__file__).parent
ADAPTERS = {
    "batched_endpoint.py",
    "endpoint.py",
    "factory.py",
    "udp.py",
    "udp_linux.py",
    "udp_default.py",
    "workers.py",
}
CONFIGURATION = {"tls_profile.py", "qlog_files.py"}
"""Read certificates, open key logs and logs of events, when asked by the user and not by a packet."""
FORBIDDEN = {"asyncio", "os", "random", "select", "selectors", "socket", "ssl", "threading", "time", "uvloop"}
FILES = sorted(ROOM.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOM)))
def test_cores_do_no_io(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    if path.name not in ADAPTERS | CONFIGURATION:
        assert not roots & FORBIDDEN


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOM)))
def test_nothing_above_or_beside_is_imported(path: Path) -> None:
    depth = len(path.relative_to(ROOM).parts)
    for name in imports(path):
        dots = len(name) - len(name.lstrip("."))
        assert dots <= depth, f"{path.name} imports {name}, from outside of the room"
        assert not name.startswith("quicsocks.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOM)))
def test_files_say_what_they_are_and_stay_small(path: Path) -> None:
    source = path.read_text()
    if source:
        assert ast.get_docstring(parse(source))
    assert len(source.splitlines()) <= (300 if path.name == "endpoint.py" else 600)


def test_nothing_above_uses_tickets_or_early_data() -> None:
    """docs/protocol.md has no early data, and tickets save a tunnel next to nothing."""
    for path in sorted(ROOM.parent.rglob("*.py")):
        if not path.is_relative_to(ROOM):
            names = {node.id for node in ast.walk(parse(path.read_text())) if isinstance(node, ast.Name)}
            arguments = {node.arg for node in ast.walk(parse(path.read_text())) if isinstance(node, ast.keyword)}
            assert not names & {"ClientTickets", "Resumption"}, path
            assert not arguments & {"early_data", "resumption", "tickets"}, path


def test_asyncio_is_touched_in_one_place() -> None:
    assert [path.name for path in FILES if "asyncio" in imports(path)] == ["endpoint.py"]
