"""What becomes of plain HTTP messages on their way: fields, bodies, interim answers, upgrades, backpressure.

The destination is played by the test byte by byte. Read first: ``support`` and ``http_exchange``.
"""

from __future__ import annotations

import asyncio

import pytest

from quicsocks.socks.http_transfer import UPLOAD_GRACE

from .conftest import Run
from .http_exchange import GET, GET_SENT, OK, answered
from .support import door


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
