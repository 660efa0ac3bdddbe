"""Both tunnels over the aioquic engine, on a simulated network with a jumping clock: what the tests in memory show must
hold on real packets too, with loss, reordering, and TLS exporters."""

from __future__ import annotations

import hashlib
from random import Random

import pytest

from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.types import DialConfig, Limits, ListenConfig, Session, SessionHandler, Trust
from quicsocks.userspace.tunnel.client import ClientTunnel
from quicsocks.userspace.tunnel.concentrator import ConcentratorTunnel
from quicsocks.userspace.tunnel.types import AuthFailure, AuthRefused, Cause, TunnelFlow
from tests.quic.keys import self_signed
from tests.sim.link import Conditions
from tests.sim.pair import Pair as Network
from tests.tunnel.support import BOUND, KEY, WEB, ClientProgram, ConcentratorProgram, FlowRecorder, flow_of

GOOD = Conditions(delay=0.02)
BAD = Conditions(delay=0.02, jitter=0.01, loss=0.05, duplicate=0.02, reorder=0.05)


class Sender(FlowRecorder):
    """Writes payload and FIN as backpressure lets it."""

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        self.payload = payload
        self.sent = 0
        self.finished = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self.go_on()

    def go_on(self) -> None:
        while not self.paused and self.sent < len(self.payload):
            piece = self.payload[self.sent : self.sent + 16384]
            self.sent += len(piece)
            flow_of(self).write(piece)
        if self.sent == len(self.payload) and not self.finished:
            self.finished = True
            flow_of(self).finish()


class World:
    def __init__(self, *, alpn: str = "quicsocks/1", conditions: Conditions = GOOD, refusal: AuthFailure | None = None):
        self.network = Network(seed=7, up=conditions)
        self.program = ConcentratorProgram()
        self.program.on_request = self.accept
        if refusal is not None:
            self.program.refusal = AuthRefused(refusal)
        self.client_program = ClientProgram()
        self.senders: list[Sender] = []
        self.concentrators: list[ConcentratorTunnel] = []
        identity = self_signed()
        limits = Limits()
        self.network.listen(
            ListenConfig((alpn,), identity.certificate, identity.private_key, bytes(range(32)), limits), self.serve
        )
        trust = Trust("server.example", (identity.pin,))
        session = self.network.dial(DialConfig((alpn,), trust, limits), self.program_of_nobody())
        self.client = ClientTunnel(
            session,
            identity=KEY.identity() if alpn != "qt" else None,
            events=self.client_program,
            clock=lambda: self.network.now,
            opened=self.client_program.opened,
        )

    def program_of_nobody(self) -> SessionHandler:
        """A handler until the tunnel takes the session, which is before anything can happen."""

        class Nobody:
            def __getattr__(self, name: str) -> object:
                raise AssertionError(f"{name} before the tunnel was there")

        return Nobody()  # type: ignore[return-value] # it must not be called at all

    def serve(self, session: Session) -> SessionHandler:
        tunnel = ConcentratorTunnel(session, events=self.program, clock=lambda: self.network.now, allow_qt=True)
        self.concentrators.append(tunnel)
        return tunnel

    def accept(self, flow: TunnelFlow) -> None:
        incoming = self.program.requests[-1]
        index = len(self.senders)
        sender = Sender(Random(1000 + index).randbytes(150_000))
        sender.flow = flow
        self.senders.append(sender)
        self.program.recorders.append(sender)
        incoming.set_handler(sender)
        incoming.accept(BOUND)
        sender.go_on()

    def wait_until_usable(self) -> None:
        self.network.drive(lambda: self.client.usable or self.client.ended)

    def open(self, payload: bytes) -> Sender:
        sender = Sender(payload)
        sender.flow = self.client.open_flow(WEB, sender)
        sender.go_on()
        return sender


