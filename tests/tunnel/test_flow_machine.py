"""Flows with both tunnels over a link whose lanes take turns by seeded chance, under every interleaving of writes,
half-closes, resets, credit and answers that Hypothesis finds.

What must hold: bytes arrive as they were sent, in order, none twice; an end hears of a FIN only after it was sent, and of
its flow's end exactly once; an orderly end means that everything has arrived; at rest no flow is left in a table and all
credit is back."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from quicsocks.userspace.quic.errors import End, Ended
from quicsocks.userspace.quic.types import Limits
from quicsocks.userspace.tunnel.client_flow import EarlyBudget
from quicsocks.userspace.tunnel.types import Cause, IncomingFlow, TunnelFlow
from tests.tunnel.support import BOUND, WEB, FlowRecorder, Pair

TRANSPORT = Limits(stream_window=3_000, session_window=20_000, send_high_water=2_000)
MOST = 4_000
"""Bytes of one write: more than a window, so that flow control takes part."""


class Side:
    """One program's end of a flow."""

    def __init__(self, recorder: FlowRecorder) -> None:
        self.recorder = recorder
        self.sent = bytearray()
        self.finished = False
        self.reset = False

    @property
    def flow(self) -> TunnelFlow:
        assert self.recorder.flow is not None
        return self.recorder.flow

    @property
    def over(self) -> bool:
        return self.reset or self.recorder.ended > 0


class Connection:
    def __init__(self, client: Side) -> None:
        self.client = client
        self.server: Side | None = None
        self.request: IncomingFlow | None = None
        self.answer = ""

    def sides(self) -> list[Side]:
        return [self.client] if self.server is None else [self.client, self.server]


