"""The README's quick start, as a user types it: installed from the tree, two home folders for two machines, real curl.

What differs from the README: everything is on loopback, so the concentrator is told its port and may dial the origin.
"""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.interop.places import Place
from tests.packaging.environments import BUILDERS, Environment, copy_tree

HERE = Place("this machine")
BODY = b"what the origin says\n" * 1000
TIMEOUT = 30


@dataclass(slots=True)
class Machine:
    """A home folder, and the installed command in it. variables: as its user has exported them."""

    home: Path
    environment: Environment
    variables: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def environ(self) -> dict[str, str]:
        path = f"{self.environment.folder / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        runtime = self.home / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        return {"HOME": str(self.home), "PATH": path, "XDG_RUNTIME_DIR": str(runtime), **self.variables}

    def type(self, line: str, input: str = "", status: int = 0) -> str:
        """Run a line of shell to its end; what it printed on standard output."""
        done = subprocess.run(
            ["sh", "-c", line],
            input=input,
            env=self.environ(),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == status, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line: str, until: str) -> str:
        """Run a line in the background; the first line on either output that contains until."""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            stdin=subprocess.DEVNULL,
            env=self.environ(),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        seen = ""
        try:
            assert process.stdout is not None
            for said in process.stdout:
                seen += said
                if until in said:
                    return said.strip()
        finally:
            timer.cancel()
        raise AssertionError(f"{line} did not say {until!r}:\n{seen}")

    def stop(self) -> list[int]:
        statuses = []
        while self.running:
            process = self.running.pop()
            process.send_signal(signal.SIGTERM)
            with process:
                process.communicate(timeout=TIMEOUT)
            statuses.append(process.returncode)
        return statuses


class _Origin(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Origin)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    installed = Environment(tmp_path_factory.mktemp("quickstart") / "venv", ["quicsocks", *BUILDERS])
    installed.pip_install(copy_tree(tmp_path_factory.mktemp("quickstart-tree") / "tree"))
    return installed


@pytest.fixture
def server(tmp_path: Path, environment: Environment) -> Iterator[Machine]:
    machine = Machine(tmp_path / "server", environment)
    machine.home.mkdir()
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def laptop(tmp_path: Path, environment: Environment) -> Iterator[Machine]:
    machine = Machine(tmp_path / "laptop", environment)
    machine.home.mkdir()
    try:
        yield machine
    finally:
        machine.stop()


@pytest.mark.programs
def test_the_quick_start(server: Machine, laptop: Machine, origin: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    quic, socks = HERE.free_port("127.0.0.1"), HERE.free_port("127.0.0.1")
    allowed = origin.removeprefix("http://").rstrip("/").replace(":", "/32:")
    server.start(
        f"quicsocks concentrator --public-name 127.0.0.1:{quic} --listen 127.0.0.1:{quic} --allow {allowed}",
        until="concentrator listening on",
    )
    # No terminal is there to print the link on, so it is in a file of the server's.
    [link_file] = (server.home / ".local/state/quicsocks").rglob("home.link")
    link = link_file.read_text()

    laptop.type("quicsocks link add home", input=link)
    assert "home" in laptop.type("quicsocks link list")
    assert link.split("@")[0].removeprefix("quicsocks://") not in laptop.type("quicsocks link list")
    said = laptop.start(f"quicsocks run --listen 127.0.0.1:{socks} --limit-wait-for-tunnel 1", until="connected to")
    assert f"127.0.0.1:{quic}" in said

    for scheme in ("socks5h", "socks4a", "http"):
        assert laptop.type(f"curl -q -sS --noproxy '' -x {scheme}://127.0.0.1:{socks} {origin}").encode() == BODY
    assert f"127.0.0.1:{quic}" in laptop.type("quicsocks status")
    assert "home" in server.type("quicsocks status")
    # A browser's page can only ask in origin form, and gets nothing.
    refused = laptop.type(f"curl -q -sS --noproxy '*' -i http://127.0.0.1:{socks}/")
    assert refused.startswith("HTTP/1.1 400 ")
    # Loopback stays out of the tunnel, whatever the variables say.
    variables = laptop.type('eval "$(quicsocks env)" && echo "$ALL_PROXY $https_proxy $NO_PROXY"').split()
    assert variables[:2] == [f"socks5h://127.0.0.1:{socks}", f"http://127.0.0.1:{socks}"]
    assert "127.0.0.1" in variables[2]

    # A second device, and an end to the first.
    second = server.type("quicsocks client add phone --print-link")
    assert second.startswith("quicsocks://")
    assert f"@127.0.0.1:{quic}/" in second
    listed = server.type("quicsocks client list")
    assert "home" in listed
    assert "phone" in listed
    server.type("quicsocks client revoke home")
    laptop.type(f"curl -q -sS --noproxy '' -m 20 -x socks5h://127.0.0.1:{socks} {origin}", status=97)
    assert server.stop() == [0]
    assert laptop.stop() == [0]


@pytest.mark.programs
def test_one_command_through_a_saved_link(server: Machine, laptop: Machine, origin: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    quic = HERE.free_port("127.0.0.1")
    allowed = origin.removeprefix("http://").rstrip("/").replace(":", "/32:")
    server.start(
        f"quicsocks concentrator --public-name 127.0.0.1:{quic} --listen 127.0.0.1:{quic} --allow {allowed}",
        until="concentrator listening on",
    )
    [link_file] = (server.home / ".local/state/quicsocks").rglob("home.link")
    laptop.type("quicsocks link add", input=link_file.read_text())
    # Loopback is in NO_PROXY, so curl is told to use the proxy all the same.
    fetched = laptop.type(f"quicsocks run -- curl -q -sS --noproxy '' {origin}")
    assert fetched.encode() == BODY
    laptop.type("quicsocks run -- sh -c 'exit 7'", status=7)
    laptop.type("quicsocks run -- no-such-program-here", status=127)
