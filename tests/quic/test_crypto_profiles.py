"""The crypto profile ``fips``: what a capture of the handshake shows to be offered, negotiated and used, and who is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from aioquic import tls

from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.tls_profile import PROFILES
from quicsocks.userspace.refusal import explain

from .capture import Dissected, complaints, dissect, needs_tshark, write_pcap
from .dialled import Dialled, dial, dial_config, listen_config
from .keys import self_signed
from .recorders import StreamLog

SUITES = {0x1301, 0x1302}
"""AES-GCM (RFC 8446 §B.4)."""
GROUPS = {23, 24}
"""P-256 and P-384 (§4.2.7)."""
SIGNATURES = {0x0401, 0x0501, 0x0403, 0x0503, 0x0804, 0x0805}
"""SHA-2 with RSA and those curves (§4.2.3)."""
CLIENT_HELLO, SERVER_HELLO, CERTIFICATE_VERIFY = 1, 2, 15
PREFERS_OTHERS = replace(
    PROFILES["default"],
    cipher_suites=tuple(reversed(PROFILES["default"].cipher_suites)),
    signature_algorithms=tuple(reversed(PROFILES["default"].signature_algorithms)),
)
"""Everything, and what ``fips`` has not first."""
ONLY_OTHERS = {
    "cipher suite": replace(PROFILES["default"], cipher_suites=(tls.CipherSuite.CHACHA20_POLY1305_SHA256,)),
    "key share": replace(PROFILES["default"], client_groups=(tls.Group.X25519,), server_groups=(tls.Group.X25519,)),
    "signature algorithm": replace(PROFILES["default"], signature_algorithms=(tls.SignatureAlgorithm.ED25519,)),
}
"""By what then is missing: profiles that have nothing in common with ``fips`` there."""
FIELDS = (
    "tls.handshake.type",
    "tls.handshake.ciphersuite",
    "tls.handshake.extensions_supported_group",
    "tls.handshake.extensions_key_share_group",
    "tls.handshake.extensions_key_share_selected_group",
    "tls.handshake.sig_hash_alg",
    "quic.frame_type",
)
ENGINES = [("native", "native"), ("native", "aioquic"), ("aioquic", "native")]


@pytest.fixture
def _others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiles above, by name."""
    for name, made in (("prefers others", PREFERS_OTHERS), *ONLY_OTHERS.items()):
        monkeypatch.setitem(PROFILES, name, made)


def begin(
    client: str, server: str, kind: str = "p256", engines: tuple[str, str] = ENGINES[0], keys: Path | None = None
) -> Dialled:
    """client, server: profiles. kind: of the server's key."""
    identity = self_signed(kind)
    dialled = dial(
        dialling=replace(dial_config(identity), crypto_profile=client, keylog=keys),
        listening=replace(listen_config(identity), crypto_profile=server),
        engines=engines,
    )
    dialled.pair.record = True
    return dialled


def handshake(folder: Path, client: str, server: str, kind: str, engines: tuple[str, str]) -> list[Dissected]:
    """The datagrams of a connection that stands, and carries something."""
    dialled = begin(client, server, kind, engines, folder / "keys").complete()
    near = StreamLog(dialled.client.open_stream())
    near.stream.write(bytes(3000))
    near.stream.finish()
    dialled.pair.settle(1.0)
    assert len(dialled.server_log.logs[near.stream.id].data) == 3000
    write_pcap(folder / "seen.pcap", dialled.pair.seen)
    dialled.pair.close()
    return dissect(folder / "seen.pcap", folder / "keys", *FIELDS)


def with_message(datagrams: list[Dissected], kind: int) -> Dissected:
    return next(datagram for datagram in datagrams if kind in datagram.numbers("tls.handshake.type"))


