"""``whyidle install``: as a service of this host."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from whyidle_cli.errors import InstallFailed, WrongUsage
from whyidle_cli.installer.install import install
from whyidle_cli.installer.layout import Layout

_DESCRIPTION: Final = """\
Install the system service: a virtual environment under /opt/whyidle, whyidle
and whyidled on the PATH (/usr/local/bin), the units, the group 'whyidle', and
/etc/whyidle/config.toml. Over an earlier version this is an upgrade: the
configuration and the recordings stay, unit files that somebody changed are kept
aside, and if the new version does not start the old one serves on."""

_EPILOG: Final = """\
examples:
  sudo whyidle install                 this release, or the checkout it is from
  sudo whyidle install --from w.whl    a wheel
  sudo usermod -aG whyidle alice       ... and then let alice see everything

'whyidle uninstall' removes every trace of it. pip fetches the dependencies from
its package index, also with --from.

exit status: 0 if it is installed; 1 if not, and what was there before is there
still; 2 for wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "--from",
        dest="source",
        metavar="WHAT",
        help="a wheel, a directory or a pip requirement",
    )
    add_root_option(parser)


def add_root_option(parser: argparse.ArgumentParser) -> None:
    """``--root``, for both directions."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        default=Path("/"),
        help="an image of a host rather than this one; starts nothing",
    )


def layout_of(root: Path) -> Layout:
    """Raises WrongUsage unless it is a directory."""
    if not root.is_dir():
        raise WrongUsage(f"there is no directory {root}", "--root names an image that is mounted there")
    return Layout(root.resolve())


def execute(arguments: argparse.Namespace) -> int:
    """Install; returns 0."""
    layout = layout_of(arguments.root)
    try:
        version = install(layout, arguments.source)
    except OSError as error:
        raise InstallFailed(
            f"{error.filename or 'a file'}: {error.strerror}",
            "is there room below /opt, and may it be written to?",
        ) from None
    sys.stdout.write(f"whyidle {version} is installed\n")
    if layout.live:
        sys.stdout.write("  whyidle ps shows what it observes, journalctl -u whyidled what it says\n")
    return 0
