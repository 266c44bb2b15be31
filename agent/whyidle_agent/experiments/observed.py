"""One run of the agent under `whyidle run`, with a bar that shows how far it is."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from whyidle_agent.errors import AgentError
from whyidle_agent.history import HISTORY_FILE
from whyidle_agent.paths import write_atomically
from whyidle_agent.slow_search import Behaviour, SearchServer

SCHEMA = "whyidle.agent-experiment/1"
PROGRAMS = Path(sys.executable).parent
_TICK_S = 0.25


@dataclass(frozen=True)
class Plan:
    """What to run: `options` of `whyidle-agent run`; `latency_s` of each search.

    `recorded`: keep a recording as well; `fails`: the run is to end with status 1, and not with 0.
    """

    name: str
    loops: int
    options: tuple[str, ...]
    latency_s: float = 0.0
    recorded: bool = False
    fails: bool = False


@dataclass(frozen=True)
class Observed:
    """What came of it: the agent's own account, whyidle's report, and the steps of the history."""

    stats: dict[str, Any]
    report: dict[str, Any]
    steps: list[dict[str, Any]]


def folder(out: Path) -> None:
    """Make the folder of an experiment; raises AgentError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(f"cannot use {out}: {error.strerror}", "give another --out DIR") from error


def observe(out: Path, plan: Plan, seed: int, tick: Callable[[], None] | None = None) -> Observed:
    """Run `plan` in `out`; `tick` is called four times a second meanwhile. Raises AgentError."""
    work = out / f"{plan.name}-work"
    files = {kind: out / f"{plan.name}-{kind}" for kind in ("report.json", "stats.json", "recording")}
    try:
        shutil.rmtree(work, ignore_errors=True)  # the memory of an earlier run is not this one's
        for file in files.values():
            file.unlink(missing_ok=True)
        log = (out / f"{plan.name}.log").open("wb")
    except OSError as error:
        raise AgentError(f"cannot write in {out}: {error.strerror}", "give another --out DIR") from error
    record = ["--record", files["recording"]] if plan.recorded else []
    with log, SearchServer("127.0.0.1", 0, Behaviour(plan.latency_s)) as server:
        command = [
            *(PROGRAMS / "whyidle", "run", "--json", files["report.json"], *record, "--"),
            *(PROGRAMS / "whyidle-agent", "run", "--search-url", server.url, "--workdir", work),
            *("--loops", plan.loops, "--seed", seed, "--stats", files["stats.json"], *plan.options),
        ]
        process = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            status = _wait(process, work / HISTORY_FILE, plan, tick)
        except BaseException:
            # Ctrl-C reached the run as well, since it shares our terminal; anything else did not.
            process.terminate()
            process.wait()
            raise
    if status == 0 and plan.fails:
        raise AgentError(f"the {plan.name} run came to its end in {plan.loops} steps", "raise --loops")
    if status != int(plan.fails):
        raise AgentError(f"the {plan.name} run ended with status {status}", f"read {log.name}")
    return Observed(load(files["stats.json"]), load(files["report.json"]), steps_of(work / HISTORY_FILE))


def _wait(
    process: subprocess.Popen[bytes], history: Path, plan: Plan, tick: Callable[[], None] | None
) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(plan.name, total=plan.loops)
        offset = 0
        while True:
            with contextlib.suppress(FileNotFoundError), history.open("rb") as file:
                file.seek(offset)
                new = file.read()
                offset += len(new)
                progress.advance(bar, new.count(b'{"step"'))
            if tick is not None:
                tick()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_TICK_S)


def steps_of(history: Path) -> list[dict[str, Any]]:
    """Return the steps that a history file holds; raises AgentError."""
    try:
        records = [json.loads(line) for line in history.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise AgentError(f"cannot read {history}", "look at the log beside it") from error
    return [record for record in records if "step" in record]


def load(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; raises AgentError."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AgentError(f"cannot read {path}", "look at the log beside it") from error
    return loaded


def save(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Keep an experiment's result as `NAME.json` in `out`, and return it; raises AgentError."""
    try:
        write_atomically(out / f"{result['name']}.json", (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise AgentError(f"cannot write in {out}: {error.strerror}", "make room") from error
    return result


def findings(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the findings of `kind`, as the report has them."""
    return [finding for finding in report["findings"] if finding["kind"] == kind]


def kinds(report: dict[str, Any]) -> list[str]:
    """Return the kinds of all findings, each once."""
    return list(dict.fromkeys(finding["kind"] for finding in report["findings"]))


def table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], line: Callable[[Any], None]
) -> None:
    """Hand a table to `line`."""
    from rich.table import Table  # noqa: PLC0415 - slow to import

    made = Table(title=title)
    for head in heads:
        made.add_column(head)
    for row in rows:
        made.add_row(*row)
    line(made)
