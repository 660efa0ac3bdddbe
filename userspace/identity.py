"""This installation's key, the certificate made from it, pins, and the secret that others derive from.

Every installation, client or concentrator, has one EC P-256 key in its state folder, made at the first start. A
concentrator shows a self-signed certificate over it, or one's own certificate and key; a client proves the key inside
the session (docs/protocol.md). A pin is the SHA-256 of the SubjectPublicKeyInfo in DER (RFC 7469 §2.4 computes it the
same way), so that it lives on when a certificate is renewed over the same key.

All cryptography is the ``cryptography`` package's. IdentityError carries one line for a person; no key is ever in it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import secrets
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from .link import base64url, base64url_decode
from .state import StateError, StateFolder, read_private, reason
from .tunnel.types import Identity

KEY_FILE = "identity.pem"
CERTIFICATE_FILE = "certificate.pem"
SECRET_FILE = "secret"  # noqa: S105 - a file's name

SECRET_SIZE = 32
SECRET_AGE = 30 * 86400.0
"""Seconds until the secret rotates at a start. What derives from it (Retry tokens, resets) lives much shorter, and the
previous one stays valid meanwhile."""
MIN_RSA_BITS = 2048
MAX_PEM = 1 << 18
"""Bytes of a certificate chain or key file."""

# RFC 5280 §4.1.2.5: the date for a certificate that has no well-defined end. Both ends constant: the certificate is a
# carrier for the key, and the pin decides, whatever the clocks say.
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class IdentityError(StateError):
    """A key or certificate cannot be used; the message is one line: what failed, why, what to do."""


@dataclass(frozen=True, slots=True)
class InstallationKey:
    """An EC P-256 key. public_key: its SubjectPublicKeyInfo in DER."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    public_key: bytes

    @property
    def pin(self) -> bytes:
        """SHA-256 of public_key."""
        return pin_of(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """An ECDSA signature with SHA-256 over data, in DER."""
        return self.private_key.sign(data, ec.ECDSA(hashes.SHA256()))

    def tunnel_identity(self, token: bytes = b"", label: str = "") -> Identity:
        """What the tunnel proves to a concentrator."""
        return Identity(public_key=self.public_key, sign=self.sign, token=token, label=label)

    @property
    def pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 in PEM: a secret."""
        return _private_pem(self.private_key)


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """What a concentrator shows.

    certificate: PEM, the chain behind it. private_key: PEM. pin: of the certificate's key.
    generated: made here over the installation's key, so that only a pin can vouch for it.
    """

    certificate: bytes
    private_key: bytes = field(repr=False)
    pin: bytes
    generated: bool


@dataclass(frozen=True, slots=True)
class RotatingSecret:
    """32 random bytes and those before them, from which keys for Retry, resets and tickets derive."""

    current: bytes = field(repr=False)
    previous: bytes = field(default=b"", repr=False)


def pin_of(public_key: bytes) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo in DER."""
    return hashlib.sha256(public_key).digest()


def load_or_create(folder: StateFolder, key_file: Path | None = None) -> InstallationKey:
    """The installation's key; made when the folder has none. key_file: use that one and make nothing.

    Raises StateError (IdentityError when the key itself is unusable).
    """
    if key_file is not None:
        return _parse_installation_key(_read_pem(key_file, "key file"), key_file)
    with folder.locked():
        pem = folder.read(KEY_FILE)
        if pem is None:
            key = _installation_key(ec.generate_private_key(ec.SECP256R1()))
            folder.write(KEY_FILE, key.pem)
            return key
    return _parse_installation_key(pem, folder.file(KEY_FILE))


def server_credentials(
    folder: StateFolder, certificate_file: Path | None = None, key_file: Path | None = None
) -> ServerCredentials:
    """One's own certificate and key, or the installation's key under a self-signed certificate.

    key_file without certificate_file: that key instead of the installation's, under a certificate made for it.
    Raises StateError (IdentityError when they are unusable or do not belong together).
    """
    if certificate_file is not None:
        if key_file is None:
            raise IdentityError("a certificate was given without its key; give the key with --key FILE")
        return load_certificate(certificate_file, key_file)
    key = load_or_create(folder, key_file)
    with folder.locked():
        certificate = folder.read(CERTIFICATE_FILE)
        if certificate is None or not _belongs(certificate, key):
            certificate = self_signed(key)
            folder.write(CERTIFICATE_FILE, certificate)
    return ServerCredentials(certificate, key.pem, key.pin, generated=True)


def self_signed(key: InstallationKey) -> bytes:
    """A certificate over the key, PEM, valid for as long as certificates can be."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quicsocks")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key.private_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_certificate(certificate_file: Path, key_file: Path) -> ServerCredentials:
    """One's own certificate chain and its key, checked to belong together. Raises IdentityError or StateError."""
    certificate = _read_public(certificate_file)
    chain = _parse_chain(certificate, certificate_file)
    key_pem = _read_pem(key_file, "key file")
    key = _parse_private_key(key_pem, key_file)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)):
        raise IdentityError(
            f"the key in {key_file} is of a kind that TLS here cannot use; use EC P-256, Ed25519 or RSA"
        )
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        raise IdentityError(f"the RSA key in {key_file} has {key.key_size} bits; at least {MIN_RSA_BITS} are needed")
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
        raise IdentityError(f"the key in {key_file} is on the curve {key.curve.name}; use P-256 or P-384")
    public = _spki(key.public_key())
    if _spki(chain[0].public_key()) != public:
        raise IdentityError(
            f"the certificate in {certificate_file} was not made for the key in {key_file}; "
            "give the two that belong together (the leaf certificate comes first in its file)"
        )
    return ServerCredentials(certificate, key_pem, pin_of(public), generated=False)


