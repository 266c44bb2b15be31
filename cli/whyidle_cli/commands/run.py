"""``whyidle run``: a command observed from its first instruction to its end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Final

from whyidle_cli.commands.options import add_report_options
from whyidle_cli.connection import any_daemon
from whyidle_cli.errors import WrongUsage
from whyidle_cli.launch import HeldChild, find_command
from whyidle_cli.observation import INTERRUPTS, Observation
from whyidle_cli.output import check_target, deliver
from whyidle_cli.recording import check_record, warn_incomplete
from whyidle_cli.render.live import Live
from whyidle_cli.signals import Signals

_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP)

_DESCRIPTION: Final = """\
Run CMD with all its descendants under observation, from the first instruction
on, and report at its end why the model was idle. CMD inherits everything:
terminal, environment, descriptors. Ctrl-C goes to CMD; the report follows. The
report goes to standard output, after whatever CMD wrote there."""

_EPILOG: Final = """\
examples:
  whyidle run -- python agent.py --goal 'find the news'
  whyidle run --json report.json -- ./agent   the text, and the JSON in a file
  whyidle run --json - -- ./agent             the JSON in place of the text
  whyidle run --record a.rec -- ./agent       for 'whyidle report a.rec', later

exit status: that of CMD, 128 + N if signal N killed it; 1 if CMD cannot be
started or the report is lost; 3 if this host cannot observe"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.usage = (
        "whyidle run [--json FILE] [--record FILE] [--live] [--socket PATH]\n"
        "                   -- CMD [ARG ...]"
    )
    add_report_options(parser)
    parser.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER, help="the command, after --")


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns its status."""
    if not arguments.command:
        raise WrongUsage(
            "no command to run", "whyidle run -- CMD, for example: whyidle run -- python agent.py"
        )
    path = find_command(arguments.command[0])
    check_target(arguments.json)
    record = check_record(arguments.record, arguments.json)
    live = Live(sys.stderr, forced=arguments.live)
    with any_daemon(arguments.socket) as connection, HeldChild(path, arguments.command) as child:
        observation = Observation(connection.client, live)
        observation.start([child.pid], arguments.command, record)
        with Signals(*INTERRUPTS) as signals:
            try:
                child.release()
                status = _follow(child, observation, signals)
                report = observation.finish(signals, status)
            finally:
                live.clear()
        deliver(report, arguments.json)
        warn_incomplete(report)
    return status


def _follow(child: HeldChild, observation: Observation, signals: Signals) -> int:
    """Wait for the child's end, whatever becomes of the daemon; returns its status.

    The terminal sends Ctrl-C to the child as well, so it is not passed on; a kill of whyidle alone is.
    """
    forwarded = _FORWARDED if _has_terminal() else INTERRUPTS
    while not child.ended():
        for number in observation.wait(signals, process=child.pidfd):
            if number in forwarded:
                child.signal(number)
    return child.wait()


def _has_terminal() -> bool:
    """Whether there is one that could have sent a signal (not: in a container, under a supervisor)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
