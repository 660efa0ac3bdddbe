"""The mapping of TCP's ends to the stream's, seen from outside by two kernel sockets.

draft-piraux-quic-tunnel: FIN <-> FIN; RST <-> STOP_SENDING and RESET_STREAM, in both directions and in every order. Each
test runs with either end acting, and also with nothing in between: what two kernels show when they talk to each other
directly is what applications are used to, and so what the product must show.
"""

from __future__ import annotations

import errno
import hashlib
import select
import socket
import threading

import pytest

from tests.interop.dialogue import flood, pattern, receive, receive_all, reset, wait_reset
from tests.sockets.conftest import Carrier

pytestmark = [pytest.mark.programs, pytest.mark.parametrize("actor", ["application", "destination"])]

FLOOD_LIMIT = 64 << 20
"""A sender that is still not stopped after this many bytes is not stopped at all: kernels and windows hold a fraction."""
# RFC 9293 3.10.7.4: a RST in CLOSE-WAIT is "connection reset" too; Linux reports it as EPIPE.
RESET_ERRORS = (errno.ECONNRESET, errno.EPIPE)


def pending_error(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def assert_reset(sock: socket.socket) -> None:
    assert wait_reset(sock), "no reset arrived"
    assert pending_error(sock) in RESET_ERRORS


# FIN


def test_a_fin_is_a_fin_and_the_other_direction_lives_on(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    near.sendall(b"question")
    near.shutdown(socket.SHUT_WR)
    assert receive_all(far) == b"question"
    for number in range(5):
        far.sendall(b"%d" % number)
        assert receive(near, 1) == b"%d" % number
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""
    assert (pending_error(near), pending_error(far)) == (0, 0)


def test_a_fin_waits_for_the_data_before_it(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    data = pattern(0, 3 << 20)

    def send() -> None:
        near.sendall(data)
        near.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    got = receive_all(far)
    sender.join(10)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def test_both_ends_finish_and_no_reset_follows(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    for sock in (near, far):
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
    assert receive_all(near) == b"last words"
    assert receive_all(far) == b"last words"
    assert not wait_reset(near, 1)
    assert (pending_error(near), pending_error(far)) == (0, 0)


def test_an_empty_half_close_in_each_direction(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""


# RST


def test_a_reset_is_a_reset(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    near.sendall(b"x")
    assert receive(far, 1) == b"x"
    reset(near)
    assert wait_reset(far)
    with pytest.raises(ConnectionResetError):
        far.recv(1)


def test_half_closed_then_reset_by_the_same_end(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    reset(near)
    assert_reset(far)


def test_half_closed_then_reset_by_the_other_end(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    reset(far)
    assert_reset(near)


def test_reading_paused_then_reset_by_the_sender(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    assert flood(near, FLOOD_LIMIT) < FLOOD_LIMIT
    reset(near)
    assert_reset(far)


def test_reading_paused_then_reset_by_the_receiver(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    assert flood(near, FLOOD_LIMIT) < FLOOD_LIMIT
    reset(far)
    assert_reset(near)


def test_half_closed_and_reading_paused_then_reset_by_the_sender(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""
    assert flood(near, FLOOD_LIMIT) < FLOOD_LIMIT
    reset(near)
    assert_reset(far)


def test_half_closed_and_reading_paused_then_reset_by_the_receiver(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""
    assert flood(near, FLOOD_LIMIT) < FLOOD_LIMIT
    reset(far)
    assert_reset(near)


def test_both_directions_paused_then_reset(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    assert flood(near, FLOOD_LIMIT) < FLOOD_LIMIT
    assert flood(far, FLOOD_LIMIT) < FLOOD_LIMIT
    reset(near)
    assert_reset(far)


# What kernels make of a close


def test_a_close_with_unread_data_is_a_reset(carrier: Carrier, actor: str) -> None:
    """RFC 9293 3.6.1: data that nobody will read is answered with RST."""
    near, far = carrier.pair().ends(actor)
    far.sendall(b"never read")
    assert select.select([near], [], [], 10)[0]
    near.close()
    assert_reset(far)


def test_data_after_a_close_is_answered_with_a_reset(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    near.close()
    assert far.recv(1) == b""
    # The first byte after the FIN is taken; its answer is the RST. A proxy may need to see a second one.
    poll = select.poll()
    poll.register(far, 0)
    for _ in range(100):
        try:
            far.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return
        if any(events & select.POLLERR for _, events in poll.poll(50)):
            break
    assert pending_error(far) in RESET_ERRORS


# Backpressure


def test_a_paused_reader_loses_nothing(carrier: Carrier, actor: str) -> None:
    near, far = carrier.pair().ends(actor)
    sent = flood(near, FLOOD_LIMIT)
    assert 0 < sent < FLOOD_LIMIT
    near.shutdown(socket.SHUT_WR)
    hasher = hashlib.sha256()
    size = 0
    while data := far.recv(1 << 18):
        hasher.update(data)
        size += len(data)
    assert size == sent
    assert hasher.digest() == hashlib.sha256(pattern(0, sent)).digest()
