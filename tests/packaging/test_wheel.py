"""What is in the wheel and in the source distribution, and that both roads lead to the same wheel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.environments import BUILDERS, ROOMS, TIMEOUT, Environment, copy_tree, run

EXTENSION = str(sysconfig.get_config_var("EXT_SUFFIX"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("wheel") / "tree")


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("builder") / "venv", ["build", *BUILDERS])


@pytest.fixture(scope="module")
def wheel(tree: Path, builder: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tree."""
    return build(builder, tree, tmp_path_factory.mktemp("from-tree"), "--wheel", "*.whl")


@pytest.fixture(scope="module")
def sdist(tree: Path, builder: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(builder, tree, tmp_path_factory.mktemp("sdist"), "--sdist", "*.tar.gz")


def build(builder: Environment, tree: Path, out: Path, kind: str, pattern: str) -> Path:
    out.mkdir(exist_ok=True)
    run([builder.python, "-m", "build", "--no-isolation", kind, "--outdir", out, tree], out)
    [made] = out.glob(pattern)
    return made


def contents(wheel: Path) -> dict[str, str]:
    """Digests by name. RECORD lists the others and so says nothing new."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if not name.endswith(("/RECORD", "/"))
        }


def test_it_contains_every_module_of_ours_and_nothing_else(wheel: Path, tree: Path) -> None:
    expected = {
        "quicsocks/" + path.relative_to(tree).as_posix()
        for room in ROOMS
        for path in (tree / room).rglob("*")
        if path.suffix in (".py", ".pyi") or path.name == "py.typed"
    }
    expected |= {
        "quicsocks/" + path.relative_to(tree).with_suffix(EXTENSION).as_posix()
        for room in ROOMS
        for path in (tree / room).rglob("*.pyx")
    }
    names = set(contents(wheel))
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == expected


def test_top_level_names(wheel: Path) -> None:
    """No ``socks``, which is PySocks'; no ``tests`` and no ``bench``, which are everybody's."""
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"quicsocks"}


def test_it_is_typed(wheel: Path) -> None:
    names = contents(wheel)
    for room in ROOMS:
        assert f"quicsocks/{room}/py.typed" in names


def test_quicsocks_itself_is_a_namespace(wheel: Path) -> None:
    assert "quicsocks/__init__.py" not in contents(wheel)


def test_it_carries_licence_and_description(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
        assert any(Path(name).name == "LICENSE" for name in archive.namelist())
    assert "# quicsocks" in text
    assert "Requires-Dist: aioquic==1.7.2" in text


def test_the_command_is_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [points] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        assert "quicsocks = quicsocks.userspace.cli:main" in archive.read(points).decode()


def test_the_source_distribution_makes_the_same_wheel(
    sdist: Path, wheel: Path, builder: Environment, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        # Ours, just built; Python before 3.11.4 has no filters.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "source", **safely)  # type: ignore[arg-type]  # a keyword of newer versions
    [source] = (tmp_path / "source").iterdir()
    assert contents(build(builder, source, tmp_path / "out", "--wheel", "*.whl")) == contents(wheel)


def test_a_second_build_is_the_same_and_warns_of_nothing(
    wheel: Path, tree: Path, builder: Environment, tmp_path: Path
) -> None:
    """Also when the first one's folders are still there: nothing stale gets in. A deprecated setting would break installing one
    day, with whatever setuptools is new then."""
    stale = tree / "build/lib/quicsocks/socks/stale.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("")
    words: list[str | Path] = ["-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, tree]
    done = subprocess.run(
        [builder.python, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
        env={**os.environ, "QUICSOCKS_BUILD": "debug"},
    )
    assert "deprecat" not in (done.stdout + done.stderr).lower()
    [again] = tmp_path.glob("*.whl")
    assert contents(again) == contents(wheel)
