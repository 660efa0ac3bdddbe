"""The AEAD stream: both ends, every split, tampering, replays, and pproxy's own cipher as the judge."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.chain.shadowsocks import MAX_CHUNK, METHODS, AeadStream, Cipher, SaltFilter
from quicsocks.userspace.quic.errors import LocalError, PeerError

CIPHERS = [Cipher.from_password(method, "correct horse") for method in METHODS]


def test_unknown_ciphers_are_refused_in_one_line() -> None:
    for method in ("aes-256-cfb", "rc4-md5", "none", "2022-blake3-aes-128-gcm", ""):
        with pytest.raises(LocalError, match="is not supported: only the AEAD ciphers") as caught:
            Cipher.from_password(method, "secret word")
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(LocalError, match="needs a password"):
        Cipher.from_password("aes-128-gcm", "")


def test_a_cipher_does_not_show_its_key() -> None:
    cipher = Cipher.from_password("aes-128-gcm", "test")
    # OpenSSL's EVP_BytesToKey without salt is the MD5 of the password for 16 bytes.
    assert cipher.key.hex() == "098f6bcd4621d373cade4e832627b4f6"
    assert repr(cipher) == "Cipher('aes-128-gcm')"


@pytest.mark.parametrize("cipher", CIPHERS, ids=lambda cipher: cipher.method)
@given(parts=st.lists(st.binary(max_size=300), max_size=5), step=st.integers(1, 64))
def test_roundtrip(cipher: Cipher, parts: list[bytes], step: int) -> None:
    sender, receiver = AeadStream(cipher), AeadStream(cipher)
    wire = b"".join(sender.encode(part) for part in parts)
    out = b"".join(receiver.decode(wire[start : start + step]) for start in range(0, len(wire), step))
    assert out == b"".join(parts)
    receiver.decode_eof()


@pytest.mark.parametrize("cipher", CIPHERS, ids=lambda cipher: cipher.method)
def test_large_data_is_cut_into_chunks(cipher: Cipher) -> None:
    data = bytes(range(256)) * 300
    wire = AeadStream(cipher).encode(data)
    chunks = -(-len(data) // MAX_CHUNK)
    assert len(wire) == len(cipher.key) + len(data) + chunks * (2 + 16 + 16)
    assert AeadStream(cipher).decode(wire) == data


@pytest.mark.parametrize("cipher", CIPHERS, ids=lambda cipher: cipher.method)
def test_every_tampered_byte_is_noticed(cipher: Cipher) -> None:
    wire = AeadStream(cipher).encode(b"some text")
    for position in range(len(wire)):
        changed = bytearray(wire)
        changed[position] ^= 1
        with pytest.raises(PeerError, match="were changed"):
            AeadStream(cipher).decode(bytes(changed))


def test_another_password() -> None:
    wire = AeadStream(CIPHERS[0]).encode(b"some text")
    with pytest.raises(PeerError, match="password or cipher differs"):
        AeadStream(Cipher.from_password("aes-128-gcm", "another")).decode(wire)


def test_a_stream_cut_off_inside_a_chunk() -> None:
    wire = AeadStream(CIPHERS[0]).encode(b"some text")
    for size in range(1, len(wire)):
        receiver = AeadStream(CIPHERS[0])
        receiver.decode(wire[:size])
        if size == len(CIPHERS[0].key):
            receiver.decode_eof()  # a salt and no data: a peer that had nothing to say
        else:
            with pytest.raises(PeerError, match="cut off"):
                receiver.decode_eof()


def test_a_replay_is_refused() -> None:
    salts = SaltFilter()
    wire = AeadStream(CIPHERS[1]).encode(b"some text")
    assert AeadStream(CIPHERS[1], salts).decode(wire) == b"some text"
    with pytest.raises(PeerError, match="played again"):
        AeadStream(CIPHERS[1], salts).decode(wire)


def test_garbage_does_not_fill_the_salt_filter() -> None:
    salts = SaltFilter(size=2)
    wire = AeadStream(CIPHERS[1]).encode(b"some text")
    AeadStream(CIPHERS[1], salts).decode(wire)
    for number in range(10):
        with pytest.raises(PeerError):
            AeadStream(CIPHERS[1], salts).decode(bytes([number]) * 200)
    assert not salts.is_new(wire[:32])
    assert salts.is_new(b"a")
    assert salts.is_new(b"b")
    assert salts.is_new(wire[:32]), "the oldest are forgotten"


def test_the_nonce_counts_beyond_pproxys_twelve_bits() -> None:
    cipher = CIPHERS[0]
    sender, receiver = AeadStream(cipher), AeadStream(cipher)
    for number in range(2100):
        assert receiver.decode(sender.encode(b"%d" % number)) == b"%d" % number
    # The 2,049th chunk uses the 4,097th nonce. Under pproxy's rule it would be the first again, and equal plaintexts
    # would have equal ciphertexts.
    salt = bytes(16)
    again = AeadStream(cipher, salt=salt)
    first = again.encode(b"x")[16:]
    for _ in range(2047):
        again.encode(b"x")
    assert again.encode(b"x") != first


@given(st.binary(max_size=200))
def test_only_peer_errors(data: bytes) -> None:
    receiver = AeadStream(CIPHERS[2])
    try:
        assert receiver.decode(data) == b""
    except PeerError:
        return
    assert len(data) < 32 + 18


@pytest.mark.parametrize("method", ["aes-128-gcm", "aes-256-gcm"])
def test_pproxys_own_cipher_agrees(method: str) -> None:
    """Fewer than its counter's 4,096 nonces. pproxy has one cache entry a password, so each method has its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pproxy.cipherpy import MAP
    password = f"password for {method}"
    ours = AeadStream(Cipher.from_password(method, password), salt=bytes(range(METHODS[method])))
    theirs = MAP[method](password.encode())
    wire = ours.encode(b"some text")
    theirs.setup_iv(wire[: METHODS[method]])
    assert theirs.decrypt(wire[METHODS[method] :]) == b"some text"
    sender = MAP[method](password.encode())
    sender.setup_iv()
    receiver = AeadStream(Cipher.from_password(method, password))
    assert receiver.decode(sender.iv + sender.encrypt(b"an answer")) == b"an answer"
