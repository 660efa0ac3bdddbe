"""What may be in 0-RTT packets, when they are read, and what becomes of the rest: each rule with its clause, and fuzzing."""

from __future__ import annotations

import random

import pytest

from quicsocks.userspace.quic.errors import LocalError, PeerError
from quicsocks.userspace.quic.native.crypto import header_key, packet_key
from quicsocks.userspace.quic.types import Limits

from .forger import (
    CID,
    SUITE,
    VERSION,
    Forger,
    ack,
    crypto,
    frame,
    new_connection_id,
    parse,
    path_challenge,
    stream,
    varint,
)  # fmt: skip

ENCODING, FLOW_CONTROL, VIOLATION = 0x07, 0x03, 0x0A
SECRETS = {0x1301: bytes([3]) * 32, 0x1302: bytes([4]) * 48, 0x1303: bytes([5]) * 32}
SUITES = {0x1301: "AES-128-GCM", 0x1302: "AES-256-GCM", 0x1303: "ChaCha20-Poly1305"}


class EarlyForger(Forger):
    """Sends 0-RTT packets, too. Their numbers are of the same row."""

    def __init__(self, suite: int = SUITE, limits: Limits | None = None) -> None:
        super().__init__(role="server", limits=limits if limits is not None else Limits())
        self.suite = suite
        self.key = packet_key(suite, SECRETS[suite], VERSION, True)
        self.masks = header_key(suite, SECRETS[suite], VERSION)
        self.connection.install_early_key(suite, SECRETS[suite], VERSION)

    def say(self, *frames: bytes, number: int | None = None, bits: int = 0) -> EarlyForger:
        """One 0-RTT packet of these frames, and hear what comes of it."""
        number = number if number is not None else self.number
        self.number = max(self.number, number + 1)
        self.give_early(self.seal_early(b"".join(frames).ljust(4, b"\0"), number, bits))
        self.hear()
        return self

    def seal_early(self, payload: bytes, number: int, bits: int = 0, scid: bytes = b"scid") -> bytes:
        header = bytes([0xD3 | bits]) + VERSION.to_bytes(4, "big") + bytes([CID]) + bytes(CID)
        header += bytes([len(scid)]) + scid + varint(4 + len(payload) + 16)
        at = len(header)
        packet = bytearray(self.key.protected(header + (number & 0xFFFFFFFF).to_bytes(4, "big"), payload, number))
        mask = self.masks.mask_of(bytes(packet[at + 4 : at + 20]))
        packet[0] ^= mask[0] & 0x0F
        for i in range(4):
            packet[at + i] ^= mask[1 + i]
        return bytes(packet)

    def give_early(self, packet: bytes) -> None:
        try:
            self.connection.receive_early_packet(packet, self.now)
            self._follow()
        except PeerError as error:
            self._refuse(error)

    @property
    def counted(self) -> tuple[int, int]:
        """0-RTT packets read, dropped."""
        statistics = self.connection.statistics()
        return statistics["zero_rtt_received"], statistics["zero_rtt_dropped"]


@pytest.mark.parametrize("suite", SUITES, ids=SUITES.get)
def test_it_is_read_and_acknowledged_in_1_rtt_packets(suite: int) -> None:
    forger = EarlyForger(suite)

    forger.say(stream(0, 0, b"early ")).say(stream(0, 6, b"data", fin=True)).wait(0.03)

    assert bytes(forger.logs[0].data) == b"early data"
    assert ("eof",) in forger.logs[0].calls
    assert forger.counted == (2, 0)
    assert forger.kinds(0x02)[-1] == (0x02, 1, 3125, 0, 1), "opened with the 1-RTT key; 25 ms late"


def test_it_shares_numbers_streams_and_limits_with_1_rtt_packets() -> None:
    forger = EarlyForger()

    forger.say(stream(0, 0, b"one "), number=5)
    forger.send(stream(0, 4, b"two "), number=6)
    forger.say(stream(0, 8, b"three"), number=3)

    assert bytes(forger.logs[0].data) == b"one two three"
    assert forger.code is None
    assert forger.kinds(0x02)[-1] == (0x02, 6, 0, 1, 1, 0, 0), "6 and 5, and 3"


