"""Moving many bytes over a few flows for a bounded time, and counting those that have arrived at the receiver.

Read bench/origin.py for the requests. Received bytes are dropped in the kernel (MSG_TRUNC) and sent ones come from
memory by sendfile, so that the load generator takes little of the processors from what it measures.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import socket
import time
import uuid
from typing import Any

from bench.flows import FlowError, Via, connect, receive_exactly, receive_head
from bench.origin import CHUNK, PATTERN_SIZE, pattern


def verify(via: Via, target: tuple[str, int], size: int, seconds: float) -> dict[str, Any]:
    """Move size bytes (up to 4 MiB) in each direction and compare every one. Raises FlowError, OSError.

    seconds: for each step of it.
    """
    expected = pattern()[:size]
    with connect(via, target, seconds) as sock:
        sock.sendall(_head(f"GET /{size}"))
        _, body = receive_head(sock)
        body += receive_exactly(sock, size - len(body))
        if hashlib.sha256(body).digest() != hashlib.sha256(expected).digest():
            raise FlowError("the bytes that came are not those that the origin sent")
        sock.sendall(_head(f"POST /absorb/{uuid.uuid4().hex}", size) + expected)
        _, answer = receive_head(sock)
        if int(answer) != size:
            raise FlowError(f"{int(answer)} of {size} bytes were received")
    return {"bytes": 2 * size}


def download(via: Via, target: tuple[str, int], flows: int, size: int, seconds: float) -> dict[str, Any]:
    """Fetch size bytes in all over so many flows at once, for at most so many seconds.

    Returns bytes, seconds, complete: whether all came before the time was up; and jain: Jain's fairness index of what the
    flows had got when the first was complete, or the time was up; and late_bytes, late_seconds: of the second half of the
    time, when the start is over.
    """
    share = size // flows
    fairness = None
    socks = [connect(via, target) for _ in range(flows)]
    sink = bytearray(CHUNK)
    left = dict.fromkeys(socks, share)
    try:
        with selectors.DefaultSelector() as selector:
            start = time.perf_counter()
            for sock in socks:
                sock.sendall(_head(f"GET /{share}"))
            for sock in socks:
                left[sock] -= len(receive_head(sock)[1])
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
            deadline = start + seconds
            half = start + seconds / 2
            late, late_from = 0, 0.0
            while any(left.values()) and (now := time.perf_counter()) < deadline:
                if not late and now >= half:
                    late, late_from = share * flows - sum(left.values()), now
                for key, _ in selector.select(deadline - now):
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    count = ready.recv_into(sink, CHUNK, socket.MSG_TRUNC)
                    if not count:
                        raise FlowError(f"a download ended {left[ready]} bytes early")
                    left[ready] -= count
                    if not left[ready]:
                        fairness = fairness or jain([share - rest for rest in left.values()])
                        selector.unregister(ready)
            elapsed = time.perf_counter() - start
    finally:
        for sock in socks:
            sock.close()
    fairness = fairness or jain([share - rest for rest in left.values()])
    result = _result(share * flows - sum(left.values()), elapsed, complete=not any(left.values()))
    if late:
        result |= {"late_bytes": result["bytes"] - late, "late_seconds": start + elapsed - late_from}
    return {**result, "jain": fairness}


def jain(shares: list[int]) -> float:
    """1 when all are equal, 1 / n when one has all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def upload(via: Via, target: tuple[str, int], flows: int, size: int, seconds: float) -> dict[str, Any]:
    """Send size bytes in all over so many flows at once, for at most so many seconds.

    Counted is what the origin has received: when the time is up, it is asked over a connection of its own, past the
    proxy. Returns as ``download``.
    """
    share = size // flows
    keys = [uuid.uuid4().hex for _ in range(flows)]
    socks = [connect(via, target) for _ in range(flows)]
    source = os.memfd_create("upload")
    os.write(source, pattern())
    left = dict.fromkeys(socks, share)
    answered = 0
    try:
        with selectors.DefaultSelector() as selector, connect(Via("direct"), target) as control:
            start = time.perf_counter()
            for sock, key in zip(socks, keys, strict=True):
                sock.sendall(_head(f"POST /absorb/{key}", share))
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_WRITE)
            deadline = start + seconds
            while answered < flows and (now := time.perf_counter()) < deadline:
                for key_, _ in selector.select(deadline - now):
                    ready = key_.fileobj
                    assert isinstance(ready, socket.socket)
                    if not left[ready]:
                        receive_head(ready)
                        selector.unregister(ready)
                        answered += 1
                        continue
                    offset = (share - left[ready]) % PATTERN_SIZE
                    chunk = min(CHUNK, left[ready], PATTERN_SIZE - offset)
                    left[ready] -= os.sendfile(ready.fileno(), source, offset, chunk)
                    if not left[ready]:
                        selector.modify(ready, selectors.EVENT_READ)
            total = share * flows
            if answered < flows:
                total = sum(_absorbed(control, key) for key in keys)
            elapsed = time.perf_counter() - start
    finally:
        os.close(source)
        for sock in socks:
            sock.close()
    return _result(total, elapsed, complete=answered == flows)


def _result(count: int, seconds: float, *, complete: bool) -> dict[str, Any]:
    if not count:
        raise FlowError(f"not one byte arrived in {seconds:.1f} s")
    return {"bytes": count, "seconds": seconds, "complete": complete}


def _absorbed(control: socket.socket, key: str) -> int:
    control.sendall(_head(f"GET /absorbed/{key}"))
    return int(receive_head(control)[1])


def _head(request: str, length: int | None = None) -> bytes:
    extra = f"Content-Length: {length}\r\n" if length is not None else ""
    return f"{request} HTTP/1.1\r\nHost: origin\r\n{extra}\r\n".encode()
