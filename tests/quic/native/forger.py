"""A peer made by hand: it owns the keys, puts any frames whatever into authentic packets, and reads what comes back.

``Forger`` faces a bare ``Connection``, driven as its session drives it; what it raises other than PeerError fails the
test. ``parse`` and the frame makers know RFC 9000 §19 by themselves, so that they do not share a mistake with the engine.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import PeerParameters
from quicsocks.userspace.quic.errors import End, Ended, PeerError
from quicsocks.userspace.quic.native.connection import Connection
from quicsocks.userspace.quic.native.crypto import header_key, next_packet_key, packet_key
from quicsocks.userspace.quic.native.stream import Stream
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Limits, Priority

from ..recorders import StreamLog

SUITE = 0x1301
VERSION = 1
CID = 8
"""Octets of every connection ID here."""
TO_VICTIM, FROM_VICTIM = bytes([1]) * 32, bytes([2]) * 32
ROUTE = Route(("192.0.2.1", 443), ("198.51.100.7", 4000))
MOST_ROUNDS = 10_000
HEARD = 24
"""Packets that are kept whole."""
Parsed = tuple[int, ...]
"""Of a frame: its type and its integers, in the RFC's order."""


# --- Frames -----------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """RFC 9000 §16, in as few octets as it takes."""
    for octets, prefix in ((1, 0), (2, 0x40), (4, 0x80), (8, 0xC0)):
        if value < 1 << (8 * octets - 2):
            return (value | prefix << (8 * octets - 8)).to_bytes(octets, "big")
    raise ValueError(value)


def frame(kind: int, *fields: int, tail: bytes = b"") -> bytes:
    """Any frame that is made of integers, and what follows them."""
    return b"".join(map(varint, (kind, *fields))) + tail


def stream(number: int, offset: int = 0, data: bytes = b"", *, fin: bool = False) -> bytes:
    return frame(0x0E | fin, number, offset, len(data), tail=data)


def ack(largest: int, first: int = 0, *ranges: tuple[int, int], delay: int = 0, count: int | None = None) -> bytes:
    """ranges: (Gap, ACK Range Length). count: instead of how many there are."""
    flat = [number for pair in ranges for number in pair]
    return frame(0x02, largest, delay, len(ranges) if count is None else count, first, *flat)


def crypto(offset: int, data: bytes) -> bytes:
    return frame(0x06, offset, len(data), tail=data)


def new_connection_id(sequence: int, prior: int = 0, cid: bytes | None = None, token: bytes | None = None) -> bytes:
    cid = cid if cid is not None else sequence.to_bytes(CID, "big")
    token = token if token is not None else sequence.to_bytes(16, "big")
    return frame(0x18, sequence, prior, tail=bytes([len(cid)]) + cid + token)


def path_challenge(data: int) -> bytes:
    return b"\x1a" + data.to_bytes(8, "big")


INTEGERS = {
    0x01: 0, 0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x12: 1, 0x13: 1, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1, 0x19: 1, 0x1E: 0,
    0x1F: 0, 0xAF: 4,
}  # fmt: skip
"""How many integers follow the type of a frame that holds nothing else."""


def parse(payload: bytes) -> list[Parsed]:
    """Every frame of a packet. Raises IndexError, KeyError for what is no frame: the engine must not send that."""
    at, frames = 0, list[Parsed]()

    def number() -> int:
        nonlocal at
        octets = 1 << (payload[at] >> 6)
        value = int.from_bytes(payload[at : at + octets], "big") & ((1 << (8 * octets - 2)) - 1)
        if at + octets > len(payload):
            raise IndexError
        at += octets
        return value

    def skip(octets: int) -> None:
        nonlocal at
        at += octets
        if at > len(payload):
            raise IndexError

    while at < len(payload):
        kind = number()
        if kind == 0:
            continue
        found = [kind]
        if kind in (0x02, 0x03):
            found += [number(), number(), number()]
            found += [number() for _ in range(1 + 2 * found[3] + (3 if kind == 3 else 0))]
        elif kind == 0x06:
            found += [number(), number()]
            skip(found[-1])
        elif 0x08 <= kind < 0x10:
            found += [number(), number() if kind & 4 else 0]
            found.append(number() if kind & 2 else len(payload) - at)
            skip(found[-1])
        elif kind == 0x18:
            found += [number(), number()]
            skip(1 + payload[at] + 16)
        elif kind in (0x1A, 0x1B):
            found.append(int.from_bytes(payload[at : at + 8], "big"))
            skip(8)
        elif kind in (0x1C, 0x1D):
            found += [number() for _ in range(2 if kind == 0x1C else 1)]
            skip(number())
        elif kind == 0x31:
            found.append(number())
            skip(found[-1])
        else:
            found += [number() for _ in range(INTEGERS[kind])]
        frames.append(tuple(found))
    return frames


