"""Who gets in: proofs, tokens, refusals, deadlines, and what is held meanwhile."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.tunnel.authentication import make_auth
from quicsocks.userspace.tunnel.client import AUTH_ANSWER_TIMEOUT
from quicsocks.userspace.tunnel.client_flow import EARLY_FLOWS, EARLY_OCTETS
from quicsocks.userspace.tunnel.common import State
from quicsocks.userspace.tunnel.concentrator import AUTH_FAILED_LINGER, AUTH_TIMEOUT, MAX_EXCESS_FLOWS
from quicsocks.userspace.tunnel.control import (
    Auth,
    AuthFailed,
    AuthOK,
    ControlReader,
    Hello,
    Message,
    encode_message,
)
from quicsocks.userspace.tunnel.preamble import answer_error, request
from quicsocks.userspace.tunnel.tlv import Wire
from quicsocks.userspace.tunnel.types import (
    AuthFailure,
    AuthRefused,
    Cause,
    ClientAuthorised,
    CloseCode,
    Identity,
    TunnelLimits,
)
from tests.tunnel.support import KEY, OTHER_KEY, WEB, Pair, RawStream, flow_of

REQUEST = request(WEB, Wire.QUICSOCKS)
NOT_AUTHENTICATED = answer_error(Cause.NOT_AUTHENTICATED)


def messages(octets: bytes | bytearray) -> list[Message]:
    reader = ControlReader(65536)
    reader.receive_data(bytes(octets))
    found = []
    while (message := reader.next_message()) is not None:
        found.append(message)
    return found


def raw_auth(pair: Pair, **changes: object) -> bytes:
    """HELLO and a good AUTH of the raw client, with fields changed."""
    auth = make_auth(pair.link.client, KEY.identity())
    fields = {name: getattr(auth, name) for name in Auth.__slots__} | changes
    return encode_message(Hello(1)) + encode_message(Auth(**fields))


def refused_with(pair: RawPair, failure: AuthFailure) -> None:
    """The raw client was told so on the control stream, and then by the close."""
    assert messages(pair.raw_control.data) == [Hello(1), AuthFailed(failure)]
    pair.link.run()
    assert pair.raw.ended is not None
    assert (pair.raw.ended.end, pair.raw.ended.code) == (End.PEER_CLOSED, failure)


class RawPair(Pair):
    """A raw client with its control stream opened."""

    def __init__(self, **options: object) -> None:
        super().__init__(raw_client=True, **options)  # type: ignore[arg-type] # passed on as they are
        self.raw_control: RawStream = self.raw_stream()
        assert self.raw_control.stream.id == 0


# The good case.


def test_known_key() -> None:
    pair = Pair(identity=KEY.identity(token=b"enrolment", label="laptop"))
    assert pair.client_program.calls == ["opened", "ready"]
    assert pair.program.calls == ["authorise", "ready"]
    assert pair.program.authorised == [(KEY.public, b"enrolment", "laptop")]
    assert (pair.client.name, pair.concentrator.name) == ("laptop", "laptop")
    assert pair.concentrator.public_key == KEY.public
    assert pair.client.state is pair.concentrator.state is State.READY
    assert pair.client.get_timer() is None
    assert pair.concentrator.get_timer() is None


def test_limits_are_told() -> None:
    pair = Pair(limits=TunnelLimits(50, 6, 7), connect=False)
    pair.program.answer = ClientAuthorised("laptop", TunnelLimits(max_flows=9))
    pair.link.complete_handshake()
    pair.link.run()
    assert pair.client_program.limits == pair.client.limits == TunnelLimits(9, 6, 7)
    pair.concentrator.set_limits(TunnelLimits(max_pending=1))
    pair.link.run()
    assert pair.client.limits == TunnelLimits(50, 1, 7)


@pytest.mark.parametrize("chunk_size", [1, 2, 7])
def test_authentication_octet_by_octet(chunk_size: int) -> None:
    pair = Pair(chunk_size=chunk_size)
    assert pair.client.state is State.READY


# Refusals.


@pytest.mark.parametrize("failure", list(AuthFailure))
def test_refusals_reach_the_client(failure: AuthFailure) -> None:
    pair = Pair(connect=False)
    pair.program.refusal = AuthRefused(failure)
    pair.link.complete_handshake()
    pair.link.run()
    assert pair.client_program.ended is not None
    assert (pair.client_program.ended.end, pair.client_program.ended.code) == (End.PEER_CLOSED, failure)
    assert pair.client_program.calls == ["opened", "ended"]
    assert pair.program.calls == ["authorise", "ended"]


def test_bad_proof_is_refused_before_the_program_is_asked() -> None:
    pair = RawPair()
    pair.raw_control.stream.write(raw_auth(pair, proof=OTHER_KEY.sign(b"something else")))
    pair.link.run()
    refused_with(pair, AuthFailure.BAD_PROOF)
    assert pair.program.calls == ["ended"]


def test_proof_of_another_session_is_of_no_use() -> None:
    first = RawPair(secret=b"one session")
    stolen = raw_auth(first)
    pair = RawPair(secret=b"another session")
    pair.raw_control.stream.write(stolen)
    pair.link.run()
    refused_with(pair, AuthFailure.BAD_PROOF)


def test_proof_fits_one_key_alone() -> None:
    pair = RawPair()
    pair.raw_control.stream.write(raw_auth(pair, public_key=OTHER_KEY.public))
    pair.link.run()
    refused_with(pair, AuthFailure.BAD_PROOF)


def encoded(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def compressed_point() -> bytes:
    """KEY's SubjectPublicKeyInfo with a compressed point: another spelling of the same key."""
    point = KEY.private.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


