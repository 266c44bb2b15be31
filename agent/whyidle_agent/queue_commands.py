"""The commands around a queue: `serve` works on its tasks, `submit` adds one."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from whyidle_agent.errors import AgentError
from whyidle_agent.text import printable

_EXAMPLES = """\
examples:
  whyidle-agent serve --queue spool --workers 2 -- --search-url http://127.0.0.1:8888
  whyidle-agent submit --queue spool --goal "compare schedulers"

The queue is a folder: waiting/, running/, done/, failed/ hold a file for each task, work/ what its run wrote.
Workers on several hosts may share it over NFS. SIGTERM gives the task in hand back.
"""
_OWN = ("goal", "loops", "seed", "workdir", "stats")  # of `run`: what a task says, or the worker


def add_commands(commands: Any, whole: Callable[[int], Any], seconds: Callable[[str], float]) -> None:
    """Add `serve` and `submit` to argparse's `commands`; `whole`, `seconds`: types of arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    serve = commands.add_parser(
        "serve", help="work on the tasks of a queue", epilog=_EXAMPLES, formatter_class=raw
    )
    serve.add_argument("--workers", type=whole(1), default=1, metavar="N", help="runs at once (default: 1)")
    serve.add_argument(
        "--attempts", type=whole(1), default=3, metavar="N", help="of a task that fails (default: 3)"
    )
    serve.add_argument(
        "--task-timeout", type=seconds, default=3600.0, metavar="S", help="of one attempt (default: 3600)"
    )
    serve.add_argument(
        "--keep-days", type=seconds, default=7.0, metavar="D", help="results and their files (default: 7)"
    )
    serve.add_argument(
        "--metrics", type=_address, metavar="HOST:PORT", help="serve Prometheus the queue's length there"
    )
    serve.add_argument("options", nargs="*", metavar="-- OPTION...", help="of `whyidle-agent run`")

    submit = commands.add_parser(
        "submit", help="add a task to a queue; print its name", epilog=_EXAMPLES, formatter_class=raw
    )
    submit.add_argument("--goal", required=True, metavar="TEXT", help="what to reach")
    submit.add_argument("--loops", type=whole(1), default=6, metavar="N", help="most steps (default: 6)")
    submit.add_argument("--seed", type=whole(0), default=0, metavar="S", help="(default: 0)")
    for command in (serve, submit):
        command.add_argument("--queue", type=Path, required=True, metavar="DIR", help="made when missing")


def submit(options: argparse.Namespace) -> int:
    """Add the task; raises AgentError."""
    from whyidle_agent.queue import Queue, QueuedTask  # noqa: PLC0415

    try:
        given = {"goal": options.goal, "loops": options.loops, "seed": options.seed}
        options.goal.encode()
        task = msgspec.convert(given, QueuedTask)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise AgentError(f"not a task: {error}", "see whyidle-agent submit --help") from error
    print(Queue(options.queue).submit(task), flush=True)
    return 0


def foreign(options: Sequence[str], parse: Callable[[list[str]], argparse.Namespace]) -> str | None:
    """Return the first of `options` that `serve` must not hand on; `parse` ends the program on bad ones."""
    given, default = parse(["run", *options]), parse(["run"])
    return next((f"--{name}" for name in _OWN if getattr(given, name) != getattr(default, name)), None)


def serve(options: argparse.Namespace) -> int:
    """Work until SIGTERM or Ctrl-C, which is how it is meant to end: returns 0. Raises AgentError."""
    from whyidle_agent.queue import Queue  # noqa: PLC0415
    from whyidle_agent.queue_metrics import Metrics  # noqa: PLC0415
    from whyidle_agent.worker import Policy, Worker  # noqa: PLC0415

    queue = Queue(options.queue)
    metrics = Metrics(queue)
    policy = Policy(
        options=options.options,
        attempts=options.attempts,
        timeout_s=options.task_timeout,
        keep_s=options.keep_days * 86400,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.metrics is not None:
        host, port = options.metrics
        _tell(f"metrics on http://{host}:{metrics.listen(host, port)}/metrics")
    # As this command was started, so that a run is seen to be what it is: `whyidle-agent run`.
    command = (sys.executable, sys.argv[0], "run")
    workers = [
        threading.Thread(target=Worker(queue, policy, stop, command, told=_tell, ended=metrics.ended).serve)
        for _ in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    _tell(f"working on {options.queue}")
    for worker in workers:
        worker.join()
    return 0


def _tell(text: str) -> None:
    print(f"whyidle-agent: {printable(text)}", file=sys.stderr, flush=True)


def _address(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not HOST:PORT: {text!r}") from error
    if not host or port is None or parts.path or parts.username is not None:
        raise argparse.ArgumentTypeError(f"not HOST:PORT: {text!r}")
    return host, port
