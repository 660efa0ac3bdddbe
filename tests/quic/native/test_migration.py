"""A client that moves to another local address (RFC 9000 §9), on a jumping clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.aioquic_internals import handshaker
from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import PeerParameters, parse_parameters
from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.types import Address, Limits, PathChange

from ...sim.link import Conditions
from ...sim.pair import SERVER
from ...sim.roads import CABLE, MOBILE, WIFI
from .moving import DEAD, Moving, Transfer, dial

BAD = Conditions(delay=0.02, jitter=0.01, loss=0.05, duplicate=0.02, reorder=0.05, corrupt=0.02)
OWN_CIDS = 4
"""Connection IDs that an end keeps issued."""


def has_moved(moving: Moving, local: Address = MOBILE) -> Callable[[], bool]:
    """Both ends are there."""
    return lambda: moving.client.local_address == local and moving.server.peer_address == moving.pair.nats[local]


def cids(moving: Moving, *, up: bool) -> list[set[bytes]]:
    """Connection IDs by the client's address."""
    return [{sent.cid for sent in moving.pair.used(local, up=up)} - {b""} for local in (WIFI, MOBILE, CABLE)]


def assert_unlinkable(moving: Moving) -> None:
    """RFC 9000 §9.5: whoever watches two networks must not see that it is one connection."""
    for up in (True, False):
        first, second, third = cids(moving, up=up)
        assert not first & second
        assert not first & third
        assert not second & third


def test_a_client_moves_and_everything_goes_with_it() -> None:
    moving = dial().confirmed()
    moving.carry(100_000)
    moving.pair.settle(1.0)
    assert moving.client.migrate(MOBILE)
    moving.pair.settle(3.0)
    assert moving.changes == [(PathChange.ADDED, MOBILE, SERVER), (PathChange.VALIDATED, MOBILE, SERVER)]
    assert moving.client.local_address == MOBILE
    assert moving.server.peer_address == moving.pair.nats[MOBILE]
    left = len(moving.pair.used(WIFI))
    moving.carry(100_000)
    assert len(moving.pair.used(WIFI)) == left, "nothing goes the old way any more"
    assert moving.server.paths()[0].validated
    assert_unlinkable(moving)


def test_the_new_path_is_probed_before_anything_is_trusted_to_it() -> None:
    moving = dial(conditions=Conditions(delay=0.05)).confirmed()
    transfer = Transfer(moving, 3_000_000)
    moving.pair.pass_time(0.3)
    begun = moving.pair.now
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: bool(moving.changes))
    assert moving.pair.now - begun == pytest.approx(0.1, abs=0.001), "one round trip"
    probes = [sent for sent in moving.pair.used(MOBILE) if sent.at < moving.pair.now]
    assert [len(sent.data) for sent in probes] == [1200], "RFC 9000 §8.2.1"
    assert [sent for sent in moving.pair.used(WIFI) if sent.at > begun + 0.05], "meanwhile, all goes on"
    moving.pair.drive(lambda: transfer.done)
    transfer.check()


def test_what_is_known_of_the_old_path_is_not_believed_of_the_new() -> None:
    moving = dial().confirmed()
    moving.carry(1_000_000)
    moving.pair.settle(1.0)
    before = moving.client.statistics()
    assert before.path_mtu == 1452
    moving.pair.change(MOBILE, Conditions(delay=0.15, mtu=1300))
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: bool(moving.changes))
    now = moving.client.statistics()
    assert now.path_mtu == 1200
    assert now.congestion_window <= 10 * 1452 < before.congestion_window
    assert now.smoothed_rtt == pytest.approx(0.3, abs=0.01), "that of the validation, for a start (RFC 9002 §6.2.2)"
    assert moving.client_log.max_datagram_size == moving.client.max_datagram_size < 1200
    moving.pair.settle(3.0)
    assert 1280 <= moving.client.statistics().path_mtu <= 1300
    assert 1280 <= moving.server.statistics().path_mtu <= 1300


