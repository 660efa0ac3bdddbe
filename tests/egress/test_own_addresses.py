"""The host's own addresses: what each way finds, and that the ways agree."""

from __future__ import annotations

import socket
import subprocess
import sys
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest

from quicsocks.userspace.egress import own_addresses
from quicsocks.userspace.egress.own_addresses import OwnAddresses, read_own_networks
from quicsocks.userspace.egress.special import IPNetwork

linux = pytest.mark.skipif(sys.platform != "linux", reason="netlink and /proc are Linux's")


def test_this_host_has_loopback_or_an_address() -> None:
    networks = read_own_networks()
    assert networks
    assert len(set(networks)) == len(networks)


@linux
def test_netlink_finds_what_proc_finds() -> None:
    netlink, proc = set(own_addresses._by_netlink()), set(own_addresses._by_proc())
    assert ip_network("127.0.0.1/32") in netlink
    assert {network for network in proc if network.prefixlen == network.max_prefixlen} <= netlink


@linux
def test_netlink_finds_the_address_that_is_sent_from() -> None:
    netlink = own_addresses._by_netlink()
    for network in own_addresses._by_socket():
        assert any(network.network_address in one for one in netlink)


def test_proc_files(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n"
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 203.0.113.5\n        /32 host LOCAL\n     |-- 203.0.113.255\n"
        "        /32 link BROADCAST\n     |-- 198.51.100.0\n        /24 link UNICAST\n        /24 host LOCAL\n"
    )
    (tmp_path / "if_inet6").write_text("20010db8000000000000000000000005 02 40 00 80 eth0\n")
    assert own_addresses._by_proc(tmp_path) == [
        IPv4Network("203.0.113.5/32"),
        IPv4Network("203.0.113.255/32"),
        IPv4Network("198.51.100.0/24"),
        IPv6Network("2001:db8::5/128"),
    ]
    assert own_addresses._by_proc(tmp_path / "missing") == []


def test_without_netlink_the_next_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> list[IPNetwork]:
        raise OSError("no AF_NETLINK here")

    monkeypatch.setattr(own_addresses, "_by_netlink", refused)
    monkeypatch.setattr(own_addresses, "_by_proc", list)
    monkeypatch.setattr(own_addresses, "_by_socket", lambda: [ip_network("203.0.113.5/32")])
    assert read_own_networks() == (ip_network("203.0.113.5/32"),)
    monkeypatch.setattr(own_addresses, "_by_socket", refused)
    assert read_own_networks() == ()


def test_answers_are_kept_for_a_while() -> None:
    answers = [(ip_network("203.0.113.1/32"),), (ip_network("203.0.113.2/32"),), ()]
    asked: list[int] = []

    def read() -> tuple[IPNetwork, ...]:
        asked.append(1)
        return answers[len(asked) - 1]

    own = OwnAddresses(read, max_age=5.0)
    assert own.current(100.0) == own.current(104.9) == answers[0]
    assert own.current(105.0) == answers[1]
    assert own.current(111.0) == answers[1], "an answer that fails does not open what was closed"
    assert len(asked) == 3


@pytest.mark.netns
def test_a_network_that_is_local_without_an_interface() -> None:
    """In a namespace of its own: AnyIP routes, broadcast addresses and point-to-point ends."""
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode
    ):
        pytest.skip("needs root and network namespaces")
    script = (
        "import sys; sys.path[:0] = []\n"
        "from quicsocks.userspace.egress.own_addresses import read_own_networks\n"
        "print(*read_own_networks(), sep='\\n')"
    )
    commands = (
        "ip link set lo up && ip tuntap add d0 mode tun && ip addr add 203.0.113.5/24 brd + dev d0 && ip link set d0 up"
        " && ip addr add 198.51.100.1 peer 198.51.100.2 dev d0 && ip route add local 192.0.2.0/25 dev lo"
    )
    made = subprocess.run(
        ["unshare", "-n", "sh", "-c", f'{commands} && exec "$0" -c "$1"', sys.executable, script],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if "/dev/net/tun" in made.stderr:
        pytest.skip("needs /dev/net/tun")
    assert made.returncode == 0, made.stderr
    networks = [ip_network(line) for line in made.stdout.split()]
    for own in ("203.0.113.5", "203.0.113.255", "198.51.100.1", "192.0.2.77"):
        assert any(ip_address(own) in network for network in networks), own
    for other in ("203.0.113.6", "198.51.100.2", "192.0.2.200"):
        assert not any(ip_address(other) in network for network in networks), other


def test_sockets_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []
    real = socket.socket

    class Counted(real):  # type: ignore[valid-type,misc]  # a class made at run time
        def __init__(self, *args: int, **kwargs: int) -> None:
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(socket, "socket", Counted)
    read_own_networks()
    assert opened
    assert all(sock.fileno() == -1 for sock in opened)
