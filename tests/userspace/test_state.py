"""The state folder: modes, atomic writes, locks, and the one line that a user gets when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quicsocks.userspace import state
from quicsocks.userspace.state import StateError, StateFolder, default_runtime_dir, default_state_dir, read_private

from .support import mode


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


# Where the folders are.


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/quicsocks", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/var/lib/quicsocks"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/quicsocks"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/quicsocks"),
        ({"HOME": "/h"}, "/h/.local/state/quicsocks"),
    ],
)
def test_default_state_dir(environ: dict[str, str], expected: str) -> None:
    assert default_state_dir(environ) == Path(expected)


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "/"}])
def test_no_home_is_one_line_that_says_what_to_do(environ: dict[str, str]) -> None:
    with pytest.raises(StateError, match="--state DIR"):
        default_state_dir(environ)


def test_default_runtime_dir(tmp_path: Path) -> None:
    assert default_runtime_dir({"RUNTIME_DIRECTORY": "/run/quicsocks"}) == Path("/run/quicsocks")
    assert default_runtime_dir({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "quicsocks"
    fallback = Path(f"/tmp/quicsocks-{os.getuid()}")
    assert default_runtime_dir({}) == fallback
    assert default_runtime_dir({"XDG_RUNTIME_DIR": str(tmp_path / "gone")}) == fallback


# The folder itself.


def test_folder_is_private_and_its_files_too(folder: StateFolder) -> None:
    folder.write("key", b"secret")
    assert mode(folder.path) == 0o700
    assert mode(folder.file("key")) == 0o600
    assert folder.read("key") == b"secret"


def test_umask_does_not_open_files(folder: StateFolder) -> None:
    old = os.umask(0)
    try:
        folder.write("key", b"secret")
        sub = folder.subfolder("links")
    finally:
        os.umask(old)
    assert mode(folder.file("key")) == 0o600
    assert mode(sub.path) == 0o700


def test_folder_that_others_can_write_in_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(StateError, match="chmod 700"):
        StateFolder(tmp_path / "open")


def test_service_managers_folder_may_be_readable(tmp_path: Path) -> None:
    (tmp_path / "managed").mkdir(mode=0o755)
    assert StateFolder(tmp_path / "managed").read("nothing") is None


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="not a folder"):
        StateFolder(tmp_path / "file")
    with pytest.raises(StateError, match="cannot make or open"):
        StateFolder(tmp_path / "file" / "below")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder to another user")
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(StateError, match="belongs to another user"):
        StateFolder(tmp_path / "theirs")
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.chown(tmp_path / "link", 65534, 65534, follow_symlinks=False)
    with pytest.raises(StateError, match="link made by another user"):
        StateFolder(tmp_path / "link")


# Files.


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o622])
def test_secret_that_others_can_read_is_refused(folder: StateFolder, bits: int) -> None:
    folder.write("key", b"xyzzy")
    folder.file("key").chmod(bits)
    with pytest.raises(StateError, match=r"can be read by other users; run: chmod 600 .*/key$") as caught:
        folder.read("key")
    assert "xyzzy" not in str(caught.value)


def test_credentials_of_a_service_manager_may_look_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials" / "token"
    file.parent.mkdir()
    file.write_bytes(b"secret")
    file.chmod(0o440)
    with pytest.raises(StateError):
        read_private(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert read_private(file) == b"secret"


def test_missing_is_none_but_unreadable_is_an_error(folder: StateFolder) -> None:
    assert folder.read("none") is None
    (folder.path / "dir").mkdir()
    with pytest.raises(StateError, match="is a directory"):
        folder.read("dir")


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c",
         "import pathlib, quicsocks.userspace.state as s; print(s.read_private(pathlib.Path('/dev/stdin')).decode())"],
        input="through a pipe", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "through a pipe\n"


def test_huge_file_is_refused(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_FILE", 10)
    folder.write("big", b"x" * 11)
    with pytest.raises(StateError, match="larger than"):
        folder.read("big")


def test_failed_write_leaves_the_old_content_and_nothing_else(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("file", b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StateError, match=r"cannot write .*/file: no space left on device"):
        folder.write("file", b"new")
    assert folder.read("file") == b"old"
    assert os.listdir(folder.path) == ["file"]


def test_write_replaces_the_file_as_a_whole(folder: StateFolder) -> None:
    folder.write("file", b"old")
    with open(folder.file("file"), "rb") as reader:
        folder.write("file", b"new")
        assert reader.read() == b"old"
    assert folder.read("file") == b"new"


def test_names_and_remove(folder: StateFolder) -> None:
    folder.write("b.link", b"")
    folder.write("a.link", b"")
    folder.write("other", b"")
    (folder.path / ".c.link").write_bytes(b"")
    assert folder.names(".link") == ["a.link", "b.link"]
    assert folder.remove("a.link")
    assert not folder.remove("a.link")
    assert folder.names(".link") == ["b.link"]


# Locks.


def test_lock_is_exclusive_between_descriptors(folder: StateFolder) -> None:
    other = StateFolder(folder.path)
    with folder.locked(), pytest.raises(StateError, match="another process holds the lock"), other.locked(timeout=0):
        raise AssertionError("two holders")
    with other.locked(timeout=0):
        pass


def test_lock_is_given_back_after_an_exception(folder: StateFolder) -> None:
    with pytest.raises(KeyError), folder.locked():
        raise KeyError
    with folder.locked(timeout=0):
        pass


def test_claim_names_the_process_and_ends_with_it(folder: StateFolder) -> None:
    claim = folder.claim("concentrator")
    with pytest.raises(StateError, match=rf"another concentrator \(process {os.getpid()}\).*--state DIR"):
        StateFolder(folder.path).claim("concentrator")
    claim.close()
    claim.close()
    StateFolder(folder.path).claim("concentrator").close()


def test_processes_do_not_lose_each_others_changes(folder: StateFolder) -> None:
    program = (
        "import sys, pathlib; from quicsocks.userspace.state import StateFolder\n"
        "folder = StateFolder(pathlib.Path(sys.argv[1]))\n"
        "for _ in range(50):\n"
        "    with folder.locked():\n"
        "        folder.write('count', str(int(folder.read('count') or b'0') + 1).encode())\n"
    )
    workers = [subprocess.Popen([sys.executable, "-P", "-c", program, str(folder.path)]) for _ in range(3)]
    assert [worker.wait(30) for worker in workers] == [0, 0, 0]
    assert folder.read("count") == b"150"
