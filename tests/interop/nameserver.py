"""A name server that only the exit's side can reach: a table of names, and names that misbehave.

Read RFC 1035 §4 and RFC 7766 (DNS over TCP) first. It answers with dnspython from a table and records every question,
so that a test can say who asked what. It must never ask anybody else.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.interop.places import Place

SILENT = "silent"
"""A table entry that is never answered."""
BROKEN = "broken"
"""A table entry that is answered with SERVFAIL."""
TTL = 0
"""No cache may hide a question from the record."""


class NameServer:
    """names: name (no trailing dot) -> addresses, or SILENT, or BROKEN. Others do not exist (NXDOMAIN)."""

    def __init__(self, place: Place, host: str, names: Mapping[str, Sequence[str]], port: int = 53) -> None:
        self.names = dict(names)
        self.questions: list[tuple[str, str]] = []
        """(name in lower case, source address), in order."""
        self._udp = place.open_socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((host, port))
        self.port = int(self._udp.getsockname()[1])
        self._tcp = place.listen(host, self.port)
        self._tcp.setblocking(False)
        self._udp.setblocking(False)
        self._stop_in, self._stop_out = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="nameserver", daemon=True)
        self._thread.start()

    def asked(self, name: str) -> list[str]:
        """The source addresses of all questions for name."""
        return [source for question, source in list(self.questions) if question == name]

    def close(self) -> None:
        self._stop_out.send(b"x")
        self._thread.join(5)
        for sock in (self._udp, self._tcp, self._stop_in, self._stop_out):
            sock.close()

    def _serve(self) -> None:
        streams: dict[socket.socket, bytearray] = {}
        with selectors.DefaultSelector() as selector:
            for sock in (self._udp, self._tcp, self._stop_in):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    if ready is self._stop_in:
                        for stream in streams:
                            stream.close()
                        return
                    if ready is self._udp:
                        with suppress(OSError):
                            self._udp_question()
                    elif ready is self._tcp:
                        stream, _ = self._tcp.accept()
                        stream.settimeout(2)
                        streams[stream] = bytearray()
                        selector.register(stream, selectors.EVENT_READ)
                    elif not self._tcp_question(ready, streams[ready]):
                        selector.unregister(ready)
                        del streams[ready]
                        ready.close()

    def _udp_question(self) -> None:
        data, source = self._udp.recvfrom(4096)
        if answer := self._answer(data, source[0]):
            self._udp.sendto(answer, source)

    def _tcp_question(self, stream: socket.socket, buffer: bytearray) -> bool:
        try:
            data = stream.recv(4096)
            if not data:
                return False
            buffer += data
            source = stream.getpeername()[0]
            while len(buffer) >= 2 and len(buffer) >= (size := 2 + struct.unpack_from("!H", buffer)[0]):
                if answer := self._answer(bytes(buffer[2:size]), source):
                    stream.sendall(struct.pack("!H", len(answer)) + answer)
                del buffer[:size]
        except OSError:
            return False
        return True

    def _answer(self, data: bytes, source: str) -> bytes | None:
        try:
            query = dns.message.from_wire(data)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        name = question.name.to_text(omit_final_dot=True).lower()
        self.questions.append((name, source))
        known = self.names.get(name)
        if known == SILENT:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        if known is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif known == BROKEN:
            response.set_rcode(dns.rcode.SERVFAIL)
        else:
            kind = dns.rdatatype.to_text(question.rdtype)
            wanted = [address for address in known if (":" in address) == (kind == "AAAA")]
            if kind in ("A", "AAAA") and wanted:
                response.answer.append(dns.rrset.from_text_list(question.name, TTL, "IN", kind, wanted))
        return response.to_wire()
