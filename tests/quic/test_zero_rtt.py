"""Early data from end to end, every octet checked: accepted, rejected, reordered, lost, replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import PeerParameters
from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.native_session import MOST_EARLY
from quicsocks.userspace.quic.resumption import ServerResumption, remembered
from quicsocks.userspace.quic.types import Limits, Resumption

from ..sim.link import Conditions
from .coming_back import AT_ONCE, EARLY, OCTETS, Stage, kinds
from .keys import self_signed
from .recorders import StreamLog

LOSSY = Conditions(delay=0.02, jitter=0.01, loss=0.15, duplicate=0.05, reorder=0.2, reorder_by=0.02)


def test_zerortt() -> None:
    stage = Stage()
    stage.visit()

    visit = stage.visit()

    assert visit.client.early_data_accepted
    assert visit.server.is_resumed
    assert visit.counted["zero_rtt_received"] >= 8
    assert visit.counted["zero_rtt_dropped"] == 0
    assert visit.server_log.early == {}, "it waits for the handshake's end"


def test_zerortt_saves_a_round_trip_when_it_is_asked_for() -> None:
    stage = Stage(AT_ONCE)
    first = stage.visit()

    again = stage.visit()

    assert first.server_log.early == {}
    assert sum(map(len, again.server_log.early.values())) == 10_000


@pytest.mark.parametrize("seed", range(60))
def test_zerortt_with_loss(seed: int) -> None:
    stage = Stage(AT_ONCE if seed % 2 else EARLY, seed, LOSSY, retry=seed % 3 == 0)
    for _ in range(3):
        # A client that is lost with its ticket has a full handshake, and another ticket.
        stage.visit(20_000)


def test_zerortt_with_retry() -> None:
    stage = Stage(retry=True)
    stage.visit()

    visit = stage.visit()

    assert visit.client.early_data_accepted
    assert visit.counted["zero_rtt_received"] > 0, "sent again after the Retry, as far as its pace allows"


@pytest.mark.parametrize(
    ("hold", "received"),
    [
        (lambda found: 0.03 if "initial" in found else 0.0, 10),
        (lambda found: 0.05 if found == ["zero_rtt"] else 0.0, 10),
        (lambda found: 0.9 if found == ["zero_rtt"] else 0.0, 0),
        (lambda found: None if found == ["zero_rtt"] else 0.0, 0),
    ],
    ids=["before the Initial", "after 1-RTT packets", "after the keys are gone", "never"],
)
def test_zerortt_reordered(hold: Callable[[list[str]], float | None], received: int) -> None:
    stage = Stage()
    stage.visit()
    stage.sort(hold)

    visit = stage.visit()

    assert visit.client.early_data_accepted
    assert (visit.counted["zero_rtt_received"] > 0) is (received > 0)
    assert not visit.server.reads_early, "the keys are dropped"
    assert len(stage.pair.server.hub._by_cid) == 0


def test_what_overtakes_the_initial_is_held() -> None:
    stage = Stage()
    stage.visit()
    stage.sort(lambda found: 0.03 if "initial" in found else 0.0)

    visit = stage.visit()

    assert visit.counted["zero_rtt_received"] == 8, "no more than may be held"
    assert stage.counters["dropped_early"] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"limits": replace(Limits(), session_window=Limits().session_window - 1)},
        {"limits": replace(Limits(), initial_stream_window=1 << 10)},
        {"limits": replace(Limits(), max_streams_bidi=100)},
        {"limits": replace(Limits(), max_streams_uni=3)},
        {"limits": replace(Limits(), max_datagram_frame_size=0)},
    ],
    ids=lambda change: next(
        name for name in Limits.__slots__ if getattr(change["limits"], name) != getattr(Limits(), name)
    ),
)
def test_lower_limits_reject_it(change: dict[str, Limits]) -> None:
    stage = Stage()
    stage.visit()
    stage.listen(**change)
    client, log = stage.dial()
    StreamLog(client.open_stream()).stream.write(b"early")

    stage.pair.settle()

    # The server resumes and does not accept; the client cannot keep to what it has begun with.
    assert client.ended is not None
    assert client.ended.end is End.LOCALLY_CLOSED
    assert not log.completed
    assert stage.accepted[-1][0].connection.statistics()["zero_rtt_received"] == 0
    stage.visit()


def test_higher_limits_do_not() -> None:
    stage = Stage()
    stage.visit()
    stage.listen(limits=replace(Limits(), session_window=Limits().session_window + 1, max_streams_bidi=5000))

    assert stage.visit().client.early_data_accepted


def test_a_server_that_has_changed_its_mind_rejects_it() -> None:
    stage = Stage()
    stage.visit()
    hub = stage.pair.server.hub
    assert hub._listening is not None
    assert hub._listening.tickets is not None
    hub._listening.tickets.options = Resumption()

    visit = stage.visit()

    assert visit.client.is_resumed
    assert not visit.client.early_data_accepted
    assert visit.counted["zero_rtt_received"] == 0
    assert visit.counted["zero_rtt_dropped"] >= 8


def test_a_server_that_lowers_limits_and_accepts_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9000 §7.4.1."""
    stage = Stage()
    stage.visit()
    stage.listen(limits=replace(Limits(), max_streams_bidi=100))
    monkeypatch.setattr(ServerResumption, "accepts_early_data", lambda self, handshaker: True)
    client, log = stage.dial()
    StreamLog(client.open_stream()).stream.write(b"early")

    stage.pair.settle()

    assert client.ended is not None
    assert (client.ended.end, client.ended.code) == (End.LOCAL_TRANSPORT, 0x0A)
    assert not log.completed


