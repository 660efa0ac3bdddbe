"""``pip install .``, ``pip install -e .`` and a wheel, each into an empty environment: the command runs, our room is
``quicsocks.socks``, and ``socks`` is still PySocks, with which ``requests[socks]`` fetches through our own listener."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.environments import BUILDERS, Environment, copy_tree, run

# The project's own dependencies, what builds it, and the neighbour that must go on working beside it.
LENT = ("quicsocks", *BUILDERS, "requests[socks]")
WAYS = ("wheel", "folder", "editable")

FETCH = """
import asyncio, http.server, threading
import requests
import socks
from quicsocks.socks.config import ListenerConfig
from quicsocks.socks.listener import start
from quicsocks.userspace.client_exit import direct_exit

assert socks.socksocket and socks.PROXY_TYPE_SOCKS5, "this is not PySocks"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *arguments): ...

origin = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=origin.serve_forever, daemon=True).start()

async def main():
    exit = direct_exit()
    listener = await start(ListenerConfig(addresses=(("127.0.0.1", 0),)), exit, lambda kind, text: None)
    [(host, port)] = listener.addresses
    proxies = {"http": f"socks5h://{host}:{port}"}
    session = requests.Session()
    session.trust_env = False
    url = f"http://127.0.0.1:{origin.server_port}/"
    answer = await asyncio.to_thread(session.get, url, proxies=proxies, timeout=10)
    print(answer.status_code, answer.text)
    session.close()
    await listener.close()
    await exit.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("install") / "tree")


@pytest.fixture(scope="module", params=WAYS)
def installed(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    way: str = request.param
    environment = Environment(tmp_path_factory.mktemp(way) / "venv", LENT)
    if way == "wheel":
        builder = Environment(tmp_path_factory.mktemp("builder") / "venv", ["build", *BUILDERS])
        wheels = tmp_path_factory.mktemp("wheels")
        run([builder.python, "-m", "build", "--no-isolation", "--wheel", "--outdir", wheels, tree], wheels)
        [wheel] = wheels.glob("*.whl")
        environment.pip_install(wheel)
    elif way == "folder":
        environment.pip_install(tree)
    else:
        environment.pip_install("--editable", tree)
    return environment


def test_the_command_runs(installed: Environment) -> None:
    printed = installed.python_run("import quicsocks.userspace as u; print(u.__version__)").strip()
    assert printed
    assert printed in installed.command("version")


def test_the_package_runs_as_a_module(installed: Environment) -> None:
    assert run([installed.python, "-m", "quicsocks.userspace", "version"], installed.folder)


def test_help_of_every_command_is_there(installed: Environment) -> None:
    for command in ("concentrator", "run", "link", "client", "check", "env", "status", "demo", "completion"):
        assert "usage" in installed.command(command, "--help").lower(), command


def test_our_room_is_ours(installed: Environment, tree: Path, request: pytest.FixtureRequest) -> None:
    place = Path(installed.python_run("import quicsocks.socks as room; print(room.__path__[0])").strip())
    editable = "editable" in request.node.callspec.id
    expected = tree / "socks" if editable else installed.packages / "quicsocks/socks"
    assert place.resolve() == expected.resolve()
    assert (place / "py.typed").exists()


def test_every_room_and_the_packages_in_it_are_there(installed: Environment, tree: Path) -> None:
    packages = [
        "quicsocks." + ".".join(init.parent.relative_to(tree).parts)
        for room in ("userspace", "netstack", "socks")
        for init in (tree / room).rglob("__init__.py")
    ]
    assert len(packages) > 8
    installed.python_run(f"import importlib\nfor name in {sorted(packages)}: importlib.import_module(name)")


def test_the_name_socks_is_still_pysocks(installed: Environment) -> None:
    place = installed.python_run("import socks; print(socks.__file__)").strip()
    assert Path(place).name == "socks.py"


def test_requests_fetches_through_us_by_pysocks(installed: Environment) -> None:
    assert installed.python_run(FETCH).split() == ["200", "hello"]


def test_no_name_beside_quicsocks_is_installed(installed: Environment) -> None:
    names = ("tests", "bench", "userspace", "netstack")
    script = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    assert installed.python_run(script).strip() == "[]"


def test_the_metadata_says_what_the_readme_says(installed: Environment) -> None:
    script = "from importlib.metadata import metadata; m = metadata('quicsocks'); print(m['%s'])"
    assert installed.python_run(script % "Requires-Python").strip() == ">=3.11"
    assert installed.python_run(script % "License-Expression").strip() == "MIT"


@pytest.mark.parametrize("installed", ["editable"], indirect=True)
def test_an_editable_install_sees_a_new_file(installed: Environment, tree: Path) -> None:
    """In a package that was there: a new module of a room needs no second install."""
    added = tree / "socks/added_later.py"
    added.write_text("VALUE = 42\n")
    try:
        assert installed.python_run("from quicsocks.socks.added_later import VALUE; print(VALUE)").strip() == "42"
    finally:
        added.unlink()


def test_a_missing_dependency_is_noticed(tree: Path, tmp_path: Path) -> None:
    """That these tests can fail: without what is declared, pip refuses to install."""
    environment = Environment(tmp_path / "venv", BUILDERS)
    with pytest.raises(AssertionError, match="aioquic"):
        environment.pip_install(tree)


def test_the_lent_packages_hold_nothing_of_ours(installed: Environment) -> None:
    names = {path.name for path in (installed.folder / "lent").iterdir()}
    assert "aioquic" in names
    assert not any("quicsocks" in name for name in names)
    assert "pytest" not in names