@pytest.mark.parametrize("dead", [(0, 1), (0,), (1,)], ids=["both ways", "up", "down"])
def test_a_new_path_that_carries_nothing_changes_nothing(dead: tuple[int, ...]) -> None:
    moving = dial().confirmed()
    for direction in dead:
        moving.pair.road(MOBILE)[direction].conditions = DEAD
    assert moving.client.migrate(MOBILE)
    moving.carry(100_000)
    moving.pair.settle(5.0)
    assert moving.changes == [(PathChange.LOST, MOBILE, SERVER)]
    assert moving.client.local_address == WIFI
    assert moving.server.peer_address == moving.pair.nats[WIFI]
    assert 2 <= len(moving.pair.used(MOBILE)) <= 30
    assert moving.client.statistics().congestion_window >= 14720, "its loss is no congestion of the old one's"
    moving.pair.change(MOBILE, Conditions())
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(has_moved(moving))
    moving.carry(10_000)
    assert_unlinkable(moving)


def test_a_dead_old_path_is_left_behind() -> None:
    moving = dial().confirmed()
    transfer = Transfer(moving, 500_000)
    moving.pair.pass_time(0.1)
    moving.pair.change(WIFI, DEAD)
    moving.pair.pass_time(2.0)
    begun = moving.pair.now
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    assert moving.pair.now - begun < 2.0, "with probe timeouts begun anew"
    assert moving.client_log.ended is None


@pytest.mark.parametrize("seed", range(8))
def test_a_move_in_the_middle_of_a_transfer_over_a_bad_network(seed: int) -> None:
    moving = dial(seed, BAD, limits=Limits(handshake_timeout=30.0)).confirmed()
    transfer = Transfer(moving, 150_000)
    moving.pair.pass_time(0.1 + seed * 0.02)
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    moving.pair.settle(3.0)
    assert moving.changes[-1] == (PathChange.VALIDATED, MOBILE, SERVER)
    assert moving.server.peer_address == moving.pair.nats[MOBILE]


def test_connection_ids_are_given_back_and_never_run_out() -> None:
    moving = dial().confirmed()
    for count in range(12):
        local = (MOBILE, CABLE, WIFI)[count % 3]
        assert moving.client.migrate(local)
        moving.pair.drive(has_moved(moving, local))
        moving.pair.settle(4.0)
    assert_unlinkable(moving)
    by_address = cids(moving, up=True)
    assert [len(used) for used in by_address] == [5, 4, 4], "a fresh one for every move"
    for host in (moving.pair.client, moving.pair.server):
        (entry,) = host.hub._entries
        assert len(entry.cids) == OWN_CIDS, "retired ones are forgotten and replaced"
        assert set(host.hub._by_cid) == entry.cids


def test_moves_in_quick_succession() -> None:
    """Only the last wish counts, and a peer that has no connection ID to spare is not asked for what it cannot do."""
    moving = dial(conditions=Conditions(delay=0.05)).confirmed()
    assert moving.client.migrate(MOBILE)
    moving.pair.pass_time(0.02)
    assert moving.client.migrate(CABLE)
    moving.pair.settle(4.0)
    assert moving.client.local_address == CABLE
    assert [change for change, *_ in moving.changes] == [PathChange.ADDED, PathChange.VALIDATED]
    assert moving.client.migrate(WIFI)
    assert not moving.client.migrate(CABLE), "where it is already"
    moving.pair.settle(4.0)
    assert moving.client.local_address == CABLE, "which took the former wish back"
    assert_unlinkable(moving)


def test_there_and_back_before_the_old_path_is_forgotten() -> None:
    moving = dial().confirmed()
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(has_moved(moving))
    assert moving.client.migrate(WIFI)
    moving.pair.drive(has_moved(moving, WIFI))
    moving.pair.settle(4.0)
    moving.carry(10_000)
    assert_unlinkable(moving)
    first, second, _ = cids(moving, up=True)
    assert (len(first), len(second)) == (1, 1), "the same connection ID on the same pair of addresses is no news"


def test_an_idle_client_tells_the_server_at_once_that_it_has_moved() -> None:
    """Even one that knows the path already and asks nothing: otherwise it would send the old way until it hears more."""
    moving = dial(conditions=Conditions(delay=0.05)).confirmed()
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(has_moved(moving))
    moving.pair.pass_time(0.5)
    begun = moving.pair.now
    assert moving.client.migrate(WIFI)
    moving.pair.drive(has_moved(moving, WIFI))
    assert moving.pair.now - begun == pytest.approx(0.15, abs=0.001), "a round trip, and the way there"