# --- Packets ----------------------------------------------------------------------------------------------------------


class Sealer:
    """Makes 1-RTT packets under one secret, and reads those under another."""

    def __init__(self, sends: bytes, reads: bytes, suite: int = SUITE, version: int = VERSION) -> None:
        self.version = version
        self.key = packet_key(suite, sends, version, True)
        self.openers = [packet_key(suite, reads, version, False)]
        self.masks = header_key(suite, sends, version), header_key(suite, reads, version)
        self.phase = 0
        self.expected = 0

    def update(self) -> None:
        """Seal with the next key phase's key from now on. Reading follows by itself."""
        self.key = next_packet_key(self.key, self.version)
        self.phase ^= 1

    def seal(self, cid: bytes, payload: bytes, number: int, bits: int = 0) -> bytes:
        """bits: added to the first octet before it is protected. The number takes four octets."""
        header = bytes([0x43 | self.phase << 2 | bits]) + cid + (number & 0xFFFFFFFF).to_bytes(4, "big")
        packet = bytearray(self.key.protected(header, payload, number))
        at = 1 + len(cid)
        mask = self.masks[0].mask_of(bytes(packet[at + 4 : at + 20]))
        packet[0] ^= mask[0] & 0x1F
        for i in range(4):
            packet[at + i] ^= mask[1 + i]
        return bytes(packet)

    def open(self, packet: bytes, cid: int = CID) -> tuple[int, bytes]:
        """The packet number (RFC 9000 §A.3) and the payload. cid: octets."""
        head, at = bytearray(packet), 1 + cid
        mask = self.masks[1].mask_of(packet[at + 4 : at + 20])
        head[0] ^= mask[0] & 0x1F
        octets = (head[0] & 3) + 1
        for i in range(octets):
            head[at + i] ^= mask[1 + i]
        window = 1 << (8 * octets)
        number = int.from_bytes(head[at : at + octets], "big")
        number = min((number + turn * window for turn in range(self.expected // window + 2)), key=self._distance)
        for generation in range(len(self.openers), -1, -1):
            if generation == len(self.openers):
                key = next_packet_key(self.openers[-1], self.version)
            else:
                key = self.openers[generation]
            payload = key.unprotected(bytes(head[: at + octets]), packet[at + octets :], number)
            if payload is not None:
                self.openers += [key] * (generation == len(self.openers))
                self.expected = max(self.expected, number + 1)
                return number, payload
        raise ValueError("a packet that does not open")

    def _distance(self, number: int) -> int:
        return abs(number - self.expected)


PARAMETERS = PeerParameters(
    initial_max_data=1 << 20,
    initial_max_stream_data_bidi_local=1 << 16,
    initial_max_stream_data_bidi_remote=1 << 16,
    initial_max_stream_data_uni=1 << 16,
    initial_max_streams_bidi=20,
    initial_max_streams_uni=5,
    active_connection_id_limit=4,
    max_idle_timeout=30.0,
    max_datagram_frame_size=1000,
)


@dataclass
class Forger:
    """role: the victim's. received: frames that have come back, in order. numbers: of the packets that brought them. heard: the
    last of these by packet, with its route. sent_back, sent_to: octets.
    code: of the CONNECTION_CLOSE among the frames. opened, logs: streams, by the victim's own account.
    peer_cid: of the forger's. early: the handshake is not complete yet; see ``complete``."""

    role: str = "server"
    limits: Limits = field(default_factory=Limits)
    parameters: PeerParameters = PARAMETERS
    seed: int = 0
    take: bool = True
    consume: bool = True
    early: bool = False
    peer_cid: bytes = bytes(CID)

    def __post_init__(self) -> None:
        self.now = 100.0
        self.random = random.Random(self.seed)
        self.sealer = Sealer(TO_VICTIM, FROM_VICTIM)
        self.number = 0
        self.received: list[Parsed] = []
        self.numbers: list[int] = []
        self.sent_back = 0
        self.sent_to: Counter[Route] = Counter()
        self.heard: deque[tuple[Route, bytes, list[Parsed]]] = deque(maxlen=HEARD)
        self.code: int | None = None
        self.reason = ""
        self.events: list[tuple[Any, ...]] = []
        self.opened: list[Stream] = []
        self.logs: dict[int, StreamLog] = {}
        self.wakes = 0
        self._cids = 0
        self.connection = Connection(
            is_client=self.role == "client",
            limits=self.limits,
            random_bytes=self.random.randbytes,
            new_cid=self._new_cid,
            reset_token=lambda cid: bytes(16),
            waker=self._wake,
            own_cid=bytes(CID),
            route=ROUTE,
            now=self.now,
        )
        self.connection.set_peer(self.parameters, self.peer_cid, bytes(16))
        if not self.early:
            self.complete()

    def complete(self) -> None:
        """The handshake, for the victim."""
        self.connection.install_key(False, SUITE, TO_VICTIM, VERSION)
        self.connection.install_key(True, SUITE, FROM_VICTIM, VERSION)
        self.connection.confirm(self.now)

    @property
    def ours(self) -> int:
        """0 or 1: the last bit of stream IDs that the forger opens."""
        return 0 if self.role == "server" else 1

    @property
    def theirs(self) -> int:
        """The same of the victim's."""
        return 1 - self.ours

    def _new_cid(self) -> bytes:
        self._cids += 1
        return self._cids.to_bytes(CID, "big")

    def _wake(self) -> None:
        self.wakes += 1

    def send(
        self, *frames: bytes, number: int | None = None, bits: int = 0, route: Route = ROUTE, cid: bytes = bytes(CID)
    ) -> Forger:
        """One packet of these frames, padded to the least that can be protected; and hear what it says to that."""
        self.put(b"".join(frames).ljust(4, b"\0"), number=number, bits=bits, route=route, cid=cid)
        return self.hear()

    def put(
        self,
        payload: bytes,
        *,
        number: int | None = None,
        bits: int = 0,
        route: Route = ROUTE,
        cid: bytes = bytes(CID),
    ) -> None:
        """One packet of just this, without hearing."""
        number = number if number is not None else self.number
        self.number = max(self.number, number + 1)
        self.give(self.sealer.seal(cid, payload, number, bits), route)

    def give(self, packet: bytes, route: Route = ROUTE) -> None:
        try:
            self.connection.receive(packet, route, self.now)
            self._follow()
        except PeerError as error:
            self._refuse(error)

    def hear(self) -> Forger:
        """Until it has nothing more to say at this time."""
        for _ in range(MOST_ROUNDS):
            try:
                self._follow()
                datagrams = self.connection.datagrams_to_send(self.now)
            except PeerError as error:
                self._refuse(error)
                continue
            for packet, route in datagrams:
                self.sent_back += len(packet)
                self.sent_to[route] += len(packet)
                number, payload = self._open(packet)
                self.numbers.append(number)
                frames = parse(payload)
                self.heard.append((route, packet, frames))
                self.received += frames
                for found in frames:
                    if found[0] == 0x1C:
                        self.code = found[1]
            if not datagrams:
                return self
        raise AssertionError("it never comes to rest")

    def _open(self, packet: bytes) -> tuple[int, bytes]:
        for length in (len(self.peer_cid), *range(1, 21)):  # It may have been given an ID of any length.
            try:
                return self.sealer.open(packet, length)
            except ValueError:
                continue
        raise AssertionError("a packet that does not open")

    def wait(self, seconds: float) -> Forger:
        """Let so much time pass, with the victim's timers."""
        end = self.now + seconds
        for _ in range(MOST_ROUNDS):
            timer = self.connection.next_timer()
            if timer > end or self.connection.is_terminated:
                self.now = end
                return self.hear()
            self.now = max(self.now + 1e-6, timer)
            self.connection.handle_timer(self.now)
            self.hear()
        raise AssertionError("its timers never come to rest")

    def kinds(self, kind: int) -> list[Parsed]:
        """Frames of that type that have come back; STREAM: of any flags."""
        if kind == 0x08:
            return [found for found in self.received if 0x08 <= found[0] < 0x10]
        return [found for found in self.received if found[0] == kind]

    def acknowledge(self) -> Forger:
        """All that has come back, as an honest peer would."""
        ranges: list[list[int]] = []
        for number in sorted(set(self.numbers), reverse=True)[:200]:
            if ranges and ranges[-1][0] == number + 1:
                ranges[-1][0] = number
            else:
                ranges.append([number, number])
        if not ranges:
            return self
        low, high = ranges[0]
        rest = []
        for below, above in ranges[1:]:
            rest.append((low - above - 2, above - below))
            low = below
        return self.send(ack(high, high - ranges[0][0], *rest))

    def open_local(self, bidirectional: bool = True) -> StreamLog:
        """A stream of the victim's own."""
        log = StreamLog(self.connection.open_stream(bidirectional, Priority.NORMAL), self.consume)
        self.logs[log.stream.id] = log
        return log

    def _follow(self) -> None:
        self.events += self.connection.take_events()
        self.connection.tell(self._stream_opened)

    def _stream_opened(self, new: Stream) -> None:
        self.opened.append(new)
        if self.take:
            self.logs[new.id] = StreamLog(new, self.consume)

    def _refuse(self, error: PeerError) -> None:
        self.reason = str(error)
        self.connection.close(error.code, False, str(error), self.now)
        for lost in self.connection.end_streams(Ended(End.LOCAL_TRANSPORT, error.code, str(error))):
            lost.end(Ended(End.LOCAL_TRANSPORT, error.code, str(error)))