def test_what_is_rejected_goes_again_at_once() -> None:
    stage = Stage()
    stage.visit()
    stage.pair.restart_server(99)
    stage.listen()
    began = stage.pair.now
    client, _ = stage.dial()
    StreamLog(client.open_stream()).stream.write(OCTETS[:5000])

    stage.pair.drive(lambda: bool(stage.accepted[1:] and stage.accepted[-1][1].logs))
    stage.pair.drive(lambda: len(stage.accepted[-1][1].logs[0].data) == 5000)

    assert stage.pair.now - began == pytest.approx(0.06), "behind the client's Finished"
    assert client.connection.statistics()["packets_lost"] == 0


def test_the_parameters_that_a_client_remembers() -> None:
    """RFC 9000 §7.4.1: limits, and nothing that is of one connection."""
    limits = PeerParameters(10, 11, 12, 13, 14, 15, active_connection_id_limit=16, max_datagram_frame_size=17)
    everything = replace(
        limits,
        ack_delay_exponent=9,
        max_ack_delay=9.0,
        max_idle_timeout=9.0,
        max_udp_payload_size=1300,
        disable_active_migration=True,
        stateless_reset_token=bytes(16),
        unknown={0x3E: b""},
    )

    assert remembered(everything) == limits


def test_the_first_connection_id_is_forgotten_with_the_keys() -> None:
    stage = Stage()
    stage.visit()
    visit = stage.visit(close=False)
    (entry,) = stage.pair.server.hub._entries
    first = entry.original_cid
    assert first in stage.pair.server.hub._by_cid

    stage.pair.pass_time(3.0)

    assert not visit.server.reads_early
    assert first not in entry.cids
    assert set(stage.pair.server.hub._by_cid) == entry.cids


def test_early_data_between_the_halves_of_a_client_hello() -> None:
    """It is kept until it is known whether there are keys for it, within a bound."""
    stage = Stage(alpn=("test/1", *(f"{number:0100}" for number in range(12))))
    stage.visit()
    initials = 0

    def hold(found: list[str]) -> float:
        nonlocal initials
        initials += "initial" in found
        return 0.02 if "initial" in found and initials > 1 else 0.0

    def repeat() -> None:
        early = next(data for direction, data in stage.pair.seen if direction == "up" and kinds(data) == ["zero_rtt"])
        for _ in range(50):
            stage.pair.send_up(early)
        waiting.append(len(stage.accepted[-1][0]._early_packets))

    waiting: list[int] = []
    stage.sort(hold)
    stage.pair.record = True
    stage.pair.at(stage.pair.now + 0.03, repeat)

    visit = stage.visit()

    assert initials > 2
    assert waiting == [MOST_EARLY]
    assert visit.client.early_data_accepted
    assert visit.counted["zero_rtt_received"] >= 8
    assert len(visit.server._early_packets) == 0


def test_what_a_ticket_says_of_one_connection_is_not_of_the_next() -> None:
    short, long = replace(Limits(), idle_timeout=5.0), replace(Limits(), keepalive=0.0)
    stage = Stage(limits=short)
    stage.visit()
    stage.limits = long
    stage.listen()
    visit = stage.visit(close=False)
    assert visit.client.early_data_accepted

    stage.pair.pass_time(20.0)

    assert visit.client.ended is None
    assert visit.server.ended is None


