"""The service units: systemd accepts them, their exposure stays low, and what they say of the product is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quicsocks.userspace.cli.parser import build_parser, parse, split_command
from quicsocks.userspace.config_schema import CLIENT_SETTINGS, COMMON_SETTINGS, CONCENTRATOR_SETTINGS
from quicsocks.userspace.settings import ConcentratorSettings
from quicsocks.userspace.uplink import EXIT_REFUSED
from tests.contrib.units import CLIENT, CONCENTRATOR, CONTRIB, Unit, embedded_shell

UNITS = [pytest.param(CONCENTRATOR, id="concentrator"), pytest.param(CLIENT, id="client")]
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")


def analyze(tmp_path: Path, path: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on a copy whose program exists."""
    program = tmp_path / "quicsocks"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / path.name
    copy.write_text(re.sub(r"(?:%h/\.|/opt/)quicsocks/bin/quicsocks", str(program), text))
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        ["systemd-analyze", *words, str(copy)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_COLORS": "0"},
    )


def with_certificate(text: str) -> str:
    """The unit with its drop-in for a certificate of one's own put in."""
    lines = [
        line.removeprefix("#   ") for line in text.splitlines() if re.match(r"#   (LoadCredential|Environment)=", line)
    ]
    assert len(lines) == 3
    return text.replace("[Install]", "\n".join([*lines, "", "[Install]"]))


@needs_systemd
@pytest.mark.parametrize("path", UNITS)
def test_systemd_accepts_it(path: Path, tmp_path: Path) -> None:
    whose = ["--user"] if path == CLIENT else ["--system"]
    done = analyze(tmp_path, path, path.read_text(), *whose, "verify", "--man=no")
    assert (done.returncode, done.stderr.strip(), done.stdout.strip()) == (0, "", "")


@needs_systemd
def test_systemd_accepts_the_drop_in_for_a_certificate(tmp_path: Path) -> None:
    text = with_certificate(CONCENTRATOR.read_text())
    done = analyze(tmp_path, CONCENTRATOR, text, "--system", "verify", "--man=no")
    assert (done.returncode, done.stderr.strip()) == (0, "")


@needs_systemd
def test_systemd_would_have_found_a_mistake(tmp_path: Path) -> None:
    text = CONCENTRATOR.read_text().replace("PrivateTmp=yes", "PrivateTmq=yes")
    done = analyze(tmp_path, CONCENTRATOR, text, "--system", "verify", "--man=no")
    assert "PrivateTmq" in done.stderr


@needs_systemd
@pytest.mark.parametrize(("path", "most"), [(CONCENTRATOR, 15), (CLIENT, 65)], ids=["concentrator", "client"])
def test_its_exposure_is_low(path: Path, most: int, tmp_path: Path) -> None:
    """In tenths of systemd's score, where 0 is nothing and 100 everything. A user's manager can confine less."""
    done = analyze(tmp_path, path, path.read_text(), "security", "--offline=true", f"--threshold={most}", "--no-pager")
    assert done.returncode == 0, done.stdout


HARDENING = {
    "Type": "notify",
    "DynamicUser": "yes",
    "StateDirectory": "quicsocks",
    "RuntimeDirectory": "quicsocks",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "MemoryDenyWriteExecute": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "PrivateDevices": "yes",
    "LimitCORE": "0",
    "ExecReload": "/bin/kill -HUP $MAINPID",
}


@pytest.mark.parametrize(("name", "value"), HARDENING.items())
def test_the_concentrator_has_no_right_that_it_does_not_need(name: str, value: str) -> None:
    assert Unit.read(CONCENTRATOR).one(name) == value


@pytest.mark.parametrize("path", UNITS)
def test_its_program_takes_its_words(path: Path) -> None:
    argv = Unit.read(path).argv
    assert argv[0].endswith("/bin/quicsocks")
    arguments = parse(build_parser(), argv[1:])
    assert arguments.command_name == argv[1]


@pytest.mark.parametrize("path", UNITS)
def test_a_watchdog_a_reload_and_an_end_are_provided_for(path: Path) -> None:
    unit = Unit.read(path)
    assert int(unit.one("WatchdogSec")) >= 10
    assert unit.one("ExecReload") == "/bin/kill -HUP $MAINPID"
    # SIGKILL must not come before the drain is over.
    assert int(unit.one("TimeoutStopSec")) > ConcentratorSettings(Path(), Path()).drain + 5


def test_the_client_may_wait_for_a_network() -> None:
    """It is ready when it is connected, which may take a day."""
    assert Unit.read(CLIENT).one("TimeoutStartSec") == "infinity"


def test_a_refused_client_is_not_started_over_and_over() -> None:
    assert str(EXIT_REFUSED) in Unit.read(CLIENT).one("RestartPreventExitStatus").split()


def test_every_variable_that_is_named_exists() -> None:
    known = {setting.variable for setting in (*COMMON_SETTINGS, *CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS)}
    for path in CONTRIB.iterdir():
        if path.is_file():
            named = set(re.findall(r"\bQUICSOCKS_[A-Z_]*[A-Z]", path.read_text()))
            assert named <= known, path.name


@pytest.mark.parametrize("path", [*UNITS, pytest.param(CONTRIB / "Containerfile", id="container")])
def test_the_commands_in_its_comment_are_ours(path: Path) -> None:
    """Whatever stands behind our name in a command line is parsed; options of the other programs are theirs."""
    parser = build_parser()
    checked = 0
    for line in embedded_shell(path):
        found = re.search(r"(?:/bin/|^|[ ])quicsocks ((?:concentrator|run|link|client|status)\b.*)", line)
        if found:
            words, _ = split_command(found[1].split())
            assert parse(parser, words).handler is not None
            checked += 1
    assert checked
