"""A peer that speaks TCP by hand to one stack, on a clock that jumps: the tests' vocabulary.

Numbers are relative: 0 is the SYN of whoever sent it, octets begin at 1. What is sent to the stack is made here, what the
stack sends is checked by scapy (lengths, checksums) and read by ``header.look``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from quicsocks.netstack.stack import Stack, StackOptions
from quicsocks.netstack.tcp.connection import Connection
from quicsocks.netstack.tcp.header import look
from quicsocks.netstack.tcp.types import Ended, Options
from tests.netstack.packets import parsed

LETTERS = "FSRPAUEC"
HERE4, THERE4 = "192.0.2.1", "198.51.100.7"
HERE6, THERE6 = "2001:db8::1", "2001:db8:ffff::7"
ISN = 0xFFFFFF00
"""The peer's: its numbers wrap around soon."""


@dataclass(frozen=True)
class Segment:
    """What the stack has sent, numbers relative to both SYNs."""

    flags: str
    seq: int
    ack: int
    data: bytes = b""
    window: int = 0
    mss: int | None = None
    scale: int | None = None
    sack_ok: bool = False
    stamps: tuple[int, int] | None = None
    sacks: tuple[tuple[int, int], ...] = ()
    ecn: int = 0
    at: float = 0.0
    size: int = 0
    raw_seq: int = 0
    raw_ack: int = 0

    def __str__(self) -> str:
        numbers = f"{self.seq}:{self.seq + len(self.data)} ack {self.ack} win {self.window}"
        return f"{self.at:.3f} {self.flags} {numbers} {self.sacks}"


def flags_of(letters: str) -> int:
    return sum(1 << LETTERS.index(letter) for letter in letters)


def letters_of(flags: int) -> str:
    return "".join(letter for index, letter in enumerate(LETTERS) if flags >> index & 1)


def ones_sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packet_of(source: str, destination: str, segment: bytes, *, traffic: int = 0, hops: int = 64) -> bytes:
    """An IP packet around a TCP segment whose checksum is put in here."""
    a, b = ip_address(source).packed, ip_address(destination).packed
    pseudo = a + b + struct.pack("!II", len(segment), 6)
    segment = segment[:16] + b"\0\0" + segment[18:]
    segment = segment[:16] + struct.pack("!H", ones_sum(pseudo + segment) ^ 0xFFFF) + segment[18:]
    if len(a) == 16:
        return struct.pack("!IHBB", 6 << 28 | traffic << 20, len(segment), 6, hops) + a + b + segment
    header = struct.pack("!BBHHHBBH", 0x45, traffic, 20 + len(segment), 0, 0x4000, hops, 6, 0) + a + b
    return header[:10] + struct.pack("!H", ones_sum(header) ^ 0xFFFF) + header[12:] + segment


@dataclass
class Recorder:
    """A handler that writes down what it is told, and returns credit unless it is told not to."""

    consume: bool = True
    events: list[Any] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    connection: Connection | None = None

    def connected(self) -> None:
        self.events.append("connected")

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data
        if self.consume:
            assert self.connection is not None
            self.connection.consumed(len(data))

    def eof_received(self) -> None:
        self.events.append("eof")

    def reset_received(self, code: int) -> None:
        self.events.append("reset")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def send_completed(self) -> None:
        self.events.append("sent")

    def connection_lost(self, ended: Ended) -> None:
        self.events.append(ended.end.name)


