"""The stage itself: it stands, it can fail, it keeps networks apart, and it leaves nothing behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from tests.interop.nginx import digest
from tests.interop.places import NAMESPACE_ETC, NAMESPACE_FILES, PREFIX
from tests.interop.processes import NOBODY_UID, as_nobody
from tests.interop.proxies import Microsocks
from tests.interop.system import NAME, ORIGIN_V4, SILENT_V4, UNREACHABLE_V4, UNROUTED_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]


def test_the_client_cannot_reach_the_origin_by_itself(system: System) -> None:
    with pytest.raises(OSError) as caught:
        system.client.connect(ORIGIN_V4, 80, 2)
    assert caught.value.errno == errno.ENETUNREACH
    done = system.spawner.run(system.client, ["curl", "-sS", "--max-time", "5", f"http://{NAME}/1k"])
    assert done.returncode == 6, "only the exit's resolver knows the name"


def test_the_exit_reaches_the_origin_and_its_log_says_who_came(system: System) -> None:
    done = system.spawner.run(system.exit, ["curl", "-sS", f"http://{NAME}/1k?harness"])
    assert digest(done.stdout) == system.nginx.hashes["1k"]
    assert system.nginx.wait_entry("/1k?harness").remote in (system.seen_v4, system.seen_v6)


def test_the_exits_dead_ends_are_what_they_claim(system: System) -> None:
    for address, number in ((UNREACHABLE_V4, errno.EHOSTUNREACH), (UNROUTED_V4, errno.ENETUNREACH)):
        with pytest.raises(OSError) as caught:
            system.exit.connect(address, 80, 2)
        assert caught.value.errno == number
    with pytest.raises(TimeoutError):
        system.exit.connect(SILENT_V4, 80, 0.3)
    with pytest.raises(ConnectionRefusedError):
        system.exit.connect(ORIGIN_V4, 9, 2)


def test_programs_run_as_nobody_without_capabilities(system: System) -> None:
    proxy = Microsocks(system)
    proxy.start()
    try:
        process = proxy.processes["microsocks"]
        assert as_nobody()
        assert process.user() == NOBODY_UID
        assert process.capabilities() == {
            "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1,
        }  # fmt: skip
        assert os.readlink(f"/proc/{process.pid}/exe").endswith("microsocks"), "the program is exec'ed in place"
    finally:
        proxy.stop()


def test_nobody_reaches_the_interpreter_of_the_tests(system: System) -> None:
    done = system.spawner.run(
        system.client, [sys.executable, "-c", "import sys, os; print(sys.version, os.getuid(), sys.base_prefix)"]
    )
    assert done.stdout.decode().strip() == f"{sys.version} {NOBODY_UID} {sys.base_prefix}", done.stderr.decode()


def test_a_read_only_file_system_is_read_only_but_for_the_state(system: System) -> None:
    state = system.folder("state")
    script = f"echo kept > {state}/file && ! touch {system.tmp}/home/file 2>/dev/null && ! touch /tmp/file 2>/dev/null"
    process = system.spawner.start(system.exit, ["sh", "-c", script], read_only=[state])
    assert process.wait(10) == 0, process.output
    assert (state / "file").read_text() == "kept\n"
    assert not (system.tmp / "home/file").exists()


def test_a_wait_for_a_line_fails_when_the_program_ends(system: System) -> None:
    process = system.spawner.start(system.client, ["sh", "-c", "echo something else; exit 3"])
    with pytest.raises(AssertionError, match="something else"):
        process.wait_line("ready", timeout=10)
    assert process.wait(5) == 3


def test_a_program_that_hangs_is_ended_with_its_children(system: System) -> None:
    with pytest.raises(AssertionError, match="took longer"):
        system.spawner.run(system.client, ["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.3)
    assert system.client.namespace is not None
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in system.strays() if Path(f"/proc/{pid}").exists()]
    assert "sleep" not in names


def test_a_second_stage_stands_beside_the_first_and_leaves_nothing(loopback: System) -> None:
    """On loopback here; what namespaces leave is looked at by the next test."""
    tmp = loopback.tmp
    with System(isolated=False) as stage:
        pids = [process.pid for process in stage.spawner._running]
        with stage.client.connect("127.0.0.1", stage.nginx.http) as sock:
            sock.sendall(b"HEAD /1k HTTP/1.0\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert pids
    assert not stage.tmp.exists()
    assert tmp.exists()
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_namespaces_are_removed_also_after_a_failure(monkeypatch: pytest.MonkeyPatch, system: System) -> None:
    """A stage of another run's name fails half-way: namespaces, folders and processes are gone all the same."""
    real = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: real + 10_000_000)

    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("tests.interop.system.Sshd", fail)
    stage = System(isolated=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        stage.__enter__()
    mine = f"{PREFIX}{real + 10_000_000}-"
    assert not [entry for entry in NAMESPACE_FILES.iterdir() if entry.name.startswith(mine)]
    assert not [entry for entry in NAMESPACE_ETC.iterdir() if entry.name.startswith(mine)]
    assert not stage.tmp.exists()


def test_a_socket_belongs_to_its_place(system: System) -> None:
    with system.origin.listen(ORIGIN_V4) as listener:
        port = listener.getsockname()[1]
        with system.exit.connect(ORIGIN_V4, port) as near, listener.accept()[0] as far:
            assert far.getpeername()[0] == system.seen_v4
            near.sendall(b"x")
            assert far.recv(1) == b"x"
        with pytest.raises(OSError):
            system.client.connect(ORIGIN_V4, port, 0.5)
