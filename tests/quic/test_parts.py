"""The small parts: connection IDs, keys, Retry tokens, stateless resets, endings."""

from __future__ import annotations

import random

import pytest
from aioquic.quic.events import ConnectionTerminated

from quicsocks.userspace.quic.aioquic_internals.common import ClosedBy
from quicsocks.userspace.quic.cid import LENGTH, ConnectionIdFactory, server_id_of
from quicsocks.userspace.quic.endings import ended_of
from quicsocks.userspace.quic.errors import End, Ended, LocalError, PeerError
from quicsocks.userspace.quic.reset import TokenBucket, is_reset, reset_packet, reset_token
from quicsocks.userspace.quic.retry import LIFETIME, RetryTokens
from quicsocks.userspace.quic.secrets import Secrets

NOW = 1_700_000_000.0

# --- Connection IDs ---------------------------------------------------------------------------------------------------


def test_layout() -> None:
    cid = ConnectionIdFactory(lambda size: bytes(range(1, size + 1)), server_id=0xABCD, config=2).new()
    assert cid.hex() == "47abcd0102030405"
    assert server_id_of(cid) == 0xABCD
    assert server_id_of(cid[:-1]) is None
    assert server_id_of(bytes([0x48]) + cid[1:]) is None


def test_ours_and_others() -> None:
    draw = random.Random(1).randbytes
    ours, theirs = ConnectionIdFactory(draw, server_id=1), ConnectionIdFactory(draw, server_id=2)
    assert ours.is_ours(ours.new())
    assert not ours.is_ours(theirs.new())
    assert not ours.is_ours(ours.new() + b"x")


def test_taken_ones_are_not_issued_again() -> None:
    draws = [bytes(5), bytes(5), b"\1" * 5]
    factory = ConnectionIdFactory(lambda size: draws.pop(0))
    first = factory.new()
    assert factory.new({first})[-1] == 1
    assert len(first) == LENGTH


@pytest.mark.parametrize("wrong", [{"server_id": 65536}, {"server_id": -1}, {"config": 8}])
def test_numbers_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is not a"):
        ConnectionIdFactory(bytes, **wrong)


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_stable_and_independent() -> None:
    secrets = Secrets(bytes(range(32)))
    keys = [secrets.retry, secrets.reset, secrets.token, secrets.ticket]
    assert len(set(keys)) == 4
    assert all(len(key) == 32 for key in keys)
    # Written down once: a change would break resets and tokens across an upgrade.
    assert secrets.retry.hex() == "67d1a88ae0e50475b5f340522fa0a265564d7353aae5faae1dfda225689bbad6"
    assert secrets.reset.hex() == "bd3716f7d5008d1ceb9a67b2820f4d7ed571619b8d21d14a6e0177a3f556c1bc"
    assert Secrets(bytes(32)).retry != secrets.retry


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(LocalError, match="31 bytes"):
        Secrets(bytes(31))


# --- Retry tokens -----------------------------------------------------------------------------------------------------

ADDRESS = ("192.0.2.7", 4433)
RETRY_CID = b"retrycid"


def tokens() -> RetryTokens:
    return RetryTokens(bytes(32), random.Random(1).randbytes)


def test_a_token_gives_the_original_connection_id_back() -> None:
    for original in (bytes(8), bytes(range(20))):
        token = tokens().issue(ADDRESS, original, RETRY_CID, NOW)
        assert tokens().verify(token, ADDRESS, RETRY_CID, NOW + LIFETIME - 1) == original


@pytest.mark.parametrize(
    ("address", "cid", "later"),
    [
        (("192.0.2.8", 4433), RETRY_CID, 0),
        (("192.0.2.7", 4434), RETRY_CID, 0),
        (("2001:db8::7", 4433), RETRY_CID, 0),
        (ADDRESS, b"othercid", 0),
        (ADDRESS, RETRY_CID, LIFETIME + 1),
        (ADDRESS, RETRY_CID, -LIFETIME - 1),
    ],
)
def test_a_token_is_bound(address: tuple[str, int], cid: bytes, later: float) -> None:
    token = tokens().issue(ADDRESS, bytes(8), RETRY_CID, NOW)
    with pytest.raises(PeerError):
        tokens().verify(token, address, cid, NOW + later)


