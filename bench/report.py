"""The result of a run for people: tables in Markdown, the targets with what was measured, and a picture.

Takes what ``Runner.run`` returns, which is also what the JSON file holds, and nothing else: an old file gives the same
tables again. It must not measure, and must not round anything before it is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.runner import OUT_OF_TIME

Result = dict[str, Any]

BULK = ("down", "up", "down16")

# The targets that this project has set itself for the unmodified aioquic underneath.
TARGET_SHARE_OF_AIOQUIC = 0.8
TARGET_REQUESTS_PER_S = 500
TARGET_IDLE_MB = 60
TARGET_OPEN_FLOWS = 1000
# A round trip of the path and a few milliseconds of work are still one round trip; half a trip more is another one.
TRIP_TOLERANCE = 1.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target. met: None when it could not be measured. measured: for people."""

    target: str
    measured: str
    met: bool | None


def markdown(result: Result) -> str:
    """All tables, for a terminal and for a document."""
    machine = result["machine"]
    kind = "quick, " if result["quick"] else ""
    lines = [
        f"{machine['cores']} cores of {machine['processor']}, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{kind}{result['seconds']:.0f} s, median of {result['repeat']}; "
        f"of the processors' time, other programs had {result['foreign_cpu_share'] * 100:.0f} % "
        f"and other machines on the same host {result['stolen_cpu_share'] * 100:.0f} %.",
        "",
    ]
    peers = {name: peer for name, peer in result["peers"].items() if peer["skipped"] is None}
    lines += _table(
        "Moving bytes (MB/s and CPU seconds per GB of all the system's processes)",
        peers,
        BULK,
        [
            ("down MB/s", lambda cases: _number(cases, "down", "mb_per_s")),
            ("CPU s/GB", lambda cases: _number(cases, "down", "cpu_s_per_gb")),
            ("up MB/s", lambda cases: _number(cases, "up", "mb_per_s")),
            ("CPU s/GB", lambda cases: _number(cases, "up", "cpu_s_per_gb")),
            ("16 down MB/s", lambda cases: _number(cases, "down16", "mb_per_s")),
            ("CPU s/GB", lambda cases: _number(cases, "down16", "cpu_s_per_gb")),
            ("Jain", lambda cases: _number(cases, "down16", "jain")),
        ],
    )
    lines += _table(
        "New connections (1 kB each, 32 at once) and time to first byte (one at a time)",
        peers,
        ("connections", "latency"),
        [
            ("requests/s", lambda cases: _number(cases, "connections", "requests_per_s")),
            ("CPU ms each", lambda cases: _number(cases, "connections", "cpu_ms_per_request")),
            ("p50 ms", lambda cases: _number(cases, "connections", "p50_ms")),
            ("p99 ms", lambda cases: _number(cases, "connections", "p99_ms")),
            ("failed", lambda cases: _number(cases, "connections", "failures")),
            ("first byte p50 ms", lambda cases: _number(cases, "latency", "p50_ms")),
            ("p99 ms", lambda cases: _number(cases, "latency", "p99_ms")),
        ],
    )
    lines += _table(
        "Resident memory (MB: client + server, or the proxy alone)",
        peers,
        ("memory",),
        [
            ("idle", lambda cases: _roles(cases, "idle_mb")),
            ("with open idle flows", lambda cases: _roles(cases, "open_mb")),
            ("flows", lambda cases: _number(cases, "memory", "open_flows")),
            ("kB a flow", lambda cases: _number(cases, "memory", "kb_per_flow")),
        ],
    )
    lines += _path_table(result, peers)
    lines += _remarks(result)
    lines += ["", "Targets:", ""]
    for verdict in verdicts(result):
        word = {True: "met", False: "MISSED", None: "not measured"}[verdict.met]
        lines.append(f"- {verdict.target}: {word}{': ' + verdict.measured if verdict.measured else ''}")
    return "\n".join(lines) + "\n"


