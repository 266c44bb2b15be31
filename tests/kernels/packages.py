"""Debian's packages, kernels first of all, fetched by an apt that has its own sources, lists and cache.

The host's sources are neither read nor changed, and nothing is installed: a package is unpacked, what starts
the kernel is taken from it, and the rest is deleted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org"
SUITES = (
    "debian-security bullseye-security",
    "debian bullseye",
    "debian bookworm",
    "debian trixie",
    "debian trixie-backports",
)
# What is wanted: the newest of each series, in the suites above; an empty series is the newest of all.
SERIES = ("5.10", "6.1", "6.12", "6.18", "")
LEAST = 4
_LIMIT_S = 600
# Later kernels are split: the image package then only depends on the others.
_PARTS = ("linux-binary-", "linux-modules-")
# Not the ones for clouds (no 9p) and for real time, nor packages that only depend on another.
_IMAGE = re.compile(r"linux-image-\d+\.\d+(?:\.\d+-\d+|\.\d+\+\w+)-amd64")


class Package(NamedTuple):
    """A kernel package: ``release`` as ``uname -r`` says, ``version`` as Debian numbers it."""

    name: str
    release: str
    version: str
    suite: str


class Apt:
    """An apt of its own in ``folder``, with the main sections of ``suites``."""

    def __init__(self, folder: Path, suites: Sequence[str] = SUITES) -> None:
        self._folder = folder
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "state/status").touch()
        lines = (f"deb [signed-by={KEYRING}] {MIRROR}/{suite} main\n" for suite in suites)
        (folder / "sources.list").write_text("".join(lines))
        self._configuration = folder / "apt.conf"
        self._configuration.write_text(
            f'Dir::State "{folder}/state";\nDir::State::status "{folder}/state/status";\n'
            f'Dir::Cache "{folder}/cache";\nDir::Etc::SourceList "{folder}/sources.list";\n'
            'Dir::Etc::SourceParts "/dev/null";\nDir::Etc::Preferences "/dev/null";\n'
            'Dir::Etc::PreferencesParts "/dev/null";\nAPT::Architecture "amd64";\n'
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\nAcquire::Retries "2";\nAcquire::http::Timeout "30";\n'
        )

    def update(self) -> None:
        """Fetch the lists. Raises :class:`subprocess.CalledProcessError`."""
        self._run("apt-get", "-q", "update")

    def kernels(self) -> list[Package]:
        """Every kernel that can be had, oldest first. Release candidates and special builds are left out."""
        said = self._run("apt-cache", "search", "--names-only", "^linux-image-[0-9].*-amd64$")
        names = [line.split()[0] for line in said.splitlines()]
        found: dict[str, Package] = {}
        for line in self._run("apt-cache", "madison", *filter(_IMAGE.fullmatch, names)).splitlines():
            name, version, source = (part.strip() for part in line.split("|"))
            if "~rc" not in version:  # the newest version of each comes first
                suite = source.split()[1].split("/")[0]
                found.setdefault(name, Package(name, name.removeprefix("linux-image-"), version, suite))
        return sorted(found.values(), key=lambda package: numbers(package.version))

    def unpack(self, package: Package, folder: Path) -> None:
        """All files of a kernel into ``folder``."""
        depends = self._run("apt-cache", "depends", "--important", package.name)
        parts = sorted({word for word in depends.split() if word.startswith(_PARTS)})
        self.fetch((package.name, *parts), folder)

    def fetch(self, names: Iterable[str], folder: Path) -> None:
        """All files of packages into ``folder``. Raises :class:`subprocess.CalledProcessError`."""
        place = folder / "download"
        place.mkdir(parents=True)
        self._run("apt-get", "-q", "download", *names, at=place)
        for archive in place.iterdir():
            subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        shutil.rmtree(place)

    def _run(self, *command: str, at: Path | None = None) -> str:
        program, *arguments = command
        return subprocess.run(
            [program, "-c", self._configuration, *arguments],
            cwd=at or self._folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=_LIMIT_S,
        ).stdout


def choose(kernels: list[Package], say: Callable[[str], None]) -> list[Package]:
    """The newest of each series, oldest first; says which series cannot be had."""
    chosen: list[Package] = []
    for series in SERIES:
        of_it = [p for p in kernels if not series or p.version.startswith(series + ".")]
        if not of_it:
            say(f"no kernel {series} in {', '.join(SUITES)}")
        elif of_it[-1] not in chosen:
            chosen.append(of_it[-1])
    return chosen


def numbers(version: str) -> tuple[int, ...]:
    """By which versions and releases sort."""
    return tuple(int(number) for number in re.findall(r"\d+", version))
