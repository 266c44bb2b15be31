"""Where an installation lies. All of it, so that nothing is forgotten when it goes.

A version is a virtual environment of its own under ``/opt/whyidle/versions``; ``/opt/whyidle/current`` points
to the one in use and is swapped in one step, so a program never sees half of one. ``root`` is ``/``, or the
directory of an image that is being prepared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from whyidle_cli.errors import InstallFailed

PREFIX: Final = "/opt/whyidle"
CURRENT: Final = f"{PREFIX}/current"
PROGRAMS: Final = ("whyidle", "whyidled")
SERVICE, SOCKET = "whyidled.service", "whyidled.socket"
GROUP: Final = "whyidle"
FEATURE_DROP_IN: Final = "10-whyidle-kernel.conf"


@dataclass(frozen=True)
class Layout:
    """Paths below ``root``."""

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        """Where something that the host will see at an absolute path lies now."""
        return self.root / path.lstrip("/")

    @property
    def live(self) -> bool:
        """This host itself, with its service manager, rather than an image of another."""
        return self.root == Path("/")

    @property
    def prefix(self) -> Path:
        return self.at(PREFIX)

    @property
    def versions(self) -> Path:
        return self.prefix / "versions"

    @property
    def current(self) -> Path:
        return self.at(CURRENT)

    @property
    def installed(self) -> Path:
        """What was written, by path, with its digest: tells an administrator's changes from ours."""
        return self.prefix / "installed.json"

    @property
    def lock(self) -> Path:
        """Held by who installs or uninstalls."""
        return self.prefix / "lock"

    @property
    def units(self) -> Path:
        return self.at("/etc/systemd/system")

    @property
    def drop_ins(self) -> tuple[Path, Path]:
        return self.units / f"{SERVICE}.d", self.units / f"{SOCKET}.d"

    @property
    def settings(self) -> tuple[Path, Path]:
        """What ``systemctl set-property`` writes."""
        control = self.at("/etc/systemd/system.control")
        return control / f"{SERVICE}.d", control / f"{SOCKET}.d"

    @property
    def config(self) -> Path:
        return self.at("/etc/whyidle/config.toml")

    @property
    def data(self) -> tuple[Path, ...]:
        """What an administrator or the service wrote: kept by an upgrade, and on request."""
        return self.at("/etc/whyidle"), self.at("/var/lib/whyidle")

    @property
    def made_again(self) -> tuple[Path, ...]:
        """What the service makes when it is not there: nobody misses it."""
        return self.at("/run/whyidle"), self.at("/var/cache/whyidle")

    @property
    def links(self) -> dict[Path, str]:
        """Entry points on PATH, and what they point to."""
        return {self.at(f"/usr/local/bin/{name}"): f"{CURRENT}/bin/{name}" for name in PROGRAMS}

    @property
    def files(self) -> dict[Path, str]:
        """Where each file of the folder ``systemd`` goes; not the configuration: it is never replaced."""
        return {
            self.units / SERVICE: SERVICE,
            self.units / SOCKET: SOCKET,
            self.at("/etc/sysusers.d/whyidle.conf"): "whyidle.sysusers.conf",
            self.at("/etc/tmpfiles.d/whyidle.conf"): "whyidle.tmpfiles.conf",
        }


def shipped(version: Path, name: str) -> str:
    """The text of a file of the folder ``systemd``, as this version (a virtual environment) brought it."""
    for path in version.glob(f"lib/python3*/site-packages/whyidle_cli/installer/systemd/{name}"):
        return path.read_text()
    raise InstallFailed(f"what was installed brought no {name}", "build the wheel again")


def ours(link: Path) -> bool:
    """Whether a link leads into an installation of whyidle."""
    return link.is_symlink() and os.readlink(link).startswith(PREFIX + "/")  # noqa: PTH115 (text)
