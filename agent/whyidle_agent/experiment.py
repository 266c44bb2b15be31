"""The article's experiment: the same run with its searches one after the other, and together.

Both runs are observed by whyidle through its CLI, each from its first instruction, and keep an account of
their own. The search server's latency is set from a run without any, so that the proportion of search to
inference is the article's on every machine: utilisation under 30 % before the fix.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whyidle_agent.errors import AgentError
from whyidle_agent.paths import write_atomically
from whyidle_agent.slow_search import Behaviour, SearchServer

SCHEMA = "whyidle.agent-experiment/1"
QUERIES = 12  # searches in a step
TOKENS = 1500  # most in an answer: room for that many queries
# Seconds of search for a second of decoding in the synchronous run: below 1 / (1 + 2.35), 30 % utilisation.
SEARCH_PER_DECODING = 2.35
# The article: "total time down almost 40 %, GPU utilisation from under 30 % to over 70 %".
ARTICLE = {"saved": "almost 40 %", "before": "under 30 %", "after": "over 70 %"}


@dataclass(frozen=True)
class Measured:
    """One run by both clocks: seconds, and the share of the wall time in which the engine computed."""

    agent_wall_s: float
    agent_decode_s: float
    whyidle_wall_s: float
    whyidle_busy_s: float
    whyidle_idle_s: float
    findings: list[str]
    what_if: list[dict[str, Any]]

    @property
    def utilisation(self) -> float:
        """Return the engine's share of the run by whyidle's clock, from when the engine was there."""
        return self.whyidle_busy_s / (self.whyidle_busy_s + self.whyidle_idle_s)

    @property
    def own_utilisation(self) -> float:
        """Return the same by the agent's own clock, which starts when its libraries are loaded."""
        return self.agent_decode_s / self.agent_wall_s


def measured(stats: dict[str, Any], report: dict[str, Any]) -> Measured:
    """Return what an agent's account and whyidle's report say of one run; raises AgentError."""
    try:
        engines = [engine for engine in report["engines"] if engine.get("finest", True)]
        return Measured(
            agent_wall_s=stats["wall_s"],
            agent_decode_s=stats["decode_s"],
            whyidle_wall_s=report["target"]["duration_s"],
            whyidle_busy_s=sum(engine["busy_s"] for engine in engines),
            whyidle_idle_s=sum(engine["idle_s"] for engine in engines),
            findings=[finding["kind"] for finding in report["findings"]],
            what_if=report.get("what_if") or [],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise AgentError(f"the run's account lacks {error}", "look at the files in --out DIR") from error


def compare(sync: Measured, together: Measured) -> dict[str, Any]:
    """Return the experiment's result as JSON."""
    return {
        "schema": SCHEMA,
        "name": "search",
        "article": ARTICLE,
        "sync": _as_json(sync),
        "async": _as_json(together),
        "saved": 1 - together.agent_wall_s / sync.agent_wall_s,
        "predicted": sync.what_if,
    }


def search(out: Path, loops: int, seed: int) -> dict[str, Any]:
    """Run the experiment, leave every file of it in `out` and return its result; raises AgentError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(f"cannot use {out}: {error.strerror}", "give another --out DIR") from error
    with SearchServer("127.0.0.1", 0, Behaviour(0.0)) as server:
        stats = _agent(out, "calibration", server.url, tools="sync", loops=loops, seed=seed, observed=False)
    calls = [call for call in stats["tool_calls"] if call["tool"] == "search_web"]
    if not calls:
        raise AgentError("the agent did not search", "raise --loops")
    latency = SEARCH_PER_DECODING * stats["decode_s"] / len(calls)
    runs = []
    for tools in ("sync", "async"):
        with SearchServer("127.0.0.1", 0, Behaviour(latency)) as server:
            account = _agent(out, tools, server.url, tools=tools, loops=loops, seed=seed, observed=True)
        runs.append(measured(account, _load(out / f"{tools}-report.json")))
    result = {**compare(*runs), "latency_s": latency, "loops": loops, "queries": QUERIES, "seed": seed}
    try:
        write_atomically(out / "search.json", (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise AgentError(f"cannot write in {out}: {error.strerror}", "make room") from error
    return result


def show(result: dict[str, Any], line: Callable[[Any], None]) -> None:
    """Hand a table of the result to `line`."""
    from rich.table import Table  # noqa: PLC0415 - only here, and slow to import

    table = Table(title="Searches one after the other, and together")
    for head in ("", "article", "whyidle", "agent's own clock"):
        table.add_column(head)
    before, after = result["sync"], result["async"]
    for name, label in (("sync", "before"), ("async", "after")):
        run = result[name]
        table.add_row(
            f"wall time {label}", "", f"{run['whyidle_wall_s']:.2f} s", f"{run['agent_wall_s']:.2f} s"
        )
    saved = 1 - after["whyidle_wall_s"] / before["whyidle_wall_s"]
    table.add_row("wall time saved", ARTICLE["saved"], f"{saved:.0%}", f"{result['saved']:.0%}")
    for run, label in ((before, "before"), (after, "after")):
        own = f"{run['own_utilisation']:.0%}"
        table.add_row(f"utilisation {label}", ARTICLE[label], f"{run['utilisation']:.0%}", own)
    line(table)


def _as_json(run: Measured) -> dict[str, Any]:
    own = {"utilisation": run.utilisation, "own_utilisation": run.own_utilisation}
    return {key: value for key, value in vars(run).items() if key != "what_if"} | own


def _agent(
    out: Path, name: str, url: str, *, tools: str, loops: int, seed: int, observed: bool
) -> dict[str, Any]:
    programs = Path(sys.executable).parent
    files = {kind: out / f"{name}-{kind}" for kind in ("report.json", "recording", "stats.json", "work")}
    for file in (files["recording"], files["report.json"], files["stats.json"]):
        file.unlink(missing_ok=True)
    command: list[Any] = []
    if observed:
        command = [programs / "whyidle", "run", "--json", files["report.json"]]
        # From the recording of the run before the fix, whyidle predicts the run after it.
        command += [*(("--record", files["recording"]) if tools == "sync" else ()), "--"]
    command += [programs / "whyidle-agent", "run", "--search-url", url, "--tools", tools]
    command += ["--queries", str(QUERIES), "--tokens", str(TOKENS), "--loops", str(loops)]
    command += ["--seed", str(seed), "--workdir", files["work"], "--stats", files["stats.json"]]
    with (out / f"{name}.log").open("wb") as log:
        done = subprocess.run(
            [str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise AgentError(f"the {name} run ended with status {done.returncode}", f"read {log.name}")
    return _load(files["stats.json"])


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AgentError(f"cannot read {path}", "look at the log beside it") from error
    return loaded
