"""``whyidle ps``: what the system daemon observes."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from whyidle_cli.commands.options import add_socket_option
from whyidle_cli.connection import ask, require_system_daemon
from whyidle_cli.errors import NotOurDaemon
from whyidle_cli.output import json_line
from whyidle_cli.render.targets import print_targets
from whyidle_wire.records import ListTargets, TargetList

_REQUEST: Final = 1

_DESCRIPTION: Final = """\
List what the system daemon observes: what it found by the rules of its
configuration, and what was asked for."""

_EPILOG: Final = """\
examples:
  whyidle ps                               a table
  whyidle ps --json | jq '.[].pid'         as JSON: see 'whyidle schema'
  whyidle attach --duration 30 4711        a report of one of them

FOUND BY is the name of the rule, or the client that asked for it. STATE is
where most time went of the threads that drive the model, else of the main
thread.

exit status: 0 with a list, also an empty one; 1 if the service gives none; 3 if
none answers, or not this user"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("--json", action="store_true", help="a JSON list in place of the table")
    add_socket_option(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list; returns 0."""
    with require_system_daemon(arguments.socket).client as client:
        targets = list(ask(client, ListTargets(_REQUEST), TargetList).targets)
    if arguments.json:
        sys.stdout.write(json_line(targets))
        return 0
    try:
        print_targets(targets)
    except (KeyError, TypeError, ValueError) as error:
        raise NotOurDaemon(f"a target without a usable {error}") from None
    return 0
