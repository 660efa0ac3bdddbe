"""A server's preferred address (RFC 9000 §9.6): announced, gone to once the handshake is confirmed, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.aioquic_internals import handshaker
from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import (
    PeerParameters,
    encode_parameters,
    parse_parameters,
)
from quicsocks.userspace.quic.errors import End, LocalError
from quicsocks.userspace.quic.preferred import PREFERRED_ADDRESS, check_preferred, encode_preferred, preferred_of
from quicsocks.userspace.quic.types import Address, PathChange

from ...sim.link import Conditions
from ...sim.pair import SERVER
from ...sim.roads import MOBILE, PREFERRED, PREFERRED_6, SERVER_6, WIFI, WIFI_6
from ..dialled import listen, listen_config
from .moving import DEAD, Moving, Transfer, dial

BOTH = (PREFERRED, PREFERRED_6)
CID, TOKEN = bytes(range(8)), bytes(range(16))


def has_gone(moving: Moving, remote: Address = PREFERRED) -> Callable[[], bool]:
    return lambda: moving.client.peer_address == remote and moving.server.local_address == remote


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_a_client_goes_there_when_the_handshake_is_confirmed(ipv6: bool) -> None:
    moving = dial(preferred=BOTH, ipv6=ipv6, conditions=Conditions(delay=0.05))
    local, server, preferred = (WIFI_6, SERVER_6, PREFERRED_6) if ipv6 else (WIFI, SERVER, PREFERRED)
    moving.pair.drive(lambda: moving.client_log.completed)
    assert not moving.pair.used(local, remote=preferred), "HANDSHAKE_DONE is still on its way"
    assert ipv6 or not moving.client.migrate(MOBILE), "not yet either, though there is a connection ID for it"
    moving.pair.drive(has_gone(moving, preferred))
    assert moving.changes == [(PathChange.ADDED, local, preferred), (PathChange.VALIDATED, local, preferred)]
    moving.pair.settle(4.0)
    left = len(moving.pair.used(local, remote=server))
    moving.carry(100_000)
    assert len(moving.pair.used(local, remote=server)) == left
    for up in (True, False):
        here, there = (
            {sent.cid for sent in moving.pair.used(local, up=up, remote=remote)} - {b""}
            for remote in (server, preferred)
        )
        assert here
        assert len(there) == 1
        assert not here & there, "RFC 9000 §9.5"


def test_the_connection_id_is_the_one_that_was_announced_with_it() -> None:
    moving = dial(preferred=BOTH).confirmed()
    parameters = moving.native.handshaker.peer_parameters
    assert parameters is not None
    assert parameters.preferred_address is not None
    assert {sent.cid for sent in moving.pair.used(WIFI, remote=PREFERRED)} == {
        parameters.preferred_address.connection_id
    }


@pytest.mark.parametrize("dead", [(0, 1), (0,), (1,)], ids=["both ways", "up", "down"])
def test_an_address_that_carries_nothing_is_not_gone_to(dead: tuple[int, ...]) -> None:
    moving = dial(preferred=BOTH)
    for direction in dead:
        moving.pair.road(WIFI, PREFERRED)[direction].conditions = DEAD
    moving.complete()
    moving.carry(200_000)
    moving.pair.settle(5.0)
    assert moving.client.peer_address == SERVER
    assert moving.server.local_address == SERVER
    assert moving.changes == [(PathChange.LOST, WIFI, PREFERRED)]
    moving.carry(10_000)


@pytest.mark.parametrize("seed", range(4))
def test_over_a_bad_network(seed: int) -> None:
    moving = dial(seed, Conditions(delay=0.02, jitter=0.01, loss=0.05, reorder=0.05, corrupt=0.02), preferred=BOTH)
    moving.complete()
    transfer = Transfer(moving, 150_000)
    moving.pair.drive(lambda: transfer.done)
    transfer.check()
    moving.pair.settle(4.0)
    assert has_gone(moving)()


def test_from_there_it_moves_on() -> None:
    moving = dial(preferred=BOTH).confirmed()
    assert moving.client.migrate(MOBILE)
    moving.pair.settle(4.0)
    assert moving.client.local_address == MOBILE
    assert moving.client.peer_address == PREFERRED
    assert not moving.pair.used(MOBILE), "of the server's first address nothing is asked any more"
    moving.carry(10_000)


def test_a_server_that_forbids_to_move_is_gone_to_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9000 §18.2: it forbids to move as long as its first address is used, and no longer."""

    def parse(data: bytes) -> PeerParameters:
        return replace(parse_parameters(data), disable_active_migration=True)

    monkeypatch.setattr(handshaker, "parse_parameters", parse)
    moving = dial(preferred=BOTH, conditions=Conditions(delay=0.05))
    moving.pair.drive(lambda: bool(moving.pair.used(WIFI, remote=PREFERRED)))
    assert not moving.client.migrate(MOBILE)
    moving.pair.drive(has_gone(moving))
    assert moving.client.migrate(MOBILE)
    moving.pair.settle(4.0)
    assert moving.client.local_address == MOBILE


