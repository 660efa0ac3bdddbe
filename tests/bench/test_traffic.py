"""The origin, the load generator, the bare hop and bare aioquic: that they move and count the bytes that they say."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.certificate import write_certificate
from bench.flows import FlowError, Via, connect
from bench.load_bulk import download, upload, verify
from bench.load_requests import connections, idle, latency, round_trips
from bench.origin import HEAD_LIMIT, PATTERN_SIZE, pattern
from bench.peers.base import ROOT, bench_module
from bench.processes import Program, free_port

DIRECT = Via("direct")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    port = free_port()
    folder = tmp_path_factory.mktemp("origin")
    program = Program("origin", bench_module("origin", "127.0.0.1", str(port)), folder, directory=ROOT)
    program.wait_listening(port)
    yield ("127.0.0.1", port)
    program.stop()
    assert program.output() == b""


@pytest.fixture(scope="module")
def hop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Via]:
    port = free_port()
    folder = tmp_path_factory.mktemp("hop")
    program = Program("hop", bench_module("bare_hop", "127.0.0.1", str(port)), folder, directory=ROOT)
    program.wait_listening(port)
    yield Via("socks5", ("127.0.0.1", port))
    program.stop()
    assert program.output() == b""


def exchange(origin: tuple[str, int], request: bytes) -> bytes:
    """All that the origin answers to a request and the end of the stream."""
    with socket.create_connection(origin, 5) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


# --- the origin -------------------------------------------------------------------------------------------------------


def test_no_two_blocks_of_the_pattern_are_the_same() -> None:
    whole = pattern()
    blocks = {whole[offset : offset + 32] for offset in range(0, PATTERN_SIZE, 32)}
    assert len(blocks) == PATTERN_SIZE // 32


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, PATTERN_SIZE, PATTERN_SIZE + 1])
def test_it_serves_exactly_the_bytes_asked_for(origin: tuple[str, int], size: int) -> None:
    answer = exchange(origin, b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
    head, body = answer.split(b"\r\n\r\n", 1)
    assert f"Content-Length: {size}".encode() in head
    assert hashlib.sha256(body).digest() == hashlib.sha256((pattern() * 2)[:size]).digest()


def test_requests_sent_at_once_are_answered_in_order(origin: tuple[str, int]) -> None:
    request = b"GET /%d HTTP/1.1\r\n\r\n"
    answer = exchange(origin, request % 3 + request % 100_000 + request % 5 + b"GET /absorbed/none HTTP/1.1\r\n\r\n")
    lengths = [int(part.split(b"\r\n", 1)[0]) for part in answer.split(b"Content-Length: ")[1:]]
    assert lengths == [3, 100_000, 5, 1]
    assert answer.endswith(b"\r\n\r\n0")


def test_it_absorbs_and_counts_bodies_and_goes_on(origin: tuple[str, int]) -> None:
    body = bytes(300_000)
    request = b"POST /absorb/one HTTP/1.1\r\nContent-Length: 300000\r\n\r\n" + body
    answer = exchange(origin, request + b"GET /absorbed/one HTTP/1.1\r\n\r\n")
    assert answer.count(b"300000") == 2


def test_half_a_body_is_counted_too(origin: tuple[str, int]) -> None:
    assert exchange(origin, b"POST /absorb/half HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + bytes(40)) == b""
    assert exchange(origin, b"GET /absorbed/half HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n40")


@pytest.mark.parametrize(
    "request_",
    [b"nonsense\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n", b"POST /absorb/k HTTP/1.1\r\n\r\n", b"PUT /1 HTTP/1.1\r\n\r\n"],
)
def test_what_it_does_not_know_is_a_400_and_an_end(origin: tuple[str, int], request_: bytes) -> None:
    assert exchange(origin, request_).startswith(b"HTTP/1.1 400 ")


def test_a_head_without_end_is_cut(origin: tuple[str, int]) -> None:
    assert exchange(origin, b"G" * HEAD_LIMIT) == b""


# --- the load generator, directly and through the bare hop ------------------------------------------------------------


@pytest.fixture(params=["direct", "hop"])
def via(request: pytest.FixtureRequest, hop: Via) -> Via:
    return DIRECT if request.param == "direct" else hop


def test_bytes_arrive_as_they_were_sent(origin: tuple[str, int], via: Via) -> None:
    assert verify(via, origin, 1_000_000, 5.0)["bytes"] == 2_000_000


@pytest.mark.parametrize("flows", [1, 16])
def test_downloads_count_every_byte(origin: tuple[str, int], via: Via, flows: int) -> None:
    result = download(via, origin, flows, 16_000_000, 10.0)
    assert result["bytes"] == 16_000_000
    assert result["complete"]


@pytest.mark.parametrize("flows", [1, 16])
def test_uploads_count_every_byte(origin: tuple[str, int], via: Via, flows: int) -> None:
    result = upload(via, origin, flows, 16_000_000, 10.0)
    assert result["bytes"] == 16_000_000
    assert result["complete"]


def test_time_ends_a_transfer_that_bytes_would_not(origin: tuple[str, int], via: Via) -> None:
    for move in (download, upload):
        result = move(via, origin, 2, 10**13, 0.05)
        assert 0 < result["bytes"] < 10**13
        assert not result["complete"]
        assert 0.05 <= result["seconds"] < 5


def test_new_connections_are_all_made(origin: tuple[str, int], via: Via) -> None:
    result = connections(via, origin, 8, 50, 10.0)
    assert (result["requests"], result["failures"]) == (50, 0)
    assert 0 < result["p50"] <= result["p99"]


def test_latency_and_round_trips_count_their_samples(origin: tuple[str, int], via: Via) -> None:
    assert latency(via, origin, 5, 10.0)["requests"] == 5
    result = round_trips(via, origin, 3, 10.0)
    assert result["requests"] == 3
    assert result["total"] >= result["first_byte"]


def test_idle_flows_are_open_and_carry_bytes(origin: tuple[str, int], via: Via) -> None:
    result = idle(via, origin, 20, 10.0)
    try:
        assert (result["open"], result["failure"]) == (20, "")
    finally:
        for sock in result["sockets"]:
            sock.close()


def test_a_refused_request_is_an_error_and_not_a_figure(hop: Via) -> None:
    nowhere = ("127.0.0.1", free_port())
    with pytest.raises(FlowError, match="code 5"):
        connect(hop, nowhere)
    with pytest.raises(FlowError, match="no request succeeded: SOCKS5 request answered with code 5"):
        connections(hop, nowhere, 2, 4, 1.0)


def test_half_close_crosses_the_hop(origin: tuple[str, int], hop: Via) -> None:
    with connect(hop, origin) as sock:
        sock.sendall(b"GET /50000 HTTP/1.1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        received = 0
        while data := sock.recv(65536):
            received += len(data)
    assert received > 50_000


def test_the_hop_keeps_nothing_of_ended_flows(origin: tuple[str, int], tmp_path: Path) -> None:
    port = free_port()
    program = Program("hop", bench_module("bare_hop", "127.0.0.1", str(port)), tmp_path, directory=ROOT)
    try:
        program.wait_listening(port)
        descriptors = Path(f"/proc/{program.pid}/fd")
        before = len(list(descriptors.iterdir()))
        assert connections(Via("socks5", ("127.0.0.1", port)), origin, 8, 100, 10.0)["failures"] == 0
        # uvloop's own few, made with the first connection, stay.
        program.wait_until(lambda: len(list(descriptors.iterdir())) <= before + 4, "keeps descriptors")
    finally:
        program.stop()


def test_the_command_prints_one_line_of_json_or_an_error(origin: tuple[str, int]) -> None:
    request = {"case": "download", "via": ["direct", "", 0], "target": list(origin)}
    arguments = {"flows": 1, "size": 1000, "seconds": 5.0}
    command = [sys.executable, "-m", "bench.load", json.dumps({**request, **arguments})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["bytes"] == 1000
    command[-1] = json.dumps({**request, **arguments, "target": ["127.0.0.1", free_port()]})
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "refused" in json.loads(done.stdout)["error"]


# --- bare aioquic -----------------------------------------------------------------------------------------------------


def test_bare_aioquic_moves_and_counts_in_both_directions(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    certificate, key = write_certificate(tmp_path)
    assert key.stat().st_mode & 0o777 == 0o600
    argv = bench_module("bare_aioquic", "serve", "127.0.0.1", str(port), str(certificate), str(key))
    server = Program("server", argv, tmp_path, directory=ROOT)
    try:
        server.wait_listening(port, "udp")
        for direction, flows in (("download", 1), ("upload", 1), ("download", 4)):
            request = {"host": "127.0.0.1", "port": port, "direction": direction, "flows": flows}
            pump = bench_module("bare_aioquic", "pump", json.dumps({**request, "size": 1 << 20, "seconds": 20.0}))
            done = subprocess.run(pump, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
            result = json.loads(done.stdout)
            assert result["complete"], (direction, flows, result)
            assert result["bytes"] == 1 << 20
            assert result["cpu"] > 0
    finally:
        server.stop()
    assert server.output() == b""
