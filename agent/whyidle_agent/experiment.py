"""The article's experiment: the same run with its searches one after the other, and together.

Both runs are observed by whyidle through its CLI, each from its first instruction, and keep an account of
their own. The search server's latency is set from a run without any, so that the proportion of search to
inference is the article's on every machine: utilisation under 30 % before the fix.

What the fix brings is predicted from the run before it alone, and stands beside what it really brought.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whyidle_agent.errors import AgentError
from whyidle_agent.paths import write_atomically
from whyidle_agent.priority import undisturbed
from whyidle_agent.slow_search import Behaviour, SearchServer

SCHEMA = "whyidle.agent-experiment/1"
LOOPS = 10
QUERIES = 12  # searches in a step
TOKENS = 1500  # most in an answer: room for that many queries
# Seconds of search for a second of inference in the synchronous run. 2.33 would make 30 % utilisation, which
# is the article's "under"; the rest is room for what inference takes longer in one run than in another.
SEARCH_PER_INFERENCE = 2.6
JITTER = 0.3  # of the latency, at most: what is issued together then waits for the slowest
_BUSY_MACHINE = 0.1  # of the inference: time spent waiting for a CPU
# The article: "total time down almost 40 %, GPU utilisation from under 30 % to over 70 %".
ARTICLE = {"saved": "almost 40 %", "before": "under 30 %", "after": "over 70 %"}


@dataclass(frozen=True)
class Proportion:
    """`queries` searches in a step, which take `search_per_inference` times as long as inference in all."""

    queries: int = QUERIES
    search_per_inference: float = SEARCH_PER_INFERENCE


@dataclass(frozen=True)
class Measured:
    """One run by both clocks: seconds, and the share of the time in which the engine computed."""

    agent_wall_s: float
    agent_engine_s: float  # of it, since the model began to load
    agent_decode_s: float
    whyidle_wall_s: float
    whyidle_busy_s: float
    whyidle_idle_s: float
    runqueue_s: float  # of the thread that drives the engine: what else the machine did meanwhile
    findings: list[str]
    functions: dict[str, list[str]]  # of findings, by kind
    what_if: list[dict[str, Any]]

    @property
    def utilisation(self) -> float:
        """Return the engine's share of the run by whyidle's clock, from when the engine was there."""
        return self.whyidle_busy_s / (self.whyidle_busy_s + self.whyidle_idle_s)

    @property
    def own_utilisation(self) -> float:
        """Return the same by the agent's own clock."""
        return self.agent_decode_s / self.agent_engine_s

    @property
    def clocks_differ(self) -> float:
        """Return by how much the agent's wall time is off whyidle's, as a share of it."""
        return self.agent_wall_s / self.whyidle_wall_s - 1