class FlowMachine(RuleBasedStateMachine):
    flows = Bundle("flows")

    @initialize(
        seed=st.integers(0, 2**16), alpn=st.sampled_from(["qt", "quicsocks/1"]), chunk=st.sampled_from([1, 700])
    )
    def connect(self, seed: int, alpn: str, chunk: int) -> None:
        self.random = Random(seed)
        self.pair = Pair(alpn=alpn, seed=seed, chunk_size=chunk, transport=TRANSPORT, connect=False)
        self.pair.program.on_request = self.requested
        self.connections: list[Connection] = []
        self.pair.link.complete_handshake()
        while not self.pair.client.usable:
            assert self.pair.link.step()
        if self.pair.client._budget is not None:
            # So small that flows soon have to wait here for their authentication.
            self.pair.client._budget = EarlyBudget(flows=3, octets=5_000)
        self.severed = False

    def requested(self, flow: IncomingFlow) -> None:
        (connection,) = [one for one in self.connections if one.client.flow.id == flow.id]
        assert connection.request is None, "one request handed on twice"
        connection.request = flow

    @rule(target=flows, early=st.integers(0, MOST))
    def open(self, early: int) -> Connection:
        recorder = FlowRecorder(consume=False)
        side = Side(recorder)
        connection = Connection(side)
        if self.severed or len(self.connections) >= 25:
            return self.connections[0] if self.connections else connection
        octets = self.random.randbytes(early)
        recorder.flow = self.pair.client.open_flow(WEB, recorder, early=octets)
        side.sent += octets
        self.connections.append(connection)
        return connection

    @rule(
        connection=flows, how=st.sampled_from(["accept", "accept", "accept", "refuse", "reset"]), attach=st.booleans()
    )
    def answer(self, connection: Connection, how: str, attach: bool) -> None:
        if connection.request is None or connection.answer:
            return
        connection.answer = how
        if attach or how == "accept":
            self.attach(connection)
        if how == "accept":
            connection.request.accept(BOUND)
        elif how == "refuse":
            connection.request.refuse(Cause.REFUSED)
        else:
            connection.request.reset()
        if how != "accept" and connection.server is not None:
            # Its own doing, of which the handler is not told.
            connection.server.reset = True

    @rule(connection=flows)
    def attach(self, connection: Connection) -> None:
        if connection.request is None or connection.server is not None or connection.answer in ("refuse", "reset"):
            return
        recorder = FlowRecorder(consume=False)
        recorder.flow = connection.request
        connection.server = Side(recorder)
        connection.request.set_handler(recorder)

    def writable(self, connection: Connection, client: bool) -> Side | None:
        side = connection.client if client else connection.server
        if side is None or side.over or side.finished or side.recorder.flow is None:
            return None
        if not client and connection.answer != "accept":
            return None
        return side

    @rule(connection=flows, client=st.booleans(), size=st.integers(1, MOST))
    def write(self, connection: Connection, client: bool, size: int) -> None:
        side = self.writable(connection, client)
        if side is not None and not side.recorder.paused:
            octets = self.random.randbytes(size)
            side.flow.write(octets)
            side.sent += octets

    @rule(connection=flows, client=st.booleans())
    def finish(self, connection: Connection, client: bool) -> None:
        side = self.writable(connection, client)
        if side is not None:
            side.flow.finish()
            side.finished = True

    @rule(connection=flows, client=st.booleans())
    def reset(self, connection: Connection, client: bool) -> None:
        side = connection.client if client else connection.server
        if side is not None and side.recorder.flow is not None and not side.over:
            side.flow.reset()
            side.reset = True
            if not client and not connection.answer:
                connection.answer = "reset"

    @rule(connection=flows, client=st.booleans(), part=st.floats(0.1, 1))
    def consume(self, connection: Connection, client: bool, part: float) -> None:
        side = connection.client if client else connection.server
        if side is not None and side.recorder.flow is not None:
            size = int(side.recorder.unconsumed * part)
            side.recorder.unconsumed -= size
            side.flow.consumed(size)

    @rule(events=st.integers(1, 200))
    def step(self, events: int) -> None:
        for _ in range(events):
            if not self.pair.link.step():
                break

    @rule(really=st.integers(0, 15))
    def sever(self, really: int) -> None:
        if really == 0 and not self.severed:
            self.severed = True
            self.pair.link.sever(Ended(End.TIMED_OUT))
            for connection in self.connections:
                for side in connection.sides():
                    assert side.over, "a flow outlived its session"

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        for connection in getattr(self, "connections", []):
            client, server = connection.client, connection.server
            if server is None:
                assert not client.recorder.data
                continue
            assert client.sent.startswith(server.recorder.data)
            assert server.sent.startswith(client.recorder.data)
            for one, other in ((client, server), (server, client)):
                if one.recorder.eof:
                    assert other.finished, "a FIN that nobody sent"
                    assert one.recorder.data == other.sent, "a FIN before all data"
                if one.recorder.ended and one.recorder.error is None:
                    assert one.finished
                    assert one.recorder.eof

    def teardown(self) -> None:
        if not hasattr(self, "connections"):
            return
        link = self.pair.link
        # Everyone reads on, answers and finishes: everything must come to its end.
        for _ in range(400):
            busy = link.run()
            for connection in self.connections:
                self.answer(connection, "accept", True)
                for at_client in (True, False):
                    writer = self.writable(connection, at_client)
                    if writer is not None:
                        writer.flow.finish()
                        writer.finished = True
                        busy += 1
                for side in connection.sides():
                    busy += side.recorder.unconsumed
                    side.flow.consumed(side.recorder.unconsumed)
                    side.recorder.unconsumed = 0
            if not busy:
                break
        else:
            raise AssertionError("no rest")
        for connection in self.connections:
            for side in connection.sides():
                if not side.over and connection.answer == "accept":
                    raise AssertionError(f"a flow that never ended: {side.recorder.calls}")
                assert side.recorder.ended == (0 if side.reset and not side.recorder.ended else 1)
            client, server = connection.client, connection.server
            if not client.reset and not self.severed:
                assert connection.request is not None, "a request that never arrived"
            if connection.answer == "refuse" and client.recorder.error is not None and not self.severed:
                assert client.recorder.error.cause in (Cause.REFUSED, Cause.NETWORK_FAILURE, Cause.RESET)
            if server is not None and not client.reset and not server.reset and not self.severed:
                assert (client.recorder.error, server.recorder.error) == (None, None)
                assert server.recorder.data == client.sent
                assert client.recorder.data == server.sent
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        assert self.pair.client.open_flows == 0
        assert self.pair.concentrator._flows == {}
        assert self.pair.concentrator.open_flows == self.pair.concentrator.pending_flows == 0
        if not self.severed:
            for end in (self.pair.link.client, self.pair.link.server):
                assert end._send_limit - end._sent == TRANSPORT.session_window


FlowMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None, derandomize=True)
TestFlows = FlowMachine.TestCase
