"""Who is believed, what is agreed, and how each way of failing ends a session at both ends."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from quicsocks.userspace.quic.aioquic_internals.handshaker import walk
from quicsocks.userspace.quic.cid import LENGTH
from quicsocks.userspace.quic.errors import End, Ended, LocalError
from quicsocks.userspace.quic.types import VERSION_1, VERSION_2, DialConfig, Limits, ListenConfig, Trust

from ..sim.link import Conditions
from ..sim.pair import Pair
from .dialled import Dialled, dial, dial_config, listen_config
from .keys import issued, self_signed
from .recorders import SessionLog

pytestmark = pytest.mark.usefixtures("each_engine")


def ended(dialled: Dialled) -> Ended:
    dialled.end()
    dialled.pair.settle()
    assert dialled.client_log.ended is not None
    return dialled.client_log.ended


def refused_before_anything(dialled: Dialled) -> bool:
    """No end ever completed, and no stream, datagram or key was to be had."""
    return not dialled.client_log.completed and not any(log.completed for log in dialled.server_logs)


# --- Pins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519"])
def test_the_pinned_key_is_believed(kind: str) -> None:
    identity = self_signed(kind)
    dialled = dial(dialling=dial_config(identity), listening=listen_config(identity)).complete()
    assert dialled.client.peer_public_key == identity.public_key


def test_one_of_several_pins_is_enough() -> None:
    identity = self_signed()
    trust = Trust("server.example", (bytes(32), identity.pin))
    dial(dialling=DialConfig(("test/1",), trust)).complete()


def test_with_a_pin_neither_name_nor_expiry_counts() -> None:
    identity = self_signed(name="somebody.else", days=-3)
    dial(dialling=dial_config(identity), listening=listen_config(identity)).complete()


def test_a_wrong_pin_is_a_refusal_with_an_alert() -> None:
    dialled = dial(dialling=DialConfig(("test/1",), Trust("server.example", (bytes(32),))))
    assert ended(dialled).end is End.UNTRUSTED
    assert "not the pinned one" in ended(dialled).reason
    assert refused_before_anything(dialled)
    server = dialled.server_log.ended
    assert server is not None
    assert (server.end, server.code) == (End.TLS_FAILED, 0x100 + 42)  # bad_certificate
    with pytest.raises(LocalError):
        dialled.client.export_keying_material(b"x", b"", 16)


def test_a_pinned_certificate_without_its_key_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """aioquic checks the server's signature over the handshake also where it is told not to check certificates."""
    honest, thief = self_signed(), self_signed(name="thief")
    listening = ListenConfig(("test/1",), honest.certificate, honest.private_key, bytes(32))
    dialled = dial(dialling=dial_config(honest), listening=listening)
    stolen = ListenConfig(("test/1",), thief.certificate, thief.private_key, bytes(32))
    dialled.pair.listen(stolen, lambda session: SessionLog())
    configuration = dialled.pair.server.hub._listening.configuration  # type: ignore[union-attr] # it listens
    from aioquic.tls import load_pem_x509_certificates

    configuration.certificate = load_pem_x509_certificates(honest.certificate)[0]
    assert ended(dialled).end is End.TLS_FAILED
    assert refused_before_anything(dialled)


def test_a_pin_of_another_length_is_a_local_error() -> None:
    with pytest.raises(LocalError, match="32 bytes"):
        dial(dialling=DialConfig(("test/1",), Trust("server.example", (b"short",))))


# --- WebPKI -----------------------------------------------------------------------------------------------------------


def web_trust(tmp_path: Path, root: bytes, name: str = "server.example") -> DialConfig:
    file = tmp_path / "roots.pem"
    file.write_bytes(root)
    return DialConfig(("test/1",), Trust(name, (), file))


def test_a_chain_to_a_root_is_believed(tmp_path: Path) -> None:
    identity, root = issued()
    dialled = dial(dialling=web_trust(tmp_path, root), listening=listen_config(identity)).complete()
    assert dialled.client.peer_public_key == identity.public_key


@pytest.mark.parametrize(
    ("leaf", "name", "why"),
    [
        (("other.example", 365), "server.example", "doesn't match"),
        (("server.example", -2), "server.example", "no longer valid"),
    ],
)
def test_name_and_expiry_count_without_a_pin(tmp_path: Path, leaf: tuple[str, int], name: str, why: str) -> None:
    identity, root = issued(*leaf)
    dialled = dial(dialling=web_trust(tmp_path, root, name), listening=listen_config(identity))
    assert ended(dialled).end is End.UNTRUSTED
    assert why in ended(dialled).reason
    assert refused_before_anything(dialled)


def test_a_stranger_s_root_is_not_believed(tmp_path: Path) -> None:
    identity, _ = issued()
    _, other_root = issued("other.example")
    dialled = dial(dialling=web_trust(tmp_path, other_root), listening=listen_config(identity))
    assert ended(dialled).end is End.UNTRUSTED


