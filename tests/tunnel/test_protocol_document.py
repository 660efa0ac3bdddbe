"""docs/protocol.md against the code: every hexadecimal example and every table of numbers in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from quicsocks.userspace.tunnel import authentication, client_flow, concentrator, control, tlv
from quicsocks.userspace.tunnel.authentication import exporter_context, signed_content
from quicsocks.userspace.tunnel.causes import cause_from_icmp
from quicsocks.userspace.tunnel.control import (
    Auth,
    AuthFailed,
    AuthOK,
    ControlReader,
    Goodbye,
    Hello,
    LimitID,
    LimitsChanged,
    MessageType,
    encode_message,
)
from quicsocks.userspace.tunnel.datagram import encode_datagram
from quicsocks.userspace.tunnel.flow import TCP_CONNECTION_RESET
from quicsocks.userspace.tunnel.one_way import StreamCode
from quicsocks.userspace.tunnel.port_mapping import (
    STREAM_TYPE,
    MappingReader,
    MappingTLV,
    MappingType,
    encode_mapping,
    refusal,
)
from quicsocks.userspace.tunnel.preamble import RequestReader, answer_accepted, answer_error, request
from quicsocks.userspace.tunnel.tlv import TLVType, Wire, encode_connect
from quicsocks.userspace.tunnel.types import (
    AuthFailure,
    BoundAddress,
    Cause,
    CloseCode,
    Destination,
    TunnelLimits,
)
from tests.conftest import ROOT
from tests.tunnel.support import KEY

TEXT = (ROOT / "docs" / "protocol.md").read_text()


def read_examples(text: str) -> dict[str, bytes]:
    examples: dict[str, bytes] = {}
    for name, body in re.findall(r"^```hex (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert name not in examples, f"two examples named {name}"
        examples[name] = bytes.fromhex(" ".join(line.partition(";")[0] for line in body.splitlines()))
    return examples


EXAMPLES = read_examples(TEXT)
TOKEN = bytes(range(0xA0, 0xB0))
MAPPING = MappingTLV(MappingType.REQUEST, udp=False, port=8080)


def exporter(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """RFC 8446 §7.5 and §7.1, written out here."""

    def expand_label(key: bytes, name: bytes, value: bytes, size: int) -> bytes:
        full = b"tls13 " + name
        info = size.to_bytes(2, "big") + bytes((len(full),)) + full + bytes((len(value),)) + value
        return HKDFExpand(hashes.SHA256(), size, info).derive(key)

    derived = expand_label(secret, label, hashlib.sha256(b"").digest(), 32)
    return expand_label(derived, b"exporter", hashlib.sha256(context).digest(), length)


ENCODED: dict[str, Callable[[], bytes]] = {
    "hello": lambda: encode_message(Hello(1)),
    "hello-with-unknown-feature": lambda: encode_message(Hello(1, {0x1B: b"\x2a"})),
    "auth": lambda: encode_message(Auth(1, KEY.public, EXAMPLES["vector-proof"], TOKEN, "laptop")),
    "auth-ok": lambda: encode_message(AuthOK("laptop", TunnelLimits(4096, 256))),
    "auth-failed": lambda: encode_message(AuthFailed(AuthFailure.TOKEN_USED)),
    "limits": lambda: encode_message(LimitsChanged(TunnelLimits(100, 0, 1_000_000))),
    "goodbye": lambda: encode_message(Goodbye("restart", 10_000)),
    "vector-private-key": lambda: KEY.private.private_numbers().private_value.to_bytes(32, "big"),
    "vector-public-key": lambda: KEY.public,
    "vector-exporter-secret": lambda: bytes(range(0x40, 0x60)),
    "vector-exported": lambda: exporter(
        EXAMPLES["vector-exporter-secret"], authentication.EXPORTER_LABEL, exporter_context(KEY.public), 32
    ),
    "vector-signed": lambda: signed_content(EXAMPLES["vector-exported"]),
    "vector-proof": lambda: EXAMPLES["vector-proof"],  # verified below: signatures are randomised
    "request": lambda: request(Destination("192.0.2.80", 80), Wire.QUICSOCKS) + b"GET /",
    "answer": lambda: answer_accepted(BoundAddress("198.51.100.7", 40000), Wire.QUICSOCKS),
    "connect-ipv6": lambda: encode_connect(Destination("2001:db8::80", 443), Wire.QT),
    "connect-name": lambda: encode_connect(Destination("www.example.org", 443), Wire.QUICSOCKS),
    "error-refused": lambda: answer_error(Cause.REFUSED),
    "error-unknown-tlv": lambda: answer_error(Cause.UNKNOWN_TLV, b"\x05"),
    "datagram": lambda: encode_datagram(0, bytes.fromhex("4500001400000000400100 00c0000201c0000250")),
    "mapping-request": lambda: bytes((STREAM_TYPE,)) + encode_mapping(MAPPING),
    "mapping-error": lambda: bytes((STREAM_TYPE,)) + refusal(MAPPING),
    "qt-extended-connect": lambda: EXAMPLES["qt-extended-connect"],  # never sent; decoded below
}


def test_every_example_is_checked() -> None:
    assert set(EXAMPLES) == set(ENCODED)


@pytest.mark.parametrize("name", sorted(ENCODED))
def test_example(name: str) -> None:
    assert EXAMPLES[name] == ENCODED[name]()


@pytest.mark.parametrize("name", ["hello", "auth", "auth-ok", "auth-failed", "limits", "goodbye"])
def test_message_example_decodes_to_what_encodes_to_it(name: str) -> None:
    reader = ControlReader(control.MAX_MESSAGE_UNAUTHENTICATED)
    reader.receive_data(EXAMPLES[name])
    message = reader.next_message()
    assert message is not None
    assert encode_message(message) == EXAMPLES[name]
    assert reader.next_message() is None


def test_vector_proof_verifies() -> None:
    KEY.private.public_key().verify(EXAMPLES["vector-proof"], EXAMPLES["vector-signed"], ec.ECDSA(hashes.SHA256()))


def test_extended_connect_is_understood() -> None:
    reader = RequestReader(Wire.QT)
    assert reader.receive_data(EXAMPLES["qt-extended-connect"])
    assert reader.destination == Destination("192.0.2.80", 80)


def test_mapping_request_is_understood() -> None:
    reader = MappingReader()
    reader.receive_data(EXAMPLES["mapping-request"][1:])
    assert reader.next_tlv() == MAPPING


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first header cells are heading."""
    lines = TEXT.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(f"| {heading} |")]
    assert len(starts) == 1, f"{len(starts)} tables begin with {heading!r}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def numbers(heading: str) -> dict[int, str]:
    return {int(row[0], 16): row[1].strip() for row in table(heading) if re.fullmatch(r"0x[0-9a-f]+", row[0])}