def needs_pin(credentials: ServerCredentials, host: str, now: float) -> bool:
    """Whether a link to host must carry the pin, because the system's roots do not vouch for the certificate.

    A certificate that they vouch for is left unpinned: its key changes at renewal, and links would break.
    now: Unix time.
    """
    if credentials.generated:
        return True
    try:
        chain = x509.load_pem_x509_certificates(credentials.certificate)
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(_system_roots()))
            .time(datetime.datetime.fromtimestamp(now, datetime.UTC))
            .build_server_verifier(x509.DNSName(host))
        )
        verifier.verify(chain[0], chain[1:])
    except (ValueError, verification.VerificationError, x509.UnsupportedGeneralNameType, OSError, OverflowError):
        return True
    return False


def _system_roots() -> list[x509.Certificate]:
    """The system's roots, without those that ``cryptography`` cannot read or warns about: there is one with a serial
    number of zero in every distribution."""
    roots = []
    for der in ssl.create_default_context().get_ca_certs(binary_form=True):
        with contextlib.suppress(ValueError, CryptographyDeprecationWarning), warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            roots.append(x509.load_der_x509_certificate(der))
    return roots


def load_secret(folder: StateFolder, now: float, max_age: float = SECRET_AGE) -> RotatingSecret:
    """The rotating secret; made at the first start, rotated when older than max_age seconds. now: Unix time.

    Raises StateError.
    """
    with folder.locked():
        data = folder.read(SECRET_FILE)
        parsed = _parse_secret(data) if data is not None else None
        if parsed is not None and -max_age < now - parsed[0] < max_age:
            return parsed[1]
        fresh = RotatingSecret(secrets.token_bytes(SECRET_SIZE), parsed[1].current if parsed is not None else b"")
        lines = [str(int(now)), base64url(fresh.current), base64url(fresh.previous)]
        folder.write(SECRET_FILE, ("\n".join(lines) + "\n").encode("ascii"))
        return fresh


def verify_signature(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether signature is the ECDSA-SHA256 signature (DER) over data of the P-256 key in public_key (DER)."""
    try:
        key = serialization.load_der_public_key(public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            return False
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def _installation_key(private_key: ec.EllipticCurvePrivateKey) -> InstallationKey:
    return InstallationKey(private_key, _spki(private_key.public_key()))


def _parse_installation_key(pem: bytes, path: Path) -> InstallationKey:
    key = _parse_private_key(pem, path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"the key in {path} is not an EC P-256 key; move it away, and a new one is made")
    return _installation_key(key)


def _parse_private_key(pem: bytes, path: Path) -> object:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise IdentityError(f"the key in {path} is encrypted; decrypt it with: openssl pkey -in {path}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError(f"there is no usable private key in {path}; it must be PEM (PKCS #8)") from None


def _parse_chain(pem: bytes, path: Path) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise IdentityError(f"there is no usable certificate in {path}; it must be PEM, the leaf first") from None


def _belongs(certificate: bytes, key: InstallationKey) -> bool:
    try:
        return _spki(x509.load_pem_x509_certificate(certificate).public_key()) == key.public_key
    except (ValueError, UnsupportedAlgorithm):
        return False


def _read_pem(path: Path, what: str) -> bytes:
    try:
        return read_private(path, what=what)
    except FileNotFoundError:
        raise IdentityError(f"there is no {what} {path}") from None


def _read_public(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_PEM)
    except OSError as error:
        raise IdentityError(f"cannot read the certificate {path}: {reason(error)}") from None


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _spki(key: object) -> bytes:
    # Every public key class of ``cryptography`` has the method, but they share no base class that says so.
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _parse_secret(data: bytes) -> tuple[float, RotatingSecret] | None:
    """None when the file is damaged: a new secret costs only the handshakes that are under way."""
    try:
        created, current, previous = data.decode("ascii").split("\n")[:3]
        secret = RotatingSecret(base64url_decode(current), base64url_decode(previous))
        if len(secret.current) != SECRET_SIZE or len(secret.previous) not in (0, SECRET_SIZE):
            return None
        return float(int(created)), secret
    except ValueError:
        return None