def test_a_server_that_has_begun_anew_is_noticed_there() -> None:
    moving = dial(preferred=BOTH).confirmed()
    moving.pair.restart_server(5)
    listen(moving.pair, listen_config())
    moving.client.open_stream().write(b"are you there?")
    moving.end()
    assert moving.client_log.ended is not None
    assert moving.client_log.ended.end is End.PEER_RESET
    moving.pair.settle(5.0)
    assert not moving.pair.client.hub._dialled


def test_aioquic_stays_where_it_is() -> None:
    moving = dial(preferred=BOTH, engines=("aioquic", "native")).complete()
    moving.pair.settle(1.0)
    assert moving.client.peer_address == SERVER


# --- What is announced ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("addresses", [(PREFERRED,), (PREFERRED_6,), BOTH, BOTH[::-1]])
def test_what_is_announced_is_read_again(addresses: tuple[Address, ...]) -> None:
    value = encode_preferred(addresses, CID, TOKEN)
    announced = parse_parameters(encode_parameters({PREFERRED_ADDRESS: value})).preferred_address
    assert announced is not None
    assert announced.ipv4_address == (PREFERRED if PREFERRED in addresses else None)
    assert announced.ipv6_address == (PREFERRED_6 if PREFERRED_6 in addresses else None)
    assert (announced.connection_id, announced.stateless_reset_token) == (CID, TOKEN)


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        ((("example.com", 443),), "not an IP address"),
        ((PREFERRED, ("192.0.2.9", 443)), "more than one preferred address of IP version 4"),
        ((PREFERRED_6, PREFERRED_6), "more than one preferred address of IP version 6"),
        ((("0.0.0.0", 443),), "nowhere"),
        ((("::", 443),), "nowhere"),
        ((("224.0.0.1", 443),), "nowhere"),
        ((("192.0.2.9", 0),), "nowhere"),
        ((("192.0.2.9", 65536),), "nowhere"),
    ],
)
def test_what_nobody_could_go_to_is_not_announced(addresses: tuple[Address, ...], why: str) -> None:
    with pytest.raises(LocalError, match=why):
        check_preferred(addresses, "native")


def test_an_engine_that_cannot_says_so() -> None:
    with pytest.raises(LocalError, match="aioquic engine cannot"):
        check_preferred(BOTH, "aioquic")
    check_preferred((), "aioquic")


# --- Where a client goes ----------------------------------------------------------------------------------------------


def test_of_two_it_takes_the_one_that_its_socket_reaches() -> None:
    assert preferred_of(PREFERRED, PREFERRED_6, SERVER) == PREFERRED
    assert preferred_of(PREFERRED, PREFERRED_6, SERVER_6) == PREFERRED_6
    assert preferred_of(None, PREFERRED_6, SERVER) is None
    assert preferred_of(PREFERRED, None, SERVER_6) is None
    assert preferred_of(PREFERRED, None, PREFERRED) is None


@pytest.mark.parametrize(
    ("host", "remote"),
    [
        ("0.0.0.0", "198.51.100.1"),
        ("127.0.0.1", "198.51.100.1"),
        ("127.5.5.5", "10.0.0.1"),
        ("224.0.0.1", "198.51.100.1"),
        ("255.255.255.255", "198.51.100.1"),
        ("169.254.169.254", "198.51.100.1"),
        ("::", "2001:db8::1"),
        ("::1", "2001:db8::1"),
        ("ff02::1", "2001:db8::1"),
        ("fe80::1", "2001:db8::1"),
        ("10.0.0.1", "1.1.1.1"),
        ("192.168.1.1", "1.1.1.1"),
        ("fd00::1", "2606:4700::1"),
        ("::ffff:192.0.2.1", "2001:db8::1"),
    ],
)
def test_what_is_a_place_only_nearby_is_not_gone_to(host: str, remote: str) -> None:
    announced = (host, 443)
    assert preferred_of(announced, announced, (remote, 443)) is None


def test_within_one_machine_or_segment_it_is() -> None:
    assert preferred_of(("127.0.0.2", 1), None, ("127.0.0.1", 443)) == ("127.0.0.2", 1)
    assert preferred_of(("10.0.0.2", 1), None, ("10.0.0.1", 443)) == ("10.0.0.2", 1)
    assert preferred_of(("1.0.0.1", 1), None, ("10.0.0.1", 443)) == ("1.0.0.1", 1)
    assert preferred_of(None, ("fe80::2", 1), ("fe80::1%eth0", 443)) == ("fe80::2%eth0", 1), "and it keeps the zone"


def test_no_port_is_no_address() -> None:
    assert preferred_of(("192.0.2.9", 0), ("2001:db8::9", 0), SERVER) is None


@given(st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 65535), st.sampled_from([SERVER, SERVER_6]))
def test_any_address_is_gone_to_or_not(ipv4: object, ipv6: object, port: int, remote: Address) -> None:
    found = preferred_of((str(ipv4), port), (str(ipv6), port), remote)
    assert found is None or (":" in found[0]) == (":" in remote[0])
