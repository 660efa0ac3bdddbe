"""The TLS exporter against OpenSSL's, and its secret against a transcript that the test hashes by itself."""

from __future__ import annotations

import hashlib

import pytest
from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.exporter import Exporter

from .dialled import dial
from .keys import self_signed


@pytest.mark.parametrize(
    ("suite", "algorithm"),
    [(b"TLS_AES_128_GCM_SHA256", hashes.SHA256()), (b"TLS_AES_256_GCM_SHA384", hashes.SHA384())],
)
def test_openssl_exports_the_same(suite: bytes, algorithm: hashes.HashAlgorithm) -> None:
    lines: list[str] = []
    client = _openssl_client(suite, lines)
    secret = next(bytes.fromhex(line.split()[2]) for line in lines if line.startswith("EXPORTER_SECRET"))
    exporter = Exporter(secret, algorithm)
    for label, context, length in ((b"EXPORTER-test", b"", 32), (b"EXPORTER-other", b"context", 100)):
        assert exporter.export(label, context, length) == client.export_keying_material(label, length, context)


def _openssl_client(suite: bytes, lines: list[str]) -> SSL.Connection:
    """A TLS 1.3 connection of OpenSSL's, to another in memory; lines takes its key log."""
    identity = self_signed()
    contexts = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
    for context in contexts:
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(suite)
    contexts[0].set_keylog_callback(lambda _, line: lines.append(line.decode()))
    contexts[1].use_certificate(x509.load_pem_x509_certificate(identity.certificate))
    key = load_pem_private_key(identity.private_key, None)
    contexts[1].use_privatekey(key)  # type: ignore[arg-type] # an EC key, whatever the loader says
    ends = SSL.Connection(contexts[0], None), SSL.Connection(contexts[1], None)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for _ in range(6):
        for end, other in (ends, ends[::-1]):
            try:
                end.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(end.bio_read(1 << 16))
            except SSL.WantReadError:
                pass
    return ends[0]


def test_the_secret_is_that_of_client_hello_to_server_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8446 §7.1: Derive-Secret(Master Secret, "exp master", ClientHello...server Finished)."""
    messages: dict[int, bytes] = {}
    original = tls.KeySchedule.update_hash

    def update_hash(self: tls.KeySchedule, data: bytes) -> None:
        messages[id(self)] = messages.get(id(self), b"") + data
        original(self, data)

    monkeypatch.setattr(tls.KeySchedule, "update_hash", update_hash)
    dialled = dial().complete()
    for session in (dialled.engine, dialled.server_engine):
        schedule = session.connection.tls.key_schedule
        assert schedule is not None
        transcript = _up_to_server_finished(messages[id(schedule)])
        digest = hashlib.new(schedule.algorithm.name, transcript).digest()
        label = b"tls13 exp master"
        size = schedule.algorithm.digest_size
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + bytes([size]) + digest
        # The schedule still holds the Master Secret: nothing is extracted after it.
        assert schedule.generation == 3
        expected = HKDFExpand(schedule.algorithm, size, info).derive(schedule.secret)
        assert session.connection.exporter is not None
        assert session.connection.exporter.secret == expected
    first = dialled.client.export_keying_material(b"EXPORTER-a", b"b", 32)
    assert first == dialled.server.export_keying_material(b"EXPORTER-a", b"b", 32)


def _up_to_server_finished(transcript: bytes) -> bytes:
    """Cut behind the first Finished (type 20)."""
    at = 0
    while at < len(transcript):
        kind, size = transcript[at], int.from_bytes(transcript[at + 1 : at + 4], "big")
        at += 4 + size
        if kind == 20:
            return transcript[:at]
    raise AssertionError("no Finished")


@pytest.mark.parametrize(("label", "length"), [(b"", 32), (b"x" * 250, 32), (b"x", 0), (b"x", 255 * 32 + 1)])
def test_out_of_range(label: bytes, length: int) -> None:
    with pytest.raises(LocalError):
        Exporter(bytes(32), hashes.SHA256()).export(label, b"", length)
