"""What a server owes to addresses not validated, and when it follows one (RFC 9000 §8.2, §9), packet by packet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quicsocks.userspace.quic.session import Route

from .forger import CID, PARAMETERS, ROUTE, Forger, Parsed, ack, frame, new_connection_id, path_challenge, stream

ELSEWHERE = Route(ROUTE.local, ("203.0.113.5", 5000))
OTHER_PORT = Route(ROUTE.local, (ROUTE.remote[0], 4001))
PING = frame(0x01)
CHALLENGE, RESPONSE, RETIRE = 0x1A, 0x1B, 0x19
FRESH_CID = (1).to_bytes(CID, "big")
"""The victim's second connection ID."""
SMALLEST_DATAGRAM = 1200


def path_response(data: int) -> bytes:
    return b"\x1b" + data.to_bytes(8, "big")


def begin(**settings: object) -> Forger:
    """A server that has sent, and been given, connection IDs to spare."""
    forger = Forger(**settings)  # type: ignore[arg-type] # named as its fields are
    forger.send(new_connection_id(1), new_connection_id(2), new_connection_id(3))
    forger.acknowledge()
    forger.heard.clear()
    return forger


def to(forger: Forger, route: Route) -> list[tuple[bytes, list[Parsed]]]:
    return [(packet, frames) for there, packet, frames in forger.heard if there == route]


def asked(forger: Forger, route: Route) -> list[tuple[int, int]]:
    """PATH_CHALLENGEs that went there: what they hold, and the sizes of their datagrams."""
    return [
        (found[1], len(packet)) for packet, frames in to(forger, route) for found in frames if found[0] == CHALLENGE
    ]


def in_use(forger: Forger) -> Route:
    route: Route = forger.connection.route
    return route


# --- Probes (§8.2, §9.1) ----------------------------------------------------------------------------------------------


def test_a_probe_is_answered_where_it_came_from_and_moves_nothing() -> None:
    forger = begin()
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    (packet, frames), *_ = to(forger, ELSEWHERE)
    assert (RESPONSE, 77) in frames
    assert len(packet) == SMALLEST_DATAGRAM, "§8.2.2"
    assert asked(forger, ELSEWHERE), "and the prober's address is put to the test as well"
    assert not [frames for _, frames in to(forger, ROUTE) if (RESPONSE, 77) in frames]
    assert in_use(forger) == ROUTE
    forger.send(stream(0, 0, b"x"))
    forger.wait(0.1)
    assert all({found[0] for found in frames} <= {CHALLENGE, RESPONSE} for _, frames in to(forger, ELSEWHERE))


def test_frames_that_only_probe_move_nothing_together() -> None:
    forger = begin()
    forger.send(path_challenge(1), new_connection_id(1), path_response(5), bytes(100), route=ELSEWHERE, cid=FRESH_CID)
    assert in_use(forger) == ROUTE
    forger.send(path_challenge(2), PING, route=ELSEWHERE, cid=FRESH_CID)
    assert in_use(forger) == ELSEWHERE


def test_a_path_is_addressed_by_a_connection_id_of_its_own() -> None:
    forger = begin()
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    (packet, _), *_ = to(forger, ELSEWHERE)
    assert packet[1 : 1 + CID] == (1).to_bytes(CID, "big")
    forger.send(PING)
    packet, _ = to(forger, ROUTE)[-1]
    assert packet[1 : 1 + CID] == bytes(CID)


def test_a_path_that_was_only_probed_is_forgotten_and_its_connection_id_given_back() -> None:
    forger = begin()
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    forger.send(path_response(asked(forger, ELSEWHERE)[0][0]), route=ELSEWHERE, cid=FRESH_CID)
    forger.wait(10.0)
    assert forger.kinds(RETIRE) == [(RETIRE, 1)]
    assert in_use(forger) == ROUTE