def names(*enums: type[IntEnum]) -> dict[int, str]:
    return {int(member): member.name for enum in enums for member in enum}


def test_codes_in_tables() -> None:
    sections = TEXT.split("\n## ")
    errors = next(section for section in sections if section.startswith("8. "))
    closes = next(section for section in sections if section.startswith("11. "))
    mappings = next(section for section in sections if section.startswith("12. "))
    tlvs = next(section for section in sections if section.startswith("7. "))
    row = re.compile(r"^\| (0x[0-9a-f]+) \| ([A-Za-z_ ]+) \|", re.MULTILINE)

    def rows(section: str) -> dict[int, str]:
        return {int(number, 16): name.strip() for number, name in row.findall(section)}

    assert rows(errors) == names(Cause)
    assert rows(closes) == names(CloseCode, AuthFailure)
    assert rows(mappings) == names(MappingType)
    assert {number: name.upper().replace(" ", "_") for number, name in rows(tlvs).items()} == names(TLVType)


def test_message_limit_and_stream_codes() -> None:
    assert numbers("type | message") == names(MessageType)
    assert numbers("limit | name") == names(LimitID)
    assert numbers("stream code | name") == {TCP_CONNECTION_RESET: "TCP_CONNECTION_RESET"} | names(StreamCode)


def test_icmp_table() -> None:
    listed = {row[2]: row[:2] for row in table("ICMP | ICMPv6 | taken as")}
    for version, column, unreachable in ((4, 0, 3), (6, 1, 1)):
        destination = Destination("192.0.2.1" if version == 4 else "2001:db8::1", 80)
        named: dict[tuple[int, int], str] = {}
        for cause, cells in listed.items():
            for kind, code in re.findall(r"(\d+)/(\d+)", cells[column]):
                named[int(kind), int(code)] = cause
        for kind in range(256):
            for code in range(256):
                if (kind, code) in named:
                    expected = named[kind, code]
                elif kind == unreachable:
                    expected = "NETWORK_FAILURE"
                elif str(kind) == listed["TTL_EXPIRED"][column]:
                    expected = "TTL_EXPIRED"
                else:
                    expected = "ICMP_RECEIVED"
                assert cause_from_icmp(bytes((kind, code)), destination).name == expected, (version, kind, code)


def test_limits_in_prose() -> None:
    limits = {row[0]: row[1] for row in table("what | limit | at the limit")}
    assert limits == {
        "control message": f"{control.MAX_MESSAGE:,} octets "
        f"({control.MAX_MESSAGE_UNAUTHENTICATED:,} from a client before AUTH_OK)",
        "features in a HELLO": str(control.MAX_FEATURES),
        "TLVs before and with End": f"{tlv.MAX_PREAMBLE:,} octets",
        "time for a request": f"{concentrator.REQUEST_TIMEOUT:.0f} s",
        "flows before AUTH_OK": str(client_flow.EARLY_FLOWS),
        "octets of flows before AUTH_OK": f"{client_flow.EARLY_OCTETS:,}",
        "time until AUTH": f"{concentrator.AUTH_TIMEOUT:.0f} s",
        "open flows": f"MAX_FLOWS, {concentrator.DEFAULT_LIMITS.max_flows:,} unless set",
        "unanswered flows": f"MAX_PENDING, {concentrator.DEFAULT_LIMITS.max_pending} unless set",
    }


def test_authentication_strings() -> None:
    assert f'"{authentication.EXPORTER_LABEL.decode()}"' in TEXT
    assert f'"{authentication.SIGNED_CONTEXT.decode()}"' in TEXT


def test_document_is_where_the_code_says() -> None:
    folder = Path(authentication.__file__).parent
    sections = set(re.findall(r"^## \d+\. (.*)$", TEXT, re.MULTILINE))
    for file in folder.glob("*.py"):
        for cited in re.findall(r'docs/protocol\.md ((?:"[^"]+"(?:,| and)? ?)+)', file.read_text()):
            for title in re.findall(r'"([^"]+)"', cited):
                assert title in {section.strip("`") for section in sections}, f"{file.name} cites {title!r}"