FORBIDDEN = {
    "ACK": lambda: ack(0),
    "ACK with ECN": lambda: frame(3, 0, 0, 0, 0, 1, 0, 0),
    "CRYPTO": lambda: crypto(0, b"x"),
    "NEW_TOKEN": lambda: frame(7, 1, tail=b"t"),
    "PATH_RESPONSE": lambda: b"\x1b" + bytes(8),
    "RETIRE_CONNECTION_ID": lambda: frame(0x19, 0),
    "HANDSHAKE_DONE": lambda: frame(0x1E),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_frames_that_it_may_not_hold(name: str) -> None:
    """RFC 9000 §12.4, §12.5."""
    forger = EarlyForger()

    forger.say(frame(1), FORBIDDEN[name]())

    assert forger.code == VIOLATION
    assert "0-RTT" in forger.reason


ALLOWED = {
    "PADDING and PING": lambda: bytes(4) + frame(1),
    "RESET_STREAM": lambda: frame(4, 0, 1, 0),
    "STOP_SENDING": lambda: frame(5, 0, 1),
    "STREAM": lambda: stream(0, 0, b"x"),
    "MAX_DATA": lambda: frame(0x10, 1 << 30),
    "MAX_STREAM_DATA": lambda: frame(0x11, 0, 1 << 30),
    "MAX_STREAMS": lambda: frame(0x12, 100) + frame(0x13, 100),
    "DATA_BLOCKED": lambda: frame(0x14, 0),
    "STREAM_DATA_BLOCKED": lambda: frame(0x15, 0, 0),
    "STREAMS_BLOCKED": lambda: frame(0x16, 0) + frame(0x17, 0),
    "NEW_CONNECTION_ID": lambda: new_connection_id(1),
    "PATH_CHALLENGE": lambda: path_challenge(9),
    "DATAGRAM": lambda: frame(0x31, 2, tail=b"hi"),
    "CONNECTION_CLOSE": lambda: frame(0x1C, 0, 0, 0),
    "CONNECTION_CLOSE of the application": lambda: frame(0x1D, 0, 0),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_frames_that_it_may_hold(name: str) -> None:
    """RFC 9000 §12.4; RFC 9221 §4."""
    forger = EarlyForger()

    forger.say(ALLOWED[name]())

    assert forger.code is None
    assert forger.counted == (1, 0)


def test_the_same_frames_may_be_in_1_rtt_packets_afterwards() -> None:
    forger = EarlyForger()

    forger.say(frame(1)).send(frame(0x19, 1), ack(max(forger.numbers)))

    assert forger.code is None


@pytest.mark.parametrize("bits", [0x04, 0x08, 0x0C])
def test_reserved_bits(bits: int) -> None:
    """RFC 9000 §17.2."""
    assert EarlyForger().say(frame(1), bits=bits).code == VIOLATION


def test_no_frames() -> None:
    """RFC 9000 §12.4."""
    forger = EarlyForger()
    # Nothing but a tag: what header protection looks at takes in the end of the number.
    forger.give_early(forger.seal_early(b"", 0))
    forger.hear()

    assert forger.code == VIOLATION


def test_other_rules_hold_too() -> None:
    assert EarlyForger().say(frame(0x40)).code == ENCODING
    assert EarlyForger().say(stream(0, 1 << 40, b"x")).code == FLOW_CONTROL


def test_a_number_above_one_of_a_1_rtt_packet() -> None:
    """RFC 9001 §5.6: with 1-RTT keys, a client sends no more 0-RTT packets."""
    forger = EarlyForger()
    forger.send(frame(1), number=7)
    forger.say(frame(1), number=6)
    assert forger.code is None

    forger.say(frame(1), number=8)

    assert forger.code == VIOLATION


def test_a_1_rtt_packet_with_a_number_below() -> None:
    forger = EarlyForger()
    forger.say(frame(1), number=7)
    forger.send(frame(1), number=8)
    assert forger.code is None

    forger.send(frame(1), number=6)

    assert forger.code == VIOLATION


def test_duplicates_are_dropped() -> None:
    """RFC 9000 §12.3."""
    forger = EarlyForger()
    packet = forger.seal_early(stream(0, 0, b"once"), 0)

    for _ in range(3):
        forger.give_early(packet)

    assert forger.counted == (1, 2)
    assert bytes(forger.logs[0].data) == b"once"


def test_the_keys_are_dropped_in_time() -> None:
    """RFC 9001 §4.9.3: three times the PTO."""
    forger = EarlyForger()
    forger.connection.set_rtt(0.1)
    forger.connection.end_early(forger.now)
    forger.say(stream(0, 0, b"late"))
    assert forger.counted == (1, 0)

    forger.wait(3 * (0.1 + 4 * 0.05 + 0.025) - 0.01)
    assert ("early_over",) not in forger.events
    forger.wait(0.02)

    assert not forger.connection.reads_early
    assert forger.events.count(("early_over",)) == 1
    forger.say(stream(4, 0, b"too late"))
    assert forger.counted == (1, 1)
    assert forger.code is None


def test_the_keys_are_dropped_in_time_without_a_timer() -> None:
    forger = EarlyForger()
    forger.connection.end_early(forger.now)
    forger.now += 60.0

    forger.say(stream(0, 0, b"too late"))

    assert forger.counted == (0, 1)
    assert not forger.logs


def test_without_keys_it_is_counted_and_nothing_else() -> None:
    forger = Forger("server")

    forger.connection.receive_early_packet(EarlyForger().seal_early(stream(0, 0, b"x"), 0), forger.now)

    assert forger.wait(1.0).kinds(0x02) == []
    assert forger.connection.statistics()["zero_rtt_dropped"] == 1


def test_datagrams_that_are_held_have_a_bound() -> None:
    """Before the handshake is complete nobody takes events; here, nobody takes them at all."""
    forger = EarlyForger()
    for number in range(200):
        forger.connection.receive_early_packet(
            forger.seal_early(frame(0x31, 2, tail=b"hi") + bytes(9), number), forger.now
        )

    assert len(forger.connection.take_events()) <= 66
    received, dropped = forger.counted
    assert received <= 66
    assert received + dropped == 200


def test_a_client_reads_none() -> None:
    forger = Forger("client")
    forger.connection.install_early_key(SUITE, SECRETS[SUITE], VERSION)

    assert not forger.connection.reads_early
    assert forger.connection.sends_early


# --- A client's -------------------------------------------------------------------------------------------------------


class EarlyClient(Forger):
    """The victim sends 0-RTT packets. came: those, as (number, payload, first octet, connection IDs)."""

    def __init__(self, suite: int = SUITE) -> None:
        super().__init__(role="client", early=True)
        self.opener = packet_key(suite, SECRETS[suite], VERSION, False)
        self.mask = header_key(suite, SECRETS[suite], VERSION)
        self.came: list[tuple[int, bytes, int, bytes, bytes]] = []
        self.connection.install_early_key(suite, SECRETS[suite], VERSION)

    def hear_early(self) -> None:
        for packet, _ in self.connection.datagrams_to_send(self.now):
            assert packet[0] & 0xF0 == 0xD0
            assert packet[1:5] == VERSION.to_bytes(4, "big")
            at = 6 + packet[5]
            destination, source = packet[6:at], packet[at + 1 : at + 1 + packet[at]]
            at += 1 + packet[at]
            length = int.from_bytes(packet[at : at + 2], "big") - 0x4000
            at += 2
            assert at + length == len(packet) <= 1200
            head = bytearray(packet)
            mask = self.mask.mask_of(packet[at + 4 : at + 20])
            head[0] ^= mask[0] & 0x0F
            octets = (head[0] & 3) + 1
            for i in range(octets):
                head[at + i] ^= mask[1 + i]
            number = int.from_bytes(head[at : at + octets], "big")
            payload = self.opener.unprotected(bytes(head[: at + octets]), packet[at + octets :], number)
            assert payload is not None
            self.came.append((number, payload, head[0], destination, source))


@pytest.mark.parametrize("suite", SUITES, ids=SUITES.get)
def test_what_a_client_sends_early(suite: int) -> None:
    client = EarlyClient(suite)
    client.open_local().stream.write(b"x" * 3000)

    client.hear_early()

    assert len(client.came) == 3
    assert [found[0] for found in client.came] == [0, 1, 2]
    for _, payload, first, destination, source in client.came:
        assert first & 0x0C == 0
        assert (destination, source) == (bytes(CID), bytes(CID))
        assert all(0x08 <= found[0] < 0x10 for found in parse(payload))


def test_a_client_follows_the_servers_connection_id() -> None:
    client = EarlyClient()
    client.connection.set_peer_cid(b"another, longer one")
    client.open_local().stream.write(b"x")

    client.hear_early()

    assert client.came[0][3] == b"another, longer one"


def test_a_client_sends_it_again_with_other_keys() -> None:
    """RFC 9000 §17.2.5.3: after a Retry, and with numbers of their own."""
    client = EarlyClient()
    client.open_local().stream.write(b"x" * 2000)
    client.hear_early()
    before = client.came.copy()
    client.came.clear()

    client.connection.install_early_key(SUITE, SECRETS[SUITE], VERSION)
    client.hear_early()

    assert sum(found[3] for _, payload, *_ in client.came for found in parse(payload)) == 2000
    assert min(found[0] for found in client.came) > max(found[0] for found in before)


@pytest.mark.parametrize("rejected", [False, True])
def test_acknowledgements_of_early_packets(rejected: bool) -> None:
    """RFC 9001 §4.6.2: nobody has read what was rejected."""
    client = EarlyClient()
    log = client.open_local()
    log.stream.write(b"x" * 2000)
    client.hear_early()
    client.complete()
    if rejected:
        client.connection.early_rejected()
        assert client.hear().kinds(0x08), "it goes again"

    client.send(ack(client.came[-1][0], 1))

    assert client.code == (VIOLATION if rejected else None)


def test_an_acknowledgement_of_early_packets_does_not_allow_a_key_update() -> None:
    """RFC 9001 §6.1: it has to be of a packet under the present keys."""
    client = EarlyClient()
    client.open_local().stream.write(b"x")
    client.hear_early()
    client.complete()
    client.connection.update_keys()

    client.send(ack(client.came[-1][0]), frame(1))
    assert client.connection.statistics()["key_updates"] == 0

    client.acknowledge()
    assert client.connection.statistics()["key_updates"] == 1


def test_keys_must_fit() -> None:
    forger = Forger("server")
    with pytest.raises(LocalError):
        forger.connection.install_early_key(0x1302, bytes(32), VERSION)
    with pytest.raises(LocalError):
        forger.connection.install_early_key(0x1305, bytes(32), VERSION)


def test_headers_that_make_no_sense_are_dropped() -> None:
    forger = EarlyForger()
    good = forger.seal_early(stream(0, 0, b"good", fin=True), 0)
    dropped = [
        b"",
        good[:1],
        good[:6],
        *(good[:size] for size in range(7, len(good), 3)),
        bytes([good[0] & 0xBF]) + good[1:],  # The fixed bit.
        bytes([good[0] | 0x20]) + good[1:],  # Another type.
        bytes([good[0] & 0x7F]) + good[1:],
        good[:1] + bytes(3) + b"\x02" + good[5:],  # Another version.
        good[:5] + b"\x15" + good[6:],
        good[:5] + b"\xff" + good[6:],
        good[:14] + b"\xff" + good[15:],
        good[:19] + b"\x7f\xff" + good[21:],
        good[:19] + b"\x00" + good[20:],
    ]

    for packet in dropped:
        forger.give_early(packet)
    assert forger.counted == (0, len(dropped))
    assert forger.code is None

    forger.give_early(good + b"and what does not belong to it")
    assert forger.counted == (1, len(dropped))
    assert bytes(forger.logs[0].data) == b"good"


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_packets(seed: int) -> None:
    draw = random.Random(seed)
    forger = EarlyForger()
    for number in range(1500):
        sealed = forger.seal_early(stream(0, 0, b"data") + draw.randbytes(20), number)
        packet = bytearray(sealed)
        match draw.randrange(3):
            case 0:
                for _ in range(draw.randrange(1, 4)):
                    packet[draw.randrange(len(packet))] ^= 1 << draw.randrange(8)
            case 1:
                del packet[draw.randrange(len(packet)) :]
            case 2:
                packet[6 : 6 + draw.randrange(30)] = draw.randbytes(draw.randrange(30))
        if packet != sealed:
            forger.give_early(bytes(packet))

    assert forger.code is None, "nothing of that is authentic"
    assert forger.counted[0] == 0
    assert forger.say(stream(0, 0, b"all is well"), number=0).logs[0].data == b"all is well"


@pytest.mark.parametrize("seed", range(8))
def test_fuzzed_frames(seed: int) -> None:
    """Authentic packets of anything: the end may only be a PeerError, with a code of RFC 9000."""
    draw = random.Random(seed)
    codes = set()
    for _ in range(150):
        forger = EarlyForger()
        for number in range(4):
            kinds = [
                frame(draw.randrange(0x40), *(draw.randrange(200) for _ in range(draw.randrange(5)))) for _ in range(3)
            ]
            forger.give_early(
                forger.seal_early((b"".join(kinds) + draw.randbytes(draw.randrange(8))).ljust(4, b"\0"), number)
            )
        forger.hear()
        codes.add(forger.code)

    assert codes <= {None, 0x03, 0x04, 0x05, 0x06, 0x07, 0x09, 0x0A, 0x0D}
    assert {ENCODING, VIOLATION} <= codes
