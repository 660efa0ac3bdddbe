"""What is often got wrong about RFC 1928, RFC 1929 and SOCKS4a: one named test for each, on the codecs.

What needs a socket - closing within ten seconds, bytes and half-closes behind a request, telling protocols apart - is in
test_listener_tunnels.py and test_listener_limits.py.
"""

from __future__ import annotations

import pytest

from quicsocks.socks.config import ListenerConfig
from quicsocks.socks.credentials import Credentials
from quicsocks.socks.errors import AccessDenied, LocalError, PeerError
from quicsocks.socks.replies import REPLIES
from quicsocks.socks.socks4 import Socks4Server
from quicsocks.socks.socks5 import Command, Socks5Server, Verb, encode_reply
from quicsocks.socks.types import Bound, Failure

GREETING = b"\x05\x01\x00"


def refused(data: bytes, credentials: Credentials | None = None) -> PeerError:
    server = Socks5Server(credentials)
    server.receive_data(data)
    with pytest.raises(PeerError) as caught:
        server.next_event()
    return caught.value


def requested(data: bytes) -> tuple[Socks5Server, Command]:
    server = Socks5Server()
    server.receive_data(GREETING + data)
    command = server.next_event()
    assert command is not None
    return server, command


@pytest.mark.parametrize("offered", [b"", b"\x01", b"\x80\x81"])
def test_method_ff_when_nothing_fits_and_only_what_was_offered_is_chosen(offered: bytes) -> None:
    error = refused(b"\x05" + bytes((len(offered),)) + offered)
    assert isinstance(error, AccessDenied)
    assert error.reply == b"\x05\xff"


def test_no_auth_is_not_chosen_where_a_password_is_wanted() -> None:
    assert refused(GREETING, Credentials({"a": "b"})).reply == b"\x05\xff"
    server = Socks5Server(Credentials({"a": "b"}))
    server.receive_data(b"\x05\x02\x00\x02")
    assert server.next_event() is None
    assert server.data_to_send() == b"\x05\x02"


@pytest.mark.parametrize("failure", Failure)
def test_error_replies_are_complete(failure: Failure) -> None:
    server, _command = requested(b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50")
    reply = server.fail(failure)
    assert reply == bytes((5, REPLIES[failure].rep, 0, 1)) + bytes(6)
    assert 1 <= reply[1] <= 8


def test_zeros_are_of_the_family_that_the_client_speaks() -> None:
    server, _command = requested(b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50")
    assert server.fail(Failure.REFUSED) == b"\x05\x05\x00\x04" + bytes(18)
    assert server.succeed(Bound()) == b"\x05\x00\x00\x04" + bytes(18)


def test_a_reply_never_contains_a_name() -> None:
    assert encode_reply(0, Bound("proxy.example", 80)) == b"\x05\x00\x00\x01" + bytes(6)


def test_a_failure_is_closed_within_ten_seconds() -> None:
    assert ListenerConfig(addresses=(("127.0.0.1", 0),)).linger_timeout <= 10
    with pytest.raises(LocalError, match="10 seconds"):
        ListenerConfig(addresses=(("127.0.0.1", 0),), linger_timeout=10.5)


def test_bnd_is_the_far_ends_address_when_known() -> None:
    server, _command = requested(b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50")
    assert server.succeed(Bound("198.51.100.1", 258)) == b"\x05\x00\x00\x01\xc6\x33\x64\x01\x01\x02"


def test_bind_and_udp_associate_are_read_in_full_and_answered_with_7() -> None:
    for command, verb in ((2, Verb.BIND), (3, Verb.UDP_ASSOCIATE)):
        server, event = requested(b"\x05" + bytes((command,)) + b"\x00\x01" + bytes(6) + b"rest")
        assert event.verb is verb
        assert server.remainder == b"rest"
        assert server.unsupported() == b"\x05\x07\x00\x01" + bytes(6)


@pytest.mark.parametrize("literal", [b"192.0.2.1", b"2001:db8::1"])
def test_ip_literals_in_the_name_field_are_addresses(literal: bytes) -> None:
    _server, command = requested(b"\x05\x01\x00\x03" + bytes((len(literal),)) + literal + b"\x00\x50")
    assert command.host == literal.decode()


@pytest.mark.parametrize("name", [b"", b"a\0", b"\0", b"a\0.example"])
def test_names_that_are_empty_or_contain_nul_are_refused(name: bytes) -> None:
    error = refused(GREETING + b"\x05\x01\x00\x03" + bytes((len(name),)) + name + b"\x00\x50")
    assert error.reply == b"\x05\x01\x00\x01" + bytes(6)


def test_port_0_cannot_be_connected_to() -> None:
    error = refused(GREETING + b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x00")
    assert error.reply == b"\x05\x01\x00\x01" + bytes(6)


def test_an_unknown_command_is_7_and_an_unknown_address_type_8() -> None:
    assert refused(GREETING + b"\x05\x04\x00\x01\xc0\x00\x02\x01\x00\x50").reply[1] == 7
    # Without waiting for an address whose length nobody knows.
    assert refused(GREETING + b"\x05\x01\x00\x05").reply[1] == 8


def test_greeting_password_request_and_payload_in_one_segment() -> None:
    server = Socks5Server(Credentials({"a": "b"}))
    server.receive_data(b"\x05\x01\x02" + b"\x01\x01a\x01b" + b"\x05\x01\x00\x03\x01h\x00\x50" + b"payload")
    assert server.next_event() == Command(Verb.CONNECT, "h", 80, "a")
    assert server.data_to_send() == b"\x05\x02\x01\x00"
    assert server.next_event() is None
    assert server.remainder == b"payload"


def test_the_password_message_has_version_1_and_failure_is_not_0() -> None:
    credentials = Credentials({"a": "b"})
    for message in (b"\x05\x01a\x01b", b"\x01\x01a\x01c", b"\x01\x01a\x00", b"\x01\x00\x01b"):
        assert refused(b"\x05\x01\x02" + message, credentials).reply == b"\x01\x01"


def test_an_empty_password_is_legal() -> None:
    server = Socks5Server(Credentials({"a": ""}))
    server.receive_data(b"\x05\x01\x02\x01\x01a\x00")
    assert server.next_event() is None
    assert server.data_to_send() == b"\x05\x02\x01\x00"


def test_socks4a_announces_a_name_with_an_impossible_address() -> None:
    server = Socks4Server()
    server.receive_data(b"\x04\x01\x00\x50\x00\x00\x00\x09me\x00host.example\x00payload")
    command = server.next_event()
    assert command is not None
    assert (command.host, command.port, command.user) == ("host.example", 80, "me")
    assert server.remainder == b"payload"
    assert server.succeed(Bound("2001:db8::1", 80)) == b"\x00\x5a" + bytes(6)
    assert server.fail(Failure.DENIED) == b"\x00\x5b" + bytes(6)
