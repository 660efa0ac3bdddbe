"""What TLS may negotiate, whom it believes, and aioquic's configuration made of it.

Read RFC 8446 §9.1 and design of the crypto profiles: "fips" has AES-GCM, P-256, P-384 and SHA-2 only. QUIC's Initial
packets are AES-128-GCM in either profile, since the version fixes that (RFC 9001 §5.2). The handshake's cryptography is
that of the OpenSSL bundled with ``cryptography``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from .aioquic_internals.common import SMALLEST_DATAGRAM, public_key_of
from .cid import LENGTH
from .congestion import algorithm
from .errors import LocalError
from .types import CRYPTO_PROFILES, VERSION_1, VERSION_2, DialConfig, ListenConfig, Trust

VERSIONS = (VERSION_1, VERSION_2)
"""What is known here at all."""
PIN_LENGTH = 32
SMALLEST_RSA = 2048


@dataclass(frozen=True, slots=True)
class Profile:
    """Preference order everywhere. client_groups: each of them costs a key share in every ClientHello."""

    cipher_suites: tuple[tls.CipherSuite, ...]
    client_groups: tuple[tls.Group, ...]
    server_groups: tuple[tls.Group, ...]
    signature_algorithms: tuple[tls.SignatureAlgorithm, ...]


_SHA2_SIGNATURES = (
    tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256,
    tls.SignatureAlgorithm.ECDSA_SECP384R1_SHA384,
    tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA256,
    tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA384,
    # For signatures within certificates only; aioquic refuses these in CertificateVerify (RFC 8446 §4.4.3).
    tls.SignatureAlgorithm.RSA_PKCS1_SHA256,
    tls.SignatureAlgorithm.RSA_PKCS1_SHA384,
)
_NIST_GROUPS = (tls.Group.SECP256R1, tls.Group.SECP384R1)

PROFILES = {
    "default": Profile(
        cipher_suites=(
            tls.CipherSuite.AES_128_GCM_SHA256,
            tls.CipherSuite.AES_256_GCM_SHA384,
            tls.CipherSuite.CHACHA20_POLY1305_SHA256,
        ),
        client_groups=(tls.Group.X25519, tls.Group.SECP256R1),
        server_groups=(tls.Group.X25519, *_NIST_GROUPS),
        signature_algorithms=(*_SHA2_SIGNATURES, tls.SignatureAlgorithm.ED25519),
    ),
    "fips": Profile(
        cipher_suites=(tls.CipherSuite.AES_128_GCM_SHA256, tls.CipherSuite.AES_256_GCM_SHA384),
        client_groups=_NIST_GROUPS,
        server_groups=_NIST_GROUPS,
        signature_algorithms=_SHA2_SIGNATURES,
    ),
}
assert tuple(PROFILES) == CRYPTO_PROFILES


def profile(name: str) -> Profile:
    try:
        return PROFILES[name]
    except KeyError:
        raise LocalError(f"crypto profile {name!r} is not known; use one of: {', '.join(PROFILES)}") from None


class KeyLogs:
    """Open key log files, one for each path. Whoever can read one can read the traffic: 0600."""

    def __init__(self) -> None:
        self._files: dict[Path, TextIO] = {}

    def open(self, path: Path | None) -> TextIO | None:
        """Raises LocalError when the file cannot be written."""
        if path is None:
            return None
        if path not in self._files:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LocalError(f"cannot write the key log {path}: {error.strerror}") from None
            self._files[path] = os.fdopen(descriptor, "a", buffering=1, encoding="ascii")
        return self._files[path]

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()


def client_configuration(config: DialConfig, keylogs: KeyLogs) -> QuicConfiguration:
    """Raises LocalError when the configuration cannot work."""
    configuration = _common(config, is_client=True)
    configuration.original_version = VERSION_1 if VERSION_1 in config.versions else config.versions[0]
    configuration.secrets_log_file = keylogs.open(config.keylog)
    trust = config.trust
    configuration.server_name = trust.server_name
    if trust.pins:
        if any(len(pin) != PIN_LENGTH for pin in trust.pins):
            raise LocalError("a pin is a SHA-256 value of 32 bytes")
        # aioquic still checks the server's signature over the handshake; name, chain and expiry are not checked.
        configuration.verify_mode = ssl.CERT_NONE
    else:
        configuration.verify_mode = ssl.CERT_REQUIRED
        configuration.cafile, configuration.capath = _roots(trust)
    return configuration


def server_configuration(config: ListenConfig, keylogs: KeyLogs) -> QuicConfiguration:
    """Raises LocalError when the configuration cannot work."""
    configuration = _common(config, is_client=False)
    configuration.secrets_log_file = keylogs.open(config.keylog)
    certificates = _certificates(config.certificate, "the server's certificate file")
    try:
        key = tls.load_pem_private_key(config.private_key)
    except TypeError:
        raise LocalError("the server's private key is encrypted; store it without a password, mode 0600") from None
    except ValueError:
        raise LocalError("the server's private key cannot be read: it is not a private key in PEM form") from None
    _check_key(key, config.crypto_profile)
    leaf = certificates[0]
    if key.public_key() != leaf.public_key():
        raise LocalError("the server's private key does not belong to its certificate")
    configuration.certificate, configuration.certificate_chain = leaf, certificates[1:]
    configuration.private_key = key
    return configuration


def verifier(trust: Trust) -> Callable[[x509.Certificate], None] | None:
    """What a client checks of the server's leaf certificate beside aioquic's own checks. None: nothing more."""
    if not trust.pins:
        return None

    def verify(certificate: x509.Certificate) -> None:
        digest = hashlib.sha256(public_key_of(certificate)).digest()
        matches = [hmac.compare_digest(digest, pin) for pin in trust.pins]
        if not any(matches):
            raise tls.AlertBadCertificate("the server's key is not the pinned one")

    return verify


def _common(config: DialConfig | ListenConfig, *, is_client: bool) -> QuicConfiguration:
    limits = config.limits
    if not config.alpn:
        raise LocalError("at least one application protocol (ALPN) is needed")
    if not config.versions or not set(config.versions) <= set(VERSIONS):
        raise LocalError(f"QUIC versions are {config.versions}; known are: {VERSIONS}")
    if limits.max_udp_payload < SMALLEST_DATAGRAM:
        raise LocalError(f"max_udp_payload is {limits.max_udp_payload}; QUIC needs {SMALLEST_DATAGRAM} or more")
    return QuicConfiguration(
        alpn_protocols=list(config.alpn),
        cipher_suites=list(profile(config.crypto_profile).cipher_suites),
        congestion_control_algorithm=algorithm(limits.congestion),
        connection_id_length=LENGTH,
        idle_timeout=limits.idle_timeout,
        is_client=is_client,
        max_data=limits.session_window,
        max_datagram_frame_size=limits.max_datagram_frame_size or None,
        max_datagram_size=limits.max_udp_payload,
        max_stream_data=min(limits.initial_stream_window, limits.stream_window),
        supported_versions=list(config.versions),
    )


def _roots(trust: Trust) -> tuple[str | None, str | None]:
    """File and folder of root certificates; none of both makes aioquic use certifi's."""
    if trust.ca_file is not None:
        try:
            pem = trust.ca_file.read_bytes()
        except OSError as error:
            raise LocalError(f"cannot read the CA file {trust.ca_file}: {error.strerror}") from None
        _certificates(pem, f"the CA file {trust.ca_file}")
        return str(trust.ca_file), None
    system = ssl.get_default_verify_paths()
    return system.cafile, system.capath


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        found = tls.load_pem_x509_certificates(pem)
    except ValueError:
        found = []
    if not found:
        raise LocalError(f"{what} holds no certificate in PEM form")
    return found


def _check_key(key: object, profile_name: str) -> None:
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= SMALLEST_RSA:
        return
    if isinstance(key, ed25519.Ed25519PrivateKey) and profile_name == "default":
        return
    raise LocalError(
        f"the server's private key is of a kind that profile {profile_name} does not allow; "
        f"use EC P-256, EC P-384 or RSA of {SMALLEST_RSA} bits or more"
    )
