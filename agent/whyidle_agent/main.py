"""The command `whyidle-agent`: run the reference agent, or make its model.

Exit status: 0 the run came to its end, 1 it could not (one line says why, one what to do), 2 usage,
130 interrupted by Ctrl-C; the history is kept in every case.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from whyidle_agent.errors import AgentError
from whyidle_agent.model_file import DEFAULT_SIZE, SMALL_SIZE, generated_model
from whyidle_agent.text import printable

_STARTED = time.monotonic()  # a run's own account begins here: importing what it needs is part of it
DEFAULT_GOAL = "find out why the GPU sits idle while an agent runs"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_EXAMPLES = """\
examples:
  whyidle-search --port 8888 --latency 0.5 &
  whyidle-agent run --search-url http://127.0.0.1:8888 --loops 6
  whyidle-agent run --goal "compare schedulers" --model ~/models/llama.gguf --gpu-layers -1
  whyidle-agent model
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own when None) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A title or a file name may hold what this terminal's encoding lacks; that must not end the run.
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 2
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments.insert(0, "run")
    options = parser.parse_args(arguments)
    try:
        return {"model": _model, "experiment": _experiment, "run": _run}[options.command](options)
    except AgentError as error:
        print(f"whyidle-agent: {printable(error.what)}", file=sys.stderr)
        print(f"  {printable(error.todo)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _model(options: argparse.Namespace) -> int:
    print(generated_model(options.path))
    return 0


def _experiment(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from whyidle_agent import experiment  # noqa: PLC0415

    proportion = experiment.Proportion(options.queries, options.search_per_inference)
    experiment.show(experiment.search(options.out, options.loops, options.seed, proportion), Console().print)
    return 0


def _run(options: argparse.Namespace) -> int:
    # Imported here: --help and usage errors then need neither httpx nor the model's library.
    from whyidle_agent.async_search import AsyncSearch  # noqa: PLC0415
    from whyidle_agent.brain import LlamaBrain, Settings  # noqa: PLC0415
    from whyidle_agent.console import Console  # noqa: PLC0415
    from whyidle_agent.grammar import Characters, Words  # noqa: PLC0415
    from whyidle_agent.history import HistoryFile  # noqa: PLC0415
    from whyidle_agent.loop import Agent, Task  # noqa: PLC0415
    from whyidle_agent.memory.opening import opened  # noqa: PLC0415
    from whyidle_agent.stats import Stats  # noqa: PLC0415
    from whyidle_agent.tools import work_folder  # noqa: PLC0415

    stats = Stats(started=_STARTED)
    if options.stats is not None and not options.stats.absolute().parent.is_dir():
        # Found out now, not after the run whose account it would be.
        raise AgentError(f"no folder for {options.stats}", "make it, or give another --stats FILE")
    generated = options.model is None
    task = Task(
        goal=options.goal,
        loops=options.loops,
        search_url=options.search_url,
        timeout_s=options.timeout,
        tokens=options.tokens or (224 if generated else 512),
        context=options.context,
        planned=generated,
        style=Words() if generated else Characters(),
        queries=options.queries,
        observation=options.observation,
        whole=options.history == "whole",
        summary_tokens=options.summary_tokens if options.memory == "managed" else 0,
    )
    settings = Settings(
        options.seed,
        options.threads,
        options.context,
        options.temperature,
        options.gpu_layers,
        options.verbose,
    )
    model = (
        generated_model(size=SMALL_SIZE if options.small else DEFAULT_SIZE) if generated else options.model
    )
    history = HistoryFile(options.workdir)
    console = Console(task.loops)
    status = 0
    try:
        # The tool's files have a folder of their own: no file name can then reach the history.
        with work_folder(options.workdir / "files") as folder:
            stats.engine_since = time.monotonic()
            brain = LlamaBrain(model, settings)
            stats.load_s = brain.load_seconds
            try:
                history.append(
                    {"goal": task.goal, "model": str(model), "seed": options.seed, "loops": task.loops}
                )
                with contextlib.ExitStack() as stack:
                    together = None
                    if options.tools == "async":
                        together = stack.enter_context(AsyncSearch(task.search_url, task.timeout_s))
                    memory = stack.enter_context(opened(options, model, history.path, stats, console.note))
                    Agent(
                        task,
                        brain,
                        folder=folder,
                        history=history,
                        stats=stats,
                        watcher=console,
                        together=together,
                        memory=memory,
                    ).run()
            except KeyboardInterrupt:
                stats.outcome = "interrupted"
                status = INTERRUPTED
            finally:
                stats.decode_s, stats.decode_calls = brain.engine.seconds, brain.engine.calls
                brain.close()
    finally:
        history.close()
        stats.wall_s = time.monotonic() - stats.started
        if options.stats is not None:
            stats.save(options.stats)
    console.summary(stats, task.search_url)
    return status


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="whyidle-agent",
        description="An AutoGPT-like agent on llama.cpp whose web search blocks, for whyidle to find.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser(
        "run", help="run the agent (the default)", epilog=_EXAMPLES, formatter_class=raw
    )
    run.add_argument(
        "--goal", default=DEFAULT_GOAL, metavar="TEXT", help=f"what to reach (default: {DEFAULT_GOAL})"
    )
    run.add_argument(
        "--search-url",
        type=_search_url,
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
        "--tokens",
        type=_tokens,
        metavar="N",
        help="most tokens of one answer (default: 224; 512 with --model)",
    )
    run.add_argument(
        "--context", type=_whole(512), default=4096, metavar="N", help="context, tokens (default: 4096)"
    )
    run.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="of one search (default: 30 s)"
    )
    run.add_argument(
        "--tools",
        choices=("sync", "async"),
        default="sync",
        help="a step's searches one after the other, or together (default: sync)",
    )
    run.add_argument(
        "--queries", type=_whole(1), default=3, metavar="N", help="most searches in one step (default: 3)"
    )
    _add_memory_options(run)
    run.add_argument(
        "--history",
        choices=("cut", "whole"),
        default="cut",
        help="the oldest steps leave a full prompt, or the run ends there (default: cut)",
    )
    run.add_argument(
        "--observation",
        type=_whole(20),
        default=180,
        metavar="N",
        help="characters of a step's result in the prompt (default: 180)",
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
    trial.add_argument("name", choices=("search",), help="search: sync against async")
    trial.add_argument(
        "--out", type=Path, default=Path("out/experiment"), metavar="DIR", help="(default: out/experiment)"
    )
    trial.add_argument("--loops", type=_whole(3), default=6, metavar="N", help="steps (default: 6)")
    trial.add_argument("--seed", type=_whole(0), default=1, metavar="S", help="(default: 1)")
    trial.add_argument(
        "--queries", type=_whole(1), default=12, metavar="N", help="searches in a step (default: 12)"
    )
    trial.add_argument(
        "--search-per-inference",
        type=_seconds,
        default=2.6,
        metavar="R",
        help="seconds of search for a second of inference, before the fix (default: 2.6, the article's)",
    )

    model = commands.add_parser("model", help="make the generated model when it is missing; print its path")
    model.add_argument("--path", type=Path, metavar="FILE", help="where (default: in the cache)")
    return parser


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
    from whyidle_agent.grammar import TOOLS, Words, tool_call  # noqa: PLC0415

    value = _whole(1)(text)
    try:
        tool_call(TOOLS, Words(), value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def _search_url(text: str) -> str:
    from whyidle_agent.tools import check_search_url  # noqa: PLC0415

    try:
        return check_search_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
