"""Sessions over networks that lose, reorder, duplicate, corrupt, cut, narrow and move, on a jumping clock."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import replace
from typing import Any

import pytest

from quicsocks.userspace.quic.aioquic_internals.sending import SendingConnection
from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.types import Limits, PathChange, Priority

from ..sim.link import Conditions
from ..sim.pair import Pair
from .dialled import Dialled, dial, listen, listen_config
from .recorders import StreamLog

BAD = Conditions(delay=0.02, jitter=0.01, loss=0.05, duplicate=0.02, reorder=0.05, corrupt=0.02)

pytestmark = pytest.mark.usefixtures("each_engine")


def transfer(dialled: Dialled, size: int, flows: int = 1, seconds: float = 300.0) -> float:
    """size octets each way on each flow, checked by hash; the simulated seconds it took."""
    begun = dialled.pair.now
    chance = random.Random(size)
    payload = chance.randbytes(size)
    nears = [StreamLog(dialled.client.open_stream()) for _ in range(flows)]
    for near in nears:
        _feed(near, payload)

    def done() -> bool:
        return all(("eof",) in near.calls for near in nears)

    def echo() -> bool:
        for near in nears:
            far = dialled.server_log.logs.get(near.stream.id)
            if far is not None and far.on_call is None:
                far.on_call = lambda call, far=far: _feed(far, bytes(far.data)) if call == ("eof",) else None
                if ("eof",) in far.calls:
                    _feed(far, bytes(far.data))
        return done()

    dialled.pair.drive(echo, seconds)
    expected = hashlib.sha256(payload).digest()
    assert all(hashlib.sha256(near.data).digest() == expected for near in nears)
    return dialled.pair.now - begun


def _feed(log: StreamLog, payload: bytes) -> None:
    """Write payload and FIN, 64 KiB at a time, as backpressure lets it."""
    view = memoryview(payload)
    position = 0

    def more(_: object = None) -> None:
        nonlocal position
        while not log.paused and position < len(view):
            log.stream.write(view[position : position + 65536])
            position += 65536
            if position >= len(view):
                log.stream.finish()

    before = log.on_call

    def on_call(call: tuple[object, ...]) -> None:
        if before is not None:
            before(call)
        if call == ("resume",):
            more()

    log.on_call = on_call
    more()


# --- Loss and worse ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_every_octet_survives_a_bad_network(seed: int) -> None:
    transfer(dial(seed, BAD).complete(), 100_000, flows=3)


@pytest.mark.parametrize("seed", range(10))
def test_handshakes_survive_a_terrible_network(seed: int) -> None:
    terrible = replace(BAD, loss=0.25, duplicate=0.1, reorder=0.2, corrupt=0.1)
    dialled = dial(seed, terrible, limits=Limits(handshake_timeout=60.0)).complete(60.0)
    transfer(dialled, 2000)


def test_a_slow_link_with_a_short_queue_is_filled_and_shared() -> None:
    link = Conditions(delay=0.02, rate=8e6, queue=40_000)
    dialled = dial(3, link).complete()
    seconds = transfer(dialled, 250_000, flows=4)
    # 1 MB at 1 MB/s, up and then down again.
    assert seconds < 4.0
    assert dialled.pair.up.dropped < dialled.pair.up.carried / 10


def test_a_blackout_ends_and_the_transfer_goes_on() -> None:
    dialled = dial(4, Conditions(delay=0.02, rate=8e6, blackouts=((100.5, 106.0),))).complete()
    assert transfer(dialled, 800_000) < 20.0
    assert dialled.pair.now > 106.0


def test_interactive_octets_pass_a_bulk_transfer() -> None:
    dialled = dial(5, Conditions(delay=0.02, rate=8e6, queue=30_000)).complete()
    bulk = StreamLog(dialled.client.open_stream(priority=Priority.BULK))
    _feed(bulk, bytes(3_000_000))
    dialled.pair.pass_time(1.0)
    key = StreamLog(dialled.client.open_stream(priority=Priority.INTERACTIVE))
    begun = dialled.pair.now
    key.stream.write(b"k")
    dialled.pair.drive(lambda: key.stream.id in dialled.server_log.logs)
    assert dialled.pair.now - begun < 0.3, "a full queue on the way, but not our own buffers"


def test_datagrams_and_streams_share() -> None:
    dialled = dial(5, Conditions(delay=0.01, rate=8e6, queue=30_000)).complete()
    dialled.pair.settle()
    near = StreamLog(dialled.client.open_stream())
    _feed(near, bytes(2_000_000))
    end = dialled.pair.now + 1.0
    while dialled.pair.now < end:
        # Far more than fits: twice the rate.
        for _ in range(20):
            dialled.client.send_datagram(bytes(1000))
        dialled.pair.pass_time(0.01)
    stream = len(dialled.server_log.logs[near.stream.id].data)
    datagrams = 1000 * len(dialled.server_log.datagrams)
    assert stream > 200_000
    assert datagrams > 200_000


def test_idle_streams_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work for a packet does not depend on how many streams are open."""
    if Pair.engines[0] != "aioquic":
        pytest.skip("counts what only aioquic's scheduler calls")
    looks = {}
    original = SendingConnection._serve
    for idle in (0, 500):
        dialled = dial(6).complete()
        for _ in range(idle):
            dialled.client.open_stream().write(b"x")
        dialled.pair.settle()
        count = 0

        def serve(self: SendingConnection, *arguments: Any) -> bool:
            nonlocal count
            count += 1
            return original(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(SendingConnection, "_serve", serve)
            transfer(dialled, 200_000)
        looks[idle] = count
    assert 100 < looks[0] < 2000
    assert looks[500] < looks[0] * 1.2


def overhead() -> int:
    """Octets of a packet around the largest DATAGRAM: short header, tag, frame type and length."""
    numbers = 2 if Pair.engines[0] == "aioquic" else 4
    return 1 + 8 + numbers + 16 + 3


# --- Paths ------------------------------------------------------------------------------------------------------------


def test_large_datagrams_are_used_once_probed() -> None:
    dialled = dial(1, Conditions(mtu=1452)).complete()
    dialled.pair.record = True
    dialled.pair.settle()
    transfer(dialled, 50_000)
    assert max(len(data) for _, data in dialled.pair.seen) == 1452
    assert dialled.client.max_datagram_size == dialled.client_log.max_datagram_size == 1452 - overhead()


def test_initials_are_not_larger_than_every_path_carries() -> None:
    dialled = dial(1)
    dialled.pair.record = True
    dialled.complete()
    initials = [len(data) for _, data in dialled.pair.seen if data[0] & 0xF0 == 0xC0]
    assert initials
    assert set(initials) == {1200}


@pytest.mark.parametrize(("mtu", "found"), [(1451, 1400), (1399, 1340), (1300, 1280), (1279, 1200)])
def test_a_narrower_path_is_found_out(mtu: int, found: int) -> None:
    dialled = dial(1, Conditions(mtu=mtu)).complete()
    dialled.pair.settle()
    used = dialled.client.max_datagram_size + overhead()
    if Pair.engines[0] == "aioquic":
        assert used == found
    else:
        assert mtu - 20 <= used <= mtu
    transfer(dialled, 100_000)


def test_a_path_that_narrows_later_is_noticed() -> None:
    dialled = dial(1).complete()
    dialled.pair.settle()
    for link in (dialled.pair.up, dialled.pair.down):
        link.conditions = replace(link.conditions, mtu=1300)
    assert transfer(dialled, 100_000) < 20.0
    assert dialled.client.max_datagram_size == 1200 - overhead()


def test_a_nat_that_forgets_is_followed() -> None:
    dialled = dial(2).complete()
    dialled.pair.settle()
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(b"before")
    dialled.pair.settle()
    dialled.pair.nat = ("203.0.113.9", 62222)
    near.stream.write(b" and after")
    dialled.pair.drive(lambda: dialled.server_log.logs[near.stream.id].data == b"before and after")
    dialled.server_log.logs[near.stream.id].stream.write(b"there you are")
    dialled.pair.drive(lambda: near.data == b"there you are")
    dialled.pair.settle()
    assert dialled.server.peer_address == ("203.0.113.9", 62222)
    changes = [event.change for event in dialled.server_log.paths]
    assert changes == [PathChange.ADDED, PathChange.VALIDATED]
    (path,) = dialled.server.paths()
    assert path.remote == ("203.0.113.9", 62222)
    assert path.validated


# --- Silence ----------------------------------------------------------------------------------------------------------


def test_keepalive_holds_an_idle_connection_up() -> None:
    dialled = dial(limits=Limits(idle_timeout=5.0, keepalive=2.0)).complete()
    dialled.pair.pass_time(600.0)
    assert dialled.client_log.ended is None
    assert dialled.server_log.ended is None


def test_without_keepalive_it_ends() -> None:
    dialled = dial(limits=Limits(idle_timeout=5.0, keepalive=0.0)).complete()
    dialled.pair.pass_time(10.0)
    for log in (dialled.client_log, dialled.server_log):
        assert log.ended is not None
        assert log.ended.end is End.TIMED_OUT


def test_a_dead_peer_is_noticed_in_the_stated_time() -> None:
    limits = Limits(idle_timeout=6.0, keepalive=2.0)
    dialled = dial(limits=limits).complete()
    dialled.pair.settle(1.0)
    begun = dialled.pair.now
    for link in (dialled.pair.up, dialled.pair.down):
        link.conditions = replace(link.conditions, loss=1.0)
    dialled.end()
    assert dialled.client_log.ended is not None
    assert dialled.client_log.ended.end is End.TIMED_OUT
    assert dialled.pair.now - begun <= limits.idle_timeout + limits.keepalive + 0.1


def test_a_server_whose_secret_has_rotated_resets_connections_of_the_time_before() -> None:
    dialled = dial(6).complete()
    near = StreamLog(dialled.client.open_stream())
    dialled.pair.settle()
    dialled.pair.restart_server(seed=77)
    former = listen_config()
    listen(dialled.pair, replace(former, secret=bytes(range(32)), previous_secret=former.secret))
    near.stream.write(b"are you there?")
    dialled.end()
    assert dialled.client_log.ended is not None
    assert dialled.client_log.ended.end is End.PEER_RESET


def test_a_restarted_server_resets_what_it_has_forgotten() -> None:
    dialled = dial(6).complete()
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(b"x")
    dialled.pair.settle()
    dialled.pair.restart_server(seed=77)
    listen(dialled.pair)
    begun = dialled.pair.now
    near.stream.write(b"are you there?")
    dialled.end()
    assert dialled.client_log.ended is not None
    assert dialled.client_log.ended.end is End.PEER_RESET
    assert dialled.pair.now - begun < 0.1, "one round trip"
    assert near.calls == [("lost", End.PEER_RESET)]
    assert dialled.pair.server.hub.statistics()["resets_sent"] >= 1
    assert dialled.pair.client.hub.statistics()["resets_received"] == 1


def test_another_server_s_reset_is_not_believed() -> None:
    dialled = dial(6).complete()
    dialled.pair.settle()
    from quicsocks.userspace.quic.session import Route

    from ..sim.pair import CLIENT, SERVER

    forged = random.Random(1).randbytes(43)
    dialled.pair.client.hub.receive_datagram(bytes([0x50]) + forged, Route(CLIENT, SERVER), dialled.pair.now)
    dialled.pair.settle()
    assert dialled.client_log.ended is None


def test_a_peer_that_goes_on_sending_hears_the_close_again() -> None:
    dialled = dial(7).complete()
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(b"x")
    dialled.pair.settle()
    dialled.pair.down.conditions = replace(dialled.pair.down.conditions, loss=1.0)
    dialled.server.close(9, "bye")
    dialled.pair.pass_time(0.001)
    dialled.pair.down.conditions = replace(dialled.pair.down.conditions, loss=0.0)
    near.stream.write(b"still talking")
    dialled.end(5.0)
    assert dialled.client_log.ended is not None
    assert (dialled.client_log.ended.end, dialled.client_log.ended.code) == (End.PEER_CLOSED, 9)


def test_after_all_is_over_nothing_is_left() -> None:
    dialled = dial(8).complete()
    transfer(dialled, 1000)
    dialled.client.close()
    dialled.pair.pass_time(60.0)
    for host in (dialled.pair.client, dialled.pair.server):
        hub = host.hub
        assert not hub._by_cid
        assert not hub._entries
        assert not hub._dialled
        assert hub.get_timer() is None


# --- A handler's own mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["handshake_completed", "stream_opened", "datagram_received"])
def test_an_exception_of_the_handler_s_ends_its_session_only(
    method: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = dial(9)

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of the handler's")

    if method == "handshake_completed":
        monkeypatch.setattr(dialled.client_log, method, fail)
    else:
        dialled.complete()
        monkeypatch.setattr(dialled.client_log, method, fail)
        dialled.server.open_stream().write(b"x")
        dialled.server.send_datagram(b"x")
    dialled.end()
    dialled.pair.settle()
    assert dialled.client_log.ended is not None
    assert (dialled.client_log.ended.end, dialled.client_log.ended.code) == (End.LOCALLY_CLOSED, 1)
    assert re.search("internal error while (handling a|making) datagram", caplog.text)
    assert "a mistake of the handler's" in caplog.text
    server = dialled.server_log.ended
    assert server is not None
    assert (server.end, server.code) == (End.PEER_TRANSPORT, 1)


def test_a_streams_window_grows_with_its_readers_pace_and_its_path() -> None:
    """2 MiB there and back over 100 ms round trips: a window of 64 KiB takes one round trip for each of itself."""
    far = Conditions(delay=0.05)
    held = Limits(initial_stream_window=64 << 10, stream_window=64 << 10)
    free = Limits(initial_stream_window=64 << 10, stream_window=4 << 20)
    fixed = transfer(dial(conditions=far, limits=held).complete(), 2 << 20)
    grown = transfer(dial(conditions=far, limits=free).complete(), 2 << 20)
    assert fixed >= 2 * 32 * 0.1 * 0.9
    assert grown < fixed / 2


def test_a_probe_after_an_outage_is_answered_in_a_round_trip_with_a_full_window_too() -> None:
    """Probe timeouts have backed off by then: without it an outage of seconds lasts seconds longer."""
    dialled = dial(conditions=Conditions(delay=0.05)).complete()
    session, pair = dialled.client, dialled.pair
    links = (pair.up, pair.down)
    open_road = pair.up.conditions
    for link in links:
        link.conditions = replace(link.conditions, loss=1.0)
    log = StreamLog(session.open_stream())
    while not log.paused:
        log.stream.write(bytes(16 << 10))
    pair.pass_time(6.0)
    for link in links:
        link.conditions = open_road
    heard = session.statistics().packets_received
    session.probe()
    begun = pair.now
    pair.drive(lambda: session.statistics().packets_received > heard, 5.0)
    assert pair.now - begun < 0.2


def test_a_probe_before_the_handshake_and_after_the_end_is_nothing() -> None:
    dialled = dial()
    dialled.client.probe()
    dialled.complete()
    dialled.client.close()
    dialled.client.probe()
    dialled.end()
