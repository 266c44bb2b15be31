"""``whyidle attach``: processes that already run, observed for a while."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

from whyidle_cli.commands.options import add_report_options
from whyidle_cli.connection import any_daemon
from whyidle_cli.observation import INTERRUPTS, Observation
from whyidle_cli.output import check_target, deliver
from whyidle_cli.processes import check_process, command_of
from whyidle_cli.recording import check_record, warn_incomplete
from whyidle_cli.render.live import Live
from whyidle_cli.signals import Signals

_DESCRIPTION: Final = """\
Observe running processes with all their descendants, and report why the model
was idle. Ends after --duration, with Ctrl-C, or when the processes end. They are
not stopped, and run on afterwards.

A process that the service has found by itself it hands over, and takes back at
the end: until then 'whyidle ps' names this client, and outside a systemd service
its metrics are those of the workload 'attached'."""

_EPILOG: Final = """\
examples:
  whyidle attach 4711                  until Ctrl-C
  whyidle attach --duration 30 4711    for 30 seconds
  whyidle attach $(pgrep -f agent.py)  several processes, one report

exit status: 0 with a report; 1 if a PID cannot be observed or the report is
lost; 3 if this host cannot observe"""


def _duration(text: str) -> float:
    value = float(text)
    if not 0 < value <= 366 * 86400:
        raise ValueError
    return value


_duration.__name__ = "number of seconds"  # argparse: "invalid number of seconds value: 'x'"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "pids", metavar="PID", type=int, nargs="+", help="a process; its descendants are included"
    )
    parser.add_argument(
        "--duration", metavar="S", type=_duration, help="end after S seconds (default: at Ctrl-C)"
    )
    add_report_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Observe; returns 0."""
    pids = list(dict.fromkeys(arguments.pids))
    for pid in pids:
        check_process(pid)
    check_target(arguments.json)
    record = check_record(arguments.record, arguments.json)
    live = Live(sys.stderr, forced=arguments.live)
    with any_daemon(arguments.socket) as connection:
        observation = Observation(connection.client, live)
        observation.start(pids, command_of(pids[0]), record)
        with Signals(*INTERRUPTS) as signals:
            deadline = None if arguments.duration is None else time.monotonic() + arguments.duration
            try:
                while observation.ended is None and observation.lost is None:
                    if observation.wait(signals, deadline):
                        break
                    if deadline is not None and time.monotonic() >= deadline:
                        break
                status = observation.ended.exit_status if observation.ended else None
                report = observation.finish(signals, status)
            finally:
                live.clear()
        deliver(report, arguments.json)
        warn_incomplete(report)
    return 0
