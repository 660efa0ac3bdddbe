"""Key updates (RFC 9001 §6): begun by either end, by both at once, and over a network that loses and reorders."""

from __future__ import annotations

import hashlib
import random

import pytest

from quicsocks.userspace.quic.aioquic_session import AioquicSession
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Session

from ...sim.link import Conditions
from ..dialled import Dialled, dial
from ..recorders import StreamLog

BAD = Conditions(delay=0.02, jitter=0.01, loss=0.03, duplicate=0.02, reorder=0.05, corrupt=0.02)
PAIRINGS = [("native", "native"), ("native", "aioquic"), ("aioquic", "native")]


def update(session: Session) -> None:
    if isinstance(session, NativeSession):
        session.connection.update_keys()
        session.probe()
    else:
        assert isinstance(session, AioquicSession)
        session.connection.request_key_update()
        session.probe()


def phases(session: Session) -> int:
    assert isinstance(session, NativeSession)
    updates: int = session.connection.statistics()["key_updates"]
    return updates


def exchange(dialled: Dialled, near: StreamLog, size: int) -> None:
    """size octets each way, checked."""
    payload = random.Random(size).randbytes(size)
    begun = len(near.data)
    near.stream.write(payload)
    dialled.pair.drive(lambda: near.stream.id in dialled.server_log.logs)
    far = dialled.server_log.logs[near.stream.id]
    dialled.pair.drive(lambda: len(far.data) == size)
    assert hashlib.sha256(far.data).digest() == hashlib.sha256(payload).digest()
    far.stream.write(bytes(far.data))
    far.data.clear()
    dialled.pair.drive(lambda: len(near.data) == begun + size)
    assert bytes(near.data[begun:]) == payload


@pytest.mark.parametrize("engines", PAIRINGS)
@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("seed", range(4))
def test_either_end_may_begin(engines: tuple[str, str], who: str, seed: int) -> None:
    dialled = dial(seed, BAD, engines=engines).complete(60.0)
    near = StreamLog(dialled.client.open_stream())
    exchange(dialled, near, 20_000)
    for _ in range(3):
        update(dialled.client if who == "client" else dialled.server)
        exchange(dialled, near, 20_000)
        dialled.pair.pass_time(1.0)
    ours = dialled.client if engines[0] == "native" else dialled.server
    assert phases(ours) == 3
    assert dialled.client_log.ended is dialled.server_log.ended is None


def test_both_ends_at_once() -> None:
    dialled = dial(5, Conditions(delay=0.02), engines=("native", "native")).complete()
    near = StreamLog(dialled.client.open_stream())
    exchange(dialled, near, 1000)
    for _ in range(3):
        update(dialled.client)
        update(dialled.server)
        exchange(dialled, near, 1000)
        dialled.pair.pass_time(1.0)
    assert phases(dialled.client) == phases(dialled.server) == 3


def test_one_that_is_asked_for_too_early_waits() -> None:
    """RFC 9001 §6.1: not before the handshake is confirmed and the present keys have been used."""
    dialled = dial(6, Conditions(delay=0.02), engines=("native", "native"))
    update(dialled.client)
    dialled.complete()
    near = StreamLog(dialled.client.open_stream())
    exchange(dialled, near, 1000)
    exchange(dialled, near, 1000)
    assert phases(dialled.client) == phases(dialled.server) == 1
