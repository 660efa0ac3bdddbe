"""Passwords in settings: where they come from, what is refused, and that they are shown nowhere.

Read first: ``config_home``.
"""

from __future__ import annotations

from quicsocks.userspace.config import client_settings, concentrator_settings
from quicsocks.userspace.link import base64url
from quicsocks.userspace.settings import Login

from .config_home import Home
from .support import TOKEN


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
        "--username: a user name is set without a password; set it with --password-file FILE"
    ]
    assert ready.complaints(ready.client, QUICSOCKS_PASSWORD="p") == [
        "$QUICSOCKS_PASSWORD: a password is set without a user name; set it with --username NAME"
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
