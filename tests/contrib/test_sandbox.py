"""The product under the settings of its service units: system call filters, address families, no executable memory that
can be written, nobody, an empty bounding set, a read-only file system. And that these settings really hold."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contrib.sandbox import HERE, Manager, Sandbox, allowed_syscalls, descriptors, why_not
from tests.contrib.units import CLIENT, CONCENTRATOR, Unit
from tests.interop.processes import BIN, NOBODY_UID, Process

pytestmark = pytest.mark.programs

WATCHDOG_USEC = "1000000"
BODY = b"through the sandbox\n" * 5000


@dataclass(slots=True)
class Running:
    """Both ends as their units have them, and an origin."""

    sandbox: Sandbox
    concentrator: Process
    concentrator_manager: Manager
    client: Process
    client_manager: Manager
    socks: int
    origin: int
    server_runtime: Path
    server_state: Path


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    top = tmp_path_factory.mktemp("sandbox")
    for parent in (top, *top.parents[:2]):
        parent.chmod(0o755)
    box = Sandbox(top)
    try:
        yield box
    finally:
        box.close()


@pytest.fixture(scope="module")
def running(sandbox: Sandbox) -> Running:
    files = sandbox.folder("files")
    (files / "file").write_bytes(BODY)
    origin = HERE.free_port("127.0.0.1")
    serve = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", str(files), str(origin)]
    web = sandbox.spawner.start(HERE, [sys.executable, "-u", *serve], name="origin")
    quic, socks = HERE.free_port("127.0.0.1"), HERE.free_port("127.0.0.1")
    server = Unit.read(CONCENTRATOR)
    state, runtime = sandbox.folder("server-state"), sandbox.folder("server-runtime")
    told = sandbox.manager("concentrator")
    argv: list[str | Path] = [BIN / "quicsocks", *server.argv[1:]]
    concentrator = sandbox.start(
        server,
        argv,
        name="concentrator",
        writable=[state, runtime],
        env={
            "STATE_DIRECTORY": str(state),
            "RUNTIME_DIRECTORY": str(runtime),
            "NOTIFY_SOCKET": str(told.path),
            "WATCHDOG_USEC": WATCHDOG_USEC,
            "QUICSOCKS_LISTEN": f"127.0.0.1:{quic}",
            "QUICSOCKS_PUBLIC_NAME": f"127.0.0.1:{quic}",
            "QUICSOCKS_RULES": f"allow 127.0.0.1/32:{origin}",
        },
    )
    told.wait_for("READY=1", concentrator)
    # Standard output is no terminal: the link is in a file whose name is printed.
    link = Path(concentrator.wait_line(r"^(/.*\.link)$")[1])
    unit = Unit.read(CLIENT)
    home, session = sandbox.folder("client-state"), sandbox.folder("client-runtime")
    said = sandbox.manager("client")
    client = sandbox.start(
        unit,
        [BIN / "quicsocks", *unit.argv[1:]],
        name="client",
        writable=[home, session],
        env={
            "QUICSOCKS_STATE": str(home),
            "QUICSOCKS_RUNTIME": str(session),
            "NOTIFY_SOCKET": str(said.path),
            "WATCHDOG_USEC": WATCHDOG_USEC,
            "QUICSOCKS_LISTEN": f"127.0.0.1:{socks}",
            "QUICSOCKS_LINK_FILE": str(link),
        },
    )
    said.wait_for("READY=1", client)
    web.wait_line("Serving HTTP")
    return Running(sandbox, concentrator, told, client, said, socks, origin, runtime, state)


def fetch(running: Running, proxy: str) -> bytes:
    url = f"http://127.0.0.1:{running.origin}/file"
    words = ["curl", "-q", "-sS", "--noproxy", "", "-m", "30", "-x", f"{proxy}://127.0.0.1:{running.socks}", url]
    done = subprocess.run(words, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode() + running.client.output + running.concentrator.output
    return done.stdout


@pytest.mark.parametrize("proxy", ["socks5h", "socks4a", "http"])
def test_they_work_confined(running: Running, proxy: str) -> None:
    assert fetch(running, proxy) == BODY


def test_they_are_confined(running: Running) -> None:
    for process in (running.concentrator, running.client):
        assert process.user() == NOBODY_UID
        rights = process.capabilities()
        assert rights.pop("NoNewPrivs") == 1
        assert set(rights.values()) == {0}
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Seccomp"] == "2", "no filter"


def test_the_limit_of_descriptors_is_raised_to_the_units(running: Running) -> None:
    limits = Path(f"/proc/{running.concentrator.pid}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    hard = str(descriptors(Unit.read(CONCENTRATOR)))
    assert line.split()[3:5] == [hard, hard]


def test_the_watchdog_is_fed(running: Running) -> None:
    running.concentrator_manager.wait_for("WATCHDOG=1", running.concentrator)
    running.client_manager.wait_for("WATCHDOG=1", running.client)


def test_a_reload_is_announced_and_over(running: Running) -> None:
    running.concentrator.signal(signal.SIGHUP)
    running.concentrator_manager.wait_for("RELOADING=1", running.concentrator)
    running.concentrator_manager.wait_for("READY=1", running.concentrator)
    assert fetch(running, "socks5h") == BODY


def test_status_answers(running: Running) -> None:
    """As the unit's own user, from outside of the sandbox."""
    done = running.sandbox.spawner.run(
        HERE, [str(BIN / "quicsocks"), "status", "--json", "--runtime", str(running.server_runtime)]
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["role"] == "concentrator"
    assert [client["name"] for client in told["clients"]] == ["home"]


def test_files_are_private(running: Running) -> None:
    for path in running.server_state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


PROBE = """
import ctypes, errno, mmap, os, socket, sys
def fails(call, *numbers):
    try:
        call()
    except (OSError, MemoryError) as error:
        number = getattr(error, "errno", errno.EACCES)
        return number in numbers
    return False
def libc_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
print([
    fails(lambda: mmap.mmap(-1, 4096, anonymous, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC), errno.EACCES),
    fails(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), errno.EPERM),
    fails(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), errno.EPERM),
    fails(lambda: libc_call("unshare", 0x10000000), errno.EPERM),
    fails(lambda: libc_call("ptrace", 0, 0, 0, 0), errno.EPERM),
    fails(lambda: os.setuid(0), errno.EPERM),
    fails(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)), errno.EPERM),
    fails(lambda: open(sys.argv[1], "w"), errno.EROFS),
    not fails(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(), errno.EPERM),
    not fails(lambda: open(sys.argv[2], "w").close(), errno.EROFS, errno.EACCES),
])
"""


@pytest.mark.parametrize("path", [CONCENTRATOR, CLIENT], ids=["concentrator", "client"])
def test_the_sandbox_bites(sandbox: Sandbox, path: Path) -> None:
    """Without this, the tests above would show little."""
    kept, lost = sandbox.folder(f"kept-{path.stem}"), sandbox.folder(f"lost-{path.stem}")
    argv: list[str | Path] = [sys.executable, "-I", "-c", PROBE, lost / "file", kept / "file"]
    process = sandbox.start(Unit.read(path), argv, name="probe", writable=[kept])
    assert process.wait() == 0, process.output
    assert process.stdout == [str([True] * 10)], process.output


def test_the_filter_is_what_the_unit_says() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    allowed = allowed_syscalls(Unit.read(CONCENTRATOR))
    assert {"sendmsg", "recvmmsg", "epoll_wait", "prlimit64", "execve"} <= allowed
    assert not {"ptrace", "mount", "bpf", "setuid", "chown", "reboot", "init_module", "sched_setaffinity"} & allowed


def test_it_ends_in_order(running: Running) -> None:
    """Last: the units stop with SIGTERM and count anything but 0 as a failure."""
    running.client.signal(signal.SIGTERM)
    assert running.client.wait() == 0, running.client.output
    running.concentrator.signal(signal.SIGTERM)
    running.concentrator_manager.wait_for("STOPPING=1", running.concentrator)
    assert running.concentrator.wait() == 0, running.concentrator.output
