"""Fuzzes every parser of the front doors: whatever comes, whole or byte by byte, may raise nothing but PeerError.

The inputs are the corpus in corpus/socks/, one folder a target, and mutations of it and of the codecs' vectors, made
from a fixed seed. QUICSOCKS_TEST_FUZZ_ROUNDS runs more than the few that every test run affords. An input that once broke
something is added to the corpus under the name of what it broke.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quicsocks.socks.credentials import Credentials
from quicsocks.socks.errors import PeerError
from quicsocks.socks.http import ClientExchange, Informational, RequestHead, ResponseHead, ServerExchange
from quicsocks.socks.http_forward import (
    basic_credentials,
    informational_headers,
    max_forwards,
    plan,
    request_headers,
    response_headers,
)
from quicsocks.socks.http_framing import ChunkGuard, HeadGuard
from quicsocks.socks.socks4 import MAX_NEGOTIATION as MAX_SOCKS4
from quicsocks.socks.socks4 import Socks4Server
from quicsocks.socks.socks5 import MAX_NEGOTIATION as MAX_SOCKS5
from quicsocks.socks.socks5 import Socks5Server

HERE = Path(__file__).parent
CORPUS = HERE / "corpus" / "socks"
VECTORS = HERE.parent / "socks" / "vectors"
ROUNDS = int(os.environ.get("QUICSOCKS_TEST_FUZZ_ROUNDS", "400"))
HEAD_LIMIT = 2048

Outcome = tuple[object, ...]
"""What a target made of an input, for comparing one way of feeding it with another."""


def fuzz_socks5(pieces: Iterator[bytes]) -> Outcome:
    server = Socks5Server(Credentials({"alice": "secret"}) if next(pieces, b"")[:1] > b"\x7f" else None)
    event, taken = None, 0
    for piece in pieces:
        server.receive_data(piece)
        taken += len(piece)
        event = event or server.next_event()
        # Nothing waits for more than the longest request.
        assert event is not None or taken <= MAX_SOCKS5
    return event, server.data_to_send(), server.remainder


def fuzz_socks4(pieces: Iterator[bytes]) -> Outcome:
    server = Socks4Server()
    event, taken = None, 0
    for piece in pieces:
        server.receive_data(piece)
        taken += len(piece)
        event = event or server.next_event()
        assert event is not None or taken <= MAX_SOCKS4
    return event, server.remainder


def fuzz_http_request(pieces: Iterator[bytes]) -> Outcome:
    exchange = ServerExchange(HEAD_LIMIT)
    body, seen = b"", []
    for piece in pieces:
        exchange.receive_data(piece)
        while (event := exchange.next_event()) is not None:
            if isinstance(event, RequestHead):
                basic_credentials(event)
                max_forwards(event)
                planned = plan(event)
                headers = request_headers(event, planned, via=None, close=False)
                if planned.target:
                    # What we send on must be acceptable to ourselves.
                    sent = ClientExchange(HEAD_LIMIT).request(event.method, planned.target, headers)
                    again = ServerExchange(4 * HEAD_LIMIT)
                    again.receive_data(sent)
                    head = again.next_event()
                    assert isinstance(head, RequestHead)
                    assert head.framing == event.framing
                seen.append((event.method, planned))
            else:
                body += getattr(event, "data", b"")
    exchange.receive_eof()
    exchange.next_event()
    return seen, body, exchange.remainder


def fuzz_http_response(pieces: Iterator[bytes]) -> Outcome:
    exchange = ClientExchange(HEAD_LIMIT)
    exchange.request("HEAD" if next(pieces, b"")[:1] > b"\xbf" else "GET", b"/", [(b"Host", b"e.test")])
    exchange.end([])
    front = ServerExchange(HEAD_LIMIT)
    front.receive_data(b"GET http://e.test/ HTTP/1.1\r\nHost: e.test\r\n\r\n")
    while front.next_event() is not None:
        pass
    body, seen = b"", []
    for piece in pieces:
        exchange.receive_data(piece)
        while (event := exchange.next_event()) is not None:
            if isinstance(event, ResponseHead):
                front.respond(event.status, event.reason, response_headers(event, via="x", close=True))
                seen.append(event.status)
            elif isinstance(event, Informational):
                front.informational(Informational(event.status, event.reason, informational_headers(event)))
                seen.append(event.status)
            else:
                body += getattr(event, "data", b"")
    exchange.receive_eof()
    exchange.next_event()
    return seen, body


def fuzz_chunks(pieces: Iterator[bytes]) -> Outcome:
    guard = ChunkGuard(400, 512, padded=False)
    taken = 0
    for piece in pieces:
        if not guard.complete:
            taken += guard.follow(piece)
    return guard.complete, taken


def fuzz_head(pieces: Iterator[bytes]) -> Outcome:
    guard, buffer = HeadGuard("request", 400, HEAD_LIMIT), bytearray()
    for piece in pieces:
        buffer += piece
        if size := guard.scan(buffer):
            return (size,)
    assert len(buffer) < HEAD_LIMIT
    return (0,)


TARGETS: dict[str, Callable[[Iterator[bytes]], Outcome]] = {
    "socks5": fuzz_socks5,
    "socks4": fuzz_socks4,
    "http_request": fuzz_http_request,
    "http_response": fuzz_http_response,
    "chunks": fuzz_chunks,
    "head": fuzz_head,
}

PREFIXED = {"socks5", "http_response"}
"""Targets whose first byte is not the peer's but says how the target is set up."""


