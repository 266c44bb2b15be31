"""The text report: findings first, then the evidence.

80 columns when it is piped, the terminal's width up to 100 otherwise; no escape sequences outside a
terminal; colours as rich decides, so NO_COLOR is honoured.
"""

from __future__ import annotations

import datetime
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import PurePath
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

from whyidle_cli.render.findings import finding_lines
from whyidle_cli.render.loops import loop_lines
from whyidle_cli.render.tables import cause_lines, engine_lines, process_lines, thread_lines
from whyidle_cli.render.text import fit, flow, join, wrap
from whyidle_cli.render.units import count, percent, seconds, size
from whyidle_cli.render.whatif import what_if_lines
from whyidle_cli.sanitize import sanitize

PIPED_WIDTH: Final = 80
_WIDEST: Final = 100
_NARROWEST: Final = 60

_INTERPRETER: Final = re.compile(r"(?:python|pypy|node|ruby|perl|bash|sh|dash)[0-9.]*")


def report_width(stream: TextIO) -> int:
    """The columns to use on ``stream``."""
    if not stream.isatty():
        return PIPED_WIDTH
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return PIPED_WIDTH
    # A terminal that does not know its size says 0.
    return min(max(columns, _NARROWEST), _WIDEST) if columns else PIPED_WIDTH


def print_report(report: dict[str, Any], stream: TextIO | None = None, width: int | None = None) -> None:
    """Print the report to ``stream`` (default: standard output).

    Raises KeyError, TypeError, ValueError or AttributeError for a report that breaks its contract, before
    anything is printed; OSError if ``stream`` does not take it.
    """
    stream = sys.stdout if stream is None else stream
    width = report_width(stream) if width is None else width
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    # Captured, because rich answers a closed pipe by exiting, and the exit status is not rich's to choose.
    with console.capture() as captured:
        for line in report_lines(report, width):
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
    stream.write(captured.get())


def report_lines(report: dict[str, Any], width: int) -> list[Text]:
    """The report as lines of at most ``width`` cells; the first is empty: a command wrote before it."""
    commands = {process["pid"]: _program(process["command"]) for process in report["processes"]}
    findings = report["findings"]
    lines = [Text(), *_header(report, width), Text(), *_verdict(report, width)]

    def section(heading: str, body: list[Text]) -> None:
        if body:
            rule = "─" * (width - len(heading) - 1)
            lines.extend([Text(), Text.assemble((heading, "bold"), " ", (rule, "dim")), *body])

    body: list[Text] = []
    for number, finding in enumerate(findings, start=1):
        body += ([Text()] if number > 1 else []) + finding_lines(number, finding, commands, width)
    section("FINDINGS", body or [Text("  Nothing that costs enough to be worth changing.")])
    section("WHAT IF", what_if_lines(report.get("what_if", ()), width))
    section("ENGINES", engine_lines(report["engines"], width))
    section("WHY IDLE", cause_lines(report["idle_by_cause"], width, commands))
    duration = report["target"]["duration_s"]
    section("EVENT LOOPS", loop_lines(report.get("loops", []), duration, width))
    involved = {finding["tid"] for finding in findings if finding["tid"] is not None}
    section("THREADS", thread_lines(report["threads"], involved, width, _omitted(report, "threads")))
    section("PROCESSES", process_lines(report["processes"], width, _omitted(report, "processes")))
    return [*lines, Text(), *_honesty(report, width)]


def _program(command: str) -> str:
    """The program's name out of a command line: of a script rather than of what interprets it."""
    words = command.split()
    names = [PurePath(word).name for word in words[:2] if not word.startswith("-")]
    if len(names) > 1 and _INTERPRETER.fullmatch(names[0]):
        return names[1]
    return names[0] if names else ""


def _header(report: dict[str, Any], width: int) -> list[Text]:
    target, host = report["target"], report["host"]
    command = fit(shlex.join(sanitize(str(part), 200) for part in target["command"]), width - 9)
    status = target["exit_status"]
    gpus = host["gpus"]
    about = [
        seconds(target["duration_s"]),
        f"started {_moment(str(target['started_at']))}",
        f"exit status {status}" if status is not None else "",
        f"{count(_number(report, 'processes'), 'process', 'processes')}, "
        f"{count(_number(report, 'threads'), 'thread')}",
        _where(target),
        *_history(report),
    ]
    machine = [
        f"Linux {sanitize(str(host['kernel']), 40)}",
        count(host["cpus"], "CPU"),
        *(_gpu(gpu) for gpu in gpus[:2]),
        f"{len(gpus) - 2} more GPUs" if len(gpus) > 2 else "",
        "" if gpus else "no GPU seen",
    ]
    return [
        Text.assemble(("whyidle", "bold magenta"), "  ", (command, "bold")),
        *flow([*about, *machine], width, "dim"),
    ]