@pytest.mark.parametrize(
    "public_key",
    [
        b"",
        b"garbage",
        KEY.public[:-1],
        KEY.public + b"\x00",
        compressed_point(),
        encoded(ec.derive_private_key(5, ec.SECP384R1()).public_key()),
        encoded(ec.derive_private_key(5, ec.SECP256K1()).public_key()),
        encoded(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()),
    ],
    ids=["empty", "garbage", "cut", "trailing", "compressed", "p384", "k256", "ed25519"],
)
def test_keys_of_another_kind_or_spelling(public_key: bytes) -> None:
    pair = RawPair()
    # Signed by the right key over the right content: the spelling alone is wrong.
    auth = make_auth(pair.link.client, Identity(public_key, KEY.sign))
    pair.raw_control.stream.write(encode_message(Hello(1)) + encode_message(auth))
    pair.link.run()
    refused_with(pair, AuthFailure.BAD_PROOF)
    assert pair.program.authorised == []


def test_compressed_spelling_is_one_that_cryptography_would_take() -> None:
    assert encoded(KEY.private.public_key()) == KEY.public
    loaded = serialization.load_der_public_key(compressed_point())
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    assert encoded(loaded) == KEY.public


def test_unknown_method() -> None:
    pair = RawPair()
    pair.raw_control.stream.write(raw_auth(pair, method=2))
    pair.link.run()
    refused_with(pair, AuthFailure.METHOD_UNSUPPORTED)


def test_failure_is_closed_over_when_it_is_not_acknowledged() -> None:
    pair = RawPair()
    pair.raw_control.stream.write(raw_auth(pair, proof=b"x"))
    while pair.concentrator.state is not State.FAILING:
        assert pair.link.step()
    pair.clock.now += AUTH_FAILED_LINGER
    pair.concentrator.handle_timer(pair.clock.now)
    assert pair.link.server.close_calls == [(AuthFailure.BAD_PROOF, "authentication: bad proof")]


def test_what_comes_after_a_failure_is_refused_or_left_aside() -> None:
    pair = RawPair()
    held = pair.raw_stream()
    held.stream.write(REQUEST)
    pair.link.run()
    pair.raw_control.stream.write(raw_auth(pair, proof=b"x") + encode_message(Hello(1)))
    late = pair.raw_stream()
    late.stream.write(REQUEST)
    while pair.concentrator.state is not State.FAILING or not late.eof:
        assert pair.link.step()
    assert late.data == NOT_AUTHENTICATED
    pair.link.run()
    assert held.data == NOT_AUTHENTICATED
    assert pair.program.requests == []


