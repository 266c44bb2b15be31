"""The names that series are labelled with. Bounded, whatever runs on the host. Pure.

A workload is a systemd service, else the rule that found the process. Containers, pods and processes come and
go by the thousand and would each leave series behind; services and rules are what an administrator has named.
A service of a user's own manager has the user in its name: nobody mixes his numbers into the system's.
A user can still make services of his own without end: beyond the limit a name takes the place of one that has
been quiet for long, and if there is none it is counted as ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from whyidle_daemon.discovery.placement import placement_of

OTHER: Final = "other"
ASKED: Final = "attached"
QUIET_S: Final = 3600.0
MAX_NAME: Final = 100
MAX_DEPTH: Final = 64
_OF_USERS: Final = re.compile(r"^user(?:-runtime-dir)?@(\d{1,10})\.service$")


def workload_of(cgroup: str | None, rule: str | None) -> str:
    """The name for a target in that cgroup that was found by that rule; ``None``: a client asked for it.

    The outermost unit counts: who runs in one can make groups in it and name them as any other.
    """
    path = user = ""
    for name in (cgroup or "").split("/")[:MAX_DEPTH]:
        path += f"/{name}"
        where = placement_of(path)
        if where.container is not None:
            break
        if where.unit != name:  # a slice, or no unit
            continue
        manager = _OF_USERS.match(name)
        if manager is None or user:
            if not name.endswith(".service"):
                break
            return (user + name)[:MAX_NAME]
        user = f"user:{manager[1]}/"
    return (rule or ASKED)[:MAX_NAME]


class Workloads:
    """The names in use. ``on_forget`` is told of one that gives up its place: its series end.

    Never one that ``lives`` says is of something that goes on, however long nobody asked for it.
    """

    def __init__(self, limit: int, on_forget: Callable[[str], None], lives: Callable[[str], bool]) -> None:
        self._limit = limit
        self._on_forget, self._lives = on_forget, lives
        self._used: dict[str, float] = {}  # when it was used last, in seconds of any clock

    def __len__(self) -> int:
        return len(self._used)

    def use(self, name: str, now_s: float) -> str:
        """The name to count under: this one, or ``other``."""
        if name in self._used:
            self._used[name] = now_s
            return name
        if len(self._used) >= self._limit:
            quiet = (known for known, used_s in self._used.items() if now_s - used_s >= QUIET_S)
            oldest = min(
                (known for known in quiet if not self._lives(known)), key=self._used.__getitem__, default=None
            )
            if oldest is None:
                return OTHER
            del self._used[oldest]
            self._on_forget(oldest)
        self._used[name] = now_s
        return name
