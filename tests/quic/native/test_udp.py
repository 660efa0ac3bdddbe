"""Batches of datagrams over real sockets on the loopback interface."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.native.destination import Destination
from quicsocks.userspace.quic.native.udp import ReceiveBatch, SendBatch, configure, errors

BUFFER = 4 << 20
HOSTS = ("127.0.0.1", "::1")
WILDCARDS = {"127.0.0.1": "0.0.0.0", "::1": "::"}
by_host = pytest.mark.parametrize("host", HOSTS)

Received = tuple[bytes, int, Destination]


@contextmanager
def opened(host: str, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((host, port))
        configure(bound, BUFFER, BUFFER)
        yield bound


def destination_of(bound: socket.socket) -> Destination:
    return Destination(bound.getsockname()[:2])


def receive(batch: ReceiveBatch, bound: socket.socket, count: int) -> list[Received]:
    """count datagrams, or all that come before a second without any."""
    received: list[Received] = []
    while len(received) < count and select.select([bound], [], [], 1.0)[0]:
        while batch.receive():
            received += batch.taken()
    return received


def exchange(host: str, packets: list[tuple[bytes, int]], results: list[int] | None = None) -> list[tuple[bytes, int]]:
    """Send packets with marks; what arrives. results: of the first system calls."""
    with opened(host) as near, opened(host) as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        outgoing.pretend(results or [])
        received: list[Received] = []
        for data, ecn in packets:
            while not outgoing.put(data, ecn, to):
                outgoing.flush()
            # The receiver's buffer does not hold all that a long example has.
            if outgoing.waiting > 100_000 and outgoing.flush():
                received += receive(incoming, far, 1)
        for _ in range(len(results or []) + 1):
            outgoing.flush()
        assert outgoing.waiting == 0
        assert outgoing.datagrams == len(packets)
        received += receive(incoming, far, len(packets) - len(received))
        assert {item[2].remote for item in received} <= {near.getsockname()[:2]}
        return [(data, ecn) for data, ecn, _ in received]


def numbered(sizes: list[int]) -> list[bytes]:
    """Packets of these sizes, that cannot be mistaken for each other."""
    return [(i.to_bytes(2, "big") + bytes([i & 0xFF]) * size)[: max(size, 2)] for i, size in enumerate(sizes)]


# --- What is sent arrives ---------------------------------------------------------------------------------------------


@by_host
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("size", [2, 1200, 1452])
def test_packets_of_one_size(host: str, count: int, size: int) -> None:
    packets = [(data, 0) for data in numbered([size] * count)]
    assert exchange(host, packets) == packets


sizes = st.lists(
    st.one_of(st.sampled_from([1200, 1452, 1452, 1452]), st.integers(2, 1500), st.integers(2, 60_000)),
    min_size=1,
    max_size=200,
)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(HOSTS), sizes, st.data())
def test_packets_of_mixed_sizes_and_marks_arrive_in_order(host: str, mixed: list[int], data: st.DataObject) -> None:
    marks = data.draw(st.lists(st.integers(0, 3), min_size=len(mixed), max_size=len(mixed)))
    packets = list(zip(numbered(mixed), marks, strict=True))
    assert exchange(host, packets) == packets


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 1452), min_size=1, max_size=100), st.lists(st.integers(0, 3), max_size=10))
def test_what_is_not_taken_is_kept(mixed: list[int], taken: list[int]) -> None:
    """The kernel takes a few messages, or none, of some calls."""
    packets = [(data, 0) for data in numbered(mixed)]
    results = [count or -errno.EAGAIN for count in taken]
    assert exchange("127.0.0.1", packets, results) == packets


@by_host
@pytest.mark.parametrize("ecn", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 10])
def test_marks(host: str, ecn: int, count: int) -> None:
    packets = [(data, ecn) for data in numbered([1200] * count)]
    assert exchange(host, packets) == packets


def test_empty_datagrams_are_datagrams() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        incoming = ReceiveBatch(far.fileno())
        for data in (b"", b"x", b""):
            near.sendto(data, far.getsockname())
        assert [data for data, _, _ in receive(incoming, far, 3)] == [b"", b"x", b""]


def test_nothing_has_arrived() -> None:
    with opened("127.0.0.1") as bound:
        incoming = ReceiveBatch(bound.fileno())
        assert (incoming.receive(), incoming.taken(), incoming.suspicious) == (0, [], False)


def test_what_is_not_taken_before_the_next_batch_is_forgotten() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        incoming = ReceiveBatch(far.fileno())
        near.sendto(b"first", far.getsockname())
        assert incoming.receive() == 1
        near.sendto(b"second", far.getsockname())
        assert incoming.receive() == 1
        assert [data for data, _, _ in incoming.taken()] == [b"second"]


# --- System calls -----------------------------------------------------------------------------------------------------


@by_host
def test_a_burst_is_one_call_and_few_messages(host: str) -> None:
    with opened(host) as near, opened(host) as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        for data in numbered([1400] * 100 + [700] + [1400] * 10):
            assert outgoing.put(data, 2, to)
        assert outgoing.flush()
        # 46 of 1400 octets are as many as one message takes; a smaller one ends its run.
        assert (outgoing.calls, outgoing.messages, outgoing.datagrams) == (1, 4, 111)
        assert len(receive(incoming, far, 111)) == 111
        assert incoming.messages <= 4
        assert incoming.calls <= 3


def test_a_run_has_no_more_than_64_packets() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, to = SendBatch(near.fileno()), destination_of(far)
        for data in numbered([50] * 129):
            assert outgoing.put(data, 0, to)
        assert outgoing.flush()
        assert outgoing.messages == 3


def test_runs_end_with_the_destination_the_mark_and_the_size() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far, opened("127.0.0.1") as other:
        outgoing = SendBatch(near.fileno())
        one, two = destination_of(far), destination_of(other)
        for size, ecn, to in [
            (100, 0, one),
            (100, 0, one),
            (100, 0, two),
            (100, 1, two),
            (101, 1, two),
            (100, 1, two),
            (100, 1, two),
        ]:
            assert outgoing.put(bytes(size), ecn, to)
        assert outgoing.flush()
        assert outgoing.messages == 5
        assert len(receive(ReceiveBatch(far.fileno()), far, 2)) == 2
        assert [ecn for _, ecn, _ in receive(ReceiveBatch(other.fileno()), other, 5)] == [0, 1, 1, 1, 1]


def test_room_is_bounded_and_comes_back() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, to = SendBatch(near.fileno()), destination_of(far)
        while outgoing.put(bytes(60_000), 0, to):
            pass
        assert outgoing.waiting == 240_000
        assert outgoing.flush()
        # Runs are bounded as well.
        assert [outgoing.put(bytes(10 + i), 0, to) for i in range(66)] == [True] * 64 + [False] * 2
        assert outgoing.flush()
        assert outgoing.put(bytes(10), 0, to)
        with pytest.raises(LocalError):
            outgoing.put(bytes(65528), 0, to)


def test_what_waits_may_be_forgotten() -> None:
    with opened("127.0.0.1") as near:
        outgoing = SendBatch(near.fileno())
        to = Destination(("127.0.0.1", 9))
        before = sys.getrefcount(to)
        assert outgoing.put(b"x", 0, to)
        assert outgoing.put(b"xy", 0, to)
        assert sys.getrefcount(to) > before
        del outgoing
        assert sys.getrefcount(to) == before


# --- Devices that cannot segment --------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT])
def test_without_segmentation_the_same_arrives(failure: int) -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        outgoing.pretend([-failure])
        packets = numbered([1200] * 100 + [50] + [1200] * 3)
        for data in packets:
            assert outgoing.put(data, 1, to)
        assert outgoing.flush()
        assert not outgoing.segmentation
        assert outgoing.suspicious
        assert outgoing.messages == outgoing.datagrams == 104
        assert [(data, ecn) for data, ecn, _ in receive(incoming, far, 104)] == [(data, 1) for data in packets]
        for data in packets[:10]:
            assert outgoing.put(data, 1, to)
        assert outgoing.flush()
        assert outgoing.messages == 114, "it is not tried again"


@pytest.mark.parametrize("taken", [1, 5])
def test_what_is_not_taken_is_kept_without_segmentation(taken: int) -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        outgoing.pretend([-errno.EIO, taken, -errno.EAGAIN])
        packets = numbered([1200] * 10)
        for data in packets:
            assert outgoing.put(data, 0, to)
        assert not outgoing.flush()
        assert outgoing.waiting == 1200 * (10 - taken)
        packets.append(bytes(1200))
        assert outgoing.put(packets[-1], 0, to)
        assert outgoing.flush()
        assert [data for data, _, _ in receive(incoming, far, 11)] == packets


def test_packets_too_large_for_the_path_do_not_end_segmentation() -> None:
    """The kernel says EINVAL for the message, and EMSGSIZE for each of its packets."""
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        outgoing.pretend([-errno.EINVAL, *[-errno.EMSGSIZE] * 4])
        for data in (b"large", b"large", b"fits"):
            assert outgoing.put(data, 0, to)
        assert outgoing.flush()
        assert outgoing.segmentation
        assert (outgoing.refused, outgoing.datagrams) == (2, 1)
        assert [data for data, _, _ in receive(incoming, far, 1)] == [b"fits"]
        assert outgoing.take_failed() == []


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_an_error_of_an_earlier_datagram_costs_nothing() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        outgoing.pretend([-errno.ECONNREFUSED])
        assert outgoing.put(b"after", 0, to)
        assert outgoing.flush()
        assert outgoing.suspicious
        assert outgoing.take_failed() == []
        assert [data for data, _, _ in receive(incoming, far, 1)] == [b"after"]


def test_an_interrupted_call_is_made_again() -> None:
    packets = [(data, 0) for data in numbered([100] * 3)]
    assert exchange("127.0.0.1", packets, [-errno.EINTR]) == packets


def test_a_destination_that_is_refused_is_skipped_and_reported_once() -> None:
    with opened("127.0.0.1") as near, opened("127.0.0.1") as far:
        outgoing, incoming, to = SendBatch(near.fileno()), ReceiveBatch(far.fileno()), destination_of(far)
        nowhere = Destination(("255.255.255.255", 9))  # Nobody has asked for SO_BROADCAST.
        for data, where in [(b"one", to), (b"lost", nowhere), (b"lost", nowhere), (b"two", to)]:
            assert outgoing.put(data, 0, where)
        assert outgoing.flush()
        assert outgoing.take_failed() == [(nowhere, os.strerror(errno.EACCES))]
        assert outgoing.take_failed() == []
        assert (outgoing.refused, outgoing.datagrams) == (2, 2)
        assert [data for data, _, _ in receive(incoming, far, 2)] == [b"one", b"two"]


def test_other_refusals_are_losses() -> None:
    with opened("127.0.0.1") as near:
        outgoing = SendBatch(near.fileno())
        outgoing.pretend([-errno.ENOBUFS, -errno.ENOBUFS])
        assert outgoing.put(b"lost", 0, destination_of(near))
        assert outgoing.flush()
        assert (outgoing.refused, outgoing.take_failed()) == (1, [])


def test_a_socket_of_the_other_version_refuses() -> None:
    with opened("127.0.0.1") as near:
        outgoing = SendBatch(near.fileno())
        assert outgoing.put(b"lost", 0, Destination(("::1", 9), "::1"))
        assert outgoing.flush()
        assert outgoing.refused == 1


@by_host
def test_a_closed_port_is_told_by_the_error_queue(host: str) -> None:
    with opened(host) as near:
        with opened(host) as far:
            to = destination_of(far)
        outgoing, incoming = SendBatch(near.fileno()), ReceiveBatch(near.fileno())
        assert outgoing.put(b"hello", 0, to)
        assert outgoing.flush()
        assert select.select([near], [], [], 1.0)[0]
        assert incoming.receive() == 0
        assert incoming.suspicious
        assert errors(near) == [(to.remote, os.strerror(errno.ECONNREFUSED))]
        assert errors(near) == []


def test_errors_kept_are_bounded() -> None:
    with opened("127.0.0.1") as near:
        outgoing, nowhere = SendBatch(near.fileno()), Destination(("255.255.255.255", 9))
        for _ in range(2):
            for size in range(1, 65):
                assert outgoing.put(bytes(size), 0, nowhere)
            assert outgoing.flush()
        assert outgoing.refused == 128
        assert len(outgoing.take_failed()) == 64


# --- Addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wildcard", "asked"), [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.7"), ("0.0.0.0", "127.9.9.9"), ("::", "::1")]
)
@pytest.mark.parametrize("count", [1, 5])
def test_answers_come_from_the_address_that_was_asked(wildcard: str, asked: str, count: int) -> None:
    near_host = "::1" if ":" in asked else "127.0.0.1"
    with opened(wildcard) as server, opened(near_host) as client:
        port = server.getsockname()[1]
        asking = SendBatch(client.fileno())
        for data in numbered([100] * count):
            assert asking.put(data, 3, Destination((asked, port)))
        assert asking.flush()
        questions = receive(ReceiveBatch(server.fileno(), 5), server, count)
        origin = questions[0][2]
        assert (origin.remote, origin.local, origin.number) == (client.getsockname()[:2], asked, 5)
        answering = SendBatch(server.fileno())
        for data, ecn, to in questions:
            assert answering.put(data, ecn, to)
        assert answering.flush()
        answers = receive(ReceiveBatch(client.fileno()), client, count)
        assert [(data, ecn) for data, ecn, _ in answers] == [(data, 3) for data in numbered([100] * count)]
        assert {to.remote for _, _, to in answers} == {(asked, port)}
        assert {to.local for _, _, to in answers} == {None}


def test_the_same_addresses_are_the_same_object() -> None:
    with opened("127.0.0.1") as one, opened("127.0.0.1") as two, opened("0.0.0.0") as far:
        incoming = ReceiveBatch(far.fileno())
        to = ("127.0.0.1", far.getsockname()[1])
        for sender in (one, two, one, two):
            sender.sendto(b"x", to)
        origins = [origin for _, _, origin in receive(incoming, far, 4)]
        assert origins[0] is origins[2]
        assert origins[1] is origins[3]
        assert origins[0] != origins[1]
        assert origins[0] == Destination(one.getsockname(), "127.0.0.1")
        assert hash(origins[0]) == hash(Destination(one.getsockname(), "127.0.0.1"))


def test_destinations_differ_by_all_that_they_have() -> None:
    different = [
        Destination(("127.0.0.1", 1)),
        Destination(("127.0.0.1", 2)),
        Destination(("127.0.0.2", 1)),
        Destination(("127.0.0.1", 1), "127.0.0.1"),
        Destination(("127.0.0.1", 1), "127.0.0.2"),
        Destination(("127.0.0.1", 1), None, 1),
        Destination(("::1", 1)),
        Destination(("::1", 1), "::1"),
        Destination(("fe80::1%1", 1)),
        Destination(("fe80::1", 1)),
    ]
    assert len(set(different)) == len(different)
    for destination in different:
        assert destination == Destination(destination.remote, destination.local, destination.number)
    assert different[0] != "127.0.0.1"


@pytest.mark.parametrize(
    ("remote", "local"),
    [
        (("localhost", 1), None),
        (("", 1), None),
        (("127.0.0.1\0", 1), None),
        (("127.0.0.1%1", 1), None),
        (("127.0.0.1", 65536), None),
        (("127.0.0.1", -1), None),
        (("127.0.0.1", 1), "::1"),
        (("::1", 1), "127.0.0.1"),
        (("::1", 1), "nothing"),
        (("fe80::1%no-such-interface", 1), None),
        (("fe80::1%99999999999", 1), None),
    ],
)
def test_what_is_no_address(remote: tuple[str, int], local: str | None) -> None:
    with pytest.raises(LocalError):
        Destination(remote, local)


# --- Options ----------------------------------------------------------------------------------------------------------


def test_buffers_are_as_the_kernel_grants_them() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        # Linux doubles what is asked for.
        assert configure(bound, 100_000, 50_000) == (200_000, 100_000)
        granted = configure(bound, 1 << 30, 1 << 30)
        assert granted[0] == bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert granted[1] == bound.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert not bound.getblocking()
