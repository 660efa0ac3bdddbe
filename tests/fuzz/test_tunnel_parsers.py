"""Parsers of the tunnel fed with arbitrary bytes, whole and octet by octet: only PeerError may leave them, and both ways
of feeding must come to the same. The corpus (corpus/tunnel_parsers/*.hex) is replayed first: every example of
docs/protocol.md, every vector of the tunnel's tests, each also with single octets changed by a seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import PeerError
from quicsocks.userspace.tunnel.causes import failure_from_error
from quicsocks.userspace.tunnel.control import ControlReader
from quicsocks.userspace.tunnel.datagram import decode_datagram
from quicsocks.userspace.tunnel.port_mapping import MappingReader
from quicsocks.userspace.tunnel.preamble import AnswerReader, RequestReader
from quicsocks.userspace.tunnel.tlv import Wire
from quicsocks.userspace.tunnel.types import Destination
from tests.conftest import ROOT

CORPUS = Path(__file__).parent / "corpus" / "tunnel_parsers"
MUTATIONS = 20
DESTINATION = Destination("192.0.2.80", 80)

Outcome = tuple[object, ...]


def feed_request(wire: Wire, parts: list[bytes]) -> Outcome:
    reader = RequestReader(wire)
    rest = b""
    complete = False
    for part in parts:
        if complete:
            rest += part
        elif reader.receive_data(part):
            complete = True
            rest = reader.rest
    return complete, reader.destination, rest


def feed_answer(wire: Wire, parts: list[bytes]) -> Outcome:
    reader = AnswerReader(wire, DESTINATION)
    rest = b""
    complete = False
    for part in parts:
        if complete:
            rest += part
        elif reader.receive_data(part):
            complete = True
            rest = reader.rest
    failure = reader.failure
    return complete, reader.bound, failure and (failure.cause, failure.icmp), rest


def feed_control(parts: list[bytes]) -> Outcome:
    reader = ControlReader(4096)
    messages: list[object] = []
    for part in parts:
        reader.receive_data(part)
        while (message := reader.next_message()) is not None:
            messages.append(message)
    return (*messages, reader.ignored)


def feed_mapping(parts: list[bytes]) -> Outcome:
    reader = MappingReader()
    found: list[object] = []
    for part in parts:
        reader.receive_data(part)
        while (tlv := reader.next_tlv()) is not None:
            found.append(tlv)
    return tuple(found)


def feed_datagram(parts: list[bytes]) -> Outcome:
    return decode_datagram(b"".join(parts))


def feed_error(parts: list[bytes]) -> Outcome:
    octets = b"".join(parts)
    failure = failure_from_error(int.from_bytes(octets[:2], "big"), octets[2:], DESTINATION)
    return failure.cause, failure.icmp


PARSERS: dict[str, Callable[[list[bytes]], Outcome]] = {
    "request on qt": lambda parts: feed_request(Wire.QT, parts),
    "request on quicsocks/1": lambda parts: feed_request(Wire.QUICSOCKS, parts),
    "answer on qt": lambda parts: feed_answer(Wire.QT, parts),
    "answer on quicsocks/1": lambda parts: feed_answer(Wire.QUICSOCKS, parts),
    "control": feed_control,
    "port mapping": feed_mapping,
    "datagram": feed_datagram,
    "error": feed_error,
}


def outcome(parser: Callable[[list[bytes]], Outcome], parts: list[bytes]) -> Outcome:
    try:
        return parser(parts)
    except PeerError as error:
        return "PeerError", str(error), error.code


def examine(octets: bytes) -> None:
    for name, parser in PARSERS.items():
        whole = outcome(parser, [octets])
        single = outcome(parser, [octets[at : at + 1] for at in range(len(octets))])
        assert whole == single, name


def corpus() -> list[bytes]:
    entries = [file.read_text() for file in sorted(CORPUS.glob("*.hex"))]
    document = (ROOT / "docs" / "protocol.md").read_text()
    examples = re.findall(r"^```hex \S+\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    entries.extend(re.sub(r";.*", "", body) for body in examples)
    vectors = [ROOT / "tests" / "tunnel" / "vectors" / name for name in ("requests.txt", "answers.txt")]
    lines = [line for file in vectors for line in file.read_text().splitlines()]
    entries.extend(line.split("|")[1] for line in lines if line and not line.startswith("#"))
    return [bytes.fromhex(entry) for entry in entries]


ENTRIES = corpus()


@pytest.mark.parametrize("entry", range(len(ENTRIES)))
def test_corpus(entry: int) -> None:
    octets = ENTRIES[entry]
    examine(octets)
    random = Random(entry)
    for _ in range(MUTATIONS):
        changed = bytearray(octets)
        match random.randrange(3):
            case 0 if changed:
                changed[random.randrange(len(changed))] = random.randrange(256)
            case 1 if changed:
                del changed[random.randrange(len(changed))]
            case _:
                changed.insert(random.randint(0, len(changed)), random.choice(b"\x00\x01\x02\x10\x12\x40\x7f\x80\xff"))
        examine(bytes(changed))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=600))
def test_arbitrary_octets(octets: bytes) -> None:
    examine(octets)