def measured(stats: dict[str, Any], report: dict[str, Any]) -> Measured:
    """Return what an agent's account and whyidle's report say of one run; raises AgentError."""
    functions: dict[str, list[str]] = {}
    try:
        for finding in report["findings"]:
            functions.setdefault(finding["kind"], []).append(finding["function"])
        engines = [engine for engine in report["engines"] if engine.get("finest", True)]
        drivers = {tid for engine in engines for tid in engine.get("drivers", ())}
        return Measured(
            agent_wall_s=stats["wall_s"],
            agent_engine_s=stats["started"] + stats["wall_s"] - stats["engine_since"],
            agent_decode_s=stats["decode_s"],
            whyidle_wall_s=report["target"]["duration_s"],
            whyidle_busy_s=sum(engine["busy_s"] for engine in engines),
            whyidle_idle_s=sum(engine["idle_s"] for engine in engines),
            runqueue_s=sum(
                t["states"].get("runqueue", 0.0) for t in report["threads"] if t["tid"] in drivers
            ),
            findings=[finding["kind"] for finding in report["findings"]],
            functions=functions,
            what_if=report.get("what_if") or [],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise AgentError(f"the run's account lacks {error}", "look at the files in --out DIR") from error


def compare(sync: Measured, together: Measured) -> dict[str, Any]:
    """Return the experiment's result as JSON; `predicted`: from the synchronous run alone, None: nothing."""
    fix = next((found for found in sync.what_if if found["fix"] == "sequential_calls"), None)
    predicted = None
    if fix is not None:
        shares = [engine["predicted_utilization"] for engine in fix["engines"]]
        predicted = {
            "wall_s": fix["predicted_wall_s"],
            "wall_low_s": fix["predicted_wall_low_s"],
            "wall_high_s": fix["predicted_wall_high_s"],
            "utilisation": shares[0] if len(shares) == 1 else None,
            "wall_error": fix["predicted_wall_s"] / together.whyidle_wall_s - 1,
            "utilisation_error": shares[0] / together.utilisation - 1 if len(shares) == 1 else None,
        }
    return {
        "schema": SCHEMA,
        "name": "search",
        "article": ARTICLE,
        "sync": _as_json(sync),
        "async": _as_json(together),
        "saved": 1 - together.agent_wall_s / sync.agent_wall_s,
        "predicted": predicted,
    }


def search(out: Path, loops: int, seed: int, proportion: Proportion = Proportion()) -> dict[str, Any]:
    """Run the experiment, leave every file of it in `out` and return its result; raises AgentError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(f"cannot use {out}: {error.strerror}", "give another --out DIR") from error
    run = _Runs(out, loops, seed, proportion.queries)
    with undisturbed():
        with SearchServer("127.0.0.1", 0, Behaviour(0.0)) as server:
            stats = run("calibration", server.url, tools="sync", observed=False)
        calls = sum(call["tool"] == "search_web" for call in stats["tool_calls"])
        if not calls:
            raise AgentError("the agent did not search", "raise --loops")
        each = proportion.search_per_inference * stats["decode_s"] / calls
        latency = each / (1 + JITTER / 2)
        runs = []
        for tools in ("sync", "async"):
            behaviour = Behaviour(latency, jitter_s=JITTER * latency, seed=seed)
            with SearchServer("127.0.0.1", 0, behaviour) as server:
                account = run(tools, server.url, tools=tools, observed=True)
            runs.append(measured(account, _load(out / f"{tools}-report.json")))
    result = {
        **compare(*runs),
        "latency_s": latency,
        "jitter_s": JITTER * latency,
        "loops": loops,
        "queries": proportion.queries,
        "search_per_inference": proportion.search_per_inference,
        "seed": seed,
    }
    try:
        write_atomically(out / "search.json", (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise AgentError(f"cannot write in {out}: {error.strerror}", "make room") from error
    return result


def show(result: dict[str, Any], line: Callable[[Any], None]) -> None:
    """Hand a table of the result to `line`."""
    from rich.table import Table  # noqa: PLC0415 - only here, and slow to import

    table = Table(title="Searches one after the other, and together")
    for head in ("", "article", "whyidle", "agent's own clock", "predicted from before"):
        table.add_column(head)
    before, after, predicted = result["sync"], result["async"], result["predicted"] or {}
    for run, label, foreseen in ((before, "before", None), (after, "after", predicted.get("wall_s"))):
        own, seen = run["agent_wall_s"], run["whyidle_wall_s"]
        table.add_row(f"wall time {label}", "", f"{seen:.2f} s", f"{own:.2f} s", _text(foreseen, "{:.2f} s"))
    saved = 1 - after["whyidle_wall_s"] / before["whyidle_wall_s"]
    foreseen = 1 - predicted["wall_s"] / before["whyidle_wall_s"] if predicted else None
    own_saved = f"{result['saved']:.0%}"
    table.add_row("wall time saved", ARTICLE["saved"], f"{saved:.0%}", own_saved, _text(foreseen, "{:.0%}"))
    for run, label, foreseen in ((before, "before", None), (after, "after", predicted.get("utilisation"))):
        own, seen = run["own_utilisation"], run["utilisation"]
        table.add_row(
            f"utilisation {label}", ARTICLE[label], f"{seen:.0%}", f"{own:.0%}", _text(foreseen, "{:.0%}")
        )
    line(table)
    for run, label in ((before, "before"), (after, "after")):
        line(f"findings {label}: {', '.join(dict.fromkeys(run['findings'])) or 'none'}")
    waited = max(before["runqueue_s"], after["runqueue_s"])
    if waited > _BUSY_MACHINE * after["agent_decode_s"]:
        line(
            f"The model waited {waited:.1f} s for a CPU: this machine was busy with something else, "
            "and the two runs are not alike. Run it again on a quiet one."
        )


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _as_json(run: Measured) -> dict[str, Any]:
    own = ("utilisation", "own_utilisation", "clocks_differ")
    return {**vars(run), **{name: getattr(run, name) for name in own}}


@dataclass(frozen=True)
class _Runs:
    """Runs the agent, every time with the same task."""

    out: Path
    loops: int
    seed: int
    queries: int

    def __call__(self, name: str, url: str, *, tools: str, observed: bool) -> dict[str, Any]:
        """Return the account of one run; its files in `out` begin with `name`; raises AgentError."""
        programs = Path(sys.executable).parent
        kinds = ("report.json", "recording", "stats.json", "work")
        files = {kind: self.out / f"{name}-{kind}" for kind in kinds}
        for file in (files["recording"], files["report.json"], files["stats.json"]):
            file.unlink(missing_ok=True)
        shutil.rmtree(files["work"], ignore_errors=True)
        command: list[Any] = []
        if observed:
            command = [programs / "whyidle", "run", "--json", files["report.json"]]
            # From the recording of the run before the fix, whyidle predicts the run after it.
            command += [*(("--record", files["recording"]) if tools == "sync" else ()), "--"]
        command += [programs / "whyidle-agent", "run", "--search-url", url, "--tools", tools]
        command += ["--queries", str(self.queries), "--tokens", str(TOKENS), "--loops", str(self.loops)]
        command += ["--seed", str(self.seed), "--workdir", files["work"], "--stats", files["stats.json"]]
        with (self.out / f"{name}.log").open("wb") as log:
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
