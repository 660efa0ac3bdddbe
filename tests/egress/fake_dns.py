"""A DNS server over a byte stream, in memory or on loopback, that answers as a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Reply = Callable[[dns.message.Message], list[bytes] | None]
"""Takes a question; returns the messages to send for it, or None to close the stream."""


def zone(records: dict[tuple[str, str], list[str]], ttl: int = 60, rcode: int = 0) -> Reply:
    """records: (name, type) to texts. A CNAME is followed within the answer, as recursive resolvers do."""

    def reply(question: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(question)
        response.flags |= dns.flags.RA
        name = question.question[0].name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        for _ in range(20):
            alias = records.get((name, "CNAME"))
            if alias is None:
                break
            response.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", "CNAME", alias[0] + "."))
            name = alias[0]
        if texts := records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(name + ".", ttl, "IN", kind, *texts))
        elif not any(known == name for known, _ in records):
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(
                dns.rrset.from_text("example.", ttl, "IN", "SOA", "ns.example. h.example. 1 2 3 4 20")
            )
        if rcode:
            response.set_rcode(dns.rcode.Rcode(rcode))
        return [response.to_wire()]

    return reply


class FakeStream:
    """The client's end of a stream to a server that runs in the test."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._buffer = bytearray()
        self.aborted = False

    async def read(self) -> bytes:
        return await self._inbox.get()

    def write(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            size = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + size:
                return
            question = dns.message.from_wire(bytes(self._buffer[2 : 2 + size]))
            del self._buffer[: 2 + size]
            self._server.asked.append(
                (question.question[0].name.to_text(), dns.rdatatype.to_text(question.question[0].rdtype))
            )
            replies = self._server.reply(question)
            if replies is None:
                self._inbox.put_nowait(b"")
            for message in replies or ():
                self.send(len(message).to_bytes(2, "big") + message)

    def send(self, data: bytes) -> None:
        step = self._server.step or len(data) or 1
        for start in range(0, len(data), step):
            self._inbox.put_nowait(data[start : start + step])

    def close(self) -> None:
        self._inbox.put_nowait(b"")

    def abort(self) -> None:
        self.aborted = True


class FakeServer:
    """step: bytes a read hands out at once; 0 for all."""

    def __init__(self, reply: Reply, step: int = 0) -> None:
        self.reply = reply
        self.step = step
        self.asked: list[tuple[str, str]] = []
        self.streams: list[FakeStream] = []

    async def open(self) -> FakeStream:
        self.streams.append(FakeStream(self))
        return self.streams[-1]
