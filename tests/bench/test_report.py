"""The benchmark's own code around the load: processes, medians, tables, verdicts, the command line."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as entry
from bench import report
from bench.cases import CASES, QUICK
from bench.emulator import EmulatorUnavailable
from bench.peers.base import Peer, Place, Running
from bench.peers.plain import Direct
from bench.processes import Program, StartError, free_port, tree_usage
from bench.runner import OUT_OF_TIME, Plan, Runner, combined

BULK = {"mb_per_s": 20.0, "cpu_s_per_gb": 100.0, "mb": 60.0, "seconds": 3.0}
RESULT: dict[str, Any] = {
    "version": 1,
    "when": "2026-01-02T03:04:05+00:00",
    "machine": {"processor": "a processor", "cores": 2, "kernel": "6.1", "python": "3.11.7"},
    "quick": False,
    "repeat": 1,
    "seconds": 12.0,
    "foreign_cpu_share": 0.25,
    "stolen_cpu_share": 0.0,
    "path": {"delay_ms": 50.0, "loss": 0.005, "rate_mbit_per_s": 100.0, "tcp": "bbr", "ceiling_mbit_per_s": 900.0},
    "peers": {
        "quicsocks": {
            "label": "quicsocks",
            "note": None,
            "skipped": None,
            "cases": {
                "down": {**BULK, "mb_per_s": 17.0},
                "up": {**BULK, "mb_per_s": 16.0},
                "connections": {"requests_per_s": 812.0, "failures": 0},
                "memory": {"idle_mb": {"client": 41.0, "server": 40.0}, "open_flows": 1000, "kb_per_flow": 20.0},
                "trips": {"reply_ms": 101.0, "first_byte_ms": 101.0, "total_ms": 203.0, "http_total_ms": 103.0},
            },
        },
        "aioquic": {"label": "bare aioquic", "note": None, "skipped": None, "cases": {"down": BULK, "up": BULK}},
        "ssh": {"label": "ssh -D", "note": "a note", "skipped": None, "cases": {"down": {"failed": "it broke"}}},
        "direct": {"label": "direct", "note": None, "skipped": None, "cases": {"down": {"skipped": OUT_OF_TIME}}},
        "gone": {"label": "gone", "note": None, "skipped": "gone is not installed", "cases": {}},
    },
}


# --- processes --------------------------------------------------------------------------------------------------------


def test_the_usage_of_a_program_includes_its_children(tmp_path: Path) -> None:
    child = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=False)"
    program = Program("parent", [sys.executable, "-c", parent], tmp_path, lines=True)
    try:
        program.stdout.readline()
        living = program.usage()
        assert living.cpu >= 0.2
        assert living.rss > 10_000_000  # two interpreters
    finally:
        program.stop()
    assert tree_usage(program.pid).rss == 0


def test_a_program_that_ends_or_never_listens_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    port = free_port()
    ended = Program("ended", [sys.executable, "-c", "raise SystemExit('the reason')"], tmp_path)
    with pytest.raises(StartError, match="ended with status 1: the reason"):
        ended.wait_listening(port)
    ended.stop()
    silent = Program("silent", [sys.executable, "-c", "import threading; threading.Event().wait()"], tmp_path)
    with pytest.raises(StartError, match=f"does not listen on tcp port {port}"):
        silent.wait_listening(port, timeout=0.1)
    silent.stop()
    with pytest.raises(StartError, match="there is no program /nonexistent"):
        Program("none", ["/nonexistent"], tmp_path)


# --- tables and verdicts ----------------------------------------------------------------------------------------------


def test_the_tables_hold_figures_and_reasons() -> None:
    text = report.markdown(RESULT)
    row = next(line for line in text.splitlines() if line.startswith("| quicsocks") and "17.0" in line)
    assert "16.0" in row
    assert "| failed |" in text
    for said in ("gone: skipped: gone is not installed", "ssh -D: failed: it broke", "ssh -D: a note", "25 %"):
        assert said in text
    assert f"direct: down skipped: {OUT_OF_TIME}" in text
    assert "1.01" in text  # 101 ms of a round trip of 100
    assert "MISSED" not in text


def test_verdicts_follow_the_figures() -> None:
    assert all(verdict.met for verdict in report.verdicts(RESULT))
    worse = copy.deepcopy(RESULT)
    cases = worse["peers"]["quicsocks"]["cases"]
    cases["up"]["mb_per_s"] = 15.9
    cases["connections"]["requests_per_s"] = 499.0
    cases["memory"]["idle_mb"]["server"] = 60.0
    cases["memory"]["open_flows"] = 999
    cases["trips"] = {"reply_ms": 201.0, "first_byte_ms": 201.0, "http_total_ms": 201.0, "total_ms": 402.0}
    assert [verdict.met for verdict in report.verdicts(worse)] == [False] * 7
    assert report.markdown(worse).count("MISSED") == 7
    worse["peers"]["quicsocks"]["cases"] = {}
    assert [verdict.met for verdict in report.verdicts(worse)] == [None] * 7


def test_a_quick_run_says_nothing_about_a_thousand_flows() -> None:
    quick = {**RESULT, "quick": True}
    assert [verdict.met for verdict in report.verdicts(quick)].count(None) == 1


def test_rounds_become_medians_and_failures_stay_only_when_all_failed() -> None:
    rounds: list[dict[str, Any]] = [
        {"mb_per_s": 1.0, "cpu_s_per_gb": None, "idle_mb": {"client": 1.0}},
        {"failed": "once"},
        {"mb_per_s": 9.0, "cpu_s_per_gb": None, "idle_mb": {"client": 3.0}},
        {"mb_per_s": 2.0, "cpu_s_per_gb": None, "idle_mb": {"client": 2.0}},
    ]
    assert combined(rounds) == {"mb_per_s": 2.0, "cpu_s_per_gb": None, "idle_mb": {"client": 2.0}}
    assert combined([{"failed": "once"}, {"failed": "twice"}]) == {"failed": "twice"}


def test_the_picture_is_drawn_even_with_nothing_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for number, result in enumerate((RESULT, {**RESULT, "peers": {}})):
        path = tmp_path / f"{number}.png"
        report.draw(result, path)
        assert path.read_bytes().startswith(b"\x89PNG")


# --- a run ------------------------------------------------------------------------------------------------------------


class Broken(Peer):
    name = "broken"
    label = "broken"

    def start(self, place: Place, folder: Path) -> Running:
        raise StartError("broken does not start")


def test_a_peer_that_fails_costs_only_its_own_figures() -> None:
    down = [case for case in CASES if case.name == "down"]
    said: list[str] = []
    plan = Plan([Broken(), Direct()], down, QUICK, quick=True, repeat=1, budget=60.0)
    peers = Runner(plan, said.append).run()["peers"]
    assert peers["broken"]["cases"]["down"] == {"failed": "broken does not start"}
    assert peers["direct"]["cases"]["down"]["mb_per_s"] > 0
    assert "broken: failed: broken does not start" in said


def test_when_time_is_up_the_rest_is_skipped_and_says_so() -> None:
    plan = Plan([Direct()], CASES[:3], QUICK, quick=True, repeat=1, budget=0.0)
    cases = Runner(plan, lambda line: None).run()["peers"]["direct"]["cases"]
    assert list(cases.values()) == [{"skipped": OUT_OF_TIME}] * 3


def test_without_an_emulator_the_path_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seconds: float) -> float:
        raise EmulatorUnavailable("no devices today")

    monkeypatch.setattr("bench.runner.unavailable", lambda: None)
    monkeypatch.setattr("bench.runner.measure_ceiling", refuse)
    path = [case for case in CASES if case.on_path]
    result = Runner(Plan([Direct()], path, QUICK, quick=True, repeat=1, budget=60.0), lambda line: None).run()
    assert result["path"] == {"skipped": "no devices today"}
    assert "Emulated path: skipped: no devices today." in report.markdown(result)


def test_the_entry_writes_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert entry.main(["--quick", "--peers", "direct,hop", "--cases", "latency,memory", "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["peers"]["hop"]["cases"]["memory"]["open_flows"] == QUICK.idle_flows
    assert "latency" in result["peers"]["direct"]["cases"]
    printed = capsys.readouterr().out
    assert (out / "result.md").read_text() in printed
    assert entry.main(["--show", str(out / "result.json")]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "direct,nobody"], "no peer nobody: there are direct"),
        (["--cases", "sideways"], "no case sideways: there are down"),
        (["--repeat", "0"], "give 1 or more"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        entry.main(arguments)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--show", str(tmp_path / "none.json")]) == 1
    assert "cannot read" in capsys.readouterr().err
