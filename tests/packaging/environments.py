"""Empty virtual environments, and the copy of the tree from which they install.

An environment begins without any package. What the project needs from the package index is lent to it by a folder of
links to the distributions that already stand in the environment of the tests: exactly those that the project's own
metadata names, and theirs in turn, so that a dependency that is not declared is missing here as it would be elsewhere.
pip runs without an index and without build isolation: it checks what is declared, and downloads nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("userspace", "netstack", "socks")
BUILDERS = ("cython", "setuptools")
"""What a build needs."""
TIMEOUT = 400
"""Seconds: a build takes one minute, several while the other half of the tests runs."""


def copy_tree(target: Path) -> Path:
    """What a checkout has and a build reads; a copy, so that a build leaves nothing in the tree itself."""
    target.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, target)
    # Everything that stands beside the rooms in a checkout, so that a build may wrongly pick it up.
    for name in (*ROOMS, "tests", "bench", "contrib"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    return target


def run(argv: Sequence[str | Path], cwd: Path) -> str:
    """Run a program to its end; what it printed. Raises AssertionError with all of it when it fails."""
    done = subprocess.run(
        list(map(str, argv)),
        cwd=cwd,
        env=_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout}{done.stderr}"
    return done.stdout


def _environ() -> dict[str, str]:
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_FIND_LINKS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    ours = {name: value for name, value in kept.items() if not name.startswith("QUICSOCKS_")}
    return {**ours, "QUICSOCKS_BUILD": "debug"}  # Compiles in a fraction of the time.


class Environment:
    """A virtual environment of its own. lend: requirements (``name`` or ``name[extra]``) to make available."""

    def __init__(self, folder: Path, lend: Iterable[str]) -> None:
        self.folder = folder
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
        self.python = folder / "bin/python"
        paths = sysconfig.get_paths(scheme="venv", vars={"base": str(folder), "platbase": str(folder)})
        self.packages = Path(paths["purelib"])
        lent = folder / "lent"
        lent.mkdir()
        for name in closure(lend):
            _link(metadata.distribution(name), lent)
        (self.packages / "lent.pth").write_text(f"{lent}\n")

    def pip_install(self, *arguments: str | Path) -> None:
        """With the pip of the tests, which no environment needs a copy of."""
        pip: list[str | Path] = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "--no-input",
            "--no-index",
        ]
        run([*pip, "--no-build-isolation", "--quiet", *arguments], self.folder)

    def python_run(self, script: str) -> str:
        """Run a script from an unrelated folder; what it printed."""
        return run([self.python, "-c", script], self.folder)

    def command(self, *arguments: str) -> str:
        """Run the installed ``quicsocks``."""
        return run([self.folder / "bin/quicsocks", *arguments], self.folder)


def closure(requirements: Iterable[str]) -> list[str]:
    """The distributions that requirements name, and those that these need here, by normal name."""
    found: dict[str, None] = {}
    waiting = list(requirements)
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if requirement in seen:
            continue
        seen.add(requirement)
        parsed = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[([^]]*)\])?", requirement)
        assert parsed is not None, requirement
        name, extras = parsed[1], [extra.strip() for extra in (parsed[2] or "").split(",") if extra.strip()]
        if name != "quicsocks":
            found[re.sub(r"[-_.]+", "-", name).lower()] = None
        waiting += _needed(name, extras)
    return list(found)


def _needed(name: str, extras: list[str]) -> list[str]:
    needed = []
    for line in metadata.requires(name) or ():
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"""extra == ['"]([^'"]+)['"]""", marker)
        if wanted is not None:
            if wanted[1] in extras:
                needed.append(requirement)
        elif _is_installed(requirement):
            # A marker for another system or Python: what it names is not here.
            needed.append(requirement)
        else:
            assert marker, f"{name} needs {requirement}, which is not installed"
    return needed


def _is_installed(requirement: str) -> bool:
    parsed = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert parsed is not None, requirement
    try:
        metadata.distribution(parsed[0])
    except metadata.PackageNotFoundError:
        return False
    return True


def _link(distribution: metadata.Distribution, target: Path) -> None:
    tops = {Path(file).parts[0] for file in distribution.files or ()}
    for top in tops - {"..", "__pycache__"}:
        link = target / top
        if not link.exists() and not top.endswith(".pth"):
            link.symlink_to(Path(str(distribution.locate_file(top))))