def test_another_process_rejects_it() -> None:
    stage = Stage()
    stage.visit()
    stage.pair.restart_server(99)
    stage.listen()

    visit = stage.visit()

    assert not visit.client.is_resumed
    assert visit.counted["zero_rtt_dropped"] >= 8
    assert visit.counted["zero_rtt_received"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_rejected_on_a_bad_path(seed: int) -> None:
    stage = Stage(seed=seed, conditions=LOSSY)
    stage.visit()
    stage.pair.restart_server(1000 + seed)
    stage.listen()

    visit = stage.visit(20_000)

    assert not visit.client.early_data_accepted


def test_a_server_without_tickets_counts_it() -> None:
    stage = Stage()
    stage.visit()
    stage.listen(resumption=None)

    visit = stage.visit()

    assert not visit.client.is_resumed
    assert visit.counted["zero_rtt_dropped"] >= 8


def test_another_protocol_is_another_exit() -> None:
    stage = Stage()
    stage.visit()
    stage.listen(alpn=("test/2",))

    visit = stage.visit(alpn=("test/2",))

    assert not visit.client.is_resumed
    assert visit.counted["zero_rtt_received"] + visit.counted["zero_rtt_dropped"] == 0


def test_a_server_that_prefers_another_protocol_now_rejects_it() -> None:
    stage = Stage(alpn=("test/1", "test/2"))
    assert stage.visit().client.alpn == "test/1"
    stage.listen(alpn=("test/2", "test/1"))

    visit = stage.visit()

    assert visit.client.alpn == "test/2"
    assert visit.client.is_resumed
    assert not visit.client.early_data_accepted
    assert visit.counted["zero_rtt_received"] == 0


def test_a_replay_is_not_read() -> None:
    stage = Stage(AT_ONCE)
    stage.visit()
    stage.pair.record = True
    stage.visit()
    flight = [data for direction, data in stage.pair.seen if direction == "up"][:10]
    assert kinds(flight[0])[0] == "initial"
    assert sum("zero_rtt" in kinds(data) for data in flight) >= 8
    seen = len(stage.accepted)

    for _ in range(3):
        for data in flight:
            stage.pair.send_up(data, ("203.0.113.66", 6666))

    replayed = stage.accepted[seen:]
    assert replayed, "handshakes begin, as anybody may begin one"
    for session, log in replayed:
        assert not log.logs
        assert not session.handshaker.is_resumed
        assert session.connection.statistics()["zero_rtt_received"] == 0


def test_a_replay_while_the_first_is_under_way_reads_nothing_twice() -> None:
    stage = Stage(AT_ONCE)
    stage.visit()
    stage.pair.up.conditions = replace(stage.pair.up.conditions, duplicate=1.0)

    visit = stage.visit()

    assert visit.client.early_data_accepted
    assert sum(session.handshaker.is_resumed for session, _ in stage.accepted) == 1


def test_nothing_goes_early_unless_it_is_asked_for() -> None:
    stage = Stage()
    stage.visit()
    stage.pair.record = True

    visit = stage.visit(early_data=False)

    assert visit.client.is_resumed
    assert not any("zero_rtt" in kinds(data) for _, data in stage.pair.seen)


def test_nothing_goes_early_with_a_ticket_that_does_not_allow_it() -> None:
    stage = Stage(Resumption())
    stage.visit()
    stage.pair.record = True

    visit = stage.visit()

    assert visit.client.is_resumed
    assert not any("zero_rtt" in kinds(data) for _, data in stage.pair.seen)


def test_nothing_goes_early_to_a_server_of_another_pin() -> None:
    stage = Stage()
    stage.visit()
    stage.pair.record = True
    client, _ = stage.dial(trust=replace(stage.dial_config().trust, pins=(self_signed("p384").pin,)))
    StreamLog(client.open_stream()).stream.write(b"secret")

    stage.pair.settle()

    assert client.ended is not None
    assert client.ended.end is End.UNTRUSTED
    assert not any("zero_rtt" in kinds(data) for _, data in stage.pair.seen)


def test_a_client_that_closes_early() -> None:
    stage = Stage()
    stage.visit()
    client, _ = stage.dial()
    StreamLog(client.open_stream()).stream.write(b"never mind")
    stage.pair._flush()

    client.close(7, "changed my mind")
    stage.pair.pass_time(60.0)

    session, log = stage.accepted[-1]
    assert session.ended is not None
    assert not log.logs
    assert not stage.pair.server.hub._entries
    assert not stage.pair.client.hub._entries


def test_a_client_that_vanishes_early() -> None:
    stage = Stage()
    stage.visit()
    client, _ = stage.dial(limits=replace(Limits(), idle_timeout=5.0))
    StreamLog(client.open_stream()).stream.write(b"gone")
    stage.pair._flush()
    stage.pair.up.conditions = replace(stage.pair.up.conditions, loss=1.0)

    stage.pair.pass_time(60.0)

    assert stage.accepted[-1][0].ended is not None
    assert client.ended is not None
    assert not stage.pair.server.hub._entries
    assert not stage.pair.client.hub._entries
