"""Settings put together: precedence, which exit, defaults, secrets, and the one line for each thing that is wrong."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace import config_schema
from quicsocks.userspace.config import (
    ConfigError,
    Options,
    check_file,
    client_settings,
    common_settings,
    concentrator_settings,
    no_proxy_hosts,
)
from quicsocks.userspace.config_schema import (
    CLIENT_SETTINGS,
    COMMON_SETTINGS,
    CONCENTRATOR_SETTINGS,
    Kind,
    Scope,
    Setting,
)
from quicsocks.userspace.link import Link, base64url
from quicsocks.userspace.profiles import LinkStore
from quicsocks.userspace.settings import ClientLimits, ClientSettings, ConcentratorSettings, Login, Rule

from .support import LINK, PIN, TOKEN

ROOT = Path(__file__).resolve().parents[2]
OTHER = Link(host="other.example", pins=(PIN,), name="office")


class Home:
    """A machine: home folder, variables, saved links, a configuration file."""

    def __init__(self, path: Path) -> None:
        self.environ = {"HOME": str(path)}
        self.path = path
        self.store = LinkStore(path / ".local/state/quicsocks")

    def file(self, text: str, name: str = "config.toml") -> Path:
        path = self.path / ".config/quicsocks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("version = 1\n" + text)
        path.chmod(0o600)
        return path

    def private(self, name: str, text: str) -> Path:
        path = self.path / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def options(self, flags: dict[str, Any] | None = None, stdin: str = "", **environ: str) -> Options:
        return Options(flags or {}, {**self.environ, **environ}, lambda: stdin)

    def client(
        self, argument: str | None = None, flags: dict[str, Any] | None = None, stdin: str = "", **environ: str
    ) -> ClientSettings:
        return client_settings(self.options(flags, stdin, **environ), argument)[0]

    def concentrator(self, flags: dict[str, Any] | None = None, **environ: str) -> ConcentratorSettings:
        return concentrator_settings(self.options(flags, **environ))[0]

    def complaints(self, action: Callable[..., Any], *arguments: Any, **rest: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            action(*arguments, **rest)
        for error in caught.value.errors:
            assert "\n" not in error
            assert base64url(TOKEN) not in error
        return [
            error.replace(f"{self.path}/.config/quicsocks/", "").replace(str(self.path), "~")
            for error in caught.value.errors
        ]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def ready(home: Home) -> Home:
    """With one saved link."""
    home.store.save("home", LINK)
    return home


# Defaults.


def test_defaults_of_a_client(ready: Home) -> None:
    settings = ready.client()
    assert settings == ClientSettings(
        name="home",
        link=LINK,
        state_dir=ready.path / ".local/state/quicsocks",
        runtime_dir=Path(f"/tmp/quicsocks-{os.getuid()}"),
        instance="home",
    )
    assert settings.listen_tcp == (("127.0.0.1", 1080),)


def test_defaults_of_a_concentrator(home: Home) -> None:
    settings = home.concentrator()
    assert settings == ConcentratorSettings(
        state_dir=home.path / ".local/state/quicsocks", runtime_dir=Path(f"/tmp/quicsocks-{os.getuid()}")
    )
    assert settings.listen == (("::", 4433),)


def test_every_setting_sets_an_attribute_that_exists() -> None:
    for scope, cls in ((Scope.CLIENT, ClientSettings), (Scope.CONCENTRATOR, ConcentratorSettings)):
        for setting in config_schema.settings_for(scope):
            if setting.key in ("listen", "username", "password", "public_name", "name"):
                continue  # put together from, or split into, several
            fields = cls.__dataclass_fields__
            first, _, rest = setting.attribute.partition(".")
            assert first in fields, setting
            if rest:
                group = fields[first].default_factory
                assert rest in group.__dataclass_fields__, setting  # type: ignore[union-attr] # a dataclass


def test_keys_flags_and_variables_are_unique() -> None:
    for settings in ((*COMMON_SETTINGS, *CLIENT_SETTINGS), (*COMMON_SETTINGS, *CONCENTRATOR_SETTINGS)):
        for names in (
            [setting.key for setting in settings],
            [setting.variable for setting in settings],
            [flag for setting in settings for flag in config_schema.flags_of(setting)],
            [setting.attribute for setting in settings],
        ):
            assert len(names) == len(set(names))


# Precedence: flag, environment, [exit.NAME], [client], default, in every combination.


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


# Which exit.


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


# Secrets.


def test_passwords(ready: Home) -> None:
    path = ready.private("password", "from file\n")
    assert ready.client(flags={"username": "u", "password_file": str(path)}).login == Login("u", "from file")
    assert ready.client(QUICSOCKS_USERNAME="u", QUICSOCKS_PASSWORD="p").login == Login("u", "p")
    assert ready.client(QUICSOCKS_USERNAME="u", QUICSOCKS_PASSWORD_FILE=str(path)).login == Login("u", "from file")
    ready.file("[client]\nusername = 'u'\npassword = '$SECRET'\n")
    assert ready.client(SECRET="s").login == Login("u", "s")


def test_password_errors(ready: Home) -> None:
    path = ready.private("password", "x")
    path.chmod(0o644)
    assert ready.complaints(ready.client, flags={"username": "u", "password_file": str(path)}) == [
        "--password-file: the password file ~/password can be read by other users; run: chmod 600 ~/password"
    ]
    assert ready.complaints(ready.client, flags={"username": "u", "password_file": "/none"}) == [
        "--password-file: there is no file /none"
    ]
    assert ready.complaints(
        ready.client, QUICSOCKS_USERNAME="u", QUICSOCKS_PASSWORD="p", QUICSOCKS_PASSWORD_FILE="/x"
    ) == ["$QUICSOCKS_PASSWORD: password and password_file are both given; keep one"]
    assert ready.complaints(ready.client, flags={"username": "u"}) == [
        "a user name is set without a password; set it with --password-file FILE"
    ]
    assert ready.complaints(ready.client, QUICSOCKS_PASSWORD="p") == [
        "a password is set without a user name; set it with --username NAME"
    ]
    assert ready.complaints(ready.client, QUICSOCKS_USERNAME="a:b", QUICSOCKS_PASSWORD="p") == [
        "the user name must not contain a colon, because HTTP cannot carry it"
    ]
    assert ready.complaints(ready.client, QUICSOCKS_USERNAME="u", QUICSOCKS_PASSWORD="p" * 256) == [
        "the password must have from 1 to 255 bytes"
    ]


def test_no_secret_in_the_repr_of_settings(ready: Home) -> None:
    settings = ready.client(
        flags={"listen": ["ss://aes-256-gcm:hunter2@127.0.0.1:1"]}, QUICSOCKS_USERNAME="u", QUICSOCKS_PASSWORD="hunter2"
    )
    assert settings.listen_urls == ("ss://aes-256-gcm:hunter2@127.0.0.1:1",)
    assert "hunter2" not in repr(settings)
    assert base64url(TOKEN) not in repr(settings)
    options = ready.options({"upstream": "socks5://u:hunter2@h:1"}, QUICSOCKS_PASSWORD="hunter2")
    assert "hunter2" not in repr(concentrator_settings(options)[0])
    assert "hunter2" not in repr(options)


def test_passwords_on_the_command_line_are_remarked(ready: Home) -> None:
    _, remarks = client_settings(ready.options({"listen": ["ss://aes-256-gcm:hunter2@127.0.0.1:1"]}))
    assert any("--listen: a password on the command line can be seen" in remark for remark in remarks)
    _, remarks = concentrator_settings(ready.options({"upstream": "socks5://u:hunter2@h:1"}))
    assert any("--upstream: a password on the command line can be seen" in remark for remark in remarks)
    assert not any("hunter2" in remark for remark in remarks)
    _, remarks = concentrator_settings(ready.options({"upstream": "socks5://h:1"}))
    assert remarks == ()


# Listeners.


def test_listening_off_loopback_needs_a_password(ready: Home) -> None:
    for address in ("0.0.0.0:1080", "[::]:1080", "192.168.1.2:1080"):
        assert ready.complaints(ready.client, flags={"listen": [address]}) == [
            f"--listen: {address} can be reached from other machines and needs a password; set --username and "
            "--password-file, or --allow-open to let everybody in"
        ]
    assert ready.client(flags={"listen": ["0.0.0.0:1080"], "allow_open": True}).allow_open
    assert ready.client(flags={"listen": ["0.0.0.0:1080"]}, QUICSOCKS_USERNAME="u", QUICSOCKS_PASSWORD="p").login
    assert ready.client(flags={"listen": ["127.9.9.9:1", "[::1]:1", "/run/x"]}).listen_unix == (Path("/run/x"),)


def test_several_listeners_of_several_kinds(ready: Home) -> None:
    settings = ready.client(flags={"listen": ["1081", "[::1]:1082", "unix:/run/a", "ss://aes-256-gcm:p@127.0.0.1:1"]})
    assert settings.listen_tcp == (("127.0.0.1", 1081), ("::1", 1082))
    assert settings.listen_unix == (Path("/run/a"),)
    assert settings.listen_urls == ("ss://aes-256-gcm:p@127.0.0.1:1",)


# A command's own listener.


def test_a_command_gets_a_port_and_credentials_of_its_own(ready: Home) -> None:
    ready.file("[client]\nlisten='127.0.0.1:1080'\nusername='u'\npassword='p'\n")
    settings, _ = client_settings(ready.options(), None, ["git", "clone"])
    assert settings.command == ("git", "clone")
    assert settings.listen_tcp == (("127.0.0.1", 0),)
    assert settings.login is not None
    assert settings.login.username == "run"
    assert len(settings.login.password) == 32
    assert settings.instance == f"home.{os.getpid()}"
    again, _ = client_settings(ready.options(), None, ["git", "clone"])
    assert again.login != settings.login


def test_a_command_with_a_listener_that_the_user_asked_for(ready: Home) -> None:
    settings, _ = client_settings(ready.options({"listen": ["127.0.0.1:1083"]}), None, ["true"])
    assert settings.listen_tcp == (("127.0.0.1", 1083),)
    assert settings.login is not None


# The concentrator's own.


def test_public_name(home: Home) -> None:
    settings = home.concentrator({"public_name": "GW.example.com:443"})
    assert (settings.public_name, settings.public_port) == ("gw.example.com", 443)
    assert home.concentrator({"public_name": "gw.example.com"}).public_port is None
    assert home.complaints(home.concentrator, {"public_name": "a b"}) == ["--public-name: 'a b' is not a host name"]


def test_certificate_needs_its_key(home: Home) -> None:
    assert home.complaints(home.concentrator, {"cert": "c.pem"}) == [
        "a certificate is given without its key; give the key with --key FILE"
    ]
    assert home.concentrator({"cert": "c.pem", "key": "k.pem"}).key_file == Path("k.pem")


def test_reload_reads_the_file_anew_and_keeps_the_flags(home: Home) -> None:
    home.file("[concentrator]\nrules = ['deny *:25']\n")
    settings = home.concentrator({"drain": "3s"})
    home.file("[concentrator]\nrules = ['deny *:26']\ndrain = 9\n")
    assert settings.reload is not None
    again = settings.reload()
    assert (again.rules[0].pattern, again.drain) == ("*:26", 3.0)
    home.file("[concentrator]\nrules = ['forbid *']\n")
    with pytest.raises(ConfigError, match=r"config.toml:3: rules: a rule begins with allow or deny"):
        settings.reload()


def test_bad_rules_name_their_source(home: Home) -> None:
    home.file("[concentrator]\nrules = ['deny 10.0.0.0/99']\n")
    errors = home.complaints(home.concentrator, {"rules": [("allow", "a b")]}, QUICSOCKS_RULES="nonsense")
    assert [error.split(":")[0] for error in errors] == ["--allow", "$QUICSOCKS_RULES", "config.toml"]
    assert "10.0.0.0/99" in errors[2]


# Everything that is wrong is said at once, with its source.


def test_all_errors_at_once(ready: Home) -> None:
    ready.file("log_format = 'xml'\n[client]\nonce = 3\n")
    assert ready.complaints(ready.client, flags={"dns": "example.com"}, QUICSOCKS_LIMIT_CONNECTIONS="many") == [
        "config.toml:2: log_format: must be one of text, json, not 'xml'",
        "--dns: 'example.com' is not an IP address; a name is not taken here",
        "config.toml:4: once: must be true or false, not a number",
        "$QUICSOCKS_LIMIT_CONNECTIONS: must be a whole number, not 'many'",
    ]


def test_the_file_is_found_named_or_switched_off(ready: Home) -> None:
    ready.file("[client]\nlisten='1090'\n")
    other = ready.private("other.toml", "version = 1\n[client]\nlisten='1091'\n")
    assert ready.client().listen_tcp[0][1] == 1090
    assert ready.client(QUICSOCKS_CONFIG=str(other)).listen_tcp[0][1] == 1091
    assert ready.client(flags={"config": str(other)}, QUICSOCKS_CONFIG="/none").listen_tcp[0][1] == 1091
    assert ready.client(QUICSOCKS_CONFIG="").listen_tcp[0][1] == 1080
    assert ready.complaints(ready.client, flags={"config": "/none.toml"}) == [
        "cannot read the configuration /none.toml: no such file or directory"
    ]


def test_misspelt_variables_are_remarked(ready: Home) -> None:
    _, remarks = client_settings(ready.options(QUICSOCKS_LISTN="1080", QUICSOCKS_TEST_SOMETHING="1"))
    assert remarks == ("the variable QUICSOCKS_LISTN is not known and ignored; did you mean QUICSOCKS_LISTEN?",)


def test_keylog_from_the_usual_variable(ready: Home) -> None:
    assert ready.client(SSLKEYLOGFILE="/k").transport.keylog == Path("/k")
    assert ready.client(SSLKEYLOGFILE="/k", QUICSOCKS_KEYLOG="/q").transport.keylog == Path("/q")


def test_without_a_home_the_state_folder_must_be_named(home: Home) -> None:
    home.environ = {}
    assert home.complaints(home.concentrator) == [
        "there is no home folder to keep keys in; give one with --state DIR or set QUICSOCKS_STATE"
    ]
    (line,) = home.complaints(home.client)
    assert "--state DIR" in line
    assert home.concentrator(QUICSOCKS_STATE="/var/lib/q").state_dir == Path("/var/lib/q")


def test_common_and_no_proxy(home: Home) -> None:
    home.file("[client]\nno_proxy=['a.example']\n")
    assert no_proxy_hosts(home.options()) == ("a.example",)
    assert no_proxy_hosts(home.options(QUICSOCKS_NO_PROXY="b;c")) == ("b", "c")
    assert common_settings(home.options({"verbosity": 2})).output.verbosity == 2


# check.


def test_check_file(home: Home) -> None:
    good = home.file("[exit.home]\nlisten='1080'\n[concentrator]\ndrain='5s'\n")
    assert check_file(good, {}) == []
    bad = home.file(
        "log_format='xml'\n[client]\ndns='x'\n[exit.a]\nlink='nonsense'\nlimits.connections='x'\n"
        "[exit.b]\nrules=['go x']\n[concentrator]\ndrain='soon'\n"
    )
    assert [line.removeprefix(str(bad)).split(":")[1] for line in check_file(bad, {})] == [
        "2",
        "11",
        "4",
        "7",
        "9",
        "6",
    ]
    assert check_file(home.path / "none.toml", {})[0].startswith("cannot read the configuration")


def test_check_ignores_the_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICSOCKS_DRAIN", "nonsense")
    assert check_file(home.file(""), os.environ) == []


# The document.


def document() -> str:
    return (ROOT / "docs/configuration.md").read_text()


def test_the_reference_is_the_schema() -> None:
    text = document()
    shown = text.partition("<!-- settings: begin -->")[2].partition("<!-- settings: end -->")[0]
    assert shown.strip() == config_schema.markdown().strip(), (
        "write config_schema.markdown() into docs/configuration.md"
    )


def test_the_reference_names_every_key_flag_and_variable() -> None:
    text = document()
    for setting in (*COMMON_SETTINGS, *CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS):
        for name in (setting.key, setting.variable, *config_schema.flags_of(setting)):
            assert f"`{name}`" in text


def test_the_example_in_the_document_is_right(home: Home) -> None:
    example = re.search(r"```toml\n(.*?)```", document(), re.DOTALL)
    assert example is not None
    path = home.private("config.toml", example[1])
    assert check_file(path, home.environ) == []
    home.store.save("home", LINK)
    settings = home.client(flags={"config": str(path)})
    assert settings.rules == (
        Rule("direct", "192.168.0.0/16", f"{path}:6: rules"),
        Rule("block", "*.ads.example", f"{path}:6: rules"),
    )
    assert home.concentrator({"config": str(path)}).limits.bytes_per_second == 10 << 20


def test_documented_defaults_are_those_of_the_dataclasses() -> None:
    by_key = {(setting.scope, setting.key): setting for setting in (*CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS)}
    assert config_schema.describe_default(by_key[Scope.CLIENT, "limits.header_size"]) == "`32k`"
    assert config_schema.describe_default(by_key[Scope.CLIENT, "listen"]) == "`127.0.0.1:1080`"
    assert config_schema.describe_default(by_key[Scope.CONCENTRATOR, "drain"]) == "`10`"
    assert config_schema.describe_default(by_key[Scope.CONCENTRATOR, "allow_qt"]) == "`false`"
