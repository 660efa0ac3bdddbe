"""The native QUIC engine under its fuzz targets: the corpus, inputs near to it, and fresh ones, all from fixed seeds.

QUICSOCKS_TEST_FUZZ_ROUNDS multiplies; ``python -m tests.fuzz.quic`` goes on for as long as one likes. Below, each target is
shown to notice what it is there to notice.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace.quic.native_session import NativeSession
from tests.quic.native.forger import CID, ROUTE, Forger

from . import quic_ends, quic_packets
from .octets import minimised, mutated
from .quic import TARGETS, Campaign, Target, best_of, failure_of, main, save
from .quic_operations import DROP, Pair

ROUNDS = int(os.environ.get("QUICSOCKS_TEST_FUZZ_ROUNDS", "400"))
SHARES = {"frames": 2.0, "packets": 2.0, "operations": 2.0, "handshake": 0.4}
"""Inputs for each of ``ROUNDS``: what takes longer has fewer."""
names = pytest.mark.parametrize("name", sorted(TARGETS))


@names
def test_corpus(name: str) -> None:
    target = TARGETS[name]
    inputs = target.corpus()
    assert len(inputs) >= 10
    for data in inputs:
        target.run(data)


@names
def test_fresh_inputs_and_changed_ones(name: str) -> None:
    campaign = Campaign(TARGETS[name], 0)
    for _ in range(int(ROUNDS * SHARES[name])):
        data = campaign.next_input()
        try:
            campaign.run(data)
        except Exception as error:
            path = save(Path("artifacts/fuzz") / name, data)
            raise AssertionError(f"run it again with: python -m tests.fuzz.quic {name} --input {path}") from error


@pytest.mark.parametrize("name", ["frames", "operations", "packets"])
def test_an_input_means_the_same_again(name: str) -> None:
    """aioquic draws its own keys, so that of the handshake this cannot be said."""
    target = TARGETS[name]
    for data in target.corpus():
        assert target.run(data) == target.run(data)


# --- They notice ------------------------------------------------------------------------------------------------------


def expect_failure(name: str, match: str, tries: int = 60) -> None:
    """One of so many inputs fails, in this way."""
    campaign = Campaign(TARGETS[name], 1)

    def run_all() -> None:
        for _ in range(tries):
            campaign.run(campaign.next_input())

    with pytest.raises(AssertionError, match=match):
        run_all()


def test_frames_notices_a_close_that_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic_packets, "CODES", quic_packets.CODES - {0x05, 0x07, 0x0A})
    expect_failure("frames", "malformed|a frame for|acknowledged")


def test_packets_notices_what_is_not_authentic(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Forger.give

    def repair(forger: Any, packet: bytes, route: Any = ROUTE) -> None:
        honest(forger, forger.sealer.seal(bytes(CID), b"\x01" * 4, forger.number), route)

    monkeypatch.setattr(Forger, "give", repair)
    expect_failure("packets", "it is not authentic")


def test_operations_notices_other_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = quic_ends.octets_of

    def shifted(number: int, by_client: bool, begin: int, size: int) -> bytes:
        return honest(number, by_client, begin + (begin > 5000), size)

    monkeypatch.setattr(quic_ends, "octets_of", shifted)
    expect_failure("operations", "other octets")


def test_operations_notices_what_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pair, "_happens", lambda pair, what: what == DROP and pair.sent > 20)
    expect_failure("operations", "not over")


def test_handshake_notices_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = NativeSession._receive_long

    def fails(session: NativeSession, data: bytes, *rest: Any) -> None:
        if data[0] & 0x30 == 0x20:  # A Handshake packet.
            raise ValueError("a mistake")
        honest(session, data, *rest)

    monkeypatch.setattr(NativeSession, "_receive_long", fails)
    expect_failure("handshake", "internal error")


# --- The tools --------------------------------------------------------------------------------------------------------


def toy(data: bytes) -> frozenset[object]:
    """Fails on inputs that hold a 7 behind a 3."""
    assert b"\x07" not in data[data.find(b"\x03") :] or b"\x03" not in data
    return frozenset(data)


def test_what_fails_is_made_as_short_as_it_can_be() -> None:
    target = Target("toy", toy, lambda draw: draw.randbytes(100))
    data = bytes(range(256))
    assert failure_of(target, data).startswith("AssertionError")
    assert failure_of(target, b"\x07\x03") == ""
    assert minimised(data, lambda shorter: failure_of(target, shorter) != "") == b"\x03\x07"


def test_inputs_are_changed_but_not_out_of_measure() -> None:
    draw = random.Random(1)
    changed = [mutated(bytes(300), b"\xff" * 300, draw) for _ in range(300)]
    assert len(set(changed)) > 280
    assert all(len(data) < 2000 for data in changed)
    assert mutated(b"", b"", draw) is not None


def test_the_best_inputs_are_few() -> None:
    target = Target("toy", lambda data: frozenset(data), lambda draw: draw.randbytes(10))
    pool = [b"ab", b"abc", b"d", b"abcd" + b"a" * 5000, b"c"]
    kept = best_of(target, pool, 10)
    assert {octet for data in kept for octet in data} == set(b"abcd")
    assert sum(map(len, kept)) == 4


def test_the_command_runs_and_says_how_to_run_a_failure_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = tmp_path / "failures"
    monkeypatch.setattr("sys.argv", ["quic", "frames", "--seconds", "0.2", "--seed", "3", "--failures", str(failures)])
    assert main() == 0
    assert "0 failed" in capsys.readouterr().out
    monkeypatch.setattr(quic_packets, "CODES", set())
    assert main() == 1
    assert f"--input {failures}/frames/" in capsys.readouterr().out
    assert len(list((failures / "frames").iterdir())) >= 1
