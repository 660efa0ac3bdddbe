"""What an idle program has imported: nothing that only other commands, rare settings or the other engine use.

Each of these modules costs memory in every process for as long as it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quicsocks.userspace.quic.aioquic_internals.rarely import Later, import_without

IMPORTED = re.compile(r"import '([\w.]+)' #")
TIMEOUT = 60
"""Seconds; both programs together take about two."""

OTHER_COMMANDS = [
    f"quicsocks.userspace.cli.{name}"
    for name in ("links", "clients", "check", "env", "status", "qlog", "demo", "version", "completion")
]
RARE = [
    # Certificates checked by name and authority, for links without a pin.
    "certifi", "service_identity", "OpenSSL", "attr", "idna",
    # The other engine's sessions.
    "quicsocks.userspace.quic.aioquic_session", "quicsocks.userspace.quic.aioquic_stream",
    "quicsocks.userspace.quic.aioquic_internals.connection", "quicsocks.userspace.quic.aioquic_internals.sending",
    # Configuration files, proxies beyond or instead of ours, names with other letters than ASCII's.
    "tomllib", "quicsocks.userspace.chain.inbound", "quicsocks.userspace.chain.upstream", "encodings.idna", "stringprep",
    # Front doors that nobody has knocked at.
    "h11", "quicsocks.socks.http_session",
    # What some of the above or of other commands drag in.
    "csv", "ctypes", "difflib", "email.message", "getpass", "http.client", "importlib.metadata", "importlib.resources",
    "platform", "pylsqpack", "tempfile", "typing_extensions", "unicodedata", "urllib.request", "zipfile",
]  # fmt: skip


class Program:
    """A command of ours that writes what it imports (``python -v``). said: all its output so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[str] = []

    async def until(self, words: str) -> str:
        """The first further line with these words; what has been printed in an AssertionError when it ends before."""
        while line := await self._line():
            if words in line:
                return line
        raise AssertionError("".join(self.said[-100:]))

    async def imported(self) -> set[str]:
        """End it; what it has imported in its life."""
        self._process.terminate()
        while await self._line():
            pass
        assert await self._process.wait() == 0
        return {found[1] for line in self.said if (found := IMPORTED.match(line))}

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        self.said.append(line)
        return line


@contextlib.asynccontextmanager
async def started(folder: Path, *words: str) -> AsyncIterator[Program]:
    folders = ("--state", str(folder / words[0]), "--runtime", str(folder / "run"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-v", "-m", "quicsocks.userspace", *words, *folders),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "QUICSOCKS_CONFIG": ""},
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_idle_programs_have_imported_nothing_rare(tmp_path: Path) -> None:
    for command, imported in asyncio.run(imported_when_connected(tmp_path)).items():
        assert {"aioquic.tls", "quicsocks.userspace.quic.native.connection"} <= imported  # It looks at the right thing.
        assert imported.intersection([*RARE, *OTHER_COMMANDS]) == set(), command


async def imported_when_connected(folder: Path) -> dict[str, set[str]]:
    """What each of two programs has imported that have connected, and done nothing else."""
    async with (
        asyncio.timeout(TIMEOUT),
        started(folder, "concentrator", "--listen", "127.0.0.1:0", "--print-link") as far,
    ):
        link = folder / "link"
        link.touch(mode=0o600)
        link.write_text((await far.until("quicsocks://")).strip())
        async with started(folder, "run", "--listen", "127.0.0.1:0", "--link-file", str(link)) as near:
            await near.until("connected to")
            return {"run": await near.imported(), "concentrator": await far.imported()}


# --- Imports that take place later ------------------------------------------------------------------------------------


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("qs_importer", "qs_plain", "qs_package", "qs_package.part", "qs_used_at_once"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "qs_plain.py").write_text("answer = 42\n")
    (tmp_path / "qs_package").mkdir()
    (tmp_path / "qs_package/__init__.py").write_text("from qs_package import part\n")
    (tmp_path / "qs_package/part.py").write_text("answer = 43\n")
    return tmp_path


def test_modules_are_imported_when_they_are_used(modules: Path) -> None:
    (modules / "qs_importer.py").write_text(
        "import qs_plain\nfrom qs_package import part\ndef answers(): return qs_plain.answer, part.answer\n"
    )
    importer = import_without("qs_importer", ("qs_plain", "qs_package.part"))
    assert isinstance(importer.qs_plain, Later)
    assert not {"qs_plain", "qs_package", "qs_package.part"} & sys.modules.keys()
    assert importer.answers() == (42, 43)
    assert {"qs_plain", "qs_package", "qs_package.part"} <= sys.modules.keys()


def test_others_get_the_real_modules(modules: Path) -> None:
    (modules / "qs_importer.py").write_text("import qs_plain\n")
    import_without("qs_importer", ("qs_plain",))
    import qs_plain  # type: ignore[import-not-found] # made above

    assert not isinstance(qs_plain, Later)
    assert qs_plain.answer == 42


def test_what_is_imported_already_stays_as_it_is(modules: Path) -> None:
    (modules / "qs_importer.py").write_text("import qs_plain\n")
    import qs_plain

    assert import_without("qs_importer", ("qs_plain",)).qs_plain is qs_plain


def test_an_importer_may_use_it_at_once(modules: Path) -> None:
    (modules / "qs_importer.py").write_text("import qs_plain\nanswer = qs_plain.answer\n")
    assert import_without("qs_importer", ("qs_plain",)).answer == 42


def test_what_a_module_does_not_have(modules: Path) -> None:
    (modules / "qs_importer.py").write_text("import qs_plain\n")
    importer = import_without("qs_importer", ("qs_plain",))
    with pytest.raises(AttributeError, match="nothing"):
        importer.qs_plain.nothing  # noqa: B018 # raises
