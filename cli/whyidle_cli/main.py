"""``whyidle``: parses the command line, runs one subcommand, turns its errors into two lines and a status."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from whyidle_cli.errors import CliError, HostRefused
from whyidle_cli.output import abandon
from whyidle_cli.sanitize import sanitize
from whyidle_cli.signals import IGNORED_CHILDREN
from whyidle_cli.version import version

COMMANDS: Final = {
    "run": "run a command observed from its first instruction, and report",
    "attach": "observe processes that already run, and report",
    "report": "the report of a recording, or of what the service kept (--since)",
    "ps": "list what the system daemon observes",
    "watch": "stream what the daemon finds",
    "doctor": "say what this host can and cannot do, and how to fix it",
    "schema": "print the wire format and the report's schema",
    "install": "install the system service, or upgrade it in place",
    "uninstall": "remove the system service and every trace of it",
}

_DESCRIPTION: Final = """\
Why is my GPU idle, and which line of my agent is to blame?

Watches a process tree with eBPF, finds the intervals in which the model or the
GPU sat idle, and names what the job was waiting for. No change to the program,
no restart."""

_EXAMPLES: Final = """\
examples:
  whyidle doctor                          what does this host lack?
  whyidle run -- python agent.py          run it, then say why the model was idle
  whyidle run --json r.json -- ./agent    ... and keep the report
  whyidle run --record a.rec -- ./agent   ... and record it, for 'whyidle report'
  whyidle attach --duration 30 4711       look at a running process for 30 s

exit status: for 'run' that of the command, 128 + N if signal N killed it; else
  1    an error, a lost report too
  2    wrong usage
  3    this host or this user cannot use it now
  130  interrupted by Ctrl-C (watch: 0)
  141  whoever reads the output has gone (| head)"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whyidle",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"whyidle {version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, dest="subcommand")
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"whyidle_cli.commands.{name}")
        sub = subparsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        module.configure(sub)
        sub.set_defaults(execute=module.execute)
    return parser


def _complain(error: CliError) -> None:
    """What happened and what to do, one line each; both may quote names from the target."""
    try:
        sys.stderr.write(f"whyidle: {sanitize(str(error), 500)}\n  {sanitize(error.hint, 500)}\n")
        sys.stderr.flush()
    except OSError:  # nor does standard error take it
        abandon(sys.stderr)


def _settle() -> None:
    """Undo what a careless parent left; the command that is run inherits it nevertheless."""
    if IGNORED_CHILDREN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: else the next file that is opened, or the daemon's socket, becomes it
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's own); returns the exit status.

    argparse leaves through SystemExit: 0 after ``--help``, 2 for wrong usage.
    """
    _settle()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # bars are not worth a crash in a Latin-1 locale
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    # A "--" belongs to the command that is run, from its first occurrence on; argparse would eat it.
    own, separator, rest = given, False, list[str]()
    if given[:1] == ["run"] and "--" in given:
        at = given.index("--")
        own, separator, rest = given[:at], True, given[at + 1 :]
    parsed = parser.parse_args(own)
    if separator:
        parsed.command = [*parsed.command, "--", *rest] if parsed.command else rest
    try:
        status: int = parsed.execute(parsed)
        sys.stdout.flush()
    except CliError as error:
        _complain(error)
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("whyidle: interrupted\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of standard output has gone (| head). Nothing may be written at exit either.
        abandon(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, most often
            abandon(sys.stdout)
        refused = HostRefused(error)
        _complain(refused)
        return refused.exit_status
    return status


if __name__ == "__main__":
    sys.exit(main())
