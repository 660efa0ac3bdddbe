"""What the tunnel's tests share: a link in memory with a tunnel at each end, programs that record what they are told,
and keys. Nothing here waits or uses a socket; the clock is a number that a test moves."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from quicsocks.userspace.quic.errors import Ended
from quicsocks.userspace.quic.memory import MemoryLink
from quicsocks.userspace.quic.types import Limits, Stream
from quicsocks.userspace.tunnel.client import ClientTunnel
from quicsocks.userspace.tunnel.concentrator import DEFAULT_LIMITS, ConcentratorTunnel
from quicsocks.userspace.tunnel.control import AuthOK, Hello, encode_message
from quicsocks.userspace.tunnel.preamble import answer_accepted, request
from quicsocks.userspace.tunnel.tlv import Wire
from quicsocks.userspace.tunnel.types import (
    AuthRefused,
    BoundAddress,
    ClientAuthorised,
    Destination,
    FlowFailed,
    Identity,
    IncomingFlow,
    TunnelFlow,
    TunnelLimits,
)

WEB = Destination("192.0.2.80", 80)
NAMED = Destination("www.example.org", 443)
BOUND = BoundAddress("198.51.100.7", 40000)


class Key:
    """A P-256 key made from a number, so that runs are alike."""

    def __init__(self, number: int) -> None:
        self.private = ec.derive_private_key(number, ec.SECP256R1())
        self.public = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, content: bytes) -> bytes:
        return self.private.sign(content, ec.ECDSA(hashes.SHA256()))

    def identity(self, token: bytes = b"", label: str = "") -> Identity:
        return Identity(self.public, self.sign, token, label)


KEY = Key(0x1F1E1D1C1B1A191817161514131211100F0E0D0C0B0A09080706050403020100)
OTHER_KEY = Key(0x2222222222222222222222222222222222222222222222222222222222222222)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FlowRecorder:
    """A program's end of a flow. consume: return credit for data at once."""

    def __init__(self, *, consume: bool = True) -> None:
        self.flow: TunnelFlow | None = None
        self.consume = consume
        self.calls: list[str] = []
        self.data = bytearray()
        self.unconsumed = 0
        self.bound: BoundAddress | None = None
        self.eof = False
        self.paused = False
        self.ended = 0
        self.error: FlowFailed | None = None

    def connected(self, bound: BoundAddress) -> None:
        self._call("connected")
        assert self.bound is None, "connected twice"
        assert not self.data, "data before connected"
        self.bound = bound

    def data_received(self, data: bytes) -> None:
        self._call("data")
        assert data
        assert not self.eof, "data after eof"
        self.data += data
        if self.consume:
            assert self.flow is not None
            self.flow.consumed(len(data))
        else:
            self.unconsumed += len(data)

    def eof_received(self) -> None:
        self._call("eof")
        assert not self.eof, "eof twice"
        self.eof = True

    def pause_writing(self) -> None:
        self._call("pause")
        assert not self.paused, "paused twice"
        self.paused = True

    def resume_writing(self) -> None:
        self._call("resume")
        assert self.paused, "resumed without a pause"
        self.paused = False

    def flow_ended(self, error: FlowFailed | None) -> None:
        self._call("ended")
        self.ended += 1
        self.error = error

    def _call(self, name: str) -> None:
        assert not self.ended, f"{name} after flow_ended"
        self.calls.append(name)


class ClientProgram:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.limits: TunnelLimits | None = None
        self.goodbye: tuple[str, float] | None = None
        self.ended: Ended | None = None

    def tunnel_ready(self, limits: TunnelLimits) -> None:
        self.calls.append("ready")
        self.limits = limits

    def tunnel_goodbye(self, reason: str, drain: float) -> None:
        self.calls.append("goodbye")
        self.goodbye = (reason, drain)

    def tunnel_ended(self, ended: Ended) -> None:
        assert self.ended is None, "tunnel_ended twice"
        self.calls.append("ended")
        self.ended = ended

    def opened(self) -> None:
        self.calls.append("opened")


