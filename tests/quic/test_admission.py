"""What strangers' datagrams may cost a server: nothing, an answer smaller than they were, or one bounded place."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from quicsocks.userspace.quic.admission import Admission, Verdict, prefix_of
from quicsocks.userspace.quic.hub import Hub
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Address, ListenConfig

from ..sim.link import Conditions
from ..sim.pair import SERVER, Pair
from .dialled import dial, dial_config, listen, listen_config
from .recorders import SessionLog
from .test_network import transfer

pytestmark = pytest.mark.usefixtures("each_engine")


def first_flight(seed: int) -> bytes:
    """A client's first Initial; each seed another client's."""
    return flights([seed])[0]


def flights(seeds: list[int]) -> list[bytes]:
    found = []
    for seed in seeds:
        pair = Pair(seed, Conditions(loss=1.0))
        pair.record = True
        pair.dial(dial_config(), SessionLog())
        pair.step(pair.now + 0.001)
        found.append(next(data for _, data in pair.seen))
    return found


def server(config: ListenConfig | None = None) -> Pair:
    pair = Pair(900)
    listen(pair, config)
    return pair


def answers(pair: Pair) -> list[bytes]:
    pair.record = True
    return [data for direction, data in pair.seen if direction == "down"]


def stranger(number: int) -> Address:
    """Addresses of as many different /24 networks."""
    return (f"10.{number >> 8}.{number & 255}.1", 40000)


# --- Garbage ----------------------------------------------------------------------------------------------------------


def test_garbage_is_counted_and_costs_nothing() -> None:
    pair = server()
    pair.record = True
    chance = random.Random(1)
    hub = pair.server.hub
    for size in (0, 1, 2, 5, 6, 7, 20, 21, 22, 100, 1199, 1200, 1500, 9000):
        for _ in range(60):
            hub.receive_datagram(chance.randbytes(size), Route(SERVER, stranger(1)), pair.now)
    pair.settle()
    statistics = hub.statistics()
    assert statistics["sessions"] == statistics["half_open"] == 0
    assert sum(statistics.values()) == 14 * 60 + statistics.get("version_negotiations_sent", 0) * 0
    assert all(len(data) < 1200 for data in answers(pair))
    assert not hub._entries


def test_corrupted_initials_never_make_a_session() -> None:
    pair = server()
    chance = random.Random(2)
    good = first_flight(1)
    # Behind the packet there is only padding, which nothing protects.
    protected = pull_quic_header(Buffer(data=good)).packet_length
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(protected)] ^= 1 << chance.randrange(8)
        pair.send_up(bytes(data), stranger(chance.randrange(50)))
    pair.settle()
    statistics = pair.server.hub.statistics()
    assert statistics["sessions"] == 0
    assert statistics["dropped_undecryptable"] > 10


def test_small_initials_are_dropped() -> None:
    pair = server()
    pair.send_up(first_flight(1)[:1199])
    assert pair.server.hub.statistics()["dropped_small"] == 1
    assert answers(pair) == []


def test_a_short_destination_connection_id_is_dropped() -> None:
    pair = server()
    initial = first_flight(1)
    pair.send_up(initial[:5] + bytes([7]) + initial[7:] + b"\0")
    assert pair.server.hub.statistics()["sessions"] == 0


def test_nobody_listens() -> None:
    pair = Pair()
    pair.record = True
    pair.send_up(first_flight(1))
    pair.send_up(bytes([0x45]) + bytes(40))
    assert pair.server.hub.statistics()["dropped_unknown"] == 2
    assert answers(pair) == []


def test_stop_listening_keeps_what_exists() -> None:
    dialled = dial().complete()
    dialled.pair.server.hub.stop_listening()
    transfer(dialled, 1000)
    log = SessionLog()
    dialled.pair.dial(dial_config(), log)
    dialled.pair.pass_time(12.0)
    assert log.ended is not None
    assert not log.completed


# --- Version negotiation ----------------------------------------------------------------------------------------------


def test_other_versions_are_answered_without_state() -> None:
    pair = server()
    pair.record = True
    initial = bytearray(first_flight(1))
    initial[1:5] = (0x1A2A3A4A).to_bytes(4, "big")
    pair.send_up(bytes(initial))
    (answer,) = answers(pair)
    header = pull_quic_header(Buffer(data=answer))
    assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
    assert header.supported_versions == [1, 0x6B3343CF]
    assert header.source_cid == initial[6:14]
    assert header.destination_cid == initial[15:23]
    assert pair.server.hub.statistics()["sessions"] == 0


def test_version_negotiation_is_never_answered() -> None:
    pair = server()
    pair.record = True
    pair.send_up(bytes([0xC0]) + bytes(4) + bytes([8]) + bytes(8) + bytes([8]) + bytes(8) + bytes(1200))
    assert answers(pair) == []


# --- Half-open handshakes ---------------------------------------------------------------------------------------------


def test_a_flood_of_half_open_handshakes_is_bounded_and_real_clients_pass() -> None:
    config = replace(listen_config(), max_half_open=30, retry_above=10)
    pair = server(config)
    pair.record = True
    for number, initial in enumerate(flights(list(range(1, 61)))):
        pair.send_up(initial, stranger(number))
    statistics = pair.server.hub.statistics()
    assert statistics["half_open"] == 10
    assert statistics["retries_sent"] == 50
    assert all(len(data) <= 1200 for data in answers(pair))

    log = SessionLog()
    pair.dial(dial_config(), log)
    pair.drive(lambda: log.completed, 5.0)
    assert pair.server.hub.statistics()["retries_sent"] == 51
    pair.pass_time(15.0)
    assert pair.server.hub.statistics()["half_open"] == 0
    assert pair.server.hub.statistics()["sessions"] == 1


def test_one_prefix_cannot_use_up_the_total() -> None:
    pair = server(replace(listen_config(), max_half_open_per_prefix=5))
    for number, initial in enumerate(flights(list(range(1, 21)))):
        pair.send_up(initial, (f"10.0.0.{number}", 40000))
    assert pair.server.hub.statistics()["half_open"] == 5
    assert pair.server.hub.statistics()["refused_prefix_full"] == 15
    log = SessionLog()
    pair.dial(dial_config(), log)
    pair.drive(lambda: log.completed, 5.0)


def test_the_total_is_a_hard_limit() -> None:
    pair = server(replace(listen_config(), max_half_open=5, retry_above=100))
    for number, initial in enumerate(flights(list(range(1, 11)))):
        pair.send_up(initial, stranger(number))
    assert pair.server.hub.statistics()["half_open"] == 5
    assert pair.server.hub.statistics()["refused_full"] == 5


def test_repeated_initials_are_one_handshake() -> None:
    pair = server()
    initial = first_flight(1)
    for _ in range(50):
        pair.send_up(initial)
    assert pair.server.hub.statistics()["half_open"] == 1


def test_the_number_of_sessions_is_limited() -> None:
    pair = server(replace(listen_config(), max_sessions=2))
    logs = [SessionLog() for _ in range(3)]
    sessions = []
    for log in logs[:2]:
        sessions.append(pair.dial(dial_config(), log))
        pair.drive(lambda log=log: log.completed, 5.0)  # type: ignore[misc] # bound now
    sessions.append(pair.dial(dial_config(), logs[2]))
    pair.pass_time(1.0)
    assert not logs[2].completed
    assert pair.server.hub.statistics()["refused_sessions_full"] >= 1
    sessions[0].close()
    pair.drive(lambda: logs[2].completed, 8.0)


def test_answers_before_validation_stay_below_three_times() -> None:
    pair = server()
    pair.record = True
    initial = first_flight(1)
    pair.send_up(initial)
    pair.pass_time(12.0)
    assert 0 < sum(len(data) for data in answers(pair)) <= 3 * len(initial)


# --- Retry ------------------------------------------------------------------------------------------------------------


def test_retry_is_invisible_to_the_client_s_application() -> None:
    config = replace(listen_config(), retry_above=0)
    for seed in range(5):
        dialled = dial(seed, Conditions(loss=0.1), listening=config).complete()
        transfer(dialled, 20_000)
        assert dialled.pair.server.hub.statistics()["retries_sent"] >= 1


def test_a_token_survives_a_restart_with_the_same_secret() -> None:
    config = replace(listen_config(), retry_above=0)
    dialled = dial(listening=config)
    dialled.pair.drive(lambda: dialled.pair.server.hub.statistics().get("retries_sent", 0) == 1)
    dialled.pair.restart_server(5)
    sessions, logs = listen(dialled.pair, config)
    dialled.pair.drive(lambda: dialled.client_log.completed)
    assert len(sessions) == len(logs) == 1
    assert dialled.pair.server.hub.statistics().get("retries_sent", 0) == 0


def test_a_token_is_of_no_use_to_others() -> None:
    config = replace(listen_config(), retry_above=0)
    dialled = dial(listening=config)
    dialled.pair.record = True
    dialled.complete()
    retried = next(
        data
        for direction, data in dialled.pair.seen
        if direction == "up" and data[0] & 0xF0 == 0xC0 and pull_quic_header(Buffer(data=data)).token
    )
    pair = server(config)
    pair.send_up(retried, ("203.0.113.77", 61000))
    assert pair.server.hub.statistics()["dropped_token"] == 1
    pair.now += 3600
    pair.send_up(retried, pair.nat)
    assert pair.server.hub.statistics()["dropped_token"] == 2
    assert pair.server.hub.statistics()["half_open"] == 0


# --- Stateless reset --------------------------------------------------------------------------------------------------


def test_resets_answer_only_what_could_have_been_ours_and_not_too_often() -> None:
    pair = server()
    pair.record = True
    hub: Hub = pair.server.hub
    chance = random.Random(3)
    foreign = bytes([0x45]) + bytes([0x03]) + chance.randbytes(60)
    ours = hub._cid_factory.new()
    for _ in range(1000):
        pair.send_up(foreign)
    assert answers(pair) == []
    for size in (8, 20, 21, 22, 30, 1200):
        data = bytes([0x45]) + ours + chance.randbytes(size)
        before = len(answers(pair))
        pair.send_up(data)
        for answer in answers(pair)[before:]:
            assert 21 <= len(answer) < len(data)
    assert len(answers(pair)) == 5, "all but the first, which is too small to be answered by something smaller"
    for _ in range(1000):
        pair.send_up(bytes([0x45]) + ours + bytes(50))
    assert len(answers(pair)) <= 200


# --- The first octet --------------------------------------------------------------------------------------------------


def test_the_hook_sees_what_is_not_quic() -> None:
    pair = server()
    hub = pair.server.hub
    seen: list[tuple[bytes, Address]] = []

    def hook(data: bytes, remote: Address) -> bool:
        seen.append((data, remote))
        return data[0] == 0

    hub.set_first_byte_hook(hook)
    stun = bytes([0, 1]) + bytes(18)
    for data in (stun, bytes([20]) + bytes(20), bytes([130]) + bytes(20), bytes([0x45]) + bytes(30), first_flight(1)):
        pair.send_up(data)
    assert [data[0] for data, _ in seen] == [0, 20, 130]
    assert hub.statistics()["taken_by_hook"] == 1
    assert hub.statistics()["dropped_not_quic"] == 2
    hub.set_first_byte_hook(None)
    pair.send_up(stun)
    assert len(seen) == 3


def test_raw_datagrams_go_out() -> None:
    pair = server()
    pair.record = True
    pair.server.hub.send_raw(b"\0\1raw", Route(SERVER, pair.nat))
    pair.settle()
    assert answers(pair) == [b"\0\1raw"]


# --- The counts by themselves -----------------------------------------------------------------------------------------


def test_prefixes() -> None:
    assert prefix_of("192.0.2.1") == prefix_of("192.0.2.254") != prefix_of("192.0.3.1")
    assert prefix_of("2001:db8:0:1::1") == prefix_of("2001:db8:0:ff::1") != prefix_of("2001:db8:0:100::1")
    assert prefix_of("::") != prefix_of("0.0.0.0")


def test_counts_return_to_nothing() -> None:
    admission = Admission()
    config = replace(listen_config(), max_half_open=3, max_half_open_per_prefix=2, retry_above=1)
    hosts = ["10.0.0.1", "10.0.0.2", "10.0.1.1"]
    assert admission.judge(hosts[0], config, 0, validated=False) is Verdict.ADMIT
    admission.begin(hosts[0])
    assert admission.judge(hosts[1], config, 1, validated=False) is Verdict.RETRY
    assert admission.judge(hosts[1], config, 1, validated=True) is Verdict.ADMIT
    admission.begin(hosts[1])
    assert admission.judge(hosts[1], config, 2, validated=True) is Verdict.PREFIX_FULL
    admission.begin(hosts[2])
    assert admission.judge("10.9.9.9", config, 3, validated=True) is Verdict.FULL
    assert admission.judge("10.9.9.9", config, config.max_sessions, validated=True) is Verdict.SESSIONS_FULL
    for host in hosts:
        admission.end(host)
    assert admission.half_open == 0
    assert not admission._by_prefix
