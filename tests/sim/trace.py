"""Opens the packets of a capture with the secrets of a key log, as a dissector would: aioquic's cryptography, and a parser of
frames that is not the engine's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic.crypto import CryptoContext, CryptoPair, apply_key_phase, next_key_phase
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from aioquic.tls import CipherSuite

from quicsocks.userspace.quic.cid import LENGTH

from ..quic.native.forger import Parsed, parse
from .network import Datagram

INITIAL, HANDSHAKE, ONE_RTT, RETRY = (
    QuicPacketType.INITIAL, QuicPacketType.HANDSHAKE, QuicPacketType.ONE_RTT, QuicPacketType.RETRY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packet:
    """up: from the client. version: 0 of a short header. phase: of the key. token: of an Initial or a Retry."""

    datagram: Datagram
    up: bool
    kind: QuicPacketType
    version: int
    number: int = -1
    phase: int = 0
    token: bytes = b""
    frames: tuple[Parsed, ...] = ()


class _Space:
    """The packets of one kind, one way."""

    def __init__(self, context: CryptoContext) -> None:
        self.context = context
        self.expected = 0

    def open(self, data: bytes, header: int) -> tuple[int, tuple[Parsed, ...]]:
        """header: octets up to the packet number."""
        _, payload, number, turned = self.context.decrypt_packet(data, header, self.expected)
        if turned:
            apply_key_phase(self.context, next_key_phase(self.context), "seen")
        self.expected = max(self.expected, number + 1)
        return number, tuple(parse(payload))


class Trace:
    """All packets of one connection, in the order sent. Raises what cryptography raises for one that does not open."""

    def __init__(
        self,
        capture: Iterable[Datagram],
        keylog: Path,
        suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256,
    ) -> None:
        self._suite = suite
        self._secrets = {
            label: bytes.fromhex(secret) for label, _, secret in map(str.split, keylog.read_text().splitlines())
        }
        self._spaces: dict[tuple[bool, QuicPacketType, int], _Space] = {}
        self._first_cid: bytes | None = None
        self._version = 0
        self.packets = [packet for datagram in capture for packet in self._packets(datagram)]

    def of(self, kind: QuicPacketType, *, up: bool) -> list[Packet]:
        return [packet for packet in self.packets if packet.kind is kind and packet.up is up]

    def _packets(self, datagram: Datagram) -> Iterator[Packet]:
        data, at = datagram.data, 0
        while at < len(data) and data[at]:  # Zeros behind a packet are padding.
            buffer = Buffer(data=data)
            buffer.seek(at)
            header = pull_quic_header(buffer, host_cid_length=LENGTH)
            end, kind, version = at + header.packet_length, header.packet_type, header.version or 0
            token = header.token
            if kind is RETRY:
                self._first_cid = None
                yield Packet(datagram, datagram.up, kind, version, token=token)
                return
            if kind is INITIAL and self._first_cid is None:
                assert datagram.up
                self._first_cid = header.destination_cid
                self._spaces.clear()
            if kind is not ONE_RTT:
                self._version = version
            space = self._space(datagram.up, kind, self._version)
            number, frames = space.open(data[at:end], buffer.tell() - at)
            yield Packet(datagram, datagram.up, kind, version, number, space.context.key_phase, token, frames)
            at = end

    def _space(self, up: bool, kind: QuicPacketType, version: int) -> _Space:
        key = up, kind, version
        if key not in self._spaces:
            if kind is INITIAL:
                pair = CryptoPair()
                assert self._first_cid is not None
                pair.setup_initial(self._first_cid, is_client=not up, version=version)
                context = pair.recv
            else:
                side = "CLIENT" if up else "SERVER"
                label = f"{side}_HANDSHAKE_TRAFFIC_SECRET" if kind is HANDSHAKE else f"{side}_TRAFFIC_SECRET_0"
                context = CryptoContext()
                context.setup(cipher_suite=self._suite, secret=self._secrets[label], version=version)
            self._spaces[key] = _Space(context)
        return self._spaces[key]
