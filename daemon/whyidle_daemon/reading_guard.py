"""Ends the daemon if reading a process's memory hangs, and keeps the next one from reading there again.

Whoever maps a file of a file system that he serves himself (FUSE), or handles his own page faults, decides
when a page of his is there, and who reads it waits for that: for ever, if he likes. With such a page one
thread can hold the lock of the process's mappings, too, under which its command line, environment and maps
are read. So may a look for the packages of a process hang, in a file system whose server is gone. No handler
of a signal runs then, and no thread of the daemon could end it, but the end of the process does. So a timer
that is fatal runs meanwhile.

Whose it is is noted by a thread when it has lasted: a daemon that finds the note of the one before it reads
nothing of the kind of that user for a week; of root's, not of that process. Users who are subordinate to one
(subuid(5)) are that one. The note is not in a mapped file: where a full file system copies on write, storing
into a page of one kills.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self, TypeGuard

from whyidle_daemon.history.heartbeat import BOOT_ID
from whyidle_daemon.proc import Proc
from whyidle_daemon.subordinates import Subordinates

log = logging.getLogger(__name__)

LIMIT_S = 10.0  # a turn takes milliseconds; systemd's watchdog waits for a minute
LOOKS: Final = 4  # in that time; what has not changed in two of them hangs
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
        owner: Callable[[int], int] | None = None,
    ) -> None:
        """``owner`` gives the user whom another one is subordinate to, or that one itself."""
        self._proc = proc
        try:
            self._boot = boot.read_text()[:_BOOT]
        except OSError:
            self._boot = ""
        self._clock = clock
        self._owner = owner or Subordinates().owner
        self._armed = False
        self._reading: Process | int | None = None  # a PID: nobody has asked yet whose it is
        self._number = 0  # of what is read: another one each time
        self._seen, self._looks = 0, 0  # that one, and how often in a row
        self._noted = False
        self._bans: tuple[Noted, ...] = ()
        self._file = -1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its default is the end: a handler would not run
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        proc.under = self.reading
        if state is not None:
            self._open(state / _NAME)

    def admit(self, pid: int) -> Process | None:
        """See :class:`Guard`."""
        process, now = self._identify(pid), self._clock()
        if process is None:
            return None
        if any(ban.covers(process, now) for ban in self._bans):
            log.debug("process %d: not read: reading of user %d hung", pid, process.uid)
            return None
        return process

    @contextlib.contextmanager
    def reading(self, pid: int) -> Iterator[bool]:
        """Something of a process is read inside, also while another's memory is; false: it must not be."""
        process, before = self.admit(pid) if self._bans else pid, self._reading
        if process is None:
            yield False
            return
        self._begin(process)
        try:
            yield True
        finally:
            if before is None:
                self.rest()
            else:
                self._begin(before)

    def begin(self, process: Process) -> None:
        """See :class:`Guard`."""
        self._begin(process)

    def rest(self) -> None:
        """See :class:`Guard`."""
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._armed = False
            self._reading = None
            self._number += 1
            if self._noted:  # it came back after all
                self._note(None)

    def watched(self) -> Self:
        """Note in a thread what hangs: it runs while the one that reads waits in the kernel."""
        if self._file >= 0:
            threading.Thread(target=self._watch, name="hanging", daemon=True).start()
        return self

    def look(self) -> None:
        """Note what is being read if it was twice before: called ``LOOKS`` times in the limit."""
        number, reading = self._number, self._reading
        self._looks = self._looks + 1 if reading is not None and number == self._seen else 0
        self._seen = number
        if self._looks != LOOKS // 2:
            return
        process = self._identify(reading) if isinstance(reading, int) else reading
        if process is not None:
            self._note(Noted(process, self._clock(), self._boot))
            if number != self._number:
                self._note(None)

    def _watch(self) -> None:
        while True:
            time.sleep(LIMIT_S / LOOKS)
            self.look()

    def _begin(self, process: Process | int) -> None:
        self._reading = process
        self._number += 1
        if not self._armed:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)

    def _identify(self, pid: int) -> Process | None:
        started, owners = self._proc.started(pid), self._proc.owners(pid)
        if started is None or owners is None:
            return None
        return Process(pid, started, self._owner(owners.real))

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags, 0o600)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError("no regular file")
            noted, bans = parsed(os.pread(self._file, _MAX_FILE, 0))
            now = self._clock()
            if noted is not None and noted.boot in ("", self._boot):
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
            "which hung: for a week no stacks and command lines of %s are read (to lift this, remove %s and "
            "restart whyidled)",
            process.pid,
            process.uid,
            whose,
            path,
        )

    def _note(self, noted: Noted | None) -> None:
        self._noted = noted is not None
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
