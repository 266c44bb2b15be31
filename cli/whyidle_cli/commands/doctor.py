"""``whyidle doctor``: what this host can and cannot do."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any, Final

from whyidle_cli.errors import DoctorFailed, HostCannotRun
from whyidle_cli.render.doctor import print_checks

# A process of its own, because the CLI does not import the daemon. -P: nothing from the current directory.
DOCTOR: Final = [sys.executable, "-P", "-m", "whyidle_daemon.doctor", "--json"]
_TIMEOUT_S: Final = 120.0

_DESCRIPTION: Final = """\
Check what whyidle needs from this host (kernel, BTF, capabilities, bcc, NVML,
CUDA, llama.cpp), whether the service answers and its configuration is good, and
print the exact fix for each thing that is missing."""

_EPILOG: Final = """\
examples:
  whyidle doctor
  whyidle doctor --json | jq -r '.checks[] | select(.fix) | .fix'

exit status: 0 if the main job can run, by the service too; 3 if it cannot"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("--json", action="store_true", help="the checks as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Run the checks and show them; returns 0 or 3."""
    text, diagnosis = _diagnose()
    if arguments.json:
        sys.stdout.write(text.rstrip() + "\n")
    else:
        try:
            print_checks(diagnosis)
        except (KeyError, TypeError, AttributeError) as error:
            raise DoctorFailed(0, f"unexpected answer: {error!r}") from error
    return 0 if diagnosis.get("can_run") else HostCannotRun.exit_status


def _diagnose() -> tuple[str, dict[str, Any]]:
    try:
        done = subprocess.run(
            DOCTOR, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DoctorFailed(124, f"no answer within {_TIMEOUT_S:g} s") from None
    text = done.stdout.decode("utf-8", "replace")
    try:
        diagnosis = json.loads(text)
    except ValueError:
        diagnosis = None
    if not isinstance(diagnosis, dict) or "can_run" not in diagnosis:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DoctorFailed(done.returncode, lines[-1] if lines else "")
    return text, diagnosis
