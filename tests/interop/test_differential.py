"""The same bytes to us, to microsocks and to danted: what each does, and why we differ where we differ.

The tables say what every server must do today; a change in any of them fails. For the other two, "closed" stands for a
FIN or a RST: whether their last words are lost to a RST is up to chance. We are held to a FIN, because we linger.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.interop.fixtures import Company, require
from tests.interop.proxies import Danted, Microsocks, Proxy, Quicsocks
from tests.interop.scripts import Script, password_scripts, run, scripts
from tests.interop.system import System

pytestmark = [pytest.mark.netns, pytest.mark.programs]


@dataclass(frozen=True, slots=True)
class Row:
    """What we do, and what the others do where it is something else; None: chance decides, nothing is compared."""

    ours: str
    microsocks: str | None = "same"
    danted: str | None = "same"
    why: str = ""


NO_HALF_CLOSE = "microsocks ends both directions at the first FIN, so the answer that comes after it is lost"
ANSWERED = "method 00 reply 00 answer 17 fin"

TABLE = {
    "connect, step by step": Row(ANSWERED, microsocks="method 00 reply 00 closed", why=NO_HALF_CLOSE),
    "connect, all in one segment": Row(
        ANSWERED, microsocks="method 00 closed", why="microsocks takes one read for one message and drops the rest"
    ),
    "connect, byte by byte": Row(
        ANSWERED, microsocks=None, why="microsocks takes one read for one message: a lone byte is an error"
    ),
    "connect to a name": Row(ANSWERED, microsocks="method 00 reply 00 closed", why=NO_HALF_CLOSE),
    "connect to an IPv4 literal sent as a name": Row(
        "method 00 reply 00 answer 0 fin", microsocks="method 00 reply 00 closed", why=NO_HALF_CLOSE
    ),
    "connect to an IPv6 address": Row("method 00 reply 00 open"),
    "no-auth among other methods": Row(ANSWERED, microsocks="method 00 reply 00 closed", why=NO_HALF_CLOSE),
    "socks4": Row("socks4 5a answer 17 fin", microsocks="method ff closed", why="microsocks speaks SOCKS5 only"),
    "socks4a": Row(
        "socks4 5a answer 17 fin",
        microsocks="method ff closed",
        danted="socks4 5b closed",
        why="danted takes 0.0.0.1 for an address; the name of SOCKS4a is for us",
    ),
    "refused": Row("method 00 reply 05 fin"),
    "host unreachable": Row("method 00 reply 04 fin"),
    "network unreachable": Row("method 00 reply 03 fin"),
    "no such name": Row(
        "method 00 reply 04 fin",
        microsocks="method 00 reply 01 closed",
        danted="method 00 hex 050400030c6d697373696e672e746573740050 closed",
        why="04 is what Tor and others answer; danted's reply carries the name back, which clients that read ten bytes "
        "misread, so ours has an address always",
    ),
    "port 0": Row(
        "method 00 reply 01 fin",
        microsocks="method 00 reply 05 closed",
        danted="method 00 reply 08 closed",
        why="nothing can listen there: it is refused before anything is dialled, and 08 is about address families",
    ),
    "an empty name": Row("method 00 reply 01 fin", danted=None, why="danted looks it up and echoes it in its reply"),
    "a name with NUL": Row(
        "method 00 reply 01 fin", danted=None, why="danted cuts the name at the NUL: a way around rules on names"
    ),
    "bind": Row("method 00 reply 07 fin", danted="method 00 reply 00 open", why="we do not serve BIND yet"),
    "udp associate": Row("method 00 reply 07 fin", danted="method 00 reply 00 open", why="nor UDP ASSOCIATE"),
    "an unknown command": Row(
        "method 00 reply 07 fin", danted="method 00 closed", why="RFC 1928 §6 has a code for it; danted only closes"
    ),
    "an unknown address type": Row("method 00 reply 08 fin", danted="method 00 closed", why="likewise"),
    "version 4 in the request": Row(
        "method 00 reply 01 fin", danted="method 00 open", why="danted goes on in SOCKS4 and waits for more"
    ),
    "a reserved byte that is not zero": Row(
        "method 00 reply 00 open", microsocks="method 00 reply 01 closed", why="nothing depends on it: be liberal"
    ),
    "no methods": Row("method ff fin"),
    "only unknown methods": Row("method ff fin"),
    "only GSSAPI": Row("method ff fin"),
    "only a password, where none is wanted": Row(
        "method 02 open",
        microsocks="method ff closed",
        danted="method ff closed",
        why="clients that insist on sending a password work; any is right where none is wanted (Tor does this too)",
    ),
    "version 6": Row(
        "rst", microsocks="method ff closed", danted="closed", why="none of our protocols: no answer to it is right"
    ),
    "noise": Row("rst", microsocks="method ff closed", danted="closed", why="likewise"),
    "half a greeting, then FIN": Row("fin", microsocks="method 00 closed", why="microsocks does not count methods"),
    "a greeting, then FIN": Row("method 00 fin"),
    "half a request, then FIN": Row(
        "method 00 fin", microsocks="method 00 reply 01 closed", why="there is nobody to answer a request half said"
    ),
}

PASSWORD_TABLE = {
    "the right password": Row(
        "method 02 auth 00 reply 00 answer 17 fin", microsocks="method 02 auth 00 reply 00 closed", why=NO_HALF_CLOSE
    ),
    "the right password, all in one segment": Row(
        "method 02 auth 00 reply 00 answer 17 fin",
        microsocks="method 02 closed",
        why="microsocks takes one read for one message and drops the rest",
    ),
    "a wrong password": Row(
        "method 02 auth 01 fin", microsocks="method 02 auth 02 closed", why="any value but 0 is a refusal (RFC 1929)"
    ),
    "a wrong user": Row("method 02 auth 01 fin", microsocks="method 02 auth 02 closed", why="likewise"),
    "a prefix of the password": Row("method 02 auth 01 fin", microsocks="method 02 auth 02 closed", why="likewise"),
    "an empty password": Row("method 02 auth 01 fin"),
    "version 5 in the sub-negotiation": Row("method 02 auth 01 fin"),
    "no password offered": Row("method ff fin"),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and where its expectations stand."""

    proxy: Proxy
    column: str


