"""The Containerfile: what it copies is enough, it runs without any right, and its health check tells the truth.

No container engine is needed: the instructions are read, and what an engine would do with them is done by hand - the
product in an environment made from the copied files alone, as nobody, on a read-only file system with an empty /tmp.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicsocks.userspace.cli.parser import build_parser, parse
from tests.contrib.sandbox import HERE, Sandbox
from tests.contrib.units import CONTRIB, ROOT
from tests.interop.places import can_mount
from tests.interop.processes import NOBODY_UID, as_nobody
from tests.packaging.environments import BUILDERS, Environment, run

CONTAINERFILE = CONTRIB / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, arguments in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments))
    return found


def value(name: str) -> str:
    """Of an instruction that stands once in the last stage."""
    [found] = [arguments for instruction, arguments in stages()[-1] if instruction == name]
    return found


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(value("ENV")))


def test_it_is_built_on_a_small_python_that_is_named_in_full() -> None:
    for stage in stages():
        assert re.match(r"docker\.io/library/python:3\.\d+-slim(?: AS \w+)?$", stage[0][1])


def test_it_runs_as_nobody_in_particular() -> None:
    user, group = value("USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    names = [name for name, _ in stages()[-1]]
    assert "RUN" not in names[names.index("USER") :], "what runs after USER could not be what needs rights"


def test_nothing_comes_from_elsewhere_than_the_tree() -> None:
    assert not [name for name, _ in instructions() if name == "ADD"]
    assert not re.search(r"curl|wget|https?://", CONTAINERFILE.read_text())


def test_entry_point_and_default_command_are_ours() -> None:
    entry, command = json.loads(value("ENTRYPOINT")), json.loads(value("CMD"))
    assert entry == ["quicsocks"]
    assert parse(build_parser(), command).command_name == "run"


def test_the_health_check_is_one_of_our_commands() -> None:
    words = json.loads(value("HEALTHCHECK").partition("CMD ")[2])
    assert words[0] == "quicsocks"
    assert parse(build_parser(), words[1:]).command_name == "status"


def copied(target: Path) -> Path:
    """The build stage's folder: exactly what its COPY instructions name."""
    target.mkdir()
    for name, arguments in stages()[0]:
        if name == "COPY":
            *sources, destination = arguments.split()
            for source in sources:
                path = ROOT / source
                if path.is_dir():
                    shutil.copytree(path, target / destination, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
                else:
                    shutil.copy(path, target / destination)
    return target


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which what is copied has been installed."""
    tree = copied(tmp_path_factory.mktemp("context") / "src")
    made = Environment(tmp_path_factory.mktemp("image") / "venv", ["quicsocks", *BUILDERS])
    made.pip_install(tree)
    return made


def test_what_is_copied_is_enough(image: Environment) -> None:
    assert image.command("version")
    assert run([image.folder / "bin/quicsocks", "run", "--help"], image.folder)


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    if not as_nobody() or not can_mount():
        pytest.skip("needs root, setpriv and mounts of one's own")
    top = tmp_path_factory.mktemp("container")
    for parent in (top, *top.parents[:2]):
        parent.chmod(0o755)
    box = Sandbox(top)
    try:
        yield box
    finally:
        box.close()


def test_it_runs_read_only_and_without_rights(sandbox: Sandbox, image: Environment) -> None:
    """With the variables of the image, but its volume in a folder of this test's."""
    for parent in (image.folder, *image.folder.parents[:3]):
        parent.chmod(0o755)
    state = sandbox.folder("state")
    home = sandbox.folder("home-folder")
    variables = {**environment(), "QUICSOCKS_STATE": str(state)}
    # Of the two folders that may be written, one stands for /tmp, which is a tmpfs in the container.
    variables["QUICSOCKS_RUNTIME"] = variables["QUICSOCKS_RUNTIME"].replace("/tmp", str(home))
    variables["PATH"] = f"{image.folder / 'bin'}:{variables['PATH'].split(':', 1)[1]}"
    port = HERE.free_port("127.0.0.1")
    program = str(image.folder / "bin/quicsocks")
    words = ["concentrator", "--listen", f"127.0.0.1:{port}", "--public-name", f"127.0.0.1:{port}", "--print-link"]
    check = json.loads(value("HEALTHCHECK").partition("CMD ")[2])
    unhealthy = sandbox.spawner.run(HERE, [program, *check[1:]], env=variables)
    assert unhealthy.returncode == 1, "nothing runs yet"
    process = sandbox.spawner.start(
        HERE, [program, *words], name="concentrator", env=variables, read_only=[state, home]
    )
    process.wait_line(r"concentrator listening on", 20)
    # Another stream, another reader: the link may be read after the line that was printed behind it.
    process.wait_line(r"^quicsocks://", 20)
    assert process.stdout[0].startswith("quicsocks://")
    assert process.user() == NOBODY_UID
    rights = process.capabilities()
    assert rights.pop("NoNewPrivs") == 1
    assert set(rights.values()) == {0}
    healthy = sandbox.spawner.run(HERE, [program, *check[1:]], env=variables)
    assert (healthy.returncode, healthy.stdout) == (0, b"")
    added = sandbox.spawner.run(HERE, [program, "client", "add", "phone", "--print-link"], env=variables)
    assert added.returncode == 0, added.stderr.decode()
    assert added.stdout.startswith(b"quicsocks://")
    assert process.stop() == 0