# Deadlines.


def test_client_that_says_nothing() -> None:
    pair = Pair(raw_client=True)
    assert pair.concentrator.get_timer() == pair.clock.now + AUTH_TIMEOUT
    pair.advance(AUTH_TIMEOUT - 0.01)
    assert pair.raw_close() is None
    pair.advance(0.01)
    assert pair.raw_close() == AuthFailure.TIMED_OUT


def test_client_that_says_half_of_it() -> None:
    pair = RawPair()
    pair.raw_control.stream.write(raw_auth(pair)[:-1])
    pair.link.run()
    pair.advance(AUTH_TIMEOUT)
    refused_with(pair, AuthFailure.TIMED_OUT)


def test_concentrator_that_does_not_answer() -> None:
    pair = Pair(raw_concentrator=True)
    assert pair.client.get_timer() == pair.clock.now + AUTH_ANSWER_TIMEOUT
    recorder = pair.open()
    pair.advance(AUTH_ANSWER_TIMEOUT)
    assert pair.client_program.ended is not None
    assert pair.client_program.ended.code == AuthFailure.TIMED_OUT
    assert recorder.ended == 1
    assert recorder.error is not None
    assert recorder.error.cause is Cause.NETWORK_FAILURE


# Order.


def test_flow_before_the_control_stream() -> None:
    pair = RawPair()
    flow = pair.raw_stream()
    flow.stream.write(REQUEST + b"early")
    flow.stream.finish()
    pair.link.run()
    assert pair.program.requests == []
    assert pair.concentrator.counters.flows == 1
    pair.raw_control.stream.write(raw_auth(pair))
    pair.link.run()
    assert pair.program.calls == ["authorise", "ready", "request"]
    (recorder,) = pair.program.recorders
    assert (bytes(recorder.data), recorder.eof) == (b"early", True)


def test_held_flows_are_handed_on_in_the_order_in_which_they_came() -> None:
    pair = RawPair()
    streams = [pair.raw_stream() for _ in range(4)]
    for stream in reversed(streams):
        stream.stream.write(REQUEST)
        pair.link.run()
    pair.raw_control.stream.write(raw_auth(pair))
    pair.link.run()
    assert [flow.id for flow in pair.program.requests] == [stream.stream.id for stream in reversed(streams)]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_streams(seed: int) -> None:
    pair = Pair(seed=seed, chunk_size=5, connect=False)
    pair.link.complete_handshake()
    while not pair.client.usable:
        assert pair.link.step()
    recorders = [pair.open(early=b"%d" % index, run=False) for index in range(10)]
    for recorder in recorders:
        flow_of(recorder).finish()
    pair.link.run()
    assert sorted(bytes(recorder.data) for recorder in pair.program.recorders) == [b"%d" % i for i in range(10)]
    assert all(recorder.bound is not None for recorder in recorders)


def test_flow_that_went_away_before_authentication() -> None:
    pair = RawPair()
    flow = pair.raw_stream()
    flow.stream.write(REQUEST)
    pair.link.run()
    flow.stream.reset(0)
    pair.link.run()
    pair.raw_control.stream.write(raw_auth(pair))
    pair.link.run()
    assert pair.program.requests == []
    assert pair.concentrator.open_flows == pair.concentrator.pending_flows == 0


def test_broken_request_is_answered_before_authentication() -> None:
    pair = RawPair()
    flow = pair.raw_stream()
    flow.stream.write(b"\x05\x00")
    pair.link.run()
    assert flow.data == answer_error(Cause.UNKNOWN_TLV, b"\x05")
    assert flow.eof


# What is held before authentication.


def test_seventeenth_flow_is_refused() -> None:
    pair = RawPair()
    streams = [pair.raw_stream() for _ in range(EARLY_FLOWS + 1)]
    for stream in streams:
        stream.stream.write(REQUEST)
    pair.link.run()
    assert [bytes(stream.data) for stream in streams] == [b""] * EARLY_FLOWS + [NOT_AUTHENTICATED]
    pair.raw_control.stream.write(raw_auth(pair))
    pair.link.run()
    assert len(pair.program.requests) == EARLY_FLOWS