class ConcentratorProgram:
    """on_request: what to do with a request; the default accepts at once with a recorder as handler."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.requests: list[IncomingFlow] = []
        self.recorders: list[FlowRecorder] = []
        self.authorised: list[tuple[bytes, bytes, str]] = []
        self.answer = ClientAuthorised("laptop")
        self.refusal: AuthRefused | None = None
        self.ended: Ended | None = None
        self.on_request: Callable[[IncomingFlow], None] = self.accept

    def authorise(self, public_key: bytes, token: bytes, label: str) -> ClientAuthorised:
        self.calls.append("authorise")
        self.authorised.append((public_key, token, label))
        if self.refusal is not None:
            raise self.refusal
        return self.answer

    def tunnel_ready(self) -> None:
        self.calls.append("ready")

    def flow_requested(self, flow: IncomingFlow) -> None:
        self.calls.append("request")
        self.requests.append(flow)
        self.on_request(flow)

    def tunnel_ended(self, ended: Ended) -> None:
        assert self.ended is None, "tunnel_ended twice"
        self.calls.append("ended")
        self.ended = ended

    def attach(self, flow: IncomingFlow, *, consume: bool = True) -> FlowRecorder:
        recorder = FlowRecorder(consume=consume)
        recorder.flow = flow
        self.recorders.append(recorder)
        flow.set_handler(recorder)
        return recorder

    def accept(self, flow: IncomingFlow) -> None:
        self.attach(flow)
        flow.accept(BOUND)

    def wait(self, flow: IncomingFlow) -> None:
        """Leave the request unanswered, with a handler."""
        self.attach(flow)

    def keep(self, flow: IncomingFlow) -> None:
        """Leave the request unanswered, with a handler that returns no credit."""
        self.attach(flow, consume=False)

    def leave(self, flow: IncomingFlow) -> None:
        """Leave the request unanswered, without a handler."""


class RawStream:
    """A stream of an end that is no tunnel: sends what a test likes, records what comes."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.data = bytearray()
        self.pieces: list[bytes] = []
        self.eof = False
        self.reset_code: int | None = None
        self.stop_code: int | None = None
        self.completed = False
        self.lost: Ended | None = None
        stream.set_handler(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.pieces.append(data)
        self.stream.consumed(len(data))

    def eof_received(self) -> None:
        self.eof = True

    def reset_received(self, code: int) -> None:
        self.reset_code = code

    def stop_received(self, code: int) -> None:
        self.stop_code = code
        self.stream.reset(code)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def send_completed(self) -> None:
        self.completed = True

    def connection_lost(self, ended: Ended) -> None:
        self.lost = ended


class RawEnd:
    """A session's handler that is no tunnel: keeps what happens."""

    def __init__(self) -> None:
        self.complete = False
        self.streams: dict[int, RawStream] = {}
        self.datagrams: list[bytes] = []
        self.ended: Ended | None = None

    def handshake_completed(self) -> None:
        self.complete = True

    def stream_opened(self, stream: Stream) -> None:
        self.streams[stream.id] = RawStream(stream)

    def datagram_received(self, data: bytes, ecn: int) -> None:
        self.datagrams.append(data)

    def max_datagram_size_changed(self, size: int) -> None: ...

    def path_changed(self, event: object) -> None: ...

    def session_ended(self, ended: Ended) -> None:
        self.ended = ended


class Pair:
    """A client's and a concentrator's tunnel over one link. raw_client, raw_concentrator: that end is a RawEnd."""

    def __init__(
        self,
        *,
        alpn: str = "quicsocks/1",
        chunk_size: int = 1200,
        seed: int | None = None,
        limits: TunnelLimits = DEFAULT_LIMITS,
        transport: Limits | None = None,
        allow_qt: bool = True,
        identity: Identity | None = None,
        raw_client: bool = False,
        raw_concentrator: bool = False,
        secret: bytes = b"exporter secret of this link",
        connect: bool = True,
    ) -> None:
        rng = Random(seed) if seed is not None else None
        self.link = MemoryLink(alpn=alpn, chunk_size=chunk_size, rng=rng, limits=transport, secret=secret)
        self.clock = Clock()
        self.client_program = ClientProgram()
        self.program = ConcentratorProgram()
        self.timer_changes = 0
        self.raw = RawEnd()
        if raw_client:
            self.link.client.set_handler(self.raw)
        else:
            self.client = ClientTunnel(
                self.link.client,
                identity=(identity or KEY.identity()) if alpn != "qt" else None,
                events=self.client_program,
                clock=self.clock,
                timer_changed=self._timer_changed,
                opened=self.client_program.opened,
            )
        if raw_concentrator:
            self.link.server.set_handler(self.raw)
        else:
            self.concentrator = ConcentratorTunnel(
                self.link.server,
                events=self.program,
                clock=self.clock,
                limits=limits,
                allow_qt=allow_qt,
                timer_changed=self._timer_changed,
            )
        if connect:
            self.link.complete_handshake()
            self.link.run()

    def open(
        self, destination: Destination = WEB, *, early: bytes = b"", consume: bool = True, run: bool = True
    ) -> FlowRecorder:
        """A flow of the client with a recorder as its handler."""
        recorder = FlowRecorder(consume=consume)
        recorder.flow = self.client.open_flow(destination, recorder, early=early)
        if run:
            self.link.run()
        return recorder

    def established(self) -> tuple[FlowRecorder, FlowRecorder]:
        """The two ends of a flow that has been accepted."""
        client = self.open()
        concentrator = self.program.recorders[-1]
        assert client.bound is not None
        return client, concentrator

    def raw_stream(self, *, bidirectional: bool = True) -> RawStream:
        """A new stream of the raw client."""
        return RawStream(self.link.client.open_stream(bidirectional=bidirectional))

    def raw_close(self) -> int | None:
        """The code with which the raw end's session was closed; None while it lives."""
        if self.raw.ended is None:
            return None
        assert self.raw.ended.code is not None
        return self.raw.ended.code

    def advance(self, seconds: float) -> None:
        """Move the clock and let due timers run."""
        self.clock.now += seconds
        for tunnel in (getattr(self, "client", None), getattr(self, "concentrator", None)):
            if tunnel is not None and not tunnel.ended:
                due = tunnel.get_timer()
                if due is not None and due <= self.clock.now:
                    tunnel.handle_timer(self.clock.now)
        self.link.run()

    def _timer_changed(self) -> None:
        self.timer_changes += 1


def flow_of(recorder: FlowRecorder) -> TunnelFlow:
    assert recorder.flow is not None
    return recorder.flow


REQUEST = request(WEB, Wire.QUICSOCKS)
ACCEPTED = answer_accepted(BoundAddress(), Wire.QUICSOCKS)


def client_alone() -> tuple[Pair, FlowRecorder, RawStream]:
    """A client's flow and the concentrator's end of its stream."""
    pair = Pair(raw_concentrator=True)
    pair.raw.streams[0].stream.write(encode_message(Hello(1)) + encode_message(AuthOK("x", TunnelLimits())))
    recorder = pair.open()
    return pair, recorder, pair.raw.streams[4]


def concentrator_alone(*, alpn: str = "qt", octets: bytes = REQUEST) -> tuple[Pair, RawStream]:
    """The client's end of a flow's stream, and what the program at the other end made of it."""
    pair = Pair(alpn=alpn, raw_client=True)
    stream = pair.raw_stream()
    stream.stream.write(octets)
    pair.link.run()
    return pair, stream


def failure_of(recorder: FlowRecorder) -> FlowFailed:
    assert recorder.ended == 1
    assert recorder.error is not None
    return recorder.error
