"""Completion scripts, as the shells themselves read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from quicsocks.userspace.cli.parser import build_parser
from quicsocks.userspace.completion import SHELLS, script

needs = {shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed") for shell in SHELLS}


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs[shell]) for shell in SHELLS])
def test_shells_accept_their_script(shell: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script(build_parser(), shell))
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_in_every_script(shell: str) -> None:
    text = script(build_parser(), shell)
    for word in (
        "concentrator",
        "run",
        "link",
        "client",
        "check",
        "env",
        "status",
        "qlog",
        "demo",
        "version",
        "completion",
        "revoke",
    ):
        assert word in text


def test_descriptions_keep_their_colons_and_semicolons() -> None:
    fish, zsh = (script(build_parser(), shell) for shell in ("fish", "zsh"))
    assert "-d 'UDP address:port, or port for all addresses; repeatable'" in fish
    assert r"'--listen:UDP address\:port, or port for all addresses; repeatable'" in zsh


@pytest.fixture
def fake_quicsocks(tmp_path: Path) -> dict[str, str]:
    """A command that knows two saved links."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/quicsocks").write_text('#!/bin/sh\n[ "$*" = "link list --names" ] && printf "home\\noffice\\n"\n')
    (tmp_path / "bin/quicsocks").chmod(0o755)
    return {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path)}


CASES = [
    ("ru", {"run"}, {"status"}),
    ("", {"run", "concentrator", "--help"}, {"--listen"}),
    ("run --lis", {"--listen"}, {"--limit-connections"}),
    ("run ho", {"home"}, {"office"}),
    ("link ", {"add", "list", "remove"}, {"revoke"}),
    ("link remove o", {"office"}, {"home"}),
    ("client re", {"revoke"}, {"run"}),
    ("completion f", {"fish"}, {"bash"}),
    ("run --log-format j", {"json"}, {"text"}),
    ("concentrator --allow-q", {"--allow-qt"}, {"--allow-open"}),
]


@needs["bash"]
@pytest.mark.parametrize(("typed", "offered", "absent"), CASES, ids=[typed or "nothing" for typed, _, _ in CASES])
def test_bash(typed: str, offered: set[str], absent: set[str], fake_quicsocks: dict[str, str]) -> None:
    words = ["quicsocks", *typed.split(" ")]
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script(build_parser(), 'bash')}\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _quicsocks; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env=fake_quicsocks)
    found = set(done.stdout.split())
    assert done.stderr == ""
    assert offered <= found
    assert not absent & found


@needs["bash"]
def test_bash_leaves_values_and_commands_alone(fake_quicsocks: dict[str, str]) -> None:
    program = (
        f"{script(build_parser(), 'bash')}\n"
        'COMP_WORDS=(quicsocks run --listen 1); COMP_CWORD=3; _quicsocks; echo "${#COMPREPLY[@]}"\n'
        "COMP_WORDS=(quicsocks run -- ech); COMP_CWORD=3; _quicsocks; printf '%s\\n' \"${COMPREPLY[@]}\" | grep -x echo\n"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env=fake_quicsocks)
    assert set(done.stdout.split()) == {"0", "echo"}


@needs["fish"]
@pytest.mark.parametrize(("typed", "offered", "absent"), CASES, ids=[typed or "nothing" for typed, _, _ in CASES])
def test_fish(typed: str, offered: set[str], absent: set[str], fake_quicsocks: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script(build_parser(), "fish"))
    # fish offers flags only once a dash is typed.
    offered = {word for word in offered if typed.endswith(word[:3]) or not word.startswith("-")}
    program = f"source {tmp_path}/script; complete -C 'quicsocks {typed}'"
    done = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, check=True, env=fake_quicsocks)
    found = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert offered <= found
    assert not absent & found


@needs["zsh"]
@pytest.mark.parametrize(("typed", "offered", "absent"), CASES, ids=[typed or "nothing" for typed, _, _ in CASES])
def test_zsh(typed: str, offered: set[str], absent: set[str], fake_quicsocks: dict[str, str], tmp_path: Path) -> None:
    del absent  # zsh filters what is offered by itself
    (tmp_path / "script").write_text(script(build_parser(), "zsh"))
    words = " ".join(f"'{word}'" for word in ["quicsocks", *typed.split(" ")])
    # The completion system is replaced by functions that show what they are given.
    program = (
        "compdef() { : }; _describe() { print -l -- ${found%%:*} }; compadd() { shift; print -l -- $@ }; _files() { : }\n"
        f"source {tmp_path}/script\nwords=({words}); CURRENT=$#words; _quicsocks"
    )
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=True, env=fake_quicsocks)
    assert done.stderr == ""
    assert offered <= set(done.stdout.split())
