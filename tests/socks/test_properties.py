"""Hypothesis on every codec: any valid message, cut anywhere, is read as what it says; HTTP survives the way through."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.socks import socks4, socks5
from quicsocks.socks.credentials import Credentials
from quicsocks.socks.http import (
    Body,
    ClientExchange,
    EndOfBody,
    Headers,
    Informational,
    RequestHead,
    ResponseHead,
    ServerExchange,
)
from quicsocks.socks.http_forward import plan, request_headers, response_headers, trailers
from quicsocks.socks.types import Bound

steady = settings(derandomize=True, deadline=None)

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join).filter(lambda name: not name.replace(".", "").isdigit())
PORT = st.integers(1, 65535)
CUTS = st.lists(st.integers(1, 40), max_size=40)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


@steady
@given(
    host=st.one_of(NAME, st.ip_addresses().map(str)),
    port=PORT,
    methods=st.binary(min_size=1, max_size=20),
    password=st.binary(min_size=0, max_size=255),
    trailing=st.binary(max_size=50),
    cuts=CUTS,
)
def test_socks5(host: str, port: int, methods: bytes, password: bytes, trailing: bytes, cuts: list[int]) -> None:
    try:
        address = ipaddress.ip_address(host)
        field = bytes((1 if address.version == 4 else 4,)) + address.packed
    except ValueError:
        field = bytes((3, len(host))) + host.encode()
    offered = methods + b"\x02"
    wants_password = 0 not in offered
    data = b"\x05" + bytes((len(offered),)) + offered
    if wants_password:
        data += b"\x01\x03bob" + bytes((len(password),)) + password
    data += b"\x05\x01\x00" + field + port.to_bytes(2, "big")
    server, events = socks5.Socks5Server(), []
    answers = b""
    for piece in cut(data + trailing, cuts):
        server.receive_data(piece)
        if (event := server.next_event()) is not None:
            events.append(event)
        answers += server.data_to_send()
    user = "bob" if wants_password else None
    assert events == [socks5.Command(socks5.Verb.CONNECT, host, port, user)]
    assert answers == (b"\x05\x02\x01\x00" if wants_password else b"\x05\x00")
    assert server.remainder == trailing


@steady
@given(name=st.text(min_size=1, max_size=60).filter(lambda n: ":" not in n), password=st.text(max_size=60))
def test_socks5_passwords_of_any_characters(name: str, password: str) -> None:
    server = socks5.Socks5Server(Credentials({name: password}))
    raw_name, raw_password = name.encode(), password.encode()
    server.receive_data(b"\x05\x01\x02\x01" + bytes((len(raw_name),)) + raw_name)
    server.receive_data(bytes((len(raw_password),)) + raw_password)
    assert server.next_event() is None
    assert server.data_to_send() == b"\x05\x02\x01\x00"


@steady
@given(
    host=st.one_of(NAME, st.ip_addresses(v=4).filter(lambda a: int(a) > 255).map(str)),
    port=PORT,
    user=st.text("abc0", max_size=255),
    trailing=st.binary(max_size=50),
    cuts=CUTS,
)
def test_socks4(host: str, port: int, user: str, trailing: bytes, cuts: list[int]) -> None:
    try:
        field, name = ipaddress.IPv4Address(host).packed, b""
    except ValueError:
        field, name = b"\0\0\0\x07", host.encode() + b"\0"
    data = b"\x04\x01" + port.to_bytes(2, "big") + field + user.encode() + b"\0" + name
    server, events = socks4.Socks4Server(), []
    for piece in cut(data + trailing, cuts):
        server.receive_data(piece)
        if (event := server.next_event()) is not None:
            events.append(event)
    assert events == [socks4.Command(socks4.Verb.CONNECT, host, port, user)]
    assert server.remainder == trailing


@steady
@given(rep=st.integers(0, 255), host=st.one_of(NAME, st.ip_addresses().map(str)), port=PORT, ipv6=st.booleans())
def test_a_socks5_reply_is_always_complete(rep: int, host: str, port: int, ipv6: bool) -> None:
    reply = socks5.encode_reply(rep, Bound(host, port), ipv6=ipv6)
    assert reply[:3] == bytes((5, rep, 0))
    assert (reply[3], len(reply)) in ((1, 10), (4, 22))
    assert len(socks4.encode_reply(0x5A, Bound(host, port))) == 8


TOKEN = st.text("!#$%&'*+-.^_`|~abcXYZ019", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
FIELDS = st.lists(st.tuples(TOKEN, VALUE).map(lambda f: ("X" + f[0], f[1])), max_size=8)
PIECES = st.lists(st.binary(min_size=1, max_size=60), max_size=6)


def frame(pieces: list[bytes], framing: str, trailer: list[tuple[str, str]]) -> tuple[bytes, bytes]:
    """The framing field and the body's bytes."""
    body = b"".join(pieces)
    if framing == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    fields = "".join(f"{name}: {value}\r\n" for name, value in trailer).encode()
    return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + fields + b"\r\n"


