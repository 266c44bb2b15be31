"""The command `whyidle-agent`: run the reference agent, measure a fix with it, or make its model.

Exit status: 0 the run came to its end, 1 it could not (one line says why, one what to do), 2 usage,
130 interrupted by Ctrl-C; the history is kept in every case, and the same command goes on from there.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from whyidle_agent import queue_commands
from whyidle_agent.errors import AgentError
from whyidle_agent.model_file import generated_model
from whyidle_agent.options import parser
from whyidle_agent.text import printable

_STARTED = time.monotonic()  # a run's own account begins here: importing what it needs is part of it
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own when None) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A title or a file name may hold what this terminal's encoding lacks; that must not end the run.
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    whole = parser()
    if not arguments:
        whole.print_help()
        return 2
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments.insert(0, "run")
    options = whole.parse_args(arguments)
    try:
        commands = {"model": _model, "experiment": _experiment, "run": _run}
        commands |= {"serve": _serve, "submit": queue_commands.submit}
        return commands[options.command](options)
    except AgentError as error:
        return _failed(error.what, error.todo)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader (`| head`) has gone
        return 1
    except OSError as error:
        what = error.strerror or str(error)
        what = what if error.filename is None else f"{what}: {error.filename}"
        return _failed(what, "make room if a disk is full; run it again, and it goes on from the last step")
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by whoever started this
            _let_go(stream)


def _failed(what: str, todo: str) -> int:
    with contextlib.suppress(OSError):  # the status says it, too
        print(f"whyidle-agent: {printable(what)}\n  {printable(todo)}", file=sys.stderr)
    return 1


def _let_go(stream: TextIO) -> None:
    """Drop what cannot be written: Python would try again when it exits, complain, and exit with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _model(options: argparse.Namespace) -> int:
    print(generated_model(options.path), flush=True)
    return 0


def _experiment(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from whyidle_agent import experiment  # noqa: PLC0415
    from whyidle_agent.experiments import closing, context, memory  # noqa: PLC0415

    def search(out: Path, loops: int, seed: int) -> dict[str, Any]:
        proportion = experiment.Proportion(options.queries, options.search_per_inference)
        return experiment.search(out, loops, seed, proportion)

    run, show, loops = {
        "search": (search, experiment.show, experiment.LOOPS),
        "memory": (memory.memory, memory.show, memory.LOOPS),
        "context": (context.context, context.show, context.LOOPS),
        "table": (closing.closing, closing.show, closing.LOOPS),
    }[options.name]
    show(run(options.out, options.loops or loops, options.seed), Console().print)
    return 0


def _serve(options: argparse.Namespace) -> int:
    whole = parser()
    if (name := queue_commands.foreign(options.options, whole.parse_args)) is not None:
        whole.error(f"{name} is what a task says, or the worker: not an option for every run")
    return queue_commands.serve(options)


def _run(options: argparse.Namespace) -> int:
    # Imported here: --help and usage errors then need neither httpx nor the model's library.
    from whyidle_agent.run import run  # noqa: PLC0415

    return 0 if run(options, _STARTED) else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
