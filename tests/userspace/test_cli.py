"""The command line as a user sees it: what is printed where, exit codes, and one line for each mistake."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace import __version__
from quicsocks.userspace.cli import main
from quicsocks.userspace.cli import parser as command_line
from quicsocks.userspace.cli.parser import COMMANDS, build_parser
from quicsocks.userspace.enrolment import Registry
from quicsocks.userspace.link import Link, base64url, parse
from quicsocks.userspace.profiles import LinkStore
from quicsocks.userspace.settings import ClientSettings, ConcentratorSettings
from quicsocks.userspace.state import StateFolder
from quicsocks.userspace.status import Handler, StatusServer, socket_path

from .support import LINK, TOKEN, Terminal, mode

SECRET = base64url(TOKEN)


class Machine:
    """A home folder of its own, and what commands print there."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.monkeypatch = monkeypatch
        self.path = path
        self.runtime = path / "run" / "quicsocks"
        self.state = path / ".local/state/quicsocks"
        for name in list(os.environ):
            if name.startswith(("QUICSOCKS_", "XDG_")) or name in (
                "STATE_DIRECTORY",
                "RUNTIME_DIRECTORY",
                "SSLKEYLOGFILE",
                "QLOGDIR",
            ):
                monkeypatch.delenv(name)
        (path / "run").mkdir(mode=0o700)
        monkeypatch.setenv("HOME", str(path))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(path / "run"))

    def __call__(self, *words: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        code = main(list(words))
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def says(self, *words: str, stdin: str | None = None) -> str:
        """The one line of a command that succeeds."""
        code, out, err = self(*words, stdin=stdin)
        assert code == 0, err
        return out.rstrip("\n")

    def refuses(self, *words: str, stdin: str | None = None, code: int = 2) -> str:
        """The one line of a command that fails, without its beginning."""
        got, out, err = self(*words, stdin=stdin)
        assert (got, out) == (code, ""), err
        assert err.count("\n") == 1
        assert SECRET not in err
        return err.removeprefix("quicsocks: ").rstrip("\n")

    def private(self, name: str, text: str) -> str:
        path = self.path / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    return Machine(tmp_path, monkeypatch, capsys)


@pytest.fixture
def programs(machine: Machine) -> dict[str, Any]:
    """The long-lived programs replaced: what they were started with, and what they return."""
    seen: dict[str, Any] = {"code": 0}

    async def run(settings: Any) -> int:
        seen["settings"] = settings
        seen["loop"] = type(asyncio.get_running_loop()).__module__
        if isinstance(seen["code"], BaseException):
            raise seen["code"]
        return int(seen["code"])

    for name, function in (("client", "run_client"), ("concentrator", "run_concentrator")):
        module = types.ModuleType(f"quicsocks.userspace.{name}")
        setattr(module, function, run)
        machine.monkeypatch.setitem(sys.modules, module.__name__, module)
    # Logging is set up for the process, which here is the tests'.
    machine.monkeypatch.setattr("quicsocks.userspace.cli.program.route_library_logs", lambda events: None)
    return seen


@pytest.fixture
def running(machine: Machine) -> Iterator[Callable[[str, dict[str, Handler]], None]]:
    """Starts control sockets in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[StatusServer] = []

    def start(name: str, handlers: dict[str, Handler]) -> None:
        server = StatusServer(socket_path(machine.runtime, name), handlers)
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        servers.append(server)

    yield start
    for server in servers:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


# Help and usage.


def every_parser() -> list[Any]:
    found = [build_parser()]
    for parser in found:
        for action in parser._actions:
            if hasattr(action, "choices") and isinstance(action.choices, dict):
                found.extend(action.choices.values())
    return found


@pytest.mark.parametrize("parser", every_parser(), ids=lambda parser: parser.prog)
def test_every_help_is_short_and_has_an_example(parser: Any) -> None:
    text = parser.format_help()
    assert "\nexample: " in text
    assert len(text.splitlines()) <= 60


@pytest.mark.parametrize("words", ["run", "concentrator", "status", "env", "link list", "client list"])
def test_the_folders_are_flags_of_every_command_that_looks_into_one(words: str) -> None:
    parsed = command_line.parse(build_parser(), [*words.split(), "--state", "s", "--runtime", "r"])
    assert (parsed.state, parsed.runtime) == ("s", "r")


def test_long_forms_of_the_short_flags() -> None:
    assert command_line.parse(build_parser(), ["run", "--verbose", "-v"])._more == 2
    assert command_line.parse(build_parser(), ["concentrator", "--quiet"])._less == 1


def test_all_commands_are_there() -> None:
    text = build_parser().format_help()
    for command in COMMANDS:
        assert f" {command} " in text or f" {command}\n" in text


def test_no_flag_takes_a_secret() -> None:
    for parser in every_parser():
        for action in parser._actions:
            for option in action.option_strings:
                assert option not in ("--link", "--password", "--token", "--secret")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no command is given; the first ones to know are run, concentrator and link add; see: quicsocks --help"),
        (["run", "--lisen", "1"], "quicsocks run has no flag --lisen; did you mean --listen?"),
        (["run", "--zzz=secret"], "quicsocks run has no flag --zzz; see: quicsocks run --help"),
        (["link", "list", "x"], "there is one word too many: x; see: quicsocks link list --help"),
        (["link"], "say what to do with links: add, list or remove; see: quicsocks link --help"),
        (["client"], "say what to do with clients: add, list, revoke or link; see: quicsocks client --help"),
        (["run", "--listen"], "argument --listen: expected one argument; see: quicsocks run --help"),
        (["lnk", "add"], "quicsocks has no command lnk; did you mean link?"),
        (["client", "remoke", "x"], "quicsocks client has no command remoke; did you mean revoke?"),
        (["link", "zzz"], "quicsocks link has no command zzz; there are: add, list, remove"),
        (["check", "a", "-c", "b"], "the file is named twice; name it once: quicsocks check FILE"),
        (["run", "--"], "there is no command after --; e.g.: quicsocks run -- curl http://example.com/"),
        (["status", "--", "x"], "only 'quicsocks run' takes a command after --"),
        (
            ["client", "add", "x", "--expires", "soon"],
            "--expires: must be a time such as 90, 1.5s or 2h4min, not 'soon'",
        ),
        (["client", "add", "x", "--expires", "2000d"], "--expires: must be from 1 second to 366 days"),
        (
            ["client", "add", "x", "--rate", "fast"],
            "--rate: must be a number of bytes such as 65536, 64k or 10M, not 'fast'",
        ),
        (["client", "add", "x", "--max-flows", "0"], "--max-flows: must be 1 or more"),
        (["check"], "there is no configuration file; name one: quicsocks check FILE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(machine: Machine, words: list[str], line: str) -> None:
    expected = 125 if words[:1] == ["run"] and "--" in words else 2
    assert machine.refuses(*words, code=expected) == line


def test_version(machine: Machine) -> None:
    assert machine.says("version") == f"quicsocks {__version__}"
    assert machine.says("--version") == f"quicsocks {__version__}"
    long = machine.says("version", "-v")
    assert "aioquic 1.7.2" in long
    assert "OpenSSL" in long


def test_as_a_module(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "quicsocks.userspace", "version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"quicsocks {__version__}\n", "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -P -m quicsocks.userspace completion bash | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_internal_errors_are_one_line_too(machine: Machine, programs: dict[str, Any]) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    programs["code"] = KeyError("oops")
    _, _, err = machine("run")
    assert err == "quicsocks: internal error (KeyError: 'oops'); run with -vv for more\n"
    with pytest.raises(KeyError):
        main(["run", "-vv"])
    programs["code"] = ValueError(f"leak {LINK.uri}")
    assert SECRET not in machine("run")[2]


# link.


def test_links_are_saved_from_stdin_privately(machine: Machine) -> None:
    code, out, err = machine("link", "add", "home", stdin=LINK.uri + "\n")
    assert (code, out) == (0, "")
    assert err == "quicsocks: saved home (gw.example.com:4433); now: quicsocks run home\n"
    assert mode(LinkStore(machine.state).path("home")) == 0o600
    assert LinkStore(machine.state).load("home") == LINK
    assert "replaced home" in machine("link", "add", "home", stdin=LINK.uri)[2]


def test_a_link_brings_its_own_name(machine: Machine) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    assert machine.says("link", "list", "--names") == "home"
    assert machine.refuses("link", "add", stdin=Link(host="h").uri, code=2).startswith(
        "the link has no name of its own"
    )


def test_links_from_a_file(machine: Machine) -> None:
    path = machine.private("l", LINK.uri)
    machine.says("link", "add", "a", "--file", path)
    machine.says("link", "add", "b", "--file", "-", stdin=LINK.uri)
    assert machine.says("link", "list", "--names").split() == ["a", "b"]
    os.chmod(path, 0o644)
    assert machine.refuses("link", "add", "a", "--file", path, code=1).endswith(f"chmod 600 {path}")
    assert machine.refuses("link", "add", "a", "--file", "/none", code=1) == "there is no file /none"


def test_a_link_as_an_argument_is_taken_with_a_warning(machine: Machine) -> None:
    code, _, err = machine("link", "add", LINK.uri)
    assert code == 0
    assert "other users can see a link on the command line" in err
    assert SECRET not in err


def test_bad_links(machine: Machine) -> None:
    assert machine.refuses("link", "add", "x", stdin="", code=1).startswith("bad link: it is empty")
    assert machine.refuses("link", "add", "x", stdin="hello", code=1) == "bad link: it must begin with quicsocks://"
    assert machine.refuses("link", "add", "a/b", stdin=LINK.uri).startswith("'a/b' cannot be a name")
    assert not machine.state.exists()


def test_listing_shows_no_secret(machine: Machine) -> None:
    assert "no link is saved" in machine("link", "list")[2]
    machine.says("link", "add", stdin=LINK.uri)
    machine.says("link", "add", "bare", stdin="quicsocks://h/?alpn=qt")
    text = machine.says("link", "list")
    assert text.splitlines() == ["bare  h:4433  certificate authority  qt", "home  gw.example.com:4433  pinned"]
    rows = json.loads(machine.says("link", "list", "--json"))
    assert [(row["name"], row["token"]) for row in rows] == [("bare", False), ("home", True)]
    assert SECRET not in text + json.dumps(rows)


def test_removing(machine: Machine) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    assert machine.refuses("link", "remove", "hom", code=1) == "there is no saved link hom (home)"
    machine.says("link", "remove", "home")
    assert machine.says("link", "list", "--names") == ""


def at_the_prompt(state: Path, typed: bytes) -> tuple[int, bytes]:
    """Type something at the prompt of ``link add home``: its exit code, and what the terminal has shown."""
    terminal, theirs = pty.openpty()
    # setsid: getpass asks the controlling terminal.
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-P", "-m", "quicsocks.userspace", "link", "add", "home"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "HOME": str(state), "XDG_STATE_HOME": str(state)},
    )
    os.close(theirs)
    shown = b""
    while b"link (not shown):" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, typed)
    try:
        while piece := os.read(terminal, 1000):
            shown += piece
    except OSError:
        pass  # how a terminal says that the last process has closed it
    os.close(terminal)
    return process.wait(10), shown


def test_the_prompt_does_not_echo(tmp_path: Path) -> None:
    code, shown = at_the_prompt(tmp_path / "state", LINK.uri.encode() + b"\n")
    assert code == 0
    assert b"saved home" in shown
    assert SECRET.encode() not in shown
    assert LinkStore(tmp_path / "state/quicsocks").load("home") == LINK


def test_control_c_at_the_prompt_leaves_the_line(tmp_path: Path) -> None:
    code, shown = at_the_prompt(tmp_path / "state", b"\x03")
    assert code == 130
    assert shown.endswith(b"link (not shown): \r\n")


# client.


def test_inviting_and_listing(machine: Machine) -> None:
    code, out, err = machine("client", "add", "laptop", "--public-name", "gw.example.com:443", "--print-link")
    link = parse(out)
    assert code == 0
    assert (link.host, link.port, link.name, len(link.token), len(link.pins)) == (
        "gw.example.com",
        443,
        "laptop",
        32,
        1,
    )
    assert base64url(link.token) not in err
    assert machine.says("client", "list").startswith("laptop  invited  link valid for 6 d 23 h")
    authorised = Registry(StateFolder(machine.state)).authorise(b"key", link.token, "me", 0)
    assert authorised.name == "laptop"
    assert "laptop  enrolled  as me  last seen" in machine.says("client", "list")
    (row,) = json.loads(machine.says("client", "list", "--json"))
    assert (row["state"], row["label"], row["link_expires"]) == ("enrolled", "me", None)


def test_revoking_removes_the_link_that_was_to_be_given(machine: Machine) -> None:
    _, out, _ = machine("client", "add", "laptop")
    assert machine("client", "revoke", "laptop")[0] == 0
    assert not Path(out.strip()).exists()


def test_without_a_terminal_the_link_goes_to_a_file(machine: Machine) -> None:
    _, out, err = machine("client", "add", "laptop")
    path = Path(out.strip())
    assert mode(path) == 0o600
    assert parse(path.read_text()).name == "laptop"
    assert str(path) in err


def test_to_a_terminal_the_link_is_printed(machine: Machine) -> None:
    terminal = Terminal()
    machine.monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["client", "add", "laptop", "--public-name", "h"]) == 0
    assert parse(terminal.getvalue()).name == "laptop"


def test_limits_and_expiry_of_a_client(machine: Machine) -> None:
    machine.says("client", "add", "x", "--max-flows", "5", "--rate", "10k", "--expires", "1h", "--print-link")
    (row,) = json.loads(machine.says("client", "list", "--json"))
    assert row["limits"] == {"max_flows": 5, "max_pending": 0, "bytes_per_second": 10240}
    assert 3590 < row["link_expires"] - row["created"] <= 3600


def test_client_errors(machine: Machine) -> None:
    assert "there are no clients yet" in machine("client", "list")[2]
    machine.says("client", "add", "a", "--print-link")
    assert machine.refuses("client", "add", "a", code=1).startswith("there is a client a already")
    assert machine.refuses("client", "revoke", "b", code=1) == "there is no client 'b'; the clients are: a"
    assert machine.refuses("client", "link", "b", code=1) == "there is no client 'b'; the clients are: a"
    machine.state.joinpath("clients.json").chmod(0o644)
    assert machine.refuses("client", "list", code=1).endswith("clients.json")


def test_a_new_link_retires_the_old(machine: Machine) -> None:
    old = parse(machine.says("client", "add", "a", "--print-link"))
    new = parse(machine.says("client", "link", "a", "--print-link"))
    assert old.token != new.token
    assert old.pins == new.pins


def test_the_running_concentrator_is_told(machine: Machine, running: Callable[[str, dict[str, Handler]], None]) -> None:
    told: list[Any] = []

    def changed(request: dict[str, Any]) -> dict[str, Any]:
        told.append(request)
        return {"ended": 2}

    running("concentrator", {
        "clients-changed": changed,
        "status": lambda request: {"role": "concentrator", "listeners": ["192.0.2.5:9999"]},
    })  # fmt: skip
    link = parse(machine.says("client", "add", "a", "--print-link"))
    assert (link.host, link.port) == ("192.0.2.5", 9999)
    assert machine("client", "revoke", "a")[2] == "quicsocks: a is revoked; 2 connections ended\n"
    assert len(told) == 2


def test_revoking_without_a_running_concentrator(machine: Machine) -> None:
    machine.says("client", "add", "a", "--print-link")
    assert machine("client", "revoke", "a")[2] == "quicsocks: a is revoked; no concentrator is running here\n"


# run and concentrator.


def test_run(machine: Machine, programs: dict[str, Any]) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    programs["code"] = 3
    code, out, err = machine("run", "home", "--listen", "1099", "--block", "a", "--direct", "b", "--once", "-v", "-v")
    settings = programs["settings"]
    assert (code, out, err) == (3, "", "")
    assert isinstance(settings, ClientSettings)
    assert (settings.link, settings.listen_tcp, settings.once) == (LINK, (("127.0.0.1", 1099),), True)
    assert [(rule.action, rule.pattern) for rule in settings.rules] == [("block", "a"), ("direct", "b")]
    assert settings.output.verbosity == 2
    assert settings.command is None
    assert programs["loop"] == "uvloop"


def test_run_on_asyncio(machine: Machine, programs: dict[str, Any]) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    machine.says("run", "-q", "--event-loop", "asyncio", "--log-format", "json", "--no-once")
    assert programs["loop"].startswith("asyncio")
    assert programs["settings"].output.verbosity == -1
    assert not programs["settings"].once


def test_run_a_command(machine: Machine, programs: dict[str, Any]) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    programs["code"] = 7
    assert machine("run", "--", "git", "clone", "--depth", "1", "--", "x")[0] == 7
    assert programs["settings"].command == ("git", "clone", "--depth", "1", "--", "x")
    assert programs["settings"].listen_tcp == (("127.0.0.1", 0),)


def test_our_failures_around_a_command_are_125(machine: Machine, programs: dict[str, Any]) -> None:
    assert machine.refuses("run", "--", "true", code=125).startswith("no exit is known")
    assert machine.refuses("run", "--nope", "--", "true", code=125).startswith("quicsocks run has no flag --nope")
    assert machine.refuses("run", "--", code=125).startswith("there is no command after --")
    assert "settings" not in programs


def test_run_with_a_link_says_that_it_can_be_seen(machine: Machine, programs: dict[str, Any]) -> None:
    _, _, err = machine("run", LINK.uri)
    assert err.count("\n") == 1
    assert "other users can see a link on the command line" in err
    assert SECRET not in err
    assert programs["settings"].link == LINK


def test_run_with_a_link_from_stdin(machine: Machine, programs: dict[str, Any]) -> None:
    assert machine("run", "-", stdin=LINK.uri + "\n") == (0, "", "")
    assert programs["settings"].link == LINK


def test_config_errors_exit_with_2_and_a_line_each(machine: Machine, programs: dict[str, Any]) -> None:
    machine.says("link", "add", stdin=LINK.uri)
    path = machine.private("c.toml", "version = 1\nlog_fromat = 1\n[client]\nonze = 1\n")
    code, _, err = machine("run", "-c", path)
    assert code == 2
    assert err.splitlines() == [
        f"quicsocks: {path}:2: unknown key log_fromat; did you mean log_format?",
        f"quicsocks: {path}:4: unknown key onze in [client]; did you mean once?",
    ]


def test_concentrator(machine: Machine, programs: dict[str, Any]) -> None:
    words = [
        "--listen",
        "4444",
        "--listen",
        "127.0.0.1:4445",
        "--deny",
        "a:1-2",
        "--allow",
        "10.0.0.0/8",
        "--limit-sessions",
        "9",
    ]
    code, _, _ = machine("concentrator", *words, "--drain", "2s", "--allow-qt")
    settings = programs["settings"]
    assert code == 0
    assert isinstance(settings, ConcentratorSettings)
    assert settings.listen == (("::", 4444), ("127.0.0.1", 4445))
    assert [(rule.action, rule.pattern) for rule in settings.rules] == [("deny", "a:1-2"), ("allow", "10.0.0.0/8")]
    assert (settings.drain, settings.allow_qt, settings.limits.sessions) == (2.0, True, 9)


def test_interrupt_is_130(machine: Machine, programs: dict[str, Any]) -> None:
    programs["code"] = KeyboardInterrupt()
    assert machine("concentrator")[0] == 130


# check, env, status, completion.


def test_check(machine: Machine) -> None:
    good = machine.private("good.toml", "version = 1\n[client]\nonce = true\n")
    assert machine.says("check", good) == f"{good}: ok"
    bad = machine.private("bad.toml", "version = 1\n[client]\nonce = 5\n")
    assert machine.refuses("check", bad, code=1) == f"{bad}:3: once: must be true or false, not a number"
    machine.monkeypatch.setenv("QUICSOCKS_CONFIG", good)
    assert machine.says("check") == f"{good}: ok"


def test_env(machine: Machine, running: Callable[[str, dict[str, Handler]], None]) -> None:
    _, out, err = machine("env")
    assert "export ALL_PROXY=socks5h://127.0.0.1:1080" in out
    assert "no client with a TCP listener is running" in err
    running("home", {"status": lambda request: {
        "role": "client", "listeners": ["unix:/run/x", "ss://127.0.0.1:1", "0.0.0.0:1099"], "login_required": True,
    }})  # fmt: skip
    _, out, err = machine("env", "--no-proxy", "*.lan", "--shell", "fish")
    assert "set -gx ALL_PROXY socks5h://127.0.0.1:1099" in out
    assert "set -gx NO_PROXY 'localhost,127.0.0.1,::1,*.lan'" in out
    assert "asks for a user name and password" in err
    assert machine.says("env", "--unset").startswith("unset ALL_PROXY all_proxy")


def test_status(machine: Machine, running: Callable[[str, dict[str, Handler]], None]) -> None:
    assert machine.refuses("status", code=1).startswith("nothing is running here")
    assert machine("status", "--check") == (1, "", "")
    connected = {"role": "client", "name": "home", "connected": True, "connected_to": "h:1", "flows": 2}
    running("home", {"status": lambda request: connected})
    assert machine.says("status").splitlines()[0] == "client home: connected to h:1"
    assert json.loads(machine.says("status", "--json")) == {"instance": "home", **connected}
    assert machine("status", "--check") == (0, "", "")
    running(
        "office",
        {"status": lambda request: {"role": "client", "name": "office", "connected": False, "reason": "no answer"}},
    )
    assert [one["name"] for one in json.loads(machine.says("status", "--json"))] == ["home", "office"]
    assert machine("status", "--check") == (1, "", "")
    assert machine("status", "home", "--check") == (0, "", "")
    assert "client office: not connected: no answer" in machine.says("status", "office")
    line = machine.refuses("status", "nobody", code=1)
    assert line == f"no process nobody is running here (sockets in {machine.runtime}: home, office)"


def test_completion(machine: Machine) -> None:
    assert machine.says("completion", "bash").startswith("# bash completion")
    assert "invalid choice: 'tcsh'" in machine.refuses("completion", "tcsh")
