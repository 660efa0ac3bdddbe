"""Whatever comes raises nothing, and whatever leaves is well-formed: random segments around the numbers in use, in every state,
between calls of an application that does anything. Every packet of some simulated runs is read by scapy, too."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from quicsocks.netstack.tcp.types import Options, TcpError
from tests.netstack.packets import parsed

from . import seeds
from .peer import LETTERS, Peer

ROUNDS = int(os.environ.get("QUICSOCKS_TEST_FUZZ_ROUNDS", "1"))


def state(chance: random.Random) -> Peer:
    """A stack with a connection in any state."""
    peer = Peer(
        v6=chance.random() < 0.3,
        stamps=chance.random() < 0.5,
        sack=chance.random() < 0.7,
        scale=chance.choice((None, 0, 7, 14)),
        mss=chance.choice((None, 1, 536, 1460, 65535)),
        window=chance.choice((0, 1, 1000, 65535)),
        takes_all=True,
        options=Options(
            ecn=chance.random() < 0.5,
            congestion=chance.choice(("cubic", "reno", "bbr")),
            initial_receive_window=chance.choice((1, 3000, 100000)),
            connections=20,
            attempts=5,
            half_open=chance.choice((0, 10)),
        ),
    )
    peer.isn = chance.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFF00))
    peer.tcp.on_attempt = lambda attempt: getattr(attempt, chance.choice(("accept", "refuse", "drop")))()
    how = chance.randrange(4)
    if how == 0:
        peer.connect()
    elif how == 1:
        peer.listen(backlog=chance.choice((0, 5)))
        peer.send("S", 0)
        peer.got()
    else:
        peer.connect()
        peer.send("SA" if how == 2 else "S", 0, 1)
        peer.got()
    return peer


def act(peer: Peer, chance: random.Random) -> None:
    """Something that an application may do."""
    if not peer.tcp.connections() or not hasattr(peer.connection, "write"):
        return
    connection = peer.connection
    try:
        match chance.randrange(12):
            case 0 | 1 | 2:
                connection.write(bytes(chance.choice((1, 100, 5000, 50000))))
            case 3:
                connection.finish()
            case 4 if chance.random() < 0.1:
                connection.reset()
            case 5 if chance.random() < 0.3:
                connection.stop_sending()
            case 6:
                connection.set_nodelay(chance.random() < 0.5)
            case 7:
                connection.set_keepalive(chance.choice((0.0, 1.0)))
            case 8:
                peer.stack.set_mtu(chance.choice((576, 1280, 1500, 9000)))
            case 9:
                connection.statistics()
    except TcpError:
        pass


def segment(peer: Peer, chance: random.Random) -> bytes:
    """One near the numbers in use, or damaged, or with any options."""
    near = chance.choice((0, 1, 2, 100, 1000, 5000, 65535, 1 << 31, 0xFFFFFFFF))
    received = len(peer.handler.data)
    fields: dict[str, Any] = {}
    if chance.random() < 0.3:
        fields["sacks"] = tuple(
            (chance.randrange(20000), chance.randrange(20000)) for _ in range(chance.randrange(1, 4))
        )
    if chance.random() < 0.2:
        fields["options"] = chance.randbytes(chance.randrange(0, 9) * 4)
    if chance.random() < 0.2:
        fields["stamps"] = (chance.getrandbits(32), chance.getrandbits(32))
    if "sacks" in fields and peer.stamped and len(fields["sacks"]) > 3:
        fields["stamps"] = None
    flags = "".join(letter for letter in LETTERS if chance.random() < (0.8 if letter == "A" else 0.12))
    packet = peer.segment(
        flags,
        chance.choice((1 + received, 1 + received + near, near)) & 0xFFFFFFFF,
        chance.choice((1, near, chance.randrange(200000))) & 0xFFFFFFFF,
        bytes(chance.choice((0, 0, 1, 100, 1400, 3000))),
        window=chance.choice((0, 1, 500, 65535)),
        ecn=chance.randrange(4),
        urgent=chance.getrandbits(16),
        **fields,
    )
    if chance.random() < 0.05:
        changed = bytearray(packet[: chance.randrange(1, len(packet) + 1)])
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    return packet


@pytest.mark.parametrize("seed", range(60 * ROUNDS))
def test_nothing_raises_and_all_is_well_formed(seed: int) -> None:
    chance = random.Random(seed)
    peer = state(chance)
    for _ in range(150):
        for _ in range(chance.randrange(4)):
            peer.stack.receive(segment(peer, chance), peer.now)
        peer.stack.tell()
        act(peer, chance)
        for packet in peer.packets():
            parsed(packet)
        if chance.random() < 0.3:
            peer.now += chance.choice((0.001, 0.05, 0.5, 5.0, 100.0))
            if peer.stack.next_timer() <= peer.now:
                peer.stack.handle_timer(peer.now)
    peer.tcp.close()
    peer.packets()
    statistics = peer.tcp.statistics()
    for name in ("names", "time_waits", "half_open", "attempts", "octets_unacknowledged"):
        assert statistics[name] == 0, (name, statistics)


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_scapy_agrees_with_every_packet_of_a_run(seed: int) -> None:
    pair, _ = seeds.drawn(seed)
    seen = 0

    def watch(packet: bytes, from_near: bool) -> None:
        nonlocal seen
        if seen < 400:
            parsed(packet)
        seen += 1

    pair.watch = watch
    pair.run(3000.0)
    assert seen
