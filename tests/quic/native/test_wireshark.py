"""What Wireshark makes of our packets: with a key log it reads every one of them, also after key updates."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.types import Session

from ...sim.link import Conditions
from ..capture import Dissected, complaints, dissect, needs_tshark, write_pcap
from ..dialled import Dialled, dial, dial_config, listen_config
from ..qlog_schema import Log
from ..recorders import StreamLog

pytestmark = [pytest.mark.programs, needs_tshark]

FIELDS = ("quic.packet_number", "quic.key_phase", "quic.frame_type", "quic.stream_data", "quic.dg")
KINDS = {
    "padding": 0x00, "ping": 0x01, "ack": 0x02, "crypto": 0x06, "stream": 0x08, "max_data": 0x10, "max_stream_data": 0x11,
    "new_connection_id": 0x18, "connection_close": 0x1C, "handshake_done": 0x1E, "datagram": 0x31, "ack_frequency": 0xAF,
    "immediate_ack": 0x1F,
}  # fmt: skip
"""Types by qlog's names, without the bits that are flags."""


def exchange(dialled: Dialled, size: int) -> None:
    """A stream there and back, and a DATAGRAM each way."""
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(b"from the client " * (size // 16))
    near.stream.finish()
    dialled.client.send_datagram(b"a datagram up")
    dialled.server.send_datagram(b"a datagram down")
    dialled.pair.drive(lambda: near.stream.id in dialled.server_log.logs)
    far = dialled.server_log.logs[near.stream.id]
    far.stream.write(b"from the server " * (size // 16))
    far.stream.finish()
    dialled.pair.drive(lambda: ("eof",) in near.calls and ("eof",) in far.calls)
    dialled.pair.settle(1.0)


def update(session: Session) -> None:
    assert isinstance(session, NativeSession)
    session.connection.update_keys()


def capture(folder: Path, seed: int, conditions: Conditions, keylog_of: str = "client") -> tuple[Path, Path]:
    """A connection with two key updates, one from either end: its pcap, and its key log."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = folder / "keys"
    dialling, listening = dial_config(), listen_config()
    if keylog_of == "client":
        dialling = replace(dialling, keylog=keys)
    else:
        listening = replace(listening, keylog=keys)
    dialled = dial(seed, conditions, dialling=dialling, listening=listening, engines=("native", "native"))
    dialled.pair.record = True
    for host, name in ((dialled.pair.client, "client"), (dialled.pair.server, "server")):
        host.hub.log_to(folder / name, dialled.pair.now)
    dialled.complete()
    exchange(dialled, 40_000)
    update(dialled.client)
    exchange(dialled, 4000)
    update(dialled.server)
    exchange(dialled, 4000)
    dialled.client.close(0, "done")
    dialled.pair.settle(5.0)
    write_pcap(folder / "seen.pcap", dialled.pair.seen)
    dialled.pair.close()
    return folder / "seen.pcap", keys


def packets(datagrams: list[Dissected], up: bool) -> list[tuple[int, bool, list[int]]]:
    """1-RTT packets of a direction: number, key phase bit, types of frames without their flags."""
    return [
        (
            datagram.numbers("quic.packet_number")[0],
            datagram["quic.key_phase"] == ["1"],
            [0x08 if 0x08 <= kind < 0x10 else {0x03: 0x02, 0x1D: 0x1C}.get(kind, kind)
             for kind in datagram.numbers("quic.frame_type")],
        )
        for datagram in datagrams
        if datagram.is_short and datagram.is_up == up
    ]  # fmt: skip


@pytest.mark.parametrize("keylog_of", ["client", "server"])
def test_it_reads_every_packet(tmp_path: Path, keylog_of: str) -> None:
    pcap, keys = capture(tmp_path, 1, Conditions(delay=0.02), keylog_of)
    datagrams = dissect(pcap, keys, *FIELDS)
    assert complaints(datagrams) == []
    assert len(datagrams) > 100
    assert all(datagram["quic.frame_type"] for datagram in datagrams)
    for name, up in (("client", True), ("server", False)):
        # And reads in them what we say that we have sent.
        (path,) = (tmp_path / name).iterdir()
        told = [
            (
                data["header"]["packet_number"],
                data["header"]["key_phase_bit"],
                [KINDS[frame["frame_type"]] for frame in data["frames"]],
            )
            for data in Log(path).of("packet_sent")
        ]
        seen = packets(datagrams, up)
        assert seen == told
        assert {phase for _, phase, _ in seen} == {False, True}
        kinds = Counter(kind for _, _, frames in seen for kind in frames)
        assert min(kinds[0x08], kinds[0x02], kinds[0x31]) >= 3
        turns = sum(before != after for (_, before, _), (_, after, _) in itertools.pairwise(seen))
        assert turns == 2, "two key updates"
        word = b"from the client " if up else b"from the server "
        octets = sum(
            len(bytes.fromhex(data)) for one in datagrams if one.is_up == up for data in one["quic.stream_data"]
        )
        assert octets == 16 * (40_000 // 16 + 2 * (4000 // 16))
        assert all(
            set(bytes.fromhex(data)) <= set(word)
            for one in datagrams
            if one.is_up == up
            for data in one["quic.stream_data"]
        )
        assert [bytes.fromhex(data) for one in datagrams if one.is_up == up for data in one["quic.dg"]] == (
            [b"a datagram up" if up else b"a datagram down"] * 3
        )


@pytest.mark.parametrize("seed", range(3))
def test_on_a_bad_network_too(tmp_path: Path, seed: int) -> None:
    pcap, keys = capture(tmp_path, seed, Conditions(delay=0.02, jitter=0.01, loss=0.03, duplicate=0.02, reorder=0.05))
    datagrams = dissect(pcap, keys, *FIELDS)
    assert complaints(datagrams) == []
    assert all(datagram["quic.frame_type"] for datagram in datagrams)


def test_without_the_keys_it_reads_nothing(tmp_path: Path) -> None:
    """So that the tests above are known to be able to fail: no keys, another connection's keys, a packet cut off."""
    pcap, _ = capture(tmp_path / "one", 1, Conditions(delay=0.02))
    _, others = capture(tmp_path / "two", 2, Conditions(delay=0.02))
    for keys in (None, others):
        datagrams = dissect(pcap, keys, *FIELDS)
        assert sum(bool(datagram["quic.frame_type"]) for datagram in datagrams if datagram.is_short) == 0
        assert sum(datagram.is_short for datagram in datagrams) > 100
    dialled = dial(1, engines=("native", "native"))
    dialled.pair.record = True
    dialled.complete()
    write_pcap(tmp_path / "cut.pcap", [("up", dialled.pair.seen[0][1][:100])])
    assert len(complaints(dissect(tmp_path / "cut.pcap", None))) == 1
