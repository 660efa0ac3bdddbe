"""The whole stage: client, exit and origin, each in a network of its own, with real origins running; gone afterwards.

::

    client ──10.71.1.0/24, fd71:1::/64── exit ──10.71.2.0/24, fd71:2::/64── origin
    applications, `run`                  concentrator                       nginx, git, sshd, name server

The client has no route to the origin, and only the exit's resolver knows the origin's names: whatever reaches the
origin went through the proxy under test, and the origin's log shows the exit's address. Where namespaces are not to be
had, the same stage stands on 127.0.0.1 (``isolated`` is False), names are not served and nothing is proved about the
way. The fixture in conftest.py hands a System to the tests; proxies.py puts a proxy on it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.interop.certificates import make_certificates
from tests.interop.nameserver import BROKEN, SILENT, NameServer
from tests.interop.nginx import Nginx
from tests.interop.places import NAMESPACE_ETC, Namespaces, Place, ip, why_no_namespaces
from tests.interop.processes import Spawner
from tests.interop.services import GitBackend, Mannerly, Sshd

CLIENT_V4, EXIT_V4 = "10.71.1.1", "10.71.1.2"
CLIENT_V6, EXIT_V6 = "fd71:1::1", "fd71:1::2"
EXIT_INNER_V4, ORIGIN_V4 = "10.71.2.1", "10.71.2.2"
EXIT_INNER_V6, ORIGIN_V6 = "fd71:2::1", "fd71:2::2"
SILENT_V4 = "10.71.3.1"
"""Routed from the exit to the origin, which forwards nothing: a SYN to it is never answered."""
UNREACHABLE_V4 = "10.71.4.1"
"""An unreachable route at the exit: EHOSTUNREACH at once."""
UNROUTED_V4 = "11.71.5.1"
"""No route at the exit at all: ENETUNREACH at once. A public address, so that no policy refuses it first."""
ABUSER_NETS = tuple(f"10.71.{third}" for third in range(64, 96))
"""More source prefixes (/24) of the client's, for floods that must not come from one neighbourhood only."""
DEVICE = "tunnel0"
"""The veth between client and exit, by this name at both ends."""
INNER_DEVICE = "inner0"
NAME = "origin.test"
NAMES = {
    NAME: (ORIGIN_V4, ORIGIN_V6),
    "v4.origin.test": (ORIGIN_V4,),
    "v6.origin.test": (ORIGIN_V6,),
    "loopback.origin.test": ("127.0.0.1",),
    "metadata.origin.test": ("169.254.169.254",),
    "silent.origin.test": SILENT,
    "broken.origin.test": BROKEN,
}
PROGRAMS = ("nginx", "git", "openssl", "ssh-keygen")


