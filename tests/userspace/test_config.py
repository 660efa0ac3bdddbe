"""Settings put together: defaults, listeners, a command's and the concentrator's own, and one line for each thing wrong.

Read first: ``config_home``. Precedence, exits, secrets and the reference have files of their own, test_config_*.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quicsocks.userspace import config_schema
from quicsocks.userspace.config import ConfigError, check_file, client_settings, common_settings, no_proxy_hosts
from quicsocks.userspace.config_schema import CLIENT_SETTINGS, COMMON_SETTINGS, CONCENTRATOR_SETTINGS, Scope
from quicsocks.userspace.settings import ClientSettings, ConcentratorSettings

from .config_home import Home
from .support import LINK

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


def test_the_folder_for_qlog_from_the_usual_variable(ready: Home) -> None:
    assert ready.client(QLOGDIR="/k").transport.qlog_dir == Path("/k")
    assert ready.concentrator(QLOGDIR="/k", QUICSOCKS_QLOG_DIR="/q").transport.qlog_dir == Path("/q")


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


def test_check_finds_what_is_wrong_only_together(home: Home) -> None:
    def lines(text: str, **environ: str) -> list[str]:
        path = home.file(text)
        return [line.replace(f"{path}:", "") for line in check_file(path, environ)]

    needs = "can be reached from other machines and needs a password; set --username and --password-file, or "
    needs += "--allow-open to let everybody in"
    open_listener = "[client]\nlisten = '0.0.0.0:1080'\n"
    assert lines(open_listener) == [f"3: listen: 0.0.0.0:1080 {needs}"]
    assert lines(open_listener, QUICSOCKS_PASSWORD_FILE="/x", QUICSOCKS_USERNAME="u") == []
    assert lines(open_listener + "username = 'u'\npassword_file = 'x'\n[exit.a]\n") == []
    assert lines(open_listener + "username = 'u'\n") == [
        "4: username: a user name is set without a password; set it with --password-file FILE"
    ]
    assert lines(open_listener + "allow_open = true\n[exit.a]\n[exit.b]\nallow_open = false\n") == [
        f"3: listen: 0.0.0.0:1080 {needs}"
    ]
    assert lines("[concentrator]\ncert = 'c'\npublic_name = 'a b'\n") == [
        "a certificate is given without its key; give the key with --key FILE",
        "4: public_name: 'a b' is not a host name",
    ]
    assert lines("engine = 'aioquic'\ncongestion = 'bbr'\n") == [
        "3: congestion: bbr needs the native engine; with aioquic use cubic or reno"
    ]
    assert lines("engine = 'aioquic'\n") == lines("congestion = 'bbr'\n") == []
    assert lines("[client]\nlisten = '0.0.0.x:1'\n[exit.a]\nlisten = '1099'\n") == [
        "3: listen: '0.0.0.x' is not an IP address; a name is not taken here"
    ]


def test_a_command_needs_a_tcp_listener(ready: Home) -> None:
    def settings(*listen: str) -> ClientSettings:
        return client_settings(ready.options({"listen": list(listen)}), "home", ["true"])[0]

    (line,) = ready.complaints(settings, "unix:/x")
    assert line == (
        "--listen: a command behind -- is told of a TCP listener by its variables; add --listen 127.0.0.1:0, or leave "
        "--listen out"
    )
    both = settings("unix:/x", "127.0.0.1:0")
    assert (both.listen_unix, both.listen_tcp) == ((Path("/x"),), (("127.0.0.1", 0),))


def test_check_ignores_the_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICSOCKS_DRAIN", "nonsense")
    assert check_file(home.file(""), os.environ) == []
