"""The stage and the proxies on it as pytest fixtures, for the conftest.py of each folder that wants them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.proxies import Proxy, Quicsocks, product_required, why_not
from tests.interop.system import System, why_no_system


def require(kind: type[Proxy]) -> None:
    """Skip with the reason when this kind of proxy cannot be started; fail when ours was demanded."""
    reason = why_not(kind)
    if reason is not None:
        if kind is Quicsocks and product_required():
            pytest.fail(reason)
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


@pytest.fixture(scope="module")
def proxy(request: pytest.FixtureRequest, system: System) -> Iterator[Proxy]:
    """A running proxy of the kind that the test's ``on(...)`` names."""
    kind: type[Proxy] = request.param
    require(kind)
    running = kind(system)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def product(system: System) -> Iterator[Quicsocks]:
    """Ours alone, running."""
    require(Quicsocks)
    running = Quicsocks(system)
    try:
        running.start()
        yield running
    finally:
        running.stop()