def outcome(name: str, data: bytes, *, whole: bool) -> Outcome:
    """Run one target on one input; a PeerError is an outcome, anything else an error of ours."""
    pieces = [data[:1]] if name in PREFIXED else []
    rest = data[len(pieces) :]
    pieces += [rest] if whole else [rest[at : at + 1] for at in range(len(rest))]
    try:
        return TARGETS[name](iter(pieces))
    except PeerError as error:
        refusal = error
    assert str(refusal)
    assert refusal.status in (0, 400, 417, 431, 502, 505)
    return "refused", refusal.status, refusal.reply


def check(name: str, data: bytes) -> None:
    whole, bytewise = outcome(name, data, whole=True), outcome(name, data, whole=False)
    assert whole == bytewise, f"fed whole and byte by byte it means two things: {data!r}"


def seeds(name: str) -> list[bytes]:
    found = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    if name.startswith("socks"):
        vectors = json.loads((VECTORS / f"{name}.json").read_text())
        prefix = b"\x00" if name in PREFIXED else b""
        found += [prefix + bytes.fromhex(vector["client"]) for vector in vectors]
    elif name.startswith("http"):
        vectors = json.loads((VECTORS / f"{name}s.json").read_text())
        prefix = b"\x00" if name in PREFIXED else b""
        found += [prefix + vector["bytes"].encode("latin-1") for vector in vectors]
    return found


TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-1", b"+5", b"0x5", b"ffffffffffffffff",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Host: x\r\n", b"HTTP/1.0",
    b"\x05\x01\x00", b"\x05\x01\x00\x03", b"\x00\x00\x00\x01", b"\xff" * 8, b"[::1]", b"@", b"#", b"//", b"a" * 300,
]  # fmt: skip


def mutated(seed: bytes, other: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 5)):
        at = chance.randint(0, len(data))
        match chance.randrange(6):
            case 0:
                data[at:at] = chance.choice(TOKENS)
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case 2 if data:
                data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 3:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 4:
                data[at:] = other[chance.randint(0, len(other)) :]
            case _:
                data[at:at] = data[at : at + chance.randint(1, 40)]
    return bytes(data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_corpus(name: str) -> None:
    inputs = seeds(name)
    assert inputs
    for data in inputs:
        check(name, data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutations(name: str) -> None:
    inputs = seeds(name)
    chance = random.Random(f"{name} 1")
    for _ in range(ROUNDS):
        check(name, mutated(chance.choice(inputs), chance.choice(inputs), chance))


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_noise(name: str) -> None:
    chance = random.Random(f"{name} 2")
    for _ in range(ROUNDS):
        check(name, chance.randbytes(chance.randint(0, 60)))