def test_flood_of_flows_is_closed() -> None:
    pair = RawPair()
    for _ in range(EARLY_FLOWS + MAX_EXCESS_FLOWS):
        pair.raw_stream().stream.write(REQUEST)
        pair.link.run()
    assert pair.raw_close() is None
    pair.raw_stream().stream.write(REQUEST)
    pair.link.run()
    assert pair.raw_close() == CloseCode.LIMIT_EXCEEDED


def test_octets_beyond_the_budget_are_refused() -> None:
    pair = RawPair()
    full = pair.raw_stream()
    full.stream.write(REQUEST + bytes(EARLY_OCTETS - len(REQUEST)))
    pair.link.run()
    assert full.data == b""
    full.stream.write(b"x")
    pair.link.run()
    assert full.data == NOT_AUTHENTICATED
    assert pair.raw_close() is None


def test_data_held_for_a_stranger_is_not_credited() -> None:
    pair = RawPair()
    flow = pair.raw_stream()
    flow.stream.write(REQUEST + bytes(1000))
    pair.link.run()
    held = pair.link.server._sent, pair.link.client._send_limit
    assert held[1] == pair.link.server.limits.session_window + len(REQUEST)
    pair.raw_control.stream.write(raw_auth(pair))
    pair.link.run()
    assert pair.link.client._send_limit == pair.link.server.limits.session_window + pair.link.client._sent


# The client keeps to the budget by itself.


def test_client_sends_no_more_early_flows_than_are_held() -> None:
    pair = Pair(raw_concentrator=True)
    recorders = [pair.open() for _ in range(EARLY_FLOWS + 4)]
    sent = [stream for stream in pair.raw.streams.values() if stream.stream.id]
    assert len(sent) == EARLY_FLOWS
    assert not any(recorder.calls for recorder in recorders)
    pair.raw.streams[0].stream.write(encode_message(Hello(1)) + encode_message(AuthOK("x", TunnelLimits())))
    pair.link.run()
    assert len(pair.raw.streams) == 1 + EARLY_FLOWS + 4
    assert all(stream.data == REQUEST for stream in pair.raw.streams.values() if stream.stream.id)


def test_client_sends_no_more_early_octets_than_are_held() -> None:
    pair = Pair(raw_concentrator=True)
    recorder = pair.open(early=b"e" * 1000)
    flow = flow_of(recorder)
    flow.write(b"a" * (EARLY_OCTETS - 1000 - len(REQUEST)))
    assert recorder.calls == []
    flow.write(b"b")
    assert recorder.calls == ["pause"]
    flow.write(b"c")
    flow.finish()
    pair.link.run()
    stream = pair.raw.streams[4]
    assert (len(stream.data), stream.eof) == (EARLY_OCTETS, False)
    pair.raw.streams[0].stream.write(encode_message(Hello(1)) + encode_message(AuthOK("x", TunnelLimits())))
    pair.link.run()
    assert (bytes(stream.data[-3:]), stream.eof) == (b"abc", True)
    assert recorder.calls == ["pause", "resume"]


def test_flow_reset_while_it_is_held() -> None:
    pair = Pair(raw_concentrator=True)
    for _ in range(EARLY_FLOWS):
        pair.open()
    recorder = pair.open(early=b"never sent")
    flow_of(recorder).reset()
    flow_of(recorder).write(b"nor this")
    pair.raw.streams[0].stream.write(encode_message(Hello(1)) + encode_message(AuthOK("x", TunnelLimits())))
    pair.link.run()
    assert all(b"never" not in stream.data for stream in pair.raw.streams.values())
    assert recorder.ended == 0
    assert pair.client.open_flows == EARLY_FLOWS


def test_hello_and_auth_are_the_first_thing_sent() -> None:
    pair = Pair(raw_concentrator=True)
    hello, auth = messages(pair.raw.streams[0].data)
    assert hello == Hello(1)
    assert isinstance(auth, Auth)
    assert auth.public_key == KEY.public