def _omitted(report: dict[str, Any], what: str) -> dict[str, Any]:
    """How many ``processes`` or ``threads`` are not in the report, as there are too many, and their sums."""
    omitted: dict[str, Any] = report.get(f"{what}_omitted") or {}
    return omitted


def _number(report: dict[str, Any], what: str) -> int:
    number: int = len(report[what]) + _omitted(report, what).get("count", 0)
    return number


def _where(target: dict[str, Any]) -> str:
    """The container and its pod, else the service; a login session is nowhere in particular."""
    container, unit = target.get("container"), target.get("unit")
    if container:
        pod = f" of pod {fit(target['pod'], 100)[:8]}" if target.get("pod") else ""
        return f"in {fit(container['runtime'], 12)} container {fit(container['id'], 100)[:12]}{pod}"
    return f"in {fit(unit, 40)}" if unit and str(unit).endswith(".service") else ""


def _history(report: dict[str, Any]) -> list[str]:
    """Of a report over several parts of the history."""
    more = len(report["target"].get("targets", ())) - 1
    return [
        f"from {report['parts']} parts of the history" if "parts" in report else "",
        f"and {count(more, 'other target')}" if more > 0 else "",
    ]


def _moment(started_at: str) -> str:
    """``2026-03-02 09:14:07 UTC`` from RFC 3339."""
    try:
        moment = datetime.datetime.fromisoformat(started_at).astimezone(datetime.UTC)
    except (ValueError, OverflowError):  # no time, or in the year 10000 of UTC
        return sanitize(started_at, 40)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _gpu(gpu: dict[str, Any]) -> str:
    memory = gpu["memory_total_bytes"]
    return sanitize(str(gpu["name"]), 40) + (f" ({size(memory)})" if memory else "")


def _verdict(report: dict[str, Any], width: int) -> list[Text]:
    """The answer in one sentence."""
    engines = report["engines"]
    if not engines:
        text = "No model engine was seen at work: no llama.cpp call and no GPU activity in this target."
        return wrap(text, width, "bold")
    finest = [engine for engine in engines if engine.get("finest", True)] or engines
    idle = sum(engine["idle_s"] for engine in finest)
    observed = idle + sum(engine["busy_s"] for engine in finest)
    share = idle / observed if observed > 0 else 0.0
    who = "The model was" if len(finest) == 1 else f"{len(finest)} engines together were"
    text = f"{who} idle for {seconds(idle)} of {seconds(observed)} ({percent(share)})"
    # A row is of one thread, peer and function: a pool's many rows are one cause.
    shares: Counter[str] = Counter()
    for cause in report["idle_by_cause"]:
        shares[str(cause.get("cause") or cause["state"])] += cause["share"]
    if shares:
        largest, share = shares.most_common(1)[0]
        what = sanitize(largest, 20).replace("_", " ")
        text += f", {percent(share)} of that because of {_phrase(what)}"
    return wrap(text + ".", width, "bold")


def _phrase(state: str) -> str:
    return {
        "network": "waiting for the network",
        "dns": "waiting for DNS",
        "runqueue": "waiting for a CPU",
        "throttled": "the CPU limit of its cgroup",
        "disk": "waiting for the disk",
        "lock": "waiting for a lock",
        "gil": "waiting for the GIL",
        "child": "waiting for a child process",
        "local ipc": "waiting for another local process",
        "running": "its driver thread's own work on the CPU",
        "event loop": "an event loop with nothing to do",
        "no demand": "nobody calling it",
    }.get(state, state)


def _honesty(report: dict[str, Any], width: int) -> list[Text]:
    """What was not seen, and what looking cost."""
    loss, overhead = report["loss"], report["overhead"]
    lost = join(
        [
            count(loss["events_lost"], "event") + " lost" if loss["events_lost"] else "",
            count(loss["stacks_lost"], "stack") + " lost" if loss["stacks_lost"] else "",
            f"blind for {seconds(loss['seconds_blind'])}" if loss["seconds_blind"] else "",
        ],
        ", ",
    )
    duration = report["target"]["duration_s"]
    cost = overhead["daemon_cpu_s"]
    share = f" ({cost / duration * 100:.1f} % of a core)" if duration > 0 else ""
    probes = f", probes {seconds(overhead['bpf_run_s'])}" if overhead["bpf_run_s"] is not None else ""
    looking = f"Observing cost {seconds(cost)} of CPU{share}, {size(overhead['daemon_rss_bytes'])}{probes}."
    lines = wrap(f"Nothing was lost. {looking}" if not lost else looking, width, "dim")
    if lost:
        lines = [*wrap(f"Incomplete: {lost}; the numbers are lower bounds.", width, "bold yellow"), *lines]
    return lines
