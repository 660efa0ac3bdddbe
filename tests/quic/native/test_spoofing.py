"""Others than the two ends who send from addresses of theirs what they have seen or made up (RFC 9000 §9.3.2, §9.3.3)."""

from __future__ import annotations

import random

import pytest

from quicsocks.userspace.quic.types import Address

from ...sim.link import Conditions
from ...sim.pair import SERVER
from ...sim.roads import WIFI, Sent
from .moving import Moving, Transfer, dial

ATTACKER: Address = ("203.0.113.66", 666)
FAR = Conditions(delay=0.05)


class Copyist:
    """Sees what the client sends, and has copies of it at the server sooner or later, from addresses of his.

    delay: s that his copies take; the originals take 0.05 s. Forwards nothing to the client."""

    def __init__(self, moving: Moving, delay: float, every: int = 1) -> None:
        self.sent: dict[Address, int] = {}
        self._moving, self._delay, self._every, self._seen = moving, delay, every, 0
        moving.pair.tap = self._see

    def stop(self) -> None:
        self._moving.pair.tap = None

    @property
    def received(self) -> dict[Address, int]:
        """Octets that the server has sent to each of his addresses."""
        total = dict.fromkeys(self.sent, 0)
        for sent in self._moving.pair.sent:
            if not sent.up and sent.outside in total:
                total[sent.outside] += len(sent.data)
        return total

    def _see(self, sent: Sent) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self.sent[ATTACKER] = self.sent.get(ATTACKER, 0) + len(sent.data)
            self._moving.pair.send_as(sent.data, ATTACKER, self._delay)

    def assert_not_amplified(self) -> None:
        received = self.received
        for address, octets in self.sent.items():
            assert received[address] <= 3 * octets


def assert_all_is_well(moving: Moving) -> None:
    moving.pair.settle(5.0)
    moving.carry(50_000)
    assert moving.server.peer_address == moving.pair.nats[WIFI]
    assert moving.server.paths()[0].validated
    assert moving.client_log.ended is None
    assert moving.server_log.ended is None


@pytest.mark.parametrize("delay", [0.06, 1.0], ids=["just behind", "long after"])
def test_copies_that_come_later_than_the_originals_are_nothing(delay: float) -> None:
    moving = dial(conditions=FAR).confirmed()
    copyist = Copyist(moving, delay)
    moving.carry(200_000)
    moving.pair.settle(3.0)
    assert copyist.sent[ATTACKER] > 200_000
    assert not copyist.received[ATTACKER]
    assert_all_is_well(moving)


def test_one_copy_that_overtakes_moves_the_connection_only_until_the_client_is_heard() -> None:
    moving = dial(conditions=FAR).confirmed()
    transfer = Transfer(moving, 500_000)
    moving.pair.pass_time(0.12)
    copyist = Copyist(moving, 0.01)
    moving.pair.drive(lambda: bool(copyist.sent))
    copyist.stop()
    moving.pair.drive(lambda: moving.server.peer_address == ATTACKER)
    begun = moving.pair.now
    moving.pair.drive(lambda: moving.server.peer_address == moving.pair.nats[WIFI])
    assert moving.pair.now - begun < 0.1
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    copyist.assert_not_amplified()
    assert_all_is_well(moving)


@pytest.mark.parametrize("every", [1, 2, 7])
def test_copies_that_overtake_all_the_time_do_no_lasting_harm(every: int) -> None:
    moving = dial(conditions=FAR).confirmed()
    transfer = Transfer(moving, 500_000)
    moving.pair.pass_time(0.12)
    copyist = Copyist(moving, 0.01, every)
    moving.pair.pass_time(3.0)
    assert copyist.received[ATTACKER] > 0, "the attack works while it lasts"
    copyist.stop()
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    copyist.assert_not_amplified()
    assert_all_is_well(moving)


def test_an_idle_client_whose_packet_is_overtaken_is_found_again() -> None:
    """Nothing comes from the client's address any more: it is the validation of the attacker's that fails."""
    moving = dial(conditions=FAR).confirmed()
    copyist = Copyist(moving, 0.01)
    moving.client.probe()
    moving.pair.drive(lambda: moving.server.peer_address == ATTACKER)
    copyist.stop()
    moving.pair.settle(5.0)
    copyist.assert_not_amplified()
    assert_all_is_well(moving)


def test_what_is_made_up_moves_nothing() -> None:
    moving = dial(conditions=FAR).confirmed()
    chance = random.Random(0)
    transfer = Transfer(moving, 100_000)
    moving.pair.pass_time(0.1)
    for sent in moving.pair.used(WIFI):
        if sent.cid:
            garbage = sent.data[:9] + chance.randbytes(len(sent.data) - 9)
            moving.pair.send_as(garbage, ATTACKER, chance.uniform(0.0, 0.3))
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    assert not [sent for sent in moving.pair.sent if sent.outside == ATTACKER]
    assert_all_is_well(moving)


def test_a_client_follows_no_server_that_it_has_not_chosen() -> None:
    moving = dial(conditions=FAR).confirmed()
    mocker: Address = ("198.51.100.77", 4433)
    transfer = Transfer(moving, 300_000)

    def copy(count: int) -> None:
        for sent in moving.pair.used(WIFI, up=False)[-count:]:
            moving.pair.send_down(sent.data, mocker, 0.001)

    for _ in range(20):
        moving.pair.pass_time(0.05)
        copy(5)
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    assert not moving.pair.used(WIFI, remote=mocker)
    assert not moving.changes
    assert moving.client.peer_address == SERVER
