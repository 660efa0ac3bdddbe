"""The small tables and readers that all protocols share: hosts, credentials, replies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.socks.config import address_key, is_loopback
from quicsocks.socks.credentials import Credentials
from quicsocks.socks.errors import LocalError
from quicsocks.socks.hosts import format_authority, parse_host, parse_port
from quicsocks.socks.replies import REASONS, REPLIES, printable, proxy_status
from quicsocks.socks.types import Failure

steady = settings(derandomize=True, deadline=None)


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        (b"example.com", "example.com"),
        (b"Example.COM.", "Example.COM."),
        (b"a_b-c.test", "a_b-c.test"),
        (b"localhost", "localhost"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"192.0.2.1", "192.0.2.1"),
        (b"2001:DB8:0:0::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"::ffff:192.0.2.1", "::ffff:c000:201"),
        (b"1.2.3", "1.2.3"),
        (b"a" * 63 + b".test", "a" * 63 + ".test"),
    ],
)
def test_hosts(raw: bytes, host: str) -> None:
    assert parse_host(raw) == host


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"a..b",
        b".a",
        b"a b",
        b"a\0b",
        b"a/b",
        b"a\nb",
        b"a@b",
        b"a%00",
        "bücher.example".encode(),
        b"256.1.1.1",
        b"01.2.3.4",
        b"1.2.3.4.5:",
        b"[::1",
        b"::1]",
        b"[192.0.2.1]",
        b"[v1.x]",
        b"fe80::1%eth0",
        b":::",
        b"a" * 64,
        b"a." * 127 + b"a",
    ],
)
def test_hosts_that_are_none(raw: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        parse_host(raw)
    assert "host" in str(caught.value)


@steady
@given(st.ip_addresses())
def test_every_address_is_read_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert ipaddress.ip_address(parse_host(str(address).encode())) == address
    authority = format_authority(str(address), 80)
    assert authority.rpartition(":")[0] == (f"[{address}]" if address.version == 6 else str(address))


@steady
@given(st.binary(max_size=300))
def test_a_host_is_refused_or_harmless(raw: bytes) -> None:
    try:
        host = parse_host(raw)
    except ValueError:
        return
    assert host.isascii()
    assert host.isprintable()
    assert not set(host) & set(" /\\@%#?\"'\r\n\0[]")
    assert parse_host(host.encode()) == host


@pytest.mark.parametrize(("raw", "port"), [(b"1", 1), (b"65535", 65535), (b"00080", 80)])
def test_ports(raw: bytes, port: int) -> None:
    assert parse_port(raw) == port


@pytest.mark.parametrize("raw", [b"", b"0", b"65536", b"+80", b" 80", b"8_0", b"000080", "８０".encode()])
def test_ports_that_are_none(raw: bytes) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_port(raw)


def test_credentials() -> None:
    credentials = Credentials({"alice": "secret", "bob": "", "ü": "ö"})
    assert credentials.check(b"alice", b"secret")
    assert credentials.check(b"bob", b"")
    assert credentials.check("ü".encode(), "ö".encode())
    for name, password in (
        (b"alice", b""),
        (b"bob", b"secret"),
        (b"", b""),
        (b"carol", b"secret"),
        (b"ALICE", b"secret"),
    ):
        assert not credentials.check(name, password)
    assert "secret" not in repr(credentials)


@pytest.mark.parametrize("entries", [{}, {"": "x"}, {"a" * 256: "x"}, {"a:b": "x"}, {"a": "x" * 256}])
def test_credentials_that_cannot_be_served(entries: dict[str, str]) -> None:
    with pytest.raises(LocalError) as caught:
        Credentials(entries)
    assert "xx" not in str(caught.value)


# The rows of the table, from RFC 1928 §6 and RFC 9209 §2.3. A second copy on purpose: a change needs a second thought.
ROWS = {
    Failure.REFUSED: (5, 502, "connection_refused"),
    Failure.NETWORK_UNREACHABLE: (3, 502, "destination_ip_unroutable"),
    Failure.HOST_UNREACHABLE: (4, 502, "destination_ip_unroutable"),
    Failure.TIMED_OUT: (6, 504, "connection_timeout"),
    Failure.TTL_EXPIRED: (6, 502, "destination_ip_unroutable"),
    Failure.NAME_NOT_FOUND: (4, 502, "dns_error"),
    Failure.NAME_TIMEOUT: (4, 504, "dns_timeout"),
    Failure.DENIED: (2, 403, "http_request_denied"),
    Failure.ADDRESS_PROHIBITED: (2, 403, "destination_ip_prohibited"),
    Failure.FAMILY_UNSUPPORTED: (8, 502, "destination_ip_unroutable"),
    Failure.LOOP: (1, 502, "proxy_loop_detected"),
    Failure.LIMIT: (1, 503, "connection_limit_reached"),
    Failure.TUNNEL_DOWN: (1, 502, "connection_terminated"),
    Failure.TUNNEL_TIMEOUT: (1, 504, "connection_timeout"),
    Failure.RESET: (1, 502, "connection_terminated"),
    Failure.INTERNAL: (1, 500, "proxy_internal_error"),
}


@pytest.mark.parametrize("failure", Failure)
def test_replies(failure: Failure) -> None:
    reply = REPLIES[failure]
    assert (reply.rep, reply.status, reply.error) == ROWS[failure]
    assert reply.cd == 0x5B
    assert reply.status in REASONS


def test_proxy_status_is_a_structured_field() -> None:
    assert proxy_status("dns_error") == "quicsocks; error=dns_error"
    assert proxy_status("dns_error", 'a "b" \\c') == 'quicsocks; error=dns_error; details="a \\"b\\" \\\\c"'


@steady
@given(st.text())
def test_details_stay_one_short_line(text: str) -> None:
    clean = printable(text)
    assert clean.isascii()
    assert clean.isprintable()
    assert len(clean) <= 200
    field = proxy_status("dns_error", text)
    assert "\r" not in field
    assert "\n" not in field


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_one_machine_is_one_address_or_one_prefix() -> None:
    assert address_key("192.0.2.1") == address_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:0:0:1")
    assert address_key("2001:db8::1") != address_key("2001:db8:0:1::1")
    assert address_key("fe80::1%eth0") == address_key("fe80::2%eth1")
