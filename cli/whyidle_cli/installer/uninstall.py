"""Takes an installation off the host: everything, or everything but what its administrator wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer.files import SAVED
from whyidle_cli.installer.host import quietly, say
from whyidle_cli.installer.layout import GROUP, SERVICE, SOCKET, Layout, ours


def uninstall(layout: Layout, keep_data: bool = False) -> None:
    """Remove every trace; ``keep_data`` leaves the configuration, the recordings and their group.

    Also cleans up after half an installation. Raises InstallFailed without root.
    """
    if os.geteuid() != 0:
        raise InstallFailed("uninstalling needs root", "run it with sudo")
    if layout.live:
        say("stopping the service")
        quietly("systemctl", "disable", "--now", "--quiet", SERVICE, SOCKET)
        quietly("systemctl", "reset-failed", SERVICE, SOCKET)
    say("removing files")
    for path in layout.files:
        remove(path)
        remove(path.with_name(path.name + SAVED))
        for wants in layout.units.glob(f"*.wants/{path.name}"):
            remove(wants)
    for folder in layout.drop_ins:
        remove(folder)
    for link in layout.links:
        if ours(link):
            remove(link)
    for folder in layout.made_again:
        remove(folder)
    if not keep_data:
        for folder in layout.data:
            remove(folder)
    remove(layout.prefix)
    if layout.live:
        quietly("systemctl", "daemon-reload")
    if not keep_data:
        quietly("groupdel", *([] if layout.live else ["--prefix", str(layout.root)]), GROUP)


def remove(path: Path) -> None:
    """A file, a link or a whole directory; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
