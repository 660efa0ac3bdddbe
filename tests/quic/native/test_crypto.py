"""Packet protection against the RFCs' samples, and against aioquic's and ``cryptography``'s."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.tls import CipherSuite, hkdf_expand_label
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.native.crypto import HeaderKey, PacketKey, header_key, next_packet_key, packet_key

AES_128, AES_256, CHACHA20 = SUITES = (0x1301, 0x1302, 0x1303)
VERSION_1, VERSION_2 = VERSIONS = (0x00000001, 0x6B3343CF)
LABELS = {VERSION_1: b"quic ", VERSION_2: b"quicv2 "}

suites = st.sampled_from(SUITES)
versions = st.sampled_from(VERSIONS)
numbers = st.integers(0, 2**62 - 1)
path_ids = st.one_of(st.just(0), st.integers(0, 2**32 - 1))
headers = st.binary(max_size=64)
payloads = st.one_of(st.binary(max_size=100), st.integers(0, 3000).map(lambda size: bytes([size & 0xFF]) * size))


def secret_of(suite: int, seed: bytes = b"") -> bytes:
    return (hashlib.sha384 if suite == AES_256 else hashlib.sha256)(seed).digest()


def keys(suite: int, version: int = VERSION_1, seed: bytes = b"") -> tuple[PacketKey, PacketKey]:
    secret = secret_of(suite, seed)
    return packet_key(suite, secret, version, True), packet_key(suite, secret, version, False)


def expand(suite: int, secret: bytes, version: int, label: bytes, size: int) -> bytes:
    algorithm = SHA384() if suite == AES_256 else SHA256()
    return hkdf_expand_label(algorithm, secret, LABELS[version] + label, b"", size)


def protect(key: PacketKey, mask: HeaderKey, header: bytes, payload: bytes, number: int) -> bytes:
    """A whole packet, with header protection; the header ends with the packet number."""
    octets = (header[0] & 3) + 1
    packet = bytearray(key.protected(header, payload, number))
    at = len(header) - octets
    hidden = mask.mask_of(bytes(packet[at + 4 : at + 20]))
    packet[0] ^= hidden[0] & (0x0F if header[0] & 0x80 else 0x1F)
    for i in range(octets):
        packet[at + i] ^= hidden[1 + i]
    return bytes(packet)


# --- The RFCs' samples ------------------------------------------------------------------------------------------------

HELLO = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c000004130113"
    "02010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d00170018001000070005"
    "04616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce1"
    "5d43e994ec74d748002b0003020304000d0010000e0403050306030203080408050806002d00020101001c0002400100"
    "3900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806"
    "048000ffff"
)
ANSWER = bytes.fromhex(
    "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b9a045a1200"
    "130100002e00330024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00"
    "020304"
)


class Sample(NamedTuple):
    version: int
    client: str
    client_header: str
    client_sample: str
    client_mask: str
    client_sha256: str
    """Of the protected packet, which has 1200 octets."""
    server: str
    server_header: str
    server_packet: str
    short_packet: str
    updated: str


SAMPLES = [
    Sample(  # RFC 9001 Appendix A
        VERSION_1,
        "c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea",
        "c300000001088394c8f03e5157080000449e00000002",
        "d1b1c98dd7689fb8ec11d242b123dc9b",
        "437b9aec36",
        "73fa0210cb4a5a17dc10b9dc98e5cc359ba1c20fe7c0e93a9e1dcb473c37e097",
        "3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b",
        "c1000000010008f067a5502a4262b50040750001",
        "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb3"
        "8cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
        "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee",
        "4cfe4189655e5cd55c41f69080575d7999c25a5bfb",
        "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9",
    ),
    Sample(  # RFC 9369 Appendix A
        VERSION_2,
        "14ec9d6eb9fd7af83bf5a668bc17a7e283766aade7ecd0891f70f9ff7f4bf47b",
        "d36b3343cf088394c8f03e5157080000449e00000002",
        "ffe67b6abcdb4298b485dd04de806071",
        "94a0c95e80",
        "b0b766fe7e762577072d3365cc4f9635809210cba301a67f8457f5e6fdac5c68",
        "0263db1782731bf4588e7e4d93b7463907cb8cd8200b5da55a8bd488eafc37c1",
        "d16b3343cf0008f067a5502a4262b50040750001",
        "dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698baeea26b91eb761d9b89237bbf872630"
        "17915358230035f7fd3945d88965cf17f9af6e16886c61bfc703106fbaf3cb4cfa52382dd16a393e42757507698075b2"
        "c984c707f0a0812d8cd5a6881eaf21ceda98f4bd23f6fe1a3e2c43edd9ce7ca84bed8521e2e140",
        "5558b1c60ae7b6b932bc27d786f4bc2bb20f2162ba",
        "c69374c49e3d2a9466fa689e49d476db5d0dfbc87d32ceeaa6343fd0ae4c7d88",
    ),
]
by_sample = pytest.mark.parametrize("sample", SAMPLES, ids=["RFC 9001", "RFC 9369"])


@by_sample
def test_client_initial(sample: Sample) -> None:
    secret = bytes.fromhex(sample.client)
    mask = header_key(AES_128, secret, sample.version)
    assert mask.mask_of(bytes.fromhex(sample.client_sample)).hex() == sample.client_mask
    key = packet_key(AES_128, secret, sample.version, True)
    packet = protect(key, mask, bytes.fromhex(sample.client_header), HELLO.ljust(1162, b"\0"), 2)
    assert len(packet) == 1200
    assert hashlib.sha256(packet).hexdigest() == sample.client_sha256


@by_sample
def test_server_initial(sample: Sample) -> None:
    secret, header = bytes.fromhex(sample.server), bytes.fromhex(sample.server_header)
    key, mask = packet_key(AES_128, secret, sample.version, True), header_key(AES_128, secret, sample.version)
    packet = protect(key, mask, header, ANSWER, 1)
    assert packet.hex() == sample.server_packet
    opener = packet_key(AES_128, secret, sample.version, False)
    assert opener.unprotected(header, packet[len(header) :], 1) == ANSWER


@by_sample
def test_short_header_under_chacha20(sample: Sample) -> None:
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    key, mask = packet_key(CHACHA20, secret, sample.version, True), header_key(CHACHA20, secret, sample.version)
    assert protect(key, mask, bytes.fromhex("4200bff4"), b"\x01", 654360564).hex() == sample.short_packet
    assert next_packet_key(key, sample.version).secret.hex() == sample.updated


# --- Other implementations --------------------------------------------------------------------------------------------


def nonce_of(iv: bytes, path_id: int, number: int) -> bytes:
    return (int.from_bytes(iv, "big") ^ path_id << 64 ^ number).to_bytes(12, "big")


def test_nonce_of_a_path_is_the_drafts_sample() -> None:
    # draft-ietf-quic-multipath §2.4
    assert nonce_of(bytes.fromhex("6b26114b9cba2b63a9e8dd4f"), 3, 54321).hex() == "6b2611489cba2b63a9e8097e"


@given(suites, versions, st.binary(max_size=4), headers, payloads, numbers, path_ids)
def test_cryptography_seals_the_same(
    suite: int, version: int, seed: bytes, header: bytes, payload: bytes, number: int, path_id: int
) -> None:
    sealer, opener = keys(suite, version, seed)
    secret = secret_of(suite, seed)
    key = expand(suite, secret, version, b"key", 16 if suite == AES_128 else 32)
    iv = expand(suite, secret, version, b"iv", 12)
    nonce = nonce_of(iv, path_id, number)
    oracle = (ChaCha20Poly1305 if suite == CHACHA20 else AESGCM)(key)
    sealed = oracle.encrypt(nonce, payload, header)
    assert sealer.protected(header, payload, number, path_id) == header + sealed
    assert opener.unprotected(header, sealed, number, path_id) == payload
    assert opener.unprotected(header, sealed, number, path_id ^ 1) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suite", SUITES)
def test_aioquic_understands_and_is_understood(suite: int, version: int) -> None:
    ours, theirs = secret_of(suite, b"ours"), secret_of(suite, b"theirs")
    pair = CryptoPair()
    pair.recv.setup(cipher_suite=CipherSuite(suite), secret=ours, version=version)
    pair.send.setup(cipher_suite=CipherSuite(suite), secret=theirs, version=version)
    sealer, opener = packet_key(suite, ours, version, True), packet_key(suite, theirs, version, False)
    our_mask, their_mask = header_key(suite, ours, version), header_key(suite, theirs, version)
    cid = bytes(range(8))
    for phase in (0, 1, 0):
        for octets in (1, 2, 3, 4):
            number = 2 ** (8 * octets - 1) - 1
            header = bytes([0x40 | phase << 2 | octets - 1]) + cid + number.to_bytes(octets, "big")
            payload = bytes([octets]) * 50
            packet = protect(sealer, our_mask, header, payload, number)
            assert pair.decrypt_packet(packet, 9, number) == (header, payload, number)
            packet = pair.encrypt_packet(header, payload, number)
            hidden = their_mask.mask_of(packet[13:29])
            assert packet[0] ^ header[0] == hidden[0] & 0x1F
            assert bytes(a ^ b for a, b in zip(packet[9 : 9 + octets], hidden[1:], strict=False)) == header[9:]
            assert opener.unprotected(header, packet[len(header) :], number) == payload
        # aioquic follows a key update in both directions.
        sealer, opener = next_packet_key(sealer, version), next_packet_key(opener, version)


@given(suites, versions, st.binary(max_size=4))
def test_next_key_is_that_of_the_next_secret(suite: int, version: int, seed: bytes) -> None:
    sealer, opener = keys(suite, version, seed)
    secret = secret_of(suite, seed)
    for _ in range(2):
        secret = expand(suite, secret, version, b"ku", len(secret))
        sealer, opener = next_packet_key(sealer, version), next_packet_key(opener, version)
        assert sealer.secret == opener.secret == secret
        packet = sealer.protected(b"h", b"payload", 1)
        assert packet == packet_key(suite, secret, version, True).protected(b"h", b"payload", 1)
        assert opener.unprotected(b"h", packet[1:], 1) == b"payload"


# --- What is not authentic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_any_flipped_bit_is_refused(suite: int) -> None:
    sealer, opener = keys(suite)
    packet = sealer.protected(b"header", b"payload of many octets", 7)
    for bit in range(8 * len(packet)):
        broken = bytearray(packet)
        broken[bit // 8] ^= 1 << bit % 8
        assert opener.unprotected(bytes(broken[:6]), bytes(broken[6:]), 7) is None
    # A forgery does not spoil the key for what follows.
    assert opener.unprotected(packet[:6], packet[6:], 7) == b"payload of many octets"


@given(suites, st.binary(min_size=1, max_size=64), payloads, numbers, st.data())
def test_a_flipped_bit_anywhere_is_refused(
    suite: int, header: bytes, payload: bytes, number: int, data: st.DataObject
) -> None:
    sealer, opener = keys(suite)
    packet = bytearray(sealer.protected(header, payload, number))
    bit = data.draw(st.integers(0, 8 * len(packet) - 1))
    packet[bit // 8] ^= 1 << bit % 8
    assert opener.unprotected(bytes(packet[: len(header)]), bytes(packet[len(header) :]), number) is None


@given(suites, numbers, numbers)
def test_another_number_is_refused(suite: int, number: int, other: int) -> None:
    sealer, opener = keys(suite)
    sealed = sealer.protected(b"h", b"payload", number)[1:]
    assert opener.unprotected(b"h", sealed, other) == (b"payload" if number == other else None)


@given(suites, st.binary(max_size=15))
def test_less_than_a_tag_is_refused(suite: int, data: bytes) -> None:
    assert keys(suite)[1].unprotected(b"header", data, 0) is None


def test_other_versions_and_suites_do_not_fit() -> None:
    sealer, _ = keys(AES_128, VERSION_1)
    sealed = sealer.protected(b"h", b"payload", 1)[1:]
    assert keys(AES_128, VERSION_2)[1].unprotected(b"h", sealed, 1) is None
    assert keys(CHACHA20, VERSION_1)[1].unprotected(b"h", sealed, 1) is None


# --- Rules of use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_a_key_has_one_direction(suite: int) -> None:
    sealer, opener = keys(suite)
    sealed = sealer.protected(b"", b"payload", 1)
    assert sealer.unprotected(b"", sealed, 1) is None
    with pytest.raises(LocalError):
        opener.protected(b"", b"payload", 1)


@pytest.mark.parametrize(
    ("suite", "confidentiality", "integrity"), [(AES_128, 23, 52), (AES_256, 23, 52), (CHACHA20, 62, 36)]
)
def test_limits(suite: int, confidentiality: int, integrity: int) -> None:
    key, _ = keys(suite)
    assert (key.confidentiality_limit, key.integrity_limit) == (2**confidentiality, 2**integrity)
    key.protected(b"", b"", 0)
    assert key.sealed == 1
    key.use_up(2**confidentiality - 2)
    key.protected(b"", b"", 1)
    with pytest.raises(LocalError):
        key.protected(b"", b"", 2)
    assert key.sealed == 2**confidentiality
    next_packet_key(key, VERSION_1).protected(b"", b"", 2)


@pytest.mark.parametrize(
    ("suite", "size", "version"),
    [
        (0x1300, 32, VERSION_1),
        (0x1304, 32, VERSION_1),
        (-1, 32, VERSION_1),
        (AES_128, 32, 0),
        (AES_128, 32, 2),
        (AES_128, 32, -1),
        (AES_128, 31, VERSION_1),
        (AES_128, 48, VERSION_1),
        (AES_256, 32, VERSION_1),
        (CHACHA20, 0, VERSION_2),
    ],
)
def test_what_does_not_fit_together_is_a_local_error(suite: int, size: int, version: int) -> None:
    with pytest.raises(LocalError):
        packet_key(suite, bytes(size), version, True)
    with pytest.raises(LocalError):
        header_key(suite, bytes(size), version)


def test_an_update_needs_a_known_version() -> None:
    with pytest.raises(LocalError):
        next_packet_key(keys(AES_128)[0], 2)


def test_objects_without_a_key_do_nothing() -> None:
    with pytest.raises(LocalError):
        PacketKey().protected(b"", b"", 0)
    assert PacketKey().unprotected(b"", bytes(32), 0) is None
    with pytest.raises(LocalError):
        HeaderKey().mask_of(bytes(16))
    with pytest.raises(LocalError):
        next_packet_key(PacketKey(), VERSION_1)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_sample_has_sixteen_octets(size: int) -> None:
    with pytest.raises(LocalError):
        header_key(AES_128, bytes(32), VERSION_1).mask_of(bytes(size))
