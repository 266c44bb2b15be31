"""Options that several subcommands share, so that they are spelt and explained alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from whyidle_wire.client import DEFAULT_SOCKET


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """``--json``, ``--record``, ``--live`` and ``--socket``, for what ends with a report."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="write the report as JSON too; '-': as JSON only, to standard output",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        type=Path,
        help="record into a new file, from which 'whyidle report FILE' makes the same report",
    )
    parser.add_argument(
        "--live", action="store_true", help="show progress even where standard error is not a terminal"
    )
    add_socket_option(parser, "; as root, a private daemon if none answers")


def add_socket_option(parser: argparse.ArgumentParser, otherwise: str = "") -> None:
    """``--socket``; ``otherwise`` says what happens when nobody answers there."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=Path,
        default=DEFAULT_SOCKET,
        help=f"the system daemon's socket (default: %(default)s){otherwise}",
    )