def test_the_system_s_roots_do_not_believe_a_self_signed_certificate() -> None:
    dialled = dial(dialling=DialConfig(("test/1",), Trust("server.example")))
    assert ended(dialled).end is End.UNTRUSTED


def test_a_ca_file_that_cannot_be_used_is_a_local_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for file, why in ((tmp_path / "none.pem", "cannot read the CA file"), (empty, "holds no certificate")):
        with pytest.raises(LocalError, match=why):
            dial(dialling=DialConfig(("test/1",), Trust("server.example", (), file)))


# --- ALPN, versions, profiles -----------------------------------------------------------------------------------------


def test_the_server_s_preference_decides() -> None:
    dialling = replace(dial_config(), alpn=("test/1", "test/2"))
    dialled = dial(dialling=dialling, listening=replace(listen_config(), alpn=("test/2", "test/1"))).complete()
    assert dialled.client.alpn == dialled.server.alpn == "test/2"


def test_no_common_protocol() -> None:
    dialled = dial(dialling=replace(dial_config(), alpn=("other",)))
    assert ended(dialled).end is End.ALPN_MISMATCH
    assert refused_before_anything(dialled)
    assert dialled.pair.server.hub.statistics()["sessions"] == 0


def test_a_server_without_version_2_keeps_a_client_that_prefers_it() -> None:
    dialled = dial(
        dialling=replace(dial_config(), versions=(VERSION_2, VERSION_1)),
        listening=replace(listen_config(), versions=(VERSION_1,)),
    )
    dialled.complete()


def test_a_client_of_version_2_alone_learns_that_the_server_has_not_got_it() -> None:
    dialled = dial(
        dialling=replace(dial_config(), versions=(VERSION_2,)),
        listening=replace(listen_config(), versions=(VERSION_1,)),
    )
    assert ended(dialled).end is End.VERSION_MISMATCH


def test_versions_that_nobody_knows_are_a_local_error() -> None:
    for versions in ((), (1, 0x0A1A2A3A)):
        with pytest.raises(LocalError, match="QUIC versions"):
            dial(dialling=replace(dial_config(), versions=versions))


def test_no_common_version() -> None:
    pair = Pair()
    log = SessionLog()
    pair.dial(dial_config(), log)
    pair.settle(0.01)

    # A version negotiation packet as a server of another version sends it, with the connection IDs exchanged.
    pair.record = True
    pair.pass_time(1.0)
    initial = next(data for direction, data in pair.seen if direction == "up")
    destination, source = initial[6:14], initial[15:23]
    packet = bytes([0x80]) + bytes(4) + bytes([8]) + source + bytes([8]) + destination + (0xABCD).to_bytes(4, "big")
    from quicsocks.userspace.quic.session import Route

    from ..sim.pair import CLIENT, SERVER

    pair.client.hub.receive_datagram(packet, Route(CLIENT, SERVER), pair.now)
    assert log.ended is not None
    assert log.ended.end is End.VERSION_MISMATCH


def test_fips_profile_agrees_on_what_it_may() -> None:
    identity = self_signed("p384")
    dialling = replace(dial_config(identity), crypto_profile="fips")
    listening = replace(listen_config(identity), crypto_profile="fips")
    dialled = dial(dialling=dialling, listening=listening).complete()
    tls = dialled.tls
    assert tls.key_schedule is not None
    assert tls.key_schedule.cipher_suite.name.startswith("AES_")
    assert not tls._x25519_private_key


@pytest.mark.parametrize("fips_end", ["client", "server"])
def test_fips_works_with_the_default_at_the_other_end(fips_end: str) -> None:
    profiles = {"client": "default", "server": "default", fips_end: "fips"}
    dial(
        dialling=replace(dial_config(), crypto_profile=profiles["client"]),
        listening=replace(listen_config(), crypto_profile=profiles["server"]),
    ).complete()


def test_fips_refuses_other_keys() -> None:
    with pytest.raises(LocalError, match="profile fips does not allow"):
        dial(listening=replace(listen_config(self_signed("ed25519")), crypto_profile="fips"))
    identity = self_signed("ed25519")
    dialled = dial(dialling=replace(dial_config(identity), crypto_profile="fips"), listening=listen_config(identity))
    assert ended(dialled).end is End.TLS_FAILED


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"alpn": ()}, "ALPN"),
        ({"crypto_profile": "gost"}, "use one of: default, fips"),
        ({"limits": Limits(max_udp_payload=1000)}, "1200 or more"),
        ({"limits": Limits(congestion="vegas")}, "use one of: cubic, reno, bbr"),
        ({"keylog": Path("/nonexistent/keys")}, "cannot write the key log"),
    ],
)
def test_bad_configuration_is_one_clear_line(change: dict[str, object], why: str) -> None:
    with pytest.raises(LocalError, match=why) as caught:
        dial(dialling=replace(dial_config(), **change))  # type: ignore[arg-type] # by name
    assert "\n" not in str(caught.value)
    with pytest.raises(LocalError, match=why):
        dial(listening=replace(listen_config(), **change))  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"certificate": b"no PEM"}, "holds no certificate"),
        ({"private_key": b"no PEM"}, "private key cannot be read"),
        ({"private_key": self_signed(name="other").private_key}, "does not belong"),
        ({"secret": bytes(31)}, "31 bytes"),
    ],
)
def test_bad_server_identity_is_one_clear_line(change: dict[str, bytes], why: str) -> None:
    with pytest.raises(LocalError, match=why):
        dial(listening=replace(listen_config(), **change))  # type: ignore[arg-type] # by name