def test_no_octet_of_a_token_may_change() -> None:
    token = tokens().issue(ADDRESS, bytes(8), RETRY_CID, NOW)
    for position in range(len(token)):
        forged = token[:position] + bytes([token[position] ^ 1]) + token[position + 1 :]
        with pytest.raises(PeerError):
            tokens().verify(forged, ADDRESS, RETRY_CID, NOW)
    for size in (0, 1, 11, 12, 28, 35, len(token) - 1, 57, 1000):
        with pytest.raises(PeerError):
            tokens().verify(bytes(size), ADDRESS, RETRY_CID, NOW)


# --- Stateless reset --------------------------------------------------------------------------------------------------


def test_a_reset_is_recognised_by_its_token_only() -> None:
    token = reset_token(b"key", b"12345678")
    packet = reset_packet(token, 100, random.Random(1).randbytes)
    assert packet is not None
    assert packet[0] & 0xC0 == 0x40
    assert is_reset(packet, [bytes(16), token])
    assert not is_reset(packet, [reset_token(b"key", b"12345679"), b""])
    assert not is_reset(packet[-20:], [token])
    assert not is_reset(packet, [])


def test_resets_get_ever_smaller() -> None:
    size, count = 1200, 0
    while True:
        packet = reset_packet(bytes(16), size, bytes)
        if packet is None:
            break
        assert 21 <= len(packet) < size
        size = len(packet)
        count += 1
    assert count < 25


def test_token_bucket() -> None:
    bucket = TokenBucket(rate=10.0, burst=3.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.15) for _ in range(2)] == [True, False]
    assert bucket.take(99.0) is False, "a clock that goes back gives nothing"


# --- Endings ----------------------------------------------------------------------------------------------------------

CRYPTO = 0x100


@pytest.mark.parametrize(
    ("code", "closed_by", "established", "end"),
    [
        (5, ClosedBy.APPLICATION, True, End.LOCALLY_CLOSED),
        (5, ClosedBy.PEER_APPLICATION, True, End.PEER_CLOSED),
        (1, ClosedBy.TIMEOUT, True, End.TIMED_OUT),
        (1, ClosedBy.TIMEOUT, False, End.HANDSHAKE_TIMED_OUT),
        (0x10, ClosedBy.NO_PATH, True, End.TIMED_OUT),
        (2, ClosedBy.PEER_ENGINE, False, End.REFUSED),
        (0x11, ClosedBy.PEER_ENGINE, False, End.VERSION_MISMATCH),
        (0x0C, ClosedBy.PEER_ENGINE, False, End.PEER_CLOSED),
        (CRYPTO + 120, ClosedBy.PEER_ENGINE, False, End.ALPN_MISMATCH),
        (CRYPTO + 40, ClosedBy.PEER_ENGINE, False, End.TLS_FAILED),
        (CRYPTO + 42, ClosedBy.PEER_ENGINE, False, End.TLS_FAILED),
        (3, ClosedBy.PEER_ENGINE, True, End.PEER_TRANSPORT),
        (0, ClosedBy.PEER_ENGINE, True, End.PEER_TRANSPORT),
        (CRYPTO + 120, ClosedBy.ENGINE, False, End.ALPN_MISMATCH),
        (CRYPTO + 42, ClosedBy.ENGINE, False, End.UNTRUSTED),
        (CRYPTO + 45, ClosedBy.ENGINE, False, End.UNTRUSTED),
        (CRYPTO + 51, ClosedBy.ENGINE, False, End.TLS_FAILED),
        (0x11, ClosedBy.ENGINE, False, End.VERSION_MISMATCH),
        (7, ClosedBy.ENGINE, True, End.LOCAL_TRANSPORT),
    ],
)
def test_endings(code: int, closed_by: ClosedBy, established: bool, end: End) -> None:
    ended = ended_of(ConnectionTerminated(code, None, "why"), closed_by, established)
    assert ended.end is end
    assert type(ended.code) in (int, type(None))


def test_tls_alerts_are_named() -> None:
    event = ConnectionTerminated(CRYPTO + 40, None, "")
    assert ended_of(event, ClosedBy.PEER_ENGINE, False).reason == "handshake failure"
    event = ConnectionTerminated(CRYPTO + 255, None, "")
    assert ended_of(event, ClosedBy.PEER_ENGINE, False) == Ended(End.TLS_FAILED, CRYPTO + 255, "TLS alert 255")
