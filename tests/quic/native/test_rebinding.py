"""What quic-interop-runner's rebind-port, rebind-addr and connectionmigration do and look for, on its network: 15 ms each way,
10 Mbit/s and a queue of 25 packets, with every octet compared and every packet read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from quicsocks.userspace.quic.types import Address

from ...sim.link import Conditions
from ...sim.pair import SERVER
from ...sim.roads import MOBILE, PREFERRED, PREFERRED_6, SERVER_6, WIFI, WIFI_6, Sent
from .forger import Parsed
from .moving import Moving, dial
from .wire import CHALLENGE, RESPONSE, data_of, read

RUNNER = Conditions(delay=0.015, rate=10e6, queue=25 * 1500)
FIRST_REBIND, REBIND_EVERY = 1.0, 5.0


class Recorded:
    """A session whose every packet can be read afterwards."""

    def __init__(self, keylog: Path) -> None:
        self._keylog = keylog
        self._moving: Moving | None = None

    def dial(self, preferred: tuple[Address, ...] = (), *, ipv6: bool = False) -> Moving:
        self._moving = dial(conditions=RUNNER, preferred=preferred, keylog=self._keylog, ipv6=ipv6)
        return self._moving

    def packets(self) -> list[tuple[Sent, list[Parsed]]]:
        assert self._moving is not None
        schedule = self._moving.native.handshaker.tls.key_schedule
        assert schedule is not None
        return read(self._moving.pair.sent, self._keylog, schedule.cipher_suite)

    def close(self) -> None:
        if self._moving is not None:
            self._moving.pair.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    recorded = Recorded(tmp_path / "keys")
    yield recorded
    recorded.close()


def assert_every_path_was_validated(packets: list[tuple[Sent, list[Parsed]]], paths: int) -> None:
    """The first packet of the server's on each new path brings a PATH_CHALLENGE, which the client answers in the end."""
    first: dict[tuple[Address, Address], list[Parsed]] = {}
    for sent, frames in packets:
        if not sent.up:
            first.setdefault((sent.remote, sent.outside), frames)
    assert len(first) == paths
    challenges = [data_of(frames, CHALLENGE) for frames in list(first.values())[1:]]
    assert all(challenges)
    answers = set().union(*(data_of(frames, RESPONSE) for sent, frames in packets if sent.up))
    for challenge in challenges:
        assert challenge <= answers


@pytest.mark.parametrize("hosts", [False, True], ids=["rebind-port", "rebind-addr"])
def test_a_nat_that_rebinds_every_five_seconds(hosts: bool, recorded: Recorded) -> None:
    moving = recorded.dial()
    begun, rebindings = moving.pair.now, 0

    def rebind() -> None:
        nonlocal rebindings
        if not download.done:
            rebindings += 1
            moving.pair.nats[WIFI] = (f"203.0.113.{20 + rebindings if hosts else 9}", 40000 + rebindings)
            moving.pair.at(moving.pair.now + REBIND_EVERY, rebind)

    moving.pair.at(begun + FIRST_REBIND, rebind)
    moving.complete()
    download = moving.download(10 << 20)
    moving.pair.drive(lambda: download.done)
    download.check()
    assert moving.pair.now - begun < 10.0, "8.7 s are what the link takes for it"
    assert rebindings == 2
    assert moving.server.peer_address == moving.pair.nats[WIFI]
    assert_every_path_was_validated(recorded.packets(), 3)


@pytest.mark.parametrize("ipv6", [False, True], ids=["connectionmigration-4", "connectionmigration-6"])
def test_a_client_that_goes_to_the_preferred_address(ipv6: bool, recorded: Recorded) -> None:
    moving = recorded.dial((PREFERRED, PREFERRED_6), ipv6=ipv6)
    moving.complete()
    local, server, preferred = (WIFI_6, SERVER_6, PREFERRED_6) if ipv6 else (WIFI, SERVER, PREFERRED)
    download = moving.download(2 << 20)
    moving.pair.drive(lambda: download.done)
    download.check()
    packets = recorded.packets()
    assert_every_path_was_validated(packets, 2)
    assert_new_connection_ids_on_new_paths(packets)
    there = moving.pair.used(local, up=False, remote=preferred)
    assert sum(len(sent.data) for sent in there) > 2 << 20 > 10 * len(moving.pair.used(local, up=False, remote=server))
    assert moving.client.peer_address == preferred


def test_a_client_that_moves_in_the_middle(recorded: Recorded) -> None:
    """connectionmigration, as it is when it is the client's local address that changes."""
    moving = recorded.dial().confirmed()
    download = moving.download(2 << 20)
    moving.pair.drive(lambda: download.done or len(download.near.data) > 1 << 20)
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: download.done)
    download.check()
    packets = recorded.packets()
    assert_every_path_was_validated(packets, 2)
    assert_new_connection_ids_on_new_paths(packets)


def assert_new_connection_ids_on_new_paths(packets: list[tuple[Sent, list[Parsed]]]) -> None:
    for up in (True, False):
        used: dict[tuple[Address, Address], set[bytes]] = {}
        for sent, _ in packets:
            if sent.up is up:
                used.setdefault((sent.local, sent.remote), set()).add(sent.cid)
        assert len(used) == 2
        assert all(not one & other for one, other in pairwise(used.values()))