@pytest.fixture(params=[Microsocks, Danted, Quicsocks], ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, company: Company) -> Server:
    kind: type[Proxy] = request.param
    return Server(company.member(kind), column(kind))


@pytest.fixture(params=[Microsocks, Quicsocks], ids=lambda kind: kind.name)
def guarded_server(request: pytest.FixtureRequest, system: System) -> Iterator[Server]:
    kind: type[Proxy] = request.param
    require(kind)
    proxy = kind(system, "user", "secret")
    try:
        proxy.start()
        yield Server(proxy, column(kind))
    finally:
        proxy.stop()


def column(kind: type[Proxy]) -> str:
    return "ours" if kind is Quicsocks else kind.name


def differences(server: Server, found: dict[str, str], table: dict[str, Row]) -> list[str]:
    lines = []
    for name, row in table.items():
        wanted: str | None = getattr(row, server.column)
        if wanted == "same":
            wanted = row.ours
        got = found[name]
        if server.column != "ours" and wanted is not None:
            got, wanted = (text.replace(" fin", " closed").replace(" rst", " closed") for text in (got, wanted))
            got, wanted = ("closed" if text in ("fin", "rst") else text for text in (got, wanted))
        if wanted is not None and got != wanted:
            lines.append(f"{name}: {got!r} instead of {wanted!r}")
    return lines


def run_all(server: Server, all_scripts: dict[str, Script]) -> dict[str, str]:
    """All at once: each is a connection of its own, and most of them only wait."""
    with ThreadPoolExecutor(len(all_scripts)) as pool:
        return dict(
            zip(all_scripts, pool.map(lambda script: run(server.proxy, script), all_scripts.values()), strict=True)
        )


def test_scripts(server: Server, system: System) -> None:
    all_scripts = scripts(system)
    assert all_scripts.keys() == TABLE.keys()
    assert differences(server, run_all(server, all_scripts), TABLE) == []


def test_password_scripts(guarded_server: Server, system: System) -> None:
    all_scripts = password_scripts(system)
    assert all_scripts.keys() == PASSWORD_TABLE.keys()
    assert differences(guarded_server, run_all(guarded_server, all_scripts), PASSWORD_TABLE) == []


def test_every_difference_has_a_reason() -> None:
    for name, row in {**TABLE, **PASSWORD_TABLE}.items():
        differs = (row.microsocks, row.danted) != ("same", "same")
        assert differs == bool(row.why), name
