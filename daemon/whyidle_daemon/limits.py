"""What bounds the memory of a process: its control groups, from its own up to the root, and the host.

Used memory is what cannot be given back: without the page cache. The roots are injected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from whyidle_daemon.proc import Proc

_MAX_DEPTH = 32
_UNLIMITED = 1 << 60  # v1 says 2^63 less a page
_KEPT_S = 0.05  # processes that are looked at one after another are mostly in the same group
_MAX_KEPT = 64
_T = TypeVar("_T")


class Limit(NamedTuple):
    """A bound on memory, in bytes. ``scope`` is ``cgroup`` or ``host``, ``name`` the group's path."""

    scope: str
    name: str
    used_bytes: int
    limit_bytes: int


class Limits:
    """Reader of limits. What it has just read of a group, or of the host, it does not read again."""

    def __init__(
        self,
        proc: Proc,
        cgroups: Path = Path("/sys/fs/cgroup"),
        meminfo: Path = Path("/proc/meminfo"),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._proc = proc
        self._cgroups = cgroups
        self._meminfo = meminfo
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[float, object]] = {}

    def _recent(self, what: tuple[str, ...], read: Callable[[], _T]) -> _T:
        now = self._clock()
        kept = self._kept.get(what)
        if kept is not None and now - kept[0] < _KEPT_S:
            return cast("_T", kept[1])
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        found = read()
        self._kept[what] = now, found
        return found

    def host(self) -> Limit | None:
        """RAM and swap of this machine."""
        return self._recent(("host",), self._host)

    def _host(self) -> Limit | None:
        values = _table(self._meminfo, 1024)
        total, available = values.get("MemTotal"), values.get("MemAvailable")
        if not total or available is None:
            return None
        swap = values.get("SwapTotal", 0)
        used = total - available + swap - values.get("SwapFree", swap)
        return Limit("host", "", max(0, used), total + swap)

    def cgroups(self, pid: int) -> list[Limit]:
        """Every group above a process that has a limit of its own, the innermost first."""
        found = []
        for line in self._proc.read(pid, "cgroup").decode("utf-8", "replace").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0":
                root = self._recent(("unified",), self._unified)
                if root is not None:
                    found += self._groups(root, path, "memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
                found += self._groups(self._cgroups / "memory", path, *names)
        return found

    def _unified(self) -> Path | None:
        """Where the groups of the second version are."""
        roots = (self._cgroups, self._cgroups / "unified")
        return next((root for root in roots if (root / "cgroup.controllers").exists()), None)

    def _groups(self, root: Path, path: str, limit: str, usage: str) -> list[Limit]:
        return self._recent((str(root), path), lambda: self._walk(root, path, limit, usage))

    def _walk(self, root: Path, path: str, limit: str, usage: str) -> list[Limit]:
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # a group outside of this process's namespace
            return []
        found = []
        for depth in range(min(len(parts), _MAX_DEPTH), 0, -1):
            group = root.joinpath(*parts[:depth])
            most = _number(group / limit)
            if most is None or most >= _UNLIMITED:
                continue
            now = _number(group / usage)
            if now is None:
                continue
            stat = _table(group / "memory.stat", 1)
            prefix = "total_" if "total_inactive_file" in stat else ""
            cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
            found.append(Limit("cgroup", "/" + "/".join(parts[:depth]), max(0, now - cache), most))
        return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max", too
        return None


def _table(path: Path, unit: int) -> dict[str, int]:
    values = {}
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.replace(":", " ", 1).partition(" ")
            words = rest.split()
            if words and words[0].isdigit():
                values[name] = int(words[0]) * unit
    except (OSError, ValueError):
        return {}
    return values
