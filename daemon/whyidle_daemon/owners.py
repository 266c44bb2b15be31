"""Whose the processes of a target are, and were: what decides who else may see their records."""

from __future__ import annotations

from collections.abc import Iterable

from whyidle_daemon.proc import Proc

_KNOWN = 16384


class Owners:
    """The user of each process, by PID. A process that was another's for a moment is nobody's for good."""

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self._of: dict[int, int | None] = {}
        self._ever: set[int | None] = set()  # whoever once was the owner of one

    def learn(self, pid: int) -> None:
        """Look at a process that is new, or has replaced its image."""
        if pid not in self._of and len(self._of) >= _KNOWN:
            return
        full = len(self._of) >= _KNOWN - 1  # the last place says that there were more
        owner = self._proc.sole_owner(pid) if not full else None
        # One that was another's for a moment stays hidden: its records from then are in the sums.
        owner = self._of[pid] = owner if self._of.get(pid, owner) == owner else None
        self._ever.add(owner)

    def keep(self, pids: Iterable[int]) -> None:
        """Forget all others: nothing will speak of them any more."""
        self._of = {pid: self._of[pid] for pid in pids if pid in self._of}
        self._ever = set(self._of.values())

    def owns(self, uid: int, pid: int) -> bool:
        """Whether a process belonged to a user alone whenever it was looked at. Not known is no."""
        return self._of.get(pid) == uid

    def owns_some(self, uid: int) -> bool:
        """Whether a process of the tree may be this user's: if not, nothing of it is."""
        return uid in self._ever

    def owns_all(self, uid: int) -> bool:
        """Whether every process of the tree is and was this user's alone."""
        return self._ever == {uid}