# --- Exporter and key log ---------------------------------------------------------------------------------------------


def test_key_log_holds_what_wireshark_reads(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    dialled = dial(dialling=replace(dial_config(), keylog=file)).complete()
    dialled.pair.close()
    assert file.stat().st_mode & 0o777 == 0o600
    labels = {line.split()[0] for line in file.read_text().splitlines()}
    assert labels == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    }
    assert all(re.fullmatch(r"\w+ [0-9a-f]{64} [0-9a-f]{64,96}", line) for line in file.read_text().splitlines())


# --- Ends in the middle -----------------------------------------------------------------------------------------------


def test_a_server_that_closes_before_the_handshake_is_complete() -> None:
    """1-RTT packets, too, are addressed to the client's connection ID, if there are any."""
    dialled = dial()
    dialled.pair.record = True
    dialled.pair.step()
    initial = dialled.pair.seen[0][1]
    client = initial[7 + initial[5] :][: initial[6 + initial[5]]]
    dialled.pair.drive(lambda: bool(dialled.servers))

    dialled.server.close(9, "not now")
    end = ended(dialled)

    assert end.end in (End.PEER_TRANSPORT, End.PEER_CLOSED, End.REFUSED)
    down = [data for direction, data in dialled.pair.seen if direction == "down"]
    assert down
    packets = [data[start:stop] for data in down for kind, start, stop in walk(data, LENGTH) if kind == "one_rtt"]
    assert all(packet[1 : 1 + len(client)] == client for packet in packets)


# --- Silence and the network's own answers ----------------------------------------------------------------------------


def test_nothing_answers() -> None:
    dialled = dial(conditions=Conditions(loss=1.0), limits=Limits(handshake_timeout=7.0))
    begun = dialled.pair.now
    assert ended(dialled).end is End.HANDSHAKE_TIMED_OUT
    assert 7.0 <= dialled.pair.now - begun < 12.0
    assert dialled.pair.up.dropped > 3, "it tried more than once"


def test_a_server_does_not_wait_for_ever() -> None:
    vanishes = Conditions(blackouts=((100.1, 1e9),))
    dialled = dial(conditions=vanishes, down=Conditions(loss=1.0), limits=Limits(handshake_timeout=5.0))
    dialled.pair.drive(lambda: bool(dialled.server_logs) and dialled.server_log.ended is not None)
    assert dialled.server_log.ended is not None
    assert dialled.server_log.ended.end is End.HANDSHAKE_TIMED_OUT
    dialled.pair.settle()
    assert dialled.pair.server.hub.statistics()["half_open"] == 0


def test_an_icmp_error_ends_the_attempt_only() -> None:
    dialled = dial(conditions=Conditions(loss=1.0))
    from ..sim.pair import SERVER

    dialled.pair.client.hub.network_error(SERVER, "Connection refused", dialled.pair.now)
    assert ended(dialled) == Ended(End.UNREACHABLE, None, "Connection refused")


def test_an_icmp_error_does_not_end_what_is_established() -> None:
    dialled = dial().complete()
    from ..sim.pair import SERVER

    dialled.pair.settle()
    before = dialled.client.statistics().packets_received
    dialled.pair.client.hub.network_error(SERVER, "Connection refused", dialled.pair.now)
    dialled.pair.pass_time(2.0)
    assert dialled.client_log.ended is None
    assert dialled.client.statistics().packets_received > before, "it looked whether the peer is still there"


def test_a_peer_s_reason_is_made_printable() -> None:
    dialled = dial().complete()
    dialled.server.close(1, "line\nbreak\x1b[31m" + "x" * 400)
    end = ended(dialled)
    assert end.end is End.PEER_CLOSED
    assert "\n" not in end.reason
    assert "\x1b" not in end.reason
    assert len(end.reason) <= 256


def test_bbr_is_the_native_engine_s() -> None:
    limits = Limits(congestion="bbr")
    if Pair.engines[0] == "aioquic":
        with pytest.raises(LocalError, match="needs the native engine"):
            dial(limits=limits)
    else:
        dial(limits=limits).complete()
