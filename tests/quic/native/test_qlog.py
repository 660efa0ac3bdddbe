"""Logs of events (qlog): what is in them, what never is, that both ends tell the same story, and that they end."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace.quic import qlog_files
from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.native.qlog import Qlog
from quicsocks.userspace.quic.native_session import NativeSession
from quicsocks.userspace.quic.qlog_files import QlogFolder
from quicsocks.userspace.quic.reset import reset_token
from quicsocks.userspace.quic.types import Limits, PathChange, Session

from ...sim.link import Conditions
from ...sim.run import Run
from ...sim.scenario import draw
from ..dialled import Dialled, dial, dial_config
from ..qlog_schema import Log, problems_with, records
from ..recorders import SessionLog, StreamLog
from .forger import Forger, ack, crypto, frame, new_connection_id, path_challenge, stream

BAD = Conditions(delay=0.02, jitter=0.005, loss=0.03, duplicate=0.03, reorder=0.05, corrupt=0.01)
CLEAN = Conditions(delay=0.02)
WHOLE = ("native", "native")


def begin(tmp_path: Path, conditions: Conditions, seed: int = 1, limits: Limits | None = None) -> Dialled:
    """Both ends log from the first packet on, into a folder of their own."""
    dialled = dial(seed, conditions, engines=WHOLE, limits=limits)
    switch(dialled, tmp_path)
    return dialled.complete(60.0)


def switch(dialled: Dialled, folder: Path | None) -> None:
    for host, name in ((dialled.pair.client, "client"), (dialled.pair.server, "server")):
        host.hub.log_to(folder / name if folder is not None else None, dialled.pair.now)


def exchange(dialled: Dialled, size: int = 300_000) -> bytes:
    """size octets up, and some of them down again; what they were."""
    payload = random.Random(size).randbytes(size)
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(payload)
    near.stream.finish()
    dialled.pair.drive(lambda: near.stream.id in dialled.server_log.logs)
    far = dialled.server_log.logs[near.stream.id]
    dialled.pair.drive(lambda: ("eof",) in far.calls)
    far.stream.write(payload[:20_000])
    far.stream.finish()
    dialled.pair.drive(lambda: ("eof",) in near.calls)
    assert bytes(far.data) == payload
    return payload


def finish(dialled: Dialled) -> None:
    dialled.client.close(7, "that is all")
    dialled.pair.pass_time(5.0)
    assert dialled.server_logs[0].ended is not None


def counters_of(session: Session) -> dict[str, Any]:
    assert isinstance(session, NativeSession)
    return session.connection.statistics()


def logs(folder: Path) -> tuple[Log, Log]:
    """The client's and the server's, which are the only ones."""
    found = [sorted((folder / name).iterdir()) for name in ("client", "server")]
    assert [len(paths) for paths in found] == [1, 1]
    return Log(found[0][0]), Log(found[1][0])


# --- What is in them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_one_end_has_sent_the_other_has_received(tmp_path: Path, seed: int) -> None:
    dialled = begin(tmp_path, BAD, seed)
    exchange(dialled)
    finish(dialled)
    client, server = logs(tmp_path)
    for sender, receiver, seen in ((client, server, dialled.server), (server, client, dialled.client)):
        sent, received = sender.numbers("packet_sent"), receiver.numbers("packet_received")
        assert sent == sorted(set(sent))
        assert len(received) == len(set(received))
        assert set(received) < set(sent), "all that came had been sent, and some of it was lost"
        assert len(received) == counters_of(seen)["packets_received"]
        packets = {data["header"]["packet_number"]: data for data in sender.of("packet_sent")}
        for data in receiver.of("packet_received"):
            # Frames, sizes, key phase: all of it, but for what only the sender knows.
            assert data == without(packets[data["header"]["packet_number"]], "is_mtu_probe_packet")
        lost = sender.numbers("packet_lost")
        assert lost
        assert set(lost) <= set(sent)
        assert {data["trigger"] for data in receiver.of("packet_dropped")} <= {
            "duplicate",
            "decryption_failure",
            "invalid",
        }


def without(data: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}


def test_the_counters_say_the_same(tmp_path: Path) -> None:
    dialled = begin(tmp_path, BAD, 5)
    exchange(dialled)
    dialled.pair.settle(1.0)
    counted = [counters_of(session) for session in (dialled.client, dialled.server)]
    switch(dialled, None)
    assert sum(counters["dropped_duplicate"] for counters in counted) > 0
    assert sum(counters["dropped_forged"] for counters in counted) > 0
    for log, counters in zip(logs(tmp_path), counted, strict=True):
        assert len(log.of("packet_sent")) == counters["packets_sent"]
        assert sum(data["raw"]["length"] for data in log.of("packet_sent")) == counters["bytes_sent"]
        assert len(log.of("packet_received")) == counters["packets_received"]
        assert sum(data["raw"]["length"] for data in log.of("packet_received")) == counters["bytes_received"]
        assert len(log.of("packet_lost")) == counters["packets_lost"]
        dropped = [data["trigger"] for data in log.of("packet_dropped")]
        assert len(dropped) == counters["packets_dropped"]
        assert dropped.count("duplicate") == counters["dropped_duplicate"]
        assert dropped.count("decryption_failure") == counters["dropped_forged"]
        assert dropped.count("invalid") == counters["dropped_short"]
        assert (
            sum(data.get("is_mtu_probe_packet", False) for data in log.of("packet_sent")) == counters["mtu_probes_sent"]
        )
        metrics: dict[str, Any] = {}
        for data in log.of("recovery_metrics_updated"):
            metrics |= data
        assert metrics["congestion_window"] == counters["congestion_window"]
        assert metrics["smoothed_rtt"] == pytest.approx(1e3 * counters["smoothed_rtt"], abs=0.001)
        assert metrics["min_rtt"] == pytest.approx(1e3 * counters["minimum_rtt"], abs=0.001)
        assert metrics["bytes_in_flight"] == counters["bytes_in_flight"] == 0


def test_a_connection_from_beginning_to_end(tmp_path: Path) -> None:
    dialled = begin(tmp_path, CLEAN)
    exchange(dialled)
    session = dialled.client
    assert isinstance(session, NativeSession)
    session.connection.update_keys()
    session.send_datagram(b"datagram")
    exchange(dialled, 3000)
    finish(dialled)
    client, server = logs(tmp_path)
    assert client.path.stem.removesuffix("_client") == server.path.stem.removesuffix("_server") != ""
    for log, vantage in ((client, "client"), (server, "server")):
        trace = log.first["trace"]
        assert trace["vantage_point"] == {"type": vantage}
        assert trace["common_fields"]["group_id"] == log.path.stem.split("_")[0]
        times = [event["time"] for event in log.events]
        assert times == sorted(times)
        assert times[0] == 0.0
        assert [data["new"] for data in log.of("mtu_updated")] == [1200, 1452]
        assert [data["key_phase"] for data in log.of("key_updated")] == [0, 0, 1, 1]
        assert log.of("congestion_state_updated")[0] == {"new": "slow_start"}
        assert log.of("ecn_state_updated")[-1]["new"] == "capable"
        assert log.of("alpn_information") == [{"chosen_alpn": {"string_value": "test/1"}}]
    assert [data["trigger"] for data in client.of("key_updated")][2:] == ["local_update"] * 2
    assert [data["trigger"] for data in server.of("key_updated")][2:] == ["remote_update"] * 2
    states = [[data["new"] for data in log.of("connection_state_updated")] for log in (client, server)]
    assert states[0] == ["handshake_complete", "handshake_confirmed", "closing", "closed"]
    assert states[1] == ["handshake_complete", "handshake_confirmed", "draining", "closed"]
    assert [data["initiator"] for data in client.of("parameters_set")] == ["local", "remote"]
    theirs, ours = client.of("parameters_set")[1], server.of("parameters_set")[0]
    assert {**theirs, "initiator": ""} == {**ours, "initiator": ""}
    closed = {"trigger": "application", "application_error": "unknown", "error_code": 7}
    assert client.of("connection_closed") == [{"initiator": "local", **closed}]
    assert server.of("connection_closed") == [{"initiator": "remote", **closed}]
    kinds = {frame["frame_type"] for log in (client, server) for frame in log.frames("packet_sent")}
    assert kinds >= {
        "ack", "stream", "datagram", "handshake_done", "new_connection_id", "padding", "ping", "connection_close",
    }  # fmt: skip
    assert sum(data["header"]["key_phase_bit"] for data in client.of("packet_sent")) > 0


def test_a_move_to_another_address_has_a_tuple_of_its_own(tmp_path: Path) -> None:
    dialled = begin(tmp_path, CLEAN)
    exchange(dialled, 3000)
    dialled.pair.rebind(("203.0.113.9", 62000))
    exchange(dialled, 3000)
    dialled.pair.settle(1.0)
    assert PathChange.VALIDATED in {event.change for event in dialled.server_log.paths}
    finish(dialled)
    _, server = logs(tmp_path)
    assert [(data["tuple_id"], data["tuple_remote"]["port_v4"]) for data in server.of("tuple_assigned")] == [
        ("", 61000),
        ("1", 62000),
    ]
    tuples = {event.get("tuple", "") for event in server.events if event["name"] == "quic:packet_sent"}
    assert tuples == {"", "1"}
    challenged = [frame["frame_type"] for frame in server.frames("packet_sent")].count("path_challenge")
    assert challenged >= 1
    assert len(server.of("connection_id_updated")) == 2


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_whatever_happens_keeps_to_the_schema(tmp_path: Path, first: int) -> None:
    """Bad networks, resets, key updates, Retry, moves; and logging changes nothing about how it goes."""
    for seed in range(first, first + 10):
        plain = Run(draw(seed), WHOLE).play()
        run = Run(draw(seed), WHOLE)
        run.pair.client.hub.log_to(tmp_path / "client", run.pair.now)
        run.pair.server.hub.log_to(tmp_path / "server", run.pair.now)
        assert run.play() == plain
    found = [Log(path) for path in sorted(tmp_path.rglob("*.sqlog"))]
    assert len(found) == 20
    assert all(log.of("connection_closed") for log in found)
    assert sum(len(log.of("packet_received")) for log in found) > 1000


# --- What others send -------------------------------------------------------------------------------------------------

FRAMES = [
    b"\0\0\0", b"\1", ack(70, 2, (0, 3), (5, 0), delay=100), b"\3" + ack(9, 9)[1:] + b"\5\0\2",
    frame(4, 8, 77, 1234), frame(5, 8, 88), crypto(3, b"stolen"), frame(7, 6, tail=b"stolen"),
    stream(4, 0, b"stolen"), stream(4, 16384, b"stolen", fin=True), frame(8, 4, tail=b"stolen"),
    frame(0x10, 1 << 40), frame(0x11, 4, 99), frame(0x12, 5), frame(0x13, 6), frame(0x14, 7), frame(0x15, 4, 8),
    frame(0x16, 9), frame(0x17, 10), new_connection_id(3, 1), frame(0x19, 2), path_challenge(1 << 60),
    b"\x1b" + bytes(8), frame(0x1C, 0x0A, 6, 6, tail=b"stolen"), frame(0x1D, 5, 6, tail=b"stolen"), b"\x1e",
    frame(0x31, 6, tail=b"stolen"), frame(0x30, tail=b"stolen"),
    frame(0x1F), frame(0xAF, 1, 2, 3, 4), frame(0x4242, 1, 2),
]  # fmt: skip
"""One of every kind, and of kinds that only extensions know."""


class Pieces:
    """Takes a log as it comes."""

    def __init__(self) -> None:
        self.data = b""

    def take(self, data: bytes) -> bool:
        self.data += data
        return True


def logged(*payloads: bytes) -> list[dict[str, Any]]:
    """The events of a server that is sent such packets, each by itself."""
    written = b""
    for payload in payloads:
        forger = Forger()
        pieces = Pieces()
        log = Qlog(pieces.take, 1 << 20, forger.now)
        forger.connection.begin_log(log, forger.now)
        forger.put(payload.ljust(4, b"\0"))
        log.flush()
        written += pieces.data
    assert b"stolen" not in written
    assert b"stolen".hex().encode() not in written
    events = records(written)
    assert [problem for event in events for problem in problems_with(event)] == []
    return events


def test_every_kind_of_frame_is_told(tmp_path: Path) -> None:
    events = [event["data"] for event in logged(*FRAMES) if event["name"] == "quic:packet_received"]
    assert len(events) == len(FRAMES)
    told = [data["frames"][0] for data in events]
    assert [what["frame_type"] for what in told] == [
        "padding", "ping", "ack", "ack", "reset_stream", "stop_sending", "crypto", "new_token", "stream",
        "stream", "stream", "max_data", "max_stream_data", "max_streams", "max_streams", "data_blocked",
        "stream_data_blocked", "streams_blocked", "streams_blocked", "new_connection_id",
        "retire_connection_id", "path_challenge", "path_response", "connection_close", "connection_close",
        "handshake_done", "datagram", "datagram", "immediate_ack", "ack_frequency", "unknown",
    ]  # fmt: skip
    assert told[2] == {
        "frame_type": "ack", "ack_delay": 0.8, "acked_ranges": [[68, 70], [63, 66], [56]], "raw": {"length": 11},
    }  # fmt: skip
    assert (told[3]["ect0"], told[3]["ect1"], told[3]["ce"]) == (5, 0, 2)
    assert told[4] == {
        "frame_type": "reset_stream", "stream_id": 8, "error": "unknown", "error_code": 77, "final_size": 1234,
        "raw": {"length": 6},
    }  # fmt: skip
    assert told[9] == {
        "frame_type": "stream", "stream_id": 4, "offset": 16384, "fin": True, "raw": {"length": 13, "payload_length": 6},
    }  # fmt: skip
    assert told[6]["raw"] == {"length": 9, "payload_length": 6}
    assert told[19]["connection_id"] == (3).to_bytes(8, "big").hex()
    assert told[23]["trigger_frame_type"] == 6
    assert told[-2] == {
        "frame_type": "ack_frequency", "sequence_number": 1, "ack_eliciting_threshold": 2, "requested_max_ack_delay": 3,
        "reordering_threshold": 4, "raw": {"length": 6},
    }  # fmt: skip
    assert told[-1]["frame_type_bytes"] == 0x4242


def test_what_we_send_is_what_another_parser_reads() -> None:
    forger = Forger()
    pieces = Pieces()
    log = Qlog(pieces.take, 1 << 24, forger.now)
    forger.connection.begin_log(log, forger.now)
    local = forger.open_local()
    local.stream.write(bytes(50_000))
    forger.hear()
    for number in range(20):
        forger.send(stream(4 * number, 0, b"abc", fin=True))
        forger.wait(0.1)
        forger.acknowledge()
    log.flush()
    sent = [event["data"] for event in records(pieces.data) if event["name"] == "quic:packet_sent"]
    assert [data["header"]["packet_number"] for data in sent] == forger.numbers
    told = [what for data in sent for what in data["frames"] if what["frame_type"] != "padding"]
    # Of a STREAM frame's type, only the FIN is told.
    assert [simply(what) for what in told] == [
        (kind & 0x09, *rest) if 0x08 <= kind < 0x10 else (kind, *rest) for kind, *rest in forger.received
    ]
    assert sum(data["raw"]["length"] for data in sent) == forger.sent_back


def simply(what: dict[str, Any]) -> tuple[int, ...]:
    """A frame as the forger reads it."""
    match what["frame_type"]:
        case "stream":
            return (0x08 | what["fin"], what["stream_id"], what["offset"], what["raw"]["payload_length"])
        case "ack":
            ranges = [(pair[0], pair[-1]) for pair in what["acked_ranges"]]
            flat = [ranges[0][1] - ranges[0][0]]
            for (low, _), (below, above) in itertools.pairwise(ranges):
                flat += [low - above - 2, above - below]
            return (2, ranges[0][1], round(what["ack_delay"] * 125), len(ranges) - 1, *flat)
        case "max_streams":
            return (0x12 + (what["stream_type"] == "unidirectional"), what["maximum"])
        case "new_connection_id":
            return (0x18, what["sequence_number"], what["retire_prior_to"])
        case "max_stream_data":
            return (0x11, what["stream_id"], what["maximum"])
        case "ping":
            return (0x01,)
    raise AssertionError(what)


@pytest.mark.parametrize("kind", range(len(FRAMES)))
def test_frames_that_are_cut_off_are_told_as_far_as_they_go(kind: int) -> None:
    whole = FRAMES[kind]
    for size in range(1, len(whole)):
        logged(b"\1" * 4 + whole[:size])
        # And what no frame begins with.
        logged(b"\1" * 4 + whole[:size] + b"\xff")


def test_a_packet_of_a_thousand_frames_is_not_told_in_full() -> None:
    (event,) = [event for event in logged(b"\1" * 1400) if event["name"] == "quic:packet_received"]
    assert len(event["data"]["frames"]) == 256
    assert event["data"]["raw"]["payload_length"] == 1400
    (event,) = [event for event in logged(ack(60_000, 0, *[(0, 0)] * 600)) if event["name"] == "quic:packet_received"]
    assert len(event["data"]["frames"][0]["acked_ranges"]) == 257


# --- What is never in them --------------------------------------------------------------------------------------------


def test_no_contents_no_secrets_and_no_words_of_the_peer(tmp_path: Path) -> None:
    dialled = begin(tmp_path, CLEAN)
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(b"what the user says" * 1000)
    dialled.client.send_datagram(b"what the user sends")
    dialled.pair.settle(1.0)
    hubs = [host.hub for host in (dialled.pair.client, dialled.pair.server)]
    secrets = [reset_token(hub._reset_key, cid) for hub in hubs for entry in hub._entries for cid in entry.cids]
    assert len(secrets) > 4
    dialled.client.close(7, "what the user thinks")
    dialled.pair.settle(20.0)
    for log in logs(tmp_path):
        data = log.path.read_bytes()
        for said in (b"what the user", b"test secret", *secrets):
            assert said not in data
            assert said.hex().encode() not in data


# --- Switching, and limits --------------------------------------------------------------------------------------------


def test_nothing_is_written_when_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: object) -> None:
        raise AssertionError("a file is written")

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "open", write)
    dialled = dial(1, BAD, engines=WHOLE).complete()
    exchange(dialled)
    assert isinstance(dialled.client, NativeSession)
    assert dialled.client.connection.log is None
    finish(dialled)


def test_it_is_switched_while_connections_are_open(tmp_path: Path) -> None:
    dialled = dial(1, CLEAN, engines=WHOLE).complete()
    exchange(dialled, 3000)
    dialled.pair.settle(1.0)
    before = counters_of(dialled.client)["packets_sent"]
    switch(dialled, tmp_path / "first")
    exchange(dialled, 3000)
    dialled.pair.settle(1.0)
    switch(dialled, None)
    after = counters_of(dialled.client)["packets_sent"]
    first = logs(tmp_path / "first")
    exchange(dialled, 3000)
    dialled.pair.settle(1.0)
    assert [log.path.read_bytes() for log in logs(tmp_path / "first")] == [log.path.read_bytes() for log in first]
    assert len(first[0].of("packet_sent")) == after - before > 0
    # It begins with how things stand, though that came about before.
    assert first[0].of("mtu_updated") == [{"new": 1452}]
    assert first[0].of("connection_state_updated") == [{"new": "handshake_confirmed"}]
    assert first[0].of("parameters_set")
    # Switched on again, it is another file; into another folder, without having been off.
    switch(dialled, tmp_path / "first")
    switch(dialled, tmp_path / "second")
    exchange(dialled, 3000)
    finish(dialled)
    assert len(sorted((tmp_path / "first" / "client").iterdir())) == 2
    client, server = logs(tmp_path / "second")
    assert client.of("packet_sent")
    assert server.of("connection_closed")


def test_connections_that_come_later_log_too(tmp_path: Path) -> None:
    dialled = begin(tmp_path, CLEAN)
    for seed in range(3):
        other = dialled.pair.dial(dial_config(), SessionLog())
        dialled.pair.settle(1.0)
        assert other.ended is None, seed
    finish(dialled)
    assert len(list((tmp_path / "server").iterdir())) == 4
    assert len({Log(path).first["trace"]["common_fields"]["group_id"] for path in (tmp_path / "client").iterdir()}) == 4


def test_only_the_user_can_read_them(tmp_path: Path) -> None:
    dialled = begin(tmp_path / "a/b", CLEAN)
    finish(dialled)
    client, _ = logs(tmp_path / "a/b")
    assert stat.S_IMODE(client.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(client.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_a_folder_that_others_see_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    dialled = dial(1, CLEAN, engines=WHOLE)
    with pytest.raises(LocalError, match=r"others can look into the folder .*chmod 700"):
        dialled.pair.client.hub.log_to(tmp_path / "open", 0.0)


def test_a_folder_that_cannot_be_made_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    dialled = dial(1, CLEAN, engines=WHOLE)
    with pytest.raises(LocalError, match=r"cannot make or open the folder .*Not a directory"):
        dialled.pair.client.hub.log_to(tmp_path / "file" / "folder", 0.0)


def test_the_reference_engine_has_none(tmp_path: Path) -> None:
    dialled = dial(1, CLEAN, engines=("aioquic", "native"))
    with pytest.raises(LocalError, match="the aioquic engine writes no qlog; start with --engine native"):
        dialled.pair.client.hub.log_to(tmp_path, 0.0)
    dialled.pair.client.hub.log_to(None, 0.0)


def test_a_file_ends_at_its_limit_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog_files, "MOST_OCTETS", 20_000)
    dialled = begin(tmp_path, CLEAN)
    exchange(dialled)
    finish(dialled)
    for log in logs(tmp_path):
        assert 15_000 < log.path.stat().st_size <= 20_000
        assert log.events[-1]["name"] == "loglevel:warning"
        assert "limit" in log.events[-1]["data"]["message"]


def test_all_files_together_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qlog_files, "MOST_TOGETHER", 100_000)
    dialled = begin(tmp_path, CLEAN)
    exchange(dialled)
    finish(dialled)
    assert sum(path.stat().st_size for path in (tmp_path / "client").iterdir()) <= 100_000
    assert caplog.text.count("no more is logged") == 2, "once for each end's"


def test_a_full_disk_ends_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dialled = begin(tmp_path, CLEAN)

    def full(descriptor: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    exchange(dialled)
    finish(dialled)
    assert caplog.text.count("No space left on device; this connection is logged no more") == 2


def test_namesakes_are_kept_apart_and_links_are_not_followed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "0a_client.sqlog").symlink_to(tmp_path / "elsewhere")
    folder = QlogFolder(tmp_path, lambda: 0.0)
    for _ in range(2):
        file = folder.open(b"\n", is_client=True)
        assert file is not None
        file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0a_client-2.sqlog",
        "0a_client-3.sqlog",
        "0a_client.sqlog",
    ]
