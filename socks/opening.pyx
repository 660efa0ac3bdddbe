"""One accepted connection that goes the ordinary way, a SOCKS5 CONNECT: callbacks from its first byte to its tunnel.

Read first: ``connection``, whose order this keeps, and ``types``. Programs open thousands of connections, and a task with
its timers and futures costs more than all that has to be done for one. So every connection begins here; what is not
ordinary, such as another protocol, an answer that the kernel does not take at once, or a last word to a client that is
refused, is handed over, with what has been read, to the coroutines of ``socks_session`` and ``http_session``.
"""

from functools import partial

from .connection import Phase
from .errors import AccessDenied, PeerError
from .socks5 import Socks5Server, Verb
from .socks_session import end_gently, finish_socks5, refuse, resume_socks5, serve_from, serve_socks5
from .sockets import reset
from .types import Failure, FlowError, Request

cdef enum:
    READ_SIZE = 4096
    # Octets read at once: more than any negotiation. What comes behind it is the flow's to read.

cdef object NEGOTIATING = Phase.NEGOTIATING
cdef object OPEN = Phase.OPEN
cdef object CONNECT = Verb.CONNECT


cdef class Opening:
    """A connection of a listener, from accept to its end. door: the listener. sock: non-blocking. peer: as ``Client`` has
    it; key: what its address is counted as; since: loop time; kind: the listener's own.

    The listener reads and writes what is public.
    """

    cdef object _door
    cdef object _codec
    cdef object _flow
    cdef object _phase
    cdef bint _over
    cdef readonly object sock
    cdef readonly object peer
    cdef readonly object key
    cdef readonly object kind
    cdef readonly double since
    cdef readonly bint asked        # It has made a complete request; until then it may have to make room for others.
    cdef public bint evicted        # It is being closed to make room.
    cdef public object client       # Once it has been handed over.
    cdef public object task

    def __init__(self, door, sock, peer, key, double since, kind):
        self._door = door
        self.sock = sock
        self.peer = peer
        self.key = key
        self.since = since
        self.kind = kind
        self._phase = NEGOTIATING

    # What the listener calls.

    def begin(self):
        """Wait for the client's first bytes."""
        try:
            self._door.watch.add(self.sock, self._gone, readable=self._readable)
        except OSError:
            self._end(None, False)  # No room in the kernel for another watch.
            return
        self._door.handshakes.add(self)

    @property
    def phase(self):
        return self.client.phase if self.client is not None else self._phase

    @property
    def is_dispensable(self):
        """As ``Client`` has it."""
        return self.client.is_dispensable if self.client is not None else not self.asked

    def close_soon(self):
        """The listener is closing: no further request is to be taken."""
        if self.client is not None:
            self.client.closing = True

    def abort(self):
        """Reset the flow that is open or being opened."""
        if self.client is not None:
            self.client.abort()
        elif self._flow is not None:
            self._flow.abort()

    def cancel(self):
        """Close at once, whatever it is doing; a flow that has the socket closes it when it has been told."""
        if self.task is not None:
            self.task.cancel()
        elif self._phase is OPEN:
            self.abort()
        else:
            self._end(None, False)

    def handshake_expired(self):
        """The request has not come in time."""
        self._door.counts.failed += 1
        self._hand_over(end_gently)

    def connect_expired(self):
        """The destination has not answered in time."""
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.abort()
        self._refuse(Failure.TIMED_OUT)

    # What the socket does.

    def _readable(self):
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end(None, False)
            return
        try:
            self._received(data)
        except OSError:
            self._end(None, False)
        except Exception as error:
            self._end(error, False)

    def _gone(self, bint failed):
        # Without failing: as ``Client`` has it. While it negotiates, reading tells what came before the end, and the end.
        # Once it is carried, the end is the flow's business.
        if self._phase is NEGOTIATING and (failed or self._flow is not None):
            self._end(None, False)

    # The negotiation.

    cdef int _received(self, bytes data) except -1:
        door, codec = self._door, self._codec
        if codec is None:
            if not data:
                self._end(None, True)
                return 0
            serve = door.protocol(data[0])
            if serve is None:
                # Whatever it is, TLS to the wrong port or a guess, it would not understand an answer.
                door.counts.failed += 1
                self._end(None, False)
                return 0
            if serve is not serve_socks5:
                self._hand_over(partial(serve_from, serve=serve, first=data, deadline=self._deadline()))
                return 0
            codec = self._codec = Socks5Server(door.config.credentials)
        elif not data:
            door.counts.failed += 1
            self._end(None, True)
            return 0
        codec.receive_data(data)
        command = refusal = None
        try:
            command = codec.next_event()
        except PeerError as error:
            refusal = error
        unsent = self._send(codec.data_to_send())
        if refusal is not None:
            if isinstance(refusal, AccessDenied):
                door.counts.denied += 1
            else:
                door.counts.failed += 1
            self._hand_over(partial(refuse, words=unsent + refusal.reply))
        elif unsent:
            self._hand_over(
                partial(resume_socks5, codec=codec, command=command, unsent=unsent, deadline=self._deadline())
            )
        elif command is not None:
            self._ask(codec, command)
        return 0

    cdef object _deadline(self):
        return self.since + self._door.config.handshake_timeout

    cdef int _ask(self, codec, command) except -1:
        door = self._door
        if command.verb is not CONNECT:
            self._hand_over(partial(refuse, words=codec.unsupported()))
            return 0
        self.asked = True
        door.handshakes.discard(self)
        # What it sends now stays in the kernel, where the flow will find it.
        door.watch.on_readable(self.sock, None)
        door.counts.flows += 1
        flow = self._flow = door.exit.open(Request(command.host, command.port, "socks5", self.peer, command.user))
        door.connects.add(self)
        flow.when_connected(self._answered)
        return 0

    def _answered(self, outcome):
        flow = self._flow
        if flow is None or self._over or self.client is not None:
            return
        try:
            if isinstance(outcome, FlowError):
                self._flow = None
                self._refuse(outcome.failure)
            else:
                self._accepted(flow, outcome)
        except OSError:
            self._end(None, False)
        except Exception as error:
            # It must not get into the tunnel, where it would end more than this connection.
            self._end(error, False)

    cdef int _accepted(self, flow, bound) except -1:
        codec = self._codec
        unsent = self._send(codec.succeed(bound))
        self._door.connects.discard(self)
        if unsent:
            self._hand_over(partial(finish_socks5, codec=codec, flow=flow, unsent=unsent))
            return 0
        self._phase = OPEN
        flow.carry(self.sock, codec.remainder, self._carried)
        return 0

    def _carried(self, error):
        if not self._over:
            self._over = True
            self._flow = None
            if error is not None:
                reset(self.sock)
            self._door.over(self, error)

    # Ends.

    cdef int _refuse(self, failure) except -1:
        self._hand_over(partial(refuse, words=self._codec.fail(failure)))
        return 0

    cdef bytes _send(self, bytes data):
        # What the kernel does not take of data.
        if not data:
            return data
        try:
            return data[self.sock.send(data):]
        except (BlockingIOError, InterruptedError):
            return data

    cdef int _hand_over(self, serve) except -1:
        self._forget()
        self._door.take_over(self, serve)
        return 0

    cdef int _end(self, error, bint gently) except -1:
        # Close: with a reset, or gently when the client has ended its direction and nothing of it is unread.
        if self._over:
            return 0
        self._over = True
        self._forget()
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.abort()
        self._door.watch.discard(self.sock, closing=True)
        if gently:
            self.sock.close()
        else:
            reset(self.sock)
        self._door.over(self, error)
        return 0

    cdef int _forget(self) except -1:
        self._door.handshakes.discard(self)
        self._door.connects.discard(self)
        return 0
