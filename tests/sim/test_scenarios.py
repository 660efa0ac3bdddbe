"""The scenarios of the QUIC interop runner, each named after it, with its network, its files and what it asks of a trace.

Read github.com/quic-interop/quic-interop-runner, testcases_quic.py. The pairs are the native engine with itself and with
aioquic, both ways, where aioquic can do what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aioquic.tls import CipherSuite

from quicsocks.userspace.quic import tls_profile
from quicsocks.userspace.quic.types import VERSION_1, VERSION_2, Limits

from ..quic.keys import chain
from ..quic.native.test_key_update import update
from .files import LIMITS, End, Site, dial_config, limits_for, listen_config, make_files
from .link import CE, ECT_0
from .network import SIMPLE, Datagram, RunnerLink, runner_pair
from .pair import Pair
from .trace import HANDSHAKE, INITIAL, ONE_RTT, RETRY, Trace

KB, MB = 1 << 10, 1 << 20
Engines = tuple[str, str]
NATIVE: Engines = ("native", "native")
every_pair = pytest.mark.parametrize("engines", [NATIVE, ("native", "aioquic"), ("aioquic", "native")], ids="-".join)
HANDSHAKES = 50
"""Connections one after another where handshakes are in trouble."""
PATIENT = replace(LIMITS, handshake_timeout=300.0, idle_timeout=300.0)
"""The runner gives 50 handshakes 300 s."""
ACK_ECN, CRYPTO, MAX_STREAMS = 0x03, 0x06, 0x12


Runner = Callable[..., tuple[Pair, list[Datagram]]]


@pytest.fixture
def runner() -> Iterator[Runner]:
    """``runner_pair``, and no key log stays open."""
    with ExitStack() as stack:

        def make(*arguments: Any, **named: Any) -> tuple[Pair, list[Datagram]]:
            pair, capture = runner_pair(*arguments, **named)
            stack.callback(pair.close)
            return pair, capture

        yield make


def make_site(engines: Engines, pair: Pair, *sizes: int, limits: Limits = LIMITS) -> Site:
    limits = limits_for(engines, limits)
    return Site(pair, make_files(*sizes), listen_config(limits), dial_config(limits))


def logged(site: Site, folder: Path) -> Path:
    """Where the client writes its secrets from now on."""
    site.dialling = replace(site.dialling, keylog=folder / "keys")
    return folder / "keys"


def only(site: Site) -> End:
    """The server's end of the one handshake that there was."""
    (end,) = site.sessions
    assert end.completed
    assert end.ended is not None
    assert end.ended.code == 0
    return end


@every_pair
def test_longrtt(runner: Runner, engines: Engines, tmp_path: Path) -> None:
    pair, capture = runner(engines, replace(SIMPLE, delay=0.75))
    site = make_site(engines, pair, 1 * KB)
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    hellos = [
        frame
        for packet in Trace(capture, keys).of(INITIAL, up=True)
        for frame in packet.frames
        if frame[:2] == (CRYPTO, 0)
    ]
    assert len(hellos) >= 2


