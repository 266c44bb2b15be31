"""The command `whyidle-search`: the slow local web search, until SIGTERM or SIGINT."""

import argparse
import contextlib
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from whyidle_agent.errors import AgentError
from whyidle_agent.paths import write_atomically
from whyidle_agent.slow_search import Behaviour, SearchServer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT; exit status 0, or 1 when it cannot start, 2 for usage."""
    options = _parser().parse_args(argv)
    behaviour = Behaviour(
        options.latency,
        options.jitter,
        options.error_rate,
        options.hang_rate,
        options.reset_rate,
        options.flood_rate,
        options.garbage_rate,
        options.seed,
    )
    stop = {signal.SIGINT, signal.SIGTERM}
    # Blocked before any thread starts, so that every thread inherits it and sigwait alone receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    try:
        with contextlib.ExitStack() as stack:
            log = _open_log(options.requests_log)
            if log is not None:
                stack.enter_context(log)
            server = stack.enter_context(SearchServer(options.host, options.port, behaviour, log))
            if options.port_file is not None:
                _write_port(options.port_file, server.server_port)
                stack.callback(options.port_file.unlink, missing_ok=True)
            print(f"whyidle-search: {server.url}/search, {behaviour.latency_s:g} s per request", flush=True)
            signal.sigwait(stop)
    except AgentError as error:
        print(f"whyidle-search: {error.what}", file=sys.stderr)
        print(f"  {error.todo}", file=sys.stderr)
        return 1
    return 0


def _open_log(path: Path | None) -> TextIO | None:
    try:
        return None if path is None else path.open("a", encoding="utf-8")
    except OSError as error:
        raise AgentError(
            f"cannot write {path}: {error.strerror}", "give another --requests-log FILE"
        ) from error


def _write_port(path: Path, port: int) -> None:
    try:
        write_atomically(path, f"{port}\n".encode())
    except OSError as error:
        raise AgentError(f"cannot write {path}: {error.strerror}", "give another --port-file FILE") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whyidle-search",
        description="A local web search that answers slowly, and logs how long it held each request.",
        epilog="example:\n  whyidle-search --port 8888 --latency 0.5 --requests-log requests.jsonl",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1; or ::1")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="default: 0, any free one")
    parser.add_argument(
        "--latency", type=_seconds, default=0.4, metavar="S", help="of each answer (default: 0.4)"
    )
    parser.add_argument(
        "--jitter", type=_seconds, default=0.0, metavar="S", help="up to so much more (default: 0)"
    )
    parser.add_argument(
        "--error-rate", type=_rate, default=0.0, metavar="R", help="share answered with HTTP 503"
    )
    parser.add_argument(
        "--hang-rate", type=_rate, default=0.0, metavar="R", help="share that is never answered"
    )
    parser.add_argument(
        "--reset-rate", type=_rate, default=0.0, metavar="R", help="share whose connection is reset"
    )
    parser.add_argument(
        "--flood-rate", type=_rate, default=0.0, metavar="R", help="share answered with 10 MB of HTML"
    )
    parser.add_argument(
        "--garbage-rate", type=_rate, default=0.0, metavar="R", help="share answered with bytes not UTF-8"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (default: 0)")
    parser.add_argument("--requests-log", type=Path, metavar="FILE", help="append a JSON line per request")
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="write the port there when ready")
    return parser


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
