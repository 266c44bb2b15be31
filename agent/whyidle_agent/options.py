"""The command line of `whyidle-agent`, and what of it is refused before anything is loaded."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from whyidle_agent import queue_commands

DEFAULT_GOAL = "find out why the GPU sits idle while an agent runs"
_EXAMPLES = """\
examples:
  whyidle-search --port 8888 --latency 0.5 &
  whyidle-agent run --search-url http://127.0.0.1:8888 --loops 6
  whyidle-agent run --goal "compare schedulers" --model ~/models/llama.gguf --gpu-layers -1
  whyidle-agent model
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; `command` is what is to be done: run, experiment or model."""
    raw = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(
        prog="whyidle-agent",
        description="An AutoGPT-like agent on llama.cpp whose web search blocks, for whyidle to find.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    commands = whole.add_subparsers(dest="command", required=True)

    run = commands.add_parser(
        "run", help="run the agent (the default)", epilog=_EXAMPLES, formatter_class=raw
    )
    run.add_argument(
        "--goal", default=DEFAULT_GOAL, metavar="TEXT", help=f"what to reach (default: {DEFAULT_GOAL})"
    )
    run.add_argument(
        "--search-url",
        type=_http_url,
        default="http://127.0.0.1:8888",
        metavar="URL",
        help="a SearxNG-compatible server (default: http://127.0.0.1:8888)",
    )
    run.add_argument(
        "--workdir",
        type=Path,
        default=Path("agent-work"),
        metavar="DIR",
        help="holds history.jsonl and files/, where write_file writes (default: agent-work)",
    )
    run.add_argument("--loops", type=_whole(1), default=6, metavar="N", help="most steps (default: 6)")
    run.add_argument(
        "--seed", type=_whole(0), default=0, metavar="S", help="same seed, same run (default: 0)"
    )
    run.add_argument(
        "--model", type=Path, metavar="PATH", help="a GGUF model (default: a small generated one)"
    )
    run.add_argument(
        "--brain-url",
        type=_http_url,
        metavar="URL",
        help="a server with OpenAI's protocol (llama-server, vLLM, Ollama); OPENAI_API_KEY is its key",
    )
    run.add_argument(
        "--brain-model", metavar="NAME", help="of that server's models (default: the first it has)"
    )
    run.add_argument(
        "--brain-timeout",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="of one answer of that server (default: 600 s)",
    )
    run.add_argument(
        "--tokens",
        type=_tokens,
        metavar="N",
        help="most tokens of one answer (default: 224; 512 with a model of yours)",
    )
    run.add_argument(
        "--context", type=_whole(512), default=4096, metavar="N", help="context, tokens (default: 4096)"
    )
    run.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="of a search or page (default: 30 s)"
    )
    run.add_argument(
        "--tools",
        choices=("sync", "async"),
        default="sync",
        help="a step's searches and pages one after the other, or together (default: sync)",
    )
    run.add_argument(
        "--queries", type=_whole(1), default=3, metavar="N", help="most searches in one step (default: 3)"
    )
    run.add_argument(
        "--per-host",
        type=_whole(1),
        default=16,
        metavar="N",
        help="async: most requests to one server at a time (default: 16)",
    )
    _add_memory_options(run)
    run.add_argument(
        "--fresh", action="store_true", help="begin anew also where a run in the workdir was interrupted"
    )
    run.add_argument(
        "--history",
        choices=("cut", "whole"),
        default="cut",
        help="the oldest steps leave a full prompt, or the run ends there (default: cut)",
    )
    run.add_argument(
        "--observation",
        type=_whole(20),
        metavar="N",
        help="characters of a step's result in the prompt (default: 180; 2000 with a model of yours)",
    )
    run.add_argument("--small", action="store_true", help="a generated model of a tenth of the cost")
    run.add_argument("--threads", type=_whole(1), default=1, metavar="N", help="of the model (default: 1)")
    run.add_argument("--temperature", type=_seconds, default=0.8, metavar="T", help="above 0 (default: 0.8)")
    run.add_argument(
        "--gpu-layers",
        type=_whole(-1),
        default=0,
        metavar="N",
        help="layers on the GPU, -1 for all (default: 0)",
    )
    run.add_argument("--stats", type=Path, metavar="FILE", help="write the run's own account there as JSON")
    run.add_argument("--verbose", action="store_true", help="show llama.cpp's log")

    trial = commands.add_parser("experiment", help="measure what a fix brings, observed by whyidle (as root)")
    trial.add_argument(
        "name",
        choices=("search", "memory", "context", "table"),
        help="search: sync against async; memory: unbounded against managed; context: until it is full; "
        "table: the article's closing table",
    )
    trial.add_argument(
        "--out", type=Path, default=Path("out/experiment"), metavar="DIR", help="(default: out/experiment)"
    )
    trial.add_argument(
        "--loops", type=_whole(3), metavar="N", help="steps (default: 10, 2000, 15, 12; in this order)"
    )
    trial.add_argument("--seed", type=_whole(0), default=1, metavar="S", help="(default: 1)")
    trial.add_argument(
        "--queries", type=_whole(1), default=12, metavar="N", help="search: of one step (default: 12)"
    )
    trial.add_argument(
        "--search-per-inference",
        type=_seconds,
        default=2.6,
        metavar="R",
        help="search: seconds of it for a second of inference before the fix (default: 2.6, the article's)",
    )

    model = commands.add_parser("model", help="make the generated model when it is missing; print its path")
    model.add_argument("--path", type=Path, metavar="FILE", help="where (default: in the cache)")
    queue_commands.add_commands(commands, _whole, _seconds)
    return whole


def _add_memory_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--memory",
        choices=("off", "unbounded", "managed"),
        default="off",
        help="unbounded: keep every interaction, duplicates included; managed: a window, a time-to-live, "
        "duplicates merged, a summary (default: off)",
    )
    run.add_argument(
        "--embed-model", type=Path, metavar="PATH", help="a GGUF model for its vectors (default: the run's)"
    )
    run.add_argument(
        "--window", type=_whole(1), default=64, metavar="N", help="managed: kept in the process (default: 64)"
    )
    run.add_argument(
        "--ttl", type=_seconds, default=3600.0, metavar="S", help="managed: kept on disk (default: 3600 s)"
    )
    run.add_argument(
        "--compact-every", type=_whole(1), default=50, metavar="N", help="managed: steps (default: 50)"
    )
    run.add_argument(
        "--summary-tokens",
        type=_whole(0),
        default=200,
        metavar="N",
        help="managed: tokens in the prompt for the steps that left it (default: 200)",
    )


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more")
        return value

    whole.__name__ = "whole number"  # argparse: "invalid whole number value: 'x'"
    return whole


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def _tokens(text: str) -> int:
    from whyidle_agent.calls import TOOLS  # noqa: PLC0415
    from whyidle_agent.grammar import Words, tool_call  # noqa: PLC0415

    value = _whole(1)(text)
    try:
        tool_call(TOOLS, Words(), value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def _http_url(text: str) -> str:
    from whyidle_agent.tools import check_url  # noqa: PLC0415

    try:
        return check_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