def test_an_answer_that_was_never_asked_for_is_of_no_consequence() -> None:
    forger = begin()
    forger.send(path_response(1), path_response(2))
    forger.send(PING, path_response(3), route=ELSEWHERE, cid=FRESH_CID)
    assert forger.code is None
    assert not [event for event in forger.events if event[:2] == ("path", "validated")]
    assert not forger.connection.route_validated


def test_an_answer_counts_wherever_it_comes_from() -> None:
    """§8.2.3: its data is proof enough, for the path on which the question went."""
    forger = begin()
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    forger.send(path_response(asked(forger, ELSEWHERE)[0][0]), route=ROUTE)
    assert ("path", "validated", ELSEWHERE, True) in forger.events


def test_a_client_acknowledges_nothing_that_it_drops() -> None:
    """What a server sends to an address that we have left, or from one that we have not chosen, it has to send again."""
    forger = Forger(role="client")
    forger.send(stream(1, 0, b"never seen"), route=Route(("192.0.2.9", 9), ROUTE.remote, 1))
    forger.send(stream(1, 10, b", but for this"), PING)
    forger.wait(1.0)
    assert not forger.logs[1].data
    assert forger.kinds(0x02)
    for _, largest, _, count, first, *_ in forger.kinds(0x02):
        assert (largest, count, first) == (1, 0, 0)
    forger.send(stream(1, 0, b"never seen"))
    assert forger.logs[1].data == b"never seen, but for this"


# --- A peer that has moved (§9.3) -------------------------------------------------------------------------------------


def test_the_newest_packet_decides_and_no_older_one() -> None:
    forger = begin()
    late = forger.number
    forger.number += 1
    forger.send(PING)
    forger.send(PING, number=late, route=ELSEWHERE)
    assert in_use(forger) == ROUTE


def test_a_repeated_packet_from_elsewhere_is_not_even_looked_at() -> None:
    forger = begin()
    forger.send(PING)
    forger.send(PING, number=forger.number - 1, route=ELSEWHERE)
    assert not forger.sent_to[ELSEWHERE]
    assert in_use(forger) == ROUTE