class Peer:
    """The stack under test is at HERE, the peer at THERE. options: of TCP. mss, scale, sack, stamps: of the peer's SYN."""

    def __init__(
        self,
        *,
        v6: bool = False,
        options: Options | None = None,
        mtu: int = 1500,
        mss: int | None = 1460,
        scale: int | None = None,
        sack: bool = True,
        stamps: bool = False,
        window: int = 65535,
        takes_all: bool = False,
        now: float = 1000.0,
    ) -> None:
        self.here, self.there = (HERE6, THERE6) if v6 else (HERE4, THERE4)
        self.now = now
        self.woken = 0
        self.stack = Stack(
            StackOptions(addresses=(self.here,), mtu=mtu, tcp=options, takes_all=takes_all),
            random_bytes=lambda size: bytes(range(7, 7 + size)),
            now=now,
        )
        self.tcp = self.stack.tcp
        self.mss, self.scale, self.sack_ok, self.stamped = mss, scale, sack, stamps
        self.window = window
        self.isn = ISN
        self.stack_isn = 0
        self.port, self.stack_port = 5000, 80
        self.handler = Recorder()
        self.connection: Connection = None  # type: ignore[assignment] # until there is one
        self.ts_recent = 0
        self.clock_offset = 12345

    # Sending to the stack.

    def clock(self) -> int:
        return (int(self.now * 1000) + self.clock_offset) & 0xFFFFFFFF

    def segment(
        self,
        flags: str,
        seq: int,
        ack: int = 0,
        data: bytes = b"",
        *,
        window: int | None = None,
        options: bytes | None = None,
        stamps: tuple[int, int] | bool | None = True,
        sacks: tuple[tuple[int, int], ...] = (),
        ecn: int = 0,
        raw_ack: int | None = None,
        sport: int | None = None,
        dport: int | None = None,
        urgent: int = 0,
    ) -> bytes:
        """A packet. stamps: True for what there should be, None for none, or (value, echo)."""
        if options is None:
            options = b""
            if "S" in flags:
                if self.mss is not None:
                    options += struct.pack("!BBH", 2, 4, self.mss)
                if self.sack_ok:
                    options += b"\1\1\4\2"
                if self.scale is not None:
                    options += struct.pack("!BBBB", 1, 3, 3, self.scale)
            if stamps is True:
                stamps = (self.clock(), self.ts_recent) if self.stamped else None
            if isinstance(stamps, tuple):
                options += struct.pack("!IIII", 0x0101080A, stamps[0] & 0xFFFFFFFF, stamps[1] & 0xFFFFFFFF, 0)[:12]
            if sacks:
                options += struct.pack("!BBBB", 1, 1, 5, 2 + 8 * len(sacks))
                for start, stop in sacks:
                    options += struct.pack("!II", self._ours(start), self._ours(stop))
        options = options[:40] + b"\0" * (-len(options[:40]) % 4)
        wire_ack = (self._ours(ack) if "A" in flags else 0) if raw_ack is None else raw_ack
        head = struct.pack(
            "!HHIIBBHHH",
            self.port if sport is None else sport,
            self.stack_port if dport is None else dport,
            (self.isn + seq) & 0xFFFFFFFF,
            wire_ack,
            (20 + len(options)) << 2,
            flags_of(flags),
            (self.window if window is None else window) & 0xFFFF,
            0,
            urgent,
        )
        return packet_of(self.there, self.here, head + options + data, traffic=ecn)

    def _ours(self, number: int) -> int:
        return (self.stack_isn + number) & 0xFFFFFFFF

    def send(self, flags: str, seq: int, ack: int = 0, data: bytes = b"", **fields: Any) -> None:
        self.stack.receive(self.segment(flags, seq, ack, data, **fields), self.now)
        self.stack.tell()

    # From the stack.

    def read(self, packet: bytes) -> Segment:
        found = parsed(packet)
        seen = look(packet)
        assert seen is not None, packet.hex()
        assert (str(found.src), str(found.dst)) == (self.here, self.there)
        if "S" in letters_of(seen["flags"]):
            self.stack_isn = seen["sequence"]
            self.stack_port = seen["source_port"]
        if seen["timestamps"]:
            self.ts_recent = seen["timestamps"][0]
        return Segment(
            flags=letters_of(seen["flags"]),
            seq=(seen["sequence"] - self.stack_isn) & 0xFFFFFFFF,
            ack=(seen["acknowledgement"] - self.isn) & 0xFFFFFFFF if seen["flags"] & 16 else 0,
            data=seen["data"],
            window=seen["window"],
            mss=seen["mss"],
            scale=seen["scale"],
            sack_ok=seen["sack_permitted"],
            stamps=seen["timestamps"],
            sacks=tuple(
                ((start - self.isn) & 0xFFFFFFFF, (stop - self.isn) & 0xFFFFFFFF) for start, stop in seen["sacks"]
            ),
            ecn=(found.tc if ":" in self.here else found.tos) & 3,
            at=self.now,
            size=len(packet),
            raw_seq=seen["sequence"],
            raw_ack=seen["acknowledgement"],
        )

    def packets(self) -> list[bytes]:
        found: list[bytes] = []
        while packets := self.stack.packets_to_send(self.now):
            found += packets
            assert len(found) < 10000, "it does not stop sending"
        self.stack.tell()
        self.stack.rest()
        return found

    def got(self) -> list[Segment]:
        """What the stack sends now."""
        return [self.read(packet) for packet in self.packets()]

    def one(self, flags: str | None = None) -> Segment:
        segments = self.got()
        assert len(segments) == 1, [str(segment) for segment in segments]
        assert flags is None or segments[0].flags == flags, str(segments[0])
        return segments[0]

    def nothing(self) -> None:
        segments = self.got()
        assert not segments, [str(segment) for segment in segments]

    def advance(self, seconds: float) -> list[Segment]:
        """What the stack sends until then, each when its time comes."""
        found = self.got()
        end = self.now + seconds
        for _ in range(100000):
            due = self.stack.next_timer()
            if due > end:
                break
            self.now = max(self.now, due)
            self.stack.handle_timer(self.now)
            found += self.got()
        else:
            raise AssertionError("its timers do not stop")
        self.now = end
        return found

    def wait(self, most: float = 1000.0) -> Segment:
        """The next segment that a timer brings, at its time."""
        end = self.now + most
        while (due := self.stack.next_timer()) <= end:
            self.now = max(self.now, due)
            self.stack.handle_timer(self.now)
            segments = self.got()
            if segments:
                assert len(segments) == 1, [str(segment) for segment in segments]
                return segments[0]
        raise AssertionError(f"nothing in {most} s")

    # Handshakes.

    def accept(self, connection: Connection) -> None:
        self.connection = self.handler.connection = connection
        connection.set_handler(self.handler)

    def listen(self, port: int = 80, **fields: Any) -> None:
        self.stack_port = port
        self.tcp.listen(port, self.accept, **fields)

    def establish_passive(self) -> Segment:
        """The peer connects. The SYN-ACK."""
        self.listen()
        self.send("S", 0)
        answer = self.one("SA")
        self.send("A", 1, 1)
        self.nothing()
        assert self.handler.events == ["connected"]
        return answer

    def connect(self) -> Segment:
        """The stack begins to connect. Its SYN."""
        self.connection = self.handler.connection = self.tcp.connect(self.there, self.port, self.handler)
        return self.one()

    def establish(self) -> Segment:
        """The stack connects. Its SYN."""
        syn = self.connect()
        self.now += 0.1
        self.send("SA", 0, 1)
        self.one("A")
        assert self.handler.events == ["connected"]
        return syn

    @property
    def statistics(self) -> dict[str, Any]:
        return self.connection.statistics()

    @property
    def state(self) -> str:
        return self.connection.state

    def events(self) -> Iterator[Any]:
        """What the handler has been told since the last time."""
        found, self.handler.events = self.handler.events, []
        return iter(found)
