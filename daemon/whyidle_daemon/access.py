"""Who may see what, by the credentials that the kernel gives for the other end of a socket.

Root and the configured group see everything. Anybody else is refused, or, where the administrator allows it,
sees the processes that are his own: those that act as him alone, in all four of their user IDs, and as one
group, hold no capability and are dumpable. That is the kernel's own rule for who may look into a process, so
this daemon tells nobody anything that he could not have found out by himself.
"""

from __future__ import annotations

import enum
import grp
import pwd
from typing import Final, NamedTuple

from whyidle_daemon.config import Access as AccessConfig
from whyidle_daemon.proc import Proc
from whyidle_daemon.remembered import Remembered

MAX_DEBT_S: Final = 10
"""So long does nobody wait longer, whatever he asked for."""
BURST_S: Final = 4
"""A client may use the requests of this many seconds at once."""


class Scope(enum.Enum):
    """What a client sees."""

    ALL = "all"
    OWN = "own"
    NONE = "none"


class Peer(NamedTuple):
    """The process at the other end, as it was when it connected. ``groups`` are the supplementary ones."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


NOBODY: Final = Peer(0, 65534, 65534)


class Access:
    """The rules. The number of the group they name is looked up once, where there is such a group."""

    def __init__(self, config: AccessConfig, proc: Proc) -> None:
        self.config = config
        self._proc = proc
        self._gid: int | None = None
        self._group = Remembered(_gid_of)
        self._listed = Remembered(self._is_listed)

    def scope(self, peer: Peer, *, named: bool = True) -> Scope:
        """What a client may see. ``named``: whether its user may have a name; a subordinate one has none."""
        if peer.uid == 0 or self._in_group(peer, named):
            return Scope.ALL
        return Scope.OWN if self.config.others == "own" else Scope.NONE

    def owner(self, pid: int) -> int | None:
        """The user whose process it is and who may look into it; ``None``: root alone."""
        return self._proc.sole_owner(pid)

    def _in_group(self, peer: Peer, named: bool) -> bool:
        if self._gid is None:
            self._gid = self._group(self.config.group)
        if self._gid is None:
            return False
        # Joined since he logged in: the group's list counts, as it would at the next login.
        return self._gid in (peer.gid, *peer.groups) or (named and self._listed(peer.uid))

    def _is_listed(self, uid: int) -> bool:
        try:
            return pwd.getpwuid(uid).pw_name in grp.getgrnam(self.config.group).gr_mem
        except (KeyError, OverflowError):
            return False


def _gid_of(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


class _Bucket:
    """What is earned steadily, ``per_s``, and spent in pieces; what is earned in four seconds is saved up."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._saved = per_s * BURST_S
        self._at_s: float | None = None

    def _earn(self, now_s: float) -> None:
        if self._at_s is not None:
            earned = max(0.0, now_s - self._at_s) * self._per_s
            self._saved = min(self._per_s * BURST_S, self._saved + earned)
        self._at_s = now_s


class Budget(_Bucket):
    """Requests."""

    def take(self, now_s: float) -> bool:
        """Spend one; false when there is none."""
        self._earn(now_s)
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Account(_Bucket):
    """CPU time of the daemon, in seconds, that one user may have: ``SHARE`` of it."""

    SHARE: Final = 0.1

    def __init__(self) -> None:
        super().__init__(self.SHARE)

    def charge(self, seconds: float, now_s: float) -> float:
        """Spend it; returns the seconds until what was overdrawn is earned, 0 if nothing is."""
        self._earn(now_s)
        self._saved = max(self._saved - seconds, -self.SHARE * MAX_DEBT_S)
        return max(0.0, -self._saved / self.SHARE)
