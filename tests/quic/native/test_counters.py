"""What is counted of connections: each event once, and kept by the endpoint when a connection is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Limits, Session

from ...sim.link import Conditions
from ..dialled import Dialled, dial
from ..recorders import StreamLog

WHOLE = ("native", "native")
CLEAN = Conditions(delay=0.02)


def counters(session: Session) -> dict[str, Any]:
    assert isinstance(session, NativeSession)
    return session.counters()


def begin(conditions: Conditions = CLEAN, seed: int = 1, limits: Limits | None = None) -> Dialled:
    return dial(seed, conditions, engines=WHOLE, limits=limits).complete(60.0)


def send(dialled: Dialled, size: int) -> StreamLog:
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(bytes(size))
    near.stream.finish()
    dialled.pair.drive(lambda: ("sent",) in near.calls)
    return near


def test_nothing_has_gone_wrong_on_a_clean_path() -> None:
    dialled = begin()
    send(dialled, 100_000)
    dialled.pair.settle(1.0)
    near, far = counters(dialled.client), counters(dialled.server)
    for name in (
        "packets_lost", "packets_spurious", "packets_dropped", "dropped_short", "dropped_forged", "dropped_duplicate",
        "dropped_elsewhere", "probe_timeouts", "congestion_marks", "datagrams_dropped", "key_updates", "mtu_probes_lost",
    ):  # fmt: skip
        assert near[name] == far[name] == 0, name
    assert (near["streams_opened"], near["streams_accepted"]) == (1, 0)
    assert (far["streams_opened"], far["streams_accepted"]) == (0, 1)
    assert near["mtu_probes_sent"] == far["mtu_probes_sent"] == 1
    assert near["acks_received"] > 0
    assert near["packets_sent"] + 4 > far["packets_received"] >= near["packets_sent"]
    assert dialled.client.statistics().ecn_state == "capable"


def test_packets_that_were_late_and_not_lost() -> None:
    dialled = begin(Conditions(delay=0.02, reorder=0.3, reorder_by=0.015))
    send(dialled, 300_000)
    assert 0 < counters(dialled.client)["packets_spurious"] <= counters(dialled.client)["packets_lost"]


def test_an_outage_costs_probe_timeouts() -> None:
    dialled = begin()
    dialled.pair.up.conditions = replace(CLEAN, blackouts=((dialled.pair.now, dialled.pair.now + 1.0),))
    send(dialled, 1000)
    assert counters(dialled.client)["probe_timeouts"] >= 1
    assert counters(dialled.server)["probe_timeouts"] <= counters(dialled.client)["probe_timeouts"]


def test_a_narrow_path_costs_probes_of_its_size() -> None:
    dialled = begin(replace(CLEAN, mtu=1300))
    send(dialled, 100_000)
    dialled.pair.settle(5.0)
    counted = counters(dialled.client)
    assert counted["mtu_probes_sent"] > counted["mtu_probes_lost"] >= 2
    assert 1250 < dialled.client.statistics().path_mtu <= 1300


def test_marks_of_congestion() -> None:
    dialled = begin(Conditions(delay=0.02, rate=5e6, queue=100_000, mark_above=5_000))
    send(dialled, 500_000)
    assert 0 < counters(dialled.client)["congestion_marks"] <= dialled.pair.up.marked


def test_a_path_that_takes_the_marks_away() -> None:
    dialled = begin(replace(CLEAN, bleach=True))
    send(dialled, 100_000)
    assert dialled.client.statistics().ecn_state == "failed"


def test_datagrams_for_which_there_is_no_room() -> None:
    dialled = begin(limits=Limits(datagram_queue=4))
    for _ in range(10):
        dialled.client.send_datagram(b"x")
    dialled.pair.settle(1.0)
    assert counters(dialled.client)["datagrams_dropped"] == 6
    assert counters(dialled.client)["datagrams_sent"] == counters(dialled.server)["datagrams_received"] == 4


@pytest.mark.parametrize("engines", [WHOLE, ("aioquic", "aioquic")])
def test_the_endpoint_keeps_what_sessions_have_counted(engines: tuple[str, str]) -> None:
    dialled = dial(1, Conditions(delay=0.02, loss=0.02), engines=engines).complete(60.0)
    for _ in range(2):
        send(dialled, 50_000)
    client = dialled.pair.client.hub
    living = client.statistics()
    assert living["packets_sent"] == dialled.client.statistics().packets_sent
    assert living["sessions"] == 1
    dialled.client.close()
    dialled.pair.settle(20.0)
    over = client.statistics()
    assert over["sessions"] == 0
    assert {name for name in living if over[name] < living[name]} == {"sessions"}
    assert over["bytes_sent"] >= living["bytes_sent"] > 100_000
    assert over["packets_lost"] >= living["packets_lost"] > 0


def test_stateless_resets_are_counted_at_both_ends() -> None:
    dialled = begin()
    send(dialled, 1000)
    config = dialled.pair.server.hub._listening
    assert config is not None
    dialled.pair.restart_server(9)
    dialled.pair.listen(config.config, config.accept)
    dialled.client.probe()
    dialled.pair.drive(lambda: dialled.client_log.ended is not None)
    assert dialled.pair.server.hub.statistics()["resets_sent"] == 1
    dialled.pair.settle(5.0)
    assert dialled.pair.client.hub.statistics()["resets_received"] == 1
