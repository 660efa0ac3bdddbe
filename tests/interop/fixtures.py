"""The stage and the proxies on it as pytest fixtures, for the conftest.py of each folder that wants them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.proxies import Proxy, Quicsocks, why_not
from tests.interop.system import System, why_no_system


def require(kind: type[Proxy]) -> None:
    """Skip with the reason when this kind of proxy cannot be started here."""
    reason = why_not(kind)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """The stage in namespaces, once for all tests."""
    reason = why_no_system(isolated=True)
    if reason is not None:
        pytest.skip(reason)
    with System(isolated=True) as stage:
        yield stage


@pytest.fixture(scope="session")
def loopback() -> Iterator[System]:
    """The stage on 127.0.0.1."""
    reason = why_no_system(isolated=False)
    if reason is not None:
        pytest.skip(reason)
    with System(isolated=False) as stage:
        yield stage


class Company:
    """Running proxies on a stage, one of each kind, started when first asked for and kept for the tests that harm
    none. A test that breaks its proxy brings its own."""

    def __init__(self, stage: System) -> None:
        self._stage = stage
        self._running: dict[type[Proxy], Proxy] = {}

    def member(self, kind: type[Proxy]) -> Proxy:
        require(kind)
        found = self._running.get(kind)
        if found is not None and all(process.poll() is None for process in found.processes.values()):
            return found
        if found is not None:
            # Whoever ended it has failed on its own account; the others go on.
            found.stop()
        # Kept before it is started: what a failed start leaves is stopped with the rest.
        self._running[kind] = proxy = kind(self._stage)
        proxy.start()
        return proxy

    def close(self) -> None:
        for proxy in self._running.values():
            proxy.stop()


@pytest.fixture(scope="session")
def company(system: System) -> Iterator[Company]:
    running = Company(system)
    yield running
    running.close()


@pytest.fixture
def proxy(request: pytest.FixtureRequest, company: Company) -> Proxy:
    """A running proxy of the kind that the test's ``on(...)`` names."""
    return company.member(request.param)


@pytest.fixture
def product(company: Company) -> Quicsocks:
    """Ours alone, running."""
    running = company.member(Quicsocks)
    assert isinstance(running, Quicsocks)
    return running
