"""How a client proves its key to the concentrator: method 1, ECDSA over P-256 with SHA-256.

Read first: docs/protocol.md "Authentication"; RFC 8446 §4.4.3 (the shape of what is signed) and §7.5 (exporters). What
is signed contains a value that only this TLS session can give, so a proof is of no use anywhere else and costs no round
trip. The exporter's context holds method and key, so that one proof fits one key alone (as in RFC 9729).

Signatures are made and checked by ``cryptography``; private keys are never seen here.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..quic.types import Session
from .control import METHOD_ECDSA_P256, Auth
from .types import AuthFailure, AuthRefused, Identity
from .varint import encode_varint

EXPORTER_LABEL = b"EXPORTER-quicsocks-auth"
EXPORTER_LENGTH = 32
SIGNED_CONTEXT = b"quicsocks/1, client authentication"


def make_auth(session: Session, identity: Identity) -> Auth:
    """The AUTH message that proves identity on session, whose handshake is complete."""
    proof = identity.sign(signed_content(_exported(session, identity.public_key)))
    return Auth(METHOD_ECDSA_P256, identity.public_key, proof, identity.token, identity.label)


def verify_auth(session: Session, auth: Auth) -> None:
    """Raises AuthRefused when auth does not prove its key on this session: METHOD_UNSUPPORTED or BAD_PROOF."""
    if auth.method != METHOD_ECDSA_P256:
        raise AuthRefused(AuthFailure.METHOD_UNSUPPORTED)
    key = _load_key(auth.public_key)
    try:
        key.verify(auth.proof, signed_content(_exported(session, auth.public_key)), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise AuthRefused(AuthFailure.BAD_PROOF) from None


def exporter_context(public_key: bytes) -> bytes:
    """The method, a varint, and the DER SubjectPublicKeyInfo."""
    return encode_varint(METHOD_ECDSA_P256) + public_key


def signed_content(exported: bytes) -> bytes:
    """64 spaces, the context string, a zero octet, the exported value (RFC 8446 §4.4.3 has the same shape)."""
    return b" " * 64 + SIGNED_CONTEXT + b"\0" + exported


def _exported(session: Session, public_key: bytes) -> bytes:
    return session.export_keying_material(EXPORTER_LABEL, exporter_context(public_key), EXPORTER_LENGTH)


def _load_key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise AuthRefused(AuthFailure.BAD_PROOF) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AuthRefused(AuthFailure.BAD_PROOF)
    # One key, one name: a second DER spelling of a revoked key must not pass for another key.
    canonical = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if canonical != public_key:
        raise AuthRefused(AuthFailure.BAD_PROOF)
    return key
