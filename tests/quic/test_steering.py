"""Which worker a datagram is for: the function, the program for the kernel, and the kernel with it."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from quicsocks.userspace.quic.cid import LENGTH, ConnectionIdFactory
from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.steering import MOST_WORKERS, is_client_chosen, program, worker_of
from quicsocks.userspace.quic.workers import SWITCH, Forwarder, Group

CHANCE = random.Random(7)


def cid_of(worker: int) -> bytes:
    return ConnectionIdFactory(CHANCE.randbytes, server_id=worker).new()


def short(cid: bytes, first: int = 0x40) -> bytes:
    return bytes([first]) + cid + CHANCE.randbytes(30)


def long(cid: bytes, first: int = 0xC0) -> bytes:
    return bytes([first, 0, 0, 0, 1, len(cid)]) + cid + bytes([LENGTH]) + CHANCE.randbytes(40)


# --- The function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [short, long])
def test_a_connection_id_names_its_worker(make: type) -> None:
    assert [worker_of(make(cid_of(number)), 3) for number in range(3)] == [0, 1, 2]


def test_a_worker_that_does_not_exist_is_nobody() -> None:
    assert worker_of(short(cid_of(3)), 3) is None


def test_clients_own_choices_are_spread_and_each_stays_where_it_is() -> None:
    chosen = [CHANCE.randbytes(CHANCE.randint(8, 20)) for _ in range(300)]
    found = [worker_of(long(cid), 3) for cid in chosen]
    assert all(found.count(number) > 70 for number in range(3))
    assert [worker_of(long(cid), 3) for cid in chosen] == found
    assert all(is_client_chosen(long(cid), 3) for cid in chosen)


def test_what_is_chosen_by_us_is_not_the_clients_choice() -> None:
    assert not is_client_chosen(long(cid_of(2)), 3)
    assert is_client_chosen(long(cid_of(3)), 3)
    assert not is_client_chosen(short(cid_of(2)), 3)
    assert not is_client_chosen(b"", 3)


@pytest.mark.parametrize("data", [b"", b"\x40", b"\x00" * 30, b"\xc0", long(b"12345678")[:13], short(b"12345678")])
def test_others_name_nobody(data: bytes) -> None:
    assert worker_of(data, 3) is None


# --- The program ------------------------------------------------------------------------------------------------------


def run(code: bytes, data: bytes) -> int:
    """What the kernel's interpreter makes of it (Documentation/networking/filter.rst)."""
    lines = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    while True:
        operation, yes, no, value = lines[at]
        at += 1
        if operation in (0x30, 0x20):
            size = 1 if operation == 0x30 else 4
            if value + size > len(data):
                return 0
            accumulator = int.from_bytes(data[value : value + size], "big")
        elif operation in (0x15, 0x35, 0x45):
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += yes if holds else no
        elif operation == 0x94:
            accumulator %= value
        else:
            return value if operation == 0x06 else accumulator


def datagrams(workers: int) -> Iterator[bytes]:
    for number in (*range(workers), workers, 255):
        yield from (short(cid_of(number)), long(cid_of(number)), short(cid_of(number), 0), long(cid_of(number), 0x80))
    for size in range(8, 21):
        yield long(CHANCE.randbytes(size))
    for _ in range(200):
        yield CHANCE.randbytes(60)


@pytest.mark.parametrize("workers", [2, 3, 7, MOST_WORKERS])
def test_the_program_says_what_the_function_says(workers: int) -> None:
    code = program(workers)
    for data in datagrams(workers):
        named = worker_of(data, workers)
        assert run(code, data) == (0xFFFFFFFF if named is None else named), data.hex()


@pytest.mark.parametrize("workers", [1, MOST_WORKERS + 1])
def test_other_numbers_of_workers_are_a_mistake(workers: int) -> None:
    with pytest.raises(ValueError, match=f"{workers} workers"):
        program(workers)


# --- The group of sockets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_follows_the_program(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(_group(host, 3)) as group, socket.socket(family, socket.SOCK_DGRAM) as sender:
        if not group.steered:
            pytest.skip("this kernel takes no SO_ATTACH_REUSEPORT_CBPF")
        for data in datagrams(3):
            number = worker_of(data, 3)
            if number is None:
                continue
            sender.sendto(data, group.local_addresses[0])
            # On loopback a datagram has arrived when sending it returns.
            assert group.sockets[number][0].recv(4096) == data


def test_a_closed_copy_leaves_the_order_alone() -> None:
    """A worker that ends closes its copies of the sockets; those who come after it get the same place."""
    with closing(_group("127.0.0.1", 3)) as group, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if not group.steered:
            pytest.skip("this kernel takes no SO_ATTACH_REUSEPORT_CBPF")
        group.sockets[0][0].dup().close()
        for number in range(3):
            sender.sendto(short(cid_of(number)), group.local_addresses[0])
            assert group.sockets[number][0].recv(4096)


def test_a_port_in_use_is_refused_even_if_it_is_shared() -> None:
    with closing(_group("127.0.0.1", 2)) as group, pytest.raises(LocalError, match="stop what uses it"):
        Group(group.local_addresses, 2)


def test_the_program_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "none")
    with closing(_group("127.0.0.1", 2)) as group:
        assert not group.steered


def _group(host: str, workers: int) -> Group:
    try:
        return Group([(host, 0)], workers)
    except LocalError as error:
        if ":" in host:
            pytest.skip(f"no IPv6 here: {error}")
        raise


# --- Forwarding -------------------------------------------------------------------------------------------------------


def test_a_datagram_goes_to_its_worker_with_everything_known_of_it() -> None:
    route = Route(("fe80::1%lo", 4433), ("2001:db8::7", 60000), 1)
    with closing(_group("127.0.0.1", 2)) as group:
        first, second = Forwarder(group.share(0)), Forwarder(group.share(1))
        data = short(cid_of(1)) + b"\0 \0"
        assert first.pass_on(data, route, 3)
        assert second.receive() == [(data, route, 3)]
        assert second.receive() == []
        assert first.statistics() == {"forwarded": 1, "forwarded_here": 0, "forward_lost": 0}
        assert second.statistics() == {"forwarded": 0, "forwarded_here": 1, "forward_lost": 0}


def test_ones_own_stay() -> None:
    route = Route(("127.0.0.1", 1), ("127.0.0.1", 2))
    with closing(_group("127.0.0.1", 2)) as group:
        forwarder = Forwarder(group.share(0))
        assert not forwarder.pass_on(short(cid_of(0)), route, 0)
        assert not forwarder.pass_on(b"\x00foreign", route, 0)


def test_a_full_inbox_loses_and_counts() -> None:
    route = Route(("127.0.0.1", 1), ("127.0.0.1", 2))
    with closing(_group("127.0.0.1", 2)) as group:
        forwarder = Forwarder(group.share(0))
        data = short(cid_of(1)) + bytes(60000)
        for _ in range(200):
            assert forwarder.pass_on(data, route, 0)
        counted = forwarder.statistics()
        assert counted["forward_lost"] > 0
        assert counted["forwarded"] + counted["forward_lost"] == 200


def test_without_steering_a_newcomer_stays_where_it_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "none")
    route = Route(("127.0.0.1", 1), ("127.0.0.1", 2))
    with closing(_group("127.0.0.1", 2)) as group:
        for number in range(2):
            forwarder = Forwarder(group.share(number))
            assert not any(forwarder.pass_on(long(CHANCE.randbytes(8)), route, 0) for _ in range(20))
            assert forwarder.pass_on(short(cid_of(1 - number)), route, 0)
