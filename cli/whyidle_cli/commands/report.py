"""``whyidle report``: the report of a recording, as it was printed live."""

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

_DESCRIPTION: Final = """\
Print the report of a recording that 'whyidle run --record' or 'whyidle attach
--record' has written: the same report as then. Needs neither root nor a daemon.
A recording that was cut off is reported on up to the last few seconds."""

_EPILOG: Final = """\
examples:
  whyidle report a.rec                  the text
  whyidle report a.rec --json           JSON in its place
  whyidle report a.rec --json r.json    the text, and the JSON in a file

exit status: 0 with a report, also of a recording that is not complete (which
standard error says); 1 if there is nothing to report"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.usage = "whyidle report FILE [--json [OUT]]"
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a recording")
    parser.add_argument(
        "--json",
        metavar="OUT",
        type=Path,
        nargs="?",
        const=STDOUT,
        help="write JSON to OUT too; without OUT: JSON only, to standard output",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Read the recording and show its report; returns 0."""
    file, target = arguments.file, arguments.json
    if file is None and target not in (None, STDOUT):
        file, target = target, STDOUT  # --json FILE: the word behind it is the only one there is
    if file is None:
        raise WrongUsage("no recording to report on", "whyidle report FILE")
    check_target(target)
    report = _replay(file)
    warn_incomplete(report)
    deliver(report, target)
    return 0


def _replay(file: Path) -> dict[str, Any]:
    done = subprocess.run([*REPLAY, str(file)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
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
