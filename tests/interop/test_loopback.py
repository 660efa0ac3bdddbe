"""Where namespaces are not to be had: both ends on 127.0.0.1, with an exact allow rule, through every front door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.fixtures import require
from tests.interop.nginx import digest
from tests.interop.proxies import Pproxy, Proxy, Quicsocks
from tests.interop.system import System

pytestmark = pytest.mark.programs


@pytest.fixture(scope="module", params=[Pproxy, Quicsocks], ids=lambda kind: kind.name)
def local(request: pytest.FixtureRequest, loopback: System) -> Iterator[Proxy]:
    kind: type[Proxy] = request.param
    require(kind)
    proxy = kind(loopback)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("scheme", ["socks4", "socks5h", "http"])
def test_curl(local: Proxy, loopback: System, scheme: str, tls: bool) -> None:
    nginx = loopback.nginx
    origin = f"https://127.0.0.1:{nginx.https}" if tls else f"http://127.0.0.1:{nginx.http}"
    argv = ["curl", "-sS", "--max-time", "20", "--cacert", str(loopback.certificates.authority)]
    done = loopback.spawner.run(local.place, [*argv, "--proxy", local.url(scheme), f"{origin}/1m?{local.name}{scheme}"])
    assert digest(done.stdout) == nginx.hashes["1m"], done.stderr.decode()
    assert nginx.wait_entry(f"/1m?{local.name}{scheme}").status == 200


def test_without_the_rule_loopback_is_refused(loopback: System) -> None:
    proxy = Quicsocks(loopback, allow=[])
    try:
        proxy.start()
        argv = [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "--proxy",
            proxy.url("http"),
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ]
        done = loopback.spawner.run(proxy.place, [*argv, f"http://127.0.0.1:{loopback.nginx.http}/1k"])
        assert done.stdout == b"403"
    finally:
        proxy.stop()
