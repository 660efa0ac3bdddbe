"""Which connection a plain HTTP request takes: when one is opened, shared, kept, replaced, and never used again.

The destination is played by the test byte by byte. Read first: ``support`` and ``http_exchange``.
"""

from __future__ import annotations

import asyncio

import pytest

from quicsocks.socks.types import Request

from .conftest import Run
from .http_exchange import GET, GET_SENT, OK, answered
from .support import door


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
