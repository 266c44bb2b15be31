"""The report of a recording as JSON on standard output: what ``whyidle report`` runs; needs no privileges.

Prints ``{"error": {"situation", "message", "hint"}}`` and ends with status 1 when there is nothing to report.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable
from typing import Any, Final

from whyidle_daemon.recording.errors import DamagedRecording, RecordingError
from whyidle_daemon.recording.reader import report

MAX_MEMORY: Final = 4 << 30
"""Bytes. No recording takes a quarter of it, and one that was made to hurt would take all."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns 0 or 1, argparse exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m whyidle_daemon.replay", description=__doc__)
    parser.add_argument("file", help="a recording")
    options = parser.parse_args(arguments)
    return answer(lambda: _report(options.file))


def _report(path: str) -> dict[str, Any]:
    try:
        return report(path)
    except MemoryError:
        pass
    # Not in the handler: what was read is gone only now.
    raise DamagedRecording(path, "it takes more memory than any recording does")


def limit_memory() -> None:
    """Of this process, for good."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > MAX_MEMORY:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, hard))


def answer(make: Callable[[], dict[str, Any]]) -> int:
    """Print a report, or why there is none, as one JSON object; returns the exit status, 0 or 1."""
    try:
        found, status = make(), 0
    except RecordingError as error:
        problem = {"situation": type(error).__name__, "message": str(error), "hint": error.hint}
        found, status = {"error": problem}, 1
    json.dump(found, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")
    return status


if __name__ == "__main__":
    limit_memory()
    sys.exit(main())
