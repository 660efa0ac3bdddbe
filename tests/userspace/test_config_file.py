"""Configuration files: errors name file, line and the right key; variables; secrets in files that others can read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace import config_file
from quicsocks.userspace.config_file import ConfigError, default_path, load

from .support import LINK


def write(tmp_path: Path, text: str, name: str = "config.toml", mode: int = 0o600) -> Path:
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    return path


def errors(tmp_path: Path, text: str, name: str = "config.toml", mode: int = 0o600, **environ: str) -> list[str]:
    path = write(tmp_path, text, name, mode)
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return [error.replace(str(tmp_path) + "/", "") for error in caught.value.errors]


GOOD = """\
version = 1
log_format = "json"
default_exit = "home"

[client]
listen = ["127.0.0.1:1080", "unix:/run/x.sock"]
limits = { connections = 10 }
rules = ["direct 192.168.0.0/16"]

[exit.home]
link_file = "home.link"
[exit.home.limits]
connections = 20

[concentrator]
listen = "[::]:4433"
limits.sessions = 5
"""


def test_a_good_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, mode=0o644)
    file = load(path, {})
    assert file.common["log_format"].value == "json"
    assert file.client["limits.connections"].value == 10
    assert file.client["limits.connections"].source == f"{path}:7: limits.connections"
    assert file.exits["home"]["limits.connections"].source == f"{path}:13: limits.connections"
    assert file.exits["home"]["link_file"].base == tmp_path
    assert file.concentrator["listen"].source == f"{path}:16: listen"


def test_the_same_in_json(tmp_path: Path) -> None:
    file = load(
        write(tmp_path, '{"version": 1,\n"client": {"once": true,\n"limits": {"connections": 3}}}', "c.json"), {}
    )
    assert file.client["limits.connections"].source.endswith("c.json:3: limits.connections")


BAD = [
    ("", "config.toml:1: the key version is missing; write: version = 1"),
    ("version = 2\n", "config.toml:1: this program reads version = 1 only"),
    ("\nversion = '1'\n", "config.toml:2: this program reads version = 1 only"),
    ("version = true\n", "config.toml:1: this program reads version = 1 only"),
    ("version = 1\nlog_fromat = 'x'\n", "config.toml:2: unknown key log_fromat; did you mean log_format?"),
    ("version = 1\n[client]\nlimits.conections = 1\n",
     "config.toml:3: unknown key limits.conections in [client]; did you mean limits.connections?"),
    ("version = 1\n[client.limits]\n\nconections = 1\n",
     "config.toml:4: unknown key limits.conections in [client]; did you mean limits.connections?"),
    ("version = 1\n[exit.home]\npasword_file = 'x'\n",
     "config.toml:3: unknown key pasword_file in [exit.home]; did you mean password_file?"),
    ("version = 1\nlisten = '1080'\n", "config.toml:2: unknown key listen; it belongs into [client]"),
    ("version = 1\n[client]\nallow_qt = true\n",
     "config.toml:3: unknown key allow_qt in [client]; it belongs into [concentrator]"),
    ("version = 1\n[client]\nstate = 'x'\n",
     "config.toml:3: unknown key state in [client]; it belongs into the top of the file, before the first [table]"),
    ("version = 1\n[client]\nlink = 'x'\n", "config.toml:3: unknown key link in [client]; it belongs into [exit.NAME]"),
    ("version = 1\n[clients]\nonce = true\n", "config.toml:2: unknown key clients; did you mean client?"),
    ("version = 1\n[client]\nlimits = 3\n", "config.toml:3: limits must be a table: [client.limits]"),
    ("version = 1\nclient = 3\n", "config.toml:2: client must be a table: [client]"),
    ("version = 1\nexit = 'home'\n",
     "config.toml:2: exits are tables such as [exit.home]; the key that names one is default_exit"),
    ("version = 1\nexit.home = 3\n", "config.toml:2: an exit is a table: [exit.home]"),
    ("version = 1\n[exit.'a b']\n",
     "config.toml:2: 'a b' cannot be an exit's name; use letters, digits, '.', '_' and '-'"),
    ("version = 1\n[[client]]\n", "config.toml:2: client must be a table: [client]"),
    ("version = \n", "config.toml:1: not valid TOML: invalid value"),
    ("version = 1\n\nversion = 1\n", "config.toml:3: not valid TOML: cannot overwrite a value"),
    ("version = 1\n[client", "config.toml:2: not valid TOML: expected ']' at the end of a table declaration"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[expected[13:60] for _, expected in BAD])
def test_bad_files_are_one_line_each(tmp_path: Path, text: str, expected: str) -> None:
    assert errors(tmp_path, text) == [expected]


def test_a_key_without_a_near_one_lists_the_right_ones(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, "version = 1\nqqqqqq = 1\n")
    assert error.startswith(
        "config.toml:2: unknown key qqqqqq; the keys here are: client, concentrator, congestion, crypto_profile"
    )


def test_all_errors_are_listed_up_to_a_bound(tmp_path: Path) -> None:
    assert len(errors(tmp_path, "version = 2\nx1 = 1\nx2 = 2\n")) == 3
    many = errors(tmp_path, "version = 1\n" + "".join(f"x{n} = 1\n" for n in range(100)))
    assert len(many) == config_file.MAX_ERRORS + 1
    assert many[-1] == "config.toml: and 80 more errors"


def test_json_errors(tmp_path: Path) -> None:
    assert errors(tmp_path, '{"version": 1,\n}', "c.json")[0].startswith("c.json:2: not valid JSON")
    assert errors(tmp_path, "[1]", "c.json") == ["c.json:1: the file must hold one object"]
    assert errors(tmp_path, '{"version": 1, "version": 1}', "c.json") == ["c.json: the key version stands there twice"]
    assert errors(tmp_path, '{"version": 1,\n"cleint": {}}', "c.json") == [
        "c.json:2: unknown key cleint; did you mean client?"
    ]


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.toml: no such file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "bytes.toml").write_bytes(b"version = 1\n# \xff\n")
    with pytest.raises(ConfigError, match=r"bytes.toml:2: the file is not UTF-8"):
        load(tmp_path / "bytes.toml", {})
    (tmp_path / "big.toml").write_bytes(b"#" * (config_file.MAX_FILE + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(tmp_path / "big.toml", {})
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path, {})


# Variables.


def test_variables(tmp_path: Path) -> None:
    path = write(
        tmp_path, "version = 1\n[client]\nusername = '$USER_ at ${HOST}x'\nno_proxy = ['$HOST', 'a$$b']\nonce = true\n"
    )
    file = load(path, {"USER_": "me", "HOST": "h"})
    assert file.client["username"].value == "me at hx"
    assert file.client["no_proxy"].value == ["h", "a$b"]


def test_what_a_variable_holds_is_not_expanded_again(tmp_path: Path) -> None:
    path = write(tmp_path, "version = 1\n[client]\nusername = '$A'\n")
    assert load(path, {"A": "$B$$", "B": "x"}).client["username"].value == "$B$$"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$NONE", "the variable $NONE is not set (a dollar sign itself is written $$)"),
        ("${NONE}", "the variable $NONE is not set (a dollar sign itself is written $$)"),
        ("5$", "a dollar sign that is no variable is written $$"),
        ("${bad-name}", "a dollar sign that is no variable is written $$"),
    ],
)
def test_bad_variables(tmp_path: Path, text: str, expected: str) -> None:
    assert errors(tmp_path, f"version = 1\n[client]\nusername = 'x'\nno_proxy = ['a',\n'{text}']\n") == [
        f"config.toml:5: {expected}"
    ]


# Secrets.

SECRETS = [
    ("[client]\npassword = 'p'\n", "password"),
    (f"[exit.home]\nlink = '{LINK.uri}'\n", "link"),
    ("[concentrator]\nupstream = 'socks5://u:p@h:1'\n", "upstream"),
    ("[client]\nlisten = ['ss://aes-256-gcm:p@127.0.0.1:1']\n", "listen"),
]


@pytest.mark.parametrize(("text", "key"), SECRETS, ids=[key for _, key in SECRETS])
def test_secrets_in_files_that_others_can_read(tmp_path: Path, text: str, key: str) -> None:
    (error,) = errors(tmp_path, "version = 1\n" + text, mode=0o640)
    assert error.startswith(f"config.toml:3: {key} is a secret, but other users can read this file; run: chmod 600")
    assert load(write(tmp_path, "version = 1\n" + text), {}).path is not None


def test_a_proxy_without_password_is_no_secret(tmp_path: Path) -> None:
    path = write(tmp_path, "version = 1\n[concentrator]\nupstream = 'socks5://h:1'\n", mode=0o644)
    assert load(path, {}).concentrator["upstream"].value == "socks5://h:1"


def test_values_are_not_in_the_repr(tmp_path: Path) -> None:
    assert "hunter2" not in repr(load(write(tmp_path, "version = 1\n[client]\npassword = 'hunter2'\n"), {}))


# Any text.


@given(text=st.text(max_size=120))
def test_any_text_is_a_file_or_a_config_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.toml", "any.json"):
        path = folder / name
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        path.chmod(0o600)
        try:
            load(path, {})
        except ConfigError as error:
            lines = error.errors
        else:
            lines = ()
        assert all(line and "\n" not in line for line in lines)


def test_default_path(tmp_path: Path) -> None:
    assert default_path({"XDG_CONFIG_HOME": str(tmp_path)}) is None
    (tmp_path / "quicsocks").mkdir()
    (tmp_path / "quicsocks/config.json").write_text("{}")
    assert default_path({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "quicsocks/config.json"
    (tmp_path / "quicsocks/config.toml").write_text("")
    assert default_path({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "quicsocks/config.toml"
    assert default_path({"HOME": str(tmp_path)}) is None
    assert default_path({}) is None