def test_a_way_back_that_is_not_gone_after_all_is_kept_for_what_still_comes() -> None:
    moving = dial(conditions=Conditions(delay=0.15)).confirmed()
    download = moving.download(300_000)
    moving.pair.pass_time(0.8)
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: moving.client.local_address == MOBILE)
    assert moving.client.migrate(WIFI)
    moving.pair.pass_time(0.01)
    assert moving.client.migrate(CABLE)
    moving.pair.drive(lambda: download.done)
    download.check()
    assert moving.native.connection.statistics()["packets_dropped"] == 0
    assert moving.native.connection.statistics()["packets_lost"] == 0
    moving.pair.drive(has_moved(moving, CABLE))


def test_a_nat_that_changes_its_mind_during_the_move() -> None:
    moving = dial(conditions=Conditions(delay=0.05)).confirmed()
    transfer = Transfer(moving, 500_000)
    moving.pair.pass_time(0.1)
    assert moving.client.migrate(MOBILE)
    moving.pair.pass_time(0.06)  # The server has been probed, and what it answers goes nowhere.
    moving.pair.nats[MOBILE] = ("203.0.113.131", 7)
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    moving.pair.settle(3.0)
    assert moving.client.local_address == MOBILE
    assert moving.server.peer_address == ("203.0.113.131", 7)


def test_the_old_nat_forgets_while_the_move_is_under_way() -> None:
    moving = dial(conditions=Conditions(delay=0.05)).confirmed()
    transfer = Transfer(moving, 500_000)
    moving.pair.pass_time(0.1)
    assert moving.client.migrate(MOBILE)
    moving.pair.nats[WIFI] = ("203.0.113.9", 8)
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    moving.pair.settle(3.0)
    assert moving.server.peer_address == moving.pair.nats[MOBILE]
    for host in (moving.pair.client, moving.pair.server):
        (entry,) = host.hub._entries
        assert len(entry.cids) == OWN_CIDS


# --- When it must not -------------------------------------------------------------------------------------------------


def test_before_the_handshake_is_confirmed_nothing_moves() -> None:
    moving = dial()
    assert not moving.client.migrate(MOBILE)
    moving.pair.drive(lambda: moving.client_log.completed)
    assert not moving.client.migrate(MOBILE), "HANDSHAKE_DONE is still on its way"
    moving.pair.settle(1.0)
    assert not moving.server.migrate(MOBILE)
    assert not moving.client.migrate(WIFI)
    with pytest.raises(LocalError, match="no such address"):
        moving.client.migrate(("192.0.2.99", 1))
    moving.client.close()
    assert not moving.client.migrate(MOBILE)
    assert not moving.pair.used(MOBILE)


def test_a_server_that_forbids_it_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(data: bytes) -> PeerParameters:
        return replace(parse_parameters(data), disable_active_migration=True)

    monkeypatch.setattr(handshaker, "parse_parameters", parse)
    moving = dial().confirmed()
    assert not moving.client.migrate(MOBILE)
    moving.carry(1000)
    assert not moving.pair.used(MOBILE)


def test_without_a_connection_id_to_spare_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose client keeps two connection IDs: the second comes only once."""

    def parse(data: bytes) -> PeerParameters:
        return replace(parse_parameters(data), active_connection_id_limit=2)

    monkeypatch.setattr(handshaker, "parse_parameters", parse)
    moving = dial().confirmed()
    moving.pair.change(MOBILE, DEAD)
    assert moving.client.migrate(MOBILE)
    assert moving.client.migrate(CABLE) is False, "the other one has been seen on the first wish's road"
    moving.pair.settle(4.0)
    assert moving.client.migrate(CABLE), "until the server has sent a new one"
    moving.pair.drive(has_moved(moving, CABLE))
    assert_unlinkable(moving)


def test_aioquic_stays_where_it_is() -> None:
    moving = dial(engines=("aioquic", "native")).complete()
    moving.pair.settle(1.0)
    assert not moving.client.migrate(MOBILE)


def test_an_aioquic_server_is_moved_away_from() -> None:
    moving = dial(engines=("native", "aioquic")).confirmed()
    assert moving.client.migrate(MOBILE)
    moving.pair.drive(has_moved(moving))
    moving.carry(100_000)
    assert_unlinkable(moving)
