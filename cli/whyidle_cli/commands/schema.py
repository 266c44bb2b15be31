"""``whyidle schema``: the wire format and the report, for other languages."""

from __future__ import annotations

import argparse
import sys

from whyidle_wire.schema import schema_text


def configure(parser: argparse.ArgumentParser) -> None:
    """There are no options."""
    parser.description = "Print the wire format, every record, and the report's schema (Markdown)."
    parser.epilog = "example:\n  whyidle schema | less"


def execute(arguments: argparse.Namespace) -> int:
    """Print it; returns 0."""
    sys.stdout.write(schema_text())
    return 0
