"""Ends the daemon if reading a process's memory hangs, and keeps the next one from reading there again.

Whoever maps a file of a file system that he serves himself (FUSE), or handles his own page faults, decides
when a page of his is there, and who reads it waits for that: for ever, if he likes. So may a look for the
packages of a process, in a file system whose server is gone. No handler of a signal runs then, and no thread
of the daemon could end it, but the end of the process does. So a timer that is fatal runs meanwhile. Whose it
is is noted before: a daemon that finds such a note of the one before it reads no stacks and packages of that
user for a week; of root's, not of that process.

The note is a small write for each turn and process. It is not a mapped file: where a full file system copies
on write, storing into a page of one kills.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeGuard

from whyidle_daemon.history.heartbeat import BOOT_ID
from whyidle_daemon.proc import Proc

log = logging.getLogger(__name__)

LIMIT_S = 10.0  # a turn takes milliseconds; systemd's watchdog waits for a minute
BANNED_S: Final = 7 * 86400.0
MAX_BANS: Final = 64
_NAME: Final = "reading"
_BOOT: Final = 8  # characters of a boot's ID: after a power cut a note says nothing
_NOTE: Final = 128  # bytes, a line of its own: the note is replaced and the bans stay
_MAX_FILE: Final = 1 << 16
_MOST: Final = 1 << 63


class Process(NamedTuple):
    """One process for good: its start is in clock ticks after boot. ``uid`` is the real one."""

    pid: int
    started: int
    uid: int


class Noted(NamedTuple):
    """A process whose memory was being read, or must not be; ``at`` is seconds since 1970."""

    process: Process
    at: float
    boot: str = ""

    def covers(self, process: Process, now: float) -> bool:
        """Whether this, as a ban, holds for a process."""
        if abs(now - self.at) >= BANNED_S:
            return False
        return process.uid == self.process.uid if self.process.uid else process == self.process


class Guard(Protocol):
    """What reading a process's memory is done under."""

    def admit(self, pid: int) -> Process | None:
        """What :meth:`begin` needs; ``None``: its memory is not to be read, or it is gone."""

    def begin(self, process: Process) -> None:
        """From now on a process's memory is read, and no other's."""

    def rest(self) -> None:
        """Nobody's is read any more."""


class Unguarded:
    """Everything may be read, for as long as it takes."""

    def admit(self, pid: int) -> Process | None:
        return Process(pid, 0, 0)

    def begin(self, process: Process) -> None:
        pass

    def rest(self) -> None:
        pass


UNGUARDED: Final = Unguarded()


class ReadingGuard:
    """For the daemon. ``state`` is its directory, for the note; without one there is only the timer."""

    def __init__(
        self,
        proc: Proc,
        state: Path | None = None,
        clock: Callable[[], float] = time.time,
        boot: Path = BOOT_ID,
    ) -> None:
        self._proc = proc
        try:
            self._boot = boot.read_text()[:_BOOT]
        except OSError:
            self._boot = ""
        self._clock = clock
        self._armed = False
        self._reading: Process | None = None
        self._bans: tuple[Noted, ...] = ()
        self._file = -1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its default is the end: a handler would not run
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        if state is not None:
            self._open(state / _NAME)

    def admit(self, pid: int) -> Process | None:
        """See :class:`Guard`."""
        started, owners = self._proc.started(pid), self._proc.owners(pid)
        if started is None or owners is None:
            return None
        process, now = Process(pid, started, owners.real), self._clock()
        if any(ban.covers(process, now) for ban in self._bans):
            log.debug("process %d: not read: reading of user %d hung", pid, process.uid)
            return None
        return process

    def begin(self, process: Process) -> None:
        """See :class:`Guard`."""
        if process is not self._reading:
            self._reading = process
            self._note(Noted(process, self._clock(), self._boot))
        if not self._armed:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)

    def rest(self) -> None:
        """See :class:`Guard`."""
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._armed = False
            self._reading = None
            self._note(None)

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags, 0o600)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError("no regular file")
            noted, bans = parsed(os.pread(self._file, _MAX_FILE, 0))
            now = self._clock()
            ended_otherwise = noted is not None and (
                noted.boot not in ("", self._boot) or 0 <= now - noted.at < LIMIT_S / 2
            )
            if noted is not None and not ended_otherwise:
                bans = (*bans, Noted(noted.process, now))
                self._warn(noted.process, path)
            self._bans = tuple(ban for ban in bans if abs(now - ban.at) < BANNED_S)[-MAX_BANS:]
            data = whole(self._bans)
            os.pwrite(self._file, data, 0)
            os.ftruncate(self._file, len(data))
        except OSError as error:
            log.warning("whose memory is read is not noted: %s: %s", path, error.strerror or error)
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _warn(self, process: Process, path: Path) -> None:
        whose = f"the processes of user {process.uid}" if process.uid else "this process"
        log.warning(
            "the daemon before this one ended while it read the memory or packages of process %d of user %d, "
            "which hung: for a week no stacks of %s are read (to lift this, remove %s and restart whyidled)",
            process.pid,
            process.uid,
            whose,
            path,
        )

    def _note(self, noted: Noted | None) -> None:
        if self._file >= 0:
            try:
                os.pwrite(self._file, line(noted), 0)
            except OSError as error:  # the disk is full: the timer is still there
                log.debug("whose memory is read is not noted: %s", error.strerror)


def line(noted: Noted | None) -> bytes:
    """A note as the file has it."""
    text = json.dumps(_plain(noted)).encode() if noted is not None else b""
    return text.ljust(_NOTE - 1) + b"\n"


def whole(bans: Iterable[Noted]) -> bytes:
    """A file without a note."""
    return line(None) + json.dumps([_plain(ban) for ban in bans]).encode() + b"\n"


def parsed(data: bytes) -> tuple[Noted | None, tuple[Noted, ...]]:
    """The note and the bans of a file; what is not one is left out."""
    rest = _json(data[_NOTE:].partition(b"\n")[0])
    bans = map(_noted, rest if isinstance(rest, list) else ())
    return _noted(_json(data[:_NOTE])), tuple(ban for ban in bans if ban is not None)[-MAX_BANS:]


def _plain(noted: Noted) -> dict[str, Any]:
    about = {**noted.process._asdict(), "at": round(noted.at, 3)}
    return {**about, "boot": noted.boot} if noted.boot else about


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _noted(value: Any) -> Noted | None:
    if not isinstance(value, dict):
        return None
    pid, started, uid, at = (value.get(name) for name in (*Process._fields, "at"))
    if not (_is_number(pid) and pid and _is_number(started) and _is_number(uid) and _is_number(at)):
        return None
    boot = value.get("boot")
    return Noted(Process(int(pid), int(started), int(uid)), float(at), boot if isinstance(boot, str) else "")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST
