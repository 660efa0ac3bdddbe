"""New connections, their latency, flows that stay open, and round trips: everything that is counted in requests.

Read bench/flows.py for what a client does and waits for. Many at once run on uvloop, so that the load generator is not
what limits; one at a time runs on blocking sockets, whose times have nothing of an event loop in them.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import uvloop

from bench.flows import (
    FlowError,
    Via,
    connect,
    receive_exactly,
    receive_head,
    receive_reply,
    socks_request,
)

ANSWER = 1000  # bytes of the small answers: "1 kB each"
REQUEST_TIMEOUT = 15.0


def connections(via: Via, target: tuple[str, int], concurrency: int, count: int, seconds: float) -> dict[str, Any]:
    """Make count connections, so many at once, each for one 1 kB answer, for at most so many seconds.

    Returns requests, failures, seconds, p50 and p99 (seconds from connect to the last byte).
    """
    return uvloop.run(_connections(via, target, concurrency, count, seconds))


async def _connections(
    via: Via, target: tuple[str, int], concurrency: int, count: int, seconds: float
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    failures: list[str] = []
    left = count
    start = time.perf_counter()

    async def worker() -> None:
        nonlocal left
        while left > 0 and time.perf_counter() < start + seconds:
            left -= 1
            begin = time.perf_counter()
            exchange = _Exchange(via, target)
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    await loop.create_connection(
                        lambda exchange=exchange: exchange,  # type: ignore[misc]  # binds the loop's variable
                        *(target if via.kind == "direct" else via.address),
                    )
                    await exchange.done
            except (OSError, FlowError, TimeoutError) as error:
                failures.append(str(error) or type(error).__name__)
                continue
            finally:
                exchange.abort()
            times.append(time.perf_counter() - begin)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    if not times:
        raise FlowError(f"no request succeeded: {failures[0] if failures else 'none was made'}")
    return {"requests": len(times), "failures": len(failures), "seconds": elapsed, **_percentiles(times)}


class _Exchange(asyncio.Protocol):
    """One connection: SOCKS5 if wanted, one GET, one answer of ``ANSWER`` bytes."""

    def __init__(self, via: Via, target: tuple[str, int]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._target = target
        self._steps: list[Callable[[], bool]] = [self._greeted, self._replied] if via.kind == "socks5" else []
        self._steps.append(self._answered)
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._first = b"\x05\x01\x00" if via.kind == "socks5" else _get(target, absolute=via.kind == "http")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            if self._steps and self._steps[0]():
                self._steps.pop(0)
        except FlowError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if exc is not None else FlowError("the connection was closed early"))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self.done.done() and not self.done.cancelled():
            self.done.exception()  # seen here in case nobody waited for it any more
        else:
            self.done.cancel()

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def _greeted(self) -> bool:
        if len(self._data) < 2:
            return False
        self._data = b""
        self._send(socks_request(self._target))
        return True

    def _replied(self) -> bool:
        if len(self._data) < 10:  # the shortest reply; a longer one comes in the same segment
            return False
        if self._data[1] != 0:
            raise FlowError(f"SOCKS5 request answered with code {self._data[1]}")
        self._data = b""
        self._send(_get(self._target))
        return True

    def _answered(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or len(self._data) < end + 4 + ANSWER:
            return False
        if b" 200 " not in self._data[:20]:
            raise FlowError(f"HTTP answer {self._data[:40]!r}")
        self.done.set_result(None)
        return True

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


def latency(via: Via, target: tuple[str, int], count: int, seconds: float) -> dict[str, Any]:
    """One connection after the other: p50 and p99 in seconds from connect to the first byte of the answer."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < count and time.perf_counter() < deadline:
        begin = time.perf_counter()
        with connect(via, target) as sock:
            sock.sendall(_get(target))
            sock.recv(1)
            times.append(time.perf_counter() - begin)
            receive_head(sock)
    if not times:
        raise FlowError("no request was made in time")
    return {"requests": len(times), **_percentiles(times)}


def idle(via: Via, target: tuple[str, int], count: int, seconds: float) -> dict[str, Any]:
    """Open count flows, move one byte on each, and keep them open until standard input ends.

    Writes how many are open when they are, as one line of JSON, which is also returned: open, failures, seconds.
    """
    start = time.perf_counter()
    socks: list[socket.socket] = []
    failure = ""
    try:
        while len(socks) < count and time.perf_counter() < start + seconds:
            sock = connect(via, target)
            socks.append(sock)
            sock.sendall(b"GET /1 HTTP/1.1\r\nHost: origin\r\n\r\n")
            _, body = receive_head(sock)
            receive_exactly(sock, 1 - len(body))
    except (OSError, FlowError) as error:
        failure = str(error)
    return {"open": len(socks), "failure": failure, "seconds": time.perf_counter() - start, "sockets": socks}


def hold(result: dict[str, Any]) -> None:
    """Keep what ``idle`` has opened until standard input ends."""
    sys.stdin.buffer.read()
    for sock in result.pop("sockets"):
        sock.close()


def round_trips(via: Via, target: tuple[str, int], count: int, seconds: float) -> dict[str, Any]:
    """On a long path, one flow after the other, medians in seconds.

    reply: from the SOCKS request (for direct: from connect) to its success. first_byte: from then to the first byte of
    the answer. total: from the application's connect to the first byte, with the greeting, so that a proxy at the far
    end of the path pays for being there. For a forwarded HTTP request there is only the total.
    """
    trips: list[tuple[float, float, float]] = []
    deadline = time.perf_counter() + seconds
    while len(trips) < count and time.perf_counter() < deadline:
        trips.append(_round_trip(via, target))
    if not trips:
        raise FlowError("no request was made in time")
    reply, first_byte, total = (statistics.median(times) for times in zip(*trips, strict=True))
    result = {"requests": len(trips), "total": total}
    if via.kind != "http":
        result |= {"reply": reply, "first_byte": first_byte}
    return result


def _round_trip(via: Via, target: tuple[str, int]) -> tuple[float, float, float]:
    begin = requested = time.perf_counter()
    with connect(Via("direct"), target if via.kind == "direct" else via.address) as sock:
        if via.kind == "socks5":
            sock.sendall(b"\x05\x01\x00")
            receive_exactly(sock, 2)
            requested = time.perf_counter()
            sock.sendall(socks_request(target))
            receive_reply(sock)
        replied = time.perf_counter()
        sock.sendall(_get(target, absolute=via.kind == "http"))
        if not sock.recv(1, socket.MSG_PEEK):
            raise FlowError("the connection was closed before the answer")
        answered = time.perf_counter()
        receive_head(sock)
    return replied - requested, answered - replied, answered - begin


def _get(target: tuple[str, int], *, absolute: bool = False) -> bytes:
    host = f"{target[0]}:{target[1]}"
    path = f"http://{host}/{ANSWER}" if absolute else f"/{ANSWER}"
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def _percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]}
