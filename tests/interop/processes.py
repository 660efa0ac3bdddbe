"""Programs under test: started in a place, as nobody without capabilities, watched line by line, always ended.

Read setpriv(1) first. A program is exec'ed in place through ``ip netns exec``, sh and setpriv, so the process that
subprocess returns *is* the program: its RSS, its descriptors, its exit status. It gets a session of its own and dies
with the test run (PR_SET_PDEATHSIG; therefore programs are started from the main thread only).

The programs run as nobody, who may not be able to reach the interpreter or the checkout (a home folder of mode 0700).
They then get a view: in mounts of their own, a small tmpfs hides the closed folder and the needed paths are bound back
into it. Nothing changes for the rest of the machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.interop.places import Place, can_mount

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
NOBODY = "nobody"
NOBODY_UID = 65534
STOP_TIMEOUT = 15.0
"""The product drains for up to 10 s after SIGTERM."""


class Process:
    """A started program and what it prints."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid = popen.pid
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._popen = popen
        self._changed = threading.Condition()
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), name=f"{name}-output", daemon=True)
            for stream, lines in ((popen.stdout, self.stdout), (popen.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """Everything printed so far, for messages."""
        return "\n".join([*self.stdout, *self.stderr])

    def wait_line(self, pattern: str, timeout: float = 10.0, skip: int = 0) -> re.Match[str]:
        """The first line on stderr or stdout that matches, of those after the first skip lines of each."""
        regex = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for lines in (self.stdout, self.stderr):
                    for line in lines[skip:]:
                        if found := regex.search(line):
                            return found
                left = deadline - time.monotonic()
                alive = any(reader.is_alive() for reader in self._readers)
                if left <= 0 or not alive:
                    why = "ended" if not alive else f"did not print {pattern!r} within {timeout} s"
                    raise AssertionError(f"{self.name} {why}; it printed:\n{self.output}")
                self._changed.wait(min(left, 0.5))

    def poll(self) -> int | None:
        return self._popen.poll()

    def pause(self, seconds: float) -> bool:
        """Wait for the program's end, at most seconds; whether it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Its exit status; negative for a signal."""
        status = self._popen.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return status

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """End it politely, or with SIGKILL when it does not go; its exit status."""
        if self.poll() is None:
            self.signal(signal.SIGTERM)
            if not self.pause(timeout):
                self.kill()
        return self._reap()

    def kill(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._reap()

    def _reap(self) -> int:
        status = self._popen.wait(5)
        # Children that outlive it hold the pipes: they belong to its session, and go with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for reader in self._readers:
            reader.join(5)
        return status

    def rss(self) -> int:
        """Resident memory in bytes."""
        return int(self._status("VmRSS").split()[0]) * 1024

    def descriptors(self) -> int:
        """How many file descriptors it holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def capabilities(self) -> dict[str, int]:
        """Its capability sets, and NoNewPrivs, by the names of proc(5)."""
        sets = {name: int(self._status(name), 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        return {**sets, "NoNewPrivs": int(self._status("NoNewPrivs"))}

    def user(self) -> int:
        return int(self._status("Uid").split()[1])

    def _status(self, field: str) -> str:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == field:
                return value.strip()
        raise KeyError(field)


class Spawner:
    """Starts programs and ends all of them at ``close``. tmp: a folder of this run, readable for all."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.home = tmp / "home"
        self.home.mkdir()
        self.give(self.home)
        self._temporary = tmp / "t"
        self._temporary.mkdir()
        self.give(self._temporary)
        self._hold = tmp / "hold"
        self._hold.mkdir()
        self._running: list[Process] = []

    def give(self, path: Path, mode: int | None = None) -> Path:
        """Make path nobody's, when programs run as nobody."""
        if mode is not None:
            path.chmod(mode)
        if as_nobody():
            shutil.chown(path, NOBODY_UID, NOBODY_UID)
        return path

    def start(
        self,
        place: Place,
        argv: Sequence[str],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        root: bool = False,
        files: int | None = None,
        read_only: Sequence[Path] | None = None,
        scratch: Sequence[str] = (),
    ) -> Process:
        """Start argv and return at once. The arguments are those of ``command``."""
        words = self.command(place, argv, root=root, files=files, read_only=read_only, scratch=scratch)
        popen = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(env, root),
            cwd=self.tmp,
            start_new_session=True,
        )
        process = Process(name or Path(argv[0]).name, popen)
        self._running.append(process)
        return process

    def run(
        self,
        place: Place,
        argv: Sequence[str],
        *,
        timeout: float = 30.0,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        root: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run argv to its end. Past the timeout it and its children are killed: an AssertionError says so."""
        popen = subprocess.Popen(
            self.command(place, argv, root=root),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(env, root),
            cwd=self.home,
            start_new_session=True,
        )
        with popen:
            try:
                out, err = popen.communicate(input, timeout)
            except subprocess.TimeoutExpired:
                os.killpg(popen.pid, signal.SIGKILL)
                out, err = popen.communicate()
                text = f"{shlex.join(argv)} took longer than {timeout} s\n{err.decode(errors='replace')}"
                raise AssertionError(text) from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(popen.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(list(argv), popen.returncode, out, err)

    def environment(self, extra: Mapping[str, str] | None, root: bool) -> dict[str, str]:
        """A small, known environment: no proxy variable and no setting of the user's gets through."""
        path = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {"PATH": path, "HOME": str(self.home), "LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}
        if root:
            base["HOME"] = str(self.tmp)
        else:
            # The system's own may be root's alone, as in some containers; danted and Chromium need one.
            base["TMPDIR"] = str(self._temporary)
        return {**base, **(extra or {})}

    def command(
        self,
        place: Place,
        argv: Sequence[str],
        *,
        root: bool = False,
        files: int | None = None,
        read_only: Sequence[Path] | None = None,
        scratch: Sequence[str] = (),
    ) -> list[str]:
        """The whole command line that runs argv in place.

        root: keep root's rights (origins only). files: RLIMIT_NOFILE. read_only: everything but these folders is
        mounted read-only. scratch: folders hidden under an empty tmpfs.
        """
        script = [] if root or not as_nobody() else self._view()
        for folder in scratch:
            script.append(f"mount -t tmpfs -o mode=755,size=16m none {shlex.quote(folder)}")
        if read_only is not None:
            for kept in map(shlex.quote, map(str, read_only)):
                script.append(f"mount --bind {kept} {kept}")
            script.append("mount -o remount,bind,ro /")
        limit = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
        drop = ["setpriv", "--pdeathsig", "KILL"]
        if not root:
            drop.append("--no-new-privs")
            if as_nobody():
                drop += [f"--reuid={NOBODY}", "--regid=nogroup", "--clear-groups", "--bounding-set=-all"]
                drop += ["--inh-caps=-all"]
        words = [*limit, *drop, "--", *argv]
        if not script:
            return [*place.enter(), *words]
        assert place.enter(), "mounts need a mount namespace"
        return [*place.enter(), "sh", "-ec", "; ".join([*script, 'exec "$@"']), "sh", *words]

    def _view(self) -> list[str]:
        needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT}
        closed: dict[Path, list[Path]] = {}
        for path in sorted(needed):
            for ancestor in reversed(path.parents):
                if not ancestor.stat().st_mode & 0o001:
                    closed.setdefault(ancestor, []).append(path)
                    break
        script = []
        for folder, paths in closed.items():
            # A path inside another one comes back with it.
            outer = [path for path in paths if not any(other in path.parents for other in paths)]
            held = []
            for path in outer:
                aside = self._hold / str(path).strip("/").replace("/", "-")
                aside.mkdir(exist_ok=True)
                held.append((shlex.quote(str(path)), shlex.quote(str(aside))))
            script += [f"mount --bind {place} {hold}" for place, hold in held]
            script.append(f"mount -t tmpfs -o mode=755,size=64k none {shlex.quote(str(folder))}")
            for place, hold in held:
                script += [f"mkdir -p {place}", f"mount --bind {hold} {place}"]
        return script

    def close(self) -> None:
        while self._running:
            process = self._running.pop()
            process.stop()


_nobody: list[bool] = []


def as_nobody() -> bool:
    """Whether programs can be run as nobody here: needs root, and a way to reach the interpreter."""
    if not _nobody:
        reachable = all(
            parent.stat().st_mode & 0o001
            for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT)
            for parent in path.resolve().parents
        )
        _nobody.append(os.geteuid() == 0 and shutil.which("setpriv") is not None and (reachable or can_mount()))
    return _nobody[0]