def _path_table(result: Result, peers: dict[str, Any]) -> list[str]:
    path = result["path"]
    if "skipped" in path:
        return [f"Emulated path: skipped: {path['skipped']}."]
    trip = 2 * path["delay_ms"]
    title = (
        f"Emulated path: {path['delay_ms']:.0f} ms each way, {path['loss'] * 100:.1f} % loss, "
        f"{path['rate_mbit_per_s']:.0f} Mbit/s (kernel's TCP: {path['tcp']}; "
        f"the emulator alone carries {path['ceiling_mbit_per_s']:.0f} Mbit/s). RTT = {trip:.0f} ms"
    )

    def trips(key: str) -> Callable[[Result], str]:
        def cell(cases: Result) -> str:
            value = cases.get("trips", {}).get(key)
            return f"{value / trip:.2f}" if value is not None else _number(cases, "trips", key)

        return cell

    return _table(
        title,
        peers,
        ("path", "trips"),
        [
            ("one flow Mbit/s", lambda cases: _number(cases, "path", "mb_per_s", 8)),
            ("second half", lambda cases: _number(cases, "path", "late_mb_per_s", 8)),
            ("request to reply, RTT", trips("reply_ms")),
            ("reply to first byte, RTT", trips("first_byte_ms")),
            ("connect to first byte, RTT", trips("total_ms")),
            ("plain HTTP in all, RTT", trips("http_total_ms")),
            ("largest packet, bytes", lambda cases: _number(cases, "path", "largest_packet_bytes")),
            ("emulator late, ms", lambda cases: _number(cases, "path", "emulator_late_ms")),
        ],
    )


def _remarks(result: Result) -> list[str]:
    remarks = []
    for peer in result["peers"].values():
        if peer["skipped"] is not None:
            remarks.append(f"- {peer['label']}: skipped: {peer['skipped']}")
            continue
        if peer["note"]:
            remarks.append(f"- {peer['label']}: {peer['note']}")
        seen = set()
        for figures in peer["cases"].values():
            if "failed" in figures and figures["failed"] not in seen:
                seen.add(figures["failed"])
                remarks.append(f"- {peer['label']}: failed: {figures['failed']}")
        late = [case for case, figures in peer["cases"].items() if figures.get("skipped") == OUT_OF_TIME]
        if late:
            remarks.append(f"- {peer['label']}: {', '.join(late)} skipped: {OUT_OF_TIME}")
    return ["Remarks:", "", *remarks] if remarks else []


def verdicts(result: Result) -> list[Verdict]:
    """Whether this project's own figures meet its targets."""
    ours = result["peers"].get("quicsocks", {}).get("cases", {})
    aioquic = result["peers"].get("aioquic", {}).get("cases", {})
    found = []

    shares = {
        case: ours[case]["mb_per_s"] / aioquic[case]["mb_per_s"]
        for case in ("down", "up")
        if "mb_per_s" in ours.get(case, {}) and "mb_per_s" in aioquic.get(case, {})
    }
    found.append(
        Verdict(
            f"one flow moves at least {TARGET_SHARE_OF_AIOQUIC * 100:.0f} % of what bare aioquic moves",
            ", ".join(
                f"{case} {share * 100:.0f} %{_cpu_ratio(ours[case], aioquic[case])}" for case, share in shares.items()
            ),
            min(shares.values()) >= TARGET_SHARE_OF_AIOQUIC if len(shares) == 2 else None,
        )
    )
    rate = ours.get("connections", {}).get("requests_per_s")
    found.append(
        Verdict(
            f"{TARGET_REQUESTS_PER_S} new connections a second",
            f"{rate:.0f}" if rate is not None else "",
            rate >= TARGET_REQUESTS_PER_S if rate is not None else None,
        )
    )
    idle = ours.get("memory", {}).get("idle_mb", {})
    found.append(
        Verdict(
            f"idle under {TARGET_IDLE_MB} MB each side",
            ", ".join(f"{role} {size:.1f} MB" for role, size in idle.items()),
            max(idle.values()) < TARGET_IDLE_MB if idle else None,
        )
    )
    flows = ours.get("memory", {}).get("open_flows")
    found.append(
        Verdict(
            f"{TARGET_OPEN_FLOWS} flows open at once",
            f"{flows:.0f}" if flows is not None else "",
            # A quick run opens fewer, which says nothing about this.
            flows >= TARGET_OPEN_FLOWS if flows is not None and not result["quick"] else None,
        )
    )
    trips = ours.get("trips", {})
    round_trip = 2 * result["path"].get("delay_ms", 0)
    for title, key in (
        ("one round trip from request to SOCKS reply", "reply_ms"),
        ("one more to the first byte", "first_byte_ms"),
        ("one in all for forwarded plain HTTP", "http_total_ms"),
    ):
        value = trips.get(key)
        found.append(
            Verdict(
                title,
                f"{value / round_trip:.2f}" if value is not None else "",
                value / round_trip <= TRIP_TOLERANCE if value is not None else None,
            )
        )
    return found


