"""The command of ``run -- COMMAND``: exit codes as env and docker have them, signals, the environment, the limit."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quicsocks.userspace import child, nofile
from quicsocks.userspace.child import CommandFailed, run_command

from .support import both_loops, run_on

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@both_loops
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 125", 125),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
    ],
)
def test_status(loop_factory: LoopFactory, script: str, code: int) -> None:
    assert run_on(loop_factory, run_command(["sh", "-c", script], os.environ)) == code


@both_loops
@pytest.mark.parametrize("name", ["no-such-command-anywhere", "/no/such/path", "no-exec", "folder", "bad-interpreter"])
def test_cannot_be_started(loop_factory: LoopFactory, tmp_path: Path, name: str) -> None:
    (tmp_path / "no-exec").write_text("#!/bin/sh\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad-interpreter").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bad-interpreter").chmod(0o755)
    argv = [str(tmp_path / name)] if (tmp_path / name).exists() else [name]
    with pytest.raises(CommandFailed) as caught:
        run_on(loop_factory, run_command(argv, os.environ))
    expected = 126 if name in ("no-exec", "folder") else 127
    assert caught.value.code == expected
    assert str(caught.value).startswith(f"cannot run {argv[0]}: ")
    assert "\n" not in str(caught.value)


@both_loops
def test_environment_is_the_given_one_and_decides_the_path(loop_factory: LoopFactory, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text('#!/bin/sh\nprintf "%s" "$MARK" > "$OUT"\n')
    (tmp_path / "mine").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/bin:/usr/bin", "MARK": "here", "OUT": str(tmp_path / "out")}
    assert run_on(loop_factory, run_command(["mine"], environ)) == 0
    assert (tmp_path / "out").read_text() == "here"


@both_loops
def test_cancelling_ends_the_command(loop_factory: LoopFactory, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    said = tmp_path / "said"

    async def program() -> None:
        argv = [sys.executable, "-c", WAITING, str(int(signal.SIGTERM)), str(tmp_path / "fifo"), str(said)]
        running = asyncio.create_task(run_command(argv, os.environ))
        assert await asyncio.to_thread((tmp_path / "fifo").read_text) == "up\n"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run_on(loop_factory, program())
    assert said.read_text() == "ended"


WAITING = """
import signal, sys
def end(*_):
    if len(sys.argv) > 3:
        open(sys.argv[3], "w").write("ended")
    sys.exit(42)
signal.signal(int(sys.argv[1]), end)
with open(sys.argv[2], "w") as out:
    print("up", file=out)
while True:
    signal.pause()
"""


@both_loops
def test_a_command_that_ignores_the_request_is_killed(
    loop_factory: LoopFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "KILL_AFTER", 0.05)

    async def program() -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        # The process that is killed is the one that ignores the signal: exec leaves no other.
        script = f"trap '' TERM; echo $$ > {fifo}; exec tail -f /dev/null"
        running = asyncio.create_task(run_command(["sh", "-c", script], os.environ))
        process_id = int(await asyncio.to_thread(fifo.read_text))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)

    run_on(loop_factory, program())


PROGRAM = """
import asyncio, os, sys
from quicsocks.userspace.child import run_command
if sys.argv[1] == "uvloop":
    import uvloop as loops
else:
    import asyncio as loops
with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
    sys.exit(runner.run(run_command(sys.argv[2:], os.environ)))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(loop: str, number: signal.Signals) -> None:
    # In a session of its own there is no terminal that would send SIGINT to both.
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, loop, sys.executable, "-c", WAITING, str(int(number)), "/dev/stdout"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(10) == 42


@both_loops
def test_the_command_gets_the_old_limit_on_descriptors(
    loop_factory: LoopFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nofile, "_original", 321)
    # The command waits for a line, so that the limit has been set when it looks.
    os.mkfifo(tmp_path / "go")

    async def program() -> int:
        script = f"read x < {tmp_path}/go; ulimit -Sn > {tmp_path}/out"
        running = asyncio.create_task(run_command([sys.executable, "-c", _SHELL, script], os.environ))
        await asyncio.to_thread((tmp_path / "go").write_text, "\n")
        return await running

    assert run_on(loop_factory, program()) == 0
    assert (tmp_path / "out").read_text() == "321\n"


_SHELL = "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[1]])"
