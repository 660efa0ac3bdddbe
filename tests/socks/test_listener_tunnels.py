"""The listener's tunnels - SOCKS5, SOCKS4a and HTTP CONNECT - against a far end that the test plays."""

from __future__ import annotations

import asyncio
import base64

import pytest

from quicsocks.socks.credentials import Credentials
from quicsocks.socks.replies import REPLIES
from quicsocks.socks.types import Bound, Failure, Request

from .conftest import Run
from .support import HTTP_CONNECT, HTTP_OK, OPENINGS, SOCKS4_CONNECT, SOCKS5_CONNECT, SOCKS5_GREETING, SOCKS5_OK, door

every_protocol = pytest.mark.parametrize("protocol", sorted(OPENINGS))


@every_protocol
def test_bytes_both_ways_then_half_close_by_the_application(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(answer)
            await application.send(b"question")
            application.half_close()
            await flow.until_write_ended()
            assert flow.written == b"question"
            flow.feed(b"answer after the application's FIN")
            flow.feed_eof()
            assert await application.read_all() == b"answer after the application's FIN"
            application.close()

    on_loop(main())


@every_protocol
def test_half_close_by_the_destination(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(answer)
            flow.feed(b"all there is")
            flow.feed_eof()
            assert await application.read_all() == b"all there is"
            await application.send(b"said after the destination's FIN")
            application.half_close()
            await flow.until_write_ended()
            assert flow.written == b"said after the destination's FIN"
            application.close()

    on_loop(main())


@every_protocol
def test_bytes_and_fin_pipelined_behind_the_request_are_not_lost(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening + b"\x16\x03\x01early\r\n\r\n")
            application.half_close()
            flow = await d.next_flow()
            assert flow.written == b""
            flow.accept()
            await application.expect(answer)
            await flow.until_write_ended()
            assert flow.written == b"\x16\x03\x01early\r\n\r\n"
            assert not flow.aborted
            flow.feed_eof()
            await application.expect_eof()
            application.close()

    on_loop(main())


@every_protocol
def test_no_success_before_the_destination_has_accepted(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening)
            flow = await d.next_flow()
            if protocol == "socks5":
                await application.expect(answer[:2])
                answer = answer[2:]
            # The handshake is over; whatever is sent without waiting for the destination would be here by now.
            for _ in range(20):
                await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                application.sock.recv(1)
            flow.accept()
            await application.expect(answer)
            application.reset()
            await flow.until_over()

    on_loop(main())


@every_protocol
def test_one_byte_at_a_time(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect()
            for at in range(len(opening)):
                await application.send(opening[at : at + 1])
                await asyncio.sleep(0)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(answer)
            application.reset()
            await flow.until_over()

    on_loop(main())


@every_protocol
def test_a_reset_while_the_flow_is_being_opened_aborts_it(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, _answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening + b"early bytes, unread when the reset comes")
            flow = await d.next_flow()
            application.reset()
            await flow.until_over()
            assert flow.aborted

    on_loop(main())


@every_protocol
def test_a_reset_behind_a_half_close_while_the_flow_is_being_opened_aborts_it(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, _answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening)
            application.half_close()
            flow = await d.next_flow()
            application.reset()
            await flow.until_over()
            assert flow.aborted

    on_loop(main())


@every_protocol
def test_a_reset_by_the_destination_is_a_reset(on_loop: Run, protocol: str) -> None:
    async def main() -> None:
        opening, answer = OPENINGS[protocol]
        async with door() as d:
            application = await d.connect(opening)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(answer)
            flow.break_off()
            await application.expect_reset()
            application.close()

    on_loop(main())


@every_protocol
@pytest.mark.parametrize("failure", Failure)
def test_each_failure_has_its_answer(protocol: str, failure: Failure, on_loop: Run) -> None:
    async def main() -> None:
        opening, _answer = OPENINGS[protocol]
        reply = REPLIES[failure]
        async with door() as d:
            application = await d.connect(opening)
            flow = await d.next_flow()
            flow.refuse(failure, 'say "why"')
            if protocol == "http":
                status, fields, _body = await application.read_response()
                assert status == reply.status
                expected = f'quicsocks; error={reply.error}; details="{failure.value}: say \\"why\\""'
                assert fields["proxy-status"] == expected
                assert fields["connection"] == "close"
                await application.expect_eof()
            elif protocol == "socks5":
                assert await application.read_all() == bytes((5, 0, 5, reply.rep, 0, 1, 0, 0, 0, 0, 0, 0))
            else:
                assert await application.read_all() == bytes((0, reply.cd, 0, 0, 0, 0, 0, 0))
            application.close()

    on_loop(main())


@pytest.mark.parametrize(
    ("opening", "protocol", "user"),
    [
        (SOCKS5_GREETING + SOCKS5_CONNECT, "socks5", None),
        (SOCKS4_CONNECT, "socks4", None),
        (SOCKS4_CONNECT.replace(b"\x01\x00ex", b"\x01bob\x00ex"), "socks4", "bob"),
        (HTTP_CONNECT, "http", None),
    ],
)
def test_the_exit_is_told_what_was_asked(opening: bytes, protocol: str, user: str | None, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(opening)
            flow = await d.next_flow()
            peer = application.sock.getsockname()
            assert flow.request == Request("example.com", 80, protocol, peer, user)
            application.reset()
            await flow.until_over()

    on_loop(main())


@pytest.mark.parametrize(
    ("bound", "answer"),
    [
        (Bound(), b"\x05\x00\x00\x01" + bytes(6)),
        (Bound("198.51.100.7", 4660), b"\x05\x00\x00\x01\xc6\x33\x64\x07\x12\x34"),
        (Bound("2001:db8::7", 4660), b"\x05\x00\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x07\x12\x34"),
        (Bound("not.an.address", 4660), b"\x05\x00\x00\x01" + bytes(6)),
    ],
)
def test_bnd_addr_is_the_far_ends_address_when_known(bound: Bound, answer: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
            flow = await d.next_flow()
            flow.accept(bound)
            await application.expect(b"\x05\x00" + answer)
            application.reset()
            await flow.until_over()

    on_loop(main())


@pytest.mark.parametrize("command", [b"\x02", b"\x03"], ids=["BIND", "UDP ASSOCIATE"])
def test_commands_not_served_are_answered_with_7(command: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(SOCKS5_GREETING + b"\x05" + command + b"\x00\x01" + bytes(6))
            assert await application.read_all() == b"\x05\x00\x05\x07\x00\x01" + bytes(6)
            application.close()
            assert d.memory.flows == []

    on_loop(main())


def test_socks4_bind_is_rejected(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(b"\x04\x02\x00\x50\xc0\x00\x02\x01\x00")
            assert await application.read_all() == b"\x00\x5b" + bytes(6)
            application.close()

    on_loop(main())


ALICE = Credentials({"alice": "wonder:land"})
PASSWORD = b"\x01\x05alice\x0bwonder:land"


def basic(text: bytes) -> bytes:
    return HTTP_CONNECT[:-2] + b"Proxy-Authorization: Basic " + base64.b64encode(text) + b"\r\n\r\n"


def test_socks5_password(on_loop: Run) -> None:
    async def main() -> None:
        async with door(credentials=ALICE) as d:
            application = await d.connect(b"\x05\x02\x00\x02" + PASSWORD + SOCKS5_CONNECT)
            flow = await d.next_flow()
            assert flow.request.user == "alice"
            flow.accept()
            await application.expect(b"\x05\x02\x01\x00" + SOCKS5_OK[2:])
            application.reset()
            await flow.until_over()

    on_loop(main())


@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        (b"\x05\x01\x02\x01\x05alice\x05wrong" + SOCKS5_CONNECT, b"\x05\x02\x01\x01"),
        (SOCKS5_GREETING + SOCKS5_CONNECT, b"\x05\xff"),
        (SOCKS4_CONNECT, b"\x00\x5b" + bytes(6)),
    ],
    ids=["wrong password", "no password", "SOCKS4 has none"],
)
def test_without_the_password_nothing_is_opened(opening: bytes, answer: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door(credentials=ALICE) as d:
            application = await d.connect(opening)
            assert await application.read_all() == answer
            application.close()
            assert d.memory.flows == []
            assert d.listener.statistics().denied == 1

    on_loop(main())


def test_http_password_is_asked_for_and_may_be_given_on_the_same_connection(on_loop: Run) -> None:
    async def main() -> None:
        async with door(credentials=ALICE) as d:
            application = await d.connect(HTTP_CONNECT)
            status, fields, _body = await application.read_response()
            assert status == 407
            assert fields["proxy-authenticate"] == 'Basic realm="quicsocks", charset="UTF-8"'
            assert "connection" not in fields
            await application.send(basic(b"alice:wrong"))
            status, fields, _body = await application.read_response()
            assert status == 407
            await application.send(basic(b"alice:wonder:land"))
            flow = await d.next_flow()
            assert flow.request.user == "alice"
            flow.accept()
            await application.expect(HTTP_OK)
            application.reset()
            await flow.until_over()
            assert len(d.memory.flows) == 1

    on_loop(main())


def test_http_passwords_cannot_be_tried_for_ever_on_one_connection(on_loop: Run) -> None:
    async def main() -> None:
        async with door(credentials=ALICE) as d:
            application = await d.connect(basic(b"alice:guess") * 20)
            answers = await application.read_all()
            assert answers.count(b"HTTP/1.1 407 ") == 8
            application.close()

    on_loop(main())


@pytest.mark.parametrize(
    "value",
    [
        b"Basic",
        b"Basic !!!",
        b"Bearer abc",
        b"Basic " + base64.b64encode(b"nocolon"),
        b"Basic " + base64.b64encode(b":"),
    ],
)
def test_http_password_that_cannot_be_read_is_no_password(value: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door(credentials=ALICE) as d:
            application = await d.connect(HTTP_CONNECT[:-2] + b"Proxy-Authorization: " + value + b"\r\n\r\n")
            status, _fields, _body = await application.read_response()
            assert status == 407
            application.close()
            assert d.memory.flows == []

    on_loop(main())


def test_a_large_transfer_both_ways_with_a_slow_reader(on_loop: Run) -> None:
    async def main() -> None:
        data = bytes(range(256)) * 8192
        async with door() as d:
            application = await d.connect(SOCKS5_GREETING + SOCKS5_CONNECT)
            flow = await d.next_flow()
            flow.accept()
            await application.expect(SOCKS5_OK)
            for at in range(0, len(data), 64 << 10):
                flow.feed(data[at : at + (64 << 10)])
            flow.feed_eof()
            flow.pause()
            upload = asyncio.ensure_future(application.send(data))
            assert await application.read_all() == data
            flow.resume()
            await upload
            application.half_close()
            await flow.until_write_ended()
            assert flow.written == data
            application.close()

    on_loop(main())