@pytest.mark.parametrize("alpn", ["qt", "quicsocks/1"])
@pytest.mark.parametrize("conditions", [GOOD, BAD], ids=["good", "bad"])
def test_flows_both_ways(alpn: str, conditions: Conditions) -> None:
    world = World(alpn=alpn, conditions=conditions)
    world.wait_until_usable()
    payloads = [Random(index).randbytes(100_000) for index in range(8)]
    senders = [world.open(payload) for payload in payloads]
    world.network.drive(lambda: all(one.ended for one in (*senders, *world.senders)), 120.0)
    assert all(one.error is None for one in (*senders, *world.senders))
    sums = {hashlib.sha256(payload).digest() for payload in payloads}
    assert {hashlib.sha256(one.data).digest() for one in world.senders} == sums
    sums = {hashlib.sha256(one.payload).digest() for one in world.senders}
    assert {hashlib.sha256(one.data).digest() for one in senders} == sums
    assert world.client.open_flows == world.concentrators[0].open_flows == 0
    world.network.close()


def test_first_byte_takes_two_round_trips_in_all() -> None:
    world = World(conditions=Conditions(delay=0.05))
    begun = world.network.now
    world.wait_until_usable()
    sender = world.open(b"GET / HTTP/1.1\r\n\r\n")
    world.network.drive(lambda: bool(sender.data))
    # One for the handshake; one for authentication, request and answer together.
    assert world.network.now - begun == pytest.approx(0.2, abs=0.02)
    world.network.close()


@pytest.mark.parametrize("failure", [AuthFailure.UNKNOWN_KEY, AuthFailure.TOKEN_USED])
@pytest.mark.parametrize("conditions", [GOOD, BAD], ids=["good", "bad"])
def test_refused_clients_are_told_why(failure: AuthFailure, conditions: Conditions) -> None:
    world = World(refusal=failure, conditions=conditions)
    world.wait_until_usable()
    sender = world.open(b"too early")
    world.network.drive(lambda: world.client_program.ended is not None, 20.0)
    assert world.client_program.ended is not None
    assert (world.client_program.ended.end, world.client_program.ended.code) == (End.PEER_CLOSED, failure)
    assert sender.ended == 1
    assert sender.error is not None
    assert world.program.requests == []
    world.network.close()


@pytest.mark.parametrize("conditions", [GOOD, BAD], ids=["good", "bad"])
def test_causes_and_resets_arrive(conditions: Conditions) -> None:
    world = World(conditions=conditions)
    world.wait_until_usable()
    world.program.on_request = lambda flow: flow.refuse(Cause.REFUSED)
    refused = world.open(bytes(50_000))
    world.network.drive(lambda: refused.ended == 1)
    assert refused.error is not None
    assert refused.error.cause is Cause.REFUSED

    world.program.on_request = world.accept
    reset_here = world.open(bytes(200_000))
    world.network.drive(lambda: len(world.senders) == 1 and bool(reset_here.data))
    flow_of(reset_here).reset()
    world.network.drive(lambda: world.senders[0].ended == 1)
    assert world.senders[0].error is not None
    assert world.senders[0].error.cause is Cause.RESET

    reset_there = world.open(bytes(200_000))
    world.network.drive(lambda: len(world.senders) == 2 and bool(reset_there.data))
    flow_of(world.senders[1]).reset()
    world.network.drive(lambda: reset_there.ended == 1)
    assert reset_there.error is not None
    assert reset_there.error.cause is Cause.RESET
    world.network.settle()
    assert world.client.open_flows == world.concentrators[0].open_flows == 0
    assert world.concentrators[0]._flows == {}
    world.network.close()


def test_goodbye_arrives_and_flows_drain() -> None:
    world = World()
    world.wait_until_usable()
    sender = world.open(b"question")
    world.network.drive(lambda: sender.bound is not None)
    concentrator = world.concentrators[0]
    concentrator.goodbye("restart", 10.0)
    world.network.drive(lambda: world.client_program.goodbye is not None and sender.ended == 1)
    assert sender.error is None
    world.network.settle(1.0)
    concentrator.handle_timer(world.network.now)
    world.network.drive(lambda: world.client_program.ended is not None)
    assert world.client_program.ended is not None
    assert world.client_program.ended.code == 0x103
    world.network.close()
