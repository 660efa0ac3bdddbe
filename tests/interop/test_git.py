"""git clone over HTTP, with the proxy in its settings, in its environment, and by `quicsocks run -- git clone`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.proxies import Proxy, Quicsocks, on, on_each
from tests.interop.system import NAME, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

URL = f"http://{NAME}/git/sample.git"


def check_clone(system: System, clone: Path) -> None:
    """The clone is whole, has the right commit, and was made from the exit's address."""
    git = ["git", "-C", str(clone)]
    assert system.spawner.run(system.client, [*git, "fsck", "--full"]).returncode == 0
    head = system.spawner.run(system.client, [*git, "rev-parse", "HEAD"]).stdout.decode().strip()
    assert head == system.git.commit
    entry = system.nginx.wait_entry("/git/sample.git/git-upload-pack", "POST")
    assert entry.status == 200
    assert entry.remote in (system.seen_v4, system.seen_v6)


@on_each(socks5h="socks5", http="http")
def test_clone_with_the_proxy_in_the_settings(proxy: Proxy, scheme: str) -> None:
    clone = proxy.system.folder("clone") / "sample"
    argv = ["git", "-c", f"http.proxy={proxy.url(scheme)}", "clone", "--quiet", URL, str(clone)]
    done = proxy.system.spawner.run(proxy.place, argv, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    check_clone(proxy.system, clone)


@on("socks5")
def test_clone_with_the_proxy_in_the_environment(proxy: Proxy) -> None:
    clone = proxy.system.folder("clone") / "sample"
    env = {"ALL_PROXY": proxy.url("socks5h")}
    done = proxy.system.spawner.run(proxy.place, ["git", "clone", "--quiet", URL, str(clone)], env=env, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    check_clone(proxy.system, clone)


def test_clone_by_run(product: Quicsocks, system: System) -> None:
    """A client of its own for one command, beside the one that is running."""
    clone = system.folder("clone") / "sample"
    argv = product.run_argv("--", "git", "clone", "--quiet", URL, str(clone))
    listen = argv.index("--listen")
    del argv[listen : listen + 2]
    done = system.spawner.run(system.client, argv, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    check_clone(system, clone)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["/nonexistent/command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_run_passes_the_commands_exit_status_on(
    product: Quicsocks, system: System, command: list[str], status: int
) -> None:
    argv = product.run_argv("--", *command)
    listen = argv.index("--listen")
    del argv[listen : listen + 2]
    assert system.spawner.run(system.client, argv).returncode == status