@every_pair
def test_chacha20(runner: Runner, engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = CipherSuite.CHACHA20_POLY1305_SHA256
    offered = replace(tls_profile.PROFILES["default"], cipher_suites=(suite,))
    monkeypatch.setitem(tls_profile.PROFILES, "chacha20", offered)
    pair, capture = runner(engines)
    site = make_site(engines, pair, 3 * MB)
    site.dialling = replace(site.dialling, crypto_profile="chacha20")
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    # Not one packet opens with another cipher.
    trace = Trace(capture, keys, suite)
    assert trace.of(ONE_RTT, up=True)
    assert sum(len(packet.datagram.data) for packet in trace.of(ONE_RTT, up=False)) > 3 * MB


@every_pair
def test_multiplexing(runner: Runner, engines: Engines, tmp_path: Path) -> None:
    pair, capture = runner(engines)
    site = make_site(engines, pair, *[32] * 1999, limits=replace(LIMITS, max_streams_bidi=100))
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    # RFC 9000 §4.6: the limit is raised as streams end.
    raised = [
        frame[1]
        for packet in Trace(capture, keys).of(ONE_RTT, up=False)
        for frame in packet.frames
        if frame[0] == MAX_STREAMS
    ]
    assert len(raised) > 10
    assert max(raised) >= 1999


@every_pair
def test_retry(runner: Runner, engines: Engines, tmp_path: Path) -> None:
    pair, capture = runner(engines)
    site = make_site(engines, pair, 10 * KB)
    site.listening = replace(site.listening, retry_above=0)
    site.serve()
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    trace = Trace(capture, keys)
    (retry,) = trace.of(RETRY, up=False)
    initials = trace.of(INITIAL, up=True)
    before = [packet for packet in initials if not packet.token]
    behind = [packet for packet in initials if packet.token]
    assert before
    assert behind
    assert {packet.token for packet in behind} == {retry.token}
    # RFC 9000 §17.2.5.3: packet numbers go on.
    assert min(packet.number for packet in behind) > max(packet.number for packet in before)


@every_pair
def test_blackhole(runner: Runner, engines: Engines) -> None:
    pair, capture = runner(engines, black=(5.0, 2.0))
    begin = pair.now
    # Long enough to be under way when it gets dark, with aioquic's pace, too.
    site = make_site(engines, pair, 10 * MB if engines == NATIVE else 7 * MB)
    site.fetch()
    only(site)
    lost = [datagram for datagram in capture if datagram.arrives is None and 5.0 <= datagram.sent - begin < 7.0]
    assert lost
    # It goes on at once when there is light: a probe timeout may have backed off to as long as the dark has been.
    assert pair.now - begin < (14.0 if engines == NATIVE else 16.0)


@every_pair
@pytest.mark.parametrize("who", ["client", "server"])
def test_keyupdate(runner: Runner, engines: Engines, who: str, tmp_path: Path) -> None:
    pair, capture = runner(engines)
    site = make_site(engines, pair, 3 * MB)
    keys = logged(site, tmp_path)
    client = End()

    def turn() -> None:
        update(client.joined if who == "client" else site.servers[0].joined)

    pair.at(pair.now + 1.0, turn)
    site.fetch(end=client)
    only(site)
    trace = Trace(capture, keys)
    for up in (True, False):
        assert {packet.phase for packet in trace.of(ONE_RTT, up=up)} == {0, 1}


def test_ecn(runner: Runner, tmp_path: Path) -> None:
    """aioquic has no marks."""
    pair, capture = runner(NATIVE)
    site = make_site(NATIVE, pair, 100 * KB)
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    trace = Trace(capture, keys)
    for up in (True, False):
        marks = [datagram.ecn for datagram in capture if datagram.up is up]
        assert ECT_0 in marks
        assert CE not in marks
        packets = trace.of(ONE_RTT, up=up)
        # RFC 9000 §13.4.2: all that is not of the handshake, and what has come is counted.
        assert {packet.datagram.ecn for packet in packets} == {ECT_0}
        counts = [frame[-3:] for packet in packets for frame in packet.frames if frame[0] == ACK_ECN]
        assert counts
        assert counts == sorted(counts)
        sent = sum(packet.datagram.ecn == ECT_0 for packet in trace.of(ONE_RTT, up=not up))
        assert 0 < counts[-1][0] <= sent
        assert counts[-1][1:] == (0, 0)


@every_pair
def test_amplificationlimit(runner: Runner, engines: Engines, tmp_path: Path) -> None:
    pair, capture = runner(engines, drops_to_server=range(2, 8))
    identity = chain(9)
    site = make_site(engines, pair, 5 * KB)
    site.listening = replace(site.listening, certificate=identity.certificate, private_key=identity.private_key)
    site.dialling = replace(site.dialling, trust=replace(site.dialling.trust, pins=(identity.pin,)))
    site.serve()
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    trace = Trace(capture, keys)
    offsets = [
        frame[1] + frame[2] for packet in trace.of(HANDSHAKE, up=False) for frame in packet.frames if frame[0] == CRYPTO
    ]
    assert max(offsets) >= 7500
    assert sum(datagram.up and datagram.arrives is None for datagram in capture) == 6
    # RFC 9000 §8.1: up to the first Handshake packet of the client's that comes.
    heard = min(
        packet.datagram.arrives for packet in trace.of(HANDSHAKE, up=True) if packet.datagram.arrives is not None
    )
    held = 0
    for at, size in sorted(at_server(capture), key=lambda moment: (moment[0], -moment[1])):
        if at >= heard:
            break
        held += size
        assert held >= 0


def at_server(capture: list[Datagram]) -> list[tuple[float, int]]:
    """(when, what it may send more or has sent), in octets."""
    moments = []
    for datagram in capture:
        if not datagram.up:
            moments.append((datagram.sent, -len(datagram.data)))
        elif datagram.arrives is not None:
            moments.append((datagram.arrives, 3 * len(datagram.data)))
    return moments


@every_pair
def test_handshakeloss(runner: Runner, engines: Engines) -> None:
    """30 % each way, three in a row at most."""
    pair, _ = runner(engines, seed=1, drop=30)
    shake_hands(engines, pair)
    for link in (pair.up, pair.down):
        assert link.dropped > 0.2 * link.carried


@every_pair
def test_handshakecorruption(runner: Runner, engines: Engines) -> None:
    """30 % each way, three in a row at most."""
    pair, _ = runner(engines, seed=1, corrupt=30)
    shake_hands(engines, pair)
    for link in (pair.up, pair.down):
        assert isinstance(link, RunnerLink)
        assert link.corrupted > 0.2 * link.carried


def shake_hands(engines: Engines, pair: Pair) -> None:
    site, begin = make_site(engines, pair, 1 * KB, limits=PATIENT), pair.now
    for number in range(HANDSHAKES):
        site.fetch(300.0)
        assert len(site.servers) == number + 1
    assert pair.now - begin < 300.0


@every_pair
def test_transferloss(runner: Runner, engines: Engines) -> None:
    """2 % each way, three in a row at most."""
    pair, _ = runner(engines, seed=1, drop=2)
    site = make_site(engines, pair, 2 * MB)
    site.fetch()
    only(site)
    for link in (pair.up, pair.down):
        assert link.dropped > 0.01 * link.carried


@every_pair
def test_transfercorruption(runner: Runner, engines: Engines) -> None:
    """2 % each way, three in a row at most."""
    pair, _ = runner(engines, seed=1, corrupt=2)
    site = make_site(engines, pair, 2 * MB)
    site.fetch()
    only(site)
    for link in (pair.up, pair.down):
        assert isinstance(link, RunnerLink)
        assert link.corrupted > 0.01 * link.carried


@every_pair
def test_v2(runner: Runner, engines: Engines, tmp_path: Path) -> None:
    """RFC 9368 §2.3, RFC 9369: the client begins with version 1 and prefers 2, and the server changes over."""
    pair, capture = runner(engines)
    site = make_site(engines, pair, 1 * KB)
    site.dialling = replace(site.dialling, versions=(VERSION_2, VERSION_1))
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    trace = Trace(capture, keys)
    assert VERSION_1 in {packet.version for packet in trace.of(INITIAL, up=True)}
    assert VERSION_2 in {packet.version for packet in trace.of(INITIAL, up=False)}
    for up in (True, False):
        assert {packet.version for packet in trace.of(HANDSHAKE, up=up)} == {VERSION_2}
        # They have opened with the labels of version 2.
        assert trace.of(ONE_RTT, up=up)


@every_pair
def test_v2_from_the_first_packet(runner: Runner, engines: Engines, tmp_path: Path) -> None:
    """RFC 9369 §3: Retry, too, has another integrity key, and long headers have other types."""
    pair, capture = runner(engines)
    site = make_site(engines, pair, 1 * KB)
    site.listening = replace(site.listening, retry_above=0)
    site.serve()
    site.dialling = replace(site.dialling, versions=(VERSION_2,))
    keys = logged(site, tmp_path)
    site.fetch()
    only(site)
    trace = Trace(capture, keys)
    assert len(trace.of(RETRY, up=False)) == 1
    assert {packet.version for packet in trace.packets if packet.kind is not ONE_RTT} == {VERSION_2}
    assert trace.of(ONE_RTT, up=True)
    assert trace.of(ONE_RTT, up=False)
