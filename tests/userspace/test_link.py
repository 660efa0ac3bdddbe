"""Links: what is accepted, what is refused and with which words, and that the token never shows."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace import link as links
from quicsocks.userspace.link import Link, LinkError, base64url, base64url_decode, parse, parse_authority

from .support import LINK, PIN, TOKEN

PIN_TEXT = "sha256-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
TOKEN_TEXT = "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1-f4CBgoM"

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.ip_addresses().map(str),
)
some_links = st.builds(
    Link,
    host=hosts,
    port=st.integers(1, 65535),
    token=st.one_of(st.just(b""), st.binary(min_size=16, max_size=64)),
    pins=st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=8).map(tuple),
    name=st.one_of(st.just(""), names),
)


def complaint(text: str) -> str:
    """What parse says against text; any other exception goes through."""
    try:
        parse(text)
    except LinkError as error:
        return str(error)
    return ""


def test_the_documented_form() -> None:
    assert parse(f"quicsocks://{TOKEN_TEXT}@gw.example.com:4433/?pin={PIN_TEXT}#home") == LINK
    assert LINK.uri == f"quicsocks://{TOKEN_TEXT}@gw.example.com:4433/?pin={PIN_TEXT}#home"


@given(some_links)
def test_round_trip(link: Link) -> None:
    assert parse(link.uri) == link
    assert parse(f"  {link.uri}\n") == link


@given(some_links)
def test_token_is_never_shown(link: Link) -> None:
    if link.token:
        other = dataclasses.replace(link, token=bytes(byte ^ 0x55 for byte in link.token))
        assert other.uri != link.uri
        assert (str(other), repr(other), f"{other}") == (str(link), repr(link), f"{link}")
    assert link.authority in str(link)


@given(st.text(max_size=200))
def test_any_text_is_a_link_or_a_link_error(text: str) -> None:
    assert "\n" not in complaint(text)


@given(some_links, st.data())
def test_damaged_links_raise_link_errors_only(link: Link, data: st.DataObject) -> None:
    text = link.uri
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    assert "\n" not in complaint(damaged)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("quicsocks://h/", "h", 4433),
        ("quicsocks://h", "h", 4433),
        ("QUICSOCKS://H.Example.COM.:1/", "h.example.com", 1),
        ("quicsocks://[2001:DB8:0::1]:443/", "2001:db8::1", 443),
        ("quicsocks://[::1]", "::1", 4433),
        ("quicsocks://192.0.2.1:65535", "192.0.2.1", 65535),
        ("quicsocks://xn--bcher-kva.example", "xn--bcher-kva.example", 4433),
        ("quicsocks://under_score.example", "under_score.example", 4433),
    ],
)
def test_hosts_and_ports(text: str, host: str, port: int) -> None:
    link = parse(text)
    assert (link.host, link.port) == (host, port)


def test_several_pins_keep_their_order_and_repeated_ones_count_once() -> None:
    other = links.format_pin(b"\xff" * 32)
    assert parse(f"quicsocks://h/?pin={other}&pin={PIN_TEXT}&pin={other}").pins == (b"\xff" * 32, PIN)


def test_qt_has_no_token() -> None:
    assert parse(f"quicsocks://h/?alpn=qt&pin={PIN_TEXT}").alpn == "qt"
    assert parse("quicsocks://h/?alpn=quicsocks/1").alpn == ""
    with pytest.raises(LinkError, match="no authentication"):
        parse(f"quicsocks://{TOKEN_TEXT}@h/?alpn=qt")


def test_unknown_parameters_are_ignored_with_a_remark() -> None:
    link = parse(f"quicsocks://h/?relay=r.example&pin={PIN_TEXT}&%00=1")
    assert link.pins == (PIN,)
    assert len(link.remarks) == 2
    assert "relay" in link.remarks[0]
    assert "r.example" not in link.remarks[0]


BAD = {
    "": "empty",
    "home": "must begin with quicsocks://",
    "https://h/": "must begin with quicsocks://",
    "quicsocks:h": "must begin with quicsocks://",
    "quicsocks://": "host is missing",
    "quicsocks://:1/": "host is missing",
    "quicsocks://h:/": "port must be",
    "quicsocks://h:0/": "port must be",
    "quicsocks://h:65536/": "port must be",
    "quicsocks://h:+1/": "port must be",
    "quicsocks://h:1\u0661/": "no link has",
    "quicsocks://h:1/path": "nothing may stand between",
    "quicsocks://2001:db8::1/": "needs brackets",
    "quicsocks://[2001:db8::1/": "needs brackets",
    "quicsocks://[2001:db8::1]x/": "needs brackets",
    "quicsocks://[h]/": "only an IPv6 address",
    "quicsocks://[fe80::1%25eth0]/": "zone",
    "quicsocks://[::1::2]/": "not a host name",
    "quicsocks://[fe80::1%eth0]/": "zone",
    "quicsocks://h..x/": "not a host name",
    "quicsocks://-h/": "not a host name",
    "quicsocks://1.2.3/": "neither a host name nor an IP address",
    "quicsocks://0x7f.1/": "neither a host name nor an IP address",
    "quicsocks://127.1/": "neither a host name nor an IP address",
    "quicsocks://h.0x7f000001/": "neither a host name nor an IP address",
    "quicsocks://@h/": "no token before it",
    "quicsocks://!!@h/": "token before the @ is damaged",
    "quicsocks://AAAA@h/": "too short",
    f"quicsocks://{'A' * 120}@h/": "too short or too long",
    "quicsocks://h/?pin=": "begin with sha256-",
    "quicsocks://h/?pin=md5-AAAA": "begin with sha256-",
    "quicsocks://h/?pin=sha256-AAAA": "SHA-256 digest",
    f"quicsocks://h/?pin={PIN_TEXT}A": "SHA-256 digest",
    f"quicsocks://h/?pin={PIN_TEXT[:-1]}9": "SHA-256 digest",
    "quicsocks://h/?alpn=h3": "alpn=h3 is not known",
    "quicsocks://h/?alpn=qt&alpn=h3": "given twice",
    "quicsocks://h/#-x": "cannot be a name",
    "quicsocks://h/#a/b": "cannot be a name",
    "quicsocks://h/#%2e%2e%2fx": "cannot be a name",
    "quicsocks://h/#%ff": "no link has",
    "quicsocks://h /": "no link has",
    "quicsocks://h/\n#x": "no link has",
    "quicsocks://h/#" + "x" * 5000: "longer than",
    "quicsocks://h/?" + "&".join(f"pin={links.format_pin(bytes([n] * 32))}" for n in range(9)): "more than 8 pins",
}


@pytest.mark.parametrize("text", BAD, ids=[text[:40] or "empty" for text in BAD])
def test_bad_links_are_one_clear_line(text: str) -> None:
    with pytest.raises(LinkError) as caught:
        parse(text)
    assert str(caught.value).startswith("bad link: ")
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_do_not_repeat_the_token() -> None:
    for text in (f"quicsocks://{TOKEN_TEXT}!@h/", f"quicsocks://{TOKEN_TEXT}@h:99999/", f"quicsocks://{TOKEN_TEXT}@/"):
        with pytest.raises(LinkError) as caught:
            parse(text)
        assert TOKEN_TEXT not in str(caught.value)
        assert TOKEN_TEXT not in repr(caught.value)


def test_base64url_is_canonical() -> None:
    assert base64url_decode("AA") == b"\0"
    for text in ("AB", "A", "AA==", "A A", "AA\n", "+/", "é"):
        with pytest.raises(ValueError):
            base64url_decode(text)


@given(st.binary(max_size=80))
def test_base64url_round_trip(data: bytes) -> None:
    assert base64url_decode(base64url(data)) == data


def test_values_are_checked_when_a_link_is_built() -> None:
    for wrong in ({"host": "A"}, {"port": 0}, {"token": b"x"}, {"pins": (b"x",)}, {"name": "a b"}, {"alpn": "h3"}):
        with pytest.raises(LinkError):
            Link(**{"host": "h", **wrong})  # type: ignore[arg-type] # that is the point
    assert TOKEN not in repr(LINK).encode()


def test_authority_uses_the_default_port() -> None:
    assert parse_authority("h", 1) == ("h", 1)
    assert parse_authority("[::1]:2", 1) == ("::1", 2)
