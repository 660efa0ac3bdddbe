"""Byte exchanges for every codec, from the files in vectors/: each run whole, at every split point, byte by byte, and
with trailing data. A vector says what the client sends, what we answer by ourselves, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quicsocks.socks.credentials import Credentials
from quicsocks.socks.errors import AccessDenied, PeerError
from quicsocks.socks.http import (
    Body,
    ClientExchange,
    EndOfBody,
    Informational,
    RequestHead,
    ResponseHead,
    ServerExchange,
)
from quicsocks.socks.http_forward import plan
from quicsocks.socks.socks4 import Socks4Server
from quicsocks.socks.socks5 import Socks5Server

VECTORS = Path(__file__).parent / "vectors"
TRAILING = b"\x05\x00\xff\r\n\r\nGET http://tunnel.test/ HTTP/1.1\r\n\r\n"


def load(name: str) -> list[Any]:
    vectors = json.loads((VECTORS / f"{name}.json").read_text())
    names = [vector["name"] for vector in vectors]
    assert len(set(names)) == len(names), "two vectors have the same name"
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def splits(data: bytes) -> Iterator[list[bytes]]:
    """data whole, in two pieces at every point, and byte by byte."""
    yield [data]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


def run_socks(codec: Socks4Server | Socks5Server, pieces: list[bytes]) -> dict[str, Any]:
    """What codec makes of pieces: answers, the event, whether it refused, and what is left."""
    sent = b""
    result: dict[str, Any] = {"event": None, "error": None}
    for piece in pieces:
        codec.receive_data(piece)
        try:
            event = codec.next_event()
        except PeerError as error:
            if isinstance(codec, Socks5Server):
                sent += codec.data_to_send()
            result["error"] = "denied" if isinstance(error, AccessDenied) else "bad"
            sent += error.reply
            break
        if isinstance(codec, Socks5Server):
            sent += codec.data_to_send()
        if event is not None:
            assert result["event"] is None
            result["event"] = [event.verb.name, event.host, event.port, event.user]
    return {**result, "server": sent.hex(), "remainder": codec.remainder}


def make_socks(vector: dict[str, Any], version: int) -> Socks4Server | Socks5Server:
    if version == 4:
        return Socks4Server()
    return Socks5Server(Credentials(vector["credentials"]) if vector["credentials"] else None)


def check_socks(vector: dict[str, Any], version: int) -> None:
    client = bytes.fromhex(vector["client"])
    for trailing in (b"", TRAILING):
        for pieces in splits(client + trailing):
            result = run_socks(make_socks(vector, version), pieces)
            assert result["event"] == vector.get("event")
            assert result["error"] == vector.get("error")
            assert result["server"] == bytes.fromhex(vector["server"]).hex()
            if vector.get("event"):
                assert result["remainder"] == trailing


@pytest.mark.parametrize("vector", load("socks5"))
def test_socks5_vector(vector: dict[str, Any]) -> None:
    check_socks(vector, 5)


@pytest.mark.parametrize("vector", load("socks4"))
def test_socks4_vector(vector: dict[str, Any]) -> None:
    check_socks(vector, 4)


@pytest.mark.parametrize(("name", "version"), [("socks5", 5), ("socks4", 4)])
def test_no_request_is_reported_before_its_last_byte(name: str, version: int) -> None:
    for parameter in load(name):
        vector = parameter.values[0]
        client = bytes.fromhex(vector["client"])
        if vector.get("event"):
            for end in range(len(client)):
                result = run_socks(make_socks(vector, version), [client[:end]])
                assert result["event"] is None
                assert result["error"] is None
                assert result["remainder"] == b""


def run_request(pieces: list[bytes]) -> dict[str, Any]:
    exchange = ServerExchange(64 << 10)
    result: dict[str, Any] = {"status": None, "plan": None, "body": b"", "trailers": []}
    try:
        for piece in pieces:
            exchange.receive_data(piece)
            while (event := exchange.next_event()) is not None:
                if isinstance(event, RequestHead):
                    planned = plan(event)
                    result["plan"] = {
                        "kind": planned.kind.name,
                        "host": planned.host,
                        "port": planned.port,
                        "target": planned.target.decode(),
                    }
                elif isinstance(event, Body):
                    result["body"] += event.data
                else:
                    result["trailers"] = [[name.decode(), value.decode()] for name, value in event.trailers]
    except PeerError as error:
        result["status"] = error.status
    return {**result, "complete": exchange.is_complete, "remainder": exchange.remainder}


@pytest.mark.parametrize("vector", load("http_requests"))
def test_http_request_vector(vector: dict[str, Any]) -> None:
    data = vector["bytes"].encode("latin-1")
    for trailing in (b"", TRAILING):
        for pieces in splits(data + trailing):
            result = run_request(pieces)
            assert result["status"] == vector.get("status")
            if vector.get("status") is None:
                assert result["complete"]
                assert result["plan"] == vector["plan"]
                assert result["body"] == vector["body"].encode()
                assert result["trailers"] == vector.get("trailers", [])
                assert result["remainder"] == trailing


def run_response(method: str, pieces: list[bytes], *, eof: bool) -> dict[str, Any]:
    exchange = ClientExchange(64 << 10)
    exchange.request(method, b"/", [(b"Host", b"e.test")])
    exchange.end([])
    result: dict[str, Any] = {"status": None, "responses": [], "body": b""}

    def poll() -> None:
        while (event := exchange.next_event()) is not None:
            if isinstance(event, ResponseHead | Informational):
                result["responses"].append(event.status)
            elif isinstance(event, Body):
                result["body"] += event.data
            else:
                assert isinstance(event, EndOfBody)

    try:
        for piece in pieces:
            exchange.receive_data(piece)
            poll()
        if eof:
            exchange.receive_eof()
            poll()
    except PeerError as error:
        result["status"] = error.status
    return {**result, "complete": exchange.is_complete, "reusable": exchange.keeps_alive}


@pytest.mark.parametrize("vector", load("http_responses"))
def test_http_response_vector(vector: dict[str, Any]) -> None:
    data, eof = vector["bytes"].encode("latin-1"), vector.get("eof", False)
    for pieces in splits(data):
        result = run_response(vector["method"], pieces, eof=eof)
        assert result["status"] == vector.get("status")
        if vector.get("status") is None:
            assert result["complete"]
            assert result["responses"] == vector["responses"]
            assert result["body"] == vector["body"].encode()
            assert result["reusable"] == vector["reusable"]


@pytest.mark.parametrize(
    "vector", [p for p in load("http_responses") if "status" not in p.values[0] and "eof" not in p.values[0]]
)
def test_a_response_with_bytes_behind_it_ends_the_connection(vector: dict[str, Any]) -> None:
    data = vector["bytes"].encode("latin-1") + b"HTTP/1.1 200 OK\r\n\r\n"
    result = run_response(vector["method"], [data], eof=False)
    assert result["complete"]
    assert result["body"] == vector["body"].encode()
    assert not result["reusable"]
