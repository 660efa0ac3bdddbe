"""Precedence of every setting in every combination: flag, environment, [exit.NAME], [client], default.

Read first: ``config_home``.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from quicsocks.userspace.config_schema import (
    CLIENT_SETTINGS,
    COMMON_SETTINGS,
    CONCENTRATOR_SETTINGS,
    Kind,
    Scope,
    Setting,
)
from quicsocks.userspace.settings import ClientLimits, ClientSettings, ConcentratorSettings

from .config_home import OTHER, Home
from .support import LINK

SAMPLES: dict[Kind, list[str]] = {
    Kind.TEXT: ["a", "b", "c", "d"],
    Kind.NAME: ["a", "b", "c", "d"],
    Kind.PATH: ["/a", "/b", "/c", "/d"],
    Kind.FLAG: ["true", "false", "true", "false"],
    Kind.COUNT: ["2", "1", "0", "-1"],
    Kind.SIZE: ["4k", "5k", "6k", "7k"],
    Kind.SECONDS: ["1s", "2s", "3s", "4s"],
    Kind.ADDRESS: ["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4"],
    Kind.HOST: ["9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4"],
    Kind.LISTEN: ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"],
    Kind.LIST: ["a", "b", "c", "d"],
}


def samples(setting: Setting) -> list[str]:
    if setting.kind is Kind.CHOICE:
        return list(itertools.islice(itertools.cycle(setting.choices), 4))
    if setting.kind is Kind.COUNT and setting.key != "verbosity":
        return ["11", "12", "13", "14"]
    if setting.key == "public_name":
        return ["a.example", "b.example", "c.example", "d.example"]
    return SAMPLES[setting.kind]


def value_of(settings: Any, setting: Setting) -> Any:
    special = {
        ("listen", ClientSettings): "listen_tcp",
        ("name", ConcentratorSettings): "name",
        ("username", ClientSettings): "login.username",
    }
    value = settings
    for part in special.get((setting.key, type(settings)), setting.attribute).split("."):
        value = getattr(value, part)
    return value


def toml_value(setting: Setting, text: str) -> str:
    if setting.kind in (Kind.FLAG, Kind.COUNT):
        return text
    return f"['{text}']" if setting.kind in (Kind.LIST, Kind.LISTEN) else f"'{text}'"


def layer_text(setting: Setting, table: str, text: str) -> str:
    place = "" if setting.scope is Scope.COMMON else f"[{table}]\n"
    return f"{place}{setting.key} = {toml_value(setting, text)}\n"


MATRIX = [
    *((setting, "client") for setting in (*COMMON_SETTINGS, *CLIENT_SETTINGS)),
    *((setting, "concentrator") for setting in (*COMMON_SETTINGS, *CONCENTRATOR_SETTINGS)),
]
MATRIX = [(one, command) for one, command in MATRIX if one.kind not in (Kind.RULES, Kind.SECRET)]


@pytest.mark.parametrize(("setting", "command"), MATRIX, ids=[f"{command}-{one.key}" for one, command in MATRIX])
def test_precedence(ready: Home, setting: Setting, command: str) -> None:
    texts = samples(setting)
    is_list = setting.kind in (Kind.LIST, Kind.LISTEN)
    extra: dict[str, str] = {}
    flags: dict[str, Any] = {}
    if setting.key == "username":
        extra["QUICSOCKS_PASSWORD"] = "p"
    if setting.key == "cert":
        flags["key"] = "/key"
    # A changed state folder holds no saved link.
    argument = "given" if command == "client" else None
    link_file = ready.private("link", LINK.uri)

    def load(which: frozenset[str]) -> Any:
        text = ""
        if setting.scope is Scope.COMMON:
            text += layer_text(setting, "", texts[2]) if "file" in which else ""
        else:
            if "exit" in which:
                text += layer_text(setting, "exit.given", texts[2])
            if "file" in which:
                text += layer_text(setting, command, texts[3])
        ready.file(text)
        given = dict(flags)
        if "flag" in which:
            given[setting.key] = [texts[0]] if is_list else texts[0]
        environ = dict(extra)
        if "environment" in which:
            environ[setting.variable] = texts[1]
        if command == "client":
            given["link_file"] = str(link_file)
            return value_of(ready.client(argument, given, **environ), setting)
        return value_of(ready.concentrator(given, **environ), setting)

    has_exit = command == "client" and setting.scope is Scope.CLIENT
    layers = ["flag", "environment", *(["exit"] if has_exit else []), "file"]
    single = {layer: load(frozenset({layer})) for layer in layers}
    if len(set(texts)) == 4:
        assert len({repr(value) for value in single.values()}) == len(layers)
    for size in range(2, len(layers) + 1):
        for which in itertools.combinations(layers, size):
            assert load(frozenset(which)) == single[which[0]], which


def test_rules_add_up_and_flags_come_first(ready: Home) -> None:
    ready.file("[client]\nrules = ['block c.example']\n[exit.home]\nrules = ['direct b.example']\n")
    settings = ready.client(
        "home", {"rules": [("tunnel", "f.example"), ("block", "g.example")]}, QUICSOCKS_RULES="block e.example"
    )
    assert [(rule.action, rule.pattern) for rule in settings.rules] == [
        ("tunnel", "f.example"),
        ("block", "g.example"),
        ("block", "e.example"),
        ("direct", "b.example"),
        ("block", "c.example"),
    ]
    assert settings.rules[0].source == "--tunnel"
    assert settings.rules[2].source == "$QUICSOCKS_RULES"
    assert settings.rules[4].source.endswith("config.toml:3: rules")


def test_several_exits_in_one_file(home: Home) -> None:
    home.private("one.link", LINK.uri + "\n")
    home.file(
        "[client]\nlisten='1081'\nonce=true\n[exit.one]\nlink_file='../../one.link'\n"
        f"[exit.two]\nlink='{OTHER.uri}'\nlisten=['1082']\nlimits.connections=5\n"
    )
    one, two = home.client("one"), home.client("two")
    assert (one.link, one.listen_tcp, one.once) == (LINK, (("127.0.0.1", 1081),), True)
    assert (two.link, two.listen_tcp, two.limits.connections) == (OTHER, (("127.0.0.1", 1082),), 5)
    assert one.limits.connections == ClientLimits().connections