class System:
    """Use as a context manager. isolated: whether client, exit and origin are really apart."""

    def __init__(self, *, isolated: bool) -> None:
        self.isolated = isolated
        self._stack = ExitStack()
        self._serial = 0

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        self.tmp = Path(tempfile.mkdtemp(prefix="quicsocks-interop-"))
        self._stack.callback(shutil.rmtree, self.tmp, ignore_errors=True)
        self.tmp.chmod(0o755)
        if self.isolated:
            self._make_networks()
        else:
            self._use_loopback()
        self.spawner = Spawner(self.tmp)
        self._stack.callback(self.spawner.close)
        hosts = (self.origin_v4, self.origin_v6) if self.isolated else (self.origin_v4,)
        self.certificates = make_certificates(self.tmp, [NAME, "v4." + NAME, "v6." + NAME, *hosts])
        self.git = GitBackend(self.origin, self.tmp, "127.0.0.1")
        self._stack.callback(self.git.close)
        ports = (80, 443, 2222) if self.isolated else [self.origin.free_port(self.origin_v4) for _ in range(3)]
        self.nginx = Nginx(
            self.spawner, self.origin, hosts, self.certificates, http=ports[0], https=ports[1], git=self.git.address
        )
        self.nginx.start()
        self.sshd = Sshd(self.spawner, self.origin, hosts, ports[2])
        self.mannerly = Mannerly(self.origin, self.origin_v4)
        self._stack.callback(self.mannerly.close)
        self.nameserver: NameServer | None = None
        if self.isolated:
            self.nameserver = NameServer(self.origin, ORIGIN_V4, NAMES)
            self._stack.callback(self.nameserver.close)

    def _make_networks(self) -> None:
        networks = Namespaces()
        self._stack.callback(networks.close)
        # The client's resolver is the exit's host, where no name server runs: a leaked question leaves the client's
        # host and is seen on the wire, and nobody answers it.
        self.client = networks.add("client", EXIT_V4)
        self.exit = networks.add("exit", ORIGIN_V4)
        self.origin = networks.add("origin")
        self._stack.callback(self._end_strays)
        outer = [(f"{CLIENT_V4}/24", f"{EXIT_V4}/24"), (f"{CLIENT_V6}/64", f"{EXIT_V6}/64")]
        inner = [(f"{EXIT_INNER_V4}/24", f"{ORIGIN_V4}/24"), (f"{EXIT_INNER_V6}/64", f"{ORIGIN_V6}/64")]
        networks.link(self.client, self.exit, outer, DEVICE)
        networks.link(self.exit, self.origin, inner, INNER_DEVICE)
        self.ip(self.exit, "route", "add", f"{SILENT_V4}/32", "via", ORIGIN_V4)
        self.ip(self.exit, "route", "add", "unreachable", f"{UNREACHABLE_V4}/32")
        self.exit_v4, self.exit_v6 = EXIT_V4, EXIT_V6
        self.origin_v4, self.origin_v6 = ORIGIN_V4, ORIGIN_V6
        self.seen_v4, self.seen_v6 = EXIT_INNER_V4, EXIT_INNER_V6

    def _use_loopback(self) -> None:
        here = Place("here")
        self.client = self.exit = self.origin = here
        self.exit_v4 = self.origin_v4 = self.seen_v4 = "127.0.0.1"
        self.exit_v6 = self.origin_v6 = self.seen_v6 = "::1"

    def ip(self, place: Place, *words: str) -> str:
        """ip(8) inside a namespace of this system."""
        assert place.namespace is not None, "only namespaces of our own are changed"
        return ip("-n", place.namespace, *words)

    def folder(self, name: str) -> Path:
        """A new folder for a program's state: nobody's, 0700, its name unique in this run."""
        self._serial += 1
        path = self.tmp / f"{name}-{self._serial}"
        path.mkdir(mode=0o700)
        return self.spawner.give(path)

    def set_link(self, *, up: bool) -> None:
        """Cut or mend the wire between client and exit, at the exit's end, so that the client's addresses stay."""
        self.ip(self.exit, "link", "set", DEVICE, "up" if up else "down")
        if up:
            # An IPv6 address goes with its link.
            self.ip(self.exit, "addr", "replace", f"{EXIT_V6}/64", "dev", DEVICE, "nodad")

    def set_exit_nameserver(self, host: str) -> None:
        """Which resolver programs started at the exit from now on are told of."""
        assert self.exit.namespace is not None
        text = f"nameserver {host}\noptions timeout:2 attempts:1\n"
        (NAMESPACE_ETC / self.exit.namespace / "resolv.conf").write_text(text)

    def strays(self) -> list[int]:
        """Processes that still live in our namespaces (sshd's children have sessions of their own)."""
        found: list[int] = []
        for place in (self.client, self.exit, self.origin):
            if place.namespace is not None:
                found += [int(pid) for pid in ip("netns", "pids", place.namespace).split()]
        return found

    def _end_strays(self) -> None:
        for pid in self.strays():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def why_no_system(*, isolated: bool) -> str | None:
    """None when the stage can be built here, otherwise the reason for a skip."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd")
    if missing:
        return f"programs are missing: {', '.join(missing)} (Debian: nginx-light git openssl openssh-server)"
    return why_no_namespaces() if isolated else None
