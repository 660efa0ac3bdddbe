"""Proxy variables, also as real shells read them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.environment import (
    child_environment,
    export_lines,
    private_login,
    proxy_variables,
    unset_lines,
)
from quicsocks.userspace.settings import Login

ADDRESS = ("127.0.0.1", 1080)


def test_the_variables() -> None:
    found = proxy_variables(ADDRESS, no_proxy=["*.internal", "localhost"])
    assert found["ALL_PROXY"] == "socks5h://127.0.0.1:1080"
    assert found["HTTP_PROXY"] == found["HTTPS_PROXY"] == "http://127.0.0.1:1080"
    assert found["NO_PROXY"] == "localhost,127.0.0.1,::1,*.internal"
    assert len(found) == 8
    assert all(found[name.lower()] == value for name, value in found.items())


def test_ipv6_and_credentials() -> None:
    found = proxy_variables(("::1", 1), Login("a b", "p@:/%"))
    assert found["ALL_PROXY"] == "socks5h://a%20b:p%40%3A%2F%25@[::1]:1"


def test_private_logins_differ_and_need_no_quoting() -> None:
    one, two = private_login(), private_login()
    assert one.password != two.password
    assert one.password.isalnum()
    assert one.password not in repr(one)


def test_the_command_gets_the_proxy_but_not_our_secrets() -> None:
    environ = {
        "PATH": "/bin", "QUICSOCKS_LINK": "quicsocks://token@h/", "QUICSOCKS_PASSWORD": "p", "QUICSOCKS_STATE": "/s",
        "http_proxy": "http://old:1",
    }  # fmt: skip
    found = child_environment(environ, proxy_variables(ADDRESS))
    assert found["PATH"] == "/bin"
    assert found["http_proxy"] == "http://127.0.0.1:1080"
    assert found["QUICSOCKS_STATE"] == "/s"
    assert "QUICSOCKS_LINK" not in found
    assert "QUICSOCKS_PASSWORD" not in found


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20))
def test_a_shell_reads_back_what_was_written(value: str) -> None:
    variables = {"ALL_PROXY": value, "NO_PROXY": f"x{value}"}
    script = export_lines(variables) + '\nprintf "%s\\0%s" "$ALL_PROXY" "$NO_PROXY"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, env={"PATH": "/bin:/usr/bin"})
    assert done.stdout.decode().split("\0") == [value, f"x{value}"]


def test_unset() -> None:
    script = f"{export_lines(proxy_variables(ADDRESS))}\n{unset_lines()}\nenv | grep -ci _proxy"
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False, env={"PATH": "/bin:/usr/bin"}
    )
    assert done.stdout == "0\n"


def test_fish_lines() -> None:
    lines = export_lines({"A": "plain:1", "B": "it's a \\ *"}, "fish").splitlines()
    assert lines == ["set -gx A plain:1", r"set -gx B 'it\'s a \\ *'"]
    assert unset_lines("fish").splitlines()[0] == "set -e ALL_PROXY"


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_reads_back_what_was_written() -> None:
    value = 'it\'s a \\ $HOME (ls) * "q"'
    script = export_lines({"ALL_PROXY": value}, "fish") + '\nprintf "%s" "$ALL_PROXY"'
    done = subprocess.run(["fish", "-N", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == value
