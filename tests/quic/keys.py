"""Certificates for tests, made once a run."""

from __future__ import annotations

import datetime
import functools
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Identity:
    """certificate: PEM, leaf first. private_key: PEM. pin: SHA-256 of the leaf's SubjectPublicKeyInfo."""

    certificate: bytes
    private_key: bytes
    public_key: bytes
    pin: bytes


@functools.cache
def self_signed(kind: str = "p256", name: str = "server.example", days: int = 365) -> Identity:
    """kind: p256, p384, rsa, ed25519. days: negative for one that has expired."""
    key = _key(kind)
    return _identity(key, _certificate(key, name, name, key, days), name)


@functools.cache
def issued(name: str = "server.example", days: int = 365) -> tuple[Identity, bytes]:
    """A leaf for name under a root of its own, and the root's certificate in PEM."""
    root_key, key = _key("p256"), _key("p256")
    root = _certificate(root_key, "Test Root", "Test Root", root_key, 365, authority=True)
    leaf = _certificate(key, name, "Test Root", root_key, days)
    return _identity(key, leaf, name), root.public_bytes(Encoding.PEM)


@functools.cache
def chain(length: int, name: str = "server.example") -> Identity:
    """A leaf for name under so many authorities, each below the next; all of them are in the certificate file."""
    names = [name, *(f"Authority {number}" for number in range(length))]
    keys = [_key("rsa") for _ in names]
    certificates = [
        _certificate(key, subject, issuer, issuer_key, 365, authority=subject != name)
        for key, subject, issuer, issuer_key in zip(
            keys, names, [*names[1:], names[-1]], [*keys[1:], keys[-1]], strict=True
        )
    ]
    leaf = _identity(keys[0], certificates[0], name)
    below = [certificate.public_bytes(Encoding.PEM) for certificate in certificates]
    return Identity(b"".join(below), leaf.private_key, leaf.public_key, leaf.pin)


def _key(kind: str) -> Key:
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(kind)


def _certificate(
    key: Key, name: str, issuer: str, issuer_key: Key, days: int, *, authority: bool = False
) -> x509.Certificate:
    def distinguished(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    begin = now - datetime.timedelta(days=max(1, 1 - days))
    builder = (
        x509.CertificateBuilder()
        .subject_name(distinguished(name))
        .issuer_name(distinguished(issuer))
        .public_key(key.public_key())
        # Of the same length always, so that a simulated run is the same run again.
        .serial_number(x509.random_serial_number() | 1 << 158)
        .not_valid_before(begin)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
    )
    return builder.sign(issuer_key, None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def _identity(key: Key, certificate: x509.Certificate, name: str) -> Identity:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Identity(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        public,
        hashlib.sha256(public).digest(),
    )