def _cpu_ratio(ours: Result, theirs: Result) -> str:
    if not ours.get("cpu_s_per_gb") or not theirs.get("cpu_s_per_gb"):
        return ""
    return f" for {ours['cpu_s_per_gb'] / theirs['cpu_s_per_gb'] * 100:.0f} % of its CPU time a byte"


def _table(
    title: str, peers: dict[str, Any], cases: Sequence[str], columns: Sequence[tuple[str, Callable[[Result], str]]]
) -> list[str]:
    rows = []
    for peer in peers.values():
        cells = [cell(peer["cases"]) for _, cell in columns]
        if any(case in peer["cases"] for case in cases) and any(cell != "-" for cell in cells):
            rows.append([peer["label"], *cells])
    if not rows:
        return []
    heads = ["", *(head for head, _ in columns)]
    widths = [max(len(row[index]) for row in [heads, *rows]) for index in range(len(heads))]
    lines = [f"**{title}**", "", _row(heads, widths)]
    lines.append(
        "|" + "|".join("-" * (width + 1) + (":" if index else "-") for index, width in enumerate(widths)) + "|"
    )
    lines += [_row(row, widths) for row in rows]
    return [*lines, ""]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def _number(cases: Result, case: str, key: str, factor: float = 1) -> str:
    figures = cases.get(case, {})
    if "failed" in figures:
        return "failed"
    value = figures.get(key)
    if value is None:
        return "-"
    value *= factor
    if value >= 100 or isinstance(value, int):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _roles(cases: Result, key: str) -> str:
    figures = cases.get("memory", {})
    if "failed" in figures:
        return "failed"
    sizes = figures.get(key)
    if not sizes:
        return "-"
    return " + ".join(f"{sizes[role]:.1f}" for role in ("client", "server", "proxy") if role in sizes)


def draw(result: Result, path: Path) -> None:
    """Draw the picture, a PNG. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels: list[tuple[str, str, str, float, bool]] = [
        ("One flow down, MB/s", "down", "mb_per_s", 1, True),
        ("One flow down, CPU s per GB", "down", "cpu_s_per_gb", 1, True),
        ("New connections per second", "connections", "requests_per_s", 1, False),
        ("Time to first byte, p50 ms", "latency", "p50_ms", 1, True),
        ("Memory a flow, kB", "memory", "kb_per_flow", 1, False),
        ("One flow on the emulated path, Mbit/s", "path", "mb_per_s", 8, False),
    ]
    figure, axes = pyplot.subplots(2, 3, figsize=(16, 8))
    for axis, (title, case, key, factor, logarithmic) in zip(axes.flat, panels, strict=True):
        bars = [
            (peer["label"], peer["cases"][case][key] * factor, name == "quicsocks")
            for name, peer in result["peers"].items()
            if peer["cases"].get(case, {}).get(key) is not None
        ][::-1]
        axis.set_title(title, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
        if not bars:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
            axis.set_xticks([])
            axis.set_yticks([])
            continue
        drawn = axis.barh(
            [label for label, _, _ in bars],
            [value for _, value, _ in bars],
            color=["#c44e1c" if ours else "#8496a9" for _, _, ours in bars],
        )
        if logarithmic:
            axis.set_xscale("log")
        axis.bar_label(
            drawn, fmt=lambda value: f"{value:.0f}" if value >= 100 else f"{value:.3g}", padding=3, fontsize=9
        )
        axis.margins(x=0.18)
    machine = result["machine"]
    figure.suptitle(f"{machine['cores']} cores of {machine['processor']}, {result['when'][:10]}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
