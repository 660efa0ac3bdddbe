"""Keys, certificates, pins and the rotating secret."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from quicsocks.userspace import identity
from quicsocks.userspace.identity import IdentityError
from quicsocks.userspace.state import StateError, StateFolder

from .support import mode

NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def pem_of(key: Any, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    result: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return result


def certificate_for(
    key: Any, *, issuer: Any = None, issuer_name: str = "test", host: str = "gw.example.com", ca: bool = False
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test" if issuer is None else host)])
    signer = issuer if issuer is not None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(NOW - 86400, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(NOW + 86400, datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=ca, crl_sign=False, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if not ca:
        usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(usage, critical=False)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(serialization.Encoding.PEM)


def private_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


# The installation's key.


def test_key_is_made_once_and_kept(folder: StateFolder) -> None:
    first = identity.load_or_create(folder)
    assert identity.load_or_create(folder).public_key == first.public_key
    assert mode(folder.file(identity.KEY_FILE)) == 0o600
    assert isinstance(first.private_key.curve, ec.SECP256R1)


def test_pin_is_of_the_subject_public_key_info(folder: StateFolder) -> None:
    key = identity.load_or_create(folder)
    spki = key.private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert key.public_key == spki
    assert key.pin == hashlib.sha256(spki).digest()
    certificate = x509.load_pem_x509_certificate(identity.server_credentials(folder).certificate)
    in_certificate = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert hashlib.sha256(in_certificate).digest() == key.pin


def test_tunnel_identity_signs(folder: StateFolder) -> None:
    key = identity.load_or_create(folder)
    proof = key.tunnel_identity(b"t" * 32, "laptop")
    signature = proof.sign(b"data")
    assert identity.verify_signature(proof.public_key, signature, b"data")
    assert not identity.verify_signature(proof.public_key, signature, b"other")
    assert not identity.verify_signature(b"junk", signature, b"data")
    other = (
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert not identity.verify_signature(other, signature, b"data")
    assert (proof.token, proof.label) == (b"t" * 32, "laptop")


def test_no_key_in_any_repr(folder: StateFolder) -> None:
    credentials = identity.server_credentials(folder)
    key = identity.load_or_create(folder)
    secret = identity.load_secret(folder, NOW)
    for shown in (repr(credentials), repr(key), repr(secret)):
        assert "PRIVATE KEY" not in shown
        assert "EllipticCurvePrivateKey" not in shown
    assert repr(secret.current) not in repr(secret)


def test_damaged_or_foreign_key_is_one_line(folder: StateFolder, tmp_path: Path) -> None:
    folder.write(identity.KEY_FILE, b"junk")
    with pytest.raises(IdentityError, match="no usable private key"):
        identity.load_or_create(folder)
    folder.write(identity.KEY_FILE, pem_of(ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(IdentityError, match="not an EC P-256 key; move it away"):
        identity.load_or_create(folder)
    folder.file(identity.KEY_FILE).chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        identity.load_or_create(folder)


def test_key_file_of_ones_own(folder: StateFolder, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = private_file(tmp_path / "own.pem", pem_of(key))
    own = identity.load_or_create(folder, path)
    assert own.private_key.private_numbers() == key.private_numbers()
    assert not folder.file(identity.KEY_FILE).exists()
    with pytest.raises(IdentityError, match="there is no key file"):
        identity.load_or_create(folder, tmp_path / "none.pem")


# Certificates.


def test_generated_certificate_is_kept_while_it_fits_the_key(folder: StateFolder) -> None:
    first = identity.server_credentials(folder)
    assert identity.server_credentials(folder) == first
    folder.remove(identity.KEY_FILE)
    second = identity.server_credentials(folder)
    assert second.pin != first.pin
    assert second.certificate != first.certificate
    folder.write(identity.CERTIFICATE_FILE, b"junk")
    assert identity.server_credentials(folder).pin == second.pin
    assert x509.load_pem_x509_certificate(second.certificate).not_valid_after_utc.year == 9999


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_own_certificate(folder: StateFolder, tmp_path: Path, make: Any) -> None:
    key = make()
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(certificate_for(key))
    own = identity.server_credentials(folder, certificate, private_file(tmp_path / "key.pem", pem_of(key)))
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert own.pin == hashlib.sha256(spki).digest()
    assert not own.generated


def test_own_certificate_errors_are_one_line_each(folder: StateFolder, tmp_path: Path) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(certificate_for(key))
    good = private_file(tmp_path / "key.pem", pem_of(key))
    wrong = private_file(tmp_path / "other.pem", pem_of(other))
    locked = private_file(tmp_path / "locked.pem", pem_of(key, b"password"))
    open_to_all = tmp_path / "open.pem"
    open_to_all.write_bytes(pem_of(key))
    open_to_all.chmod(0o644)
    small = private_file(tmp_path / "small.pem", pem_of(rsa.generate_private_key(65537, 1024)))
    curve = private_file(tmp_path / "curve.pem", pem_of(ec.generate_private_key(ec.SECP521R1())))
    kind = private_file(tmp_path / "kind.pem", pem_of(dsa.generate_private_key(1024)))
    cases: list[tuple[Path, Path | None, str]] = [
        (certificate, wrong, "was not made for the key"),
        (certificate, None, "without its key"),
        (certificate, locked, "is encrypted; decrypt it with"),
        (certificate, open_to_all, "chmod 600"),
        (certificate, small, "has 1024 bits"),
        (certificate, curve, "secp521r1"),
        (certificate, kind, "of a kind that TLS here cannot use"),
        (certificate, tmp_path / "none", "there is no key file"),
        (tmp_path / "none", good, "cannot read the certificate"),
        (good, good, "no usable certificate"),
    ]
    for certificate_file, key_file, expected in cases:
        with pytest.raises(StateError, match=expected) as caught:
            identity.server_credentials(folder, certificate_file, key_file)
        assert "\n" not in str(caught.value)
        assert "PRIVATE" not in str(caught.value)


def test_links_are_pinned_unless_the_system_vouches(
    folder: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert identity.needs_pin(identity.server_credentials(folder), "gw.example.com", NOW)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificate_for(root_key, ca=True)
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(certificate_for(key, issuer=root_key))
    own = identity.load_certificate(certificate, private_file(tmp_path / "key.pem", pem_of(key)))
    assert identity.needs_pin(own, "gw.example.com", NOW)

    class Roots:
        def get_ca_certs(self, binary_form: bool) -> list[bytes]:
            return [x509.load_pem_x509_certificate(root).public_bytes(serialization.Encoding.DER)]

    monkeypatch.setattr(ssl, "create_default_context", Roots)
    assert not identity.needs_pin(own, "gw.example.com", NOW)
    assert identity.needs_pin(own, "other.example.com", NOW)
    assert identity.needs_pin(own, "192.0.2.1", NOW)
    assert identity.needs_pin(own, "gw.example.com", NOW + 10 * 86400)


# The rotating secret.


def test_secret_survives_a_restart_and_rotates(folder: StateFolder) -> None:
    first = identity.load_secret(folder, NOW)
    assert (len(first.current), first.previous) == (32, b"")
    assert mode(folder.file(identity.SECRET_FILE)) == 0o600
    assert identity.load_secret(folder, NOW + identity.SECRET_AGE - 1) == first
    second = identity.load_secret(folder, NOW + identity.SECRET_AGE)
    assert second.previous == first.current
    assert second.current != first.current
    assert identity.load_secret(folder, NOW + identity.SECRET_AGE) == second


def test_clock_set_far_back_rotates_instead_of_never(folder: StateFolder) -> None:
    first = identity.load_secret(folder, NOW)
    assert identity.load_secret(folder, NOW - 2 * identity.SECRET_AGE).previous == first.current


@pytest.mark.parametrize("junk", [b"", b"junk", b"1\n2\n", b"x\nAA\n\n", b"1\nAA\n\n", b"\xff\xfe\n\n"])
def test_damaged_secret_is_replaced(folder: StateFolder, junk: bytes) -> None:
    folder.write(identity.SECRET_FILE, junk)
    fresh = identity.load_secret(folder, NOW)
    assert len(fresh.current) == 32
    assert identity.load_secret(folder, NOW) == fresh
