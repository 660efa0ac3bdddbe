"""Flows for the soak: an origin and a driver in one event loop that check every byte of hundreds of flows at once.

Each flow begins with one line of JSON, its plan: how much goes up and down, and how it ends. Both ends know what the
bytes must be (a slice of one random block, named by the flow's number), so each checks the other. Endings:

* orderly: the client ends its direction first; the origin's hash of what it got comes behind its data.
* origin-first: the origin ends its direction first, while the client still sends.
* client-reset, origin-reset: one end resets half-way, and the other must be told so: a reset, not a FIN.

The driver records what went wrong as text and goes on; a test asserts that the list is empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Coroutine
from dataclasses import asdict, dataclass

from tests.interop.dialogue import NO_AUTHENTICATION, socks5_request

BLOCK = random.Random("soak").randbytes(8 << 20)
LARGEST = 1 << 20
ENDINGS = ("orderly", "origin-first", "client-reset", "origin-reset")
WEIGHTS = (60, 20, 10, 10)
STARTED = b"+"
"""What the origin says when it has read the plan."""
FLOW_TIMEOUT = 45.0
"""A flow that takes longer hangs: hundreds share some megabytes a second, and the largest is one megabyte."""


@dataclass(frozen=True, slots=True)
class Plan:
    """number: names the flow. up, down: sizes in bytes. ending: one of ENDINGS."""

    number: int
    up: int
    down: int
    ending: str

    def upload(self) -> memoryview:
        return self._slice(self.number * 7919, self.up)

    def download(self) -> memoryview:
        return self._slice(self.number * 104729 + 1, self.down)

    @staticmethod
    def _slice(start: int, size: int) -> memoryview:
        offset = start % (len(BLOCK) - LARGEST)
        return memoryview(BLOCK)[offset : offset + size]


def make_plan(number: int, source: random.Random) -> Plan:
    """Sizes from nothing to LARGEST, small ones most often."""
    up, down = (int(LARGEST ** source.random()) - 1 for _ in range(2))
    return Plan(number, up, down, source.choices(ENDINGS, WEIGHTS)[0])


class Origin:
    """The far end. corrupt: flips one byte of every download, to show that the driver notices."""

    def __init__(self, *, corrupt: bool = False) -> None:
        self._corrupt = corrupt
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: dict[int, asyncio.Future[str]] = {}
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._accepting = asyncio.ensure_future(self._accept())

    def verdict(self, number: int) -> asyncio.Future[str]:
        """What the origin saw of a flow: "" when all was right, otherwise what was not."""
        return self._waiters.setdefault(number, asyncio.get_running_loop().create_future())

    def forget(self, number: int) -> None:
        self._waiters.pop(number, None)

    async def close(self) -> None:
        self._accepting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            sock.setblocking(False)
            task = asyncio.ensure_future(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            line = bytearray()
            try:
                while not line.endswith(b"\n"):
                    if not (byte := await loop.sock_recv(sock, 1)):
                        return
                    line += byte
            except OSError:
                return
            plan = Plan(**json.loads(line))
            try:
                # A reset may overtake and destroy what was sent before it: the client does nothing until this comes.
                await loop.sock_sendall(sock, STARTED)
                said = await self._play(sock, plan)
            except OSError as error:
                expected = plan.ending == "client-reset" and isinstance(error, (ConnectionResetError, BrokenPipeError))
                said = "" if expected else f"the origin got {error!r}"
            verdict = self.verdict(plan.number)
            if not verdict.done():
                verdict.set_result(said)

    async def _play(self, sock: socket.socket, plan: Plan) -> str:
        loop = asyncio.get_running_loop()
        download = bytearray(plan.download())
        if self._corrupt and download:
            download[len(download) // 2] ^= 1
        if plan.ending == "origin-reset":
            await loop.sock_sendall(sock, download[: plan.down // 2])
            reset(sock)
            return ""
        if plan.ending == "origin-first":
            got = await both(read_to_end(sock), self._send_and_finish(sock, download))
        else:
            got = await both(read_to_end(sock), loop.sock_sendall(sock, download))
        if plan.ending == "client-reset":
            return "a FIN came where the client had reset"
        if plan.ending == "orderly":
            await loop.sock_sendall(sock, got.digest)
        if got.digest != hashlib.sha256(plan.upload()).digest():
            return f"the origin got {got.size} bytes of {plan.up}, or wrong ones"
        return ""

    async def _send_and_finish(self, sock: socket.socket, data: bytearray) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)


@dataclass(frozen=True, slots=True)
class Received:
    size: int
    digest: bytes
    tail: bytes
    """The last 32 bytes."""


class Driver:
    """Plays flows against origin: through the SOCKS5 proxy at proxy, or directly when that is None."""

    def __init__(self, origin: Origin, proxy: tuple[str, int] | None, seed: int) -> None:
        self.problems: list[str] = []
        self.played: Counter[str] = Counter()
        self.bytes = 0
        self._origin = origin
        self._proxy = proxy
        self._source = random.Random(seed)
        self._number = 0

    async def run(self, at_once: int, seconds: float) -> None:
        """Keep at_once flows going for seconds, then let them end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        await asyncio.gather(*(self._keep_going(deadline) for _ in range(at_once)))

    async def _keep_going(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < deadline and len(self.problems) < 20:
            self._number += 1
            plan = make_plan(self._number, self._source)
            try:
                async with asyncio.timeout(FLOW_TIMEOUT):
                    problem = await self._play(plan)
            except TimeoutError:
                problem = f"not over after {FLOW_TIMEOUT} s"
            except (OSError, EOFError) as error:
                problem = repr(error)
            self._origin.forget(plan.number)
            self.played[plan.ending] += 1
            if problem:
                self.problems.append(f"{plan}: {problem}")
            else:
                self.bytes += plan.up + plan.down

    async def _play(self, plan: Plan) -> str:
        loop = asyncio.get_running_loop()
        verdict = self._origin.verdict(plan.number)
        with socket.socket() as sock:
            sock.setblocking(False)
            await self._connect(sock)
            await loop.sock_sendall(sock, json.dumps(asdict(plan)).encode() + b"\n")
            try:
                if await loop.sock_recv(sock, 1) != STARTED:
                    return "the flow ended before it began"
                problem = await self._end(sock, plan)
            except ConnectionResetError:
                if plan.ending != "origin-reset":
                    raise
                problem = ""
        return problem or await verdict

    async def _end(self, sock: socket.socket, plan: Plan) -> str:
        loop = asyncio.get_running_loop()
        if plan.ending == "client-reset":
            await loop.sock_sendall(sock, plan.upload()[: plan.up // 2])
            reset(sock)
            return ""
        if plan.ending == "origin-reset":
            got = await read_to_end(sock)
            return f"a FIN came after {got.size} bytes where the origin had reset"
        tail_size = 32 if plan.ending == "orderly" else 0
        got = await both(read_to_end(sock, tail_size), self._send_and_finish(sock, plan.upload()))
        if got.digest != hashlib.sha256(plan.download()).digest():
            return f"{got.size} bytes of {plan.down} came down, or wrong ones"
        if plan.ending == "orderly" and got.tail != hashlib.sha256(plan.upload()).digest():
            return "the origin's hash of the upload is another"
        return ""

    async def _send_and_finish(self, sock: socket.socket, data: memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    async def _connect(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, self._proxy or ("127.0.0.1", self._origin.port))
        if self._proxy is None:
            return
        await loop.sock_sendall(sock, NO_AUTHENTICATION + socks5_request("127.0.0.1", self._origin.port))
        reply = b""
        while len(reply) < 12:
            if not (more := await loop.sock_recv(sock, 12 - len(reply))):
                raise EOFError(f"the proxy ended after {reply.hex()}")
            reply += more
        if reply[:5] != b"\x05\x00\x05\x00\x00":
            raise EOFError(f"the proxy refused: {reply.hex()}")


async def both(reading: Coroutine[None, None, Received], sending: Coroutine[None, None, None]) -> Received:
    """Run the two directions of a flow; when one fails, the other is ended before the socket can be closed."""
    tasks = asyncio.ensure_future(reading), asyncio.ensure_future(sending)
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return tasks[0].result()


async def read_to_end(sock: socket.socket, tail_size: int = 0) -> Received:
    """Read to the FIN. The last tail_size bytes are no part of size and digest."""
    loop = asyncio.get_running_loop()
    hasher = hashlib.sha256()
    size = 0
    held = b""
    while data := await loop.sock_recv(sock, 1 << 17):
        held += data
        ready = len(held) - tail_size
        if ready > 0:
            hasher.update(memoryview(held)[:ready])
            size += ready
            held = held[ready:]
    return Received(size, hasher.digest(), held)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