@pytest.mark.programs
@needs_tshark
@pytest.mark.usefixtures("_others")
@pytest.mark.parametrize(
    ("kind", "engines"),
    [*(("p256", engines) for engines in ENGINES), ("p384", ENGINES[0]), ("rsa", ENGINES[0])],
    ids=str,
)
@pytest.mark.parametrize("profiles", [("fips", "fips"), ("fips", "prefers others"), ("prefers others", "fips")])
def test_only_what_is_allowed_is_offered_negotiated_and_used(
    tmp_path: Path, profiles: tuple[str, str], kind: str, engines: tuple[str, str]
) -> None:
    datagrams = handshake(tmp_path, *profiles, kind, engines)
    offer = with_message(datagrams, CLIENT_HELLO)
    if profiles[0] == "fips":
        assert set(offer.numbers("tls.handshake.ciphersuite")) == SUITES
        assert set(offer.numbers("tls.handshake.extensions_supported_group")) == GROUPS
        assert set(offer.numbers("tls.handshake.extensions_key_share_group")) == GROUPS
        assert set(offer.numbers("tls.handshake.sig_hash_alg")) == SIGNATURES
    else:
        assert not set(offer.numbers("tls.handshake.ciphersuite")) <= SUITES
        assert not set(offer.numbers("tls.handshake.extensions_supported_group")) <= GROUPS
    answer = with_message(datagrams, SERVER_HELLO)
    assert set(answer.numbers("tls.handshake.ciphersuite")) < SUITES
    assert set(answer.numbers("tls.handshake.extensions_key_share_group")) < GROUPS
    proof = with_message(datagrams, CERTIFICATE_VERIFY)
    # Not one for certificates only (RFC 8446 §4.4.3).
    assert set(proof.numbers("tls.handshake.sig_hash_alg")) < SIGNATURES - {0x0401, 0x0501}
    # What has been negotiated is what the packets can be read with.
    assert complaints(datagrams) == []
    assert all(datagram["quic.frame_type"] for datagram in datagrams)


@pytest.mark.programs
@needs_tshark
def test_the_default_does_use_others(tmp_path: Path) -> None:
    """So that the test above is known to be able to fail."""
    datagrams = handshake(tmp_path, "default", "default", "ed25519", ENGINES[0])
    answer, proof = with_message(datagrams, SERVER_HELLO), with_message(datagrams, CERTIFICATE_VERIFY)
    assert answer.numbers("tls.handshake.extensions_key_share_group") == [29]
    assert proof.numbers("tls.handshake.sig_hash_alg") == [0x0807]


@pytest.mark.usefixtures("_others")
@pytest.mark.parametrize("engines", ENGINES, ids="-".join)
@pytest.mark.parametrize("fips_end", ["client", "server"])
@pytest.mark.parametrize("missing", ONLY_OTHERS)
def test_who_has_only_others_is_refused(missing: str, fips_end: str, engines: tuple[str, str]) -> None:
    server = missing
    if missing == "signature algorithm" and fips_end == "client":
        server = "default"  # With an Ed25519 key, that is all it takes.
    kind = "ed25519" if server == "default" else "p256"
    dialled = begin("fips", server, kind, engines) if fips_end == "client" else begin(missing, "fips", "p256", engines)
    dialled.end()
    ended = dialled.client_log.ended
    assert ended is not None
    assert ended.end is End.TLS_FAILED
    assert explain(ended).text == (
        f"no algorithms in common (No supported {missing}); give both ends the same --crypto-profile, and update both"
    )
    assert not dialled.client_log.completed
    assert not any(log.completed for log in dialled.server_logs)
    dialled.pair.settle()
    assert dialled.pair.server.hub.statistics()["half_open"] == 0


@pytest.mark.usefixtures("_others")
@pytest.mark.parametrize("engines", [("native", "native"), ("aioquic", "native")], ids="-".join)
@pytest.mark.parametrize("missing", ["cipher suite", "signature algorithm"])
def test_a_server_that_takes_what_was_not_offered_is_refused(
    monkeypatch: pytest.MonkeyPatch, missing: str, engines: tuple[str, str]
) -> None:
    honest = tls.negotiate

    def lying(supported, offered, *rest):  # type: ignore[no-untyped-def] # as aioquic's
        for stubborn in (tls.CipherSuite.CHACHA20_POLY1305_SHA256, tls.SignatureAlgorithm.ED25519):
            if list(supported) == [stubborn]:
                return stubborn
        return honest(supported, offered, *rest)

    monkeypatch.setattr(tls, "negotiate", lying)
    kind = "ed25519" if missing == "signature algorithm" else "p256"
    dialled = begin("fips", "default" if kind == "ed25519" else missing, kind, engines).end()
    ended = dialled.client_log.ended
    assert ended is not None
    assert ended.end is End.TLS_FAILED
    assert not dialled.client_log.completed
    (log,) = dialled.server_logs
    assert not log.completed
