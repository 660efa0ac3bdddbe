"""Which exit a client uses, where its link comes from, and what is said when there is none, several, or a bad one.

Read first: ``config_home``.
"""

from __future__ import annotations

from quicsocks.userspace.config import client_settings
from quicsocks.userspace.link import Link, base64url

from .config_home import OTHER, Home
from .support import LINK, PIN, TOKEN


def test_the_only_saved_link_needs_no_name(ready: Home) -> None:
    assert ready.client().name == "home"


def test_which_of_several(ready: Home) -> None:
    ready.store.save("office", OTHER)
    assert ready.complaints(ready.client) == ["which exit? There are home, office; name one, e.g.: quicsocks run home"]
    assert ready.client("office").link == OTHER
    assert ready.client(QUICSOCKS_DEFAULT_EXIT="office").link == OTHER
    ready.file("default_exit = 'home'\n")
    assert ready.client().link == LINK


def test_no_exit_at_all(home: Home) -> None:
    (line,) = home.complaints(home.client)
    assert line.startswith("no exit is known; save its link with: quicsocks link add NAME")
    (line,) = home.complaints(home.client, "home")
    assert line == "no exit home is known (none is); save its link with: quicsocks link add home"
    (line,) = home.complaints(home.client, "a b")
    assert line == "'a b' is neither a name nor a link; links begin with quicsocks://"


def test_a_misspelt_exit_lists_the_known(ready: Home) -> None:
    assert ready.complaints(ready.client, "hme") == [
        "no exit hme is known (known are: home); save its link with: quicsocks link add hme"
    ]


def test_a_table_without_a_link_says_so(ready: Home) -> None:
    ready.file("[exit.office]\nlisten = '1099'\n")
    assert ready.complaints(ready.client, "office") == [
        "the exit office has no link; save one with: quicsocks link add office, or set link_file in [exit.office]"
    ]


def test_a_table_and_a_saved_link_of_one_name_belong_together(ready: Home) -> None:
    ready.file("[exit.home]\nlisten = '1099'\n")
    settings = ready.client()
    assert (settings.link, settings.listen_tcp) == (LINK, (("127.0.0.1", 1099),))


def test_bare_link_works_and_says_that_it_can_be_seen(home: Home) -> None:
    settings, remarks = client_settings(home.options(), LINK.uri)
    assert (settings.link, settings.name) == (LINK, "home")
    assert any("other users can see a link on the command line" in remark for remark in remarks)
    assert not any(base64url(TOKEN) in remark for remark in remarks)


def test_links_from_stdin_file_and_environment(home: Home) -> None:
    path = home.private("a.link", LINK.uri + "\n")
    assert home.client("-", stdin=LINK.uri).link == LINK
    assert home.client(flags={"link_file": "-"}, stdin=LINK.uri).link == LINK
    assert home.client(flags={"link_file": str(path)}).link == LINK
    assert home.client("office", {"link_file": str(path)}).name == "office"
    assert home.client(QUICSOCKS_LINK=LINK.uri).link == LINK
    assert home.client(QUICSOCKS_LINK_FILE=str(path)).link == LINK


def test_a_name_comes_before_a_link_in_the_environment(ready: Home) -> None:
    assert ready.client("home", QUICSOCKS_LINK=OTHER.uri).link == LINK
    assert ready.client(QUICSOCKS_LINK=OTHER.uri).link == OTHER


def test_a_link_without_a_name_is_called_by_its_host(home: Home) -> None:
    assert home.client(Link(host="gw.example.com").uri).name == "gw.example.com"
    assert home.client(Link(host="2001:db8::1").uri).name == "exit"


def test_bad_links_are_one_line_that_names_the_source(home: Home) -> None:
    path = home.private("bad.link", "quicsocks://h:x/")
    home.file("[exit.e]\nlink = 'nonsense'\n")
    bad = "bad link: the port must be a number from 1 to 65535"
    assert home.complaints(home.client, "quicsocks://h:x/") == [f"the link on the command line: {bad}"]
    assert home.complaints(home.client, "-", stdin="quicsocks://h:x/") == [f"the link on standard input: {bad}"]
    assert home.complaints(home.client, flags={"link_file": str(path)}) == [f"--link-file: {bad}"]
    assert home.complaints(home.client, QUICSOCKS_LINK="quicsocks://h:x/") == [f"$QUICSOCKS_LINK: {bad}"]
    assert home.complaints(home.client, "e") == ["config.toml:3: link: bad link: it must begin with quicsocks://"]


def test_unknown_link_parameters_are_remarked(home: Home) -> None:
    _, remarks = client_settings(home.options(), "quicsocks://h/?relay=x")
    assert any("ignores: relay" in remark for remark in remarks)


def test_qt_without_a_resolver_is_remarked(home: Home) -> None:
    uri = Link(host="h", alpn="qt", pins=(PIN,)).uri
    _, remarks = client_settings(home.options(), uri)
    assert any("--dns" in remark for remark in remarks)
    settings, remarks = client_settings(home.options({"dns": "9.9.9.9"}), uri)
    assert settings.dns == ("9.9.9.9", 53)
    assert not any("--dns" in remark for remark in remarks)
