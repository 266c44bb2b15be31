"""``whyidle uninstall``: takes the service off this host."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from whyidle_cli.commands.install import add_root_option, layout_of
from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer.uninstall import uninstall

_DESCRIPTION: Final = """\
Stop the system service and remove every trace of it: units with their drop-ins,
programs, group, configuration, history. What was recorded to a file of one's own
(--record) stays, and the journal keeps what the daemon said."""

_EPILOG: Final = """\
examples:
  sudo whyidle uninstall                everything
  sudo whyidle uninstall --keep-data    ... but not your settings and data

exit status: 0 if it is removed, also where nothing was there; 1 if something
could not be"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "--keep-data", action="store_true", help="leave configuration, drop-ins, history and group"
    )
    add_root_option(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Uninstall; returns 0, also where nothing was installed."""
    try:
        uninstall(layout_of(arguments.root), arguments.keep_data)
    except OSError as error:
        raise InstallFailed(
            f"{error.filename}: {error.strerror}", f"remove {error.filename} by hand"
        ) from None
    sys.stdout.write("whyidle is uninstalled\n")
    return 0
