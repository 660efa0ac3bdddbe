"""No query for an application's name leaves the client's host outside the tunnel, in either protocol.

Every packet on the client's interfaces is watched while applications use names that only the exit can resolve.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.nginx import digest
from tests.interop.proxies import Quicsocks
from tests.interop.sniffer import UDP, Sniffer
from tests.interop.system import DEVICE, NAME, ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]


@pytest.fixture(scope="module", params=["quicsocks/1", "qt"])
def either_alpn(request: pytest.FixtureRequest, system: System) -> Iterator[Quicsocks]:
    resolver = ["--dns", f"{ORIGIN_V4}:53"] if request.param == "qt" else []
    running = Quicsocks(system, alpn=request.param, run_flags=resolver)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_the_sniffer_sees_a_leak(system: System) -> None:
    """The control: what the client's own resolver would send."""
    with Sniffer(system.client) as sniffer:
        done = system.spawner.run(system.client, ["getent", "hosts", NAME])
        assert done.returncode != 0
    leaks = [packet for packet in sniffer.packets if packet.is_dns and packet.device == DEVICE]
    assert leaks
    assert any(packet.mentions(NAME) for packet in leaks)


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_no_name_leaves_outside_the_tunnel(either_alpn: Quicsocks, system: System, scheme: str) -> None:
    assert system.nameserver is not None
    target = f"/1k?leak-{either_alpn.alpn.replace('/', '-')}-{scheme}"
    with Sniffer(system.client) as sniffer:
        argv = ["curl", "-sS", "--max-time", "20", "--proxy", either_alpn.url(scheme), f"http://{NAME}{target}"]
        done = system.spawner.run(system.client, argv)
        missing = ["curl", "-sS", "--max-time", "20", "--proxy", either_alpn.url(scheme), "http://missing.test/"]
        system.spawner.run(system.client, missing)
    assert digest(done.stdout) == system.nginx.hashes["1k"], done.stderr.decode()
    wire = [packet for packet in sniffer.packets if packet.device == DEVICE]
    assert [packet for packet in sniffer.packets if packet.is_dns] == []
    assert [packet for packet in wire if packet.mentions(NAME) or packet.mentions("missing.test")] == []
    # What did cross the wire is the tunnel's UDP and nothing else.
    assert {packet.protocol for packet in wire if packet.protocol in (6, 17)} == {UDP}
    assert {either_alpn.udp_port} <= {packet.destination_port for packet in wire}
    # And the question was asked, on the far side.
    asked = system.nameserver.asked(NAME)
    assert asked
    assert set(asked) <= {system.seen_v4, system.seen_v6}
