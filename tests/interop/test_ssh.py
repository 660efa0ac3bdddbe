"""ssh and scp through `nc -X 5` as ProxyCommand, as the OpenSSH manual has it, with strict host key checking."""

from __future__ import annotations

import hashlib

import pytest

from tests.interop.nginx import digest
from tests.interop.proxies import Proxy, on
from tests.interop.system import NAME, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

SIZE = 5_000_000


def options(proxy: Proxy) -> list[str]:
    """What ssh and scp take: our key, the origin's host key and nothing of the user's."""
    system = proxy.system
    settings = {
        "ProxyCommand": f"nc -X 5 -x {proxy.authority} %h %p",
        "IdentityFile": str(system.sshd.client_key),
        "UserKnownHostsFile": str(system.sshd.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "20",
        "LogLevel": "ERROR",
    }
    return ["-F", "none", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def check_session(system: System, sessions_before: int) -> None:
    seen = system.sshd.sessions_from()
    assert len(seen) == sessions_before + 1
    assert seen[-1] in (system.seen_v4, system.seen_v6)


@on("socks5")
def test_ssh_carries_input_output_and_exit_status(proxy: Proxy) -> None:
    system = proxy.system
    before = len(system.sshd.sessions_from())
    data = hashlib.shake_128(b"ssh").digest(SIZE)
    remote = "tee /dev/stderr | sha256sum; exit 42"
    argv = ["ssh", *options(proxy), "-p", str(system.sshd.port), f"{system.sshd.user}@{NAME}", remote]
    done = system.spawner.run(proxy.place, argv, input=data, timeout=60)
    assert done.returncode == 42, done.stderr[-500:].decode(errors="replace")
    assert done.stdout.decode().split()[0] == digest(data), "what went up arrived"
    assert digest(done.stderr) == digest(data), "what came down arrived"
    check_session(system, before)


@pytest.mark.parametrize("direction", ["up", "down"])
@on("socks5")
def test_scp(proxy: Proxy, direction: str) -> None:
    system = proxy.system
    before = len(system.sshd.sessions_from())
    data = hashlib.shake_128(direction.encode()).digest(SIZE)
    near = system.spawner.home / f"scp-{proxy.name}-{direction}"
    far = system.sshd.folder / f"scp-{proxy.name}-{direction}"
    source, target = (near, far) if direction == "up" else (far, near)
    source.write_bytes(data)
    there = f"{system.sshd.user}@{NAME}:{far}"
    words = [str(near), there] if direction == "up" else [there, str(near)]
    argv = ["scp", "-q", *options(proxy), "-P", str(system.sshd.port), *words]
    done = system.spawner.run(proxy.place, argv, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert digest(target) == digest(data)
    check_session(system, before)
