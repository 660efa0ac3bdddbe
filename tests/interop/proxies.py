"""The proxies that can stand on the stage: ours, and stand-ins that prove the tests themselves.

One small class each, all with the same face, so that a test is written once. A stand-in runs at the exit and is spoken
to across the wire; ours runs as client and concentrator, and is spoken to on the client's loopback.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from tests.interop.places import Place
from tests.interop.processes import BIN, Process
from tests.interop.system import INNER_DEVICE, System

READY_TIMEOUT = 15.0


class Proxy:
    """A proxy under test.

    speaks: which front doors it has ("socks4", "socks4a", "socks5", "http"), and abilities that tests ask for
    ("half-close": passes a FIN on without ending the other direction; "upload": of more than one segment over forwarded
    HTTP; "password"; "ipv6").
    """

    name: ClassVar[str]
    speaks: ClassVar[frozenset[str]]

    def __init__(self, system: System, user: str = "", password: str = "") -> None:
        self.system = system
        self.user = user
        self.password = password
        self.host = system.exit_v4
        self.port = system.exit.free_port(self.host)
        self.processes: dict[str, Process] = {}

    @property
    def place(self) -> Place:
        """Where applications that use the proxy run."""
        return self.system.client

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def url(self, scheme: str) -> str:
        """As curl and environment variables want it, with credentials when there are some."""
        login = f"{self.user}:{self.password}@" if self.user else ""
        return f"{scheme}://{login}{self.authority}"

    def connect(self, timeout: float = 15.0) -> socket.socket:
        """An application's TCP connection to the proxy."""
        return self.place.connect(self.host, self.port, timeout)

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.stop()
        self.processes.clear()

    def rss(self) -> dict[str, int]:
        """Resident memory of each process, in bytes."""
        return {name: process.rss() for name, process in self.processes.items()}

    def descriptors(self) -> dict[str, int]:
        return {name: process.descriptors() for name, process in self.processes.items()}

    def _start_at_exit(self, argv: Sequence[str]) -> None:
        process = self.system.spawner.start(self.system.exit, argv, name=self.name)
        self.processes[self.name] = process
        wait_listening(self.system.exit, self.host, self.port, process)


class Microsocks(Proxy):
    """The smallest SOCKS5 server (Debian: microsocks). It ends both directions at the first FIN."""

    name = "microsocks"
    speaks = frozenset({"socks5", "password", "ipv6"})

    def start(self) -> None:
        login = ["-u", self.user, "-P", self.password] if self.user else []
        self._start_at_exit(["microsocks", "-i", self.host, "-p", str(self.port), *login])


class Danted(Proxy):
    """Dante's server (Debian: dante-server), for SOCKS4 and SOCKS5. Its users are the system's: no password here."""

    name = "danted"
    speaks = frozenset({"socks4", "socks5", "half-close"})

    def start(self) -> None:
        folder = self.system.folder("danted")
        config = folder / "danted.conf"
        outside = INNER_DEVICE if self.system.isolated else "lo"
        config.write_text(
            f"logoutput: stderr\ninternal: {self.host} port = {self.port}\nexternal: {outside}\n"
            "clientmethod: none\nsocksmethod: none\nuser.privileged: nobody\nuser.unprivileged: nobody\n"
            "errorlog: stderr\n"
            "client pass { from: 0/0 to: 0/0 }\n"
            "socks pass { from: 0/0 to: 0/0 }\n"
        )
        config.chmod(0o644)
        folder.chmod(0o755)
        self._start_at_exit(["/usr/sbin/danted", "-f", str(config), "-p", str(folder / "pid")])


PPROXY = (sys.executable, "-c", "import sys; sys.modules['uvloop'] = None; from pproxy.server import main; main()")
"""pproxy 2.7.9 without uvloop: under uvloop's policy it asks for an event loop that nobody has made, and ends."""


class Pproxy(Proxy):
    """pproxy, for HTTP, SOCKS4 and SOCKS5 on one port. It loses the body of a forwarded PUT."""

    name = "pproxy"
    speaks = frozenset({"socks4", "socks5", "http"})

    def start(self) -> None:
        self._start_at_exit([*PPROXY, "-l", f"http+socks4+socks5://{self.authority}"])


