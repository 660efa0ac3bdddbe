"""Plain HTTP requests that fail: at the exit, at the destination, by the application, or because none may be served.

The destination is played by the test byte by byte. Read first: ``support`` and ``http_exchange``.
"""

from __future__ import annotations

import pytest

from quicsocks.socks.replies import REPLIES
from quicsocks.socks.types import Failure

from .conftest import Run
from .http_exchange import GET, GET_SENT, OK, answered
from .support import Door, door


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
