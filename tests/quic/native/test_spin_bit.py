"""The latency spin bit (RFC 9000 §17.4): what an observer on the way sees of it, on and off."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.native.connection import Connection
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Limits, Session

from ...sim.link import Conditions, Link
from ..dialled import Dialled, dial, dial_config, listen_config
from .forger import CID, ROUTE, SUITE, VERSION, Forger

SPIN = 0x20
ROUNDING = 1e-9


class Observer:
    """Stands before a link, and knows nothing but when which datagrams pass. edges: when the bit turned."""

    def __init__(self, link: Link) -> None:
        self.edges: list[float] = []
        self.seen = 0
        self.values: set[tuple[bytes, bool]] = set()
        """By connection ID."""
        self._last: bool | None = None
        self._carry = link.carry
        link.carry = self._watch  # type: ignore[method-assign] # it looks, and lets pass

    def _watch(self, data: bytes, now: float, ecn: int = 0) -> list[tuple[float, bytes, int]]:
        if not data[0] & 0x80:
            spin = data[0] & SPIN != 0
            self.seen += 1
            self.values.add((data[1:9], spin))
            if self._last is not None and spin != self._last:
                self.edges.append(now)
            self._last = spin
        return self._carry(data, now, ecn)

    @property
    def round_trips(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.edges)]


def spinning(session: Session) -> bool:
    assert isinstance(session, NativeSession)
    return session.connection.spins


def begin(
    seed: int, conditions: Conditions, *, client: bool = True, server: bool = True
) -> tuple[Dialled, Observer, Observer]:
    dialled = dial(
        seed,
        conditions,
        dialling=replace(dial_config(), spin_bit=client),
        listening=replace(listen_config(), spin_bit=server),
        engines=("native", "native"),
    )
    observers = Observer(dialled.pair.up), Observer(dialled.pair.down)
    dialled.complete()
    return dialled, *observers


def transfer(dialled: Dialled, seconds: float) -> None:
    """A DATAGRAM each millisecond, both ways, for so long: RTTs without queues."""

    def send() -> None:
        dialled.client.send_datagram(b"up")
        dialled.server.send_datagram(b"down")

    for number in range(round(seconds * 1000)):
        dialled.pair.at(dialled.pair.now + number * 1e-3, send)
    dialled.pair.pass_time(seconds)


@pytest.mark.parametrize("delay", [0.005, 0.03, 0.1])
def test_an_observer_measures_the_round_trip_time(delay: float) -> None:
    dialled, up, down = begin(1, Conditions(delay=delay))
    transfer(dialled, 30 * delay)
    assert spinning(dialled.client)
    assert spinning(dialled.server)
    for observer in (up, down):
        assert len(observer.round_trips) >= 10
        # A millisecond at each end, at most, until there is a packet to show it.
        assert 2 * delay - ROUNDING <= statistics.median(observer.round_trips) <= 2 * delay + 0.002
        assert min(observer.round_trips[1:]) >= 2 * delay - ROUNDING
        assert statistics.median(observer.round_trips) == pytest.approx(
            dialled.client.statistics().minimum_rtt, abs=0.002
        )


def test_over_a_network_that_loses_and_reorders_the_ends_are_not_confused() -> None:
    """RFC 9000 §17.4: only packets that raise the highest number turn it."""
    dialled, up, _ = begin(1, Conditions(delay=0.03, loss=0.02, reorder=0.2, reorder_by=0.003))
    transfer(dialled, 3.0)
    assert 0.053 <= statistics.median(up.round_trips) <= 0.065
    assert min(up.round_trips[1:]) >= 0.05


@pytest.mark.parametrize(("client", "server"), [(False, False), (True, False), (False, True)])
def test_off_at_either_end_it_shows_nothing(client: bool, server: bool) -> None:
    dialled, up, down = begin(1, Conditions(delay=0.03), client=client, server=server)
    transfer(dialled, 3.0)
    assert (spinning(dialled.client), spinning(dialled.server)) == (client, server)
    for observer in (up, down):
        assert observer.seen > 100
        assert len(observer.edges) <= 3, "as many as the connection IDs that the two have used"
    silent = [observer for observer, on in ((up, client), (down, server)) if not on]
    for observer in silent:
        assert len(observer.values) == len({cid for cid, _ in observer.values}), "one value for each connection ID"


def test_off_is_the_default_and_then_it_is_random() -> None:
    values = []
    for seed in range(200):
        forger = Forger(seed=seed)
        values.append(first_octet(forger) & SPIN != 0)
    assert 70 < sum(values) < 130


def first_octet(forger: Forger) -> int:
    forger.connection.send_probe()
    (packet, _), *_ = forger.connection.datagrams_to_send(forger.now)
    return packet[0]


def test_one_connection_in_sixteen_never_shows_it() -> None:
    """RFC 9000 §17.4: so that those are not alone who have it off."""
    silent = 0
    for seed in range(1600):
        forger = Forger(seed=seed)
        forger.connection = another(forger)
        first_octet(forger)
        silent += not forger.connection.spins
        forger.put(b"\1" * 4, bits=SPIN)
        reflected = first_octet(forger) & SPIN != 0
        if forger.connection.spins:
            assert reflected
            forger.put(b"\1" * 4, bits=0)
            assert not first_octet(forger) & SPIN
    assert 60 < silent < 145, "a hundred are to be expected"


def another(forger: Forger) -> Connection:
    """A server's, as the forger's, with the bit on."""
    made = Connection(
        is_client=False,
        limits=Limits(),
        random_bytes=forger.random.randbytes,
        new_cid=lambda: forger.random.randbytes(CID),
        reset_token=lambda cid: bytes(16),
        waker=lambda: None,
        own_cid=bytes(CID),
        route=ROUTE,
        now=forger.now,
        spin_bit=True,
    )
    made.install_key(False, SUITE, bytes([1]) * 32, VERSION)
    made.install_key(True, SUITE, bytes([2]) * 32, VERSION)
    made.set_peer(forger.parameters, bytes(CID), bytes(16))
    made.confirm(forger.now)
    return made


def test_it_goes_on_when_a_nat_changes_its_mind() -> None:
    dialled, up, down = begin(1, Conditions(delay=0.03))
    transfer(dialled, 1.0)
    dialled.pair.rebind(("203.0.113.9", 62000))
    before = len(down.edges)
    transfer(dialled, 3.0)
    assert len(down.edges) - before >= 40
    assert statistics.median(up.round_trips) == pytest.approx(0.06, rel=0.2)
