"""Neither end needs a right: nobody, an empty bounding set, no-new-privs and a read-only file system."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.dialogue import receive_all, socks5
from tests.interop.nginx import digest
from tests.interop.processes import NOBODY_UID
from tests.interop.proxies import Quicsocks
from tests.interop.system import ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]


@pytest.fixture(scope="module")
def confined(system: System) -> Iterator[Quicsocks]:
    proxy = Quicsocks(system)
    try:
        proxy.start_concentrator(read_only=[proxy.concentrator_state])
        proxy.start_client(read_only=[proxy.client_state])
        yield proxy
    finally:
        proxy.stop()


def test_both_ends_run_without_any_right(confined: Quicsocks) -> None:
    for process in confined.processes.values():
        assert process.user() == NOBODY_UID
        rights = process.capabilities()
        assert rights.pop("NoNewPrivs") == 1
        assert set(rights.values()) == {0}


def test_it_works_on_a_read_only_file_system(confined: Quicsocks, system: System) -> None:
    with confined.connect(30) as sock:
        assert socks5(sock, ORIGIN_V4, 80).code == 0
        sock.sendall(b"GET /1m HTTP/1.0\r\n\r\n")
        assert digest(receive_all(sock).partition(b"\r\n\r\n")[2]) == system.nginx.hashes["1m"]


def test_secrets_on_disk_are_private(confined: Quicsocks) -> None:
    for folder in (confined.concentrator_state, confined.client_state):
        assert folder.stat().st_mode & 0o777 == 0o700
        for path in folder.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"
