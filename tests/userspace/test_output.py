"""Handing out links, the host that they name, saved links, and the limit on descriptors."""

from __future__ import annotations

import io
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quicsocks.userspace import output, profiles
from quicsocks.userspace.link import LinkError, base64url, parse
from quicsocks.userspace.output import forget_link, hand_out_link, link_host
from quicsocks.userspace.profiles import LinkStore
from quicsocks.userspace.state import StateError, StateFolder

from .support import LINK, TOKEN, Terminal, mode

ANY = (("::", 4433),)


def routes(**known: str) -> Callable[[socket.AddressFamily, str], str | None]:
    return lambda family, destination: known.get("v4" if family == socket.AF_INET else "v6")


# Handing out.


@pytest.mark.parametrize(("stream", "print_link"), [(Terminal(), False), (io.StringIO(), True)])
def test_a_link_goes_to_a_terminal_or_when_asked_for(tmp_path: Path, stream: io.StringIO, print_link: bool) -> None:
    said = hand_out_link(LINK, StateFolder(tmp_path / "state"), stream, print_link=print_link)
    assert stream.getvalue() == LINK.uri + "\n"
    assert base64url(TOKEN) not in said


def test_otherwise_it_goes_to_a_private_file_and_its_name_is_printed(tmp_path: Path) -> None:
    stream = io.StringIO()
    said = hand_out_link(LINK, StateFolder(tmp_path / "state"), stream)
    path = Path(stream.getvalue().strip())
    assert parse(path.read_text()) == LINK
    assert mode(path) == 0o600
    assert base64url(TOKEN) not in stream.getvalue() + said
    assert str(path) in said


def test_a_link_that_no_longer_enrols_anybody_does_not_lie_about(tmp_path: Path) -> None:
    folder, stream = StateFolder(tmp_path / "state"), io.StringIO()
    forget_link(folder, "home")
    assert list(folder.path.iterdir()) == []
    hand_out_link(LINK, folder, stream)
    path = Path(stream.getvalue().strip())
    hand_out_link(LINK, folder, Terminal())
    assert not path.exists()


def test_the_line_about_a_link_names_the_command_to_run(tmp_path: Path) -> None:
    said = hand_out_link(LINK, StateFolder(tmp_path / "state"), Terminal())
    assert said == "link for home: save it on the other machine with: quicsocks link add home"


# Which host.


def test_a_given_name_is_taken_as_it_is() -> None:
    assert link_host("gw.example.com", None, ANY) == ("gw.example.com", 4433, "")
    assert link_host("gw.example.com", 443, ANY) == ("gw.example.com", 443, "")
    with pytest.raises(LinkError, match="--public-name a b"):
        link_host("a b", None, ANY)


@pytest.mark.parametrize(
    ("known", "host", "warned"),
    [
        ({"v4": "8.8.8.8", "v6": "2600::1"}, "8.8.8.8", False),
        ({"v4": "192.168.1.2", "v6": "2600::1"}, "2600::1", False),
        ({"v4": "192.168.1.2", "v6": "fd00::1"}, "192.168.1.2", True),
        ({"v4": "192.168.1.2", "v6": "fe80::1"}, "192.168.1.2", True),
        ({}, "127.0.0.1", True),
    ],
)
def test_the_most_plausible_address(known: dict[str, str], host: str, warned: bool) -> None:
    found = link_host(None, None, ANY, routes(**known))
    assert found[:2] == (host, 4433)
    assert f"links name {host}" in found[2]
    assert ("not reachable from the Internet" in found[2]) == warned
    assert "--public-name" in found[2]


def test_a_listener_on_one_address_is_that_address() -> None:
    assert link_host(None, None, (("192.0.2.7", 5),), routes(v4="8.8.8.8"))[:2] == ("192.0.2.7", 5)
    assert link_host(None, None, (("0.0.0.0", 5),), routes(v4="10.0.0.1", v6="2600::1"))[:2] == ("10.0.0.1", 5)


def test_asking_the_kernel_sends_nothing() -> None:
    found = output.route_source(socket.AF_INET, "127.0.0.1")
    assert found == "127.0.0.1"
    assert output.route_source(socket.AF_INET, "not an address") is None


# Saved links.


def test_saved_links(tmp_path: Path) -> None:
    store = LinkStore(tmp_path / "state")
    assert store.names() == []
    assert not (tmp_path / "state").exists()
    path = store.save("home", LINK)
    assert (mode(path), mode(path.parent), mode(tmp_path / "state")) == (0o600, 0o700, 0o700)
    assert store.load("home") == LINK
    assert store.names() == ["home"]
    assert store.load("none") is None
    assert store.load("../home") is None
    assert store.remove("home")
    assert not store.remove("home")
    assert not store.remove("../state")


def test_saved_links_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LinkStore(tmp_path / "state")
    path = store.save("home", LINK)
    with pytest.raises(StateError, match="cannot be a name"):
        store.save("a/b", LINK)
    path.write_text("junk")
    with pytest.raises(StateError, match=r"is damaged: it must begin with quicsocks://; save it again"):
        store.load("home")
    path.write_bytes(b"\xff")
    with pytest.raises(StateError, match="it is not text"):
        store.load("home")
    path.chmod(0o644)
    with pytest.raises(StateError, match=r"the saved link .* can be read by other users; run: chmod 600"):
        store.load("home")
    monkeypatch.setattr(profiles, "MAX_LINKS", 1)
    store.save("home", LINK)
    with pytest.raises(StateError, match="saved links already"):
        store.save("other", LINK)


# Descriptors.


def test_the_limit_is_raised_and_can_be_given_back() -> None:
    program = (
        "import os, resource as r; from quicsocks.userspace import nofile\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 500))\n"
        "assert nofile.raise_limit() == 500 == r.getrlimit(r.RLIMIT_NOFILE)[0]\n"
        "assert nofile.raise_limit() == 500\n"
        "nofile.restore_limit(os.getpid())\n"
        "assert r.getrlimit(r.RLIMIT_NOFILE) == (100, 500)\n"
        "nofile.restore_limit(2 ** 22 + 1)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from quicsocks.userspace import nofile

    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 500))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(nofile, "_original", None)
    assert nofile.raise_limit() == 100


@pytest.mark.parametrize("written", ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:4433"])
def test_a_public_ipv6_address_may_come_with_or_without_brackets(written: str) -> None:
    assert link_host(written, 4433, (("::", 4433),)) == ("2001:db8::1", 4433, "")
