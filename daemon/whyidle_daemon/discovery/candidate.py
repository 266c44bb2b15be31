"""What the rules may ask about a process, read from /proc when they ask, and at most once.

All of it is the process's own text, and as much of it is looked at as a real program has. A process that is
gone, or that may not be read, has no executable, no files and no environment, and so matches nothing that
asks for them.
"""

from __future__ import annotations

import itertools
import os
import pwd
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from whyidle_daemon.discovery.placement import Placement, placement_of
from whyidle_daemon.proc import Proc
from whyidle_daemon.reading_guard import UNGUARDED, Guard

_MAX_ENVIRONMENT: Final = 64 << 10
_MAX_VARIABLES: Final = 1024
_MAX_FILES: Final = 4096
_MAX_MAPPINGS: Final = 8192
_MAX_MAPS: Final = 128 * _MAX_MAPPINGS  # bytes of text: those without a file take as long to read
_MAX_PLACES: Final = 16  # of packages: each is looked into for each of a rule's
_GPU_MAJORS: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri/renderD", "/dev/accel/", "/dev/dxg")
_NOT_A_GPU: Final = ("/dev/nvidiactl", "/dev/nvidia-modeset")
_SITE_PACKAGES: Final = ("/site-packages/", "/dist-packages/")


@lru_cache(maxsize=256)
def user_name(uid: int) -> str:
    """The name, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


class Candidate:
    """One process, as long as it is looked at."""

    def __init__(self, pid: int, proc: Proc, guard: Guard = UNGUARDED) -> None:
        self.pid = pid
        self._proc = proc
        self._guard = guard

    @cached_property
    def command(self) -> tuple[str, ...]:
        return self._proc.command(self.pid)

    @cached_property
    def executable(self) -> str:
        """Path as the kernel has it; a file that was replaced since keeps its name."""
        path = self._proc.link(self.pid, "exe") or ""
        return path.removesuffix(" (deleted)")

    @cached_property
    def uid(self) -> int | None:
        owners = self._proc.owners(self.pid)
        return owners.effective if owners is not None else None

    @cached_property
    def cgroup(self) -> str | None:
        return self._proc.cgroup(self.pid)

    @cached_property
    def placement(self) -> Placement:
        return placement_of(self.cgroup)

    @cached_property
    def environment(self) -> tuple[str, ...]:
        """``NAME=VALUE``, as it was at exec, the first of them. Values are compared, never kept."""
        items = self._proc.read(self.pid, "environ", _MAX_ENVIRONMENT).split(b"\0", _MAX_VARIABLES)
        return tuple(item.decode("utf-8", "replace") for item in items[:_MAX_VARIABLES] if b"=" in item)

    @cached_property
    def mapped(self) -> frozenset[str]:
        """Paths of mapped files."""
        mappings = itertools.islice(self._proc.mappings(self.pid, _MAX_MAPS), _MAX_MAPPINGS)
        return frozenset(mapping.path.removesuffix(" (deleted)") for mapping in mappings)

    @cached_property
    def holds_gpu(self) -> bool:
        """Has the device of a GPU open, not only the control device that a listing opens."""
        return any(
            path.startswith(_GPU_MAJORS) and not path.startswith(_NOT_A_GPU)
            for path in self._proc.open_files(self.pid, _MAX_FILES)
        )

    @cached_property
    def site_packages(self) -> frozenset[Path]:
        """Where the process has compiled Python modules from, as seen through its own root."""
        found: set[str] = set()
        for path in self.mapped:
            for part in _SITE_PACKAGES:
                at = path.find(part)
                if at >= 0 and len(found) < _MAX_PLACES:
                    found.add(path[: at + len(part) - 1])
        return frozenset(self._proc.path(self.pid, "root", path.lstrip("/")) for path in found)

    def has_package(self, names: Iterable[str]) -> bool:
        """Whether one of these Python packages is installed beside the compiled modules it has mapped.

        That is asked of the file system they are in: of a server that is gone perhaps, or of the process's
        user himself (FUSE), and hangs then as a read of memory does.
        """
        wanted = [name for name in names if "/" not in name and not name.startswith(".")]
        whose = self._guard.admit(self.pid) if wanted and self.site_packages else None
        if whose is None:
            return False
        self._guard.begin(whose)
        try:
            return any(
                os.path.isdir(folder / name)  # noqa: PTH112 (no stat cache)
                for name in wanted
                for folder in self.site_packages
            )
        finally:
            self._guard.rest()
