"""``whyidle report``: the report of a recording, or of what the service has kept of the last hours."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from whyidle_cli.errors import CannotReplay, ReplayFailed, WrongUsage
from whyidle_cli.output import STDOUT, check_target, deliver
from whyidle_cli.recording import warn_incomplete

# A process of its own, because the CLI does not import the daemon. -P: nothing from the current directory.
REPLAY: Final = [sys.executable, "-P", "-m", "whyidle_daemon.replay", "--"]
HISTORY: Final = [sys.executable, "-P", "-m", "whyidle_daemon.history"]
STATE: Final = Path("/var/lib/whyidle")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_DESCRIPTION: Final = """\
Print the report of a recording that 'whyidle run --record' or 'whyidle attach
--record' has written: the same report as then. Needs neither root nor a daemon.
A recording that was cut off is reported on up to the last few seconds.

With --since: one report over what the service has kept of that time, of all it
observed, or of a process, a systemd unit or a container. Needs root or the
group 'whyidle'. It is made of whole parts, which are history.part_minutes long
(10 minutes): those that ended within the last T, and the present ones. The
oldest may so have begun before."""

_EPILOG: Final = """\
examples:
  whyidle report a.rec                  the text
  whyidle report a.rec --json           JSON in its place
  whyidle report a.rec --json r.json    the text, and the JSON in a file
  whyidle report --since 2h             what the service saw in two hours
  whyidle report --since 1d --unit vllm.service

exit status: 0 with a report, also of a recording that is not complete (which
standard error says); 1 if there is nothing to report"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.usage = (
        "whyidle report FILE [--json [OUT]]\n"
        "       whyidle report --since T [--pid N] [--unit U] [--container C]\n"
        "                      [--state DIR] [--json [OUT]]"
    )
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a recording")
    parser.add_argument(
        "--json",
        metavar="OUT",
        type=Path,
        nargs="?",
        const=STDOUT,
        help="write JSON to OUT too; without OUT: JSON only, to standard output",
    )
    parser.add_argument(
        "--since", metavar="T", type=_time, help="parts that ended within the last T, such as 30m, 2h, 7d"
    )
    parser.add_argument("--pid", metavar="N", type=int, help="of targets with this process")
    parser.add_argument("--unit", metavar="U", help="of targets in this systemd unit")
    parser.add_argument("--container", metavar="C", help="of targets in this container (ID, or its start)")
    parser.add_argument(
        "--state", metavar="DIR", type=Path, default=STATE, help="where the service keeps it (%(default)s)"
    )


def _time(text: str) -> float:
    """Seconds, from a number and a unit."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    value = float(number) * _UNITS[unit]
    if not 0 < value <= 3660 * 86400:  # NaN is not
        raise ValueError
    return value


_time.__name__ = "time"  # argparse: "invalid time value: 'x'"


def execute(arguments: argparse.Namespace) -> int:
    """Read the recording and show its report; returns 0."""
    file, target = arguments.file, arguments.json
    if arguments.since is not None:
        return _of_history(arguments)
    if any(value is not None for value in (arguments.pid, arguments.unit, arguments.container)):
        raise WrongUsage(
            "--pid, --unit and --container choose from the history", "add --since, such as --since 2h"
        )
    if file is None and target not in (None, STDOUT):
        file, target = target, STDOUT  # --json FILE: the word behind it is the only one there is
    if file is None:
        raise WrongUsage("no recording to report on", "whyidle report FILE")
    check_target(target)
    report = _asked([*REPLAY, str(file)])
    warn_incomplete(report)
    deliver(report, target)
    return 0


def _of_history(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        raise WrongUsage("--since is for the history, and a file is not", "leave out one of them")
    check_target(arguments.json)
    command = [*HISTORY, f"--state={arguments.state}", f"--since-s={arguments.since}"]
    for name in ("pid", "unit", "container"):
        value = getattr(arguments, name)
        if value is not None:
            command.append(f"--{name}={value}")
    report = _asked(command)
    warn_incomplete(report)
    deliver(report, arguments.json)
    return 0


def _asked(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict):
        raise CannotReplay(str(error.get("message")), str(error.get("hint")))
    if done.returncode or not isinstance(answer, dict):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ReplayFailed(done.returncode, lines[-1] if lines else "")
    return answer
