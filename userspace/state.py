"""The state folder: where keys, links and the list of clients live, and how files there are read and written.

Folders are made 0700 and files 0600. A write is atomic and durable: a new file beside the old one, flushed, then
renamed over it, so that a crash leaves the old or the new content and never a part. Read-modify-write goes under
``locked``.
Secrets that others on the machine can read are refused, not used with a warning. StateError carries one line for a
person. What the files contain is the business of ``identity``, ``enrolment`` and ``profiles``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

MAX_FILE = 4 << 20
"""Bytes of a state file: ten thousand clients. Anything larger is not ours."""
LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process; it holds the lock for one write, so this means that it hangs."""
LOCK_POLL = 0.01
"""Seconds between two attempts to take the lock; flock has no timeout of its own."""


class StateError(Exception):
    """A file or folder cannot be used; the message is one line: what failed, why, what to do."""


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """The state folder when none is given: systemd's, then XDG's, then the one in the home folder."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd.exec(5): several are joined by colons
    if given:
        return Path(given)
    xdg = environ.get("XDG_STATE_HOME", "")
    if xdg.startswith("/"):  # XDG Base Directory 0.8: a relative path is to be ignored
        return Path(xdg) / "quicsocks"
    home = environ.get("HOME", "")
    if home.startswith("/") and home != "/":
        return Path(home) / ".local/state/quicsocks"
    raise StateError("there is no home folder to keep keys in; give one with --state DIR or set QUICSOCKS_STATE")


def default_runtime_dir(environ: Mapping[str, str]) -> Path:
    """The folder for sockets of running processes: systemd's, then XDG's if it is ours, then one below /tmp."""
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    xdg = environ.get("XDG_RUNTIME_DIR", "")
    if xdg.startswith("/"):
        # su and sudo may leave another user's folder in the variable.
        with contextlib.suppress(OSError):
            if os.stat(xdg).st_uid == os.getuid():
                return Path(xdg) / "quicsocks"
    return Path(f"/tmp/quicsocks-{os.getuid()}")  # noqa: S108 - private_folder checks its owner and mode


def private_folder(path: Path) -> Path:
    """Make path, 0700, with its parents, or check that an existing one is ours and nobody else can write in it.

    Raises StateError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # lstat: in /tmp a link of someone else's must not be followed; links in one's own folders are followed below.
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            if info.st_uid not in (os.getuid(), 0):
                raise StateError(f"{path} is a link made by another user; remove it or choose another folder")
            info = path.stat()
    except OSError as error:
        raise StateError(f"cannot make or open the folder {path}: {reason(error)}; choose another one") from None
    if not stat.S_ISDIR(info.st_mode):
        raise StateError(f"{path} is not a folder; remove it or choose another with --state DIR")
    if info.st_uid != os.getuid():
        raise StateError(f"the folder {path} belongs to another user; choose another or run as its owner")
    if info.st_mode & 0o022:
        raise StateError(f"other users can write in the folder {path}; run: chmod 700 {path}")
    return path


class StateFolder:
    """A private folder of files. Making one creates the folder, or checks it; raises StateError."""

    def __init__(self, path: Path) -> None:
        self.path = private_folder(path)

    def file(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def subfolder(self, name: str) -> StateFolder:
        """A folder in the folder, made when it is not there."""
        return StateFolder(self.path / name)

    def read(self, name: str) -> bytes | None:
        """The content of a file, None when it does not exist. Raises StateError, also when others can read it."""
        try:
            return read_private(self.file(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, atomically and durably, 0600. Raises StateError."""
        write_private(self.file(name), data)

    def remove(self, name: str) -> bool:
        """Remove a file; False when there was none. Raises StateError."""
        try:
            self.file(name).unlink()
            _flush_folder(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StateError(f"cannot remove {self.file(name)}: {reason(error)}") from None
        return True

    def names(self, suffix: str = "") -> list[str]:
        """The names of the files in the folder that end in suffix, sorted; half-written ones are left out."""
        try:
            return sorted(
                entry.name
                for entry in os.scandir(self.path)
                if entry.name.endswith(suffix) and not entry.name.startswith(".") and entry.is_file()
            )
        except OSError as error:
            raise StateError(f"cannot list the folder {self.path}: {reason(error)}") from None

    @contextlib.contextmanager
    def locked(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Hold the folder's lock, so that no other process changes files in between. Not reentrant.

        It blocks the thread, for as long as another process takes to write a file. Raises StateError.
        """
        lock = _open_lock(self.file("lock"))
        try:
            deadline = time.monotonic() + timeout
            while not _try_lock(lock):
                if time.monotonic() >= deadline:
                    raise StateError(f"another process holds the lock of {self.path}; wait for it, or stop it")
                time.sleep(LOCK_POLL)
            yield
        finally:
            os.close(lock)

    def claim(self, role: str) -> Claim:
        """Be the one process of this role with this folder, for as long as the result is kept open.

        Raises StateError when another one is, naming its process id. Gone with the process, however it ends.
        """
        path = self.file(f"{role}.pid")
        lock = _open_lock(path)
        try:
            ours = _try_lock(lock)
        except StateError:
            os.close(lock)
            raise
        if not ours:
            owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise StateError(
                f"another {role} (process {owner or 'unknown'}) uses {self.path}; stop it, or give this one its own "
                "folder with --state DIR"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return Claim(lock)


class Claim:
    """What ``StateFolder.claim`` returns; close it to let another process take over."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Give the claim up. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_private(path: Path, *, what: str = "file") -> bytes:
    """Read a file that only its owner may read. what: how to call it in messages, e.g. "key file".

    Raises FileNotFoundError when there is none, otherwise StateError: unreadable, too large, not a regular file (a pipe
    is taken, so that ``--file <(command)`` works), or readable by others.
    """
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if stat.S_ISREG(info.st_mode) and info.st_mode & 0o077 and not is_handed_in(path):
                raise StateError(f"the {what} {path} can be read by other users; run: chmod 600 {path}")
            if not (stat.S_ISREG(info.st_mode) or stat.S_ISFIFO(info.st_mode) or stat.S_ISCHR(info.st_mode)):
                raise StateError(f"the {what} {path} is not a file")
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"cannot read the {what} {path}: {reason(error)}") from None
    if len(data) > MAX_FILE:
        raise StateError(f"the {what} {path} is larger than {MAX_FILE >> 20} MiB; it cannot be one of ours")
    return data


def write_private(path: Path, data: bytes) -> None:
    """Replace a file, atomically and durably, 0600. Raises StateError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise StateError(f"cannot write {path}: {reason(error)}") from None


def reason(error: OSError) -> str:
    """The operating system's words for an error, in lower case, without number and path."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def is_handed_in(path: Path) -> bool:
    """Whether a service or container manager put the file there and keeps others out by other means than its mode:
    systemd's credentials show an ACL's mask as group bits, Docker mounts secrets 0444."""
    folders = ["/run/secrets", "/var/run/secrets"]
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials.startswith("/"):
        folders.append(credentials)
    parents = path.absolute().parents
    return any(Path(folder) in parents for folder in folders)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(f"cannot open {path}: {reason(error)}") from None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise StateError(f"cannot lock a file in the state folder: {reason(error)}; is it on a network disk?") from None
    return True


def _flush_folder(path: Path) -> None:
    # A rename lasts only once the folder itself is on the disk (fsync(2), NOTES).
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