@pytest.mark.parametrize("size", [4, 30, 300, 1100])
def test_no_address_gets_more_than_three_times_what_it_has_sent(size: int) -> None:
    forger = begin()
    log = forger.open_local()
    log.stream.write(bytes(60_000))
    forger.hear()
    sent = 0
    for _ in range(5):
        forger.put(PING.ljust(size, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
        sent += 1 + CID + 4 + size + 16
        forger.hear()
        assert in_use(forger) == ELSEWHERE
        assert 0 < forger.sent_to[ELSEWHERE] <= 3 * sent
    forger.wait(30.0)
    assert forger.sent_to[ELSEWHERE] <= 3 * sent


def test_an_acknowledgement_that_has_no_room_yet_keeps_nobody_awake() -> None:
    forger = Forger(peer_cid=bytes(20)).hear().acknowledge()
    forger.send(PING.ljust(7, b"\0"), route=ELSEWHERE)
    left = 3 * (1 + CID + 4 + 7 + 16) - forger.sent_to[ELSEWHERE]
    assert 50 <= left < 61, "room for something, but not for any ACK"
    forger.send(path_challenge(1), route=ROUTE)
    assert in_use(forger) == ELSEWHERE
    due, end = forger.connection.next_timer(), forger.now + 5.0
    while due < end:
        assert due > forger.now
        forger.wait(due - forger.now)
        due = forger.connection.next_timer()


def test_one_that_does_not_answer_is_left_for_the_one_that_did() -> None:
    forger = begin()
    forger.send(PING, route=ELSEWHERE, cid=FRESH_CID)
    assert in_use(forger) == ELSEWHERE
    former, *_ = asked(forger, ROUTE)
    forger.send(path_response(former[0]))
    forger.wait(5.0)
    assert in_use(forger) == ROUTE
    assert ("path", "lost", ELSEWHERE, False) in forger.events
    forger.acknowledge()
    log = forger.open_local()
    log.stream.write(b"again")
    before = forger.sent_to[ELSEWHERE]
    forger.hear()
    assert forger.kinds(0x08)
    assert forger.sent_to[ELSEWHERE] == before


def test_a_path_is_asked_again_in_a_full_datagram_when_it_could_not_be_before() -> None:
    """§8.2.1."""
    forger = begin()
    forger.send(PING, route=ELSEWHERE, cid=FRESH_CID)
    first, *_ = asked(forger, ELSEWHERE)
    assert first[1] < SMALLEST_DATAGRAM
    forger.heard.clear()
    forger.send(path_response(first[0]), route=ELSEWHERE, cid=FRESH_CID)
    assert forger.connection.route_validated, "it has shown that it is there"
    second, *_ = asked(forger, ELSEWHERE)
    assert second[0] != first[0]
    assert second[1] == SMALLEST_DATAGRAM
    forger.heard.clear()
    forger.send(path_response(second[0]), route=ELSEWHERE, cid=FRESH_CID)
    forger.wait(10.0)
    assert not asked(forger, ELSEWHERE)
    assert in_use(forger) == ELSEWHERE


def test_another_host_is_another_network_and_another_port_is_not() -> None:
    """§9.4."""
    for route, remembered in ((OTHER_PORT, True), (ELSEWHERE, False)):
        forger = begin()
        forger.connection.set_rtt(0.01)
        log = forger.open_local()
        for _ in range(20):
            log.stream.write(bytes(5000))
            forger.wait(0.01).acknowledge()
        grown = forger.connection.statistics()
        forger.send(PING, route=route)
        moved = forger.connection.statistics()
        assert moved["congestion_window"] < grown["congestion_window"]
        assert (moved["smoothed_rtt"] == grown["smoothed_rtt"]) is remembered
        assert remembered or moved["smoothed_rtt"] == 0.333


# --- Connection IDs (§5.1, §9.5) --------------------------------------------------------------------------------------


def test_without_another_connection_id_only_a_nat_is_followed() -> None:
    forger = Forger()
    forger.send(PING, route=ELSEWHERE, cid=FRESH_CID)
    assert in_use(forger) == ROUTE, "who watches both networks would know them for one"
    assert not forger.sent_to[ELSEWHERE]
    forger.send(PING, route=OTHER_PORT)
    assert in_use(forger) == OTHER_PORT, "it has used the same one in both places itself"
    forger.send(new_connection_id(1), route=OTHER_PORT)
    forger.send(PING, route=ELSEWHERE, cid=FRESH_CID)
    assert in_use(forger) == ELSEWHERE


def test_a_nat_that_rebinds_uses_up_no_connection_ids() -> None:
    """The peer has one to spare, and uses one itself that is not the first."""
    forger = Forger()
    forger.send(new_connection_id(1))
    forger.send(PING, route=ELSEWHERE, cid=FRESH_CID)
    for port in range(6000, 6020):
        route = Route(ROUTE.local, (ELSEWHERE.remote[0], port))
        forger.send(PING, route=route, cid=FRESH_CID)
        assert in_use(forger) == route
        assert {packet[1 : 1 + CID] for packet, _ in to(forger, route)} == {(1).to_bytes(CID, "big")}
        forger.wait(0.2)
    forger.send(path_response(asked(forger, route)[-1][0]), route=route, cid=FRESH_CID)
    forger.wait(20.0)
    assert in_use(forger) == route
    assert forger.kinds(RETIRE) == [(RETIRE, 0)], "where the peer was before all that"


def test_a_nat_that_rebinds_while_the_peer_moves_gives_neither_away() -> None:
    """§9.5: two paths are under way, and each keeps its connection ID when its NAT changes its mind."""
    forger = begin()
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    forger.send(PING, route=OTHER_PORT)
    again = Route(ROUTE.local, ("203.0.113.5", 5001))
    forger.send(PING, route=again, cid=FRESH_CID)
    used = {route: {packet[1 : 1 + CID] for packet, _ in to(forger, route)} for route in (OTHER_PORT, ELSEWHERE, again)}
    assert used == {
        OTHER_PORT: {bytes(CID)},
        ELSEWHERE: {(1).to_bytes(CID, "big")},
        again: {(1).to_bytes(CID, "big")},
    }


def test_a_peer_without_connection_ids_is_followed_as_well() -> None:
    forger = Forger(peer_cid=b"")
    forger.send(PING, route=ELSEWHERE)
    assert in_use(forger) == ELSEWHERE
    forger.send(path_response(asked(forger, ELSEWHERE)[0][0]), route=ELSEWHERE)
    assert forger.connection.route_validated


def test_no_client_moves_when_its_server_has_no_connection_ids() -> None:
    """§9.2: nothing would tell the packets of the two paths apart, and who watches could follow."""
    forger = Forger(role="client", peer_cid=b"")
    assert not forger.connection.migrate(Route(("192.0.2.9", 1), ROUTE.remote, 1), False)
    assert Forger(role="client", peer_cid=bytes(CID)).connection.migrate(ROUTE, False) is False
    forger = Forger(role="client")
    forger.send(new_connection_id(1))
    assert forger.connection.migrate(Route(("192.0.2.9", 1), ROUTE.remote, 1), False)


def test_connection_ids_that_the_peer_takes_back_are_not_used_any_more() -> None:
    forger = begin(parameters=replace(PARAMETERS, active_connection_id_limit=8))
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    forger.heard.clear()
    forger.send(new_connection_id(4, 4), new_connection_id(5, 4))
    assert sorted(found[1] for found in forger.kinds(RETIRE)) == [0, 1, 2, 3]
    forger.send(PING)
    forger.send(path_challenge(78).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    used = {route: {packet[1 : 1 + CID] for packet, _ in to(forger, route)} for route in (ROUTE, ELSEWHERE)}
    assert used == {ROUTE: {(4).to_bytes(CID, "big")}, ELSEWHERE: {(5).to_bytes(CID, "big")}}


def test_a_path_waits_for_a_connection_id_when_all_but_one_are_taken_back() -> None:
    forger = begin()
    forger.send(path_challenge(77).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    forger.send(new_connection_id(4, 4))
    forger.heard.clear()
    forger.send(path_challenge(78).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    assert not to(forger, ELSEWHERE)
    forger.send(new_connection_id(5, 4))
    forger.send(path_challenge(79).ljust(1100, b"\0"), route=ELSEWHERE, cid=FRESH_CID)
    ((packet, frames),) = to(forger, ELSEWHERE)
    assert (RESPONSE, 79) in frames
    assert packet[1 : 1 + CID] == (5).to_bytes(CID, "big")


def test_a_retired_connection_id_is_replaced_at_once_and_within_the_limit() -> None:
    forger = Forger(parameters=replace(PARAMETERS, active_connection_id_limit=3)).hear()
    assert [found[1] for found in forger.kinds(0x18)] == [1, 2]
    forger.send(frame(RETIRE, 0), cid=FRESH_CID)
    assert [found[1] for found in forger.kinds(0x18)] == [1, 2, 3]
    forger.send(frame(RETIRE, 0), cid=FRESH_CID)
    assert [found[1] for found in forger.kinds(0x18)] == [1, 2, 3], "a frame that came twice"
    assert ("cid_retired", bytes(CID)) in forger.events
    assert forger.code is None


def test_a_lost_frame_with_a_connection_id_is_sent_again_until_it_is_retired() -> None:
    forger = Forger().hear()
    (only,) = {forger.numbers[position] for position, (_, _, frames) in enumerate(forger.heard) if frames[0][0] == 0x18}
    forger.heard.clear()
    for _ in range(8):
        forger.send(PING)
    forger.send(ack(forger.numbers[-1], forger.numbers[-1] - only - 1))
    assert [found[1] for _, _, frames in forger.heard for found in frames if found[0] == 0x18] == [1, 2, 3]