def lines(fields: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode()


def raw(fields: list[tuple[str, str]]) -> Headers:
    return [(name.encode(), value.encode()) for name, value in fields]


@steady
@given(
    host=st.one_of(NAME, st.ip_addresses(v=6).map(lambda a: f"[{a}]")),
    port=PORT,
    path=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=40),
    fields=FIELDS,
    pieces=PIECES,
    framing=st.sampled_from(["length", "chunked"]),
    trailer=FIELDS,
    trailing=st.binary(max_size=60),
    cuts=CUTS,
)
def test_a_request_survives_the_way_through(
    host: str,
    port: int,
    path: str,
    fields: list[tuple[str, str]],
    pieces: list[bytes],
    framing: str,
    trailer: list[tuple[str, str]],
    trailing: bytes,
    cuts: list[int],
) -> None:
    framed, body = frame(pieces, framing, trailer)
    target = f"http://{host}:{port}/{path}"
    head = f"PATCH {target} HTTP/1.1\r\nHost: other.test\r\n".encode()
    front = ServerExchange(1 << 16)
    back = ClientExchange(1 << 16)
    sent = b""
    for piece in cut(head + lines(fields) + framed + b"\r\n" + body + trailing, cuts):
        front.receive_data(piece)
        while (event := front.next_event()) is not None:
            if isinstance(event, RequestHead):
                planned = plan(event)
                sent += back.request(
                    event.method, planned.target, request_headers(event, planned, via=None, close=False)
                )
            elif isinstance(event, Body):
                sent += back.body(event.data)
            else:
                sent += back.end(trailers(event.trailers))
    assert front.is_complete
    assert front.remainder == trailing

    # What was sent on, read again by an independent reading of the same grammar.
    sent_head, _, sent_body = sent.partition(b"\r\n\r\n")
    request_line, *sent_fields = sent_head.split(b"\r\n")
    assert request_line == f"PATCH /{path} HTTP/1.1".encode()
    authority = host if port == 80 else f"{host}:{port}"
    expected = [f"Host: {authority}".encode(), *lines(fields).split(b"\r\n")[:-1]]
    assert sent_fields[:-1] == expected
    if framing == "length":
        assert sent_body == b"".join(pieces)
    else:
        again = ServerExchange(1 << 16)
        again.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + sent_body)
        events = []
        while (event := again.next_event()) is not None:
            events.append(event)
        assert b"".join(event.data for event in events if isinstance(event, Body)) == b"".join(pieces)
        last = events[-1]
        assert isinstance(last, EndOfBody)
        assert last.trailers == raw(trailer)
        assert again.remainder == b""


@steady
@given(
    status=st.integers(200, 599).filter(lambda s: s not in (204, 304, 407)),
    fields=FIELDS,
    pieces=PIECES,
    framing=st.sampled_from(["length", "chunked", "close"]),
    version=st.sampled_from(["1.0", "1.1"]),
    cuts=CUTS,
)
def test_a_response_survives_the_way_through(
    status: int, fields: list[tuple[str, str]], pieces: list[bytes], framing: str, version: str, cuts: list[int]
) -> None:
    framed, body = frame(pieces, framing, []) if framing != "close" else (b"", b"".join(pieces))
    back = ClientExchange(1 << 16)
    back.request("GET", b"/", [(b"Host", b"e.test")])
    back.end([])
    front = ServerExchange(1 << 16)
    front.receive_data(f"GET http://e.test/ HTTP/{version}\r\nHost: e.test\r\n\r\n".encode())
    while front.next_event() is not None:
        pass
    sent = b""

    def poll() -> bytes:
        out = b""
        while (event := back.next_event()) is not None:
            if isinstance(event, ResponseHead):
                out += front.respond(event.status, event.reason, response_headers(event, via=None, close=False))
            elif isinstance(event, Body):
                out += front.body(event.data)
            elif isinstance(event, EndOfBody):
                out += front.end(trailers(event.trailers))
            else:
                assert isinstance(event, Informational)
        return out

    for piece in cut(f"HTTP/1.1 {status} Fine\r\n".encode() + lines(fields) + framed + b"\r\n" + body, cuts):
        back.receive_data(piece)
        sent += poll()
    if framing == "close":
        back.receive_eof()
        sent += poll()
    assert back.is_complete

    reader = ClientExchange(1 << 16)
    reader.request("GET", b"/", [(b"Host", b"e.test")])
    reader.end([])
    reader.receive_data(sent)
    if version == "1.0":
        reader.receive_eof()
    events = []
    while (event := reader.next_event()) is not None:
        events.append(event)
    head = events[0]
    assert isinstance(head, ResponseHead)
    assert (head.status, head.reason) == (status, b"Fine")
    assert [field for field in head.headers if field[0].startswith(b"X")] == raw(fields)
    assert b"".join(event.data for event in events if isinstance(event, Body)) == b"".join(pieces)
    assert reader.is_complete
    if version == "1.0":
        assert b"ransfer-" not in sent.partition(b"\r\n\r\n")[0]
        assert not front.keeps_alive
    else:
        assert front.keeps_alive
