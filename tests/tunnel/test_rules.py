"""The room's own rules: no input or output, no clock, no chance; and only the rooms it may know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from quicsocks.userspace import tunnel
from tests.syntax import parse

FOLDER = Path(str(tunnel.__file__)).parent
FILES = sorted(FOLDER.glob("*.py"))
FORBIDDEN = {"asyncio", "socket", "time", "random", "os", "secrets", "threading", "select"}


def imported(file: Path) -> list[tuple[int, str]]:
    """(level, module) of each import."""
    found = []
    for node in ast.walk(parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_imports(file: Path) -> None:
    for level, module in imported(file):
        root = module.partition(".")[0]
        if level == 0:
            assert root not in FORBIDDEN, f"{file.name} imports {module}"
            assert root not in {"quicsocks", "aioquic"}, f"{file.name} imports {module}"
        elif level > 1:
            assert (level, root) == (2, "quic"), f"{file.name} imports {'.' * level}{module}"
            assert module in {"quic.types", "quic.errors"}, f"{file.name} imports {'.' * level}{module}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_open_with_what_they_are(file: Path) -> None:
    assert ast.get_docstring(parse(file.read_text())), f"{file.name} does not say what it is"
