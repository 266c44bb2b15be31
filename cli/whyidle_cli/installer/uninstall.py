"""Takes an installation off the host: everything, or everything but what its administrator wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer.files import SAVED
from whyidle_cli.installer.host import call, quietly, say
from whyidle_cli.installer.layout import FEATURE_DROP_IN, GROUP, SERVICE, SOCKET, Layout, ours
from whyidle_cli.installer.lock import alone


def uninstall(layout: Layout, keep_data: bool = False) -> None:
    """Remove every trace; ``keep_data`` leaves the configuration, the recordings and their group.

    Also cleans up after half an installation. Raises InstallFailed without root, or if the service stays.
    """
    if os.geteuid() != 0:
        raise InstallFailed("uninstalling needs root", "run it with sudo")
    with alone(layout):
        _uninstall(layout, keep_data)


def _uninstall(layout: Layout, keep_data: bool) -> None:
    if layout.live:
        _stop()
    say("removing files")
    for path in _traces(layout, keep_data):
        remove(path)
    if layout.live:
        quietly("systemctl", "daemon-reload")
    if not keep_data:
        _remove_group(layout)


def _traces(layout: Layout, keep_data: bool) -> Iterator[Path]:
    """What is to be removed, each when the one before is."""
    for path in layout.files:
        yield path
        yield path.with_name(path.name + SAVED)
        yield from layout.units.glob(f"*.wants/{path.name}")
    yield layout.drop_ins[0] / FEATURE_DROP_IN
    yield from (
        folder for folder in (*layout.drop_ins, *layout.settings) if not keep_data or _is_empty(folder)
    )
    yield from (link for link in layout.links if ours(link))
    yield from layout.made_again
    if not keep_data:
        yield from layout.data
    yield from [path for path in layout.prefix.iterdir() if path != layout.lock]
    yield layout.lock  # from here on somebody else may install
    with contextlib.suppress(OSError):
        layout.prefix.rmdir()


def _stop() -> None:
    say("stopping the service")
    quietly("systemctl", "disable", "--now", "--quiet", SERVICE, SOCKET)
    if quietly("systemctl", "is-active", "--quiet", SERVICE):
        raise InstallFailed("the service does not stop", f"systemctl status {SERVICE} says why")
    quietly("systemctl", "reset-failed", SERVICE, SOCKET)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _remove_group(layout: Layout) -> None:
    """Somebody's primary group cannot go: that is said."""
    try:
        call("groupdel", *([] if layout.live else ["--prefix", str(layout.root)]), GROUP)
    except InstallFailed as error:
        if _has_group(layout):
            say(f"note: the group {GROUP} stays: {error}")


def _has_group(layout: Layout) -> bool:
    try:
        lines = layout.at("/etc/group").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{GROUP}:") for line in lines)


def remove(path: Path) -> None:
    """A file, a link or a whole directory; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
