"""Plain HTTP requests forwarded by the listener, against a destination that the test plays byte by byte."""

from __future__ import annotations

import asyncio

import pytest

from quicsocks.socks.http_transfer import UPLOAD_GRACE
from quicsocks.socks.replies import REPLIES
from quicsocks.socks.types import Failure, Request

from .conftest import Run
from .support import Application, Door, door

GET = b"GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"
GET_SENT = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def answered(application: Application, body: bytes = b"ok") -> dict[str, str]:
    status, fields, got = await application.read_response()
    assert status == 200
    assert got == body
    return fields


def test_the_request_is_written_before_the_destination_has_accepted(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            await flow.until_written(GET_SENT)
            assert flow.written_before_connected == len(GET_SENT)
            assert flow.request == Request("a.test", 80, "http", application.sock.getsockname(), None)
            flow.accept()
            flow.feed(OK)
            assert await answered(application) == {"content-length": "2"}
            application.close()

    on_loop(main())


def test_requests_to_different_hosts_on_one_connection(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect()
            for host, port in ((b"a.test", 80), (b"b.test", 8080), (b"[::1]", 80)):
                authority = host if port == 80 else host + b":%d" % port
                await application.send(b"GET http://" + authority + b"/x HTTP/1.1\r\nHost: wrong.test\r\n\r\n")
                flow = await d.next_flow()
                assert (flow.request.host, flow.request.port) == (host.decode().strip("[]"), port)
                await flow.until_written(b"GET /x HTTP/1.1\r\nHost: " + authority + b"\r\n\r\n")
                flow.accept()
                flow.feed(OK)
                await answered(application)
            application.close()
            assert [flow.closed for flow in d.memory.flows[:2]] == [True, True]

    on_loop(main())


def test_consecutive_requests_to_one_host_share_a_connection(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            for _ in range(3):
                await flow.until_written(GET_SENT)
                flow.written.clear()
                flow.feed(OK)
                await answered(application)
                await application.send(GET)
            await flow.until_written(GET_SENT)
            assert len(d.memory.flows) == 1
            application.reset()
            await flow.until_over()

    on_loop(main())


def test_pipelined_requests_are_answered_in_order(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            post = b"POST http://a.test/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"
            application = await d.connect(GET + post + GET.replace(b"a.test", b"b.test"))
            application.half_close()
            first = await d.next_flow()
            await first.until_written(GET_SENT)
            first.accept()
            first.feed(OK)
            # What cannot be sent again gets a connection of its own.
            second = await d.next_flow()
            await second.until_written(b"Content-Length: 3\r\n\r\nabc")
            second.accept()
            second.feed(OK.replace(b"ok", b"op"))
            third = await d.next_flow()
            third.accept()
            third.feed(OK.replace(b"ok", b"oq"))
            await answered(application)
            await answered(application, b"op")
            await answered(application, b"oq")
            await application.expect_eof()
            application.close()

    on_loop(main())


@pytest.mark.parametrize("how", ["closed", "reset", "closed before the request"])
def test_a_kept_connection_that_the_destination_closes_is_replaced(how: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            first = await d.next_flow()
            first.accept()
            first.feed(OK)
            await answered(application)
            if how == "closed before the request":
                first.feed_eof()
            first.written.clear()
            await application.send(GET)
            if how != "closed before the request":
                await first.until_written(GET_SENT)
                first.feed_eof() if how == "closed" else first.break_off()
            second = await d.next_flow()
            await second.until_written(GET_SENT)
            second.accept()
            second.feed(OK)
            await answered(application)
            application.close()

    on_loop(main())


def test_a_request_is_not_sent_again_once_something_was_received(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            flow.feed(OK)
            await answered(application)
            flow.written.clear()
            await application.send(GET)
            await flow.until_written(GET_SENT)
            flow.feed(b"HTTP/1.1 2")
            flow.break_off()
            status, fields, _body = await application.read_response()
            assert status == 502
            assert "error=connection_terminated" in fields["proxy-status"]
            assert len(d.memory.flows) == 1
            application.close()

    on_loop(main())


def test_a_kept_connection_on_which_something_came_unasked_is_not_used(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            first = await d.next_flow()
            first.accept()
            first.feed(OK)
            await answered(application)
            first.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
            while first.unread:
                await asyncio.sleep(0)
            await application.send(GET)
            second = await d.next_flow()
            second.accept()
            second.feed(OK)
            await answered(application)
            application.close()

    on_loop(main())


def test_fields_for_one_hop_are_removed_both_ways(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"GET http://a.test/x HTTP/1.1\r\nHost: b.test\r\nConnection: keep-alive, X-Hop, Content-Length\r\n"
                b"Proxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX-End: 2\r\nTE: trailers, gzip\r\n"
                b"Proxy-Authorization: Basic eDp5\r\nCookie: a=b\r\nUpgrade: h2c\r\n\r\n"
            )
            flow = await d.next_flow()
            await flow.until_written(
                b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-End: 2\r\nCookie: a=b\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
            )
            flow.accept()
            flow.feed(
                b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nKeep-Alive: timeout=5\r\n"
                b"Proxy-Authenticate: Basic\r\nUpgrade: h2\r\nContent-Length: 2\r\n\r\nok"
            )
            assert await answered(application) == {"x-end": "2", "content-length": "2"}
            application.close()

    on_loop(main())


def test_via_is_added_when_configured(on_loop: Run) -> None:
    async def main() -> None:
        async with door(via="quicsocks") as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            await flow.until_written(b"\r\nVia: 1.1 quicsocks\r\n\r\n")
            flow.accept()
            flow.feed(OK)
            assert (await answered(application))["via"] == "1.1 quicsocks"
            application.close()

    on_loop(main())


def test_chunks_and_trailers_both_ways(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n"
            )
            flow = await d.next_flow()
            await flow.until_written(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await application.send(b"0\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n")
            await flow.until_written(b"0\r\nX-Sum: 1\r\n\r\n")
            flow.accept()
            flow.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
            got = await application.read_until(b"2\r\nok\r\n")
            assert got == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
            flow.feed(b"0\r\nX-Sum: 2\r\n\r\n")
            await application.expect(b"0\r\nX-Sum: 2\r\n\r\n")
            application.close()

    on_loop(main())


def test_a_body_until_close_is_chunked_for_http_1_1_and_ends_the_connection_of_http_1_0(on_loop: Run) -> None:
    async def main() -> None:
        for version, expected in (
            (b"1.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            (b"1.0", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
        ):
            async with door() as d:
                application = await d.connect(GET.replace(b"1.1", version))
                application.half_close()
                flow = await d.next_flow()
                flow.accept()
                flow.feed(b"HTTP/1.0 200 OK\r\n\r\nhel")
                flow.feed(b"lo")
                flow.feed_eof()
                got = await application.read_all()
                assert got.replace(b"3\r\nhel\r\n2\r\nlo\r\n", b"5\r\nhello\r\n") == expected
                application.close()

    on_loop(main())


def test_chunks_reach_an_http_1_0_client_without_framing(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET.replace(b"1.1", b"1.0"))
            flow = await d.next_flow()
            flow.accept()
            flow.feed(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            flow.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n")
            assert await application.read_all() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"
            application.close()

    on_loop(main())


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nX: y\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
def test_responses_without_content(method: bytes, response: bytes, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET.replace(b"GET", method))
            flow = await d.next_flow()
            flow.accept()
            for _ in range(2):
                await flow.until_written(b"\r\n\r\n")
                flow.written.clear()
                flow.feed(response)
                assert await application.read_until(b"\r\n\r\n") == response
                await application.send(GET.replace(b"GET", method))
            assert len(d.memory.flows) == 1
            application.reset()
            await flow.until_over()

    on_loop(main())


def test_100_continue_comes_from_the_destination(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            )
            flow = await d.next_flow()
            await flow.until_written(b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            flow.accept()
            flow.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
            # h11 writes an empty reason for none; the destination's is kept.
            await application.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
            await application.send(b"abc")
            await flow.until_written(b"abc")
            flow.feed(OK)
            assert "connection" not in await answered(application)
            application.close()

    on_loop(main())


def test_a_final_answer_instead_of_100_ends_the_connection(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            )
            flow = await d.next_flow()
            flow.accept()
            flow.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            status, fields, _body = await application.read_response()
            assert (status, fields["connection"]) == (413, "close")
            # What stands where the body should be is not read as a request.
            await application.send(GET)
            await application.expect_eof()
            application.close()
            assert len(d.memory.flows) == 1

    on_loop(main())


def test_an_early_answer_and_a_body_that_goes_on(on_loop: Run) -> None:
    assert UPLOAD_GRACE < 10

    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\nabc"
            )
            flow = await d.next_flow()
            await flow.until_written(b"abc")
            flow.accept()
            flow.feed(OK)
            assert (await answered(application))["connection"] == "close"
            await application.send(b"def")
            await flow.until_written(b"abcdef")
            await application.expect_eof()
            application.close()
            await flow.until_over()
            assert not flow.aborted

    on_loop(main())


def test_an_answer_is_delivered_although_the_destination_stopped_reading(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nabc"
            )
            flow = await d.next_flow()
            await flow.until_written(b"abc")
            flow.pause()
            flow.accept()
            await application.send(bytes(200_000))
            flow.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            flow.break_off()
            status, fields, body = await application.read_response()
            assert (status, fields["connection"], body) == (413, "close", b"big")
            application.close()

    on_loop(main())


def test_upgrade_is_passed_and_then_bytes_flow_both_ways(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"GET http://a.test/ws HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n\x81early"
            )
            flow = await d.next_flow()
            await flow.until_written(
                b"GET /ws HTTP/1.1\r\nHost: a.test\r\nSec-WebSocket-Key: x\r\n"
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            )
            flow.accept()
            flow.written.clear()
            flow.feed(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\n\x82first"
            )
            await application.expect(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX: y\r\nConnection: Upgrade\r\n\r\n\x82first"
            )
            await flow.until_written(b"\x81early")
            await application.send(b"\x00more")
            await flow.until_written(b"\x00more")
            flow.feed(b"GET http://not.a.request/ HTTP/1.1\r\n\r\n")
            flow.feed_eof()
            assert await application.read_all() == b"GET http://not.a.request/ HTTP/1.1\r\n\r\n"
            await application.send(b"last")
            application.half_close()
            await flow.until_write_ended()
            assert flow.written.endswith(b"last")
            await flow.until_over()
            assert not flow.aborted
            application.close()

    on_loop(main())


def test_upgrade_that_the_destination_ignores(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            application = await d.connect(upgrade + GET)
            flow = await d.next_flow()
            await flow.until_written(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            flow.accept()
            flow.feed(OK)
            await answered(application)
            await flow.until_written(GET_SENT)
            flow.feed(OK)
            await answered(application)
            application.close()

    on_loop(main())


@pytest.mark.parametrize("failure", Failure)
def test_each_failure_of_a_forwarded_request(failure: Failure, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.refuse(failure)
            status, fields, body = await application.read_response()
            assert status == REPLIES[failure].status
            assert f"error={REPLIES[failure].error}" in fields["proxy-status"]
            assert fields["x-content-type-options"] == "nosniff"
            assert body == failure.value.encode() + b"\n"
            # Nothing is in doubt about the connection to the application, so it goes on.
            await application.send(GET)
            flow = await d.next_flow()
            flow.accept()
            flow.feed(OK)
            await answered(application)
            application.close()

    on_loop(main())


def test_a_failure_for_head_has_no_content(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET.replace(b"GET", b"HEAD"))
            flow = await d.next_flow()
            flow.refuse(Failure.REFUSED)
            head = await application.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 502 ")
            await application.send(GET)
            flow = await d.next_flow()
            flow.accept()
            flow.feed(OK)
            await answered(application)
            application.close()

    on_loop(main())


@pytest.mark.parametrize(
    ("response", "eof", "error"),
    [
        (b"", True, "connection_terminated"),
        (b"HTTP/1.1 20", True, "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", False, "http_protocol_error"),
        (b"SSH-2.0-x\r\n\r\n", False, "http_protocol_error"),
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=bank\r\nContent-Length: 0\r\n\r\n",
            False,
            "http_protocol_error",
        ),
        (b"HTTP/1.1 101 No\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", False, "http_protocol_error"),
    ],
)
def test_a_response_that_cannot_be_trusted_is_502(response: bytes, eof: bool, error: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            if response:
                flow.feed(response)
            if eof:
                flow.feed_eof()
            status, fields, _body = await application.read_response()
            assert status == 502
            assert f"error={error}" in fields["proxy-status"]
            assert "proxy-authenticate" not in fields
            application.close()
            assert flow.aborted

    on_loop(main())


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"X: until close"])
@pytest.mark.parametrize("how", ["broken", "garbage"])
def test_half_a_response_ends_in_a_reset(framing: bytes, how: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            flow.feed(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n"[:8])
            await application.read_until(b"\r\n\r\n")
            if how == "garbage" and b"chunked" in framing:
                flow.feed(b"\nnot a chunk")
            else:
                flow.break_off()
            await application.expect_reset()
            application.close()

    on_loop(main())


REFUSED = [
    b"GET / HTTP/1.1\r\nHost: localhost:1080\r\nOrigin: http://evil.test\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n\r\nCONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET,
    b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n" + GET,
    b"GET http://u:p@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n" + GET,
    b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc" + GET,
    b"CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n" + GET,
    b"GET http://a.test/ HTTP/1.1\nHost: a.test\n\n" + GET,
]


@pytest.mark.parametrize("request_bytes", REFUSED)
def test_what_is_not_a_proxys_to_serve_touches_nothing_and_ends_the_connection(
    request_bytes: bytes, on_loop: Run
) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(request_bytes)
            status, fields, _body = await application.read_response()
            assert status == 400
            assert fields["connection"] == "close"
            assert not [name for name in fields if name.startswith("access-control")]
            await application.expect_eof()
            application.close()
            assert d.memory.flows == []

    on_loop(main())


def test_a_bad_body_ends_flow_and_connection_with_400(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            )
            flow = await d.next_flow()
            await flow.until_written(b"hello\r\n")
            await application.send(b"zz\r\n" + GET)
            status, _fields, _body = await application.read_response()
            assert status == 400
            await application.expect_eof()
            application.close()
            assert flow.aborted
            assert len(d.memory.flows) == 1

    on_loop(main())


def test_an_application_that_breaks_off_its_body_aborts_the_flow(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nabc"
            )
            flow = await d.next_flow()
            await flow.until_written(b"abc")
            application.half_close()
            status, _fields, _body = await application.read_response()
            assert status == 400
            await flow.until_over()
            assert flow.aborted
            assert not flow.write_ended
            application.close()

    on_loop(main())


@pytest.mark.parametrize("moment", ["opening", "waiting", "body"])
def test_an_application_that_resets_aborts_the_flow(moment: str, on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            await flow.until_written(GET_SENT)
            if moment != "opening":
                flow.accept()
            if moment == "body":
                flow.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
                await application.read_until(b"abc")
            application.reset()
            await flow.until_over()
            assert flow.aborted

    on_loop(main())


def test_a_slow_application_holds_back_the_destination(on_loop: Run) -> None:
    async def main() -> None:
        piece, count = bytes(64 << 10), 400
        async with door() as d:
            application = await d.connect(GET)
            flow = await d.next_flow()
            flow.accept()
            flow.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * count))
            for _ in range(count):
                flow.feed(piece)
            before = -1
            while flow.unread != before:  # until nothing moves any more
                before = flow.unread
                for _ in range(50):
                    await asyncio.sleep(0)
            assert before > len(piece) * count // 2
            await application.read_until(b"\r\n\r\n")
            await application.expect(piece * count)
            assert flow.unread == 0
            application.close()

    on_loop(main())


def test_max_forwards(on_loop: Run) -> None:
    async def main() -> None:
        async with door() as d:
            application = await d.connect(
                b"OPTIONS http://a.test/ HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n"
                b"TRACE http://a.test/ HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\nCookie: secret\r\n\r\n"
                b"OPTIONS http://a.test/ HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 7\r\n\r\n"
            )
            assert (await application.read_response())[0] == 200
            status, _fields, body = await application.read_response()
            assert status == 405
            assert b"secret" not in body
            flow = await d.next_flow()
            await flow.until_written(b"OPTIONS / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 6\r\n\r\n")
            application.reset()
            await flow.until_over()

    on_loop(main())


async def _status(d: Door, data: bytes) -> int:
    application = await d.connect(data)
    status, _fields, _body = await application.read_response()
    application.close()
    return status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: 200-ok\r\n\r\n", 417),
        (b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 4096 + b"\r\n\r\n", 431),
        (b"GET http://a.test/" + b"a" * 8192, 431),
        (b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + b"a:\r\n" * 300 + b"\r\n", 431),
        (b"GET http://a.test/ HTTP/1.9\r\nHost: a.test\r\n\r\n", 505),
        (b"TRACE http://a.test/ HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: x\r\n\r\n", 400),
    ],
)
def test_other_refusals(data: bytes, status: int, on_loop: Run) -> None:
    async def main() -> None:
        async with door(max_head=2048) as d:
            assert await _status(d, data) == status
            assert d.memory.flows == []

    on_loop(main())