class Quicsocks(Proxy):
    """Ours: `quicsocks concentrator` at the exit, `quicsocks run` at the client, enrolled by a link.

    concentrator_flags and run_flags are added to the command lines. alpn "qt" uses the draft's own protocol without
    tokens.
    """

    name = "quicsocks"
    speaks = frozenset({"socks4", "socks4a", "socks5", "http", "upload", "half-close", "password", "ipv6"})

    def __init__(
        self,
        system: System,
        user: str = "",
        password: str = "",
        *,
        alpn: str = "quicsocks/1",
        concentrator_flags: Sequence[str] = (),
        run_flags: Sequence[str] = (),
        allow: Sequence[str] | None = None,
    ) -> None:
        super().__init__(system, user, password)
        self.alpn = alpn
        self.concentrator_flags = list(concentrator_flags)
        self.run_flags = list(run_flags)
        self.allow = list(allow) if allow is not None else _allow_rules(system)
        self.host = "127.0.0.1"
        self.port = system.client.free_port(self.host)
        self.udp_port = system.exit.free_port(system.exit_v4, socket.SOCK_DGRAM)
        self.concentrator_state = system.folder("concentrator")
        self.client_state = system.folder("client")
        self.link_file = self.client_state / "link"

    @property
    def concentrator(self) -> Process:
        return self.processes["concentrator"]

    @property
    def client(self) -> Process:
        return self.processes["client"]

    def start(self) -> None:
        self.start_concentrator()
        self.start_client()

    def concentrator_argv(self) -> list[str]:
        allow = [word for rule in self.allow for word in ("--allow", rule)]
        argv = [str(BIN / "quicsocks"), "concentrator", "--listen", f"{self.system.exit_v4}:{self.udp_port}"]
        argv += ["--state", str(self.concentrator_state), "--public-name", f"{self.system.exit_v4}:{self.udp_port}"]
        qt = ["--allow-qt"] if self.alpn == "qt" else []
        # The first rule that matches wins: those of a test go before the general ones.
        return [*argv, *self.concentrator_flags, *allow, "--print-link", *qt]

    def run_argv(self, *words: str) -> list[str]:
        argv = [str(BIN / "quicsocks"), "run", "--state", str(self.client_state), "--listen", self.authority]
        argv += ["--link-file", str(self.link_file), *self.run_flags, *words]
        return argv

    def start_concentrator(self, **options: object) -> Process:
        """Start it and wait until it is ready; on its first start its link is kept for the client."""
        process = self._start_notified(self.system.exit, self.concentrator_argv(), "concentrator", options)
        if not self.link_file.exists():
            self.write_link(process.wait_line(r"quicsocks://\S+").group())
        return process

    def write_link(self, link: str) -> None:
        if self.alpn == "qt":
            # The draft has no authentication: no token, and the link says which protocol (design of links).
            link = re.sub(r"://[^@/]+@", "://", link)
            link = re.sub(r"\?", "?alpn=qt&", link, count=1)
        self.link_file.write_text(link + "\n")
        self.system.spawner.give(self.link_file, 0o600)

    def start_client(self, **options: object) -> Process:
        return self._start_notified(self.system.client, self.run_argv(), "client", options)

    def _start_notified(self, place: Place, argv: list[str], role: str, options: dict[str, object]) -> Process:
        with Readiness(self.system, role) as readiness:
            env = {"NOTIFY_SOCKET": str(readiness.path), "XDG_RUNTIME_DIR": str(self._runtime(role))}
            if self.user and role == "client":
                env["QUICSOCKS_USERNAME"], env["QUICSOCKS_PASSWORD"] = self.user, self.password
            extra = options.pop("env", None)
            if isinstance(extra, dict):
                env.update(extra)
            process = self.system.spawner.start(place, argv, name=role, env=env, **options)  # type: ignore[arg-type]
            self.processes[role] = process
            readiness.wait(process)
        return process

    def _runtime(self, role: str) -> Path:
        """A runtime folder of this proxy's own, so that several products can run side by side."""
        folder = self.concentrator_state if role == "concentrator" else self.client_state
        path = folder / "runtime"
        if not path.exists():
            path.mkdir(mode=0o700)
            self.system.spawner.give(path)
        return path

    def ask(self, role: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run another quicsocks command beside a running one: `status`, `client revoke`, ..."""
        place = self.system.exit if role == "concentrator" else self.system.client
        state = self.concentrator_state if role == "concentrator" else self.client_state
        folder = [] if words[0] == "status" else ["--state", str(state)]
        argv = [str(BIN / "quicsocks"), *words, *folder]
        return self.system.spawner.run(place, argv, env={"XDG_RUNTIME_DIR": str(self._runtime(role))})

    def status(self, role: str = "client") -> dict[str, object]:
        done = self.ask(role, "status", "--json")
        assert done.returncode == 0, done.stderr.decode()
        value = json.loads(done.stdout)
        assert isinstance(value, dict)
        return value


class Readiness:
    """A NOTIFY_SOCKET (sd_notify(3)) on which a program says READY=1."""

    def __init__(self, system: System, role: str) -> None:
        self.path = system.folder(f"notify-{role}") / "socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        system.spawner.give(self.path)

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def wait(self, process: Process, timeout: float = READY_TIMEOUT) -> None:
        ended = threading.Event()

        def watch() -> None:
            if process.pause(timeout):
                ended.set()
                # Wake the receiver: a datagram to oneself.
                try:
                    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
                        waker.sendto(b"ENDED=1", str(self.path))
                except OSError:
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        self._socket.settimeout(timeout)
        try:
            while True:
                message = self._socket.recv(4096).decode(errors="replace")
                if ended.is_set():
                    status = process.wait()
                    raise AssertionError(f"{process.name} ended with status {status} at once:\n{process.output}")
                if "READY=1" in message.splitlines():
                    return
        except TimeoutError:
            text = f"{process.name} did not say READY=1 within {timeout} s:\n{process.output}"
            raise AssertionError(text) from None


def wait_listening(place: Place, host: str, port: int, process: Process, timeout: float = READY_TIMEOUT) -> None:
    """Until a TCP connection is taken; fails at once when the program ends."""
    for _ in range(int(timeout / 0.05)):
        try:
            place.connect(host, port, 1.0).close()
        except OSError:
            if process.pause(0.05):
                raise AssertionError(f"{process.name} ended at once:\n{process.output}") from None
        else:
            return
    raise AssertionError(f"{process.name} does not listen on {host}:{port}:\n{process.output}")


def on(*abilities: str) -> pytest.MarkDecorator:
    """Parametrise a test's ``proxy``: ours, and the first stand-in that can do the same, which shows that the test
    itself is right. Without any that can, ours alone."""
    kinds = _kinds(abilities)
    return pytest.mark.parametrize("proxy", kinds, indirect=True, ids=[kind.name for kind in kinds])


def on_each(**abilities: str) -> pytest.MarkDecorator:
    """The same for a test that also takes a ``scheme``: the words are schemes, each with the abilities it needs."""
    pairs = [(kind, scheme) for scheme, needed in abilities.items() for kind in _kinds(needed.split())]
    ids = [f"{kind.name}-{scheme}" for kind, scheme in pairs]
    return pytest.mark.parametrize(("proxy", "scheme"), pairs, indirect=["proxy"], ids=ids)


def _kinds(abilities: Sequence[str]) -> list[type[Proxy]]:
    able = [kind for kind in (Microsocks, Danted, Pproxy) if kind.speaks.issuperset(abilities)]
    return [*able[:1], Quicsocks]


def why_not(kind: type[Proxy]) -> str | None:
    """None when proxies of this kind can be started, otherwise the reason for a skip. Ours is never skipped."""
    if kind is Quicsocks:
        return None
    if kind is Pproxy:
        return None if importlib.util.find_spec("pproxy") else "pproxy is not installed"
    return None if shutil.which(kind.name) or Path("/usr/sbin", kind.name).exists() else f"{kind.name} is missing"


def _allow_rules(system: System) -> list[str]:
    if system.isolated:
        # Private addresses are refused without a rule; these networks hold everything that tests dial.
        return ["10.71.2.0/24", "10.71.3.0/24", "10.71.4.0/24", "[fd71:2::]/64"]
    return ["127.0.0.1/32"]
