"""Starting what cannot work: each ends with one clear line and the exit code that was promised.

1: it failed here. 2: it was called wrongly. 3: the far end refuses, and this client has never been connected.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.interop.dialogue import socks5, wait_reset
from tests.interop.processes import BIN, Process
from tests.interop.proxies import Quicsocks
from tests.interop.system import ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

REFUSED = 3


@pytest.fixture(scope="module")
def running(system: System) -> Iterator[Quicsocks]:
    proxy = Quicsocks(system)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


def second_client(running: Quicsocks, link: str, *words: str) -> Process:
    """Another installation (a state folder of its own) with this link."""
    system = running.system
    state = system.folder("second")
    file = state / "link"
    file.write_text(link + "\n")
    system.spawner.give(file, 0o600)
    argv = [str(BIN / "quicsocks"), "run", "--state", str(state), "--link-file", str(file), *words]
    argv += ["--listen", f"127.0.0.1:{system.client.free_port('127.0.0.1')}"]
    return system.spawner.start(system.client, argv, name="second", env={"XDG_RUNTIME_DIR": str(state)})


def check_refusal(process: Process, status: int, pattern: str) -> None:
    """It ended with status, and exactly one line says why."""
    assert process.wait(20) == status, process.output
    assert "Traceback" not in process.output
    said = [line for line in process.stderr if re.search(pattern, line, re.IGNORECASE)]
    assert len(said) == 1, process.output
    assert len(process.stderr) <= 2, f"one line, and perhaps the one that says where it listens:\n{process.output}"


def token_of(link: str) -> str:
    found = re.search(r"//([^@]+)@", link)
    assert found is not None
    return found[1]


def new_link(running: Quicsocks, name: str) -> str:
    public = f"{running.system.exit_v4}:{running.udp_port}"
    done = running.ask("concentrator", "client", "add", name, "--print-link", "--public-name", public)
    assert done.returncode == 0, done.stderr.decode()
    found = re.search(rb"quicsocks://\S+", done.stdout)
    assert found is not None, done
    return found.group().decode()


def test_a_wrong_pin(running: Quicsocks) -> None:
    link = new_link(running, "pin")
    wrong = re.sub(r"pin=sha256-[\w-]+", "pin=sha256-" + "A" * 43, link)
    process = second_client(running, wrong)
    check_refusal(process, REFUSED, "key or certificate is not the expected one")
    assert token_of(link) not in process.output


def test_an_unknown_token(running: Quicsocks) -> None:
    link = new_link(running, "unknown")
    token = token_of(link)
    # Not its last characters: the bits that the very last one has too many must be zero.
    wrong = link.replace(token, "".join("A" if c != "A" else "B" for c in token[:4]) + token[4:])
    check_refusal(second_client(running, wrong), REFUSED, "token")


def test_a_used_token_and_a_key_that_needs_none(running: Quicsocks) -> None:
    """A thief who finds the link later gets nowhere; the client that it enrolled comes back without it."""
    link = new_link(running, "once")
    first = second_client(running, link)
    first.wait_line("connected to")
    first.stop()
    check_refusal(second_client(running, link), REFUSED, "used")


def test_a_client_that_nobody_knows(running: Quicsocks) -> None:
    link = running.link_file.read_text().strip()
    process = second_client(running, link.replace(token_of(link) + "@", ""))
    check_refusal(process, REFUSED, "not (known|enrolled)|does not know|unknown")


def test_a_protocol_that_the_concentrator_does_not_speak(running: Quicsocks) -> None:
    link = running.link_file.read_text().strip()
    bare = link.replace(token_of(link) + "@", "").replace("?", "?alpn=qt&", 1)
    check_refusal(second_client(running, bare, "--dns", f"{ORIGIN_V4}:53"), REFUSED, "protocol")


def test_a_revoked_client_is_cut_off_within_a_second(running: Quicsocks, system: System) -> None:
    state = system.folder("revoked")
    file = state / "link"
    file.write_text(new_link(running, "guest") + "\n")
    system.spawner.give(file, 0o600)
    port = system.client.free_port("127.0.0.1")
    argv = [str(BIN / "quicsocks"), "run", "--state", str(state), "--link-file", str(file)]
    argv += ["--listen", f"127.0.0.1:{port}"]
    env = {"XDG_RUNTIME_DIR": str(state)}
    guest = system.spawner.start(system.client, argv, name="guest", env=env)
    guest.wait_line("connected to")
    with system.origin.listen(ORIGIN_V4) as listener, system.client.connect("127.0.0.1", port) as sock:
        assert socks5(sock, ORIGIN_V4, listener.getsockname()[1]).code == 0
        with listener.accept()[0] as far:
            done = running.ask("concentrator", "client", "revoke", "guest")
            revoked = time.monotonic()
            assert done.returncode == 0, done.stderr.decode()
            assert wait_reset(sock, 3)
            assert wait_reset(far, 3)
            assert time.monotonic() - revoked < 1
    guest.wait_line("revoked")
    assert guest.poll() is None, "it has been connected: it stays, retries slowly and says so"
    guest.stop()
    check_refusal(system.spawner.start(system.client, argv, name="guest", env=env), REFUSED, "revoked")


def run_once(system: System, words: Sequence[str], state: Path, **env: str) -> Process:
    argv = [str(BIN / "quicsocks"), *words]
    return system.spawner.start(system.client, argv, env={"XDG_RUNTIME_DIR": str(state), **env})


def test_a_port_in_use(running: Quicsocks) -> None:
    link = running.link_file.read_text().strip()
    process = second_client(running, link, "--listen", running.authority)
    check_refusal(process, 1, f"{running.authority}.*in use")


def test_a_port_that_needs_root(running: Quicsocks) -> None:
    link = running.link_file.read_text().strip()
    check_refusal(second_client(running, link, "--listen", "127.0.0.1:80"), 1, "127.0.0.1:80.*permi")


def test_a_listener_off_loopback_without_a_password(running: Quicsocks, system: System) -> None:
    link = running.link_file.read_text().strip()
    process = second_client(running, link, "--listen", "10.71.1.1:1081")
    assert process.wait(20) in (1, 2)
    assert "Traceback" not in process.output
    assert [line for line in process.stderr if "--allow-open" in line and "password" in line], process.output


@pytest.mark.parametrize(
    "link",
    ["", "nonsense", "https://example.test/", "quicsocks://", "quicsocks://token@host:99999/?pin=sha256-AAAA"],
)
def test_a_bad_link(system: System, link: str) -> None:
    state = system.folder("bad")
    process = run_once(system, ["run", "--state", str(state)], state, QUICSOCKS_LINK=link or " ")
    assert process.wait(20) in (1, 2), process.output
    assert "Traceback" not in process.output
    assert any("link" in line for line in process.stderr), process.output
    assert link not in process.output or len(link) < 12, "a link may hold a token: it is not repeated"


def test_a_bad_configuration_names_file_line_and_key(system: System) -> None:
    state = system.folder("config")
    config = state / "quicsocks.toml"
    config.write_text('version = 1\n\n[client]\nlisten = ["127.0.0.1:1080"]\nuser_name = "me"\n')
    system.spawner.give(config, 0o600)
    process = run_once(system, ["check", str(config)], state)
    assert process.wait(20) in (1, 2), process.output
    assert "Traceback" not in process.output
    line = next(line for line in process.stderr if "user_name" in line)
    assert f"{config}:5" in line
    assert "username" in line


def test_no_secret_in_output_or_status(running: Quicsocks) -> None:
    """The token of the link is in no log line, and not in the command line that others can see."""
    token = token_of(running.link_file.read_text())
    said = running.client.output + json.dumps(running.status("client")) + json.dumps(running.status("concentrator"))
    assert token not in said
    assert token not in Path(f"/proc/{running.client.pid}/cmdline").read_text()


def test_a_link_in_the_environment_works_and_stays_secret(running: Quicsocks, system: System) -> None:
    link = new_link(running, f"env-{secrets.token_hex(3)}")
    state = system.folder("environment")
    words = ["run", "--state", str(state), "--listen", f"127.0.0.1:{system.client.free_port('127.0.0.1')}"]
    process = run_once(system, words, state, QUICSOCKS_LINK=link)
    process.wait_line("connected to")
    assert process.stop() == 0
    assert token_of(link) not in process.output
